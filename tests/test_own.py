"""Data of one's own: arrays, tables, texts, lists of files, other people's pickles."""

import importlib
import os

import numpy as np
import pytest
import torch
from PIL import Image

import metaloop.tasks as T


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("METALOOP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def one_line(call, match):
    with pytest.raises(ValueError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


def marked(classes=10, each=4):
    """Vectors that say their class and example, in no order; the classes are words."""
    y = np.random.RandomState(0).permutation(np.repeat(np.arange(classes), each))
    x = np.stack([y, np.arange(len(y))], 1).astype(np.float64)
    return x, np.array([f"c{k}" for k in range(classes)])[y]


# ---- arrays


def test_an_array_is_dealt_as_it_is():
    x, y = marked()
    pool = T.arrays(x, y, split=None, name="mine")
    assert (pool.name, pool.shape, pool.classes, pool.names) == ("mine", (2,), 10, [f"c{k}" for k in range(10)])
    task = pool.sample(tasks=30, ways=3, shots=2, queries=2, generator=torch.manual_seed(0))
    assert task.support.x.dtype == torch.float32
    for part in task:
        for k in range(3):  # all of a label are of one class of the data
            own = [row[:, 0].unique().tolist() for row in (xs[ys == k] for xs, ys in zip(*part, strict=True))]
            assert all(len(found) == 1 for found in own)
    seen = torch.cat([task.support.x, task.query.x], 1)[..., 1]
    assert all(len(row.unique()) == 12 for row in seen)
    assert {tuple(row) for row in seen.flatten()[:, None].int().tolist()} == {(i,) for i in range(40)}


def test_bytes_become_numbers_up_to_one_and_other_numbers_stay():
    y = ["a", "a", "b", "b"]
    deal = lambda X: T.arrays(X, y, split=None).sample(ways=2, shots=1, queries=1).query.x
    assert deal(np.full((4, 3, 2), 51, np.uint8)).unique().tolist() == [pytest.approx(0.2)]
    for kind in (np.int64, np.uint16, np.float16, ">f8", bool):
        assert deal(np.full((4, 3, 2), 1, kind)).unique().tolist() == [1.0]
    assert deal(torch.full((4, 1), 7)).unique().tolist() == [7.0]
    assert deal(np.ones((4, 3))[::-1]).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("y", "names"),
    [
        ([3, 3, 10, 10], ["3", "10"]), ([True, True, False, False], ["False", "True"]), 
        ([0.5, 0.5, 2, 2], ["0.5", "2"]),
        (["Cat", "Cat", "cat", "cat"], ["Cat", "cat"]), (["../x", "../x", "a/b\n", "a/b\n"], ["../x", "a/b\n"]),
        ([1, 1, "1", "1"], ["1", "'1'"]), (["b", "b", 2, 2], ["2", "b"]), 
        (np.array([b"x", b"x", b"y", b"y"]), ["x", "y"]),
        (torch.tensor([[1], [1], [0], [0]]), ["0", "1"]), (np.array(["a", "a", None, None]), None),
        ([1.0, 1.0, float("nan"), 2], None), ([[1], [2], [1, 2], [3]], None), ([[1, 2]] * 4, None),
    ],
)  # fmt: skip
def test_labels_are_of_any_type(y, names):
    if names is None:
        one_line(lambda: T.arrays(np.zeros((4, 1)), y, split=None), "^arrays: (a label is|y )")
        return
    pool = T.arrays(np.arange(4.0)[:, None], y, split=None)
    assert pool.names == names
    k = 0 if y[0] == y[1] and names[0] in (str(y[0]), "x") else 1
    assert sorted(pool.images[pool.rows][: pool.counts[0]].flatten().tolist()) == ([0, 1] if k == 0 else [2, 3])


def test_classes_are_split_by_fractions_names_lists_groups_or_examples(tmp_path):
    x, y = marked()
    names = lambda pool: [part.names for part in (pool.train, pool.val, pool.test)]
    by_seed = [names(T.arrays(x, y, seed=s)) for s in (0, 0, 1)]
    assert [len(part) for part in by_seed[0]] == [6, 2, 2]
    assert by_seed[0] == by_seed[1] != by_seed[2]
    assert len({name for part in by_seed[0] for name in part}) == 10
    lists = {"train": ["c1", "c2"], "validation": ["c3"], "test": ["c9"]}
    wanted = [["c1", "c2"], ["c3"], ["c9"]]
    assert names(T.arrays(x, y, split=lists)) == wanted
    (tmp_path / "train.txt").write_text("c1\nc2\n")
    (tmp_path / "val.txt").write_text("c3\n\n")
    (tmp_path / "test.txt").write_text("c9")
    assert names(T.arrays(x, y, split=tmp_path)) == wanted
    each = [{"c1": "test", "c2": "valid"}.get(k, "TRAIN") for k in y]
    assert names(T.arrays(x, y, split=each))[1:] == [["c2"], ["c1"]]
    groups = [int(k[1]) // 2 for k in y]
    for part in names(T.arrays(x, y, groups=groups)):
        assert len(part) % 2 == 0
        assert {int(k[1]) // 2 for k in part} == {int(k[1]) // 2 for k in part if int(k[1]) % 2}
    pool = T.arrays(x, y, split=lists)
    assert pool.test.sample(ways=1, shots=2, queries=2).query.x[0, 0, 0] == 9
    one_line(lambda: pool.sample(ways=5), r"arrays.sample\(ways=5\): the train split has 2 classes")


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"split": {"train": ["c1"], "test": ["c1"]}}, "class 'c1' is in train and in test. Meta-test asks"),
        ({"split": {"train": ["c1"], "test": ["cat"]}}, "the test classes name 'cat', of which there is no example"),
        ({"split": {"learn": ["c1"]}}, "split is 'learn', expected train, val or test"),
        ({"split": {"test": ["c1"]}}, "no class for train"),
        ({"split": ["train", "test"] * 20}, "class 'c0' is in train and test"),
        ({"split": ["train"] * 3}, "split has 3 entries, expected one for each of 40"),
        ({"split": (0.5, 0.5, 0.5)}, "three fractions"), ({"split": "nowhere"}, "holds no train.txt"),
        ({"groups": list(range(40))}, "class 'c0' is in several groups"), ({"groups": [1, 2]}, "groups has 2 entries"),
        ({"groups": [0] * 40}, "1 groups are too few"),
    ],
)  # fmt: skip
def test_a_split_that_cannot_be_is_refused(how, match):
    x, y = marked()
    one_line(lambda: T.arrays(x, y, **how), match)


