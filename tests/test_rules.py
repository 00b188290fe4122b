"""Update rules as formulas: named ones are the library's own, equal ones are one, a batch trains as each does."""

import optimizer_table
import pytest
import torch
import torch.nn.functional as F
from mutations import Bug
from torch.testing import assert_close

from metaloop import nn
from metaloop.nn.rules import behaviour, distinct

PHI = {"w": torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64), "b": torch.tensor(0.3, dtype=torch.float64)}


def walked(method, lr: float, steps: int = 6):
    """Down a bowl that is steeper in one direction and flat in the last."""
    phi, state = PHI, method.init(PHI)
    for _ in range(steps):
        g = {"w": phi["w"] * torch.tensor([1.0, 30.0, 0.0]).double() + 0.1, "b": phi["b"].sin()}
        phi, state = method.update(lr, g, phi, state)
    return phi


@pytest.mark.parametrize(
    ("text", "own", "factor"),
    [
        ("g", nn.sgd(), 1),
        ("m", nn.sgd(momentum=0.9), 0.1),  # an average in place of a sum
        ("rms", nn.rmsprop(alpha=0.999), 1),
        ("adam", nn.adam(), 1),
        ("exp(sign_g * sign_m) * g", nn.powersign(), 1),
        ("(1 + sign_g * sign_m) * g", nn.addsign(), 1),
        ("adam + 1 * decay", nn.adam(weight_decay=1e-4), 1),
    ],
)
def test_rules_with_a_name_are_the_librarys_own(text, own, factor):
    ours, theirs = walked(nn.rule(text), 0.01), walked(own, 0.01 * factor)
    for name in PHI:
        assert_close(ours[name], theirs[name], rtol=1e-12, atol=0)


def test_what_no_name_says():
    g = torch.tensor([0.5, -2e-4])
    step = nn.rule("clip(-g) + 1")
    assert_close(
        step.update(1.0, {"w": g}, {"w": torch.zeros(2)}, step.init({"w": g}))[0]["w"], -torch.tensor([0.999, 1.0002])
    )


def test_formulas_that_behave_alike_are_one_rule():
    assert distinct(["g * m", "m * g", "g + g", "-(-g)", "g", "sign(g)", "sign_g", "exp(m) * exp(g)"]) == [
        "g * m", "g + g", "-(-g)", "sign(g)", "exp(m) * exp(g)",
    ]  # fmt: skip
    assert behaviour("exp(exp(exp(exp(rms * rms))))") is None


def test_every_formula_of_a_group_has_its_rule():
    one, two = nn.rules(1), nn.rules(2)
    known = {behaviour(text) for text in (*one, *two)}
    assert len(known) == len(one) + len(two) == 2726  # as its page says
    some = [
        "-m",
        "clip(g)",
        "sign(decay) + exp(adam)",
        "exp(1) * rms",
        "1 + 1",
        "exp(sign_g * sign_m) * g",
        "clip(g + g) * g",
    ]
    assert {behaviour(text) for text in some} <= known
    with pytest.raises(ValueError, match="groups is 3, expected 1 or 2"):
        nn.rules(3)


@pytest.mark.parametrize(
    "text", ["", "g g", "log(g)", "g / m", "g ** 2", "2 * g", "exp(g, m)", "__import__('os')", "g.data", "True", "1.0"]
)
def test_what_is_no_rule_is_one_line(text):
    with pytest.raises(ValueError, match=r"^rule: .*\.$") as error:
        nn.rule(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sign", ["-", "g+"])
@pytest.mark.parametrize("deep", [5000, 200_000])
def test_what_is_nested_too_deep_is_one_line(sign, deep):
    with pytest.raises(ValueError, match=r"^rule: a formula of \d+ letters that begins '.{20}' is nested too deep\.$"):
        nn.rule(sign * deep + "g")


@pytest.mark.parametrize("text", ["rms", "adam", "exp(sign_g * sign_m) * g"])
def test_an_inner_step_has_finite_derivatives_where_the_gradient_is_zero(text):
    method = nn.rule(text)

    def after(w):
        phi = {"w": w}
        return method.update(0.1, {"w": w * torch.tensor([0.0, 1.0])}, phi, method.init(phi))[0]["w"].square().sum()

    assert torch.func.jacrev(torch.func.grad(after))(torch.tensor([1.0, 2.0])).isfinite().all()


@pytest.fixture
def doubles():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("doubles")
def test_networks_of_the_table_are_trained_as_each_would_be_alone(monkeypatch):
    """In float64, so that no prediction depends on the order of a sum; the last of the rates diverges."""
    monkeypatch.setattr(optimizer_table, "TRAIN", 3 * optimizer_table.BATCH)
    g = torch.Generator().manual_seed(0)
    draw = lambda n: (torch.randn(n, 1, 14, 14, generator=g), torch.randint(10, (n,), generator=g))
    parts = {"train": draw(3 * optimizer_table.BATCH), "validation": draw(40), "test": draw(400)}
    for sizes, answer in ((optimizer_table.PERCEPTRON, optimizer_table.perceptron),
                          (optimizer_table.CONVOLUTIONS, optimizer_table.convolutions)):  # fmt: skip
        texts, rates = ["adam", "exp(sign_g * sign_m) * g"], [[0.01, 0.1, 0.03], [0.3, 3.0, 1e200]]
        many = optimizer_table.train(parts, sizes, answer, texts, rates, 0)["test"]
        alone = [
            [by_itself(parts, sizes, answer, text, lr) for lr in row] for text, row in zip(texts, rates, strict=True)
        ]
        assert_close(many, torch.tensor(alone), rtol=0, atol=1e-12, equal_nan=True)
        assert many.isnan().tolist() == [[False] * 3, [False, False, True]]
        assert len(set(many[0].tolist()) | set(many[1, :2].tolist())) > 3


def by_itself(parts, sizes, answer, text: str, lr: float) -> float:
    """One network, by a plain loop."""
    g = torch.Generator().manual_seed(optimizer_table.place(0, "update rules", 0))
    phi, method = optimizer_table.drawn(sizes, g), nn.rule(text)
    state, (x, y) = method.init(phi), parts["train"]
    one = lambda phi: {name: t[None] for name, t in phi.items()}
    for rows in torch.randperm(len(y), generator=g).split(optimizer_table.BATCH):
        slope = torch.func.grad(lambda phi, rows=rows: F.cross_entropy(answer(one(phi), x[rows])[0], y[rows]))(phi)
        phi, state = method.update(lr, slope, phi, state)
    if not all(t.isfinite().all() for t in phi.values()):
        return torch.nan
    x, y = parts["test"]
    return (answer(one(phi), x)[0].argmax(-1) == y).double().mean().item()


BUGS = [
    Bug("True is one", "nn/rules.py", ("if type(value) is int and value == 1", "if value == 1"),
        "test_what_is_no_rule_is_one_line[True]"),
    Bug("a rule's average is the old one", "nn/rules.py",
        ("step = {n: f(operands(g[n], p, m[n]", "step = {n: f(operands(g[n], p, state[0][n]"),
        "test_rules_with_a_name_are_the_librarys_own"),
    Bug("a rule's minus is forgotten", "nn/rules.py",
        ("return lambda given: -a(given)", "return lambda given: a(given)"), "test_what_no_name_says"),
    Bug("rules that behave alike are counted twice", "nn/rules.py",
        ("found.setdefault(behaviour(text), text)", "found.setdefault((text,), text)"),
        "test_formulas_that_behave_alike_are_one_rule"),
]  # fmt: skip
