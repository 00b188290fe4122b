"""Learned optimizers as torch optimizers: meta-train once, then use in any training loop."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .core import Theta
from .engine import Run
from .learners.lstm_optimizer import step
from .nn import Recurrent, functional
from .torch_private import pytree


class Learned(torch.optim.Optimizer):
    """A trained `lstm_optimizer` in an ordinary training loop: p <- p + lr m(pre(grad), h), each coordinate by itself.

    params: parameters, or groups of them, as any torch optimizer takes. learned: the Run that meta-training left, or
    its theta, which is not changed. lr: a factor on the learned steps, 1 as meta-trained; a group may have its own,
    and torch's schedulers act on it.

    The steps depend on the gradients' scale, so take the loss that was meta-trained on (as a rule the mean
    cross-entropy of a minibatch). `state_dict` holds each coordinate's state h, not theta. A theta in float32 serves
    parameters of any dtype. Raises ValueError if learned is no theta of lstm_optimizer, or lr is negative.

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
        gates = [p for name, p in theta["m"].items() if "cells" in name and p.dim() == 2]
        hidden = theta["m"]["head.weight"].shape[1]
        self.m, _ = functional(Recurrent(gates[0].shape[1] - hidden, hidden, 1, len(gates)))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; closure: clears the gradients, computes the loss, and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group["lr"])
        return loss

    def _move(self, p: Tensor, d: Tensor, lr: float | Tensor) -> None:
        if d.is_sparse:
            raise ValueError("optim.Learned: sparse gradients are not supported. Take dense ones (sparse=False).")
        theta, kept = self._theta_on(p.device), self.state[p]
        like = theta["scale"]
        h = tuple((kept[f"h{i}"].to(like), kept[f"c{i}"].to(like)) for i in range(len(kept) // 2)) or None
        g, h = step(self.m, theta, d.reshape(-1).to(like), h)
        p.add_(lr * g.view(d.shape).to(p.dtype))
        for i, (h_i, c_i) in enumerate(h):
            kept[f"h{i}"], kept[f"c{i}"] = h_i, c_i

    def _theta_on(self, device: torch.device) -> Theta:
        if self.theta["scale"].device != device:
            self.theta = pytree.tree_map(lambda t: t.to(device), self.theta)
        return self.theta
