"""What a run keeps is one writer's, is that of the same training, and is refused in one line where it is damaged."""

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from mutations import Bug
from PIL import Image
from tiny import files, image_folder, make_run
from torch import nn

import metaloop as ml
from metaloop.cli import main
from metaloop.engine import checkpoint, identity
from metaloop.engine import lock as locks
from metaloop.engine.interrupt import Interrupt
from metaloop.engine.lock import Lock
from metaloop.engine.log import read_metrics
from metaloop.engine.run import checkpoints, undo
from metaloop.engine.schema import conform, parse
from metaloop.optim import Learned
from metaloop.recipes.stored import load_predictor, open_run
from metaloop.torch_private import pytree

net, init = ml.functional(ml.nn.mlp((4, 6, 3)))
here = {"device": "cpu", "progress": False}
adam = lambda lr: lambda p: torch.optim.Adam(p, lr=lr)


def train(out, *, learner=None, pool=None, steps=4, **options):
    options = {"tasks": 2, "ways": 3, "queries": 2, "checkpoint_every": 2, "optimizer": adam(0.01), **options}
    learner, pool = learner or ml.maml(net, init, inner_lr=0.1), pool or ml.tasks.gaussians(dim=4)
    return ml.fit(learner, pool, steps=steps, out=out, **options, **here)


def same(a, b) -> bool:
    return all(map(torch.equal, pytree.tree_leaves(a), pytree.tree_leaves(b)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four steps."""
    return train(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def cut(whole, tmp_path):
    """The same, as if killed after two."""
    shutil.copytree(whole.folder, tmp_path / "run")
    checkpoints(tmp_path / "run")[-1].unlink()
    return tmp_path / "run"


def rewrite(path: Path, change) -> None:
    """Change a file's tensors and meta."""
    tensors, meta = checkpoint.read(path)
    change(tensors, meta)
    checkpoint.write(path, tensors, meta)


# One writer

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(ml.__file__).parent.parent)}
HOLD = "import sys, time; from pathlib import Path; from metaloop.engine.lock import Lock\nlock = Lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"  # noqa: E501


