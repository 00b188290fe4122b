"""Meta-steps without Python: dealing, inner loops, meta-gradient and optimizer in one piece; on a GPU, one CUDA graph.

A meta-step of a small network is hundreds of kernels of some microseconds, and Python takes longer to launch them than
the GPU to run them. A graph launches all of them at once. What it needs is work that always does the same with tensors
that stay where they are, and that reads no number back to decide what to do next.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Generator, Tensor

from ..core import Info, Theta
from ..torch_private import pytree
from .batch import MetaGradient
from .deal import Deal
from .seeds import noise

T = TypeVar("T")
ORDINARY = 3  # calls before the capture: they make what is made once, and show whether the work waits for numbers


class Replayed(Generic[T]):
    """work(), a pytree of tensors that later calls may overwrite; on a GPU a graph from the fourth call on.

    generators: what work draws from besides torch's own; whoever calls seeds them all before each call.
    refused: why the work cannot be captured; it then goes on as it began, after a warning.
    """

    def __init__(self, work: Callable[[], T], device: torch.device, generators: Sequence[Generator] = ()):
        self.work, self.generators, self.calls = work, generators, 0
        self.graph: Any = None
        self.stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.refused = None if self.stream else f"a {device.type} has no such graphs"

    def __call__(self) -> T:
        self.calls += 1
        if self.calls > ORDINARY and self.graph is None and self.refused is None:
            self._capture()
        if self.graph is not None:
            self.graph.replay()
            return self.result
        if self.refused is not None:
            return self.work()
        here = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            result = self._watched() if self.calls == ORDINARY else self.work()
        here.wait_stream(self.stream)
        return result

    def _watched(self) -> T:
        """The work, while torch tells where Python waits for the GPU, which a graph cannot."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = self.work()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        waits = []
        for w in told:
            if "called a synchronizing" in str(w.message):
                waits.append(f"{w.filename}:{w.lineno}")
            elif "Synchronization debug mode" not in str(w.message):  # torch's own notice of this mode
                warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
        if waits:
            self._refuse(f"Python waits for the GPU {len(waits)} times, first at {waits[0]}")
        return result

    def _capture(self) -> None:
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.stream.device)
        for generator in self.generators if hasattr(graph, "register_generator_state") else ():  # later torch sees them
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.result = self.work()
        except RuntimeError as error:
            torch.cuda.set_stream(here)  # torch does not come back to it from a capture that cannot be ended
            self._refuse(str(error).partition("\n")[0])
        else:
            self.graph = graph

    def _refuse(self, reason: str) -> None:
        self.refused = reason
        warnings.warn(f"The meta-step is not replayed as a CUDA graph, and slower for it: {reason}.", stacklevel=4)


class Steady:
    """The meta-steps of a run, in one piece each: theta <- optimizer(theta, mean meta-gradient), with no look at it.

    Whether all was finite is asked from time to time (`fine`). If it was not, theta and optimizer go `back` to the last
    `mark`, from where one can walk again step by step, and look.
    """

    def __init__(
        self, gradient: MetaGradient, theta: Theta, deal: Deal, descent: torch.optim.Optimizer, scheduler: Any, *,
        clip: float | None, seed: int, step: int, fixed: Sequence[bool] | None = None,
    ):  # fmt: skip
        self.gradient, self.theta, self.deal, self.clip, self.seed = gradient, theta, deal, clip, seed
        self.leaves, self.descent, self.scheduler = pytree.tree_leaves(theta), descent, scheduler
        self.fixed = fixed or [False] * len(self.leaves)
        device = self.leaves[0].device
        cycles = getattr(scheduler, "cycle_momentum", False)  # a number that changes, which a graph would keep
        self.inside = not cycles and on_device(descent, device, changing_rate=scheduler is not None)
        self.all_finite = torch.ones((), dtype=torch.bool, device=device)
        self.whole = Replayed(self._work, device, deal.generators)
        self.mark(step)

    def __call__(self, step: int) -> Info:
        """Do a step; what there is to log of it."""
        self.deal.at(step)
        with noise(self.seed, "noise", step):
            told = self.whole()
        if not self.inside:
            self.descent.step()
        if self.scheduler is not None:
            self.scheduler.step()
        return {name: value.clone() for name, value in told.items()}

    def _work(self) -> Info:
        grads, loss, scalars = self.gradient(self.theta, self.deal())
        self.all_finite.logical_and_(total(grads, loss).isfinite())
        point(self.leaves, grads, self.fixed, self.clip)
        if self.inside:
            self.descent.step()
        return {"loss": loss, **scalars}

    def fine(self) -> bool:
        """Whether every loss and meta-gradient since the last mark was finite."""
        return bool(self.all_finite.item())

    def mark(self, step: int) -> None:
        """Remember where theta and the optimizer are, after so many steps."""
        states = (self.descent.state_dict(), self.scheduler and self.scheduler.state_dict())
        self.marked = step, [leaf.clone() for leaf in self.leaves], copy.deepcopy(states)

    def back(self) -> int:
        """Be where the mark is: after how many steps."""
        step, leaves, (of_descent, of_scheduler) = self.marked
        for leaf, then in zip(self.leaves, leaves, strict=True):
            leaf.copy_(then)
        self.descent.load_state_dict(of_descent)
        if self.scheduler is not None:
            self.scheduler.load_state_dict(of_scheduler)
        return step


def total(grads: Theta, loss: Tensor) -> Tensor:
    """One number that is finite if the loss and the whole meta-gradient are."""
    return torch.stack([loss.detach(), *(g.sum() for g in pytree.tree_leaves(grads))]).sum()


def point(leaves: list[Tensor], grads: Theta, fixed: Sequence[bool], clip: float | None) -> None:
    """Give theta's leaves their gradients, of a norm of `clip` at most; what is fixed has none, so none moves it."""
    for leaf, g, still in zip(leaves, pytree.tree_leaves(grads), fixed, strict=True):
        leaf.grad = None if still else g
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(leaves, clip)


def on_device(descent: torch.optim.Optimizer, device: torch.device, *, changing_rate: bool) -> bool:
    """Keep on the GPU what an optimizer changes from step to step, its learning rate included if that changes.

    Whether it can: those of torch that can be captured say so in their options.
    """
    if device.type != "cuda":
        return True
    if not all("capturable" in group for group in descent.param_groups):
        return False
    for group in descent.param_groups:
        group["capturable"] = True
        if changing_rate:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
    for state in descent.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(device)
    return True
