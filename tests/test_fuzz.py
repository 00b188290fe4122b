"""Words, files and arrays that nobody would choose: an answer or one line, and nothing lost.

A thousand inputs, the same ones each time; `make fuzz` tries ten thousand others (FUZZ=10000) and prints how to repeat
what it finds, which then stands here as an @example.
"""

import io
import json
import os
import shutil
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from mutations import Bug
from sklearn.exceptions import DataConversionWarning, NotFittedError
from tiny import files, image_folder, make_run

from metaloop import FewShotClassifier, features, functional, maml, nn, protonet, tasks
from metaloop.cli import main
from metaloop.engine.episodes import read_episodes
from metaloop.engine.run import checkpoints

MANY = int(os.environ.get("FUZZ", 0))  # inputs; 0: the suite's thousand
SAME = int(os.environ.get("FUZZ_SAME", 1000))  # fewer where a bug is planted: what stands here as an @example finds it


def tries(share: float):
    """A share of all inputs."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=round(share * (MANY or SAME)), derandomize=not MANY, database=None, deadline=None,
        print_blob=bool(MANY), suppress_health_check=slow,
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the commands run: a run on images, one on curves, predictors of both kinds, tasks, a search, pictures. No
    network, no data sets, no features of an extra."""
    place = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("METALOOP_DATA", "")
        patch.setenv("METALOOP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("urllib.request.urlopen", _no_network)
        patch.setattr(features, "present", lambda module: not module.startswith(("efficientnet", "sentence", "gt_all")))
        pool = tasks.folder(image_folder(place / "images", 10, 6))
        image_folder(place / "few", 2, 2, seed=1)
        make_run(place / "proto", "protonet-glyphs", pool, data="images", budget="smoke")
        make_run(place / "curve", "maml-sinusoid-5shot", budget="smoke")
        assert told("adapt", "proto", "few", "-o", "mine.safetensors")[0] == 0
        assert told("adapt", "few", "-o", "own.safetensors")[0] == 0
        small = ("--tasks", "2", "--ways", "2", "--queries", "1")
        assert told("episodes", "images", *small, "-o", "tasks.json")[0] == 0
        assert told(*SEARCH)[0] == 0
        assert told("evaluate", "curve", "--tasks", "1")[0] == 0
        yield place


def _no_network(*_, **__):
    raise OSError("no network")


def told(*words: str) -> tuple[int, str]:
    """A command's status and its error lines. The streams are those of a terminal: bytes, in UTF-8."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        status = main(list(words))
    except SystemExit as done:  # --help, --version
        status = done.code
    finally:
        sys.stdout, sys.stderr = before
    err.flush()
    return status, err.buffer.getvalue().decode()


def is_told_in_one_line(place: Path, *words: str) -> str:
    """The command answers, or refuses in one line and leaves everything as it was. Its last line."""
    before = files(place)
    status, lines = told(*words)
    after = files(place)
    assert status in (0, 2), lines
    assert "Traceback" not in lines
    if status == 0:
        assert set(before) <= set(after), "a file is gone"
        return ""
    line = lines.rstrip("\n").rpartition("\n")[2]
    assert line.startswith("metaloop: "), lines
    assert len(line) > len("metaloop: nan"), "a reason"
    assert after == before, (words, line, set(after) ^ set(before))
    return line


SEARCH = ("search", "maml-sinusoid-5shot", "--space", "inner_lr=0.01,0.1", "--sampler", "grid", "--trials", "2",
          "--budget", "smoke", "--steps", "1", "--validation-tasks", "2", "--tasks", "2", "--out", "found")  # fmt: skip


# ---- Command lines


def mostly(*right: str, else_: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(*[st.sampled_from(right)] * 3, else_)


NUMBERS = mostly("1", "2", "3", else_=st.sampled_from(
    ["0", "-1", "1.5", "1e3", "nan", "inf", "", " 1", "0x10", "1_0", "²", "٣", "four",
     str(2**31), str(2**63), str(2**64), "1" + "0" * 30, "9" * 5000]
))  # fmt: skip
PATHS = st.sampled_from(
    ["proto", "curve", "few", "images", "mine.safetensors", "few/class00/0.png", "few/class00", "proto/run.json", ".",
     "..", "", "nowhere", "nowhere/at/all", "/", "/dev/null", "few/class00/0.png/x", "a" * 300, "\0", "\udcff", "-",
     "~", "a\nb", "glyphs", "sinusoid", "omniglot", "proto/", "own.safetensors", "tasks.json", "found/search.journal"]
)  # fmt: skip
ODD = st.text(max_size=8)
RECIPES = st.sampled_from(["maml-sinusoid-5shot", "maml-sinusoid", "protonet-omniglot-1shot", "", "glyphs", "MAML"])
RUNS, FOLDERS = mostly("proto", "curve", else_=PATHS), mostly("few", "images", else_=PATHS)
FILES = mostly("mine.safetensors", "own.safetensors", else_=PATHS)
PICTURES = mostly("few/class00/0.png", "few", else_=PATHS)
DATA = mostly("few", "sinusoid", else_=PATHS)
DEVICES = st.sampled_from(["cpu", "auto", "cuda", "cuda:7", "mps", "meta", "cpu:0", "cpu:-1", "quantum", ""])
SIZES = st.sampled_from(["4GB", "1KB", "0", "-1GB", "GB", "1e400GB", "nanGB", "infGB", "9" * 400 + "GB", "1.5", "4 GB"])
SPLITS = st.sampled_from(["train", "val", "test", "tests", ""])
OUTPUTS = st.one_of(st.sampled_from(["new.png", "new.html", "new", "nowhere/new.html", "new.safetensors"]), PATHS)
ROOTS = st.sampled_from(["few", "nowhere", "", "\0", "few/class00/0.png"])
SPACES = mostly("inner_lr=0.01,0.1", "inner_lr=1e-3..1:log", else_=st.sampled_from(
    ["inner_lr", "inner_lr=", "inner_lr=1..0", "inner_lr=nan..1", "inner_lr=0..1:log", "inner_lr=1..2:odd", "x=1,2",
     "=", "inner_steps=1..2", "inner_steps=-1,0", "inner_steps=1.5,2", "inner_lr=1,1", "ways=2,3",
     "tasks=" + "9" * 40]
))  # fmt: skip
SHARES = mostly("0.5", else_=st.sampled_from(["0", "1", "-1", "nan", "inf", "1e-300", "", "half"]))

SHARED = {"--ways": NUMBERS, "--shots": NUMBERS, "--queries": NUMBERS, "--seed": NUMBERS, "--data": DATA,
          "--data-root": ROOTS, "--device": DEVICES}  # fmt: skip
GRAMMAR = {  # command -> its words by place, its options; None: an option without a value
    "recipes": ([], {}),
    "train": ([RECIPES], {
        "--data": DATA, "--data-root": ROOTS, "--device": DEVICES, "--seed": NUMBERS, "--out": OUTPUTS,
        "--resume": None, "--budget": st.sampled_from(["smoke", "quickly", ""]), "--checkpoint-every": NUMBERS,
        "--memory": SIZES, "--no-capture": None, "--set": SPACES, "--json": None,
    }),
    "search": ([RECIPES], {
        "--space": SPACES, "--sampler": st.sampled_from(["random", "grid", "tpe", "luck"]), "--prune": None,
        "--storage": PATHS, "--name": ODD, "--adopt": None, "--validation-tasks": NUMBERS, "--seed": NUMBERS,
        "--data": DATA, "--device": DEVICES,
    }),
    "evaluate": ([RUNS], {
        **SHARED, "--split": SPLITS, "--episodes": PATHS, "--newest": None, "--allow-seen": None, "--json": None,
    }),
    "compare": ([RUNS, RUNS], {**SHARED, "--out": OUTPUTS, "--allow-seen": None, "--json": None}),
    "episodes": ([FOLDERS], {
        "--ways": NUMBERS, "--shots": NUMBERS | st.sampled_from(["1-3", "3-1", "1-", "-", "0-2"]), "--queries": NUMBERS,
        "--seed": NUMBERS, "--split": SPLITS, "--all-classes": None, "--data-root": ROOTS,
    }),
    "adapt": ([RUNS, FOLDERS], {"-o": OUTPUTS, "--output": OUTPUTS, "--add": FOLDERS, "--run": RUNS, "--nested": None}),
    "predict": ([FILES, PICTURES], {"--json": None, "--coverage": SHARES, "--false-accept": SHARES}),
    "export": ([FILES], {"--html": None, "-o": OUTPUTS, "--onnxruntime-web": ROOTS}),
    "completion": ([st.sampled_from(["bash", "zsh", "fish", ""])], {}),
}  # fmt: skip
ENOUGH = {  # so that they are quick, and leave what is there
    "train": ["--budget", "smoke", "--steps", "1", "--out", "new"], "evaluate": [], "compare": ["--out", "new.html"],
    "adapt": ["-o", "new"], "episodes": ["-o", "new", "--ways", "2", "--queries", "1"],
    "search": ["--space", "inner_lr=0.01,0.1", "--budget", "smoke", "--steps", "1", "--trials", "1", "--out", "new",
               "--validation-tasks", "2"],
}  # fmt: skip


@st.composite
def command_lines(draw) -> list[str]:
    """A command with its words and some of its options; now and then a word left out, doubled or put in. What is right
    is small: what nobody refuses should not take long either."""
    name = draw(st.sampled_from(list(GRAMMAR)))
    places, options = GRAMMAR[name]
    words = [name, *(draw(kind) for kind in places)]
    for option in draw(st.lists(st.sampled_from(sorted(options)), max_size=3, unique=True)) if options else []:
        kind = options[option]
        value = [] if kind is None else [draw(st.one_of(kind, kind, kind, ODD))]
        words += [f"{option}={value[0]}"] if value and draw(st.booleans()) else [option, *value]
    if name in ENOUGH:
        words[2:2] = ENOUGH[name]
    if name in ("train", "evaluate", "compare", "search", "episodes"):
        words += ["--tasks", draw(st.sampled_from(["1"] * 9 + ["0", "many", "9" * 30]))]
    damage = draw(st.sampled_from(["none"] * 6 + ["drop", "double", "insert"]))
    at = draw(st.integers(0, len(words) - 1))
    if damage == "insert":
        words.insert(at, draw(st.one_of(ODD, PATHS, st.sampled_from(["--help", "--version", "--", "--wayz", "-o"]))))
    elif damage != "none":
        words[at : at + 1] = [] if damage == "drop" else [words[at]] * 2
    return words


@tries(0.5)
@example(["evaluate", "curve", "--tasks", "1", "--shots", "1" + "0" * 30])
@example(["evaluate", "curve", "--tasks", "9" * 5000])
@example(["train", "maml-sinusoid-5shot", "--budget", "smoke", "--steps", "1", "--tasks", "1", "--memory", "1e400GB"])
@example(["train", "maml-sinusoid-5shot", "--budget", "smoke", "--steps", "1", "--out", "new", "--memory", "1KB"])
@example(["evaluate", "proto", "--device", "cpu:-1", "--tasks", "1"])
@example(["evaluate", "proto", "--device", "cuda:one", "--tasks", "1"])
@example(["adapt", "proto", "few", "-o", "a" * 300])
@example(["predict", "mine.safetensors", "\0"])
@example(["predict", "mine.safetensors", "\udcff"])
@given(words=command_lines())
def test_command_lines(place, words):
    wanders = {"..", "/", "."} & {word.rpartition("=")[2] for word in words}
    assume(words[:1] != ["predict"] or not wanders)  # all pictures of the machine
    assume("--steps" not in words or "1" in words[words.index("--steps") + 1 :])  # no whole training
    try:
        is_told_in_one_line(place, *words)
    finally:
        tidy(place)


def tidy(place: Path) -> None:
    """Take away what a command made anew."""
    known = {"images", "few", "proto", "curve", "mine.safetensors", "own.safetensors", "tasks.json", "found"}
    for path in place.iterdir():
        if path.name not in known:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


# ---- Files

JSON = st.recursive(
    st.sampled_from([None, True, -1, 0, 3, 1.5, float("nan"), float("inf"), 10**30, "", "x", "<b>", "\x1b[2J", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["step", "x"]), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def other_values(draw, value):
    """JSON that was `value`, another at one place: replaced, left out, wrapped or doubled."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 3)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, new = draw(st.sampled_from(keys)), value.copy()
        how = draw(st.sampled_from(["deeper", "deeper", "deeper", "leave out"]))
        if how == "deeper":
            new[key] = draw(other_values(value[key]))
        else:
            del new[key]
        return new
    return draw(st.one_of(JSON, st.just([value]), st.just({"x": value})))


@st.composite
def other_bytes(draw, data: bytes):
    """Cut off, a few bytes changed, or something else altogether."""
    how = draw(st.sampled_from(["cut", "flip", "junk", "more"]))
    if how == "junk":
        return draw(st.binary(max_size=40) | st.just(b"\xff\xfe\x00") | JSON.map(lambda x: json.dumps(x).encode()))
    at = draw(st.integers(0, max(0, min(len(data), 4000) - 1)))
    if how == "cut":
        return data[:at]
    if how == "more":
        return data + draw(st.binary(min_size=1, max_size=9))
    return data[:at] + draw(st.binary(min_size=1, max_size=3)) + data[at + 1 :]


def safetensors(data: bytes) -> tuple[dict, dict, bytes]:
    """A file's header, the JSON within, and its numbers."""
    size = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:size])
    return header, json.loads(header["__metadata__"]["json"]), data[size:]