def holder(folder: Path) -> subprocess.Popen:
    """Another process, of the same package, that holds the folder's lock."""
    command = [sys.executable, "-P", "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_that_another_process_writes_to_is_refused_until_it_dies(cut, capsys):
    before, process = files(cut), holder(cut)
    try:
        with pytest.raises(ValueError, match=f"is in use by process {process.pid}: two cannot write to one run"):
            train(cut, resume=True)
        assert {name: data for name, data in files(cut).items() if name != ".lock"} == before
    finally:
        process.kill()
        process.communicate()
    assert (cut / ".lock").exists()
    train(cut, resume=True)
    assert not (cut / ".lock").exists()


def test_a_new_run_is_not_begun_where_another_process_begins_one(tmp_path):
    process = holder(tmp_path / "run")
    try:
        words = ["train", "maml-sinusoid-5shot", "--steps", "1", "--tasks", "2", "--out", str(tmp_path / "run")]
        assert main(words) == 2
        assert {p.name for p in (tmp_path / "run").iterdir()} == {".lock"}
    finally:
        process.kill()
        process.communicate()


def test_a_run_is_undone_by_the_process_that_began_it_alone(tmp_path):
    with pytest.raises(ValueError, match="tells 2 classes apart"):
        train(tmp_path / "ours", learner=ml.protonet(net, init, ways=2))
    shutil.copytree(tmp_path / "ours", tmp_path / "theirs")
    for name in ("ours", "theirs"):
        undo(tmp_path / name)
    assert not (tmp_path / "ours").exists()
    assert (tmp_path / "theirs" / "run.json").exists()


def test_a_lock_is_let_go_whatever_happens(tmp_path):
    for wrong in ({"learner": ml.protonet(net, init, ways=2)}, {"clip": -1.0}):
        with pytest.raises(ValueError, match=r"tells 2 classes|clip"):
            train(tmp_path / "run", **wrong)
        with Lock(tmp_path / "run"), pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
            Lock(tmp_path / "run")
        shutil.rmtree(tmp_path / "run")


def test_a_child_does_not_keep_its_parent_s_lock(tmp_path):
    with Lock(tmp_path):
        if (child := os.fork()) == 0:
            time.sleep(60)
            os._exit(0)
    try:
        Lock(tmp_path).release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_where_the_system_locks_no_files_a_file_stands_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    with Lock(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()}.*delete .*lock"):
        Lock(tmp_path)
    Lock(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_entries_of_two_evaluations_at_once_are_both_kept(tmp_path):
    from metaloop.report.results import keep, kept, measure

    run = make_run(tmp_path / "run", "maml-sinusoid-5shot", budget="smoke")
    entry = measure(run, run.plan.rows[0], run.plan.pool, tasks=2, seed=0, split="test", data=None)
    for seed in (0, 1):
        keep(run.folder, [type(entry)(**{**vars(entry), "seed": seed})])
    assert [e.seed for e in kept(run.folder)] == [0, 1]
    assert not (run.folder / ".evaluation.lock").exists()


# Resuming is the same run


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"tasks": 3}, "tasks=2, now it is 3"),
        ({"shots": 2}, "shots=1, now it is 2"),
        ({"queries": 5}, "queries=2, now it is 5"),
        ({"clip": 0.1}, "clip=None, now it is 0.1"),
        ({"optimizer": adam(0.02)}, "optimizer.lr=0.01, now it is 0.02"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.01)}, "optimizer.class='Adam', now it is 'SGD'"),
        ({"schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, 2)}, "schedule.class=None, now it is 'StepLR'"),
        ({"method": "evolution"}, "method='exact', now it is 'evolution'"),
        ({"learner": ml.maml(net, init, inner_lr=0.2)}, "inner_lr=0.1, now it is 0.2"),
        ({"learner": ml.maml(net, init, inner_lr=0.1, first_order=True)}, "first_order=False, now it is True"),
        ({"learner": ml.maml(net, init, inner_lr=0.1, loss=lambda p, y: p.square().mean())}, "loss"),
        ({"learner": ml.reptile(net, init, inner_lr=0.1)}, "learner"),
        ({"pool": ml.tasks.gaussians(dim=4, noise=2.0)}, "pool.first task="),
        ({"steps": 3}, "steps=4, now it is 3"),
    ],
)
def test_what_decides_the_weights_is_compared(cut, other, named):
    before = files(cut)
    with pytest.raises(ValueError, match=f"was started with .*{named}"):
        train(cut, resume=True, **other)
    assert files(cut) == before


def test_the_same_run_goes_on_to_the_same_bits(whole, cut):
    assert same(train(cut, resume=True).theta, whole.theta)
    longer = train(cut, resume=True, steps=6)
    assert longer.step == 6


def test_activations_that_theta_does_not_show_are_compared(tmp_path):
    def learner(activation):
        return ml.protonet(*ml.functional(nn.Sequential(nn.Linear(4, 6), activation)), ways=3)

    train(tmp_path, learner=learner(nn.Tanh()), steps=2)
    with pytest.raises(ValueError, match="was started with learner"):
        train(tmp_path, learner=learner(nn.ReLU()), steps=2, resume=True)


def test_a_run_that_does_not_say_how_it_was_trained_goes_on(whole, cut):
    info = json.loads((cut / "run.json").read_text())
    for name in ("training", "where", "steps"):
        del info[name]
    (cut / "run.json").write_text(json.dumps(info))
    assert same(train(cut, resume=True).theta, whole.theta)


def test_other_circumstances_are_said(cut, capsys):
    info = json.loads((cut / "run.json").read_text())
    info["where"]["threads"] += 1
    (cut / "run.json").write_text(json.dumps(info))
    train(cut, resume=True)
    n = torch.get_num_threads()
    assert f"goes on with threads={n} ({n + 1} before)" in capsys.readouterr().err


def test_what_is_made_with_is_told():
    def f(a, *, b=2):
        return a, c, empty

    c, empty = 3.5, []
    assert identity.told(f) == {"function": "f", "b": 2, "c": 3.5}
    one, two = (identity.told(lambda x: x + 1), identity.told(lambda x: x - 1))
    assert one == identity.told(lambda x: x + 1)
    assert one != two
    assert identity.told(nn.Dropout(0.1)) != identity.told(nn.Dropout(0.2))
    assert identity.told(torch.zeros(2)) != identity.told(torch.ones(2))


