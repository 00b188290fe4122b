"""Meta-Learning for Low-Resource Neural Machine Translation
Gu, Wang, Chen, Cho & Li, EMNLP 2018, arXiv:1808.08437

Every pair of languages is a task: S are a few sentences s with their translations t. Learn where to begin, so that a
few steps on S lead to a translator of a language that has hardly any:

    log p(t|s) = sum_i log softmax(net(phi; s, t_1 .. t_{i-1}))_{t_i}                                  (1)
    phi_0      = (theta, E = 0),    phi_{k+1} = phi_k - step(grad of -log p(S) / tokens)              (2)
    f(s, t)    = log p(t|s) under phi_K                                                                (3)
    theta      = argmin  E_task  -log p(Q) / tokens under phi_K                                        (4)

E are offsets of the words of a language from what all languages share (`nn.Universal`): they are learned in (2)
alone, from zero, and what is shared, the universal words W, in (4) alone. The authors' code steps by an Adam that
begins anew, whose only step is inner_lr sign(gradient) (5), and holds the gradient of (2) constant in (4).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad

from ..core import Data, Learner, Params, Task, predictor, static
from ..nn.decode import beam, greedy
from ..nn.descent import Descent, signs
from ..nn.functional import learned
from ..nn.translator import PAD, START, spelled
from ..nn.unroll import unroll

Net = Callable[..., Any]  # net(phi, s) -> memory; net(phi, prefix, memory) -> scores [n, T, words]
OFFSET, SHARED = "source.offset", "source.universal"
MOVES: dict[str, tuple[str, ...]] = {  # by the beginnings of their names
    "all": ("",), "embedding+encoder": ("source", "encoder", "norm_encoder"), "embedding": ("source",),
}  # fmt: skip


@predictor
class Translates:
    """A translator of one language: a density of pairs (s, t), and a maker of t."""

    phi: Params
    net: Net = static()
    source: int = static()

    def __call__(self, x: Int[Tensor, "n both"]) -> Float[Tensor, "n 1"]:
        return -losses(self.net, self.phi, x, self.source).sum(1, keepdim=True)                       # (3)

    def translate(self, s: Int[Tensor, "n S"], *, length: int = 60, width: int = 1, alpha: float = 1.0) -> Tensor:
        """t [n, length] of s: the most probable word each time, or of `width` beginnings the best (`nn.beam`)."""
        scores = lambda said, memory: self.net(self.phi, said, memory)
        memory, how = self.net(self.phi, s), {"length": length, "device": s.device}
        if width == 1:
            return greedy(scores, memory, len(s), **how)
        return beam(scores, memory, len(s), width=width, alpha=alpha, **how)


def losses(net: Net, phi: Params, x: Tensor, source: int, smoothing: float = 0.0) -> Float[Tensor, "n target"]:
    """-log p of each token of t, x = [s, t], by (1)."""
    s, t = x[:, :source], x[:, source:]
    prefix = torch.cat([torch.full_like(t[:, :1], START), t[:, :-1]], 1)
    return spelled(net(phi, prefix, net(phi, s)), t, smoothing)


def meta_translation(
    net: Net, init: Callable[[int], Params], *, source: int, inner_lr: float, inner_steps: int = 1,
    moves: str = "all", optimizer: Descent | None = None, smoothing: float = 0.1, first_order: bool = True,
    batch: int | None = None, joint: bool = False,
) -> Learner[Params]:  # fmt: skip
    """MetaNMT: theta is where a translator begins, f a density of pairs and a translator after inner_steps steps on S.

    net, init: of an `nn.Transformer`. x is [s, t], int64 [n, source + target], each ending with `END`, then `PAD`; y is
        not read. The loss of (2) and (4) has label `smoothing`.
    moves: in (2): "all", "embedding+encoder" or "embedding"; never the universal words. optimizer: of (2),
        `nn.signs()` (5) unless given; `nn.sgd()` is MAML's. first_order: the gradients of (2) count as constant.
    batch: so many pairs of S for each step, the next ones in their order, and again from the first; all unless given.
    joint: E is part of theta, as in ordinary training on all languages (MultiNMT), for which inner_steps=0.
    Raises ValueError on another word, inner_steps below 0, a batch below 1, and x that is no longer than `source`.
    """
    if moves not in MOVES:
        raise ValueError(f"meta_translation: moves is {moves!r}, expected {', '.join(map(repr, MOVES))}.")
    if inner_steps < 0 or (batch is not None and batch < 1):
        raise ValueError(f"meta_translation: {inner_steps=}, {batch=}, expected at least 0 steps, of at least 1 pair.")
    method = optimizer or signs()

    def mean(each: Tensor, x: Tensor) -> Tensor:  # over tokens of t
        return each.sum() / (x[:, source:] != PAD).sum()

    def loss(phi: Params, rest: Params, x: Tensor) -> Tensor:
        return mean(losses(net, {**rest, **phi}, x, source, smoothing), x)

    def step(k: int, state, given):
        (phi, moments), (rest, x) = state, given
        if batch is not None:
            x = x[(k * batch + torch.arange(batch, device=x.device)) % len(x)]
        g = grad(loss)({n: p.detach() for n, p in phi.items()} if first_order else phi, rest, x)
        g = {n: t.detach() for n, t in g.items()} if first_order else g
        return method.update(inner_lr, g, phi, moments)

    def start(seed: int) -> Params:
        return {n: p for n, p in init(seed).items() if joint or n != OFFSET}

    def adapt(theta: Params, S: Data) -> Translates:
        if not 0 < source < S.x.shape[1]:
            raise ValueError(f"meta_translation: source is {source}, expected 1 to {S.x.shape[1] - 1}: x is [s, t].")
        phi = theta
        if SHARED in theta and OFFSET not in theta:
            phi = {**theta, OFFSET: theta[SHARED].new_zeros(len(theta["source.keys"]), theta[SHARED].shape[1])}
        fast = {n: p for n, p in learned(phi, net).items() if n.startswith(MOVES[moves]) and n != SHARED}
        rest = {n: p for n, p in phi.items() if n not in fast}
        path = unroll(step, (fast, method.init(fast)), (rest, S.x), inner_steps)                       # (2)
        return Translates({**rest, **(path[-1][0] if path else fast)}, net, source)

    def objective(adapt, theta: Params, task: Task):
        x = task.query.x
        each = losses(net, adapt(theta, task.support).phi, x, source, smoothing)                       # (4)
        return mean(each, x), {"nats_per_sentence": each.sum(1).mean()}

    return Learner(start, adapt, objective, differentiates=inner_steps > 0)
