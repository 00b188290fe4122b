"""Pools deal the tasks they promise, and say in one line what is wrong with what they are given."""

import doctest
import hashlib
import importlib
import io
import os
import shutil
import sys
import urllib.request
import zipfile
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import torch
from mutations import Bug
from PIL import Image, features

import metaloop.tasks as T
from metaloop import Data, Problem, Task, functional
from metaloop.tasks.files import cached, download
from metaloop.tasks.pool import ClassPool, FixedPool, Splits

omniglot_module = importlib.import_module("metaloop.tasks.omniglot")
glyphs_module = importlib.import_module("metaloop.tasks.glyphs")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def marked_pool(counts, name="marked", split=""):
    """Images whose first pixel is the class and whose second is the example."""
    images = torch.zeros(sum(counts), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images[:, 0, 0, 1] = torch.cat([torch.arange(n) for n in counts])
    return ClassPool(images, torch.tensor(counts), [f"c{i}" for i in range(len(counts))], name=name, split=split)


def marks(x):
    """The class and the example of each image."""
    marks = (x[..., 0, 0, :] * 255).round().long()
    return marks[..., 0], marks[..., 1]


def one_line(call, match):
    with pytest.raises(ValueError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


# ---- tasks


@pytest.mark.parametrize(("tasks", "ways", "shots", "queries"), [(1, 1, 1, 1), (3, 5, 1, 15), (2, 60, 5, 5)])
def test_shapes_types_and_ranges(tasks, ways, shots, queries):
    task = marked_pool([20] * 60).sample(tasks=tasks, ways=ways, shots=shots, queries=queries, generator=seeded())
    for data, n in ((task.support, shots), (task.query, queries)):
        assert data.x.shape == (tasks, ways * n, 1, 2, 2)
        assert data.x.dtype == torch.float32
        assert data.y.dtype == torch.int64
        assert 0 <= data.x.min() <= data.x.max() <= 1
        assert (torch.stack([y.bincount(minlength=ways) for y in data.y]) == n).all()


def test_a_task_is_a_consistent_relabelling_of_distinct_classes_and_never_shows_a_query_in_its_support():
    tasks = marked_pool([20] * 30).sample(tasks=50, ways=5, shots=3, queries=4, generator=seeded())
    for support, query in zip(zip(*tasks.support, strict=True), zip(*tasks.query, strict=True), strict=True):
        seen = [set(zip(*(m.tolist() for m in marks(x)), strict=True)) for x, _ in (support, query)]
        assert len(seen[0]) == 15
        assert len(seen[1]) == 20
        assert not seen[0] & seen[1]
        named = {(int(c), int(y)) for x, ys in (support, query) for c, y in zip(marks(x)[0], ys, strict=True)}
        assert len(named) == len({c for c, _ in named}) == 5


def test_draws_are_even():
    pool = marked_pool([4, 9, 6])
    task = pool.sample(tasks=6000, ways=2, shots=2, queries=1, generator=seeded())
    c, e = marks(task.support.x)
    assert (c.flatten().bincount() / c.numel() - 1 / 3).abs().max() < 0.02  # classes, whatever their size
    for k, n in enumerate((4, 9, 6)):
        assert (e[c == k].bincount(minlength=n) / (c == k).sum() - 1 / n).abs().max() < 0.02  # examples
        assert (task.support.y[c == k].float().mean() - 0.5).abs() < 0.02  # labels
    assert (task.support.y.float().mean(0) - 0.5).abs().max() < 0.03  # places in the support set


def test_the_same_seed_deals_the_same_tasks():
    pool = marked_pool([20] * 30)
    a, b, c = (pool.sample(tasks=2, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(a.support.x, b.support.x)
    assert torch.equal(a.query.x, b.query.x)
    assert not torch.equal(a.query.x, c.query.x)
    torch.manual_seed(1)
    d = pool.sample(tasks=2)
    assert torch.equal(a.support.x, d.support.x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_seed_deals_the_same_tasks_on_every_device():
    pool = marked_pool([20] * 30)
    a, b = pool.sample(tasks=2, generator=seeded()), pool.to("cuda").sample(tasks=2, generator=seeded())
    assert b.support.x.is_cuda
    assert torch.equal(a.query.x, b.query.x.cpu())
    assert torch.equal(a.support.y, b.support.y.cpu())
    assert pool.to("cuda").flat().sample(generator=torch.Generator("cuda")).support.y.is_cuda
    assert pool.sample(generator=torch.Generator("cuda")).support.y.device.type == "cpu"


def test_classes_too_small_for_a_task_are_left_out_of_it():
    pool = marked_pool([3, 20, 20, 3, 20])
    c, _ = marks(pool.sample(tasks=100, ways=3, shots=1, queries=9, generator=seeded()).query.x)
    assert set(c.flatten().tolist()) == {1, 2, 4}
    one_line(lambda: pool.sample(ways=4, shots=1, queries=9), "has 3 classes with shots .* 10 .* at most 3 of both")


def test_splits_deal_from_train_and_a_part_is_its_own_parts():
    parts = [marked_pool([20] * n, "whole", s) for n, s in ((10, "train"), (6, "val"), (7, "test"))]
    pool = Splits(*parts)
    assert (pool.classes, pool.val.classes, pool.test.classes) == (10, 6, 7)
    assert pool.val.test is pool.val.train is pool.val
    assert torch.equal(pool.sample(generator=seeded()).query.x, pool.train.sample(generator=seeded()).query.x)
    assert pool.to("cpu").test.classes == 7
    one_line(lambda: pool.sample(ways=11), r"^whole.sample\(ways=11\): the train split has 10 classes. Ask for at")


@pytest.mark.parametrize("wrong", [{"tasks": 0}, {"ways": -1}, {"shots": 0}, {"queries": 0}, {"ways": 2.5}])
@pytest.mark.parametrize("make", [lambda: marked_pool([20] * 5), T.sinusoid, T.gaussians])
def test_sizes_of_a_task_are_positive_whole_numbers(make, wrong):
    one_line(lambda: make().sample(**wrong), rf"sample\({next(iter(wrong))}=.*at least 1")


def test_any_number_of_shots_is_drawn_evenly_in_training_and_as_asked_elsewhere():
    pool = Splits(*(marked_pool([20] * 6, split=split) for split in ("train", "val", "test"))).any_shots()
    g, drawn = seeded(), []
    for _ in range(400):
        task = pool.train.sample(tasks=2, ways=3, shots=4, queries=2, generator=g)
        shots = task.support.y.shape[1] // 3
        assert (torch.nn.functional.one_hot(task.support.y).sum(1) == shots).all()
        assert task.query.y.shape == (2, 6)
        drawn.append(shots)
    share = torch.tensor(drawn).bincount(minlength=5) / 400
    assert share[0] == 0
    assert (share[1:] - 0.25).abs().max() < 0.08
    for part in (pool.val, pool.test):
        assert all(part.sample(ways=3, shots=4, generator=g).support.y.shape == (1, 12) for _ in range(5))
    same = [pool.train.sample(shots=4, ways=3, generator=seeded(3)).support.x for _ in range(2)]
    assert torch.equal(*same)
    assert (pool.name, pool.train.split, pool.train.classes, pool.shape) == ("marked", "train", 6, (1, 2, 2))
    assert torch.equal(pool.to("cpu").train.sample(shots=4, ways=3, generator=seeded(3)).support.x, same[0])
    one_line(lambda: pool.train.sample(shots=0), "at least 1")


def test_flat_batches_are_labelled_by_class_over_the_whole_split():
    pool = marked_pool([4, 9, 6])
    flat = pool.flat(batch=500)
    task = flat.sample(tasks=3, ways=2, shots=1, generator=seeded())
    for data in task:
        assert data.x.shape == (3, 500, 1, 2, 2)
        assert torch.equal(marks(data.x)[0], data.y)
    shares = task.query.y.flatten().bincount() / 1500
    assert (shares - torch.tensor([4, 9, 6]) / 19).abs().max() < 0.04
    assert flat.classes == 3
    whole = Splits(pool, pool, pool).flat(8)
    assert whole.sample().support.x.shape[1] == 8
    assert whole.val.sample(ways=2, queries=3).support.x.shape[1] == 2
    one_line(lambda: pool.flat(0), "at least 1")
    one_line(T.sinusoid().flat, "fixed list of classes")


# ---- rotations


def turned_pool(rotations):
    images = torch.zeros(6, 20, 4, 4, dtype=torch.uint8)
    images[:, :, 0, 0] = 255  # the corner tells the rotation,
    images[:, :, 1:3, 1:3] = torch.arange(6, dtype=torch.uint8)[:, None, None, None]  # the middle the class
    return omniglot_module._pool("train", images, [f"c{i}" for i in range(6)], rotations)


def turn(x):
    corners = torch.stack([x[..., 0, 0], x[..., -1, 0], x[..., -1, -1], x[..., 0, -1]], -1)
    return corners.argmax(-1)[..., 0]


def test_rotations_per_task_turn_each_class_as_a_whole():
    pool = turned_pool("task")
    assert pool.classes == 6
    task = pool.sample(tasks=300, ways=6, shots=2, queries=3, generator=seeded())
    x, y = (torch.cat(pair, 1) for pair in zip(*task, strict=True))
    chosen = torch.zeros(300, 6, dtype=torch.long).scatter(1, y, turn(x))
    assert torch.equal(chosen.gather(1, y), turn(x))
    assert (chosen.flatten().bincount() / 1800 - 0.25).abs().max() < 0.04
    assert (chosen[:, :1] != chosen).any(1).float().mean() > 0.9  # drawn for each class alone
    data = pool.flat(100).sample(generator=seeded()).query
    assert torch.equal((data.x[..., 0, 1, 1] * 255).round().long(), data.y)


def test_rotations_as_classes_make_four_of_each():
    pool = turned_pool("classes")
    assert pool.classes == 24
    assert pool.names[6:8] == ["c0/rot090", "c1/rot090"]
    x = pool.images.view(24, 20, 1, 4, 4)[:, 0].float()
    assert turn(x).tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    assert turned_pool(None).classes == 6


# ---- random functions


def test_sinusoid():
    task = T.sinusoid().sample(tasks=500, shots=10, queries=20, generator=seeded())
    assert task.support.x.shape == task.support.y.shape == (500, 10, 1)
    assert task.query.y.shape == (500, 20, 1)
    assert task.query.x.abs().max() <= 5
    x, y = (torch.cat(pair, 1).double() for pair in zip(*task, strict=True))
    basis = torch.cat([x.sin(), -x.cos()], -1)  # A sin(x - b) = A cos b sin x - A sin b cos x
    found = torch.linalg.lstsq(basis, y).solution
    assert (basis @ found - y).abs().max() < 1e-4
    a, b = found.norm(dim=1)[:, 0], torch.atan2(found[:, 1, 0], found[:, 0, 0])
    assert 0.1 <= a.min() < 0.3
    assert 4.8 < a.max() <= 5.0001
    assert -1e-3 <= b.min() < 0.1
    assert 3.0 < b.max() <= 3.1416
    assert T.sinusoid().kind == "regression"
    one_line(lambda: T.sinusoid(phase=(1.0, 0.0)), r"sinusoid\(phase=\(1.0, 0.0\)\)")


def test_sinusoid_ranges():
    pool = T.sinusoid(amplitude=(2.0, 2.0), phase=(0.5, 0.5), frequency=(3.0, 3.0), x=(0.0, 1.0))
    task = pool.sample(tasks=2, shots=5)
    assert torch.allclose(task.query.y, 2 * torch.sin(3 * task.query.x - 0.5))
    assert task.query.x.min() >= 0


def test_boolean():
    task = T.boolean().sample(tasks=2000, shots=40, queries=5, generator=seeded())
    x, y = (torch.cat(pair, 1) for pair in zip(*task, strict=True))
    assert task.support.x.shape == (2000, 40, 2)
    assert set(x.unique().tolist()) == set(y.unique().tolist()) == {0.0, 1.0}
    row = (2 * x[..., 0] + x[..., 1]).long()
    low, high = (torch.stack([fill(row, y, k) for k in range(4)], 1) for fill in (lowest, highest))
    assert torch.equal(low, high)  # a function
    numbers = (low * torch.tensor([1, 2, 4, 8])).sum(1).long()
    assert (numbers.bincount(minlength=16) > 80).all()  # of 125 each
    task = T.boolean(xor=False).sample(tasks=2000, shots=40, generator=seeded())
    row, y = (2 * task.support.x[..., 0] + task.support.x[..., 1]).long(), task.support.y
    numbers = (torch.stack([highest(row, y, k) for k in range(4)], 1) * torch.tensor([1, 2, 4, 8])).sum(1).long()
    assert set(numbers.tolist()) == set(range(16)) - {6, 9}


def lowest(row, y, k):
    return torch.where(row == k, y[..., 0], 2.0).amin(1)


def highest(row, y, k):
    return torch.where(row == k, y[..., 0], -1.0).amax(1)


def test_semilinear():
    task = T.semilinear(weights=2.0).sample(tasks=300, shots=30, queries=5, generator=seeded())
    x, y = (torch.cat(pair, 1).double() for pair in zip(*task, strict=True))
    assert x.abs().max() <= 1
    plane = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    w = torch.linalg.lstsq(plane, torch.atanh(2 * y - 1)).solution
    assert ((1 + torch.tanh(plane @ w)) / 2 - y).abs().max() < 1e-4
    assert 1.95 < w.abs().max() < 2.001
    assert -0.2 < w.mean() < 0.2
    one_line(lambda: T.semilinear(weights=0), r"semilinear\(weights=0\)")


def test_quadratic():
    task = T.quadratic().sample(tasks=300, shots=30, queries=2000, generator=seeded())
    x, y = (torch.cat(pair, 1).double() for pair in zip(*task, strict=True))
    u, v = x[..., :1], x[..., 1:]
    basis = torch.cat([u * u, v * v, u * v, u, v, torch.ones_like(u)], -1)
    k = torch.linalg.lstsq(basis, y).solution
    assert (basis @ k - y).abs().max() < 1e-5  # a quadratic function
    edge = torch.linspace(-1, 1, 201, dtype=torch.double)
    u, v = (g.reshape(-1, 1) for g in torch.meshgrid(edge, edge, indexing="ij"))
    grid = torch.cat([u * u, v * v, u * v, u, v, torch.ones_like(u)], -1) @ k
    assert (grid.amin(1) - 0.2).abs().max() < 2e-4  # each fills its range
    assert (grid.amax(1) - 0.8).abs().max() < 2e-4
    scale = k[:, :5, 0].abs().amax(1)
    ratios = (k[:, :5, 0] / scale[:, None]).abs()
    assert (ratios.mean(0) > 0.4).all()  # every coefficient counts
    assert (ratios.mean(0) < 0.9).all()


def test_least_squares():
    task = T.least_squares(dim=4).sample(tasks=3000, generator=seeded())
    assert task.support.x.shape == (3000, 4, 4)
    assert task.support.y.shape == (3000, 4, 1)
    assert all(torch.equal(a, b) for a, b in zip(*task, strict=True))
    for numbers in task.support:
        assert abs(numbers.mean()) < 0.03
        assert abs(numbers.std() - 1) < 0.03
    uniform = T.least_squares(law="uniform").sample(tasks=500, generator=seeded()).support
    for numbers in uniform:
        assert 0 <= numbers.min() < 0.01
        assert 0.99 < numbers.max() < 1
    one_line(lambda: T.least_squares(law="cauchy"), "expected dim >= 1 and law 'gaussian' or 'uniform'")


def test_problems_bring_a_start_for_each_task():
    _, init = functional(torch.nn.Linear(2, 3))
    plain = T.gaussians()
    pool = T.problems(plain, init, spread=0.5)
    tasks = {"tasks": 2000, "ways": 3, "shots": 1, "queries": 1}
    task = pool.sample(**tasks, generator=seeded())
    same = plain.sample(**tasks, generator=seeded())
    assert isinstance(task.support, Problem)
    assert torch.equal(task.support.x, same.support.x)
    assert torch.equal(task.support.y, same.support.y)
    assert torch.equal(task.query.x, same.query.x)
    assert {n: p.shape for n, p in task.support.start.items()} == {"weight": (2000, 3, 2), "bias": (2000, 3)}
    assert abs(task.support.start["weight"].std() - 0.5) < 0.01
    assert task.support.start["weight"].unique(dim=0).shape[0] == 2000
    assert torch.equal(pool.sample(**tasks, generator=seeded()).support.start["bias"], task.support.start["bias"])
    one_line(lambda: T.problems(plain, init, spread=-1.0), r"problems\(gaussians, spread=-1.0\)")


def test_problems_start_where_the_network_does():
    _, init = functional(torch.nn.Linear(2, 3))
    start = T.problems(T.gaussians(), init).sample(tasks=50, ways=3, generator=seeded()).support.start
    assert 0.6 < start["weight"].abs().max() <= 2**-0.5  # U(-1/sqrt(2), 1/sqrt(2))
    assert start["weight"].unique(dim=0).shape[0] == 50


def test_problems_have_the_splits_of_their_pool():
    _, init = functional(torch.nn.Linear(2, 3))
    parts = [marked_pool([20] * n) for n in (5, 3, 4)]
    pool = T.problems(Splits(*parts), init)
    assert [part.classes for part in (pool.train, pool.val, pool.test)] == [5, 3, 4]
    assert pool.shape == (1, 2, 2)
    wide = functional(torch.nn.Linear(2, 9))[1]
    assert pool.on(wide).test.sample(ways=4).support.start["bias"].shape == (1, 9)
    assert pool.to("cpu").val.classes == 3


def test_gaussians():
    pool = T.gaussians(dim=3, spread=5.0, noise=0.1)
    task = pool.sample(tasks=200, ways=4, shots=2, queries=6, generator=seeded())
    assert task.support.x.shape == (200, 8, 3)
    assert task.query.y.dtype == torch.int64
    assert (torch.stack([y.bincount(minlength=4) for y in task.support.y]) == 2).all()
    assert task.support.y[:, 0].float().std() > 0.9
    one_hot = torch.nn.functional.one_hot(task.query.y, 4).float()
    means = one_hot.mT @ task.query.x / 6
    assert abs(means.std() - 5) < 0.3
    assert abs((task.query.x - one_hot @ means).square().mean().sqrt() - 0.1 * (5 / 6) ** 0.5) < 0.005
    nearest = torch.cdist(task.support.x, means).argmin(-1)  # support and query share their means
    assert (nearest == task.support.y).float().mean() > 0.99
    assert pool.classes is None
    one_line(lambda: T.gaussians(dim=0), "dim >= 1")


# ---- Omniglot


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache for this run, shared by its processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METALOOP_CACHE", str(folder))
        yield folder


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALOOP_CACHE", str(tmp_path / "own-cache"))
    yield tmp_path / "own-cache"
    shutil.rmtree(tmp_path / "own-cache", ignore_errors=True)


def data_root():
    if root := os.environ.get("METALOOP_DATA"):
        return Path(root)
    (pytest.fail if os.environ.get("METALOOP_DEMAND_DATA") else pytest.skip)("METALOOP_DATA is not set")


@pytest.mark.data
def test_omniglot_vinyals_split_is_the_published_one(cache):
    pool = T.omniglot(data_root(), rotations_at_test="classes")
    assert [p.classes for p in (pool.train, pool.val, pool.test)] == [4112, 688, 1692]
    for part in (pool.train, pool.val, pool.test):
        listed = Path(data_root(), "splits", "omniglot-vinyals", f"{part.split}.txt").read_text().split()
        assert sorted(listed) == sorted(part.names)
    final = T.omniglot(data_root(), validation=False)
    listed = Path(data_root(), "splits", "omniglot-vinyals", "trainval.txt").read_text().split()
    assert sorted(listed) == sorted(final.train.names)


@pytest.mark.data
def test_omniglot_random_split(cache):
    pool = T.omniglot(data_root(), split="random", rotations=None)
    names = [p.names for p in (pool.train, pool.val, pool.test)]
    assert list(map(len, names)) == [1100, 100, 423]
    assert len(set().union(*names)) == 1623
    assert T.omniglot(data_root(), split="random", rotations=None).test.names == names[2]
    assert T.omniglot(data_root(), split="random", rotations=None, seed=2).test.names != names[2]
    assert T.omniglot(data_root(), split="random", rotations="task", validation=False).classes == 1200


@pytest.mark.data
def test_omniglot_background_split_holds_alphabets_out(cache):
    """Lake's two sets, as his archives have them; validation alphabets are whole, and of the background set."""
    pool = T.omniglot(data_root(), split="background")
    background, evaluation = (
        {"/".join(entry.split("/")[1:3]) for entry in zipfile.ZipFile(path).namelist() if entry.endswith(".png")}
        for path in (data_root() / "omniglot" / name for name in omniglot_module.ARCHIVES)
    )
    train, val, test = ({name.split("/rot")[0] for name in part.names} for part in (pool.train, pool.val, pool.test))
    assert test == evaluation
    assert train | val == background
    assert not train & val
    alphabets = [{name.split("/")[0] for name in part} for part in (train, val, test)]
    assert list(map(len, alphabets)) == [25, 5, 20]
    assert len(set().union(*alphabets)) == 50
    assert pool.train.classes == 4 * len(train)
    other = T.omniglot(data_root(), split="background", seed=2, rotations=None)
    assert set(other.val.names) != val
    assert len(T.omniglot(data_root(), split="background", rotations=None, validation=False).train.names) == 964


@pytest.mark.data
def test_lake_runs_are_his_pairs_of_drawings(cache):
    """Each run as its files tell: query i is a drawing of the class whose training image its line names."""
    pool = T.lake_runs(data_root())
    assert (pool.tasks, pool.shape, pool.kind) == (20, (1, 28, 28), "classification")
    S, Q = pool.sample(tasks=20, ways=20, shots=1, queries=1)
    with zipfile.ZipFile(data_root() / "omniglot" / "all_runs.zip") as archive:

        def shown(entry):
            png = Image.open(io.BytesIO(archive.read(entry))).convert("L")
            return (255 - np.array(png.resize((28, 28), Image.Resampling.LANCZOS))) / 255

        for run in (0, 7, 19):
            lines = archive.read(f"run{run + 1:02d}/class_labels.txt").decode().split("\n")
            for line in filter(None, lines):
                item, known = line.split()
                i, k = int(item[-6:-4]) - 1, int(known[-6:-4]) - 1
                assert Q.y[run, i] == k
                assert S.y[run, k] == k
                assert np.allclose(Q.x[run, i, 0], shown(item), atol=1e-6)
                assert np.allclose(S.x[run, k, 0], shown(known), atol=1e-6)
    assert all(sorted(y.tolist()) == list(range(20)) for y in Q.y)


@pytest.mark.data
def test_lake_runs_are_of_classes_that_the_background_split_tests_on(cache):
    """So its training classes hold none of them: every image is one of the evaluation set's."""
    pool, runs = T.omniglot(data_root(), split="background"), T.lake_runs(data_root())
    known = {image.numpy().tobytes() for image in pool.test.images}
    asked = torch.cat([part.x.flatten(0, 1) for part in runs.sample(tasks=20, ways=20, shots=1, queries=1)])
    assert {image.numpy().tobytes() for image in (255 * asked).round().byte()} <= known


@pytest.mark.parametrize("wrong", [{"resize": "area"}, {"size": 0}])
def test_lake_runs_options(wrong):
    one_line(lambda: T.lake_runs(**wrong), rf"lake_runs\(.*{next(iter(wrong))}=")


def write_runs(path, classes=20):
    """An archive like Lake's: character k is k + 1 dots of ink; run r asks for them in an order of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def drawing(k):
        image, png = Image.new("1", (105, 105), 1), io.BytesIO()
        for dot in range(k + 1):
            image.putpixel((dot, 50), 0)
        image.save(png, "png")
        return png.getvalue()

    with zipfile.ZipFile(path, "w") as archive:
        for r in range(1, 21):
            asked = [(7 * i + r) % classes for i in range(20)]
            pairs = [(f"run{r:02d}/test/item{i + 1:02d}.png", f"run{r:02d}/training/class{k + 1:02d}.png")
                     for i, k in enumerate(asked)]  # fmt: skip
            archive.writestr(f"run{r:02d}/class_labels.txt", "\n".join(f"{a} {b}" for a, b in pairs))
            for (item, known), k in zip(pairs, asked, strict=True):
                archive.writestr(item, drawing(k))
                if known not in archive.namelist():
                    archive.writestr(known, drawing(k))


def test_runs_are_read_as_their_labels_say(tmp_path, own_cache):
    write_runs(tmp_path / "omniglot" / "all_runs.zip")
    S, Q = T.lake_runs(tmp_path, size=105).sample(tasks=20, ways=20, shots=1, queries=1)
    assert torch.equal(S.x.sum((2, 3, 4)), S.y + 1.0)
    assert torch.equal(Q.x.sum((2, 3, 4)), Q.y + 1.0)
    assert torch.equal(S.y, torch.arange(20).expand(20, 20))
    assert len(Q.y.unique(dim=0)) == 20


def test_a_damaged_archive_of_runs_is_named(tmp_path, own_cache, monkeypatch):
    path = tmp_path / "omniglot" / "all_runs.zip"
    write_runs(path, classes=19)
    one_line(lambda: T.lake_runs(tmp_path), r"damaged \(run01.* names 19 classes, expected 20\). Delete it")
    path.write_bytes(path.read_bytes()[:-500])
    one_line(lambda: T.lake_runs(tmp_path), "lake_runs: .*all_runs.zip is damaged .*fetch https://.*one-shot-class")
    path.unlink()
    monkeypatch.delenv("METALOOP_DATA", raising=False)
    one_line(lambda: T.lake_runs(tmp_path, download=False), "lake_runs: all_runs.zip is not in .*Fetch https://.*put")


def test_whole_alphabets_are_held_out():
    """Of the background set: six of its alphabets here, of which five are for validation."""
    names = [f"{alphabet}/character{i:02d}" for alphabet in "abcdefgh" for i in range(3)]
    background = [name[0] in "abdefh" for name in names]
    parts = omniglot_module._background(names, background, seed=1)
    alphabets = {part: {names[c][0] for c in classes} for part, classes in parts.items()}
    assert alphabets["test"] == {"c", "g"}
    assert [len(alphabets[part]) for part in ("train", "val")] == [1, 5]
    assert alphabets["train"] | alphabets["val"] == set("abdefh")
    assert sorted(c for part in parts.values() for c in part) == list(range(24))


def test_fixed_tasks_are_dealt_in_order_and_again():
    y = torch.arange(3).view(3, 1).expand(3, 2)
    tasks = Task(Data(torch.arange(6.0).view(3, 2, 1), y), Data(torch.arange(12.0).view(3, 4, 1), y.repeat(1, 2)))
    pool = FixedPool(tasks, ways=2, shots=1, queries=2, name="three")
    assert pool.tasks == 3
    assert pool.shape == (1,)
    assert pool.train is pool.val is pool.test is pool
    dealt = pool.sample(tasks=7, ways=2, shots=1, queries=2, generator=seeded())
    assert dealt.support.y[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert torch.equal(dealt.query.x[4], tasks.query.x[1])
    assert torch.equal(pool.to("cpu").sample(tasks=7, ways=2, shots=1, queries=2).query.x, dealt.query.x)
    message = r"three.sample\(ways=5.*: the pool has 3 fixed tasks. Ask for ways=2, shots=1, queries=2"
    one_line(lambda: pool.sample(ways=5, shots=1, queries=2), message)
    one_line(lambda: pool.sample(tasks=0, ways=2, shots=1, queries=2), "tasks=0")


@pytest.mark.data
def test_omniglot_images(cache):
    pool = T.omniglot(data_root())
    assert pool.shape == (1, 28, 28)
    assert (pool.train.counts == 20).all()
    with zipfile.ZipFile(data_root() / "omniglot" / "images_background.zip") as archive:
        entry = sorted(n for n in archive.namelist() if "Greek/character03/" in n and n.endswith("_07.png"))
        png = Image.open(io.BytesIO(archive.read(*entry))).convert("L")
    shown = 255 - torch.tensor(np.array(png.resize((28, 28), Image.Resampling.LANCZOS)))
    for rotation in range(4):
        k = pool.train.names.index(f"Greek/character03/rot{rotation * 90:03}")
        assert torch.equal(pool.train.images.view(4112, 20, 28, 28)[k, 6], torch.rot90(shown, rotation))
    assert 0.05 < pool.sample(tasks=20).query.x.mean() < 0.15  # ink is 1, and rare
    one_line(lambda: pool.sample(ways=5000), "the train split has 4112 classes. Ask for at most 4112 ways.")
    one_line(lambda: pool.sample(shots=10), "shots .* 25 examples. Ask for at most 20 of both")


@pytest.mark.data
@pytest.mark.slow
def test_omniglot_nearest_is_broken_as_published(cache):
    assert set(T.omniglot(data_root(), resize="nearest", rotations=None).test.images.unique().tolist()) == {0, 255}


@pytest.mark.parametrize(
    "wrong", [{"split": "lake"}, {"rotations": "all"}, {"rotations_at_test": "some"}, {"resize": "area"}, {"size": 0}]
)
def test_omniglot_options(wrong):
    one_line(lambda: T.omniglot(**wrong), rf"omniglot\({next(iter(wrong))}=")


def write_archive(path, classes):
    path.parent.mkdir(parents=True, exist_ok=True)
    png = io.BytesIO()
    Image.new("1", (105, 105)).save(png, "png")
    with zipfile.ZipFile(path, "w") as archive:
        for c in range(classes):
            for drawer in range(20):
                archive.writestr(f"{path.stem}/Alphabet/character{c:02}/{c:04}_{drawer:02}.png", png.getvalue())


def test_omniglot_archives_are_judged_by_content(tmp_path, own_cache):
    first, second = (tmp_path / "omniglot" / name for name in omniglot_module.ARCHIVES)
    write_archive(first, 3)
    write_archive(second, 1)
    one_line(lambda: T.omniglot(tmp_path), "holds 60 images of 3 classes, expected 20 of each of 964. Delete it and")
    first.write_bytes(first.read_bytes()[:-500])
    one_line(lambda: T.omniglot(tmp_path), "images_background.zip is damaged .*fetch https://")
    write_archive(first, 3)
    whole = first.read_bytes()
    first.write_bytes(whole[:100] + b"\0\0\0\0" + whole[104:])
    one_line(lambda: T.omniglot(tmp_path), "images_background.zip is damaged .*fetch https://")


# ---- files


def test_no_network_says_what_to_fetch_and_where_to_put_it(tmp_path, own_cache, monkeypatch):
    def urlopen(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.delenv("METALOOP_DATA", raising=False)
    message = r"cannot download images_background.zip \(Name or service not known\). Fetch https://\S*zip and put"
    one_line(T.omniglot, message + " it in .*own-cache")
    one_line(lambda: T.omniglot(tmp_path, download=False), "is not in .*Fetch https://.* and put it there")


class Server:
    """Answers as a web server that knows ranges, and hangs up after `patience` bytes."""

    def __init__(self, content, patience=10**9):
        self.content, self.patience, self.asked = content, patience, []

    def __call__(self, request, timeout):
        start = int(request.get_header("Range", "bytes=0-")[6:-1])
        self.asked.append(start)
        if start >= len(self.content):
            raise HTTPError(request.full_url, 416, "Range Not Satisfiable", Message(), None)
        self.headers = {"Content-Length": str(len(self.content) - start)}
        self.status = 206 if start else 200
        self.body = io.BytesIO(self.content[start : start + self.patience])
        return self

    def read(self, n):
        return self.body.read(n)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


MD5 = "5eb63bbbe01eeed093cb22bb8f5acdc3"  # of b"hello world"


def test_download_continues_where_it_was_cut_off(tmp_path, monkeypatch, capsys):
    server = Server(b"hello world", patience=4)
    monkeypatch.setattr(urllib.request, "urlopen", server)
    path = tmp_path / "new" / "file.zip"
    for _ in range(2):
        one_line(lambda: download("name", "https://host/file.zip", path, MD5), "closed after . of 11 bytes")
        assert not path.exists()
    download("name", "https://host/file.zip", path, MD5)
    assert server.asked == [0, 4, 8]
    assert path.read_bytes() == b"hello world"
    assert "file.zip: 0.0 of 0.0 MB" in capsys.readouterr().err
    path.rename(path.with_name("file.zip.part"))  # killed after the last byte
    download("name", "https://host/file.zip", path, MD5)
    assert path.read_bytes() == b"hello world"


def test_download_refuses_other_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", Server(b"hullo world"))
    one_line(lambda: download("name", "https://host/f", tmp_path / "f", MD5), f"name: .* expected {MD5}. Try again")
    assert not list(tmp_path.iterdir())


def test_decoded_data_are_kept_until_their_source_changes(tmp_path, own_cache):
    source, made = tmp_path / "source", []
    source.write_bytes(b"1")

    def make():
        made.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        assert cached("n", [source], "", make)["x"].tolist() == [0, 1, 2]
    assert len(made) == 1
    (stored,) = own_cache.iterdir()
    stored.write_bytes(stored.read_bytes()[:50])  # cut in half
    assert cached("n", [source], "", make)["x"].tolist() == [0, 1, 2]
    source.write_bytes(b"22")
    cached("n", [source], "", make)
    cached("n", [source], "other", make)
    assert len(made) == 4
    assert all(p.suffix == ".npz" for p in own_cache.iterdir())


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METALOOP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="cannot keep the decoded data"):
        assert cached("n", [], "", lambda: {"x": np.ones(2)})["x"].sum() == 2


# ---- glyphs


def test_glyphs(cache):
    pool = T.glyphs()
    parts = (pool.train, pool.val, pool.test)
    names = [set(p.names) for p in parts]
    assert sum(p.classes for p in parts) >= 1500
    assert len(set().union(*names)) == sum(p.classes for p in parts)
    assert pool.shape == (1, 28, 28)
    assert all((p.counts == 20).all() for p in parts)
    assert min(p.classes for p in parts) >= 100
    scripts = {"ARMENIAN", "GEORGIAN", "LAO"}
    assert all(scripts & set(name.split()) for name in names[2])
    assert all("CYRILLIC" in name for name in names[1])
    assert not any((scripts | {"CYRILLIC"}) & set(name.split()) for name in names[0])
    assert {"LATIN CAPITAL LETTER A", "LATIN SMALL LETTER G", "DIGIT TWO", "GREEK CAPITAL LETTER OMEGA"} <= names[0]
    everything = set().union(*names)
    assert not {"GREEK CAPITAL LETTER ALPHA", "CYRILLIC CAPITAL LETTER A"} & everything  # the shape of A
    for p in parts:
        ink = p.images.float().div(255).mean((1, 2, 3))
        assert ink.min() > 0.005
        assert ink.max() < 0.6
        x = p.images.view(p.classes, 20, -1)
        assert (x[:, :1] != x[:, 1:]).any(-1).all()  # no example is drawn twice
    assert pool.test.sample(ways=20, shots=5).query.x.shape == (1, 300, 1, 28, 28)


def test_glyphs_are_those_that_matplotlib_s_typefaces_drew(cache, monkeypatch):
    """To the bit, by digests taken when they came from there; now nothing of matplotlib is imported."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    pool = T.glyphs()
    parts = (pool.train, pool.val, pool.test)
    assert [p.classes for p in parts] == [1669, 127, 217]
    names = " ".join(name for p in parts for name in p.names)
    assert hashlib.sha256(names.encode()).hexdigest()[:16] == "deb1a7a340f16772"
    if (drawn_by := features.version("freetype2")) != "2.14.3":
        pytest.skip(f"the pixels' digest is of FreeType 2.14.3, in Pillow 13.0; here it is {drawn_by}")
    images = torch.cat([p.images for p in parts])
    assert images.sum().item() == pytest.approx(948524053, abs=50)  # without AVX, torch rounds 89 pixels elsewise
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):  # products of MKL's round by the maker of the CPU
        assert hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16] in ("46425995c01b1694", "db54c172ae51ff6b")


def test_glyphs_are_drawn_by_the_seed():
    drawn = torch.zeros(3, 4, 56, 56, dtype=torch.uint8)
    drawn[:, :, 10:46, 20:30] = 255
    exists = torch.ones(3, 4, dtype=torch.bool)
    a, b, c = (glyphs_module._bend(drawn, exists, seeded(s)) for s in (0, 0, 1))
    assert a.shape == (3, 20, 1, 28, 28)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_glyphs_use_each_face_before_any_twice():
    drawn = torch.zeros(2, 16, 56, 56, dtype=torch.uint8)
    drawn[:, :, 8:48, 8:48] = torch.arange(16, dtype=torch.uint8)[:, None, None] * 10 + 50
    exists = torch.ones(2, 16, dtype=torch.bool)
    exists[1, 5:] = False
    brightest = glyphs_module._bend(drawn, exists, seeded()).flatten(2).max(-1).values
    face = ((brightest.float() - 50) / 10).round().long()
    assert sorted(face[0, :16].tolist()) == list(range(16))
    assert face[1].bincount().tolist() == [4] * 5


# ---- folders of images


def write_folder(path, classes=5, images=4, mode="RGB", suffix="png", size=(12, 9)):
    random = np.random.RandomState(0)
    for c in range(classes):
        (path / f"class{c}").mkdir(parents=True)
        for i in range(images):
            x = random.randint(0, 255, (*size[::-1], 3), np.uint8)
            Image.fromarray(x).convert(mode).save(path / f"class{c}" / f"{i}.{suffix}")
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "bmp", "PNG"])
def test_folder_reads_common_formats(tmp_path, own_cache, suffix):
    pool = T.folder(write_folder(tmp_path / "data", suffix=suffix), split=None)
    assert (pool.shape, pool.classes, pool.name) == ((3, 84, 84), 5, "data")
    assert pool.names == [f"class{c}" for c in range(5)]
    assert pool.val is pool
    assert pool.sample(ways=5, shots=1, queries=3).query.x.shape == (1, 15, 3, 84, 84)
    assert pool.skipped == []


def test_folder_shape(tmp_path, own_cache):
    grey = write_folder(tmp_path / "grey", mode="L")
    assert T.folder(grey, split=None).shape == (1, 28, 28)
    assert T.folder(grey, split=None, channels=3, size=32).shape == (3, 32, 32)
    Image.new("RGB", (8, 8), (90, 90, 90)).save(grey / "class0" / "grey.png")  # colour in name only
    assert T.folder(grey, split=None).shape == (1, 28, 28)
    Image.new("RGB", (8, 8), (90, 20, 90)).save(grey / "class4" / "red.png")
    assert T.folder(grey, split=None).shape == (3, 84, 84)
    splits = [{"split": (1.0, 1.0, 1.0)}, {"split": (0.0, 0.5, 0.5)}]
    for wrong in ({"size": 0}, {"channels": 2}, {"invert": "yes"}, *splits):
        one_line(lambda wrong=wrong: T.folder(grey, **wrong), "expected")


def test_folder_splits_classes(tmp_path, own_cache):
    path = write_folder(tmp_path / "data", classes=10, images=2)
    pool = T.folder(path)
    names = [p.names for p in (pool.train, pool.val, pool.test)]
    assert list(map(len, names)) == [6, 2, 2]
    assert len(set().union(*names)) == 10
    assert T.folder(path).test.names == names[2]
    assert any(T.folder(path, seed=s).test.names != names[2] for s in (1, 2, 3))
    assert T.folder(path, split=(0.5, 0.0, 0.5)).val.classes == 0
    whole = T.folder(path, split=None)
    k = whole.names.index(names[2][1])
    assert torch.equal(pool.test.images[pool.test.rows[2:]], whole.images[2 * k : 2 * k + 2])
    assert T.folder(path, split=(0.8, 0.1, 0.1)).val.classes == 2
    few = write_folder(tmp_path / "few", classes=5)
    one_line(lambda: T.folder(few), r"5 classes are too few for split=\(0.6, 0.2, 0.2\)")
    one_line(lambda: T.folder(path).sample(ways=7), r"data.sample\(ways=7\): the train split has 6 classes")


def test_folder_skips_and_lists_what_it_cannot_read(tmp_path, own_cache):
    path = write_folder(tmp_path / "data")
    (path / "class1" / "0.png").write_bytes(b"")
    whole = (path / "class2" / "1.png").read_bytes()
    (path / "class2" / "1.png").write_bytes(whole[: len(whole) // 2])
    (path / "class3" / "note.jpg").write_text("not an image")
    (path / "class3" / ".hidden.png").write_bytes(b"")
    (path / "class3" / "readme.txt").write_text("")
    (path / ".git").mkdir()
    for _ in range(2):  # decoded, then from the cache
        with pytest.warns(UserWarning, match="skipped 3 files, the first .*is empty") as caught:
            pool = T.folder(path, split=None)
        assert "\n" not in str(caught[0].message)
        assert [(p.parent.name, p.name) for p, _ in pool.skipped] == [
            ("class1", "0.png"), ("class2", "1.png"), ("class3", "note.jpg"),
        ]
        assert pool.counts.tolist() == [4, 3, 3, 4, 4]
    x, y, names, skipped = T.read_folder(path, (1, 28, 28))
    assert (x.shape, x.dtype) == ((18, 1, 28, 28), torch.uint8)
    assert y.bincount().tolist() == [4, 3, 3, 4, 4]
    assert names == pool.names
    assert len(skipped) == 3
    for file in (path / "class2").iterdir():
        file.write_bytes(b"x")
    one_line(lambda: T.folder(path, split=None), "class 'class2' has no readable image .*Add images or remove it")
    for file in (path / "class2").iterdir():
        file.unlink()
    one_line(lambda: T.read_folder(path, (1, 28, 28)), "class 'class2' has no readable image .*no image: .png")


def test_folder_without_classes(tmp_path, own_cache):
    one_line(lambda: T.folder(tmp_path / "none"), "no such folder")
    one_line(lambda: T.folder(tmp_path), "no sub-folders. Make one sub-folder of images per class")
    (tmp_path / "only").mkdir()
    one_line(lambda: T.folder(tmp_path), "one class, 'only'")
    (tmp_path / "file").write_text("")
    one_line(lambda: T.folder(tmp_path / "file"), "not a folder")


def test_read_image(tmp_path):
    path = tmp_path / "image.png"
    upright = Image.new("RGB", (20, 10), "red")
    upright.paste("blue", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.save(tmp_path / "turned.png", exif=exif)
    x = T.read_image(tmp_path / "turned.png", (3, 20, 10))
    assert x[:, 2, 5].tolist() == [0, 0, 255]  # the left is on top
    assert x[:, 17, 5].tolist() == [255, 0, 0]

    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(path)
    assert (T.read_image(path, (3, 4, 4)) == 255).all()
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(path)
    assert T.read_image(path, (3, 4, 4))[:, 0, 0].tolist() == [10, 200, 30]
    palette.save(path, transparency=1)
    assert (T.read_image(path, (3, 4, 4)) == 255).all()
    Image.fromarray(np.full((8, 8), 257 * 77, np.uint16)).save(path)
    assert (T.read_image(path, (1, 4, 4)) == 77).all()
    assert (T.read_image(path, (3, 4, 4)) == 77).all()


def test_read_image_in_modes_of_many_bits_and_other_colours(tmp_path):
    """A ramp of three greys, however its numbers are told; colours of print, video and the eye."""
    ramp, path = np.array([[0, 0, 0], [51, 51, 51], [255, 255, 255]]), tmp_path / "image.tif"
    floats, whole = (ramp / 255, ramp, ramp * 257, ramp * 1e6), (ramp * 257, ramp * 2**23)
    forms = [*(x.astype(np.float32) for x in floats), *(x.astype(np.int32) for x in whole)]
    for numbers in forms:
        Image.fromarray(np.kron(numbers, np.ones((4, 4), numbers.dtype)).astype(numbers.dtype)).save(path)
        assert (T.read_image(path, (1, 12, 12), invert=False)[0, 1::4, 0] - torch.tensor([0, 51, 255])).abs().max() <= 1
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path)
    assert (T.read_image(path, (1, 4, 4), invert=False) == 0).all()
    red = Image.new("RGB", (8, 8), (200, 10, 10))
    red.convert("CMYK").save(path)
    assert (T.read_image(path, (3, 4, 4))[:, 0, 0] - torch.tensor([200, 10, 10])).abs().max() <= 2
    Image.new("LAB", (8, 8), (136, 128, 128)).save(path)  # a middle grey
    assert (T.read_image(path, (3, 4, 4)).float() - 128).abs().max() <= 4


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "tif", "bmp", "webp", "ppm", "tga", "pcx", "ico", "TIF"])
def test_folders_hold_images_of_any_format(tmp_path, ending):
    for k, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32), (0, 0, 250 * k)).save(tmp_path / name / f"image.{ending}")
        (tmp_path / name / "notes.txt").write_text("no image")
    x, y, names, skipped = T.read_folder(tmp_path, (3, 8, 8))
    assert (y.tolist(), names, skipped) == ([0, 1], ["a", "b"], [])
    assert (x[:, 2].float().mean((1, 2)) - torch.tensor([0.0, 250.0])).abs().max() < 6