first = "optimizer/0/exp_avg"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop(first), f"holds no '{first}'"),
        (lambda t, m: [t.pop(n) for n in [*t] if n.startswith("optimizer")], "holds no 'optimizer/0/"),
        (lambda t, m: t.update({first: t[first].bool()}), f"'{first}' is torch.bool"),
        (lambda t, m: t.update({first: torch.zeros(1)}), rf"'{first}' is torch.float32 of shape \(1,\)"),
        (lambda t, m: t.update({"optimizer/0/momentum": torch.zeros(1)}), "momentum', unknown here"),
        (lambda t, m: t[first].fill_(torch.inf), f"'{first}' holds numbers that are not finite"),
        (lambda t, m: m["optimizer"]["param_groups"][0].pop("lr"), "the optimizer's 'lr' is missing"),
        (lambda t, m: m["optimizer"]["param_groups"][0].update(lr="x"), "lr='x', now it is 0.01"),
        (lambda t, m: m["optimizer"]["param_groups"][0].update(betas=[0.5, 0.9]), "betas="),
        (lambda t, m: m.pop("optimizer"), "optimizer"),
        (lambda t, m: m["optimizer"].update(state=[1]), "'optimizer.state' is 'list', expected a table"),
        (lambda t, m: m.update(scheduler={"last_epoch": 3}), "was trained with a schedule"),
        (lambda t, m: t.update({"theta/head.bias": t["theta/head.bias"].bool()}), "'theta/head.bias' is torch.bool"),
    ],
)
def test_a_state_that_is_not_this_optimizer_s_is_refused_by_name(cut, change, message):
    rewrite(checkpoints(cut)[-1], change)
    with pytest.raises(ValueError, match=message):
        train(cut, resume=True)


@pytest.mark.parametrize("change", [{"step": "x"}, {"step": -5}, {"step": 3}, {"seconds": None}, {"memory": [1]}])
def test_a_checkpoint_whose_header_is_of_another_form_is_damaged(cut, change):
    rewrite(checkpoints(cut)[-1], lambda t, m: m.update(change))
    with pytest.raises(ValueError, match=r"is damaged: .* No other checkpoint is left"):
        train(cut, resume=True)


def test_schedules_are_checked_as_well(tmp_path):
    steps = lambda size: {"schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, size, 0.5)}
    train(tmp_path, steps=2, **steps(1))
    rewrite(checkpoints(tmp_path)[-1], lambda t, m: m["optimizer"]["param_groups"][0].update(lr=7.0))
    with pytest.raises(ValueError, match="the optimizer's learning rate is not its schedule's"):
        train(tmp_path, steps=2, resume=True, **steps(1))


def test_a_schedule_of_another_optimizer_is_refused():
    other = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    with pytest.raises(ValueError, match="fit: the schedule is of another optimizer"):
        train(None, schedule=lambda o: torch.optim.lr_scheduler.StepLR(other, 2))


RATES = {
    "a rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
    "a rate in double precision": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01, dtype=torch.float64)),
    "betas": lambda p: torch.optim.Adam(
        p, lr=torch.tensor(0.01), betas=(torch.tensor(0.9), torch.tensor(0.99)), foreach=False
    ),
}


@pytest.mark.parametrize("optimizer", RATES.values(), ids=RATES)
def test_rates_that_are_tensors_come_back_as_such(tmp_path, optimizer):
    whole = train(tmp_path / "whole", optimizer=optimizer, steps=6)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    checkpoints(tmp_path / "cut")[-1].unlink()
    assert same(train(tmp_path / "cut", optimizer=optimizer, steps=6, resume=True).theta, whole.theta)


