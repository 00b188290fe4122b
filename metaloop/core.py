"""The vocabulary: data, a task, a learner, a predictor.

Meta-learning looks for a function F that turns a small data set S into a predictor f:

    f      = F_theta(S)
    L(F)   = E_task [ loss of F_theta(S) on the task's query set Q ]
    theta* = argmin_theta L(F_theta)

Everything here describes ONE task. The engine adds the task axis, devices and processes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Generic, NamedTuple, TypeVar, dataclass_transform

from jaxtyping import Float
from torch import Tensor

from .torch_private import pytree

Theta = Any  # a pytree of tensors
T = TypeVar("T")  # the type of one learner's theta
Params = dict[str, Tensor]  # the theta of one network: its parameters by name
Scalar = Float[Tensor, ""]
Info = dict[str, Tensor]  # scalars to log


class Data(NamedTuple):
    """Examples of one task: `x` [n, ...] and their targets `y` [n, ...] (class indices are int64)."""

    x: Tensor
    y: Tensor


class Problem(NamedTuple):
    """Data with the parameters that descent on their loss starts from: an optimisation problem, as a support set."""

    x: Tensor
    y: Tensor
    start: Params


class Task(NamedTuple):
    """One problem: `support` is what F may learn from, `query` is what its predictor is judged on."""

    support: Data  # or a Problem
    query: Data


@dataclass(frozen=True)
class Learner(Generic[T]):
    """A meta-learner as three pure functions, written for one task. `Learner[Params]` says the type of theta.

    init:       (seed) -> theta                        a pytree of tensors
    adapt:      (theta, support) -> f                  F_theta : S -> f
    objective:  (adapt, theta, task) -> (loss, info)   info: scalars to log

    differentiates: does `adapt` or `objective` itself take a gradient? If so the engine takes the outer
        gradient task by task inside `vmap`, which is exact for every layer; if not, it may take the
        pooled gradient, which is cheaper. True is always right.
    statistics: (theta, support) -> part of theta. What must be estimated over meta-training tasks
        rather than learned by gradient (population statistics of `running` norms), or None.
    statistics_of_task: is `statistics` given the whole task, (theta, task), because such norms see support and query
        examples together (pairs of a query and a class)? Tasks are dealt as in meta-training.
    scheduled: (step) -> part of theta. What follows the meta-step rather than a gradient (the weight of a term that is
        annealed, a temperature), or None. `init` gives scheduled(0); theta after t meta-steps holds scheduled(t).
    classes: how many classes the objective's labels are numbered over, those of the whole training set, the same in
        every task (`pool.flat()`); None where each task numbers its own.
    """

    init: Callable[[int], T]
    adapt: Callable[[T, Data], Callable]
    objective: Callable[[Callable, T, Task], tuple[Tensor, Info]]
    differentiates: bool = field(default=True, kw_only=True)
    statistics: Callable[[T, Any], Theta] | None = field(default=None, kw_only=True)
    statistics_of_task: bool = field(default=False, kw_only=True)
    scheduled: Callable[[int], Theta] | None = field(default=None, kw_only=True)
    classes: int | None = field(default=None, kw_only=True)

    def __deepcopy__(self, memo: Any) -> "Learner[T]":
        return self  # a value


def fold(update: Callable[[Any, Data], Any], *, batch: int = 1) -> Callable[[Any, Data], Any]:
    """Learning from a stream: (f_0, stream) -> f_n, where f_i = update(f_{i-1}, example i).

    Examples lie along the first axis of the stream and are taken in order, `batch` of them at a time: update is given
    a Data of `batch` examples, the last time of what is left. f is any pytree.

    >>> import torch
    >>> longest = fold(lambda f, example: max(f, len(example.x)), batch=4)
    >>> longest(0, Data(torch.zeros(7, 2), torch.zeros(7)))
    4
    """

    def run(f: Any, stream: Data) -> Any:
        for x, y in zip(stream.x.split(batch), stream.y.split(batch), strict=True):
            f = update(f, Data(x, y))
        return f

    return run


def static() -> Any:
    """A field of a predictor that is not a tensor: a network's forward function, a step count."""
    return field(metadata={"static": True})


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def predictor(cls):
    """Make a class a value: a frozen dataclass that is also a pytree of its tensors.

    A predictor can be called (`f(x)`: [n, ...] -> [n, ...]), stacked over tasks, saved and sent.
    Fields marked `static()` are not tensors and travel with the structure.

    What f(x) answers, for n examples x:

        classes     scores [n, ways], with p(y = k | x) = softmax_k f(x): logits, or log-probabilities, up to a constant
                    for each example; -inf for a class that has no example in S, and for no other
        numbers     the numbers, shaped like their targets y [n, ...]
        densities   scores as for classes, which compare the densities of the ways sets; beside them
                    log_prob(x) -> log p(x | D_k) [n, ways], and sample(n) -> draws from each

    Where scores rank the classes and are no logits, a predictor may offer probabilities(x) [n, ways] beside them,
    of the same most probable class: then what reads probabilities (the engine, FewShotClassifier, `metaloop predict`)
    asks it in place of the softmax.
    """
    cls = dataclass(frozen=True)(cls)
    fixed = [f.name for f in fields(cls) if "static" in f.metadata]
    learned = [f.name for f in fields(cls) if "static" not in f.metadata]

    def flatten(f):
        return [getattr(f, n) for n in learned], tuple(getattr(f, n) for n in fixed)

    def flatten_with_keys(f) -> tuple[list[tuple[Any, Any]], Any]:
        leaves, context = flatten(f)
        return [(pytree.GetAttrKey(n), leaf) for n, leaf in zip(learned, leaves, strict=True)], context

    def unflatten(leaves, context):
        f = object.__new__(cls)  # not __init__: inside a transform the leaves are not tensors
        f.__dict__.update(zip(learned, leaves, strict=True))
        f.__dict__.update(zip(fixed, context, strict=True))
        return f

    pytree.register_pytree_node(
        cls, flatten, unflatten, flatten_with_keys_fn=flatten_with_keys,
        serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
    )
    return cls
