"""Learned optimizers as torch optimizers: meta-train once, then use in any training loop."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .core import Theta
from .engine import Run
from .learners.lstm_optimizer import step
from .nn import Recurrent, functional
from .sign import AddSign as AddSign
from .sign import PowerSign as PowerSign
from .torch_private import pytree

__all__ = ["AddSign", "Learned", "PowerSign"]

BY_SCHEDULES = {"initial_lr", "max_lr", "min_lr", "swa_lr", "param_names"}  # what a group gets from others than us


class Learned(torch.optim.Optimizer):
    """A trained `lstm_optimizer` in an ordinary training loop: p <- p + lr m(pre(grad), h), each coordinate by itself.

    params: parameters, or groups of them, as any torch optimizer takes. learned: the Run that meta-training left, or
    its theta, which is not changed. lr: a factor on the learned steps, 1 as meta-trained; a group may have its own,
    and torch's schedulers act on it.

    The steps depend on the gradients' scale, so take the loss that was meta-trained on (as a rule the mean
    cross-entropy of a minibatch). `state_dict` holds each coordinate's state h, not theta; it comes back to the bit. A
    theta in float32 serves parameters of any dtype. A step with a gradient that is not finite, in theta's dtype, is
    left out whole, as torch's GradScaler does. Raises ValueError if learned is no finite theta of lstm_optimizer, lr is
    negative, or a state is loaded that is not of this optimizer.

    >>> import metaloop as ml
    >>> model = torch.nn.Linear(3, 1)
    >>> learner = ml.lstm_optimizer(ml.functional(model)[0])
    >>> optimizer = Learned(model.parameters(), learner.init(0))  # a trained theta will do better
    >>> model(torch.ones(5, 3)).square().mean().backward()
    >>> optimizer.step()
    """

    def __init__(self, params: Iterable[Any], learned: Run | Theta, *, lr: float = 1.0):
        theta = learned.theta if isinstance(learned, Run) else learned
        if not isinstance(theta, dict) or set(theta) != {"m", "scale"}:
            raise ValueError("optim.Learned: this is of another learner. Give a run of lstm_optimizer, or its theta.")
        if lr < 0:
            raise ValueError(f"optim.Learned: lr={lr}, expected at least 0.")
        super().__init__(params, {"lr": lr})
        self.theta = pytree.tree_map(lambda t: t.detach().clone(), theta)
        if not all(t.isfinite().all() for t in pytree.tree_leaves(self.theta)):
            raise ValueError("optim.Learned: theta holds numbers that are not finite. Take an earlier checkpoint.")
        hidden, gates = theta["m"]["head.weight"].shape[1], self._gates()
        self.m, _ = functional(Recurrent(gates[0].shape[1] - hidden, hidden, 1, len(gates)))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; closure: clears the gradients, computes the loss, and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moves = []
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if p.grad.is_sparse or p.grad.is_complex():
                        kind, fix = ("complex", "real") if p.grad.is_complex() else ("sparse", "dense")
                        raise ValueError(f"optim.Learned: {kind} gradients are not supported. Take {fix} ones.")
                    moves.append((p, p.grad.to(self.theta["scale"].dtype), group["lr"]))
        if all(d.isfinite().all() for _, d, _ in moves):
            for move in moves:
                self._move(*move)
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
                if t.dtype != self.theta["scale"].dtype or not t.isfinite().all():
                    raise ValueError(f"optim.Learned: {name} of parameter {index} is {t.dtype}, expected finite ones "
                                     f"in {self.theta['scale'].dtype}.")  # fmt: skip
        super().load_state_dict(state_dict)
        for index, entries in state.items():  # torch brings them into the parameter's dtype
            p = places[index]
            self.state[p] = {name: t.detach().to(p.device, copy=True) for name, t in entries.items()}

    def _gates(self) -> list[Tensor]:
        """The weights of each layer of m."""
        return [p for name, p in self.theta["m"].items() if "cells" in name and p.dim() == 2]

    def _move(self, p: Tensor, d: Tensor, lr: float | Tensor) -> None:
        theta, kept = self._theta_on(p.device), self.state[p]
        h = tuple((kept[f"h{i}"], kept[f"c{i}"]) for i in range(len(kept) // 2)) or None
        g, h = step(self.m, theta, d.reshape(-1), h)
        p.add_(lr * g.view(d.shape).to(p.dtype))
        for i, (h_i, c_i) in enumerate(h):
            kept[f"h{i}"], kept[f"c{i}"] = h_i, c_i

    def _theta_on(self, device: torch.device) -> Theta:
        if self.theta["scale"].device != device:
            self.theta = pytree.tree_map(lambda t: t.to(device), self.theta)
        return self.theta
