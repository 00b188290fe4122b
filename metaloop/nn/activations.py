"""Activation functions that a search can choose: two functions of one number, and how they are put together.

Ramachandran, Zoph & Le, Searching for Activation Functions, 2017, arXiv:1710.05941. A core unit is

    f(x) = b(u1(x), u2(x))                                                                              (1)

with one of 25 unaries for u1, one for u2, and one of ten binaries; six of these commute, which leaves 4450 units. Its
name is "b u1 u2": "gate x x" is Swish, sigmoid(x) x; "max x relu" is ReLU. beta is learned, from 1 on; each of u1, u2
and b has its own. Where the paper leaves a function undefined or says no number: sqrt is of |x| + eps, eps = 1e-3.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

EPS = 1e-3

UNARIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # of x and beta
    "x": lambda x, beta: x,
    "-x": lambda x, beta: -x,
    "abs": lambda x, beta: x.abs(),
    "square": lambda x, beta: x * x,
    "cube": lambda x, beta: x * x * x,
    "sqrt": lambda x, beta: (x.abs() + EPS).sqrt(),
    "beta*x": lambda x, beta: beta * x,
    "x+beta": lambda x, beta: x + beta,
    "log": lambda x, beta: (x.abs() + EPS).log(),
    "exp": lambda x, beta: x.exp(),
    "sin": lambda x, beta: x.sin(),
    "cos": lambda x, beta: x.cos(),
    "sinh": lambda x, beta: x.sinh(),
    "cosh": lambda x, beta: x.cosh(),
    "tanh": lambda x, beta: x.tanh(),
    "asinh": lambda x, beta: x.asinh(),
    "atan": lambda x, beta: x.atan(),
    "sinc": lambda x, beta: torch.sinc(x / torch.pi),
    "relu": lambda x, beta: x.relu(),
    "min0": lambda x, beta: -(-x).relu(),
    "sigmoid": lambda x, beta: x.sigmoid(),
    "softplus": lambda x, beta: nn.functional.softplus(x),
    "gauss": lambda x, beta: (-x * x).exp(),
    "erf": lambda x, beta: x.erf(),
    "beta": lambda x, beta: beta.expand_as(x),
}
BINARIES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {  # of u1, u2 and beta
    "add": lambda a, b, beta: a + b,
    "mul": lambda a, b, beta: a * b,
    "sub": lambda a, b, beta: a - b,
    "div": lambda a, b, beta: a / (b + EPS),
    "max": lambda a, b, beta: torch.maximum(a, b),
    "min": lambda a, b, beta: torch.minimum(a, b),
    "gate": lambda a, b, beta: a.sigmoid() * b,
    "bump": lambda a, b, beta: (-beta * (a - b).square()).exp(),
    "peak": lambda a, b, beta: (-beta * (a - b).abs()).exp(),
    "mix": lambda a, b, beta: beta * a + (1 - beta) * b,
}
COMMUTE = ("add", "mul", "max", "min", "bump", "peak")  # b(u1, u2) = b(u2, u1)


def units() -> list[str]:
    """The names of the 4450 different core units."""
    names = [*UNARIES]
    return [
        f"{b} {u1} {u2}" for b in BINARIES for i, u1 in enumerate(names) for u2 in names[i if b in COMMUTE else 0 :]
    ]  # fmt: skip


class Unit(nn.Module):
    """One core unit (1) as an activation: "gate x x", say.

    channels: a beta for each entry of the input's last axis; one for all unless given. Raises ValueError on a name that
    says no unit.

    >>> Unit("gate x x")(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([-0.2689,  0.0000,  0.7311])
    """

    def __init__(self, name: str, channels: int | None = None):
        super().__init__()
        self.parts, self.name = _read(name), name
        self.beta = nn.Parameter(torch.ones(3, *(() if channels is None else (channels,))))

    def forward(self, x: Tensor) -> Tensor:
        b, u1, u2 = self.parts
        first, second = UNARIES[u1](x, self.beta[0]), UNARIES[u2](x, self.beta[1])
        return BINARIES[b](first, second, self.beta[2])

    def extra_repr(self) -> str:
        return self.name


class Units:
    """Many core units at once: the k-th is applied to x[k], x [n, ..., c], with beta [n, 3, c].

    Each unary and each binary is computed once, for all that have it, so n networks that differ by their activation
    can be trained in one batch.
    """

    def __init__(self, names: Sequence[str]):
        b, u1, u2 = zip(*map(_read, names), strict=True)
        self.binary, self.first, self.second = map(_groups, (b, u1, u2))

    def __call__(self, x: Tensor, beta: Tensor) -> Tensor:
        betas = [beta[:, i].view(len(x), *(1,) * (x.dim() - 2), -1) for i in range(3)]
        first, second = _each(UNARIES, self.first, x, betas[0]), _each(UNARIES, self.second, x, betas[1])
        return _each(BINARIES, self.binary, first, second, betas[2])


# Kinds, how many have each, the places by kind and the way back; no places where the kinds stand in order.
Groups = tuple[list[str], list[int], Tensor | None, Tensor | None]


def _groups(kinds: Sequence[str]) -> Groups:
    order = sorted(range(len(kinds)), key=lambda i: kinds[i])
    different = sorted(set(kinds))
    places = torch.tensor(order)
    sizes = [kinds.count(kind) for kind in different]
    return (different, sizes, None, None) if order == sorted(order) else (different, sizes, places, places.argsort())


def _each(functions: dict[str, Callable[..., Tensor]], groups: Groups, *given: Tensor) -> Tensor:
    """functions[kind of k](given[k]): what has one kind is brought together, for each kind to be computed once."""
    kinds, sizes, places, back = groups
    if places is not None:
        given = tuple(t.index_select(0, places.to(t.device)) for t in given)
    parts = zip(*(t.split(sizes) for t in given), strict=True)
    each = torch.cat([functions[kind](*some) for kind, some in zip(kinds, parts, strict=True)])
    return each if back is None else each.index_select(0, back.to(each.device))


def _read(name: str) -> tuple[str, str, str]:
    parts = name.split()
    if len(parts) != 3 or parts[0] not in BINARIES or not set(parts[1:]) <= set(UNARIES):
        raise ValueError(f'nn.Unit: {name!r}, expected "BINARY UNARY UNARY" such as "gate x x": one of '
                         f"{', '.join(BINARIES)}, and two of {', '.join(UNARIES)}.")  # fmt: skip
    return parts[0], parts[1], parts[2]