class Averaging(torch.optim.Optimizer):
    """Not one of torch's: it counts in integers, and keeps its sums in double precision."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            state["n"] = state.get("n", torch.zeros((), dtype=torch.long)) + 1
            state["sum"] = state.get("sum", torch.zeros_like(p, dtype=torch.double)) + p.grad
            p.sub_(0.1 * (state["sum"] / state["n"]).to(p.dtype))


def test_states_in_a_dtype_of_their_own_come_back_to_the_bit(tmp_path):
    whole = train(tmp_path / "whole", optimizer=Averaging, steps=6)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    checkpoints(tmp_path / "cut")[-1].unlink()
    assert same(train(tmp_path / "cut", optimizer=Averaging, steps=6, resume=True).theta, whole.theta)
    ours, theirs = (checkpoint.read(checkpoints(tmp_path / name)[-1])[0] for name in ("whole", "cut"))
    assert ours["optimizer/0/n"].dtype == torch.long
    assert all(torch.equal(t, theirs[name]) for name, t in ours.items())


def test_sigterm_stops_like_ctrl_c():
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.asked
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# Files


def test_keys_that_hold_a_slash_do_not_collide(tmp_path):
    tree = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, "a%2Fb": torch.full((1,), 2.0)}
    checkpoint.write(tmp_path / "f", checkpoint.flatten(tree, "theta"), {})
    back = checkpoint.unflatten(checkpoint.read(tmp_path / "f")[0], tree, "theta", "f")
    assert same(back, tree)
    assert set(checkpoint.flatten(tree, "theta")) == {"theta/a%2Fb", "theta/a/b", "theta/a%252Fb"}
    with pytest.raises(ValueError, match="two tensors are called 'theta/1'"):
        checkpoint.flatten({1: torch.zeros(1), "1": torch.zeros(1)}, "theta")
    with pytest.raises(ValueError, match="'theta/a' is float, expected a tensor"):
        checkpoint.flatten({"a": 1.0}, "theta")


def test_what_was_written_before_keys_were_escaped_still_opens():
    tree = {"a/b": torch.ones(1), "50%": torch.zeros(2)}
    before = {"theta/a/b": tree["a/b"], "theta/50%": tree["50%"]}
    assert same(checkpoint.unflatten(before, tree, "theta", "f"), tree)


def test_weights_do_not_change_with_their_file(whole, cut):
    path = checkpoints(cut)[-1]
    tensors, _ = checkpoint.read(path)
    before = pytree.tree_map(torch.clone, tensors)
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.truncate(10)
    assert same(tensors, before)


def test_temporary_files_of_dead_processes_are_swept(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, alive = tmp_path / f".f.{process.pid}.tmp", tmp_path / f".f.{os.getppid()}.tmp"
    for path in (dead, alive, tmp_path / ".g.1.tmp"):
        path.write_bytes(b"half")
    checkpoint.write_bytes(tmp_path / "f", b"whole")
    assert {p.name for p in tmp_path.iterdir()} == {"f", alive.name, ".g.1.tmp"}


def test_damage_within_the_metrics_costs_its_line_alone(tmp_path):
    lines = [b'{"step": 1, "loss": 1.0}', b'{"step": 2, "lo', b"3", b'{"loss": 1}', b'{"step": 3, "loss": null}',
             b"\xff\xfe", b"[" * 99999, b'{"step": "4"}',
             b'{"step": 5, "loss": NaN}', b'{"step": 6, "loss": 2.0}']  # fmt: skip
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 5, 6]


def test_resumed_before_a_first_checkpoint_each_step_is_once_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path)
    for path in checkpoints(tmp_path):
        path.unlink()
    train(tmp_path, resume=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4]


def test_a_schema_says_what_is_wrong_and_where():
    for value, kind, message in (
        ({"a": [1, True]}, dict[str, list[int]], r"f is damaged: 'a\[1\]' is 'True', expected a whole number"),
        (10**30, int, "expected a whole number"),
        ("x" * 999, float | None, "it holds 'x{40}', expected a number or null"),
        ([], dict[str, int], "it holds 'list', expected a table"),
    ):
        with pytest.raises(ValueError, match=message):
            conform(value, kind, "f")
    with pytest.raises(ValueError, match=r"f cannot be read: it is no JSON \(too deep\)"):
        parse("[" * 100_000, "f")


# The command line


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on images, pictures of three classes, and a predictor of them."""
    place = tmp_path_factory.mktemp("place")
    pool = ml.tasks.folder(image_folder(place / "images", 25, 20))
    image_folder(place / "few", 3, 2, seed=1)
    make_run(place / "run", "protonet-glyphs", pool, data=str(place / "images"))
    assert main(["adapt", str(place / "run"), str(place / "few"), "-o", str(place / "f")]) == 0
    assert main(["evaluate", str(place / "run"), "--tasks", "2"]) == 0
    return place


@pytest.fixture
def call(capsys):
    def call(*words) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        status = main([str(word) for word in words])
        told = capsys.readouterr()
        return status, told.out, told.err.splitlines()

    return call