@pytest.mark.parametrize(
    ("X", "match"),
    [
        (np.zeros(4), r"X has shape \(4,\)"), (np.zeros((0, 2)), "X has shape"), ([["a"], ["b"]], "expected numbers"),
        ([[1], [1, 2]], "no array"), (np.full((4, 1), np.nan), "not finite"), 
        (np.zeros((3, 1)), "3 examples in X, 4 labels"),
        (np.zeros((4, 1), complex), "expected numbers"), (torch.zeros(4, 1, dtype=torch.cfloat), "complex"),
    ],
)  # fmt: skip
def test_what_is_no_array_of_examples_is_refused(X, match):
    one_line(lambda: T.arrays(X, list("aabb"), split=None), match)


def test_an_array_on_disk_stays_there(tmp_path):
    x, y = marked()
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    pool = T.arrays(np.load(tmp_path / "x.npy", mmap_mode="r"), y, split=None)
    assert pool.release is not None
    same = T.arrays(x.astype(np.float32), y, split=None)
    for _ in range(2):
        deal = lambda p: p.sample(tasks=3, ways=4, shots=1, queries=2, generator=torch.manual_seed(1))
        ours, theirs = deal(pool), deal(same)
        assert torch.equal(ours.query.x, theirs.query.x)
    assert pool.digests() == same.digests()
    assert len({*pool.digests()}) == 10
    flat = pool.flat(batch=5).sample(tasks=2)
    assert [pool.names[k] for k in flat.query.y[0]] == [f"c{int(k)}" for k in flat.query.x[0, :, 0]]


# ---- folders


def paint(path, colour, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), colour).save(path, kind)


def test_a_picture_is_known_by_what_is_in_it(tmp_path, own_cache):
    for k, name in enumerate(("a", "b")):
        paint(tmp_path / "data" / name / "named.wrongly", (0, 200 * k, 9), "PPM")
        paint(tmp_path / "data" / name / "nothing", (0, 200 * k, 9), "GIF")
        paint(tmp_path / "data" / name / "jpeg.png", (0, 200 * k, 9), "JPEG")
        (tmp_path / "data" / name / "notes").write_text("no picture, and not meant to be one")
        (tmp_path / "data" / name / "table.csv").write_text("a,b\n1,2\n")
    pool = T.folder(tmp_path / "data", split=None, channels=3, size=4)
    assert (pool.counts.tolist(), pool.skipped) == ([3, 3], [])
    assert (pool.images[:, 1].float().mean((1, 2)) - torch.tensor([0, 0, 0, 200, 200, 200])).abs().max() < 6
    x, _, bad = T.read_images([tmp_path / "data"], (3, 4, 4))
    assert (len(x), bad) == (6, [])


def test_pictures_lie_at_any_depth_on_request(tmp_path, own_cache):
    for k, name in enumerate(("a", "b")):
        paint(tmp_path / "data" / name / "1.png", (k, 0, 0))
        paint(tmp_path / "data" / name / "deep" / "er" / "2.png", (k, 0, 0))
        paint(tmp_path / "data" / name / ".trash" / "3.png", (k, 0, 0))
    assert T.folder(tmp_path / "data", split=None).counts.tolist() == [1, 1]
    assert T.folder(tmp_path / "data", split=None, nested=True).counts.tolist() == [2, 2]


