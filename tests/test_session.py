"""What outer loops share: a loop written out equals `fit`, and what was stopped under an earlier version goes on."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from mutations import Bug
from test_engine import annealed
from torch import nn

from metaloop import Data, Learner, Run, Task, fit, follow_leader, functional, maml, protonet, reptile, tasks
from metaloop.engine import checkpoint
from metaloop.engine.deal import Deal
from metaloop.engine.log import read_metrics
from metaloop.engine.run import checkpoints
from metaloop.engine.session import begin
from metaloop.engine.simple import simple_fit
from metaloop.nn import conv4, mlp
from metaloop.targets import NUMBERS
from metaloop.torch_private import pytree

STOPPED = Path(__file__).parent / "fixtures" / "stopped"
EPISODE = {"ways": 3, "shots": 2, "queries": 4}
here = {"device": "cpu", "progress": False}
adam = partial(torch.optim.Adam, lr=0.01)
points, pictures = tasks.gaussians(dim=4), tasks.gaussians(dim=256)


def normed(out=None):
    """A network whose norms have statistics of the population."""
    return functional(
        nn.Sequential(nn.Unflatten(1, (1, 16, 16)), conv4((1, 16, 16), width=2, out=out, norm_policy="running"))
    )


def noisy():
    net = functional(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)))
    return maml(*net, inner_lr=0.1)


LEARNERS = {
    "protonet": (protonet(*functional(mlp((4, 8, 8))), ways=3), points, {}),
    "maml": (maml(*functional(mlp((4, 8, 3))), inner_lr=0.1, inner_steps=3), points, {"clip": 0.1}),
    "reptile": (reptile(*functional(mlp((4, 8, 3))), inner_lr=0.1, inner_steps=3), points, {}),
    "noise": (noisy(), points, {"schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5)}),
    "statistics": (protonet(*normed(), ways=3), pictures, {}),
    "statistics-maml": (maml(*normed(3), inner_lr=0.1), pictures, {}),
    "scheduled": (annealed(), points, {}),
    "many-tasks": (protonet(*functional(mlp((4, 8, 8))), ways=3), points, {"tasks": 70, "steps": 2}),
}  # fmt: skip


def same(a, b) -> bool:
    """Bit by bit."""
    return all(torch.equal(x, y) for x, y in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True))


@pytest.mark.parametrize("name", LEARNERS)
def test_the_simple_loop_is_fit_bit_by_bit(name):
    learner, pool, options = LEARNERS[name]
    options = {"steps": 5, "tasks": 4, "seed": 3, "optimizer": adam, **EPISODE, **options}
    theta = simple_fit(learner, pool, **options)
    assert same(theta, fit(learner, pool, chunk=1, **here, **options).theta)
    assert not same(theta, learner.init(3))


def test_the_simple_loop_is_sixty_lines():
    assert len(Path(simple_fit.__code__.co_filename).read_text().splitlines()) <= 60


def mine(learner, pool, *, tasks, ways, shots, queries, **training) -> Run:
    """The outer loop of the session's docstring."""
    episode = {"ways": ways, "shots": shots, "queries": queries}
    session = begin(learner, pool, tasks=tasks, **training)
    run, deal = session.run, Deal(session.pool.train, tasks, session.seed, **episode)
    with session.running():
        while run.step < session.steps:
            told = session.meta_step(deal.at(run.step)(), run.step)
            saving = session.count()
            session.kept["steps"] = run.step
            session.log.step(run.step, told)
            if saving:
                session.calibrate(**episode)
                session.save()
                session.stop()
    return run


class Stop(Exception):
    pass


class Stopping:
    """A pool that stops whoever asks it for another batch after so many."""

    def __init__(self, pool, batches, error=None):
        self.pool, self.left, self.error = pool, batches, error
        self.train, self.classes, self.name = self, pool.classes, pool.name

    def to(self, device):
        return self

    def sample(self, tasks, **episode):
        if tasks == 4:
            if not self.left:
                raise Stop
            self.left -= 1
        return self.pool.sample(tasks=tasks, **episode)


@pytest.mark.parametrize("name", ["noise", "statistics", "scheduled"])
def test_a_loop_of_ones_own_is_fit_and_survives(name, tmp_path):
    learner, pool, options = LEARNERS[name]
    options = {"steps": 7, "tasks": 4, "checkpoint_every": 2, "optimizer": adam, **EPISODE, **options, **here}
    whole = fit(learner, pool, out=tmp_path / "fit", **options)
    assert same(mine(learner, pool, out=tmp_path / "whole", **options).theta, whole.theta)
    with pytest.raises(Stop):
        mine(learner, Stopping(pool, 5), out=tmp_path / "cut", **options)
    assert checkpoint.read(checkpoints(tmp_path / "cut")[-1])[1]["steps"] == 4
    assert same(mine(learner, pool, out=tmp_path / "cut", resume=True, **options).theta, whole.theta)
    lines = [[{**line, "seconds": 0} for line in read_metrics(tmp_path / run)] for run in ("fit", "whole", "cut")]
    assert lines[0] == lines[1] == lines[2]


# What was stopped under an earlier version. The arithmetic is exact, and so the same on every machine


