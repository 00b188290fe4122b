"""The meta-learner LSTM, restated one coordinate at a time; and gradient descent as an LSTM whose gates are fixed."""

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug
from torch import nn
from torch.testing import assert_close
from zoo import DERIVATIVE, WAYS, Smooth, batched, blobs, one

from metaloop import Data, functional, maml, meta_gradient, meta_lstm
from metaloop.nn import norm
from metaloop.testing import Case
from metaloop.torch_private import pytree

HIDDEN, STEPS, B = 3, 4, 9  # the support set has nine examples
net, init = functional(nn.Linear(4, WAYS))


def make(**options):
    return meta_lstm(net, init, **{"inner_steps": STEPS, "hidden": HIDDEN, **options})


@pytest.fixture
def task():
    return one(blobs(1, 0))


def theta_of(learner, spread: float = 0.5):
    """theta with weights that count: those it starts from are below 0.01."""
    g, theta = torch.Generator().manual_seed(1), learner.init(0)
    moved = {n: part for n, part in theta.items() if n != "net"}
    moved = pytree.tree_map(lambda p: p.double() + spread * torch.randn(p.shape, generator=g).double(), moved)
    theta = {**moved, "net": {n: p.double() for n, p in theta["net"].items()}}
    return pytree.tree_map(lambda p: p.requires_grad_(), theta)


def pre(d, p=10):
    if d.abs() >= torch.e**-p:
        return [d.abs().log() / p, d.sign()]
    return [-torch.ones_like(d), torch.e**p * d]


def lstm(params, x, state):
    """A step of the LSTM for one coordinate: (h, c)."""
    h, c = state
    gates = params["cells.0.weight"] @ torch.cat([torch.stack(x), h]) + params["cells.0.bias"]
    i, f, o, g = gates[:HIDDEN], gates[HIDDEN : 2 * HIDDEN], gates[2 * HIDDEN : 3 * HIDDEN], gates[3 * HIDDEN :]
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def descend(theta, S, *, twice=True, fed_back=lambda a: a, constant=True):
    """phi_T. twice: whether the mean gradient is divided by B; fed_back: what (3) sees of the step before."""
    phi, nothing = dict(theta["net"]), torch.zeros((), dtype=torch.double)
    zeros = torch.zeros(HIDDEN, dtype=torch.double)
    states = {n: [((zeros, zeros), nothing, nothing)] * p.numel() for n, p in phi.items()}
    for _ in range(STEPS):
        L = sum(F.cross_entropy(net(phi, x[None]), y[None]) for x, y in zip(*S, strict=True)) / B
        slopes = dict(zip(phi, torch.autograd.grad(L, phi.values(), create_graph=True), strict=True))
        after = {}
        for name, p in phi.items():
            moved = []
            for j, (value, d) in enumerate(zip(p.flatten(), slopes[name].flatten(), strict=True)):
                g, seen = (d / B if twice else d), L
                if constant:
                    g, seen = g.detach(), L.detach()
                state, a_f, a_i = states[name][j]
                h, c = lstm(theta["lstm"], [*pre(seen), *pre(g)], state)
                a_f, a_i = (
                    torch.cat([h, value[None], fed_back(a)[None]]) @ theta[gate]["weight"] + theta[gate]["bias"]
                    for gate, a in (("forget", a_f), ("input", a_i))
                )
                states[name][j] = (h, c), a_f, a_i
                moved.append(a_f.sigmoid() * value - a_i.sigmoid() * g)
            after[name] = torch.stack(moved).view(p.shape)
        phi = after
    return phi


def test_phi_and_its_meta_gradient(task):
    learner = make()
    theta = theta_of(learner)
    phi = descend(theta, task.support)
    f = learner.adapt(theta, task.support)
    assert_close(f.phi, phi)
    assert_close(f(task.query.x), net(phi, task.query.x))

    loss = F.cross_entropy(net(phi, task.query.x), task.query.y)
    leaves, spec = pytree.tree_flatten(theta)
    want = pytree.tree_unflatten(list(torch.autograd.grad(loss, leaves)), spec)
    grads, got, info = meta_gradient(learner)(pytree.tree_map(torch.detach, theta), batched(task))
    assert_close(got, loss.detach())
    assert_close(grads, want)
    assert_close(info["accuracy"], (net(phi, task.query.x).argmax(1) == task.query.y).double().mean())


@pytest.mark.parametrize(
    "other", [{"twice": False}, {"fed_back": torch.sigmoid}], ids=["divided once", "gates fed back"]
)
def test_what_paper_and_code_disagree_on_shows(task, other):
    """The paper's own recurrence, and the mean gradient as it is, lead elsewhere."""
    learner = make()
    theta = theta_of(learner)
    ours, theirs = learner.adapt(theta, task.support).phi["weight"], descend(theta, task.support, **other)["weight"]
    assert (ours - theirs).abs().max() > 1e-4


def test_second_derivatives_are_left_out(task):
    learner = make()
    theta = theta_of(learner)
    loss = F.cross_entropy(net(descend(theta, task.support, constant=False), task.query.x), task.query.y)
    theirs = torch.autograd.grad(loss, theta["net"]["weight"])[0]
    grads, *_ = meta_gradient(learner)(pytree.tree_map(torch.detach, theta), batched(task))
    assert (grads["net"]["weight"] - theirs).abs().max() > 1e-6