def changed(path: Path, change) -> None:
    told = json.loads(path.read_text())
    path.write_text(json.dumps(change(told) or told))


DAMAGE = {
    "run.json": [
        lambda i: i["pool"].update(shape=[1.5, 28, 28]), lambda i: i["pool"].update(shape=["1", "28", "28"]),
        lambda i: i["pool"].update(shape=[-1, 28, 28]), lambda i: i["pool"].update(classes="many"), lambda i: [i],
        lambda i: i.update(versions=None), lambda i: i["machine"].update(cores="two"), lambda i: i.update(seed="x"),
        lambda i: i.update(steps=10**40), lambda i: i.update(settings=[1]), lambda i: i.update(training=3),
    ],
    "evaluation.json": [
        lambda e: {"a": e}, lambda e: 3, lambda e: [3], lambda e: e[0].update(mean="high"),
        lambda e: e[0].update(odd=1),
        lambda e: e[0].update(machine=[]), lambda e: [{"label": "x"}],
    ],
    "report.json": [
        lambda r: [r], lambda r: {"step": 1}, lambda r: r.update(shots=[[1]]), lambda r: r.update(step="x"),
        lambda r: r["examples"][0].update(right="all"), lambda r: r.update(examples=[{"classes": 3}]),
        lambda r: r["examples"][0]["classes"][0]["support"].append('x" onload="alert(1)'),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "i"), [(name, i) for name, changes in DAMAGE.items() for i in range(len(changes))])
def test_files_of_another_form_are_one_line(call, place, tmp_path, name, i):
    shutil.copytree(place / "run", tmp_path / "run")
    changed(tmp_path / "run" / name, DAMAGE[name][i])
    status, told, lines = call("evaluate", tmp_path / "run", "--tasks", 1)
    assert (status, told, len(lines)) == (2, "", 1)
    assert name in lines[0]


