"""What several processes do in test_distributed.py.

    together.py N OUT                       starts N ranks, in forks that need import nothing; each tries every check
                                            below, with its findings in OUT/RANK.json
    together.py RANK STEP SIGNAL COMMAND    torchrun starts it: `metaloop COMMAND`; as it draws the tasks of that step,
                                            that rank kills itself (KILL) or the user stops torchrun (INT, TERM)
"""

import hashlib
import json
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from metaloop import Learner, fit, functional, maml, meta_gradient, protonet, tasks
from metaloop.engine import deal
from metaloop.engine.checkpoint import flatten
from metaloop.engine.ranks import join
from metaloop.engine.seeds import noise
from metaloop.nn import conv4, mlp
from metaloop.testing import _StillNoise
from metaloop.torch_private import pytree

EPISODE = {"ways": 3, "shots": 2, "queries": 4}
QUICK = {**EPISODE, "steps": 5, "device": "cpu", "progress": False}


class Double:
    """A pool in float64; `spoil` is the meta-step after which the second task holds a NaN."""

    def __init__(self, pool, spoil: int | None = None):
        self.pool, self.spoil, self.dealt = pool, spoil, 0
        self.train, self.val, self.classes, self.name = self, pool, pool.classes, pool.name

    def to(self, device):
        return self

    def sample(self, **episode):
        task = self.pool.sample(**episode)
        task = pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t.clone(), task)
        self.dealt += episode["tasks"] > 2  # what is tried before the first step are two
        if self.spoil is not None and self.dealt > self.spoil:
            task.query.x[1] = torch.nan
        return task


def double(learner: Learner) -> Learner:
    init = lambda seed: pytree.tree_map(torch.Tensor.double, learner.init(seed))
    return Learner(init, learner.adapt, learner.objective, differentiates=learner.differentiates)


def network(out: int | None = None):
    net, init = functional(mlp((4, 8, 8) if out is None else (4, 8, out)))
    return net, init


def bits(theta) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in pytree.tree_leaves(theta))).hexdigest()


def runs() -> dict[str, dict]:
    """Name -> the arguments of fit. Five tasks are not shared evenly by two or three."""
    learner = double(maml(*network(3), inner_lr=0.1, inner_steps=2))
    pool = Double(tasks.gaussians(dim=4))
    schedule = lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5)
    sgd = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)
    return {
        "maml": {"learner": learner, "pool": pool, "tasks": 5, "optimizer": sgd, "clip": 0.1, "schedule": schedule},
        "chunks": {"learner": learner, "pool": pool, "tasks": 5, "optimizer": sgd, "chunk": 2},
        "one task": {"learner": learner, "pool": pool, "tasks": 1, "optimizer": sgd},
        "many tasks": {"learner": learner, "pool": pool, "tasks": 70, "steps": 2},
    }


def noisy() -> Learner:
    """Protonet whose loss is multiplied by a random number."""
    learner = double(protonet(*network(), ways=3))

    def objective(adapt, theta, task):
        loss, info = learner.objective(adapt, theta, task)
        return loss * torch.rand((), dtype=loss.dtype), info

    return Learner(learner.init, learner.adapt, objective, differentiates=False)


def gradients(ranks) -> tuple[dict[str, float], str]:
    """For every learner of the zoo, its noise held still, how far the mean over ranks is from that of all tasks: one
    rank each compares; and the bits of all these means, which every rank has."""
    from zoo import ZOO

    far, means = {}, []
    for i, (name, case) in enumerate(ZOO.items()):
        if {"chunks_change_nothing", "many_tasks_are_each_task"} & set(case.waived):
            continue
        theta, batch = case.theta(), case.batch(5)
        gradient = meta_gradient(case.learner)
        share, weight = ranks.share(5)
        mine = pytree.tree_map(lambda t: t[share.start : share.stop], batch)  # noqa: B023
        with _StillNoise():
            ours, stop = ranks.mean(gradient(theta, mine), weight, asked=False)
            means.append(ours)
            assert not stop
            if i % ranks.size != ranks.rank:
                continue
            want = flatten(gradient(theta, batch), "")
        ours = flatten(ours, "")
        assert {n: (t.shape, t.dtype) for n, t in ours.items()} == {n: (t.shape, t.dtype) for n, t in want.items()}
        scale = max(1.0, *(t.abs().max().item() for t in want.values()))
        far[name] = max((ours[n] - t).abs().max().item() for n, t in want.items()) / scale
    return far, bits(means)