def test_dark_ink_on_light_paper_is_inverted_in_grey(tmp_path):
    path = tmp_path / "image.png"
    drawing = Image.new("L", (28, 28), 255)
    drawing.paste(0, (10, 10, 18, 18))
    drawing.save(path)
    assert T.read_image(path, (1, 28, 28))[0, 14, 14] == 255
    assert T.read_image(path, (1, 28, 28))[0, 0, 0] == 0
    assert T.read_image(path, (1, 28, 28), invert=False)[0, 0, 0] == 255
    assert T.read_image(path, (3, 28, 28))[0, 0, 0] == 255
    Image.eval(drawing, lambda v: 255 - v).save(path)
    assert T.read_image(path, (1, 28, 28))[0, 14, 14] == 255
    assert T.read_image(path, (1, 28, 28), invert=True)[0, 14, 14] == 0


# ---- mini-ImageNet


def write_mini_imagenet(path):
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for p, part in enumerate(("train", "val", "test")):
            rows = [(f"{part}{i}.jpg", f"n{p}{i % 2}") for i in range(6)]
            archive.writestr(f"{part}.csv", "filename,label\n" + "\n".join(map(",".join, rows)) + "\n")
            for i, (file, _) in enumerate(rows):
                jpg = io.BytesIO()
                Image.new("RGB", (84, 84), (40 * i, 0, 0)).save(jpg, "jpeg")
                archive.writestr(f"images/{file}", jpg.getvalue())


