"""Many processes train as one, and survive: real processes (what they do is in together.py)."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mutations import Bug
from together import QUICK, runs
from torch.testing import assert_close

import metaloop
from metaloop import fit
from metaloop.cli import main
from metaloop.engine import checkpoint
from metaloop.engine.checkpoint import flatten
from metaloop.engine.deal import Deal
from metaloop.engine.interrupt import Interrupt
from metaloop.engine.log import read_metrics
from metaloop.engine.ranks import Ranks, join
from metaloop.engine.run import checkpoints
from metaloop.engine.seeds import generator
from metaloop.tasks import gaussians

ROOT = Path(__file__).resolve().parent.parent
TOGETHER = ROOT / "tests" / "together.py"
STEPS = 60
TRAIN = [
    "train", "maml-sinusoid-5shot", "--steps", str(STEPS), "--checkpoint-every", "25", "--tasks", "5",
    "--device", "cpu", "--out",
]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available() or os.name == "nt", reason="needs gloo and signals"),
]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(metaloop.__file__).parent.parent)}


def torchrun(n: int, *arguments) -> tuple[int, str]:
    """n processes of a script; the status, and what they told."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    done = subprocess.run(
        [*launcher, *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stderr


def state(folder: Path) -> dict[str, torch.Tensor]:
    """theta, the optimizer and the step of the newest checkpoint."""
    tensors, meta = checkpoint.read(checkpoints(folder)[-1])
    return {**tensors, "step": torch.tensor(meta["step"])}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[Path, list[dict]]:
    """What together.py finds on each of three processes."""
    out = tmp_path_factory.mktemp("together")
    command = [sys.executable, str(TOGETHER), "3", str(out)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return out, [json.loads((out / f"{rank}.json").read_text()) for rank in range(3)]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, torch.Tensor]]:
    """The same runs in this process, which is alone."""
    return {name: flatten(fit(**{**QUICK, **options}).theta, "theta") for name, options in runs().items()}


def test_the_sum_over_ranks_is_the_gradient_of_all_tasks(found):
    for rank, report in enumerate(found[1]):
        assert (report["rank"], report["size"]) == (rank, len(found[1]))
        assert max(report["gradients"].values()) < 1e-13
    compared = [name for report in found[1] for name in report["gradients"]]
    assert len(set(compared)) == len(compared) > 40
    assert len({report["bits of means"] for report in found[1]}) == 1


def test_many_processes_end_in_the_weights_of_one(found, alone):
    for report in found[1]:
        for name, theta in alone.items():
            theirs = {n: torch.tensor(values, dtype=torch.float64) for n, values in report["theta"][name].items()}
            assert_close(theirs, theta, rtol=1e-12, atol=1e-14)


def test_all_ranks_hold_the_same_bits(found):
    for name in found[1][0]:
        if name.startswith("bits"):
            assert all(report[name] == found[1][0][name] for report in found[1]), name


def test_noise_is_each_rank_s_own_and_repeats(found):
    assert len({report["draw"] for report in found[1]}) == len(found[1])
    for report in found[1]:
        assert len(set(report["bits of noise"])) == 1


def test_fewer_tasks_than_ranks_are_told_once(found):
    n = len(found[1])
    assert [report["warnings"] for report in found[1]] == [
        [f"1 tasks a step cannot keep {n} processes busy."] if rank == 0 else [] for rank in range(n)
    ]


def test_the_first_rank_alone_writes(found):
    folder = found[0] / "run"
    assert [line["step"] for line in read_metrics(folder) if "loss" in line] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in read_metrics(folder) if "loss" not in line] == [3, 5]
    assert sorted(p.name for p in folder.iterdir() if "tfevents" not in p.name) == [
        "best.safetensors", "checkpoint-00000004.safetensors", "checkpoint-00000005.safetensors", "metrics.jsonl",
        "run.json",
    ]  # fmt: skip


def test_what_the_first_rank_finds_wrong_stops_all(found):
    for report in found[1]:
        assert "holds a run. Resume it" in report["again"]
        assert "was started with seed=0, now it is 1" in report["other seed"]
        assert report["resumed"] == report["bits with statistics"]


def test_a_value_that_is_not_finite_is_found_by_all(found):
    for report in found[1]:
        assert report["not finite"] == "step 3, task 1: its query set holds values that are not finite."


