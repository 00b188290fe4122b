"""PowerSign and AddSign as torch optimizers.

Bello, Zoph, Vasudevan & Le, Neural Optimizer Search with Reinforcement Learning, ICML 2017, arXiv:1709.07417. The steps
are those of `nn.powersign` and `nn.addsign`.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from .nn import Descent, addsign, powersign

Decay = Callable[[torch.Tensor], torch.Tensor]


def loss_of(closure: Callable[[], Any] | None) -> Any:
    """What a step's closure answers, if there is one; it takes gradients."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class Signed(torch.optim.Optimizer):
    """What the two share: a group's method makes the step of each of its parameters."""

    def __init__(self, params: Iterable[Any], decay: Decay | None, **defaults: float):
        self.decay = decay
        super().__init__(params, defaults)

    def method(self, group: dict[str, Any]) -> Descent:
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """A further group. Raises ValueError if a number of its is out of range."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            if not group["lr"] >= 0:
                raise ValueError(f"{type(self).__name__.lower()}: lr={group['lr']}, expected at least 0.")
            self.method(group)
        except ValueError as error:
            self.param_groups.pop()
            raise ValueError(f"optim: {error}") from None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; closure: clears the gradients, computes the loss, and returns it."""
        loss = loss_of(closure)
        every = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(p.grad.is_sparse or p.grad.is_complex() for p in every):
            name = type(self).__name__
            raise ValueError(f"optim.{name}: sparse and complex gradients are not supported. Take dense, real ones.")
        for group in self.param_groups:
            method = self.method(group)
            for p in group["params"]:
                if p.grad is not None:
                    kept = self.state[p]
                    state = ({"": kept["m"]}, kept["step"]) if kept else method.init({"": p})
                    phi, (m, t) = method.update(group["lr"], {"": p.grad}, {"": p}, state)
                    p.copy_(phi[""])
                    kept["m"], kept["step"] = m[""], t
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave. Raises ValueError, changing nothing, if that is of another optimizer."""
        groups, entries = state_dict.get("param_groups", []), state_dict.get("state", {}).values()
        wanted = set(self.defaults)
        if any(not wanted <= set(group) for group in groups) or any(set(kept) != {"m", "step"} for kept in entries):
            raise ValueError(f"optim.{type(self).__name__}: this state is of another optimizer.")
        super().load_state_dict(state_dict)


class PowerSign(Signed):
    """p <- p - lr base^(f(t) sign(g) sign(m)) g, where m is the average of gradients that `nn.powersign` says.

    params: parameters or groups, which may have an lr, base and beta of their own; torch's schedulers act on lr.
    decay: f, such as `nn.sign_decay("cosine", steps)`, of the number t = 0, 1, .. of a parameter's step; 1 unless
    given. `state_dict` holds m and t, not f. Raises ValueError if lr is negative, base not above 0, or beta not in
    [0, 1); and in a step, which changes nothing then, on sparse or complex gradients.

    >>> model = torch.nn.Linear(3, 1)
    >>> optimizer = PowerSign(model.parameters(), lr=0.1)
    >>> model(torch.ones(5, 3)).square().mean().backward()
    >>> optimizer.step()
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float = 0.1, base: float = math.e, beta: float = 0.9,
        decay: Decay | None = None,
    ):  # fmt: skip
        super().__init__(params, decay, lr=lr, base=base, beta=beta)

    def method(self, group: dict[str, Any]) -> Descent:
        return powersign(base=group["base"], beta=group["beta"], decay=self.decay)


class AddSign(Signed):
    """p <- p - lr (alpha + f(t) sign(g) sign(m)) g, and the rest as `PowerSign`, with alpha in the place of base."""

    def __init__(
        self, params: Iterable[Any], *, lr: float = 0.1, alpha: float = 1.0, beta: float = 0.9,
        decay: Decay | None = None,
    ):  # fmt: skip
        super().__init__(params, decay, lr=lr, alpha=alpha, beta=beta)

    def method(self, group: dict[str, Any]) -> Descent:
        return addsign(alpha=group["alpha"], beta=group["beta"], decay=self.decay)
