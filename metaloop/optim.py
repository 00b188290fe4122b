"""Learned optimizers as torch optimizers: meta-train once, then use in any training loop."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .core import Theta
from .engine import Run
from .engine.threads import on_cores
from .learners.lstm_optimizer import P
from .sign import AddSign as AddSign
from .sign import PowerSign as PowerSign
from .sign import loss_of
from .torch_private import pytree

__all__ = ["AddSign", "Learned", "PowerSign"]

BY_SCHEDULES = {"initial_lr", "max_lr", "min_lr", "swa_lr", "param_names"}  # what a group gets from others than us
CHUNK = 2048  # coordinates that are moved at once on a CPU: what belongs to them stays in a core's cache
SHIPPED = Path(__file__).with_name("optim.safetensors")
SPACE = 2**25  # bytes: how much all chunks that are moved at once, or a GPU's chunk, may take beside the state


def shipped() -> Theta:
    """The theta that comes with metaloop, where one does (metaloop/optim.safetensors), in float32. Raises ValueError if
    this copy has none."""
    from safetensors.torch import load_file

    if not SHIPPED.is_file():
        raise ValueError("optim.Learned: no trained theta comes with this copy. Give a run of lstm_optimizer.")
    kept = {name: t.float() for name, t in load_file(SHIPPED).items()}
    scale = kept.pop("scale")
    return {"m": kept, "scale": scale}


class Learned(torch.optim.Optimizer):
    """A trained `lstm_optimizer` in an ordinary training loop: p <- p + lr m(pre(grad), h), each coordinate by itself.

    params: parameters, or groups of them, as any torch optimizer takes. learned: the Run that meta-training left, or
    its theta, which is not changed; None takes the theta that comes with metaloop, where one does: such a one would be
    trained for 100 steps on the mean cross-entropy of minibatches (docs/learners/lstm_optimizer.md says on what, and
    whether one ships). lr: a factor on the learned steps, 1 as meta-trained; a group may have its own, and torch's
    schedulers act on it.

    The steps depend on the gradients' scale, so take the loss that was meta-trained on (as a rule the mean
    cross-entropy of a minibatch). `state_dict` holds each coordinate's state h, not theta; it comes back to the bit. A
    theta in float32 serves parameters of any dtype. A step with a gradient that is not finite, in theta's dtype, is
    left out whole, as torch's GradScaler does.

    The state is 2 x layers x hidden numbers per coordinate, 80 as a rule, in state_dtype: theta's, or a shorter one
    such as torch.bfloat16, in which it is rounded after each step; the arithmetic is in theta's all the same. Beside it
    a step takes at most 64 MB, whatever the size of the network. Coordinates are moved in chunks, of all parameters, on
    as many cores as torch has threads.

    Raises ValueError if learned is no finite theta of lstm_optimizer, or None where none came along, lr is negative,
    state_dtype is none of floating point, or a state is loaded that is not of this optimizer.

    >>> import metaloop as ml
    >>> model = torch.nn.Linear(3, 1)
    >>> learner = ml.lstm_optimizer(ml.functional(model)[0])
    >>> optimizer = Learned(model.parameters(), learner.init(0))  # a trained theta will do better
    >>> model(torch.ones(5, 3)).square().mean().backward()
    >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        learned: Run | Theta | None = None,
        *,
        lr: float = 1.0,
        state_dtype: torch.dtype | None = None,
    ):
        theta = shipped() if learned is None else learned.theta if isinstance(learned, Run) else learned
        if not isinstance(theta, dict) or set(theta) != {"m", "scale"}:
            raise ValueError("optim.Learned: this is of another learner. Give a run of lstm_optimizer, or its theta.")
        if lr < 0:
            raise ValueError(f"optim.Learned: lr={lr}, expected at least 0.")
        if state_dtype is not None and not state_dtype.is_floating_point:
            raise ValueError(f"optim.Learned: state_dtype={state_dtype}, expected one of floating point.")
        super().__init__(params, {"lr": lr})
        self.theta = pytree.tree_map(lambda t: t.detach().clone(), theta)
        if not all(t.isfinite().all() for t in pytree.tree_leaves(self.theta)):
            raise ValueError("optim.Learned: theta holds numbers that are not finite. Take an earlier checkpoint.")
        self.state_dtype = state_dtype or self.theta["scale"].dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; closure: clears the gradients, computes the loss, and returns it."""
        loss = loss_of(closure)
        dtype, moves = self.theta["scale"].dtype, {}
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.numel():
                    if p.grad.is_sparse or p.grad.is_complex():
                        kind, fix = ("complex", "real") if p.grad.is_complex() else ("sparse", "dense")
                        raise ValueError(f"optim.Learned: {kind} gradients are not supported. Take {fix} ones.")
                    moves.setdefault(p.device, []).append((p, p.grad, group["lr"]))
        for of_device in moves.values():
            ends = [end.to(dtype) for _, d, _ in of_device for end in d.detach().aminmax()]
            if not torch.stack(ends).isfinite().all():
                return loss
        for device, of_device in moves.items():
            self._move(device, of_device)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave. Raises ValueError, changing nothing, if that is of another optimizer."""
        own = [p for group in self.param_groups for p in group["params"]]
        groups, state = state_dict.get("param_groups", []), state_dict.get("state", {})
        for ours, theirs in zip(self.param_groups, groups, strict=False):
            if foreign := set(theirs) - set(ours) - BY_SCHEDULES:
                raise ValueError(f"optim.Learned: this state is of another optimizer, one with {sorted(foreign)[0]!r}.")
            if not isinstance(theirs.get("lr"), float | int | Tensor) or not float(theirs["lr"]) >= 0:
                raise ValueError(f"optim.Learned: the state has lr={theirs.get('lr')!r}, expected at least 0.")
        indices = [index for group in groups for index in group.get("params", ())]
        if [len(g["params"]) for g in self.param_groups] != [len(g.get("params", ())) for g in groups]:
            raise ValueError("optim.Learned: the state is of another number of parameters.")
        places = dict(zip(indices, own, strict=True))
        hidden, layers = self.theta["m"]["head.weight"].shape[1], len(self._gates())
        names = {f"{kind}{i}" for i in range(layers) for kind in "hc"}
        for index, entries in state.items():
            if index not in places or set(entries) != names:
                wanted = ", ".join(sorted(names))
                raise ValueError(f"optim.Learned: this state holds {', '.join(sorted(map(str, entries)))} of parameter "
                                 f"{index}, expected {wanted}: it is of another optimizer.")  # fmt: skip
            size = (places[index].numel(), hidden)
            for name, t in entries.items():
                if not isinstance(t, Tensor) or t.numel() != size[0] * size[1] or t.shape[-1] != hidden:
                    shape = tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
                    raise ValueError(f"optim.Learned: {name} of parameter {index} is {shape}, expected {size}.")
                if t.dtype != self.state_dtype or not t.isfinite().all():
                    raise ValueError(f"optim.Learned: {name} of parameter {index} is {t.dtype}, expected finite ones "
                                     f"in {self.state_dtype}.")  # fmt: skip
        super().load_state_dict(state_dict)
        for index, entries in state.items():  # torch brings them into the parameter's dtype
            p = places[index]
            ours = self.state[p] = self._zeros(p)
            for name, t in entries.items():
                ours[name].copy_(t.detach().reshape(ours[name].shape))

    def _gates(self) -> list[Tensor]:
        """The weights of each layer of m."""
        return [p for name, p in self.theta["m"].items() if "cells" in name and p.dim() == 2]

    def _zeros(self, p: Tensor) -> dict[str, Tensor]:
        """The state at the start: h and c of each layer, [n, hidden], with the coordinates of a row side by side."""
        hidden = self.theta["m"]["head.weight"].shape[1]
        zeros = lambda: torch.zeros(hidden, p.numel(), dtype=self.state_dtype, device=p.device).T
        return {f"{kind}{i}": zeros() for i in range(len(self._gates())) for kind in "hc"}

    def _move(self, device: torch.device, moves: list[tuple[Tensor, Tensor, float | Tensor]]) -> None:
        """Move parameters of one device."""
        if self.theta["scale"].device != device:
            self.theta = pytree.tree_map(lambda t: t.to(device), self.theta)
        rule = _Rule(self.theta["m"], self.theta["scale"])
        of_one = rule.rows * rule.like.element_size()
        size = CHUNK if device.type == "cpu" else SPACE // of_one
        parts = []
        for p, d, lr in moves:
            kept = self.state[p]
            if not kept:
                kept.update(self._zeros(p))
            state = [kept[f"{kind}{i}"].T for i in range(len(rule.gates)) for kind in "hc"]
            parts += _cut(p.detach(), d.detach(), state, lr, size)
        chunks, most = _packed(parts, size), max(1, SPACE // (of_one * size))
        if device.type == "cpu":
            on_cores(rule, chunks, most)
        else:
            rule(chunks)


class _Part(NamedTuple):
    """At most a chunk of a parameter's coordinates."""

    p: Tensor
    d: Tensor  # the gradient
    state: list[Tensor]  # h, c of each layer, [hidden, n]
    lr: float | Tensor


def _cut(p: Tensor, d: Tensor, state: list[Tensor], lr: float | Tensor, size: int) -> Iterator[_Part]:
    """Parts of at most `size` coordinates; all but the state's are views that may have gaps."""
    if p.is_contiguous() and d.is_contiguous():
        p, d = p.view(-1), d.view(-1)
    if p.numel() <= size:
        yield _Part(p, d, state, lr)
        return
    row = p.numel() // len(p)
    ps, ds = (t.split(size // row) if row <= size else t.unbind() for t in (p, d))
    states = zip(*(s.split(ps[0].numel(), 1) for s in state), strict=True)
    for p_i, d_i, of_these in zip(ps, ds, states, strict=True):
        yield from _cut(p_i, d_i, list(of_these), lr, size)


def _packed(parts: list[_Part], size: int) -> list[list[_Part]]:
    """Chunks of parts, in order, each of at most `size` coordinates."""
    chunks, room = [], 0
    for part in parts:
        n = part.p.numel()
        if n > room:
            chunks.append([])
            room = size
        chunks[-1].append(part)
        room -= n
    return chunks


class _Rule:
    """lstm_optimizer's equations (2) and (3) for chunks, in place: coordinates are columns, m's numbers are rows.

    What m is given and what it remembers are the rows of one matrix, [seen; 1; h_0; 1; h_1; ...], in which the inputs
    of a layer, its bias and its own h come one after the other: a layer's gates are one product. The factors of
    pre(d) = (max(log|d|, -p) / p, e^p d within -1 and 1) are in the weights.
    """

    def __init__(self, m: dict[str, Tensor], scale: Tensor):
        cells = [name.removesuffix(".weight") for name in m if "cells" in name and name.endswith(".weight")]
        self.hidden, self.gates = m["head.weight"].shape[1], []
        for cell in cells:
            W, b = m[f"{cell}.weight"], m[f"{cell}.bias"]
            of_x, of_h = W.split([W.shape[1] - self.hidden, self.hidden], 1)
            self.gates.append(torch.cat((of_x, b[:, None], of_h), 1))
        self.inputs = self.gates[0].shape[1] - 1 - self.hidden
        if self.inputs == 2:
            self.gates[0][:, :2] *= torch.tensor([1 / P, math.exp(P)]).to(scale)
        self.head = scale * torch.cat((m["head.bias"][:, None], m["head.weight"]), 1)
        self.rows = self.inputs + len(cells) * (1 + 2 * self.hidden) + 4 * self.hidden + 2  # of working space
        self.like = scale

    def __call__(self, chunks: Sequence[list[_Part]]) -> None:
        """Move them, one after the other."""
        sizes, space = [sum(part.p.numel() for part in chunk) for chunk in chunks], None
        memory = _memory(self.like, self.rows * max(sizes, default=0))
        for chunk, n in zip(chunks, sizes, strict=True):
            if space is None or n != space.n:
                space = _Space(self, n, memory)
            self.move(chunk, space)

    def move(self, chunk: list[_Part], space: "_Space") -> None:
        alone, state = chunk[0] if len(chunk) == 1 else None, [*zip(*(part.state for part in chunk), strict=True)]
        if alone and alone.d.dtype == space.d.dtype and alone.d.dim() == 1:
            d = alone.d
        else:
            d = space.d
            for part, into in zip(chunk, d.split([part.p.numel() for part in chunk]), strict=True):
                into.view(part.d.shape).copy_(part.d)
        if self.inputs == 2:
            torch.log(torch.abs(d, out=space.g), out=space.seen[0]).clamp_(min=-P)
            torch.clamp(d, -math.exp(-P), math.exp(-P), out=space.seen[1])
        else:
            space.seen[0].copy_(d)
        for h, of_parts in zip(space.hs, state[::2], strict=True):
            _gather(of_parts, h)
        cs, direct = space.cs, False
        if alone and alone.state[0].dtype == d.dtype:
            cs, direct = alone.state[1::2], True
        else:
            for c, of_parts in zip(cs, state[1::2], strict=True):
                _gather(of_parts, c)
        for W, x, h, c in zip(self.gates, space.xs, space.hs, cs, strict=True):
            torch.mm(W, x, out=space.gates)
            space.ifo.sigmoid_()
            c.mul_(space.f).addcmul_(space.i, space.u.tanh_())
            torch.tanh(c, out=h).mul_(space.o)
        torch.mm(self.head, space.last, out=space.g_row)
        for h, of_parts in zip(space.hs, state[::2], strict=True):
            _scatter(h, of_parts)
        if not direct:
            for c, of_parts in zip(cs, state[1::2], strict=True):
                _scatter(c, of_parts)
        if alone:
            _add(alone.p, alone.lr, space.g)
        else:
            for part, g in zip(chunk, space.g.split([part.p.numel() for part in chunk]), strict=True):
                _add(part.p, part.lr, g)


_OF_THREAD = threading.local()


def _memory(like: Tensor, size: int) -> Tensor:
    """At least `size` numbers, on a CPU those that this thread had before: pages that are fresh are dear, and a small
    network's step is short."""
    if like.device.type != "cpu":
        return like.new_empty(size)
    held = getattr(_OF_THREAD, "memory", None)
    if held is None or held.dtype != like.dtype or len(held) < size or held.is_inference():
        held = _OF_THREAD.memory = like.new_empty(size)
    return held


class _Space:
    """What `_Rule` computes with, for n coordinates."""

    def __init__(self, rule: _Rule, n: int, memory: Tensor):
        H, layers, self.n = rule.hidden, len(rule.gates), n
        seen, rows = rule.inputs + layers * (1 + H), memory[: rule.rows * n].view(rule.rows, n)
        of_m, cs, self.gates, of_one = rows.split([seen, layers * H, 4 * H, 2])
        firsts = range(rule.inputs, seen, 1 + H)  # of the ones
        for first in firsts:
            of_m[first] = 1
        self.seen, self.hs = of_m[: rule.inputs].unbind(), [of_m[first + 1 : first + 1 + H] for first in firsts]
        ends = [first + 1 + H for first in firsts]
        self.xs = [of_m[end - W.shape[1] : end] for end, W in zip(ends, rule.gates, strict=True)]
        self.last = of_m[-1 - H :]
        self.cs, (self.d, self.g), self.g_row = cs.split(H), of_one.unbind(), of_one[1:]
        self.ifo, self.u = self.gates.split([3 * H, H])
        self.i, self.f, self.o = self.ifo.split(H)


def _add(p: Tensor, lr: float | Tensor, g: Tensor) -> None:
    """p + lr g, rounded once into p's dtype where lr is a number."""
    g = g if p.dim() == 1 else g.view(p.shape)
    if isinstance(lr, Tensor):
        p.add_(lr * g)
    else:
        p.add_(g, alpha=lr)


def _gather(parts: Sequence[Tensor], into: Tensor) -> None:
    if len(parts) == 1:
        into.copy_(parts[0])
    else:
        for part, piece in zip(parts, into.split([p.shape[1] for p in parts], 1), strict=True):
            piece.copy_(part)


def _scatter(whole: Tensor, parts: Sequence[Tensor]) -> None:
    if len(parts) == 1:
        parts[0].copy_(whole)
    else:
        for part, piece in zip(parts, whole.split([p.shape[1] for p in parts], 1), strict=True):
            part.copy_(piece)