def test_mini_imagenet(tmp_path, own_cache):
    path = tmp_path / "mini_imagenet" / "any.zip"
    one_line(lambda: T.mini_imagenet(tmp_path), r"no zip with train.csv.*put your own there")
    write_mini_imagenet(path)
    pool = T.mini_imagenet(tmp_path)
    assert pool.test.names == ["n20", "n21"]
    assert pool.shape == (3, 84, 84)
    assert (pool.test.images[:, 0].float().mean((1, 2)) - torch.tensor([0, 80, 160, 40, 120, 200])).abs().max() < 3
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + b"\0\0\0\0" + whole[304:])
    one_line(lambda: T.mini_imagenet(tmp_path), "any.zip is damaged")
    path.write_bytes(whole[:-1000])
    one_line(lambda: T.mini_imagenet(tmp_path), "any.zip is damaged")


@pytest.mark.data
@pytest.mark.slow
def test_mini_imagenet_archive(own_cache):
    pool = T.mini_imagenet(data_root())
    assert [p.classes for p in (pool.train, pool.val, pool.test)] == [64, 16, 20]
    assert pool.test.sample(tasks=2, shots=5).support.x.shape == (2, 25, 3, 84, 84)


@pytest.mark.parametrize("module", ["pool", "functions", "files", "glyphs", "omniglot", "images"])
def test_docstrings(module, cache):
    assert doctest.testmod(importlib.import_module(f"metaloop.tasks.{module}")).failed == 0


