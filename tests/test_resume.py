"""Runs survive: a process that is killed, stopped or out of disk goes on to the same weights, bit by bit."""

import errno
import os
import random
import signal
from pathlib import Path

import pytest
import torch

from metaloop import NonFinite, fit, protonet
from metaloop.cli import main
from metaloop.core import Data, Task
from metaloop.engine import checkpoint
from metaloop.engine.interrupt import Interrupt
from metaloop.engine.log import read_metrics
from metaloop.engine.run import checkpoints, read_info
from metaloop.nn import functional, mlp
from metaloop.recipes import find
from metaloop.tasks import gaussians

STEPS, EVERY = 49, 9
DEAL = "metaloop.engine.deal:place"  # called as the tasks of a step are drawn
needs_forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="commands run in forks")


@pytest.fixture
def train_on(nursery):
    """`metaloop train` in a process of its own; whatever is there, it goes on from it."""
    words = ["train", "maml-sinusoid-5shot", "--steps", str(STEPS), "--checkpoint-every", str(EVERY), "--tasks", "20",
             "--device", "cpu", "--resume", "--out"]  # fmt: skip

    def train_on(out: Path, strike: tuple[str, int, str] | None = None) -> tuple[int, str]:
        return nursery.command(*words, str(out), strike=strike)

    return train_on


def reached(out: Path) -> int:
    """The last step in the log."""
    return max((line["step"] for line in read_metrics(out)), default=0)


def state(out: Path) -> dict[str, bytes]:
    """theta, the optimizer and the step of the newest checkpoint."""
    tensors, meta = checkpoint.read(checkpoints(out)[-1])
    return {name: t.numpy().tobytes() for name, t in tensors.items()} | {"step": meta["step"]}


def metrics(out: Path) -> list[dict]:
    return [{**line, "seconds": 0} for line in read_metrics(out)]


@needs_forks
def test_killed_at_any_moment_a_run_ends_in_the_same_weights(train_on, tmp_path):
    """Moments: before there is a run.json, and before a checkpoint is whole or in its place; among the steps."""
    out, unbroken, chance = tmp_path / "run", tmp_path / "unbroken", random.Random(0)
    assert train_on(unbroken)[0] == 0
    moments = [("os:replace", 1), ("os:fsync", chance.randrange(3, 6)), (DEAL, chance.randrange(2, EVERY))]
    moments += [("os:replace", chance.randrange(2, 5)), (DEAL, chance.randrange(EVERY, 2 * EVERY))]
    for function, nth in moments:
        code, told = train_on(out, (function, nth, "SIGKILL"))
        assert code == -signal.SIGKILL, told
        assert reached(out) < STEPS
    code, told = train_on(out)
    assert code == 0, told
    assert state(out) == state(unbroken)
    assert metrics(out) == metrics(unbroken)
    assert not list(out.glob(".*"))
    assert {p.name for p in out.iterdir()} >= {"evaluation.json", "report.html"}


@needs_forks
def test_ctrl_c_saves_and_says_how_to_go_on(train_on, tmp_path):
    out, unbroken = tmp_path / "run", tmp_path / "unbroken"
    assert train_on(unbroken)[0] == 0
    code, told = train_on(out, (DEAL, EVERY + 5, "SIGINT"))
    assert code == 130, told
    line = [line for line in told.splitlines() if line.startswith("metaloop: ")][-1]
    assert line.startswith("metaloop: stopped; go on with: metaloop train maml-sinusoid-5shot --steps")
    assert "Traceback" not in told
    stopped = state(out)["step"]
    assert stopped == reached(out)
    assert EVERY + 3 < stopped < EVERY + 6
    code, told = train_on(out)
    assert code == 0, told
    assert state(out) == state(unbroken)
    assert metrics(out) == metrics(unbroken)


def test_ctrl_c_waits_for_the_step_but_not_twice():
    with Interrupt() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# The same in this process, where each single moment can be tried.


class Killed(BaseException):
    pass


def train(out, *, resume=False, steps=7):
    learner = protonet(*functional(mlp((2, 8))), ways=3)
    episode = {"tasks": 2, "ways": 3, "shots": 1, "queries": 2}
    return fit(
        learner, gaussians(), steps=steps, checkpoint_every=2, validate_every=3, validation={"tasks": 2}, **episode,
        schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5), out=out, resume=resume, device="cpu",
        progress=False,
    )  # fmt: skip


def failing(monkeypatch, nth: int, error: BaseException) -> None:
    """The nth time that something is forced to disk, put in its place or removed, the error is raised instead."""
    count = iter(range(1, 10_000))

    def wrapped(real):
        def call(*arguments, **options):
            if next(count) == nth:
                raise error
            return real(*arguments, **options)

        return call

    for owner, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, wrapped(getattr(owner, name)))


@pytest.mark.parametrize("what", ["killed", "full disk"])
def test_stopped_at_any_write_a_run_ends_in_the_same_weights(what, tmp_path, monkeypatch):
    whole = train(tmp_path / "whole")
    error = Killed() if what == "killed" else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for nth in range(1, 200):
        out = tmp_path / str(nth)
        with monkeypatch.context() as patch:
            failing(patch, nth, error)
            try:
                train(out)
                break  # more moments than writes
            except (Killed, ValueError, OSError) as stopped:
                told = str(stopped)
        assert what == "killed" or "No space left on device" in told, nth
        for path in checkpoints(out):
            checkpoint.read(path)  # is whole
        train(out, resume=True)
        assert state(out) == state(whole.folder), nth
        assert metrics(out) == metrics(whole.folder), nth
        assert not list(out.glob(".*")), nth
    assert nth > 15


