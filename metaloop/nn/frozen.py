"""A torch module that is not learned, as an embedding."""

import copy
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..core import Params

BATCH = 64  # examples that pass through the module at a time


def frozen(
    module: nn.Module, *, preprocess: Callable[[Tensor], Any] | None = None, keep: int = 100_000
) -> tuple["Frozen", Callable[[int], Params]]:
    """Any torch module, with the weights that it has, as `net(params, x)` and `init(seed) -> {}`.

    For what learns on top of features: `ml.protonet(*ml.frozen(module), ways=5)`, and others that take (embed, init).
    theta holds nothing of the module, and nothing moves it. It is a copy in eval mode: no dropout, norms with their
    running statistics. What `functional` refuses is allowed (attention, recurrence), because no task axis and no
    derivative goes through the module: it is given plain examples, those of all tasks together, and what it answers is
    constant, in x too. Each example's answer must be its own alone.

    preprocess: examples as a pool or the classifier has them, [n, ...], to what the module takes: the weights' own size
        and normalisation. Unless given, examples go in as they are.
    keep: answers are remembered by the content of the example, so that a picture passes through the module once; of so
        many examples, in memory, the oldest leave first. 0 remembers none.

    Raises ValueError where the module answers another thing than one tensor with a row for each example. Traced, by
    torch.compile or torch.export, the module is called as it is.

    >>> net, init = frozen(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    >>> net({}, torch.ones(5, 3)).shape, init(0)
    (torch.Size([5, 2]), {})
    """
    return Frozen(module, preprocess, keep), _nothing


def _nothing(seed: int) -> Params:
    return {}


class Frozen:
    """`net(params, x)`: the features of x, whatever params are. Made by `frozen`."""

    def __init__(self, module: nn.Module, preprocess: Callable[[Tensor], Any] | None = None, keep: int = 100_000):
        if not isinstance(module, nn.Module):
            raise ValueError(f"frozen: {type(module).__name__} is no torch module.")
        if keep < 0:
            raise ValueError(f"frozen: {keep=}, expected a number of examples, or 0.")
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.preprocess, self.keep = preprocess, keep
        self._known: dict[bytes, Tensor] = {}
        self._lock = threading.Lock()

    def __call__(self, params: Params, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return self._through(x)
        return _Alone.apply(self, x)  # type: ignore[return-value]

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module, "preprocess": self.preprocess, "keep": self.keep}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def features(self, x: Tensor) -> Tensor:
        """The features of plain examples x, [n, ...]: computed, or remembered."""
        if not self.keep or not len(x):
            return self._all(x)
        head = f"{x.dtype} {tuple(x.shape[1:])} ".encode()
        keys = [hashlib.blake2b(head + row.tobytes(), digest_size=16).digest() for row in x.detach().cpu().numpy()]
        with self._lock:
            new = {key: i for i, key in enumerate(keys) if key not in self._known}
            found = {key: self._known[key] for key in keys if key in self._known}
            if new:
                found |= zip(new, self._all(x[list(new.values())]).cpu().unbind(), strict=True)
                self._known |= {key: found[key].clone() for key in new}
                for key in [*self._known][: max(len(self._known) - self.keep, 0)]:
                    del self._known[key]
        return torch.stack([found[key] for key in keys]).to(x.device)

    def _all(self, x: Tensor) -> Tensor:
        at = next((p.device for p in self.module.parameters()), x.device)
        if at != x.device:
            self.module.to(x.device)
        return torch.cat([self._through(part) for part in x.split(BATCH)])

    def _through(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = self.module(x if self.preprocess is None else self.preprocess(x))
        if not isinstance(z, Tensor) or z.dim() < 2 or len(z) != len(x):
            told = f"a tensor of {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(
                f"frozen: {type(self.module).__name__} answers {told} to {len(x)} examples, expected a tensor "
                "[n, ...]. Wrap it in a module that picks the features."
            )
        return z.detach().to(x.dtype if x.is_floating_point() else z.dtype)


class _Alone(torch.autograd.Function):
    """The features of plain tensors, whatever transforms are at work: of many tasks, those of all their examples."""

    @staticmethod
    def forward(net: Frozen, x: Tensor) -> Tensor:
        return net.features(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx, *grads):
        return None, None

    @staticmethod
    def vmap(info, in_dims, net: Frozen, x: Tensor):
        x = x.movedim(in_dims[1], 0)
        return _Alone.apply(net, x.flatten(0, 1)).unflatten(0, x.shape[:2]), 0  # type: ignore[union-attr]