def test_a_cache_is_filled_once(found):
    out, reports = found
    assert (out / "first-0").read_text() == "[]"
    for rank in range(1, len(reports)):
        assert "first-0" in (out / f"first-{rank}").read_text()


# The command line, killed and stopped.


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run on two processes that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    code, told = torchrun(2, "-m", "metaloop", *TRAIN, out)
    assert code == 0, told
    assert told.count("testing 5-shot, one step") == 1
    assert (out / "report.html").exists()
    command = json.loads((out / "evaluation.json").read_text())[0]["command"]
    assert command.startswith("torchrun --nproc-per-node 2 -m metaloop train maml-sinusoid-5shot")
    assert json.loads((out / "run.json").read_text())["machine"]["processes"] == 2
    return out


def resumes_alone(folder: Path, out: Path, whole: Path) -> None:
    """One process goes on from there, to the same weights but for rounding in float32."""
    if folder.exists():
        shutil.copytree(folder, out)
    assert main([*TRAIN, str(out), "--resume"]) == 0
    assert_close(state(out), state(whole), rtol=1e-4, atol=1e-6)


def test_two_processes_end_in_the_weights_of_one(whole, tmp_path):
    resumes_alone(tmp_path / "none", tmp_path / "alone", whole)


def test_a_killed_rank_leaves_its_last_step_for_any_number_of_ranks(whole, tmp_path):
    out = tmp_path / "run"
    code, told = torchrun(2, TOGETHER, 1, 40, "KILL", *TRAIN, out)
    assert code == 1
    line = next(line for line in told.splitlines() if line.startswith("metaloop:"))
    assert "step 41: another process has died or does not answer" in line
    assert f"Step 40 is kept in {out}, for any number of processes; go on with: torchrun --nproc-per-node 2" in line
    assert line.endswith("--resume")
    assert "Signal 9 (SIGKILL)" in told
    assert state(out)["step"] == 40
    resumes_alone(out, tmp_path / "alone", whole)
    code, told = torchrun(2, "-m", "metaloop", *TRAIN, out, "--resume")
    assert code == 0, told
    assert same_bits(state(out), state(whole))
    losses = [[line["loss"] for line in read_metrics(f) if "loss" in line] for f in (out, whole)]
    assert losses[0] == losses[1]


def test_where_the_first_rank_is_killed_the_next_one_keeps_the_step(whole, tmp_path):
    out = tmp_path / "run"
    code, told = torchrun(2, TOGETHER, 0, 40, "KILL", *TRAIN, out)
    assert code == 1
    said = [line for line in told.splitlines() if line.startswith("metaloop:")]
    assert len(said) == 1
    assert f"Step 40 is kept in {out}" in said[0]
    assert state(out)["step"] == 40
    resumes_alone(out, tmp_path / "alone", whole)


def test_ctrl_c_stops_all_at_one_step(whole, tmp_path):
    out = tmp_path / "run"
    code, told = torchrun(2, TOGETHER, 1, 10, "INT", *TRAIN, out, "--checkpoint-every", "1")
    assert code == 1
    said = [line for line in told.splitlines() if line.startswith("metaloop:")]
    assert len(said) == 1
    command = r"torchrun --nproc-per-node 2 -m metaloop train .* --resume"
    assert re.fullmatch(f"metaloop: stopped; go on with: {command}", said[0])
    assert 10 < state(out)["step"] < STEPS
    resumes_alone(out, tmp_path / "alone", whole)