def test_no_room_for_the_metrics(tmp_path, monkeypatch):
    real = Path.open

    def full(self, mode="r", **options):
        return real(Path("/dev/full") if self.name == "metrics.jsonl" and "a" in mode else self, mode, **options)

    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(ValueError, match=r"cannot write to .*: No space left on device"):
            train(tmp_path / "run")
    train(tmp_path / "run", resume=True)
    assert state(tmp_path / "run") == state(train(tmp_path / "whole").folder)


def test_tensorboard_shows_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path)
    checkpoints(tmp_path)[-1].unlink()  # as if killed after step 6 was kept and step 7 logged
    train(tmp_path, resume=True)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.step for e in events.Scalars("loss")] == list(range(1, 8))
    lines = [line["loss"] for line in read_metrics(tmp_path) if "loss" in line]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(lines)


def test_what_a_killed_process_left_is_cleared(tmp_path):
    train(tmp_path, steps=3)
    (tmp_path / ".checkpoint-00000004.safetensors.123.tmp").write_bytes(b"half")
    train(tmp_path, steps=3, resume=True)
    assert not list(tmp_path.glob(".*"))


def test_checkpoints_without_their_run_json_are_not_overwritten(tmp_path):
    train(tmp_path, steps=3)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match="holds a run"):
        train(tmp_path)


def test_all_checkpoints_damaged(tmp_path, capsys):
    train(tmp_path)
    for path in checkpoints(tmp_path):
        path.write_bytes(path.read_bytes()[:-100])
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"is damaged .* No other checkpoint is left"):
        train(tmp_path, resume=True)
    assert {p.name for p in tmp_path.iterdir()} == before


class Spoilt:
    """A pool whose tasks hold NaN once meta-training has dealt `good` batches."""

    def __init__(self, pool, good: int):
        self.pool, self.good, self.dealt = pool, good, 0
        self.name, self.classes, self.train, self.val = pool.name, pool.classes, self, pool

    def to(self, device):
        return self

    def sample(self, tasks, **episode):
        task = self.pool.sample(tasks=tasks, **episode)
        self.dealt += tasks == 4
        if self.dealt <= self.good:
            return task
        spoilt = torch.arange(4).view(4, 1, 1) == 2
        return Task(Data(task.support.x.masked_fill(spoilt, torch.nan), task.support.y), task.query)


def test_data_that_turn_bad_leave_the_last_good_checkpoint(tmp_path):
    learner = protonet(*functional(mlp((2, 8))), ways=3)
    options = {"steps": 9, "tasks": 4, "ways": 3, "checkpoint_every": 2, "device": "cpu", "progress": False}
    with pytest.raises(NonFinite, match="step 6, task 2: its support set holds values that are not finite"):
        fit(learner, Spoilt(gaussians(), 5), out=tmp_path, **options)
    assert state(tmp_path)["step"] == 4


class Overflowing(torch.optim.SGD):
    """Its fourth step is too large."""

    steps = 0

    def step(self):
        super().step()
        self.steps += 1
        if self.steps == 4:
            self.param_groups[0]["params"][0].fill_(torch.inf)


def test_weights_that_overflow_are_not_kept(tmp_path):
    learner = protonet(*functional(mlp((2, 8))), ways=3)
    options = {"optimizer": Overflowing, "steps": 9, "tasks": 4, "ways": 3, "checkpoint_every": 2, "progress": False}
    with pytest.raises(NonFinite, match=r"step 4: theta/head.weight is not finite after it"):
        fit(learner, gaussians(), out=tmp_path, device="cpu", **options)
    assert state(tmp_path)["step"] == 2


def test_resuming_takes_the_options_of_the_start(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "maml-sinusoid-5shot", "--steps", "4", "--seed", "3", "--tasks", "5", "--out", out]) == 0
    done = state(Path(out))
    assert main(["train", "maml-sinusoid-5shot", "--out", out, "--resume", "--tasks", "5"]) == 0
    assert state(Path(out)) == done
    begun = (Path(out) / "run.json").read_bytes()
    for wrong, name in (
        ("--seed 4", "seed"), ("--steps 3", "steps"), ("--data sinusoid --compile", "compile"),
        ("--steps 9 --compile", "compile"),
    ):  # fmt: skip
        capsys.readouterr()
        assert main(["train", "maml-sinusoid-5shot", "--out", out, "--resume", *wrong.split()]) == 2
        told = capsys.readouterr().err
        assert f"was started with {name}=" in told
        assert told.count("\n") == 1
        assert (Path(out) / "run.json").read_bytes() == begun
    assert main(["train", "metasgd-sinusoid-5shot", "--out", out, "--resume"]) == 2
    assert "was started with recipe='maml-sinusoid-5shot'" in capsys.readouterr().err
    assert find("maml-sinusoid-5shot").data_name == "sinusoid"


def test_a_run_without_a_schedule_can_be_made_longer(tmp_path, capsys):
    """Resumed to more steps it has the weights of a run started for as many; one with a schedule is refused."""
    words = ["train", "maml-sinusoid-5shot", "--tasks", "5", "--checkpoint-every", "100"]
    assert main([*words, "--steps", "9", "--out", str(tmp_path / "unbroken")]) == 0
    for steps, more in (("4", []), ("9", ["--resume"])):
        assert main([*words, "--steps", steps, "--out", str(tmp_path / "longer"), *more]) == 0
    assert state(tmp_path / "longer") == state(tmp_path / "unbroken")
    assert read_info(tmp_path / "longer")["steps"] == 9

    words = ["train", "meta-rnn-quadratic", "--tasks", "5", "--out", str(tmp_path / "scheduled"), "--steps"]
    assert main([*words, "4"]) == 0
    assert main([*words, "9", "--resume"]) == 2
    assert "was started with steps=4, now it is 9" in capsys.readouterr().err