BUGS = [
    Bug("the number of shots is always the most", "tasks/pool.py",
        ("ways, drawn, queries, generator)", "ways, shots, queries, generator)"),
        "test_any_number_of_shots_is_drawn_evenly_in_training_and_as_asked_elsewhere"),
    Bug("every problem starts at one place", "tasks/problems.py",
        ("self.spread * torch.randn(tasks, *p.shape, ",
        "self.spread * torch.ones(tasks, *[1] * p.dim()) * torch.randn(1, *p.shape, "),
        "test_problems_bring_a_start_for_each_task"),
    Bug("quadratic functions are scaled by their corners", "tasks/functions.py",
        ("corners + level", "corners"), "test_quadratic"),
    Bug("queries are shown in the support set", "tasks/pool.py",
        ("index[..., shots:]", "index[..., :queries]"),
        "test_a_task_is_a_consistent_relabelling_of_distinct_classes_and_never_shows_a_query_in_its_support"),
    Bug("a class is drawn twice", "tasks/pool.py",
        ("rand(tasks, len(eligible)).topk(ways).indices", "(rand(tasks, ways) * len(eligible)).long()"),
        "test_a_task_is_a_consistent_relabelling_of_distinct_classes_and_never_shows_a_query_in_its_support"),
    Bug("support labels do not follow their examples", "tasks/pool.py",
        ("order // shots", "order.sort(1).values // shots"),
        "test_a_task_is_a_consistent_relabelling_of_distinct_classes_and_never_shows_a_query_in_its_support"),
    Bug("a small class borrows from the next", "tasks/pool.py",
        (">= counts[..., None], -1.0)", ">= counts.amax().expand_as(counts)[..., None], -1.0)"), "test_draws_are_even"),
    Bug("fixed tasks run out", "tasks/pool.py",
        ("% len(self.all.support.x)", "% tasks"), "test_fixed_tasks_are_dealt_in_order_and_again"),
    Bug("characters are held out one by one", "tasks/omniglot.py",
        ('if name.split("/")[0] in held_out', "if c % 7 == 0"), "test_whole_alphabets_are_held_out"),
    Bug("Lake's queries are taken for sorted", "tasks/omniglot.py",
        ("known.index(image) for _, image in pairs", "i for i, _ in enumerate(pairs)"),
        "test_runs_are_read_as_their_labels_say"),
    Bug("each example is turned by itself", "tasks/pool.py",
        ("(tasks, ways, 1)", "(tasks, ways, shots + queries)"), "test_rotations_per_task_turn_each_class_as_a_whole"),
]  # fmt: skip