def together(header: dict, numbers: bytes) -> bytes:
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + numbers


@st.composite
def damaged(draw, path: Path) -> bytes:
    """What might stand in a file in the place of what is in it."""
    data = path.read_bytes()
    if draw(st.integers(0, 3)) == 0:
        return draw(other_bytes(data))
    if path.suffix == ".safetensors":
        header, meta, numbers = safetensors(data)
        if draw(st.integers(0, 3)):
            header["__metadata__"]["json"] = json.dumps(draw(other_values(meta)))
        else:
            header = draw(other_values(header))
        return together(header, numbers)
    if path.suffix in (".jsonl", ".journal"):
        lines = data.decode().splitlines()
        at = draw(st.integers(0, len(lines) - 1))
        lines[at] = json.dumps(draw(other_values(json.loads(lines[at]))))
        return ("\n".join(lines) + "\n").encode()
    return json.dumps(draw(other_values(json.loads(data)))).encode()


QUICK = ("--tasks", "1")
READERS = {  # which file, and which command reads it
    "curve/run.json": ("evaluate", "curve", *QUICK),
    "curve/evaluation.json": ("evaluate", "curve", *QUICK),
    "curve/report.json": ("evaluate", "curve", *QUICK),
    "curve/metrics.jsonl": ("evaluate", "curve", *QUICK),
    "curve/checkpoint": ("evaluate", "curve", *QUICK),
    "proto/run.json": ("adapt", "proto", "few", "-o", "new"),
    "proto/checkpoint": ("adapt", "proto", "few", "-o", "new"),
    "mine.safetensors": ("predict", "mine.safetensors", "few"),
    "own.safetensors": ("predict", "own.safetensors", "few"),
    "found/search.json": SEARCH,
    "found/search.journal": SEARCH,
}


