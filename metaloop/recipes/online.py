"""Learning from streams: OML's two benchmarks, and tasks one after another under the eyes of a leader."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..learners.maml import maml
from ..learners.oml import oml
from ..learners.reptile import reptile
from ..nn import adam, conv4, functional, mlp, norm
from ..outer.follow_leader import follow_leader
from ..targets import Numbers
from ..tasks.pool import Pool, Splits
from ..tasks.streams import ClassStream, omniglot_stream
from .plan import Plan, Row

SCHEDULE = (10, 50, 75, 100, 150, 200)  # classes learned so far, at the points of the published curve
TEST_RATES = {1: 1e-4, 50: 1.5e-4, 75: 2e-4}  # OML's at test, for so many classes or more; chosen on validation streams


def oml_sines_plan(
    pool: Pool, *, published: float, steps: int, tasks: int, width: int = 300, depth: int = 6, shots: int,
    norm_policy: str | None = None, inner_lr: float = 0.003, lr: float = 1e-4, queries: int = 32,
) -> Plan:
    """Ten sine waves in turn, a linear head on `depth` layers of `width`. shots: points of each wave in meta-training,
    eight to an update; at test 40 updates per wave. Scored by the squared error on all ten waves after the last."""
    if not isinstance(pool.target, Numbers):
        raise ValueError(f"this recipe regresses waves that come one after another; {pool.name} is for {pool.kind}.")
    body = mlp((*pool.shape, *[width] * depth, 1), norm_policy=norm_policy).body
    networks = *functional(body), *functional(nn.Linear(width, 1))

    def at_test(ways: int = 1, inner_steps: int = 1):
        return oml(*networks, inner_lr=inner_lr, batch=8, loss=F.mse_loss)

    rows = (Row("10 waves, 40 updates of 8 points each", at_test(), 10, 320, 32, published, tasks=200),)
    return Plan(
        pool, at_test(), at_test, rows, steps=steps, tasks=tasks, ways=10, shots=shots, queries=queries,
        options={
            **_adam(lr, steps), "validation": {"ways": 10, "shots": 320, "queries": 32, "tasks": 20},
        },
    )  # fmt: skip


def oml_omniglot_plan(
    pool: Pool, *, published: dict[int, tuple[float, float]], steps: int, width: int = 256,
    strides: Sequence[int] = (2, 1, 2, 1, 2, 2), norm_policy: str | None = None, inner_lr: float = 0.03,
    test_lr: Mapping[int, float] = TEST_RATES, lr: float = 1e-4, classes: Sequence[int] = SCHEDULE, streams: int = 50,
) -> Plan:
    """Split-Omniglot: streams of 3 classes, 5 examples each, in meta-training; up to 200 new classes at test, 15
    examples each, one at a time, in one pass. test_lr: the rate of Adam without momentum there, for so many classes
    or more. published: by the number of classes, the accuracy on 5 held-out examples per class, and on the stream's
    own ("recalled")."""
    if isinstance(pool, Splits) and not isinstance(pool.train, ClassStream):
        raise ValueError(f"this recipe learns from streams of classes, {pool.name} deals sets. Leave --data out.")
    body, dim = _convolutions(pool.shape, width, strides, norm_policy)
    networks = *functional(body), *functional(nn.Linear(dim, pool.train.classes or 0))

    def at_test(ways: int = 10, inner_steps: int = 1):
        rate = test_lr[max(n for n in test_lr if n <= ways)]
        return oml(*networks, inner_lr=rate, optimizer=adam(beta1=0.0), anew=ways)

    again = partial(omniglot_stream, again=True)
    figures = [published.get(n, (None, None)) for n in classes]
    rows = [Row(f"{n} classes", at_test(n), n, 15, 5, new, tasks=streams)
            for n, (new, _) in zip(classes, figures, strict=True)]  # fmt: skip
    rows += [Row(f"{n} classes, recalled", at_test(n), n, 15, 1, old, tasks=streams, data=again)
             for n, (_, old) in zip(classes, figures, strict=True)]  # fmt: skip
    return Plan(
        pool, oml(*networks, inner_lr=inner_lr, anew="classes"), at_test, tuple(rows),
        steps=steps, tasks=1, ways=3, shots=5, queries=1,
        options={
            **_adam(lr, steps), "validation": {"ways": classes[0], "shots": 15, "queries": 5, "tasks": 5},
        },
    )  # fmt: skip


def follow_leader_plan(
    pool: Pool, *, method: str, steps: int, updates: int, arrivals: Sequence[int], tasks: int = 25, shots: int = 10,
    width: int = 32, inner_lr: float = 0.1, inner_steps: int = 5, test_steps: int = 5, lr: float = 1e-3,
) -> Plan:
    """Rainbow-MNIST, a task after another. method: "leader" (the paper's FTML: MAML's initialisation is followed),
    "everything" (ordinary training on all data seen), "fine-tuned" (the same, then descent on the task), "scratch"
    (descent on the task alone). A step is an arrival of data; all methods know the same of each task."""
    net, init = functional(conv4(pool.shape, out=10, width=width, downsample="stride"))
    loss = partial(F.cross_entropy, label_smoothing=0.1)
    F_theta = partial(maml, net, init, inner_lr=inner_lr, loss=loss)
    joint = replace(F_theta(inner_steps=0), differentiates=False)
    learner = F_theta(inner_steps=inner_steps) if method == "leader" else joint

    def at_test(ways: int = 10, inner_steps: int = test_steps):
        if method == "leader":
            return F_theta(inner_steps=inner_steps)
        if method == "everything":
            return joint
        return reptile(net, init, inner_lr=lr, inner_steps=inner_steps, batch=25, optimizer=adam(), loss=loss)

    return Plan(
        pool, learner, at_test, (Row("10 digits, 10 shots, after all rounds", at_test(), 10, 10, 15),),
        steps=steps, tasks=tasks, ways=10, shots=shots, queries=shots, inner_steps=(1, 2, 5, 10),
        outer=follow_leader,
        options={
            "updates": 0 if method == "scratch" else updates, "arrivals": tuple(arrivals),
            "optimizer": lambda p: torch.optim.Adam(p, lr=lr),
        },
    )  # fmt: skip


def _convolutions(shape, width: int, strides: Sequence[int], policy: str | None) -> tuple[nn.Sequential, int]:
    """3x3 convolutions of the given strides, each with a norm if a policy is given, then ReLU; how many features."""
    layers: list[nn.Module] = []
    channels, *size = shape
    for stride in strides:
        layers += [_He(channels, width, 3, stride=stride, padding=1)]
        layers += [norm(width, policy)] if policy else []
        layers += [nn.ReLU()]
        channels, size = width, [(s + stride - 1) // stride for s in size]
    return nn.Sequential(*layers, nn.Flatten()), width * size[0] * size[1]


class _He(nn.Conv2d):
    """Convolution initialised as He et al. 2015, bias zero."""

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def _adam(lr: float, steps: int) -> dict[str, Any]:
    """Adam whose rate falls to zero over the last three tenths, on gradients of norm 10 at most."""

    def schedule(optimizer: torch.optim.Optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (steps - step) / (0.3 * steps)))

    return {"optimizer": lambda p: torch.optim.Adam(p, lr=lr), "schedule": schedule, "clip": 10.0}
