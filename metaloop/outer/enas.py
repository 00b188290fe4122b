"""Efficient Neural Architecture Search via Parameter Sharing (ENAS)
Pham, Guan, Zoph, Le & Dean, ICML 2018, arXiv:1802.03268

All architectures a of a space are parts of one network m, whose weights omega they share, and a controller pi(a; theta)
(Zoph & Le's: `outer.controller`) proposes one. Two loops take turns:

    omega <- omega - eta d/d omega L(m(a; omega); B),    a ~ pi(.; theta), one for each minibatch B                 (1)

    R(a)   = accuracy of m(a; omega) on a minibatch of the validation set                                           (2)
    theta <- theta + eta' 1/M sum_k (R(a_k) - beta log pi(a_k) - b) d/d theta log pi(a_k),    a_k ~ pi              (3)
    b      = moving average of the means of R - beta log pi over the batches before this one

which climbs E R + beta H(pi), H the entropy. What is searched for, and then trained anew:

    a*     = the best on the whole validation set, by omega, of some a ~ pi                                         (4)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import Data
from ..engine.seeds import generator, noise
from .controller import Policy, reinforce

EXAMPLES = 500  # at most that are scored at once, normalised together


@dataclass
class Shared:
    """net: m, with omega. policy: pi. rewards: of each round, the mean of R. picked: a*; accuracy: its own in (4)."""

    net: nn.Module
    policy: Policy
    rewards: list[float] = field(default_factory=list)
    picked: tuple[int, ...] = ()
    accuracy: float = math.nan


def enas(
    net: nn.Module,
    train: Data,
    validation: Data,
    *,
    sizes: Sequence[int] | None = None,
    rounds: int = 10,
    updates: int = 300,
    lessons: int = 30,
    proposals: int = 8,
    batch: int = 64,
    optimizer: Callable[[Iterator[Tensor]], torch.optim.Optimizer] | None = None,
    schedule: Callable[[torch.optim.Optimizer, int], torch.optim.lr_scheduler.LRScheduler] | None = None,
    controller_lr: float = 3.5e-4,
    decay: float = 0.95,
    entropy: float = 1e-4,
    picks: int = 10,
    seed: int = 0,
) -> Shared:
    """Train m's weights, in place, and a controller in turn; then pick an architecture.

    net: m, called as net(x, a) with a list of tokens, such as `nn.Macro`. sizes: how many values each token has,
        net.sizes unless given. Norms take the statistics of the batch and architecture at hand.
    rounds: of `updates` steps (1), then `lessons` steps (3), each of M = proposals. batch: examples of a step (1), and
        of each R. optimizer: of omega; SGD with Nesterov's momentum .9 at .1 unless given. schedule: (optimizer, all
        steps (1)) -> its schedule; a cosine to 0 unless given. controller_lr: Adam's. decay: of b. entropy: beta.
    picks: how many a (4) is the best of.

    What is drawn in a step, the network's own noise included, is a function of the seed and its number; scores are in
    evaluation mode, without noise. Raises ValueError on numbers out of their range, no examples or sizes, a norm that
    keeps moving statistics, which would be those of a mixture of architectures, or a loss that is not finite.
    """
    if min(rounds, updates, lessons, proposals, batch, picks) < 1 or not 0 <= decay < 1 or entropy < 0:
        told = f"{rounds=}, {updates=}, {lessons=}, {proposals=}, {batch=}, {picks=}, {decay=}, {entropy=}"
        raise ValueError(f"enas({told}): expected 1 at least, a decay from 0 to below 1, an entropy from 0.")
    if not len(train.y) or not len(validation.y):
        raise ValueError(f"enas: {len(train.y)} examples to train on and {len(validation.y)} to validate: too few.")
    for name, part in net.named_modules():
        if getattr(part, "running_mean", None) is not None:
            raise ValueError(f"enas: {name} keeps moving statistics, a mixture of architectures'. Take transductive.")
    sizes = getattr(net, "sizes", None) if sizes is None else sizes
    if not sizes:
        raise ValueError("enas: the network does not say how many values each token has. Say sizes=.")
    if min(sizes) < 1:
        raise ValueError(f"enas: sizes={[*sizes]}, expected one value at least of each token.")
    found = Shared(net, Policy([*sizes], seed=seed))
    omega = (optimizer or (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)))(net.parameters())
    steps = (schedule or torch.optim.lr_scheduler.CosineAnnealingLR)(omega, rounds * updates)
    theta, b = torch.optim.Adam(found.policy.parameters(), lr=controller_lr), None
    for i in range(rounds):
        for t in range(i * updates, (i + 1) * updates):
            g = generator(seed, "shared weights", t)
            a, B = found.policy.sample(1, g)[0].tolist(), minibatch(train, batch, g)
            with noise(seed, "noise of shared weights", t):
                share(net, omega, a, B)                                                                   # (1)
            steps.step()
        total = 0.0
        for t in range(i * lessons, (i + 1) * lessons):
            g = generator(seed, "controller", t)
            a = found.policy.sample(proposals, g)
            R = torch.tensor([accuracy(net, each, minibatch(validation, batch, g)) for each in a.tolist()])  # (2)
            b = learn(found.policy, theta, a, R, b, entropy=entropy, decay=decay)                         # (3)
            total += R.mean().item() / lessons
        found.rewards.append(total)
    some = found.policy.sample(picks, generator(seed, "picks", 0)).unique(dim=0).tolist()
    found.accuracy, best = max((accuracy(net, a, validation), a) for a in some)                           # (4)
    found.picked = tuple(best)
    return found


def share(net: nn.Module, omega: torch.optim.Optimizer, a: Sequence[int], B: Data) -> None:
    """(1). Weights that m(a) does not use have no gradient, and are not moved, by momentum or decay either."""
    omega.zero_grad(set_to_none=True)
    loss = F.cross_entropy(net(B.x, a), B.y)
    if not loss.isfinite():
        raise ValueError(f"enas: the loss of {list(a)} is {loss.item()}. Lower the rate of the shared weights.")
    loss.backward()
    omega.step()


def learn(
    policy: Policy, theta: torch.optim.Optimizer, a: Tensor, R: Tensor, b: float | None, *, entropy: float, decay: float
) -> float:
    """(3), of architectures [M, tokens] with rewards [M]; the next b. The first batch sets b and moves nothing."""
    log_p = policy.log_p(a)
    R = R - entropy * log_p.detach()
    mean = R.mean().item()
    if b is None:
        return mean
    theta.zero_grad()
    reinforce(log_p, R, b).backward()
    theta.step()
    return decay * b + (1 - decay) * mean


def accuracy(net: nn.Module, a: Sequence[int], data: Data) -> float:
    """The share of the examples that m(a) gets right, in evaluation mode. Its norms see them in batches of one size
    (within one example), of `EXAMPLES` at most."""
    batches = math.ceil(len(data.y) / EXAMPLES)
    parts = zip(data.x.tensor_split(batches), data.y.tensor_split(batches), strict=True)
    with torch.no_grad(), evaluating(net):
        return sum(int((net(x, a).argmax(-1) == y).sum()) for x, y in parts) / len(data.y)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode; then every part has the mode that it had."""
    before = [(part, part.training) for part in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def minibatch(data: Data, n: int, g: torch.Generator) -> Data:
    """n examples, with replacement."""
    rows = torch.randint(len(data.y), (n,), generator=g)
    return Data(data.x[rows], data.y[rows])
