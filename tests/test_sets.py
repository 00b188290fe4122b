"""What the Neural Statistician stands on: distributions, autoencoders, MNIST, changed tasks, noise held still, pictures
that densities draw."""

import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import Bug
from scipy import integrate
from tiny import image_folder, make_run
from torch import distributions as D
from torch.func import vmap
from torch.testing import assert_close
from zoo import blobs

import metaloop as ml
from metaloop import Data, Learner, Task, tasks
from metaloop.nn import Bernoulli, Gaussian, conv_decoder, conv_encoder, functional
from metaloop.report import write_report
from metaloop.report.findings import DRAWN, GIVEN
from metaloop.tasks.mnist import FILES
from metaloop.testing import check


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- distributions, as networks answer them


def test_gaussians_are_torchs():
    out, other, x = torch.randn(3, 5, 7, 8, generator=seeded()).double()
    p, q = Gaussian.of(out), Gaussian.of(other)
    P, Q = (D.Independent(D.Normal(g.mean, (g.logvar / 2).exp()), 1) for g in (p, q))
    assert_close(p.log_prob(x[..., :4]), P.log_prob(x[..., :4]))
    assert_close(p.kl(q), D.kl_divergence(P, Q))
    standard = D.Independent(D.Normal(torch.zeros(4).double(), 1.0), 1)
    assert_close(p.kl(), D.kl_divergence(P, standard.expand((5, 7))))
    torch.manual_seed(0)
    draws = p.expand(20_000).draw()
    assert draws.shape == (20_000, 5, 7, 4)
    assert_close(draws.mean(0), P.mean, atol=0.15, rtol=0)
    assert_close(draws.var(0), P.variance, atol=0.0, rtol=0.1)


def test_pixels_are_torchs():
    logits, x = torch.randn(6, 9, generator=seeded()), torch.rand(6, 9, generator=seeded(1)).round()
    p = Bernoulli.of(logits)
    assert_close(p.log_prob(x), D.Independent(D.Bernoulli(logits=logits), 1).log_prob(x))
    assert_close(p.draw(), D.Bernoulli(logits=logits).mean)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 20), (1, 16, 16)])
def test_the_decoder_mirrors_the_encoder(shape):
    form = {"widths": (4, 6, 8), "depth": 2}
    encoder, decoder = conv_encoder(shape, 10, **form), conv_decoder(7, shape, **form)
    assert encoder(torch.randn(5, *shape)).shape == (5, 10)
    assert decoder(torch.randn(5, 7)).shape == (5, *shape)
    sides = [x.shape[-2:] for x in trace(encoder, torch.randn(2, *shape)) if x.ndim == 4]
    back = [x.shape[-2:] for x in trace(decoder, torch.randn(2, 7)) if x.ndim == 4]
    assert list(dict.fromkeys(back)) == list(dict.fromkeys([torch.Size(shape[1:]), *sides]))[::-1]


def trace(layers, x):
    for layer in layers:
        x = layer(x)
        yield x


