"""`lstm_optimizer`'s meta-gradient for one network at a time, written out: no graph is kept, and no task is batched.

What `ml.meta_gradient` computes for a learner of preprocessed gradients (a test holds the two together), in less time.
Since gradients count as constants in the meta-gradient, the losses of an unroll are linear in its steps: what comes
back to g_t is the sum of the later gradients of the unroll, and all that is left to differentiate is the recurrence,
each coordinate by itself. So the meta-gradient is a sum over coordinates, of which a sample will do: all are moved, by
`ml.optim.Learned`, and a few of each tensor are differentiated, weighted so that the mean is right.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from metaloop.learners.lstm_optimizer import P
from metaloop.optim import Learned

Problem = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # (phi, t) -> f_t(phi), its gradient


def packed(theta: dict) -> list[Tensor]:
    """theta of two layers as [of x; bias; of h] of each layer, and [bias; weights] of the head."""
    m, hidden = theta["m"], theta["m"]["head.weight"].shape[1]
    gates = []
    for cell in ("lstm.cells.0", "lstm.cells.1"):
        W, b = m[f"{cell}.weight"], m[f"{cell}.bias"]
        gates.append(torch.cat((W[:, :-hidden], b[:, None], W[:, -hidden:]), 1))
    return [*gates, torch.cat((m["head.bias"][:, None], m["head.weight"]), 1)]


def unpacked(parts: list[Tensor], scale: Tensor) -> dict:
    """The theta that `packed` was given."""
    *gates, head = parts
    hidden, m = head.shape[1] - 1, {}
    for i, W in enumerate(gates):
        m[f"lstm.cells.{i}.weight"] = torch.cat((W[:, : -hidden - 1], W[:, -hidden:]), 1)
        m[f"lstm.cells.{i}.bias"] = W[:, -hidden - 1].clone()
    m["head.weight"], m["head.bias"] = head[:, 1:].clone(), head[:, 0].clone()
    return {"m": m, "scale": scale.clone()}


class Layer:
    """One layer of the recurrence over the steps of an unroll, in memory that is taken once: fresh pages are dear."""

    def __init__(self, inputs: int, hidden: int, steps: int):
        self.inputs, self.hidden, self.steps = inputs, hidden, steps
        self.memory: dict[str, Tensor] = {}

    def begin(self, n: int) -> None:
        """n coordinates, with a state of zero."""
        H, I, K = self.hidden, self.inputs, self.steps
        self.seen = self.space("seen", K + 1, I + 1 + H, n)  # [x; 1; h]
        self.gates, self.tanh_c = self.space("gates", K, 4 * H, n), self.space("tanh_c", K, H, n)
        self.c, self.dh, self.dc = self.space("c", K + 1, H, n), self.space("dh", H, n), self.space("dc", H, n)
        self.d_gates, self.d_seen = self.space("d_gates", 4 * H, n), self.space("d_seen", I + 1 + H, n)
        self.one, self.three = self.space("one", H, n), self.space("three", 3 * H, n)
        self.seen[:, I], self.seen[0, I + 1 :], self.c[0] = 1, 0, 0

    def space(self, name: str, *shape: int) -> Tensor:
        held = self.memory.get(name)
        if held is None or len(held) < math.prod(shape):
            held = self.memory[name] = torch.empty(math.prod(shape))
        return held[: math.prod(shape)].view(shape)

    def forward(self, W: Tensor, t: int) -> Tensor:
        H, gates = self.hidden, self.gates[t]
        torch.mm(W, self.seen[t], out=gates)
        gates[: 3 * H].sigmoid_()
        i, f, o, u = gates.split(H)
        u.tanh_()
        c = torch.mul(f, self.c[t], out=self.c[t + 1]).addcmul_(i, u)
        return torch.mul(torch.tanh(c, out=self.tanh_c[t]), o, out=self.seen[t + 1, self.inputs + 1 :])

    def backward(self, W: Tensor, dW: Tensor, t: int) -> Tensor:
        """From self.dh and self.dc, of after step t, to those of before it; the gradient of x."""
        H, dh, dc, of_gates = self.hidden, self.dh, self.dc, self.d_gates
        i, f, o, u = self.gates[t].split(H)
        di, df, do, du = of_gates.split(H)
        torch.mul(dh, self.tanh_c[t], out=do)
        torch.mul(self.tanh_c[t], self.tanh_c[t], out=self.one).neg_().add_(1).mul_(o)
        dc.addcmul_(dh, self.one)
        torch.mul(dc, u, out=di)
        torch.mul(dc, self.c[t], out=df)
        torch.mul(dc, i, out=du)
        dc.mul_(f)
        ifo = self.gates[t, : 3 * H]
        of_gates[: 3 * H].mul_(torch.addcmul(ifo, ifo, ifo, value=-1, out=self.three))
        du.mul_(torch.mul(u, u, out=self.one).neg_().add_(1))
        dW.addmm_(of_gates, self.seen[t].T)
        torch.mm(W.T, of_gates, out=self.d_seen)
        dh.copy_(self.d_seen[self.inputs + 1 :])
        return self.d_seen[: self.inputs]

    def again(self, t: int) -> None:
        """The next unroll goes on from where this one came to, after t steps."""
        self.seen[0, self.inputs + 1 :] = self.seen[t, self.inputs + 1 :]
        self.c[0] = self.c[t]


@cache
def layers(hidden: int, steps: int) -> tuple[Layer, Layer]:
    return Layer(2, hidden, steps), Layer(hidden, hidden, steps)


def sample(sizes: list[int], most: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which coordinates, at most `most` of each tensor, and what each stands for."""
    rows, weights, first = [], [], 0
    for n in sizes:
        m = min(n, most)
        rows.append(first + torch.randperm(n, generator=g)[:m].sort()[0])
        weights.append(torch.full((m,), n / m))
        first += n
    return torch.cat(rows), torch.cat(weights)