def check(out: Path) -> None:
    torch.set_num_threads(1)
    ranks, _ = join("cpu")
    far, means = gradients(ranks)
    found: dict = {"rank": ranks.rank, "size": ranks.size, "gradients": far, "bits of means": means, "theta": {}}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for name, options in runs().items():
            theta = fit(**{**QUICK, **options}).theta
            found["theta"][name] = {n: t.tolist() for n, t in flatten(theta, "theta").items()}
            found[f"bits of {name}"] = bits(theta)
    found["warnings"] = [str(w.message) for w in told]

    norms = maml(*functional(conv4((1, 16, 16), out=3, width=4, norm_policy="running")), inner_lr=0.1, inner_steps=1)
    pool = Pictures()
    folder = out / "run"
    kept = {"out": folder, "checkpoint_every": 2, "validate_every": 3, "validation": {"tasks": 2}}
    run = fit(norms, pool, tasks=5, **{**QUICK, **kept})
    found["bits with statistics"] = bits(run.theta)
    for name, options in (("again", {}), ("other seed", {"seed": 1, "resume": True})):
        try:
            fit(norms, pool, tasks=5, **{**QUICK, **kept, **options})
        except ValueError as error:
            found[name] = str(error)
    found["resumed"] = bits(fit(norms, pool, tasks=5, **{**QUICK, **kept}, resume=True).theta)

    draws = [fit(noisy(), Double(tasks.gaussians(dim=4)), tasks=6, **QUICK).theta for _ in range(2)]
    found["bits of noise"] = [bits(theta) for theta in draws]
    with noise(0, ranks.stream("noise"), 0):
        found["draw"] = torch.rand(()).item()

    try:
        fit(double(protonet(*network(), ways=3)), Double(tasks.gaussians(dim=4), spoil=2), tasks=5, **QUICK)
    except ValueError as error:
        found["not finite"] = str(error)
    ranks.first_here(lambda: (out / f"first-{ranks.rank}").write_text(str(sorted(p.name for p in out.glob("first-*")))))
    (out / f"{ranks.rank}.json").write_text(json.dumps(found))


class Pictures:
    """Noise to tell apart: 16x16, float32."""

    name, classes = "pictures", None
    train = val = property(lambda self: self)

    def to(self, device):
        return self

    def sample(self, tasks, ways, shots, queries, generator=None):
        from metaloop import Data, Task

        def data(n):
            y = torch.arange(ways).repeat_interleave(n).expand(tasks, -1)
            return Data(torch.rand(tasks, ways * n, 1, 16, 16, generator=generator), y)

        return Task(data(shots), data(queries))


def strike(rank: int, step: int, name: str, command: list[str]) -> int:
    """Run the command line; at that step, that rank is killed, or torchrun told to stop."""
    from metaloop.cli import main

    real = deal.place

    def place(seed: int, stream: str, index: int):
        if (stream, index, os.environ["RANK"]) == ("train", step, str(rank)):
            os.kill(os.getpid() if name == "KILL" else os.getppid(), getattr(signal, f"SIG{name}"))
        return real(seed, stream, index)

    deal.place = place
    sys.argv[1:] = command
    return main()


def start(n: int, out: Path) -> int:
    """As torchrun starts n ranks. How many failed."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
    ranks = []
    for rank in range(n):
        if child := os.fork():
            ranks.append(child)
            continue
        told = {**address, "WORLD_SIZE": n, "RANK": rank, "LOCAL_RANK": rank}
        os.environ |= {name: str(value) for name, value in told.items()}
        code = 1
        try:
            check(out)
            dist.destroy_process_group()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)  # the store is not its own to close
    return sum(os.waitpid(child, 0)[1] != 0 for child in ranks)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.exit(start(int(sys.argv[1]), Path(sys.argv[2])))
    else:
        sys.exit(strike(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