def test_the_default_encoder_is_the_papers():
    convolutions = [m for m in conv_encoder((1, 28, 28), 256) if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [64] * 3 + [128] * 3 + [256] * 3
    assert [m.stride[0] for m in convolutions] == [1, 1, 2] * 3


def test_autoencoders_batch_over_tasks():
    net, init = functional(conv_decoder(3, (1, 8, 8), widths=(4,), depth=1))
    theta, z = init(0), torch.randn(4, 2, 3)
    assert_close(vmap(net, in_dims=(None, 0))(theta, z), torch.stack([net(theta, each) for each in z]))


# ---- tasks


def write_mnist(folder, damage=()):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name, (shape, _) in FILES.items():
        data = rng.integers(0, 10 if len(shape) == 1 else 256, shape, dtype=np.uint8)
        head = np.array([0, *shape], ">i4").tobytes()
        whole = gzip.compress(head + data.tobytes(), 1)
        (folder / name).write_bytes(whole[:1000] if name in damage else whole)


def test_mnist_is_read_and_judged_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("METALOOP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mnist"
    write_mnist(folder)
    pool = tasks.mnist(tmp_path, download=False)
    assert [int(part.counts.sum()) for part in (pool.train, pool.val, pool.test)] == [55_000, 5_000, 10_000]
    raw = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = np.frombuffer(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)
    first = int((labels == 3).argmax())
    at = int(pool.test.first[3])
    assert pool.test.images[at].flatten().tolist() == list(raw[first * 784 : (first + 1) * 784])
    write_mnist(folder, damage=["train-labels-idx1-ubyte.gz"])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz is damaged .*fetch https://"):
        tasks.mnist(tmp_path)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0" * 100))
    with pytest.raises(ValueError, match=r"holds 100 bytes, expected 60008\. Delete it"):
        tasks.mnist(tmp_path)
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz is not in .*Fetch https://.* and put it there"):
        tasks.mnist(tmp_path, download=False)


@pytest.mark.data
def test_mnist_is_oriented_and_inked_as_omniglot():
    if not os.environ.get("METALOOP_DATA") or not Path(os.environ["METALOOP_DATA"], "mnist").is_dir():
        pytest.skip("METALOOP_DATA holds no mnist")
    pool = tasks.mnist()
    x = pool.test.images.float() / 255
    assert 0.12 < x.mean() < 0.14  # ink is 1, and rare
    ones = x[pool.test.first[1] : pool.test.first[2], 0]
    assert ones.sum(2).gt(0.5).sum(1).float().mean() > 2 * ones.sum(1).gt(0.5).sum(1).float().mean()  # upright


def test_distributions_deal_points_with_their_log_densities():
    pool = tasks.distributions(mean=(2.0, 2.0), variance=(1.5, 1.5))
    points, log_p = (t[..., 0].double() for t in pool.sample(400, shots=2000, queries=1, generator=seeded()).support)
    assert (points.mean(1) - 2).abs().max() < 0.2
    assert (points.var(1) - 1.5).abs().max() < 0.6
    s = 1.5**0.5
    known = {
        "exponential": lambda x: np.where(x > 2 - s, np.exp(-(x - 2 + s) / s) / s, 0),
        "gaussian": lambda x: np.exp(-((x - 2) ** 2) / 3) / np.sqrt(3 * np.pi),
        "uniform": lambda x: np.where(np.abs(x - 2) < s * 3**0.5, 1 / (2 * s * 3**0.5), 0),
        "laplacian": lambda x: np.exp(-np.abs(x - 2) / (s / 2**0.5)) / (s * 2**0.5),
    }
    for p in known.values():
        kinks = [2, 2 - s, 2 - s * 3**0.5, 2 + s * 3**0.5]
        assert integrate.quad(p, -20, 24, points=kinks, limit=200)[0] == pytest.approx(1)
    found = dict.fromkeys(known, 0)
    for x, y in zip(points.numpy(), log_p.numpy(), strict=True):
        fits = [name for name, p in known.items() if np.allclose(p(x), np.exp(y), rtol=1e-3, atol=1e-6)]
        assert len(fits) == 1, fits
        found[fits[0]] += 1
    assert min(found.values()) > 70
    for wrong in ({"mean": (1.0, 0.0)}, {"variance": (0.0, 1.0)}):
        with pytest.raises(ValueError, match=rf"distributions\({next(iter(wrong))}="):
            tasks.distributions(**wrong)


def drawing_pool():
    """Classes whose drawings are a bar: its place is the class, its length the example."""
    images = torch.zeros(30 * 8, 1, 12, 12, dtype=torch.uint8)
    for k in range(30):
        for i in range(8):
            images[8 * k + i, 0, k % 10 + 1, 1 + k // 10 : 4 + k // 10 + i % 4] = 255
    return tasks.ClassPool(images, torch.full((30,), 8), [f"c{k}" for k in range(30)], name="bars")


def test_varied_changes_training_tasks_alone():
    pool = drawing_pool()
    varied = tasks.Varied(pool, lambda t, g: Task(*(Data(1 - d.x, d.y) for d in t)))
    plain, changed = (p.train.sample(3, 4, 1, 2, seeded()) for p in (pool, varied))
    assert torch.equal(changed.support.x, 1 - plain.support.x)
    assert torch.equal(changed.query.y, plain.query.y)
    ours, theirs = (p.test.sample(2, 4, 1, 2, seeded()).query for p in (varied, pool))
    assert torch.equal(ours.x, theirs.x)
    assert varied.to("cpu").train.sample(3, 4, 1, 2, seeded()).support.x.equal(changed.support.x)
    assert (varied.shape, varied.classes, varied.name) == (pool.shape, 30, "bars")


def test_strokes_mirror_whole_classes_and_spread_the_ink_of_each_drawing():
    pool, pens, mirrored = drawing_pool(), [], []
    for seed in range(40):
        before = pool.sample(2, ways=3, shots=2, queries=2, generator=seeded(seed))
        after = tasks.Varied(pool, tasks.strokes).sample(2, ways=3, shots=2, queries=2, generator=seeded(seed))
        for task, k in ((task, k) for task in range(2) for k in range(3)):
            of_class = [
                pair for old, new in zip(before, after, strict=True)
                for pair in zip(old.x[task][old.y[task] == k], new.x[task][new.y[task] == k], strict=True)
            ]  # fmt: skip
            turns = [turn for turn in (False, True) if all((z >= (x.mT if turn else x)).all() for x, z in of_class)]
            assert turns
            mirrored += turns if len(turns) == 1 else []
            pens += [int(z.sum() - x.sum()) for x, z in of_class]
    assert 0.35 < sum(mirrored) / len(mirrored) < 0.65
    assert 0.2 < pens.count(0) / len(pens) < 0.3
    for length in (3, 4, 5, 6):  # what 2x2, the cross and 3x3 add to a bar
        assert {length + 2, 2 * length + 2, 2 * length + 6} <= set(pens)
    assert len(set(pens)) <= 1 + 3 * 4


def sampled(image, u, v):
    """The bilinear mean of the four pixels around (u, v), in [-1, 1] over the whole side; paper is 0."""
    side = len(image)
    column, row, value = (u + 1) * side / 2 - 0.5, (v + 1) * side / 2 - 0.5, 0.0
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < side and 0 <= j < side:
                value += (1 - abs(row - i)) * (1 - abs(column - j)) * float(image[i, j])
    return value


def test_distortions_are_affine_maps_of_each_drawing():
    """Pixel by pixel, from the same random numbers."""
    pool, side = drawing_pool(), 12
    before = pool.sample(2, ways=3, shots=1, queries=2, generator=seeded(1))
    after, numbers, kinds = tasks.distortions(before, seeded(5)), seeded(5), set()
    tenth = math.pi / 18
    ranges = [(-tenth, tenth, 0), *[(-0.3, 0.3, 0)] * 2, *[(0.8, 1.2, 1)] * 2, *[(-4 / 105, 4 / 105, 0)] * 2]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new.y, old.y)
        assert new.x.shape == old.x.shape
        drawn = [torch.rand(2, old.y.numel(), generator=numbers) for _ in ranges]
        for n, (x, z) in enumerate(zip(old.x.flatten(0, 2), new.x.flatten(0, 2), strict=True)):
            a, k_x, k_y, s_x, s_y, t_x, t_y = (
                low + (high - low) * float(value) if chance < 0.5 else none
                for (low, high, none), (chance, value) in zip(ranges, (d[:, n] for d in drawn), strict=True)
            )
            kinds.add((a != 0, k_x != 0, k_y != 0, s_x != 1, s_y != 1, t_x != 0, t_y != 0))
            turn = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
            M = torch.tensor([[1 / s_x, 0.0], [0.0, 1 / s_y]]) @ torch.tensor([[1.0, k_x], [k_y, 1.0]]) @ turn
            for i in range(side):
                for j in range(side):
                    u, v = (M @ torch.tensor([(2 * j + 1) / side - 1, (2 * i + 1) / side - 1])).tolist()
                    assert abs(float(z[i, j]) - sampled(x, u + t_x, v + t_y)) < 1e-4
    assert len(kinds) > 10


def test_drawings_of_a_class_are_distorted_each_for_itself():
    x = drawing_pool().sample(1, ways=1, shots=1, queries=1, generator=seeded()).support.x.expand(1, 40, 1, 12, 12)
    same = Data(x, torch.zeros(1, 40, dtype=torch.long))
    after = tasks.distortions(Task(same, same), seeded())
    each = {tuple(row) for part in after for row in part.x[0].flatten(1).tolist()}
    assert len(each) > 70  # one in 128 is left as it is
    again = tasks.distortions(Task(same, same), seeded())
    assert all(torch.equal(a.x, b.x) for a, b in zip(after, again, strict=True))


# ---- noise in laws, pictures in reports


def noisy(*, cut: bool):
    """A learner whose objective is noisy, and whose gradient is cut, or not."""
    base = ml.protonet(*functional(torch.nn.Linear(4, 3)), ways=3)

    def objective(adapt, theta, task):
        scores = adapt(theta, task.support)(task.query.x)
        held = torch.nn.functional.dropout(scores, 0.5) + torch.rand_like(scores) * scores.square()
        noise = torch.randn(4, dtype=torch.float64).sum() + torch.rand((2, 2)).sum() + torch.randn_like(scores).sum()
        weight = theta["weight"].detach() if cut else theta["weight"]
        return held.square().mean() + noise * weight.square().sum(), {}

    return Learner(base.init, base.adapt, objective, differentiates=False)


LAWS = ["many_tasks_are_each_task", "meta_gradient_is_the_derivative", "chunks_change_nothing", "pooled_is_per_task"]


def test_a_noisy_objective_is_judged_like_any_other():
    learner = noisy(cut=False)
    before = torch.get_rng_state()
    check(learner, blobs, laws=LAWS)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(AssertionError, match="meta_gradient_is_the_derivative"):
        check(noisy(cut=True), blobs, laws=LAWS)


def test_a_noisy_predictor_is_still_found_out():
    def adapt(theta, S):
        return lambda x: x @ theta["w"] + torch.randn(3, dtype=x.dtype)

    learner = Learner(lambda seed: {"w": torch.ones(4, 3)}, adapt, lambda adapt, theta, task: (theta["w"].sum(), {}))
    with pytest.raises(AssertionError, match="answers differently the second time"):
        check(learner, blobs, laws=["adapt_is_pure"])


def test_a_report_shows_what_a_density_draws(tmp_path):
    pool = tasks.folder(image_folder(tmp_path / "images", 25, 20))
    reports = {}
    for recipe in ("statistician-omniglot", "protonet-glyphs"):
        run = make_run(tmp_path / recipe, recipe, pool, steps=1, budget="smoke")
        reports[recipe] = write_report(run, lambda: pool, tasks=2).read_text()
    assert "What f draws" not in reports["protonet-glyphs"]
    _, _, strips = reports["statistician-omniglot"].partition("What f draws")
    strips, _, _ = strips.partition("<h2>")
    assert strips.count("given") - 1 == 5 * GIVEN
    assert strips.count("drawn for class") == 5 * DRAWN


BUGS = [
    Bug("a gaussian's draw takes its variance for its deviation", "nn/distributions.py",
        ("(self.logvar / 2).exp() * torch", "self.logvar.exp() * torch"), "test_gaussians_are_torchs"),
    Bug("noise runs free in the laws", "testing.py",
        ("_StillNoise() if law in STILL else nullcontext()", "nullcontext()"),
        "test_a_noisy_objective_is_judged_like_any_other"),
    Bug("noise is held still where it should be found", "testing.py",
        ("_StillNoise() if law in STILL else nullcontext()", "_StillNoise()"),
        "test_a_noisy_predictor_is_still_found_out"),
    Bug("test tasks are varied like training tasks", "tasks/varied.py",
        ("else self.pool.test)", "else self)"), "test_varied_changes_training_tasks_alone"),
    Bug("drawings are shrunk where they should grow", "tasks/varied.py",
        ("u = [(cos + k_x * sin) / s_x, (k_x * cos - sin) / s_x, t_x]",
         "u = [(cos + k_x * sin) * s_x, (k_x * cos - sin) * s_x, t_x]"),
        "test_distortions_are_affine_maps_of_each_drawing"),
    Bug("every drawing is distorted in every way", "tasks/varied.py",
        ("torch.where(chance < 0.5, ", "torch.where(chance < 1.5, "),
        "test_distortions_are_affine_maps_of_each_drawing"),
    Bug("all drawings of a task are distorted alike", "tasks/varied.py",
        ("torch.where(chance < 0.5, least + (most - least) * value, none)",
         "torch.where(chance[:1] < 0.5, least + (most - least) * value[:1], none).expand_as(value)"),
        "test_drawings_of_a_class_are_distorted_each_for_itself"),
]  # fmt: skip