@pytest.mark.parametrize("gates", ["learned", "constant", "descent"])
def test_with_its_gates_fixed_it_is_gradient_descent(task, gates):
    """w_F = w_I = 0, f -> 1: the steps of SGD at rate sigmoid(b_I) / B."""
    learner = make(gates=gates)
    theta = theta_of(learner)
    rate = theta["input"]["bias"].sigmoid().item() / B
    for name in {"forget", "input"} & theta.keys():
        theta[name] = {n: torch.zeros_like(p) if n == "weight" else p for n, p in theta[name].items()}
    if "forget" in theta:
        theta["forget"]["bias"] = torch.tensor(50.0, dtype=torch.double)
    phi = {n: p.detach().clone().requires_grad_() for n, p in theta["net"].items()}
    optimizer = torch.optim.SGD(phi.values(), lr=rate)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(net(phi, task.support.x), task.support.y).backward()
        optimizer.step()
    f = learner.adapt(theta, task.support)
    assert_close(f.phi, phi, rtol=0, atol=1e-6)
    fomaml = maml(net, init, inner_lr=rate, inner_steps=STEPS, first_order=True)
    assert_close(f.phi, fomaml.adapt(theta["net"], task.support).phi, rtol=0, atol=1e-6)
    assert max((phi[n] - p).abs().max() for n, p in theta["net"].items()) > 1e-4  # it did move


def test_constant_gates_decay_the_start(task):
    learner = make(gates="constant")
    theta = theta_of(learner)
    phi, f, i = dict(theta["net"]), theta["forget"]["bias"].sigmoid(), theta["input"]["bias"].sigmoid()
    for _ in range(STEPS):
        L = F.cross_entropy(net(phi, task.support.x), task.support.y)
        slopes = torch.autograd.grad(L, phi.values())
        phi = {n: f * p - i * g / B for (n, p), g in zip(phi.items(), slopes, strict=True)}
    assert_close(learner.adapt(theta, task.support).phi, phi)


def test_it_starts_as_slow_descent():
    start = meta_lstm(net, init).init(3)
    assert 4 <= start["forget"]["bias"] <= 5
    assert -5 <= start["input"]["bias"] <= -4
    small = [*start["lstm"].values(), start["forget"]["weight"], start["input"]["weight"]]
    assert [tuple(p.shape) for p in small] == [(80, 24), (80,), (22,), (22,)]
    assert all(0 < p.abs().max() <= 0.01 for p in small)
    assert_close(start["net"], init(3))
    for gates, parts in (("constant", {"net", "forget", "input"}), ("descent", {"net", "input"})):
        other = meta_lstm(net, init, gates=gates).init(3)
        assert other.keys() == parts  # and their numbers are those of the learned gates: rows differ in the gates alone
        assert all(torch.equal(other[name]["bias"], start[name]["bias"]) for name in parts - {"net"})


def test_queries_are_normalised_by_the_support_set(task):
    normed, start = functional(nn.Sequential(nn.Linear(4, WAYS), norm(WAYS, "support")))
    learner = meta_lstm(normed, start, inner_steps=1, hidden=2)
    f = learner.adapt(learner.init(0), Data(task.support.x.float(), task.support.y))
    x = task.query.x.float()
    assert_close(torch.cat([f(x[:2]), f(x[2:])]), f(x))


def test_other_gates_are_refused():
    with pytest.raises(ValueError, match="meta_lstm: gates is 'fixed', expected 'learned'"):
        make(gates="fixed")


CONSTANT = {DERIVATIVE: "gradients of the network that is trained are held constant"}
smooth = functional(Smooth())


CASES = {"meta_lstm": lambda: Case(meta_lstm(*smooth, inner_steps=2, hidden=2), blobs, CONSTANT)}

BUGS = [
    Bug("meta_lstm feeds its gates back", "learners/meta_lstm.py",
        ("torch.stack([phi, before], -1)", "torch.stack([phi, before.sigmoid()], -1)"),
        "test_phi_and_its_meta_gradient"),
    Bug("meta_lstm's coordinates lose their state", "learners/meta_lstm.py",
        ("seen[None], h) ", "seen[None], None) "), "test_phi_and_its_meta_gradient"),
    Bug("meta_lstm's start learns nothing through the steps", "learners/meta_lstm.py",
        ("kept = a", "phi = phi.detach()\n            kept = a"), "test_phi_and_its_meta_gradient"),
    Bug("meta_lstm's gradients are of second order", "learners/meta_lstm.py",
        (("with torch.no_grad():", "with torch.enable_grad():"), ("(phi.detach())", "(phi)")),
        "test_phi_and_its_meta_gradient"),
    Bug("meta_lstm takes the mean gradient as it is", "learners/meta_lstm.py",
        ("g = d / len(S.x)", "g = d"), "test_with_its_gates_fixed_it_is_gradient_descent[descent]"),
    Bug("meta_lstm's queries have norms of their own", "learners/meta_lstm.py",
        ("query_net, phi = condition(net, path(theta, S), S.x)", "query_net, phi = net, path(theta, S)"),
        "test_queries_are_normalised_by_the_support_set"),
]  # fmt: skip