@pytest.fixture(scope="module")
def kept(place):
    """All files, once: hypothesis holds what an example read for long."""
    return files(place)


@tries(0.2)
@given(data=st.data())
def test_damaged_files(place, kept, data):
    """The file is named, the others are as they were, and the damaged one is not lost either."""
    name = data.draw(st.sampled_from(sorted(READERS)))
    path = checkpoints(place / name.split("/")[0])[-1] if name.endswith("checkpoint") else place / name
    path.write_bytes(data.draw(damaged(path)))
    try:
        line = is_told_in_one_line(place, *READERS[name])
        assert not line or path.name in line or name.split("/")[0] in line, f"no file is named: {line}"
    finally:
        tidy(place)
        for which, content in kept.items():
            there = place / which
            if not there.is_file() or there.read_bytes() != content:
                there.write_bytes(content)


@tries(0.05)
@given(data=st.data())
def test_damaged_tasks(place, data):
    pool, path, line = tasks.folder(place / "images"), place / "other.json", ""
    path.write_bytes(data.draw(damaged(place / "tasks.json")))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # other examples than it was written for
            dealt = read_episodes(path, pool)
        assert dealt.sample(dealt.tasks, **dealt.episode).support.x.isfinite().all()
    except ValueError as error:
        line = str(error)
    finally:
        path.unlink()
    assert "\n" not in line
    assert line.startswith(str(path) if line else "")


