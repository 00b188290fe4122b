"""PowerSign and AddSign, as torch optimizers and as inner methods, against the published update."""

import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug, law
from torch import nn
from torch.testing import assert_close

import metaloop as ml
from metaloop.nn import addsign, powersign, sign_decay

DECAYS = {
    "": lambda t: 1.0,
    "linear": lambda t: max(0.0, (5 - t) / 5),
    "cosine": lambda t: 0.5 * (1 + math.cos(2 * math.pi * 0.5 * min(t, 5) / 5)),
    "restart": lambda t: 0.5 * (1 + math.cos(math.pi * ((1.5 * t) % 5) / 5)),
}


def decay(kind):
    return sign_decay(kind, 5, periods=1.5 if kind == "restart" else None) if kind else None


def sign(x):
    return (x > 0) - (x < 0)


def slow(rule, constant, beta, f, lr, start, gradients):
    """The paper's update, number by number."""
    path = []
    for number in range(len(start)):
        x, m = start[number], 0.0
        for t, g in enumerate(gradients):
            m = beta * m + (1 - beta) * g[number]
            agree = f(t) * sign(g[number]) * sign(m)
            x -= lr * (constant**agree if rule == "power" else constant + agree) * g[number]
        path.append(x)
    return torch.tensor(path, dtype=torch.double)


G = torch.Generator().manual_seed(0)
START = torch.randn(6, generator=G, dtype=torch.double)
GRADIENTS = torch.randn(8, 6, generator=G, dtype=torch.double)
GRADIENTS[2:4, 1] = 0.0  # a gradient that is zero
GRADIENTS[:, 2] = 0.0  # and one that always is
FORMS = [("power", math.e, 0.9), ("power", 2.0, 0.5), ("add", 1.0, 0.9), ("add", 3.0, 0.0)]


@pytest.mark.parametrize("kind", DECAYS)
@pytest.mark.parametrize(("rule", "constant", "beta"), FORMS)
def test_steps_are_the_papers(rule, constant, beta, kind):
    want = slow(rule, constant, beta, DECAYS[kind], 0.1, START.tolist(), GRADIENTS.tolist())
    name = "base" if rule == "power" else "alpha"
    options = {name: constant, "beta": beta, "decay": decay(kind)}
    p = nn.Parameter(START.clone())
    method = (ml.optim.PowerSign if rule == "power" else ml.optim.AddSign)([p], lr=0.1, **options)
    inner = (powersign if rule == "power" else addsign)(**options)
    phi = {"w": START}
    state = inner.init(phi)
    for g in GRADIENTS:
        p.grad = g.clone()
        method.step()
        phi, state = inner.update(0.1, {"w": g}, phi, state)
    assert_close(p.detach(), want, rtol=0, atol=1e-12)
    assert_close(phi["w"], want, rtol=0, atol=1e-12)
    assert p[2] == START[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_counted_in_any_precision(dtype):
    """t goes beyond 256, the last that bfloat16 counts to: at 300 the line is at zero, and the step is SGD's."""
    phi = {"w": torch.zeros((), dtype=dtype)}
    method = powersign(decay=sign_decay("linear", 300))
    state, zero, one = method.init(phi), {"w": torch.zeros((), dtype=dtype)}, {"w": torch.ones((), dtype=dtype)}
    for _ in range(300):
        phi, state = method.update(1.0, zero, phi, state)
    phi, _ = method.update(1.0, one, phi, state)
    assert torch.equal(phi["w"], torch.tensor(-1, dtype=dtype))


def xor(optimizer, net, steps):
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.double)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), torch.tensor([0, 1, 1, 0])).backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double()


@pytest.mark.parametrize("kind", ["PowerSign", "AddSign"])
def test_a_loop_is_mamls_inner_loop_and_goes_on_from_its_state(kind):
    method = getattr(ml.optim, kind)
    make = lambda net: method([{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 0.2}],
                              lr=0.2, decay=sign_decay("cosine", 9))  # fmt: skip
    whole, half = net(), net()
    full = xor(make(whole), whole, 6)
    optimizer = make(half)
    xor(optimizer, half, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = make(half)
    again.load_state_dict(torch.load(file, weights_only=True))
    for a, b in zip(xor(again, half, 3), full, strict=True):
        assert torch.equal(a, b)
    inner = {"PowerSign": powersign, "AddSign": addsign}[kind](decay=sign_decay("cosine", 9))
    pure, init = ml.functional(net())
    learner = ml.maml(pure, init, inner_lr=0.2, inner_steps=6, optimizer=inner)
    S = ml.Data(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).double(), torch.tensor([0, 1, 1, 0]))
    start = {n: p.detach().clone() for n, p in net().named_parameters()}
    assert_close([*learner.adapt(start, S).phi.values()], full)


def test_what_is_no_rule_is_refused_in_one_line():
    w = [nn.Parameter(torch.ones(2))]
    for call, why in [
        (lambda: powersign(base=0.0), "base=0.0, expected a number above 0"),
        (lambda: addsign(beta=1.0), "addsign: beta=1.0"),
        (lambda: sign_decay("exponential", 5), 'expected "linear"'),
        (lambda: sign_decay("cosine", 0), "steps=0"),
        (lambda: sign_decay("linear", 5, periods=2), "periods=2"),
        (lambda: ml.optim.PowerSign(w, base=-1.0), "base=-1.0"),
        (lambda: ml.optim.AddSign(w, lr=-1.0), "lr=-1.0"),
    ]:
        with pytest.raises(ValueError, match=why) as told:
            call()
        assert "\n" not in str(told.value)
    optimizer = ml.optim.PowerSign(w)
    adam = torch.optim.Adam(w)
    w[0].grad = torch.ones(2)
    adam.step()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="PowerSign: this state is of another optimizer"):
        optimizer.load_state_dict(adam.state_dict())
    assert optimizer.state_dict() == before
    held = w[0].detach().clone()
    w[0].grad = torch.ones(2).to_sparse()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
    assert torch.equal(w[0], held)


BUGS = [
    Bug("powersign looks at the average before this gradient", "nn/descent.py",
        ("agree = {n: g[n].sign() * m[n].sign() for n in phi}",
         "agree = {n: g[n].sign() * state[0][n].sign() for n in phi}"), "test_steps_are_the_papers[power-2.0-0.5-]"),
    Bug("a restart comes late", "nn/descent.py",
        ("torch.remainder(n * t, steps) / steps", "torch.remainder(t, steps) / steps"),
        "test_steps_are_the_papers[power-2.0-0.5-restart]"),
    Bug("a cosine goes up again", "nn/descent.py",
        ("2 * n * t.clamp_max(steps)", "2 * n * t"), "test_steps_are_the_papers[add-1.0-0.9-cosine]"),
    Bug("powersign counts in the parameter's dtype", "nn/descent.py",
        ("dtype=torch.promote_types(first.dtype, torch.float32)", "dtype=first.dtype"),
        "test_steps_are_counted_in_any_precision[dtype1]"),
    Bug("a sign optimizer forgets its step", "sign.py",
        ('kept["m"], kept["step"] = m[""], t', 'kept["m"], kept["step"] = m[""], state[1]'),
        "test_a_loop_is_mamls_inner_loop_and_goes_on_from_its_state[PowerSign]"),
    Bug("powersign cuts the inner gradient off", "nn/descent.py",
        ("step = {n: factor(agree[n]) * g[n] for", "step = {n: factor(agree[n]) * g[n].detach() for"),
        law("meta_gradient_is_the_derivative", "maml-powersign")),
]