@pytest.mark.parametrize("name", ["run.json", "evaluation.json", "report.json", "metrics.jsonl"])
def test_what_is_no_file_is_named_and_not_waited_for(call, place, tmp_path, name):
    shutil.copytree(place / "run", tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    os.mkfifo(tmp_path / "run" / name)
    status, told, lines = call("evaluate", tmp_path / "run", "--tasks", 1)
    assert (status, told, len(lines)) == (2, "", 1)
    assert f"{name} cannot be read: it is no file" in lines[0]


def test_predictors_of_another_form_are_one_line(call, place, tmp_path):
    for change, message in (
        (lambda p: p.update(support=[2]), "'support' is 'list', expected a whole number"),
        (lambda p: p.update(support=10**12), "'support' is 1000000000000"),
        (lambda p: p.update(support=-1), "'support' is -1"),
        (lambda p: p.update(classes="ab"), "'classes' is 'ab', expected a list"),
        (lambda p: p["classes"].__setitem__(0, 3), r"'classes[0]' is '3', expected text"),
        (lambda p: p["classes"].pop(), "has shape"),
        (lambda p: p["pool"].update(shape=["1", 2, 3]), "'pool.shape[0]' is '1'"),
        (lambda p: p["pool"].update(shape=[28, 28]), "bad: conv4: inputs have shape (28, 28)"),
        (lambda p: p["settings"].update(ways=[5]), "bad: "),
    ):
        shutil.copy(place / "f", tmp_path / "bad")
        rewrite(tmp_path / "bad", lambda t, m: change(m["predictor"]))  # noqa: B023
        status, told, lines = call("predict", tmp_path / "bad", place / "few")
        assert (status, told, len(lines)) == (2, "", 1)
        assert message in lines[0]
        assert "bad" in lines[0]


def test_a_predictor_that_is_not_finite_is_not_opened(place, tmp_path):
    shutil.copy(place / "f", tmp_path / "bad")
    rewrite(tmp_path / "bad", lambda t, m: t["f/c"].fill_(torch.nan))
    with pytest.raises(ValueError, match="bad is damaged: 'f/c' holds numbers that are not finite"):
        load_predictor(tmp_path / "bad")


def test_names_do_not_move_the_cursor(call, place, tmp_path):
    shutil.copy(place / "f", tmp_path / "odd")
    rewrite(tmp_path / "odd", lambda t, m: m["predictor"]["classes"].__setitem__(0, "\x1b[2J\n"))
    status, told, _ = call("predict", tmp_path / "odd", place / "few")
    assert status == 0
    assert "\x1b" not in told
    assert r"\x1b[2J\n" in told


def test_a_pipe_is_no_picture(call, place, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    status, _, lines = call("predict", place / "f", tmp_path / "pipe.png")
    assert status == 2
    assert "pipe.png cannot be read as an image (it is no file)" in lines[-1]


def test_scores_are_printed_where_they_cannot_be_kept(call, place, tmp_path, monkeypatch):
    shutil.copytree(place / "run", tmp_path / "run")
    real = os.open

    def read_only(path, flags, *more):
        if flags & os.O_CREAT and Path(path).is_relative_to(tmp_path):
            raise OSError(30, "Read-only file system")
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "access", lambda *_: False)
    status, told, lines = call("evaluate", tmp_path / "run", "--tasks", 2, "--seed", 5)
    assert status == 2
    assert "accuracy (%)" in told
    assert "cannot be written to: what is measured is printed" in lines[0]
    assert f"cannot write to {tmp_path / 'run'}: Read-only file system" in lines[-1]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_scores_that_there_are_outlive_what_stops_the_rest(call, place, tmp_path, monkeypatch, sign):
    from metaloop.report import results

    run, real = open_run(place / "run"), results.measure
    row = run.plan.rows[0]
    shutil.copytree(place / "run", tmp_path / "run")
    monkeypatch.setattr("metaloop.cli.evaluate.rows_asked", lambda *_: [row, row])
    calls = []

    def measure(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(sign)
        return real(*arguments, **options)

    monkeypatch.setattr(results, "measure", measure)
    status, told, _ = call("evaluate", tmp_path / "run", "--tasks", 3)
    assert status == 128 + sign
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert "accuracy (%)" in told
    assert 3 in [entry.tasks for entry in results.kept(tmp_path / "run")]


def test_scores_are_kept_where_nobody_reads_them(call, place, tmp_path, monkeypatch):
    from metaloop.report import results

    def gone(*_):
        raise BrokenPipeError

    shutil.copytree(place / "run", tmp_path / "run")
    monkeypatch.setattr("metaloop.cli.data.scores", gone)
    monkeypatch.setattr("metaloop.cli._close_stdout", lambda: None)
    assert call("evaluate", tmp_path / "run", "--tasks", 3)[0] == 0
    assert 3 in [entry.tasks for entry in results.kept(tmp_path / "run")]


def test_streams_that_take_nothing_or_not_every_sign():
    me = [sys.executable, "-m", "metaloop"]
    closed = " ".join([*me, "recipes", ">&-"])
    done = subprocess.run(closed, shell=True, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0
    assert "stdout is closed" in done.stderr
    from metaloop.cli import console

    kept, stream = sys.stdout, io.TextIOWrapper(io.BytesIO(), "ascii")
    sys.stdout = stream
    try:
        console.streams()
        console.say("1 ± 2 – ä")
        stream.flush()
    finally:
        sys.stdout = kept
    assert stream.buffer.getvalue() == b"1 +- 2 - \\xe4\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train maml-sinusoid-5shot --memory 1" + "0" * 400 + "GB", "is more than any machine has"),
        ("evaluate {run} --shots 99999999999999", "is more than any machine holds"),
        ("evaluate {run} --tasks " + "9" * 50, "is more than any machine holds"),
        ("evaluate {run} --tasks 1 --seed " + "9" * 19, "is out of range: give one of at most 18 digits"),
        ("train maml-sinusoid-5shot --budget smoke --seed -" + "9" * 5000, "is not a whole number"),
        ("evaluate {curve} --shots 2000000000 --tasks 1", "more memory than there is"),
    ],
)
def test_numbers_beyond_any_machine(call, place, words, message, tmp_path, monkeypatch):
    if "{curve}" in words:
        make_run(tmp_path / "curve", "maml-sinusoid-5shot", budget="smoke")
        lack = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        monkeypatch.setattr("metaloop.report.results.check", lambda *_: (_ for _ in ()).throw(lack))
    extra = ["--out", tmp_path / "new"] if words.startswith("train") else []
    status, told, lines = call(*words.format(run=place / "run", curve=tmp_path / "curve").split(), *extra)
    assert (status, told) == (2, "")
    assert message in lines[-1]
    assert not (tmp_path / "new").exists()