# What one process can show.


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_cover_the_tasks_once(size):
    for n in (1, 2, 5, 7, 12):
        shares = [Ranks(rank, size).share(n) for rank in range(size)]
        assert [task for share, weight in shares if weight for task in share] == list(range(n))
        assert all(len(share) in (max(1, n // size), n // size + 1) for share, _ in shares)
        assert [weight for _, weight in shares] == [len(share) / n if weight else 0 for share, weight in shares]


@pytest.mark.parametrize("size", [2, 3, 7])
def test_messages_add_up_to_the_mean_over_tasks(size, monkeypatch):
    sent, values = [], torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda message: sent.append(message.clone()))
    for rank in range(size):
        share, weight = Ranks(rank, size).share(5)
        mean, stop = Ranks(rank, size).mean({"a": values[share.start : share.stop].mean()}, weight, rank == 1)
        assert_close(mean["a"], sent[-1][0])
        assert stop == (rank == 1)
    assert_close(sum(sent), torch.tensor([values.mean(), 1.0], dtype=torch.float64))


def test_a_share_is_drawn_without_the_others():
    """150 tasks are three blocks. A share within a block costs that block; up to a block, all is as it always was."""
    episode, pool, sizes = {"ways": 3, "shots": 1, "queries": 1}, gaussians(), []

    class Counted:
        def sample(self, tasks, **rest):
            sizes.append(tasks)
            return pool.sample(tasks=tasks, **rest)

    draw = lambda tasks, share: Deal(Counted(), tasks, 0, **episode).at(7)(share)
    whole = draw(150, range(150))
    assert sizes == [64, 64, 22]
    for share, cost in ((range(0, 50), [64]), (range(50, 100), [64, 64]), (range(130, 140), [22]), (range(1), [64])):
        sizes.clear()
        assert torch.equal(draw(150, share).query.x, whole.query.x[share.start : share.stop])
        assert sizes == cost
    assert not torch.equal(whole.query.x[:22], whole.query.x[64:86])
    before = pool.sample(tasks=64, **episode, generator=generator(0, "train", 7))
    assert torch.equal(draw(64, range(64)).query.x, before.query.x)


def scaling_model():
    spec = importlib.util.spec_from_file_location("scaling_model", ROOT / "benchmarks" / "scaling_model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_on_scaling_is_that_of_its_file():
    model = scaling_model()
    page, kept = model.PAGE.read_text(), json.loads(model.FILE.read_text())
    assert model.filled(page, kept) == page
    assert kept["assumed"] == model.ASSUMED
    assert len(kept["measured"]) == 3


def test_the_model_of_scaling_is_the_formula_of_its_page():
    model = scaling_model()
    B = 1e9
    assert model.all_reduce(B, 1, model.ASSUMED) == 0
    assert model.all_reduce(B, 8, model.ASSUMED) == pytest.approx(2 * 7 / 8 * B / 150e9 + 2 * 3 * 5e-6)
    across = 2 * 63 / 64 * B / 8 / 20e9 + 2 * 6 * 15e-6
    assert model.all_reduce(B, 512, model.ASSUMED) == pytest.approx(2 * 7 / 8 * B / 150e9 + 2 * 3 * 5e-6 + across)
    vit = sum(p.numel() for p in model.ViT(1000).parameters())
    assert vit == 22_050_664  # as DeiT-S counts them


def test_a_process_alone_is_not_touched():
    ranks, _ = join("cpu")
    assert ranks == Ranks()
    assert ranks.share(5) == (range(5), 1)
    tree = {"a": torch.tensor([1, 2])}
    assert ranks.mean(tree, 0.1, True) == (tree, True)
    assert ranks.stream("noise") == "noise"


def test_ctrl_c_in_one_of_many_is_held_until_they_agree():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupt(many=True) as interrupt:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert interrupt.heard
        assert not interrupt.asked
        interrupt.agreed = True
        assert interrupt.asked
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


BUGS = [
    Bug("later steps deal the same tasks", "engine/deal.py",
        ('"train", step))', '"train", min(step, 5)))'), "test_a_share_is_drawn_without_the_others"),
    Bug("shares overlap", "engine/ranks.py",
        ("(self.rank + 1) * n // self.size", "-(-(self.rank + 1) * n // self.size)"),
        "test_shares_cover_the_tasks_once"),
    Bug("ranks of few tasks weigh as much as ranks of many", "engine/ranks.py",
        ("(stop - start) / n", "1 / self.size"), "test_shares_cover_the_tasks_once"),
    Bug("ranks are not weighed", "engine/ranks.py",
        ("(weight * t.detach()", "(1 / self.size * t.detach()"),
        "test_messages_add_up_to_the_mean_over_tasks"),
    Bug("a share begins with its block", "engine/deal.py",
        ("part = slice(share.start - first * BLOCK,", "part = slice(0,"), "test_a_share_is_drawn_without_the_others"),
    Bug("blocks of tasks are the same", "engine/deal.py",
        ('f"train block {block}" if block else "train"', '"train"'), "test_a_share_is_drawn_without_the_others"),
    Bug("one of many stops by itself", "engine/interrupt.py",
        ("self.agreed if self.many else self.heard", "self.heard"),
        "test_ctrl_c_in_one_of_many_is_held_until_they_agree"),
    Bug("one of many never stops again", "engine/interrupt.py",
        ("not (self.many and error)", "not self.many"), "test_ctrl_c_in_one_of_many_is_held_until_they_agree"),
]  # fmt: skip