# ---- Arrays

VALUES = st.sampled_from([0.0, 1.0, -1.0, 0.5, 255.0, 1e30, -1e30, 1e-30, float("nan"), float("inf")])
CALM = st.sampled_from([0.0, 1.0, 0.5, 2.0, -1.0])
KINDS = ["f4", "f8", "f2", "u1", "i8", "i4", "?", "c16", "U3", "O", "M8[s]", ">f8", "longdouble"]
LABELS = st.one_of(
    st.sampled_from([0, 1, 2, -1, "a", "b", "", True, None, 0.5, float("nan"), float("inf"), 10**30, b"a", "\0", 1j]),
    st.just((0, 1)), st.just([1]),
)  # fmt: skip


@st.composite
def examples(draw):
    """X: mostly n rows of two numbers; of any type, in any form."""
    others = [(3, 2), (1, 2), (0, 2), (4,), (), (4, 3), (4, 0), (4, 2, 1), (2, 2, 2)]
    shape = draw(st.sampled_from([(4, 2)] * 5 + others))
    size = int(np.prod(shape))
    values = draw(st.lists(draw(st.sampled_from([CALM, CALM, VALUES])), min_size=size, max_size=size))
    with np.errstate(all="ignore"):
        array = np.array(values, float).reshape(shape)
        kind = draw(st.sampled_from(KINDS + ["f4", "f8"] * 4))
        if kind in ("M8[s]", "u1", "i8", "i4"):
            array = np.nan_to_num(array, nan=0, posinf=1, neginf=1).clip(-1e9, 1e9).astype("i8")
        array = np.asarray(array).astype(kind)
    form = draw(st.sampled_from(["array", "array", "reversed", "fortran", "read only", "list", "tensor", "half tensor",
                                 "with gradient", "masked", "memory", "ragged", "one thing"]))  # fmt: skip
    if form == "reversed" and array.ndim:
        return array[::-1, ...] if array.ndim < 2 else array[:, ::-1]
    if form == "read only":
        array.flags.writeable = False
    if form == "fortran":
        return np.asfortranarray(array)
    if form == "list":
        return array.tolist()
    if form == "ragged":
        return [[1.0], [1.0, 2.0], [], 3.0]
    if form == "one thing":
        return draw(st.sampled_from([None, 3, "X", {}, {1: 2}, object(), b"12", [], [[]], [None], "ab"]))
    if form == "masked":
        return np.ma.masked_array(array, mask=np.zeros(array.shape, bool))
    if form == "memory" and array.dtype.kind in "fiu" and array.dtype.isnative:
        return memoryview(np.ascontiguousarray(array))
    if form in ("tensor", "half tensor", "with gradient") and array.dtype.kind in "fiub" and array.dtype.itemsize < 16:
        tensor = torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
        if form == "half tensor":
            return tensor.to(torch.bfloat16)
        return tensor.double().requires_grad_() if form == "with gradient" else tensor
    return array