def archive(path: Path, table: bytes, compression=zipfile.ZIP_DEFLATED) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (84, 84)).save(picture, "png")
    with zipfile.ZipFile(path, "w", compression) as made:
        for part in ("train", "val", "test"):
            made.writestr(f"{part}.csv", table)
        made.writestr("images/a.png", picture.getvalue())


def patched(path: Path, offset: int, value: bytes) -> None:
    """Write over a field of each entry of an archive, in both of its headers."""
    data = bytearray(path.read_bytes())
    for sign, more in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        at = data.find(sign)
        while at >= 0:
            data[at + offset + more : at + offset + more + len(value)] = value
            at = data.find(sign, at + 4)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("what", ["encrypted", "compressed oddly", "long field", "fine but for the columns"])
def test_archives_that_cannot_be_read(what, tmp_path, monkeypatch):
    monkeypatch.setenv("METALOOP_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "mini.zip"
    archive(path, b"filename,label\n" + (b"x" * 200_000 if what == "long field" else b"a.png") + b",b\n")
    if what == "encrypted":
        patched(path, 6, struct.pack("<H", 1))
    elif what == "compressed oddly":
        patched(path, 8, struct.pack("<H", 97))
    elif what.startswith("fine"):
        archive(path, b"a,b\nc,d\n")
    with pytest.raises(ValueError, match=r"mini_imagenet: .*mini.zip is damaged \(.+\). Replace it") as refused:
        ml.tasks.mini_imagenet(tmp_path)
    assert "\n" not in str(refused.value)


def test_pages_escape_every_name(call, place, tmp_path):
    from metaloop.report.compare import write_plot

    odd = "<script>alert(1)</script>$x"
    score = ml.Score.of(torch.rand(5))
    both = {"title": odd, "head": [odd], "rows": [[odd]]}
    write_plot(tmp_path / "c.html", [odd, odd], [score, score], [None, score - score], **both)
    assert "<script" not in (tmp_path / "c.html").read_text()
    shutil.copytree(place / "run", tmp_path / "run")
    changed(tmp_path / "run" / "report.json", lambda r: r.update(label=odd))
    changed(tmp_path / "run" / "evaluation.json", lambda e: e[0].update(label=odd, data=odd, norm=odd))
    assert call("evaluate", tmp_path / "run", "--tasks", 2)[0] == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_compile_cache_that_is_half_written_is_done_without(monkeypatch, capsys):
    from metaloop.engine import threads

    calls = []

    def compile(work, **options):
        def compiled(*arguments):
            calls.append(1)
            if len(calls) == 1:
                raise OSError("x.so: file too short")
            return work(*arguments)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(threads, "compile_anew", lambda: "there")
    learner, task = ml.maml(net, init, inner_lr=0.1), ml.tasks.gaussians(dim=4).sample(tasks=4, ways=3)
    results = [ml.meta_gradient(learner, compile=c, chunk=2)(init(0), task)[0] for c in (True, False)]
    assert same(*results)
    told = capsys.readouterr().err
    assert "torch.compile failed (x.so: file too short); once more, without its cache in there" in told
    with pytest.raises(ZeroDivisionError):
        [*threads.Compiled(lambda theta, part: 1 / 0)(None, [1], spread=False)]


def test_another_compile_cache(monkeypatch, tmp_path):
    from metaloop.torch_private import compile_anew

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert compile_anew() == str(tmp_path)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] != str(tmp_path)


# A learned optimizer's state