class Dice(tasks.Pool):
    """Whole numbers, as tasks or as rounds."""

    name, shape, classes, target, rounds, points = "dice", (2,), None, NUMBERS, 4, 24
    device = torch.device("cpu")

    def to(self, device):
        return self

    def sample(self, tasks=1, ways=1, shots=1, queries=1, generator=None):
        draw = lambda n: torch.randint(-4, 5, (tasks, n, 2), generator=generator).double()
        return Task(*(Data(draw(n), draw(n)) for n in (shots, queries)))

    def numbers(self, k):
        return torch.randint(-4, 5, (self.points + 8, 2), generator=torch.Generator().manual_seed(int(k))).double()

    def deal(self, k, index):
        x = torch.stack([self.numbers(j)[i] for j, i in zip(k, index, strict=True)])
        return Data(x, x.flip(-1))

    def held_out(self, k):
        x = self.numbers(k)[self.points :]
        return Data(x, x.flip(-1))

    def look(self, k):
        return f"die {k}"


def exact(**more):
    """Descent on (w - mean of x)^2 / 2, whose numbers are sums of a few powers of two."""

    def objective(adapt, theta, task):
        weight = theta["weight"] * torch.randint(1, 3, ()) if more else 1.0
        return weight * (theta["w"] - task.query.x.mean(0)).square().sum() / 2, {}

    extra = {"weight": torch.ones(()).double(), "mean": torch.zeros(2).double()} if more else {}
    init = lambda seed: {"w": torch.zeros(2).double(), **extra}
    return Learner(init, lambda theta, S: lambda x: x + theta["w"], objective, **more)


HALVES = {"scheduled": lambda step: {"weight": torch.tensor(0.5**step).double()},
          "statistics": lambda theta, S: {"mean": S.x.mean(0)}}  # fmt: skip
momentum = partial(torch.optim.SGD, lr=0.5, momentum=0.5)


def by_fit(pool=None, **options):
    return fit(
        exact(**HALVES), pool or Dice(), steps=7, tasks=4, ways=1, shots=4, queries=4, checkpoint_every=2,
        optimizer=momentum, schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 3, 0.5), **here, **options,
    )  # fmt: skip


def by_following(pool=None, **options):
    return follow_leader(
        exact(), pool or Dice(), updates=2, arrivals=(8, 16, 24), goal=20.0, tasks=4, shots=4, queries=4,
        checkpoint_every=2, optimizer=momentum, **here, **options,
    )  # fmt: skip


@pytest.mark.parametrize("loop", [by_fit, by_following])
def test_what_an_earlier_version_left_goes_on_to_the_same_weights(loop, tmp_path):
    shutil.copytree(STOPPED / loop.__name__, tmp_path / "old")
    whole = loop(out=tmp_path / "whole")
    old = loop(out=tmp_path / "old", resume=True)
    assert 0 < checkpoint.read(checkpoints(STOPPED / loop.__name__)[-1])[1]["step"] < old.step == whole.step
    assert same(old.theta, whole.theta)
    (ours, of_ours), (theirs, of_theirs) = (checkpoint.read(checkpoints(run.folder)[-1]) for run in (old, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(t, theirs[name]) for name, t in ours.items())
    for meta in (of_ours, of_theirs):
        del meta["seconds"], meta["memory"]
    assert of_ours == of_theirs
    assert old.info.get("rounds") == whole.info.get("rounds")


# The leader's theta is kept like that of `fit`


def test_what_is_scheduled_or_estimated_is_so_for_the_leader_too():
    """The schedule counts meta-steps; statistics are of what is in memory, and new each time that theta is judged."""
    seen = []

    def statistics(theta, S):
        seen.append(S.x.shape[0])
        return {"mean": S.x.mean(0)}

    learner = exact(scheduled=HALVES["scheduled"], statistics=statistics)
    run = follow_leader(
        learner, Dice(), updates=2, arrivals=(8, 24), tasks=4, shots=4, queries=4, optimizer=momentum, **here
    )
    assert run.theta["weight"] == 0.5 ** (2 * 8)
    assert run.theta["mean"].any()
    assert set(seen) == {4}
    first = follow_leader(
        learner, Dice(), steps=1, updates=0, arrivals=(1, 24), tasks=4, shots=4, queries=4, **here
    ).theta
    k = follow_leader(exact(), Dice(), steps=1, updates=0, arrivals=(1, 24), **here).info["rounds"][0]["round"]
    assert torch.equal(first["mean"], Dice().numbers(k)[0])  # of the one point that is there


BUGS = [
    Bug("the simple loop estimates nothing", "engine/simple.py",
        ("    calibrate(learner, theta,", "    0 and calibrate(learner, theta,"),
        "test_the_simple_loop_is_fit_bit_by_bit[statistics]"),
    Bug("what a loop remembers is not kept", "engine/session.py",
        ("**self.kept}", "}"), "test_a_loop_of_ones_own_is_fit_and_survives[noise]"),
    Bug("the leader's norms know nothing of the population", "outer/follow_leader.py",
        ("if learner.statistics is not None:", "if False:"),
        "test_what_is_scheduled_or_estimated_is_so_for_the_leader_too"),
    Bug("an old name is heard and forgotten", "engine/renamed.py",
        ("keywords[new] = keywords.pop(old)", "keywords.pop(old)"),
        "tests/test_methods.py::test_recompute_may_be_called_by_its_old_name_for_a_release[True]"),
]  # fmt: skip
