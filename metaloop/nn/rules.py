"""Update rules that a search can choose: formulas of a gradient and its averages, as steps of a descent.

Bello, Zoph, Vasudevan & Le, Neural Optimizer Search with Reinforcement Learning, ICML 2017, arXiv:1709.07417. A rule is
an expression of operands, unaries, + and *, written as it reads: "exp(sign_g * sign_m) * g" is PowerSign. With
m' = .9 m + .1 g and v' = .999 v + .001 g^2, from 0 on, and t counted from 1:

    phi'         = phi - lr rule                                                                          (1)
    g, m, sign_g, sign_m      the gradient, m', and their signs
    rms          = g / (sqrt(v') + 1e-8)
    adam         = m' / (1 - .9^t) / (sqrt(v' / (1 - .999^t)) + 1e-8)
    decay        = 1e-4 phi
    1            = one
    exp, sign, clip           clip(a) is a within 1e-3 of zero; and -a

A group is b(u1(a1), u2(a2)) of operands a1, a2; `rules` has those of one group, and those of a second group that
multiplies the first by g. Two formulas are one rule if they have the same values.
"""

import ast
from collections.abc import Callable, Iterable
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from ..core import Params
from .descent import Descent, Rate, _rate, _scaled

BETA1, BETA2, EPS, DECAY, CLIP = 0.9, 0.999, 1e-8, 1e-4, 1e-3
OPERANDS = ("g", "m", "sign_g", "sign_m", "rms", "adam", "decay", "1")
UNARIES: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp, "sign": torch.sign, "clip": lambda a: a.clamp(-CLIP, CLIP), "-": torch.neg,
}  # fmt: skip

Operands = dict[str, Callable[[], Tensor]]  # by name, each made when it is asked for
Rule = Callable[[Operands], Tensor]


def read_rule(text: str) -> tuple[Rule, set[str]]:
    """A formula as a function of its operands, and which they are. Raises ValueError, with the part that is none."""
    deep = f"rule: a formula of {len(text)} letters that begins {text[:20]!r} is nested too deep."
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise ValueError(f"rule: {text!r} is no formula. It is read as 'exp(sign_g * sign_m) * g' is.") from None
    except (RecursionError, MemoryError):  # the parser says either
        raise ValueError(deep) from None
    used: set[str] = set()

    def of(node: ast.expr) -> Rule:
        match node:
            case ast.Name(id=name) if name in OPERANDS:
                used.add(name)
                return lambda given: given[name]()
            case ast.Constant(value=value) if type(value) is int and value == 1:
                used.add("1")
                return lambda given: given["1"]()
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                a = of(inner)
                return lambda given: -a(given)
            case ast.Call(func=ast.Name(id=name), args=[inner], keywords=[]) if name in UNARIES:
                u, a = UNARIES[name], of(inner)
                return lambda given: u(a(given))
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                a, b = of(left), of(right)
                return lambda given: a(given) + b(given)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                a, b = of(left), of(right)
                return lambda given: a(given) * b(given)
        known = f"{', '.join(OPERANDS)}; exp, sign, clip, - of one; + and * of two"
        raise ValueError(f"rule: {text!r}: {ast.unparse(node)!r} is not known. There are {known}.")

    try:
        return of(tree), used
    except RecursionError:
        raise ValueError(deep) from None


def operands(
    g: Tensor, phi: Tensor, m: Tensor, v: Tensor, m_scale: Tensor | float, v_scale: Tensor | float
) -> Operands:
    """(1)'s, of averages m', v' that have been brought up to date, and the scales 1 - beta^t."""
    return {
        "g": lambda: g, "m": lambda: m, "sign_g": g.sign, "sign_m": m.sign, "1": lambda: torch.ones_like(g),
        "rms": lambda: _scaled(g, v, EPS), "decay": lambda: DECAY * phi,
        "adam": lambda: _scaled(m / m_scale, v / v_scale, EPS),
    }  # fmt: skip


def rule(text: str) -> Descent:
    """(1) as a `Descent`: an inner step of MAML, say. It keeps m and v, whether asked for or not.

    Raises ValueError on a text that says no rule.

    >>> step = rule("exp(sign_g * sign_m) * g")
    >>> phi = {"w": torch.tensor([1.0, -1.0])}
    >>> step.update(0.1, {"w": torch.tensor([0.5, 0.0])}, phi, step.init(phi))[0]["w"]
    tensor([ 0.8641, -1.0000])
    """
    f, _ = read_rule(text)

    def init(phi: Params):
        zeros = [{n: torch.zeros_like(p) for n, p in phi.items()} for _ in "mv"]
        return (*zeros, next(iter(phi.values())).new_zeros(()), next(iter(phi.values())).new_zeros(()))

    def update(lr: Rate, g: Params, phi: Params, state):
        m, v, m_scale, v_scale = state
        m = {n: BETA1 * m[n] + (1 - BETA1) * g[n] for n in phi}
        v = {n: BETA2 * v[n] + (1 - BETA2) * g[n] ** 2 for n in phi}
        m_scale, v_scale = BETA1 * m_scale + (1 - BETA1), BETA2 * v_scale + (1 - BETA2)
        step = {n: f(operands(g[n], p, m[n], v[n], m_scale, v_scale)) for n, p in phi.items()}
        return {n: p - _rate(lr, n) * step[n] for n, p in phi.items()}, (m, v, m_scale, v_scale)

    return Descent(init, update)


def behaviour(text: str, digits: int = 9) -> tuple[str, ...] | None:
    """What a rule answers to 64 fixed gradients, averages and weights, to so many digits; None if not all is finite."""
    r = torch.Generator().manual_seed(0)
    g, phi, m = torch.randn(3, 64, generator=r, dtype=torch.float64)
    v = torch.rand(64, generator=r, dtype=torch.float64) + 0.01
    values = read_rule(text)[0](operands(g, phi, m, v, 1 - BETA1**10, 1 - BETA2**10))
    return tuple(f"{x + 0.0:.{digits}e}" for x in values.tolist()) if values.isfinite().all() else None


def distinct(texts: Iterable[str]) -> list[str]:
    """The first of each that behave alike; those that are not finite where all that is given is, are left out."""
    found: dict[tuple[str, ...] | None, str] = {None: ""}
    for text in texts:
        found.setdefault(behaviour(text), text)
    return [*found.values()][1:]


def rules(groups: int = 1) -> list[str]:
    """The different rules of one group; or of two, the second of which is * g, without those of one.

    Raises ValueError on another number of groups.
    """
    if groups not in (1, 2):
        raise ValueError(f"rules: groups is {groups}, expected 1 or 2.")
    parts = [*OPERANDS, *(_of(u, a) for u in UNARIES for a in OPERANDS)]
    one = distinct([*OPERANDS, *(f"{a} {b} {c}" for b in "*+" for a, c in combinations_with_replacement(parts, 2))])
    if groups == 1:
        return one
    two = distinct([*one, *(f"{_of(u, e)} * g" for e in one for u in ("", *UNARIES))])
    return two[len(one) :]


def _of(unary: str, text: str) -> str:
    """A formula of a formula, in brackets where it needs them."""
    whole = text if text in OPERANDS else f"({text})"
    return whole if not unary else f"-{whole}" if unary == "-" else f"{unary}({text})"
