"""Core units: a search over activations is over what the paper says, and a batch of them is each by itself."""

import math

import pytest
import torch
from mutations import Bug
from torch.testing import assert_close

from metaloop.nn import Unit, Units, units
from metaloop.nn.activations import BINARIES, COMMUTE, UNARIES

G = torch.Generator().manual_seed(0)
X = torch.randn(7, 3, generator=G, dtype=torch.double)


def test_there_are_4450_and_no_two_are_a_swap():
    names = units()
    assert (len(UNARIES), len(BINARIES), len(COMMUTE)) == (25, 10, 6)
    assert len(names) == len({*names}) == 4450
    a, b, beta = X[0], X[1], torch.tensor(0.7).double()
    for name, f in BINARIES.items():
        assert torch.allclose(f(a, b, beta), f(b, a, beta)) == (name in COMMUTE), name


@pytest.mark.parametrize(("name", "f"), [
    ("max x relu", lambda x: max(x, 0)),
    ("gate x x", lambda x: x / (1 + math.exp(-x))),
    ("mul x sigmoid", lambda x: x / (1 + math.exp(-x))),
    ("max x sigmoid", lambda x: max(x, 1 / (1 + math.exp(-x)))),
    ("sub sinc gauss", lambda x: math.sin(x) / x - math.exp(-x * x)),
    ("div cosh sqrt", lambda x: math.cosh(x) / (math.sqrt(abs(x) + 1e-3) + 1e-3)),
    ("bump log x+beta", lambda x: math.exp(-1 * (math.log(abs(x) + 1e-3) - x - 1) ** 2)),
    ("peak erf beta*x", lambda x: math.exp(-abs(math.erf(x) - x))),
    ("mix softplus beta", lambda x: math.log(1 + math.exp(x))),
])  # fmt: skip
def test_a_unit_is_its_name(name, f):
    assert_close(Unit(name)(X), X.clone().apply_(f))


def test_what_is_at_zero_has_torchs_slope_whatever_clamp_has_there():
    x = torch.zeros((), requires_grad=True)
    for name in ("relu", "min0"):
        (slope,) = torch.autograd.grad(UNARIES[name](x, x), x)
        assert slope == 0, name


def test_many_at_once_are_each_by_itself_with_its_gradients():
    """A random hundred of the units, and 25 that stand in order."""
    for names in ([units()[int(i)] for i in torch.randperm(4450, generator=G)[:100]], units()[:25]):
        x = torch.randn(len(names), 4, 3, generator=G, dtype=torch.double, requires_grad=True)
        beta = (1 + 0.1 * torch.randn(len(names), 3, 3, generator=G, dtype=torch.double)).requires_grad_()
        weights = torch.randn(len(names), 4, 3, generator=G, dtype=torch.double)
        together = Units(names)(x, beta)
        slopes = torch.autograd.grad((together * weights).sum(), (x, beta))
        for k, name in enumerate(names):
            unit = Unit(name, channels=3).double()
            with torch.no_grad():
                unit.beta.copy_(beta[k])
            own = x[k].detach().requires_grad_()
            found = unit(own)
            each = torch.autograd.grad((found * weights[k]).sum(), (own, unit.beta), allow_unused=True,
                                       materialize_grads=True)  # fmt: skip
            assert_close((together[k], slopes[0][k], slopes[1][k]), (found, *each))


@pytest.mark.parametrize("name", ["relu", "max x", "max x swish", "x max x", "max x x x"])
def test_what_is_no_unit_is_refused(name):
    with pytest.raises(ValueError, match="expected \"BINARY UNARY UNARY\""):
        Unit(name)


BUGS = [
    Bug("units come back in another order", "nn/activations.py",
        ("places, places.argsort())", "places, places)"),
        "test_many_at_once_are_each_by_itself_with_its_gradients"),
    Bug("a binary has the first unary's beta", "nn/activations.py",
        ("first, second, betas[2])", "first, second, betas[0])"),
        "test_many_at_once_are_each_by_itself_with_its_gradients"),
    Bug("what commutes is counted twice", "nn/activations.py",
        ("names[i if b in COMMUTE else 0 :]", "names"), "test_there_are_4450_and_no_two_are_a_swap"),
]  # fmt: skip