def test_folders_called_train_val_and_test_are_the_split(tmp_path, own_cache):
    data = tmp_path / "data"
    for k, place in enumerate(("train/a", "train/b", "valid/c", "valid/d", "test/e", "test/A")):
        for i in range(3):
            paint(data / place / f"{i}.png", (40 * k, 0, 90))
    pool = T.folder(data)
    assert [part.names for part in (pool.train, pool.val, pool.test)] == [["a", "b"], ["c", "d"], ["A", "e"]]
    x = pool.test.sample(ways=2, shots=1, queries=2, generator=torch.manual_seed(0)).support.x
    assert sorted((255 * x[0, :, 0]).round().flatten(1).unique().tolist()) == [160, 200]
    assert T.folder(data, split=None).names == ["A", "a", "b", "c", "d", "e"]
    paint(data / "test" / "a" / "0.png", (0, 0, 0))
    one_line(lambda: T.folder(data), "class 'a' is in test and in train. Meta-test asks about classes")
    assert T.folder(data, split=None).names == ["A", "a", "b", "c", "d", "e"]
    lists = {"train": ["a", "b"], "test": ["A"]}
    one_line(lambda: T.folder(data / "train", split=lists), "the test classes name 'A'")
    assert T.folder(data / "train", split={"train": ["b"]}).train.names == ["b"]


def many(path, classes=3, each=200):
    for k in range(classes):
        paint(path / f"c{k}" / "0.png", (60 * k, 10, 90))
        for i in range(1, each):
            os.link(path / f"c{k}" / "0.png", path / f"c{k}" / f"{i}.png")
    (path / "c1" / "5.png").unlink()
    (path / "c1" / "5.png").write_bytes(b"x")
    return path


def test_pictures_are_decoded_by_several_processes_and_a_stopped_decoding_goes_on(tmp_path, own_cache, monkeypatch):
    path, stored = many(tmp_path / "data"), importlib.import_module("metaloop.tasks.stored")
    monkeypatch.setattr(stored, "cores", lambda: 2)
    monkeypatch.setattr(stored, "ALONE", 100)
    decode, done = stored.decode, []

    def stopped(folder, blocks, log):
        done.append([*blocks])
        read_blocks(folder, done[-1][:1], log)
        raise KeyboardInterrupt

    read_blocks = decode.read_blocks
    with monkeypatch.context() as patch:
        patch.setattr(decode, "read_blocks", stopped)
        patch.setattr(stored, "_by_processes", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            T.folder(path, split=None, channels=3, size=4)
    assert done == [[0, 1, 2]]
    (part,) = (p for p in own_cache.iterdir() if p.suffix == ".part")
    part.rename(part.with_name(part.name.replace(str(os.getpid()), "99999999")))  # as if by a process that is no more
    left = []
    by_processes = stored._by_processes
    monkeypatch.setattr(stored, "_by_processes", lambda part, todo, n: left.append(todo) or by_processes(part, todo, n))
    monkeypatch.setattr(decode, "read_blocks", lambda folder, blocks, log: left.append(blocks))
    with pytest.warns(UserWarning, match="skipped 1 files"):
        pool = T.folder(path, split=None, channels=3, size=4)
    assert left == [[1, 2], []]  # the other processes have left nothing
    assert pool.counts.tolist() == [200, 199, 200]
    assert [(p.name, "cannot identify" in reason) for p, reason in pool.skipped] == [("5.png", True)]
    of_class = torch.arange(3).repeat_interleave(pool.counts)
    assert torch.equal(pool.images[pool.rows][:, 0, 0, 0].long(), 60 * of_class)
    assert not [p for p in own_cache.iterdir() if p.suffix == ".part"]
    monkeypatch.setattr(stored, "_decode", lambda *_: pytest.fail("decoded again"))
    with pytest.warns(UserWarning, match="skipped 1 files"):
        assert T.folder(path, split=None, channels=3, size=4).digests() == pool.digests()


def test_a_cache_that_is_damaged_or_cannot_be_written_costs_time_alone(tmp_path, own_cache, monkeypatch):
    for k in range(2):
        paint(tmp_path / "data" / f"c{k}" / "0.png", (9 * k, 0, 50))
    read = lambda: T.folder(tmp_path / "data", split=None, channels=3, size=4).images[:, 0, 0, 0].tolist()
    assert read() == [0, 9]
    (stored,) = own_cache.iterdir()
    (stored / "x").write_bytes(b"short")
    assert read() == [0, 9]
    (stored / "skipped.json").write_text("{")
    assert read() == [0, 9]
    monkeypatch.setenv("METALOOP_CACHE", str(stored / "x" / "none"))
    with pytest.warns(UserWarning, match="folder: cannot keep the decoded data"):
        assert read() == [0, 9]