def meta_gradient(
    parts: list[Tensor],
    scale: Tensor,
    start: Tensor,
    f: Problem,
    steps: int,
    unroll: int,
    sampled: tuple[Tensor, Tensor] | None = None,
) -> tuple[list[Tensor], list[float]]:
    """The gradient, in the form of `parts`, of sum_{t=1..steps} f_t(phi_t); f_0(phi_0) .. f_steps(phi_steps).

    sampled: as `sample` gives them; all coordinates unless given.
    """
    rows, weights = sampled or (torch.arange(len(start)), torch.ones(len(start)))
    (W0, W1, head), phi = parts, torch.nn.Parameter(start.clone())
    optimizer, hidden = Learned([phi], unpacked(parts, scale)), head.shape[1] - 1
    lower, upper = layers(hidden, unroll)
    grads, ds = [torch.zeros_like(p) for p in parts], []
    lower.begin(len(rows))
    upper.begin(len(rows))
    value, phi.grad = f(phi.detach(), 0)
    losses = [value.item()]
    for t in range(steps):
        k, d = t % unroll, phi.grad[rows]  # type: ignore[index]
        torch.log(d.abs(), out=lower.seen[k, 0]).div_(P).clamp_(min=-1)
        torch.mul(d, math.exp(P), out=lower.seen[k, 1]).clamp_(-1, 1)
        upper.seen[k, :hidden] = lower.forward(W0, k)
        upper.forward(W1, k)
        optimizer.step()
        value, phi.grad = f(phi.detach(), t + 1)
        losses.append(value.item())
        ds.append(phi.grad[rows] * weights)
        if k + 1 == unroll or t + 1 == steps:
            back(parts, grads, float(scale), lower, upper, ds)
            lower.again(k + 1)
            upper.again(k + 1)
            ds = []
    return grads, losses


def back(parts: list[Tensor], grads: list[Tensor], scale: float, lower: Layer, upper: Layer, ds: list[Tensor]) -> None:
    """Add the gradient of sum_k d_k phi_k of an unroll's steps k, d_k weighted."""
    (W0, W1, head), (dW0, dW1, d_head), hidden = parts, grads, upper.hidden
    later = torch.zeros_like(ds[0])
    for layer in (lower, upper):
        layer.dh.zero_()
        layer.dc.zero_()
    for k in reversed(range(len(ds))):
        later.add_(ds[k], alpha=scale)  # of g_k: it is in all phi that follow
        d_head[0] += torch.mv(upper.seen[k + 1, hidden:], later)
        upper.dh.addr_(head[0, 1:], later)
        lower.dh.add_(upper.backward(W1, dW1, k))
        lower.backward(W0, dW0, k)