@st.composite
def labels(draw):
    n = draw(st.sampled_from([4] * 6 + [3, 1, 0, 2]))
    some = draw(st.sampled_from([LABELS, st.sampled_from([0, 1]), st.sampled_from(["a", "b", "c"]), st.just(0)]))
    y = draw(st.lists(some, min_size=n, max_size=n))
    form = draw(st.sampled_from(["list", "list", "tuple", "array", "objects", "column", "tensor", "row", "one thing"]))
    try:
        if form == "array":
            return np.array(y)
        if form == "column":
            return np.array(y)[:, None]
        if form == "tensor":
            return torch.tensor(y)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        return y
    if form == "objects":
        return np.fromiter((label for label in y), object, len(y))
    if form == "one thing":
        return draw(st.sampled_from([None, 3, "abab", {}, {"a", "b"}, object(), b"abab"]))
    return tuple(y) if form == "tuple" else [y] if form == "row" else y


LEARNERS = {
    "protonet": protonet(*functional(nn.mlp((2, 4, 3))), ways=2),
    "maml": maml(*functional(nn.mlp((2, 4, 3))), inner_lr=0.1),
}


@tries(0.3)
@example(name="protonet", x=np.eye(4)[:, 1::-1], y=[0, 1, 0, 1], z=np.eye(2)[::-1])
@example(name="protonet", x=np.zeros((4, 2)), y=[0, "a", 0, "a"], z=np.zeros(2))
@example(name="maml", x=np.zeros((4, 2)), y=[[0], [1], [0], [1]], z=np.zeros((0, 2)))
@example(name="maml", x=np.zeros((4, 2)), y=[0, 1, 0, 1], z=np.zeros((1, 3)))
@example(name="maml", x=np.outer([0, -1e30, 0, 0], [1, 0]).astype("f4"), y=[0, 0, 0, 1], z=np.eye(2))
@example(name="maml", x=np.zeros((4, 2)), y=None, z=np.zeros((1, 2)))
@example(name="maml", x=np.zeros((4, 2)), y=[0, 1, 0, 1, 0], z=np.zeros((1, 2)))
@given(name=st.sampled_from(sorted(LEARNERS)), x=examples(), y=labels(), z=examples())
def test_arrays(name, x, y, z):
    """fit and predict answer, or raise ValueError or TypeError in one line; answers are of the classes, and their
    probabilities sum to 1."""
    few = FewShotClassifier(LEARNERS[name], LEARNERS[name].init(0))
    with np.errstate(all="raise", under="ignore"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DataConversionWarning)  # y of one column is taken, and told
                few.fit(x, y)
        except (ValueError, TypeError) as error:
            assert_one_line(error)
            with pytest.raises(NotFittedError):
                few.predict([[0.0, 0.0]])
            return
        assert len(x) == len(y)
        assert len(few.classes_) >= 2
        try:
            p = few.predict_proba(z)
        except (ValueError, TypeError) as error:
            assert_one_line(error)
            return
        assert p.shape[1] == len(few.classes_)
        assert np.allclose(p.sum(1), 1, atol=1e-5)
        answers = few.predict(z)
        assert answers.tolist() == few.classes_[p.argmax(1)].tolist()


def assert_one_line(error: Exception) -> None:
    assert type(error) in (ValueError, TypeError)
    assert "\n" not in str(error)
    ours = ("FewShotClassifier", "adapt", "predict", "the predictor ", "X has ")  # the last as scikit-learn asks
    assert str(error).startswith(ours), error


BUGS = [
    Bug("a refused training leaves its folder", "cli/train.py", ("undo(folder)", "pass"), "test_command_lines"),
    Bug("labels are not counted", "estimator.py", ("if len(labels) != len(examples):", "if False:"), "test_arrays"),
]  # fmt: skip