def learned(dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Linear(3, 2).to(dtype)
    theta = ml.lstm_optimizer(ml.functional(nn.Linear(3, 2))[0], hidden=4).init(0)
    return model, Learned(model.parameters(), theta), theta


def descend(model, optimizer, factor=1.0):
    optimizer.zero_grad()
    model(torch.ones(4, 3, dtype=model.weight.dtype)).square().mean().backward()
    model.weight.grad.mul_(factor)
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_state_of_a_learned_optimizer_comes_back_to_the_bit(dtype):
    model, optimizer, theta = learned(dtype)
    descend(model, optimizer)
    again = Learned(model.parameters(), theta)
    again.load_state_dict(optimizer.state_dict())
    for p in model.parameters():
        ours, theirs = optimizer.state[p], again.state[p]
        assert all(torch.equal(t, theirs[name]) and t.dtype == theirs[name].dtype for name, t in ours.items())
        assert all(t is not theirs[name] for name, t in ours.items())


def test_foreign_states_are_refused_at_loading():
    model, optimizer, theta = learned()
    descend(model, optimizer)
    for kind in (torch.optim.Adam, torch.optim.SGD):
        other = kind(model.parameters(), lr=0.1)
        with pytest.raises(ValueError, match=r"optim.Learned: this state is of another optimizer"):
            optimizer.load_state_dict(other.state_dict())
    wider = ml.lstm_optimizer(ml.functional(nn.Linear(3, 2))[0], hidden=5).init(0)
    deeper = ml.lstm_optimizer(ml.functional(nn.Linear(3, 2))[0], hidden=4, layers=3).init(0)
    for other, message in ((wider, "h0 of parameter 0 is|c0 of parameter 0 is"), (deeper, "expected c0, c1, c2")):
        with pytest.raises(ValueError, match=message):
            Learned(model.parameters(), other).load_state_dict(optimizer.state_dict())
    state = optimizer.state_dict()
    state["state"][0]["h0"] = state["state"][0]["h0"] * torch.nan
    with pytest.raises(ValueError, match="expected finite"):
        optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match="theta holds numbers that are not finite"):
        Learned(model.parameters(), pytree.tree_map(lambda t: t * torch.nan, theta))


@pytest.mark.parametrize("factor", [torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_leaves_a_step_out(factor):
    model, optimizer, _ = learned()
    descend(model, optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    state = {name: t.clone() for name, t in optimizer.state[model.bias].items()}
    descend(model, optimizer, factor)
    assert same(before, [p.detach() for p in model.parameters()])
    assert same(state, {**optimizer.state[model.bias]})
    descend(model, optimizer)
    assert not same(before, [p.detach() for p in model.parameters()])
    assert all(p.isfinite().all() for p in model.parameters())


BUGS = [
    Bug("two processes write to one run", "engine/lock.py",
        ("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),
        "test_a_run_that_another_process_writes_to_is_refused_until_it_dies"),
    Bug("whoever is refused takes the run away", "engine/run.py",
        ("if folder.resolve() not in _made:", "if False:"),
        "test_a_run_is_undone_by_the_process_that_began_it_alone"),
    Bug("a damaged list of scores is a traceback", "report/results.py",
        (("told = conform(read_json(path), list[dict[str, Any]], str(path))", "told = read_json(path)"),
         ("return conform(told, list[Entry], str(path))", "return [Entry(**entry) for entry in told]")),
        "test_files_of_another_form_are_one_line[evaluation.json-1]"),
    Bug("a resumed run may be another", "engine/run.py",
        ("for name, was, now in differences(recorded, given):", "for name, was, now in ():"),
        "test_what_decides_the_weights_is_compared"),
    Bug("a state is brought into its parameter's dtype", "engine/restore.py",
        ("kept[key].dtype != t.dtype", "False"), "test_states_in_a_dtype_of_their_own_come_back_to_the_bit"),
    Bug("keys that hold a slash collide", "engine/checkpoint.py",
        ('return key.replace("%", "%25").replace("/", "%2F")', "return key"),
        "test_keys_that_hold_a_slash_do_not_collide"),
    Bug("a damaged line hides those after it", "engine/log.py",
        ("        with suppress(ValueError):\n", "        if True:\n"),
        "test_damage_within_the_metrics_costs_its_line_alone"),
    Bug("scores are kept before they are told", "cli/data.py",
        ("        if entries:\n            try:",
         "        if entries:\n            keep(folder, entries)\n            try:"),
        "test_scores_are_printed_where_they_cannot_be_kept"),
    Bug("SIGTERM loses what was measured", "cli/__init__.py",
        ("    signal.signal(signal.SIGTERM, end)\n", "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"),
        "test_scores_that_there_are_outlive_what_stops_the_rest[15]"),
    Bug("a learned optimizer takes an infinite step", "optim.py",
        ("if not torch.stack(ends).isfinite().all():", "if False:"),
        "test_a_gradient_that_is_not_finite_leaves_a_step_out"),
]  # fmt: skip
