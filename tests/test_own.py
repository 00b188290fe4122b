"""Data of one's own: arrays, tables, texts, lists of files, other people's pickles."""

import base64
import gzip
import importlib
import json
import os
import pickle
import struct
import sys
import zlib
from datetime import date
from enum import Enum
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from test_tasks import data_root
from zoo import ZOO

import metaloop as ml
import metaloop.tasks as T
from metaloop import Task, meta_gradient
from metaloop.cli import main
from metaloop.engine.episodes import read_episodes, write_episodes
from metaloop.engine.seeds import generator
from metaloop.recipes.data import POOLS
from metaloop.report.results import kept
from metaloop.tasks import reading
from metaloop.tasks.pickles import Machine, read_pickle
from metaloop.torch_private import pytree


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


class Kind(Enum):
    TREE, BUSH = 1, 2


@pytest.mark.parametrize(
    ("y", "names"),
    [
        ([3, 3, 10, 10], ["3", "10"]), ([True, True, False, False], ["False", "True"]), 
        ([0.5, 0.5, 2, 2], ["0.5", "2"]),
        (["Cat", "Cat", "cat", "cat"], ["Cat", "cat"]), (["../x", "../x", "a/b\n", "a/b\n"], ["../x", "a/b\n"]),
        ([1, 1, "1", "1"], ["1", "'1'"]), (["b", "b", 2, 2], ["2", "b"]), 
        (np.array([b"x", b"x", b"y", b"y"]), ["x", "y"]),
        (torch.tensor([[1], [1], [0], [0]]), ["0", "1"]), (np.array(["a", "a", None, None]), None),
        ([date(2020, 1, 9), date(2020, 1, 9)] + [date(2019, 5, 1)] * 2, ["2019-05-01", "2020-01-09"]),
        (np.array(["2020", "2020", "1999", "1999"], "M8[D]"), ["1999-01-01", "2020-01-01"]),
        ([Kind.TREE, Kind.TREE, Kind.BUSH, Kind.BUSH], ["Kind.BUSH", "Kind.TREE"]),
        (np.array(["2020", "NaT", "NaT", "2020"], "M8[D]"), None),
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


def test_what_is_masked_is_no_number():
    masked = np.ma.masked_array(np.zeros((4, 1)), [[False], [True], [False], [False]])
    one_line(lambda: T.arrays(masked, [0, 0, 1, 1], split=None), "^arrays: X is masked in places")
    one_line(lambda: ml.FewShotClassifier().fit(masked, [0, 0, 1, 1]), "fit: X is masked in places")


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
        ({"groups": [0] * 40}, "1 groups are too few"), ({"split": 3}, "got split=3, expected three fractions"),
        ({"split": (float("nan"), 0.5, 0.5)}, "got split=.* expected three fractions"),
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
        (torch.eye(4).to_sparse(), "X is sparse"), (np.full((4, 1), 1e39), "too large for float32"),
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


# ---- pickles

THINGS = {
    "bytes": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "other end": np.arange(3, dtype=">i4"), "words": np.array(["a", "bc\u00e9"]), "raw": np.array([b"a", b"bc"]),
    "objects": np.array(["x", None, 3], object),
    "none": np.zeros((0, 3)), "one": np.array(3), "number": np.float32(2.5),
    "list": [1, 300, 70000, -1, 2**40, -(2**70), True, False, None, 2.5, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "b": b"\x00\xff\n", "empty": b"", "array": bytearray(b"qq"),
    "text": "\u00e9\u2603\n\\u'", "deep": {"a": {1: [[]]}},
}  # fmt: skip


def same(ours, theirs):
    if isinstance(theirs, np.ndarray):
        return isinstance(ours, np.ndarray) and ours.dtype == theirs.dtype and ours.shape == theirs.shape and bool(
            (ours == theirs).all())  # fmt: skip
    return bytes(ours) == theirs if isinstance(theirs, bytes | bytearray) else ours == theirs


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_this_python_are_read(protocol):
    things = {**THINGS, "again": THINGS["bytes"]}
    found = Machine(pickle.dumps(things, protocol)).run()
    assert found.keys() == things.keys()
    assert [name for name in things if not same(found[name], things[name])] == []
    assert found["again"] is found["bytes"]


# {"image_data": uint8 [2, 2, 2, 3], "class_dict": {"n01": [1], "n02": numpy.array([0])}} as numpy 1.26.4 and Python
# 3.11 write it, by their protocols.
OF_NUMPY_1 = {
    2: "c-m!;$xg#C5Qd$ktJ~6jVc#LAigMz>6A-BfpK?Kw<3uD<oAytfLnSJ4DWy*hZd$~F8ObyD%>4f5LtlcJHYJ3FQ~u^V9+w=Nh|=kNF%+}dA5P"
    "PW40#;$1$AOy%%VibsgM-<u8T(At_s5<E98VDW}Yt+>POpzB5!L--bKMKs5s#=j7BJaqQp>MgECZ1OEWD!b3>xK*Y)ILuEuM&uEx?44mMwF)"
    "EOG4Wn_}?XpYC@mv3d+VG)Uzy9x64KvjvR8@YU;SSr&>wRTW%G+XUXx7SBIP@i`gx)MD%TU|_ek~m%{B>GDXOxsY8(ZdLbuQ;+azP~@>IM9P"
    "^%acH%pE8^&bW2;|JlJ7|Pq^4(UNT($Vm{;gALdPlSt5Ui+bz}|!@Y#*rs?npQQvgl",
    4: "c-m`VnX1Cb00y;FG<vu)a}(23<5Ln#5~uWt=9T6aRO%(?7p3aumgbaXCKeSXR!-^Ri7!e`&d)0@DJo4anKF4w4=Y&VlpglH6o`_^Q@j~kr#L"
    "evO=+JJG)2RkQNx=F44F%&WU%(Irj%3`q=IxZl^Raz?0_g@?qRH%;^*h*^&bepgf~OUl%!5)2?j<cW)@a9b`DN1ZXRAfegQ!tVG&U=@hL#*9"
    "<Jn^#Ny)kluV#oKwe<ZGccSIJH?wZ5yUi_lEIR}4suNfC)6$8j6e=w4^yTEveh<Nt>$2W0+3aurFsBnuxy6",
    5: "c-m`Voyx_?00y;FG<vu)a}(23<5Ln#5~uVC<(1|ZRO%(?7p3X}nW;sY$y0i`<I{@rbCXKb(o&12OrD}KO@aXm7@3$^SlQS)IJvlac=`AR1ci"
    "h}M8(9X^ss`>0n#ZYl?AClO+8GdhEqB_+NT6f(eP&OVXT?r=jZ439|*vNH$%ykBn@vSFk~*7(!=OHr39$9hbuWJvA8%sB{R8X3dpt0c?O14V"
    "yAdBCW4qoQ!-dIrg1Q!f+-msJxrMv$ky3lvCf;ZbxH<5$d=MlJpkLxUCs",
}  # fmt: skip


@pytest.mark.parametrize("protocol", OF_NUMPY_1)
def test_pickles_of_numpy_1_are_read(protocol, tmp_path):
    path = tmp_path / "cache.pkl"
    path.write_bytes(zlib.decompress(base64.b85decode(OF_NUMPY_1[protocol])))
    found, _ = read_pickle(path)
    assert same(found["image_data"], np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3))
    assert {name: [*where] for name, where in found["class_dict"].items()} == {"n01": [1], "n02": [0]}


def of_python_2(thing, protocol: int) -> bytes:
    """The pickle that Python 2 and numpy 1 write of a thing: words are bytes, which arrays are too."""

    def word(data: bytes) -> bytes:
        if protocol == 0:
            return b"S" + repr(data)[1:].encode() + b"\n"
        return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data

    def whole(n: int) -> bytes:
        if protocol == 0:
            return b"I%d\n" % n
        return b"K" + bytes([n]) if 0 <= n < 256 else b"J" + struct.pack("<i", n)

    def array(x) -> bytes:
        false = b"I00\n" if protocol < 2 else b"\x89"
        name = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(" + whole(0) + b"t" + word(b"b") + b"tR"
        kind = b"cnumpy\ndtype\n(" + word(x.dtype.str[1:].encode()) + whole(0) + whole(1) + b"tR"
        kind += b"(" + whole(3) + word(x.dtype.str[:1].encode()) + b"NNN" + whole(-1) + whole(-1) + whole(0) + b"tb"
        shape = b"(" + b"".join(map(whole, x.shape)) + b"t"
        return name + b"(" + whole(1) + shape + kind + false + word(x.tobytes()) + b"tb"

    def told(thing) -> bytes:
        if isinstance(thing, dict):
            return b"(d" + b"".join(told(k) + told(v) + b"s" for k, v in thing.items())
        if isinstance(thing, list):
            return b"(l" + b"".join(told(v) + b"a" for v in thing)
        if isinstance(thing, np.ndarray):
            return array(thing)
        return word(thing.encode("latin-1")) if isinstance(thing, str) else word(thing) if isinstance(
            thing, bytes) else whole(thing)  # fmt: skip

    return (b"\x80\x02" if protocol == 2 else b"") + told(thing) + b"."


def field(part, protocol=2, dump=of_python_2, first=0):
    """Two classes of three pictures 2x2, as mini-ImageNet's cache has them: the picture's first number tells which."""
    x = np.zeros((6, 2, 2, 3), np.uint8)
    x[:, 0, 1, 2] = first + np.arange(6)
    return dump({"image_data": x, "class_dict": {f"{part}b": [0, 1, 2], f"{part}a": [3, 4, 5]}}, protocol)


@pytest.mark.parametrize("protocol", range(3))
def test_pickles_of_python_2_are_read(protocol):
    things = {"x": np.arange(400, dtype=np.uint8).reshape(2, 200), "y": [1, 2]}
    things |= {"n": np.arange(3), "w": "caf\u00e9'\n\\"}
    found = Machine(of_python_2(things, protocol)).run()
    assert [name for name in things if not same(found[name], things[name])] == []


class Trap:
    def __reduce__(self):
        return (os.system, ("touch /tmp/never",))


class Plain:
    def __init__(self):
        self.x = 1


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (Trap(), r"(posix|nt)\.system"), (Plain(), r"(Plain|_reconstructor)"), (print, "print"), ({1, 2}, "set"),
        (torch.zeros(1), r"torch\._utils"), (slice(1), "slice"), (1j, "complex"), (np.zeros(2, "M8[s]"), "'M8'"),
        (np.zeros(2, [("a", "u1")]), "'V1'"), (np.random.RandomState(0), "random"), (eval, "eval"), (range(3), "range"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_by_name(thing, named, protocol, tmp_path):
    path = tmp_path / "odd.pkl"
    path.write_bytes(pickle.dumps([1, {"a": thing}], protocol))
    one_line(lambda: read_pickle(path), rf"odd.pkl is not read: it .*{named}.*could run code")


def test_what_only_looks_like_an_array_is_refused():
    whole = pickle.dumps({"x": THINGS["bytes"], "f": THINGS["fortran"]}, 2)
    for old, new in (
        (b"cnumpy\ndtype", b"cos\nsystem"), (b"X\x02\x00\x00\x00u1", b"X\x02\x00\x00\x00O8"),
        (b"K\x02K\x02K\x02", b"K\x02K\x02K\x09"),
        (b"cnumpy.core.multiarray", b"cnumpy.core.multiarrax"), (b"_reconstruct", b"__reduce_ex_"),
        (b"c_codecs\nencode", b"cbuiltins\nexec"), (b"latin1", b"rot_13"),
    ):  # fmt: skip
        changed = whole.replace(old, new) if old in whole else whole.replace(old.replace(b".core", b"._core"), new)
        assert changed != whole
        one_line(lambda changed=changed: Machine(changed).run(), "it |an array|bytes")
    one_line(lambda: Machine(b"cnumpy\nndarray\n(dS'x'\nI1\nsb.").run(), "sets the state of a _Name")
    for cut in range(0, len(whole), 7):
        one_line(lambda cut=cut: Machine(whole[:cut]).run(), "whole pickle")
    random = np.random.RandomState(0)
    for _ in range(300):  # whatever a flipped bit makes of it, it is plain data or refused
        broken = bytearray(whole)
        broken[random.randint(len(whole))] ^= 1 << random.randint(8)
        try:
            Machine(bytes(broken)).run()
        except ValueError:
            continue
        except MemoryError:
            pytest.fail("memory")


def test_mini_imagenets_pickles_are_pools(tmp_path):
    for part, first in (("train", 0), ("val", 10), ("test", 20)):
        (tmp_path / f"mini-imagenet-cache-{part}.pkl").write_bytes(field(part, 5 if part == "val" else 2,
            pickle.dumps if part == "val" else of_python_2, first))  # fmt: skip
    (tmp_path / "readme.pkl").write_text("not looked at")
    pool = T.from_pickle(tmp_path)
    parts = (pool.train, pool.val, pool.test)
    assert [part.names for part in parts] == [[f"{p}a", f"{p}b"] for p in ("train", "val", "test")]
    assert [part.split for part in parts] == ["train", "val", "test"]
    assert pool.shape == (3, 2, 2)
    task = pool.test.sample(ways=2, shots=1, queries=2, generator=torch.manual_seed(1))
    x = torch.cat([task.support.x, task.query.x], 1)[0]
    assert sorted((255 * x[:, 2, 0, 1]).round().int().tolist()) == [*range(20, 26)]
    one = T.from_pickle(tmp_path / "mini-imagenet-cache-test.pkl", split=None)
    assert one.digests() == pool.test.digests()
    (tmp_path / "mini-imagenet-cache-test.pkl").write_bytes(field("train"))
    one_line(lambda: T.from_pickle(tmp_path), "class 'traina' is in train and in test")
    (tmp_path / "mini-imagenet-cache-test.pkl").unlink()
    assert T.from_pickle(tmp_path).test.names == ["traina", "trainb"]


def test_cifar_fs_and_fc100_are_pools(tmp_path):
    for part, first in (("train", 0), ("val", 3), ("test", 6)):
        x = np.full((9, 32, 32, 3), first, np.uint8)
        held = {"data": x, "labels": [first + i % 3 for i in range(9)]}
        (tmp_path / f"CIFAR_FS_{part}.pickle").write_bytes(of_python_2(held, 2))
    pool = T.from_pickle(tmp_path)
    names = [part.names for part in (pool.train, pool.val, pool.test)]
    assert names == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"]]
    assert (pool.shape, pool.train.counts.tolist()) == ((3, 32, 32), [3, 3, 3])
    path = tmp_path / "FC100_train.pickle"
    words = {"cat": 0, "dog": 1, "elk": 2}
    path.write_bytes(pickle.dumps({"data": x, "labels": [0, 1, 2] * 3, "catname2label": words}))
    assert T.from_pickle(path, split={"train": ["cat"], "test": ["elk"]}).test.names == ["elk"]


@pytest.mark.parametrize("by", [of_python_2, pickle.dumps])
def test_tiered_imagenets_pngs_are_pools(tmp_path, own_cache, by):
    def png(red):
        data = BytesIO()
        Image.new("RGB", (5, 4), (red, 0, 7)).save(data, "PNG")
        return np.frombuffer(data.getvalue(), np.uint8)[:, None]

    for part, first in (("train", 0), ("test", 100)):
        (tmp_path / f"{part}_images_png.pkl").write_bytes(by([png(first + i) for i in range(6)], 2))
        labels = {"label_specific": [i // 3 for i in range(6)], "label_general": [0] * 6}
        (tmp_path / f"{part}_labels.pkl").write_bytes(by(labels, 2))
    pool = T.from_pickle(tmp_path)
    assert [part.names for part in (pool.train, pool.test)] == [["0", "1"]] * 2  # numbered anew in each
    assert pool.shape == (3, 4, 5)
    assert pool.test.images[:, 2, 0, 0].tolist() == [100 + i for i in range(6)]  # cv2 gives blue first
    assert (pool.test.images[:, 0] == 7).all()
    (tmp_path / "test_labels.pkl").unlink()
    one_line(lambda: T.from_pickle(tmp_path), "their labels belong beside it, in test_labels.pkl")


@pytest.mark.parametrize(
    ("held", "match"),
    [
        ({"a": 1}, "holds keys 'a', expected"), ([1, 2], "holds a list, expected"), (3, "holds a int"),
        ({"data": [1], "labels": [0]}, "no array of numbers"),
        ({"data": np.zeros((2, 3)), "labels": [1]}, "2 examples and 1"),
        ({"image_data": np.zeros((2, 3)), "class_dict": {"a": [5]}}, "class 'a' has an example that is not there"),
        ({"image_data": np.zeros((2, 3)), "class_dict": {"a": "x"}}, "told as none are"),
        ({"image_data": None, "class_dict": {"a": [0]}}, "no array of numbers"),
        ({"image_data": np.zeros((2, 3)), "class_dict": {"a": [0, 1], "b": [1]}}, "class 'b' is told twice"),
        ({"data": np.full((2, 3), np.nan), "labels": [0, 1]}, "not finite"),
    ],
)  # fmt: skip
def test_pickles_of_other_forms_are_told(tmp_path, held, match):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(held))
    one_line(lambda: T.from_pickle(tmp_path / "x.pkl"), match)
    one_line(lambda: T.from_pickle(tmp_path), "no .pkl/.pickle/.p files for train and test")
    one_line(lambda: T.from_pickle(tmp_path / "none"), "no such file")
    (tmp_path / "x.pkl").write_bytes(b"")
    one_line(lambda: T.from_pickle(tmp_path / "x.pkl"), "cannot be read: it is empty")


# ---- lists of pictures


def test_a_csv_lists_pictures_their_labels_and_splits(tmp_path, own_cache):
    lines = ["file,Label,split"]
    for k, name in enumerate(("Cat", "cat", "../up", "a,b", "é", "x")):
        for i in range(2):
            paint(tmp_path / "p" / f"{k}-{i}.png", (40 * k, i, 0))
            part = ("train", "train", "val", "val", "test", "test")[k]
            lines.append(f'p/{k}-{i}.png,"{name}",{part}')
    path = tmp_path / "list.csv"
    path.write_text("\n".join(lines), "utf-8")
    pool = T.listed(path, channels=3, size=4)
    assert [part.names for part in (pool.train, pool.val, pool.test)] == [["Cat", "cat"], ["../up", "a,b"], ["x", "é"]]
    assert T.own(path, channels=3, size=4).test.digests() == pool.test.digests()
    assert T.listed(path, split=None, channels=3, size=4).classes == 6
    x = pool.test.sample(ways=2, shots=1, queries=1).query.x
    assert {round(255 * v) for v in x[0, :, 0, 0, 0].tolist()} == {160, 200}
    (tmp_path / "p" / "0-0.png").unlink()
    one_line(lambda: T.listed(path), "1 of 12 pictures are not there, the first .*0-0.png. Say where .* by root=")
    path.write_text("file,kind\na,b\n")
    one_line(lambda: T.listed(path), "no column of labels called label, class.* There are 'file', 'kind'. Name it by")
    one_line(lambda: T.listed(path, label="sort"), "no column of labels 'sort'")
    path.write_text("file,label,split\np/1-0.png,a,train\np/1-1.png,a,test\n")
    one_line(lambda: T.listed(path), "class 'a' is in train and test")


def test_parquet_without_its_extra_says_so(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    one_line(lambda: T.table(path), r"Parquet files need pyarrow: pip install 'metaloop\[parquet\]', or save it as CSV")


def test_parquet_is_read_by_pyarrow(tmp_path):
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [1.0, 2.0, None, 4.0], "label": ["x", "x", "y", "y"]}), path)
    with pytest.warns(UserWarning, match=r"values are missing in a \(1\)"):
        assert T.table(path, split=None).shape == (2,)
    pq.write_table(pa.table({"a": [[1.0, 2.0], [3.0]], "label": ["x", "y"]}), path)
    one_line(lambda: T.table(path, split=None), "column 'a' holds lists or tables. `tasks.arrays` takes vectors")
    path.write_bytes(b"PAR1")
    one_line(lambda: T.table(path), "it is damaged")


# ---- tables


def test_a_table_has_numbers_categories_and_missing_values(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("age;town;kind;split\n1;b;x;train\n3;a;x;train\n?;b;y;train\n5;NA;y;train\n9;c;none;test\n7;c;;test\n")
    with pytest.warns(UserWarning, match="^table") as caught:
        pool = T.table(path, label="kind", standardize=False)
    said = [str(w.message).partition(": ")[2] for w in caught]
    assert said == ["1 of 6 rows lack 'kind', and are left out.",
                    "values are missing in age (1), town (1); a feature for each says where."]  # fmt: skip
    assert (pool.train.names, pool.test.names, pool.val.names) == (["x", "y"], ["none"], [])
    # age, age is missing, town a, b, c, town is missing; what is missing of age is the mean of the training part
    want = [[1, 0, 0, 1, 0, 0], [3, 0, 1, 0, 0, 0], [3, 1, 0, 1, 0, 0], [5, 0, 0, 0, 0, 1], [9, 0, 0, 0, 1, 0]]
    assert pool.train.images.tolist() == want  # those of all parts
    with pytest.warns(UserWarning, match="^table"):
        age = T.table(path, label="kind").train.images[:, 0]
    assert age[:4].mean().abs() < 1e-6
    assert age[:4].std(correction=0) == pytest.approx(1)
    assert age[4] == pytest.approx((9 - 3) / np.std([1, 3, 3, 5]))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no rows"), ("a,label\n", "no rows"), ("a,label\n1\n", "row 1 has 1 cells, there are 2 columns"),
        ("a,a,label\n1,2,3\n", "two columns are called 'a'"), ("a,b\n1,2\n", "no column of labels"),
        ("label\nx\ny\n", "no column beside 'label'"), ('a,label\n"1,x\n', "it is damaged"),
        ("a,label\n1,\n", "every row"),
        ("a,label\n1e300,x\n3e300,x\n" + "".join(f"2e300,{k}\n" for k in "yzuvw"), "too large"),
        ("a;label\n0,5;x\n1,5;x\n" + "".join(f"2,5;{k}\n" for k in "yzuvw"), "column 'a' holds numbers such as '0,5'"),
        ("a;label\n1 234;x\n7;x\n" + "".join(f"8;{k}\n" for k in "yzuvw"), "such as '1 234'"),
        ("a,label\ninf,x\n1,y\n2,z\n1,u\n2,v\n1,w\n", "infinite"), ("a,label\n1,x\n2,y\n", "2 classes are too few"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_told(tmp_path, text, match):
    path = tmp_path / "t.csv"
    path.write_text(text)
    one_line(lambda: T.table(path), match)
    path.write_bytes(b"a,label\n\xff,1\n")
    one_line(lambda: T.table(path), "no text in UTF-8")


@pytest.mark.data
def test_pmlbs_tables_are_pools(tmp_path):
    text = gzip.decompress((data_root() / "pmlb" / "datasets" / "penguins" / "penguins.tsv.gz").read_bytes())
    (tmp_path / "penguins.tsv").write_bytes(text)
    with pytest.warns(UserWarning, match=r"values are missing in bill_length_mm \(2\), .*, sex \(11\)"):
        pool = T.own(tmp_path / "penguins.tsv", split=None)
    assert pool.classes == 3
    assert pool.sample(tasks=2, ways=3, shots=5, queries=5).query.x.isfinite().all()


# ---- texts


def test_texts_lie_in_folders_or_in_a_column(tmp_path):
    said = {"greet": ["hello there", "good morning"], "part": ["good bye", "so long\nfriend"]}
    lines = ["text,label"]
    for name, each in said.items():
        (tmp_path / "t" / name).mkdir(parents=True)
        for i, words in enumerate(each):
            (tmp_path / "t" / name / f"{i}.txt").write_text(words)
            lines.append(f'"{words}",{name}')
    (tmp_path / "t.csv").write_text("\n".join(lines))
    pools = [T.own(tmp_path / name, split=None) for name in ("t", "t.csv")]
    assert pools[0].digests() == pools[1].digests()
    assert (pools[0].names, pools[0].shape) == (["greet", "part"], (1024,))
    assert torch.allclose(pools[0].images.norm(dim=1), torch.ones(4))
    lengths = T.texts(tmp_path / "t", features=lambda texts: np.array([[len(t)] for t in texts]), split=None)
    assert lengths.images.flatten().tolist() == [len(t) for each in said.values() for t in each]
    (tmp_path / "t" / "empty").mkdir()
    one_line(lambda: T.texts(tmp_path / "t"), "class 'empty' has no text file")
    (tmp_path / "t" / "empty").rmdir()
    (tmp_path / "t" / "greet" / "0.txt").write_bytes(b"\xff\xfe")
    one_line(lambda: T.texts(tmp_path / "t"), "0.txt is no text")
    one_line(lambda: T.texts(tmp_path / "t" / "greet"), "one sub-folder of text files per class")
    one_line(lambda: T.own(tmp_path / "t" / "greet" / "0.txt"), "is no data: expected a folder, or a file .csv")


@pytest.mark.data
def test_banking77_is_a_pool_of_texts():
    pool = T.own(data_root() / "banking77" / "test.csv")
    assert [part.classes for part in (pool.train, pool.val, pool.test)] == [47, 15, 15]
    assert (pool.train.counts == 40).all()


# ---- torch Datasets


def test_any_dataset_with_labels_is_a_pool():
    x = torch.arange(12.0).view(6, 2)
    pool = T.dataset(torch.utils.data.TensorDataset(x, torch.tensor([2, 0, 2, 0, 1, 1])), split=None)
    assert (pool.names, pool.name, pool.counts.tolist()) == (["0", "1", "2"], "TensorDataset", [2, 2, 2])
    assert pool.images[pool.rows[:2]].tolist() == [[2, 3], [6, 7]]

    class Photos(list):
        """As torchvision's give them."""

    photos = Photos((Image.new("RGB", (3, 2), (k, 1, 2)), f"c{k % 2}") for k in range(4))
    assert T.dataset(photos, split=None).images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert T.dataset(photos, split=None).shape == (3, 2, 3)
    deep = [(Image.new("I;16", (3, 2), 257 * 100), k % 2) for k in range(4)]  # to 65535
    assert T.dataset(deep, split=None).images.unique().tolist() == [100]
    clear = [(Image.new("RGBA", (3, 2), (0, 0, 0, 0)), k % 2) for k in range(4)]  # laid on white, as from a file
    assert T.dataset(clear, split=None).images.unique().tolist() == [255]
    one_line(lambda: T.dataset(iter([])), "it has no length")
    one_line(lambda: T.dataset([("a", 0)]), "example 0 is a str, expected a tensor, an array or a picture")
    one_line(lambda: T.dataset([(x[0], torch.eye(3)[0])]), "the label of item 0 is of 3 numbers")
    one_line(lambda: T.dataset(torch.utils.data.DataLoader([1, 2])), "gives no item by its number")
    one_line(lambda: T.dataset([1]), "item 0 is a int, expected")
    one_line(lambda: T.dataset([]), "it is empty")
    one_line(lambda: T.dataset([(x[0], 0), (x[:, 0], 1)]), "example 1 is of 6, the first of 2. Resize them")


# ---- uneven tasks


def test_every_class_of_every_task_has_a_number_of_its_own():
    x, y = marked(classes=6, each=8)
    pool = T.arrays(x, y, split=None)
    task = pool.sample(tasks=400, ways=3, shots=(1, 4), queries=(2, 3), generator=torch.manual_seed(0))
    for (xs, ys), (low, high) in zip(task, ((1, 4), (2, 3)), strict=True):
        assert ys.shape == (400, 3 * high)
        assert (ys.diff(dim=1)[ys[:, :-1] == -1] == 0).all()  # what is no example is last
        assert (xs[ys == -1] == 0).all()
        counts = torch.stack([(ys == k).sum(1) for k in range(3)], 1)
        seen = counts.unique(return_counts=True)
        assert seen[0].tolist() == [*range(low, high + 1)]
        assert (seen[1] / 1200 - 1 / (high - low + 1)).abs().max() < 0.06  # four deviations
        assert abs(torch.corrcoef(counts.T.float())[0, 1]) < 0.2
        assert all(len(row[:, 1][k >= 0].unique()) == (k >= 0).sum() for row, k in zip(xs, ys, strict=True))
    both = [torch.cat([s[k >= 0], q[m >= 0]])[:, 1] for s, k, q, m in zip(*task.support, *task.query, strict=True)]
    assert all(len(row.unique()) == len(row) for row in both)
    even = [pool.sample(tasks=5, ways=3, shots=n, queries=m, generator=torch.manual_seed(0))
            for n, m in ((2, 3), ((2, 2), (3, 3)))]  # fmt: skip
    assert torch.equal(even[0].query.x, even[1].query.x)
    one_line(lambda: pool.sample(shots=(3, 1)), r"shots=\(3, 1\)\): expected a whole number, or two, the smaller first")
    one_line(lambda: pool.sample(shots=(0, 1)), "the smaller first")
    one_line(lambda: pool.sample(ways=3, shots=(1, 6), queries=3), "shots \\+ queries = 9 examples")
    one_line(lambda: T.gaussians().sample(shots=(1, 5)), r"shots=\(1, 5\)")


def each_alone(tasks):
    """The tasks of a batch one by one, without what is no example."""
    for i in range(len(tasks.support.x)):
        yield Task(*(part._replace(x=part.x[i][part.y[i] >= 0], y=part.y[i][part.y[i] >= 0]) for part in tasks))


def thinned(tasks, seed=0):
    """A batch of even tasks, each with some of its examples turned into what is none."""
    g = torch.Generator().manual_seed(seed)

    def cut(data):
        n = data.y.shape[1] - torch.randint(0, data.y.shape[1] // 3 + 1, (len(data.y), 1), generator=g)
        out = torch.arange(data.y.shape[1]) >= n
        return data._replace(x=data.x.masked_fill(out.view(*out.shape, *[1] * (data.x.dim() - 2)), 1e6),
                             y=data.y.masked_fill(out, -1))  # fmt: skip

    return Task(*map(cut, tasks))


UNEVEN = [
    "protonet", "protonet-conv4-transductive", "protonet-conv4-support", "protonet-conv4-running",
    "protonet-conv4-group", "protonet-conv4-layer", "protonet-conv4-instance", "maml-conv4-support",
    "maml-conv4-transductive", "anil", "matching", "relation", "snail", "reptile",
]  # fmt: skip


@pytest.mark.parametrize("name", [n for n in UNEVEN if n in ZOO])
def test_uneven_tasks_are_what_each_is_alone(name):
    case = ZOO[name]
    learner, theta, tasks = case.learner, case.theta(), thinned(case.batch(5))
    grads, loss, info = meta_gradient(learner, uneven=True)(theta, tasks)
    alone = [meta_gradient(learner, chunk=1)(theta, Task(*(type(part)(*(t[None] for t in part)) for part in task)))
             for task in each_alone(tasks)]  # fmt: skip
    mean = pytree.tree_map(lambda *t: torch.stack(t).mean(0), *alone)
    torch.testing.assert_close((grads, loss, info), mean, rtol=1e-9, atol=1e-12)


def test_uneven_tasks_train_score_and_go_on(tmp_path, quick):
    x, y = marked(classes=12, each=9)
    x = x + np.random.RandomState(0).randn(*x.shape) * 0.1
    pool = T.arrays(x / 10, y)
    net, init = ml.functional(ml.nn.mlp((2, 8, 4)))
    learner = ml.protonet(net, init, ways=2)
    how = {"ways": 2, "shots": (1, 3), "queries": (2, 4)}
    quiet = {**how, "tasks": 5, "device": "cpu", "progress": False}
    fit = lambda steps, out, **more: ml.fit(learner, pool, steps=steps, **quiet, out=tmp_path / out, **more)
    whole, half = fit(6, "whole"), fit(3, "half")
    assert half.step == 3
    again = fit(6, "half", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.theta.values(), again.theta.values(), strict=True))
    other = {"ways": 2, "queries": 3, "out": tmp_path / "half", "resume": True, "progress": False}
    one_line(lambda: ml.fit(learner, pool, steps=6, tasks=5, **other), "was started with (shots|queries|first)")
    score = ml.evaluate(learner, whole.theta, pool, tasks=60, split="train", **how)
    assert len(score.per_task) == 60
    drawn = pool.train.sample(tasks=50, **how, generator=generator(0, "test", 0))
    right = lambda t: learner.adapt(whole.theta, t.support)(t.query.x).argmax(-1) == t.query.y
    ours = [right(task).float().mean() for task in each_alone(drawn)]
    torch.testing.assert_close(score.per_task[:50], torch.stack(ours))
    one_line(lambda: fit(6, "c", compile=True), "uneven tasks are of many sizes, which compile and capture cannot take")
    one_line(lambda: meta_gradient(learner)(whole.theta, drawn), "y is from -1")


# ---- episodes


@pytest.mark.parametrize("shots", [2, (1, 3)])
def test_two_people_score_the_same_tasks(tmp_path, shots):
    x, y = marked(classes=10, each=6)
    pool, path = T.arrays(x / 10, y), tmp_path / "tasks.json"
    how = {"ways": 2, "shots": shots, "queries": 2}
    write_episodes(path, pool, tasks=70, **how, split="train", seed=3)
    order = np.random.RandomState(1).permutation(len(x))
    order = order[np.argsort(order, kind="stable")]  # within a class the same order; classes in another
    theirs = T.arrays(x[order] / 10, y[order], split=None)
    fixed = read_episodes(path, theirs)
    assert (fixed.tasks, fixed.train, fixed.test) == (70, fixed, fixed)
    drawn = pool.train.sample(tasks=50, **how, generator=generator(3, "test", 0))
    same = fixed.sample(tasks=50, **how)
    torch.testing.assert_close(same, Task(*(type(part)(*(t[:, : s.shape[1]] for t, s in zip(part, those, strict=True)))
                                            for part, those in zip(drawn, same, strict=True))))  # fmt: skip
    net, init = ml.functional(ml.nn.mlp((2, 4)))
    learner = ml.protonet(net, init, ways=2)
    score = lambda pool, **more: ml.evaluate(learner, init(0), pool, **how, **more).per_task
    assert torch.equal(score(fixed), score(pool, tasks=70, seed=3, split="train"))
    assert len(score(fixed, tasks=60)) == 60
    one_line(lambda: fixed.sample(ways=3), "has 70 fixed tasks. Ask for ways=2, shots=")
    lost = int(np.flatnonzero(y == pool.train.names[0])[0])
    fewer = T.arrays(np.delete(x, lost, 0), np.delete(y, lost), split=None)
    one_line(lambda: read_episodes(path, fewer), "with 6 examples of class 'c.'; arrays has 5")
    one_line(lambda: read_episodes(path, pool), "arrays has no such class")
    with pytest.warns(UserWarning, match="the examples of 6 classes .* are other ones"):
        read_episodes(path, T.arrays(x, y, split=None))
    one_line(lambda: read_episodes(path, T.gaussians()), "no pool of listed examples")


def test_episodes_of_turned_classes_and_damaged_files(tmp_path):
    path = tmp_path / "tasks.json"
    images = torch.arange(4 * 12, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    pool = T.ClassPool(images, torch.tensor([5, 3, 4]), ["a", "b", "c"], name="turned", turns=4)
    write_episodes(path, pool, tasks=9, ways=2, shots=1, queries=2)
    drawn = pool.sample(tasks=50, ways=2, shots=1, queries=2, generator=generator(0, "test", 0))
    torch.testing.assert_close(read_episodes(path, pool).at(0, 9), pytree.tree_map(lambda t: t[:9], drawn))
    told = json.loads(path.read_text())
    for change, match in (
        ({"tasks": [[[[0, 7, 0]], [[0, 0, 0]]]]}, "names an example that is not there"), ({"tasks": []}, "is damaged"),
        ({"tasks": [[[[0, 0, 99]], [[0, 0, 0]]]]}, "is damaged"), ({"tasks": [[[[0, 0]], [[0, 0, 0]]]]}, "is damaged"),
        ({"ways": "x"}, "'ways' is 'x', expected a whole number"), ({"ways": [2]}, "'ways' is 'list'"),
        ({"shots": [1]}, "'shots' is"), ({"classes": [1]}, r"'classes\[0\]' is '1', expected a list"),
        ({"episodes": 2}, "later version"),
    ):
        path.write_text(json.dumps({**told, **change}))
        one_line(lambda: read_episodes(path, pool), match)
    path.write_text("{")
    one_line(lambda: read_episodes(path, pool), "tasks.json")


def test_the_command_line_takes_data_by_path_and_tasks_by_file(tmp_path, own_cache, quick, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = ["file,label"]
    for k in range(30):
        Image.new("L", (28, 28), 8 * k).save(f"{k}.png")
        lines += [f"{k}.png,c{k}"] * 16
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    run = lambda line: (main(line.split()), *capsys.readouterr())
    status, out, err = run("episodes mine.csv -o tasks.json --ways 2 --shots 1-2 --queries 2 --tasks 6")
    assert (status, out) == (0, "tasks.json: 6 tasks of mine\n"), err
    status, out, err = run("train protonet-glyphs --data mine.csv --budget smoke --tasks 2 --out run")
    assert status == 0, err
    status, out, err = run("evaluate run --episodes tasks.json --tasks 4")
    assert status == 0, err
    assert out.splitlines()[1].split()[:3] == ["2-way", "1-2-shot", "accuracy"]
    (entry,) = [e for e in json.loads((tmp_path / "run" / "evaluation.json").read_text()) if e["ways"] == 2]
    assert (entry["shots"], entry["queries"], entry["tasks"]) == ([1, 2], 2, 4)
    assert entry["data"].startswith("mine.csv, tasks.json ")
    assert [e.tasks for e in kept(tmp_path / "run")] == [2, 4]  # read again
    for seed in range(4):  # whatever the first of the tasks looks like
        run(f"episodes mine.csv -o more.json --ways 2 --shots 1-3 --queries 1-2 --tasks 2 --seed {seed}")
        status, out, err = run("evaluate run --episodes more.json")
        assert status == 0, err
        assert "testing 2-way 1-3-shot on 2 tasks" in err
    assert "Leave these options" in run("evaluate run --episodes tasks.json --ways 3")[2]
    assert run("episodes mine.csv -o t.json --ways 9")[0] == 2
    before = (tmp_path / "mine.csv").read_bytes()
    assert "mine.csv is there and holds no episodes, so it is kept" in run("episodes mine.csv -o mine.csv --ways 2")[2]
    assert (tmp_path / "mine.csv").read_bytes() == before
    assert run("episodes nowhere.csv -o t.json")[2] == (
        f"metaloop: there is no data set, folder or file 'nowhere.csv'. Data sets: {', '.join(POOLS)}.\n")


def test_a_file_of_no_size_is_not_opened_to_see_whether_it_is_a_picture(tmp_path, monkeypatch):
    """Some that a system makes up have none, and wait for whoever reads them."""
    opened, look = [], reading.Image.open
    monkeypatch.setattr(reading.Image, "open", lambda path: opened.append(path.name) or look(path))
    (tmp_path / "nothing").touch()
    Image.new("L", (4, 4)).save(tmp_path / "unnamed", "PNG")
    assert [p.name for p in reading.images_in(tmp_path, nested=False)] == ["unnamed"]
    assert opened == ["unnamed"]
