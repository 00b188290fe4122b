"""The learned optimizer, restated one coordinate at a time."""

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug
from torch import nn
from torch.testing import assert_close
from zoo import DERIVATIVE, ORDER, WAYS, Smooth, batched, blobs, one, started, waves

from metaloop import Data, Task, functional, lstm_optimizer, meta_gradient
from metaloop.learners.lstm_optimizer import preprocess
from metaloop.nn import mlp
from metaloop.testing import Case
from metaloop.torch_private import pytree

HIDDEN, STEPS = 3, 5
net, init = functional(nn.Linear(4, WAYS))
# The support set has 9 examples: minibatches of four wrap around.
BATCHES = {4: [[0, 1, 2, 3], [4, 5, 6, 7], [8, 0, 1, 2], [3, 4, 5, 6], [7, 8, 0, 1]], None: [list(range(9))] * 5}


def make(**options):
    return lstm_optimizer(net, **{"inner_steps": STEPS, "hidden": HIDDEN, "scale": 0.3, "unroll": 2, **options})


@pytest.fixture
def task():
    return one(started(blobs, init)(1, 0))


def theta_of(learner):
    return pytree.tree_map(lambda p: p.double().requires_grad_(), learner.init(0))


def pre(d, p=10):
    """Equation (3)."""
    if d.abs() >= torch.e**-p:
        return [d.abs().log() / p, d.sign()]
    return [-torch.ones_like(d), torch.e**p * d]


def m(theta, inputs, state):
    """The network on the inputs of one coordinate: its step, and its new state."""
    h_below, new = torch.stack(inputs), []
    for layer, (h, c) in enumerate(state):
        z = theta["m"][f"lstm.cells.{layer}.weight"] @ torch.cat([h_below, h]) + theta["m"][f"lstm.cells.{layer}.bias"]
        i, f, o, g = (z[k * HIDDEN : (k + 1) * HIDDEN] for k in range(4))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h_below = torch.sigmoid(o) * torch.tanh(c)
        new.append((h_below, c))
    return theta["scale"].detach() * (theta["m"]["head.weight"] @ h_below + theta["m"]["head.bias"])[0], new


def train(theta, task, batches, *, preprocessed=True, unroll=2, constant=True):
    """phi_T, and the loss of equation (5). constant: whether gradients are held so."""
    S, Q = task
    phi = {name: p.detach().requires_grad_() for name, p in S.start.items()}
    nothing = torch.zeros(HIDDEN, dtype=torch.double)
    states = {name: [[(nothing, nothing)] * 2 for _ in p.flatten()] for name, p in phi.items()}
    losses = []
    for t, B in enumerate(batches):
        f_t = F.cross_entropy(net(phi, S.x[B]), S.y[B])
        if t > 0:
            losses.append(f_t)
        d = dict(zip(phi, torch.autograd.grad(f_t, phi.values(), create_graph=True), strict=True))
        if constant:
            d = {name: g.detach() for name, g in d.items()}
        if t % unroll == 0:
            phi = {name: p.detach().requires_grad_() for name, p in phi.items()}
            states = pytree.tree_map(torch.detach, states)
        for name, p in phi.items():
            steps = []
            for i, d_i in enumerate(d[name].flatten()):
                g, states[name][i] = m(theta, pre(d_i) if preprocessed else [d_i], states[name][i])
                steps.append(g)
            phi = {**phi, name: p + torch.stack(steps).view(p.shape)}
    losses.append(F.cross_entropy(net(phi, Q.x), Q.y))
    return phi, sum(losses), losses[-1]


@pytest.mark.parametrize("preprocessed", [True, False])
@pytest.mark.parametrize("batch", [4, None])
def test_phi_and_its_meta_gradient(task, batch, preprocessed):
    learner = make(batch=batch, preprocessed=preprocessed)
    theta = theta_of(learner)
    phi, loss, last = train(theta, task, BATCHES[batch], preprocessed=preprocessed)
    f = learner.adapt(theta, task.support)
    assert_close(f.phi, phi)
    assert_close(f(task.query.x), net(phi, task.query.x))

    leaves = list(theta["m"].values())
    want = dict(zip(theta["m"], torch.autograd.grad(loss, leaves), strict=True))
    grads, got, info = meta_gradient(learner)(pytree.tree_map(torch.detach, theta), batched(task))
    assert_close(got, loss.detach())
    assert_close(info["last"], last.detach())
    assert_close(grads["m"], want)
    assert grads["scale"] == 0


@pytest.mark.parametrize("other", [{"unroll": 3}, {"unroll": 100}, {"constant": False}], ids=str)
def test_truncation_and_dropped_derivatives_show(task, other):
    """The oracle's gradient with another truncation, or with second derivatives, is not the learner's."""
    learner = make()
    theta = theta_of(learner)
    grads, *_ = meta_gradient(learner)(pytree.tree_map(torch.detach, theta), batched(task))
    _, loss, _ = train(theta, task, BATCHES[None], **other)
    ours, theirs = grads["m"]["head.weight"], torch.autograd.grad(loss, theta["m"]["head.weight"])[0]
    assert (ours - theirs).norm() > 1e-5 * theirs.norm()


def test_without_truncation(task):
    learner = make(unroll=100)
    theta = theta_of(learner)
    grads, *_ = meta_gradient(learner)(pytree.tree_map(torch.detach, theta), batched(task))
    _, loss, _ = train(theta, task, BATCHES[None], unroll=100)
    assert_close(grads["m"]["head.weight"], torch.autograd.grad(loss, theta["m"]["head.weight"])[0])


def test_preprocessing_at_every_size():
    tiny = torch.e**-10
    d = torch.tensor([0.0, tiny / 2, -tiny / 2, tiny * 1.001, 1.0, -torch.e**5, 1e30], dtype=torch.double)
    assert_close(preprocess(d), torch.stack([torch.stack(pre(d_i)) for d_i in d]))
    assert_close(preprocess(d)[[0, 4, 5]], torch.tensor([[-1.0, 0.0], [0.0, 1.0], [0.5, -1.0]], dtype=torch.double))


def test_a_trained_rule_serves_other_networks_and_other_numbers_of_steps(task):
    theta = make().init(0)
    wide, init_wide = functional(nn.Sequential(nn.Linear(4, 7), nn.Linear(7, WAYS)))
    S = one(started(blobs, init_wide)(1, 0)).support
    S = S._replace(start={n: p.float() for n, p in S.start.items()}, x=S.x.float())
    f = lstm_optimizer(wide, inner_steps=2, hidden=HIDDEN).adapt(theta, S)
    assert f(S.x).shape == (9, WAYS)
    assert {n: p.shape for n, p in f.phi.items()} == {n: p.shape for n, p in init_wide(0).items()}


def test_a_support_set_without_a_start_is_refused(task):
    learner = make()
    with pytest.raises(ValueError, match="lstm_optimizer: the support set has no start"):
        learner.adapt(learner.init(0), Data(*task.support[:2]))
    with pytest.raises(ValueError, match="lstm_optimizer: the support set has no start"):
        learner.objective(learner.adapt, learner.init(0), Task(Data(*task.support[:2]), task.query))


CONSTANT = {DERIVATIVE: "gradients of the network that is trained are held constant"}
smooth, start = functional(Smooth())
curve, curve_start = functional(mlp((1, 16, 16, 1)))

CASES = {
    "lstm_optimizer": lambda: Case(
        lstm_optimizer(smooth, inner_steps=6, unroll=4, hidden=4), started(blobs, start), CONSTANT
    ),
    "lstm_optimizer-raw-minibatches": lambda: Case(
        lstm_optimizer(curve, inner_steps=3, batch=2, preprocessed=False, hidden=4, layers=1, loss=F.mse_loss),
        started(waves, curve_start, 0.2), {**CONSTANT, ORDER: "steps take consecutive minibatches of S"},
    ),
}  # fmt: skip

BUGS = [
    Bug("the learned optimizer's gradients are of second order", "learners/lstm_optimizer.py",
        (("(phi.detach())\n            d = d.detach()", "(phi)"),
        ("value.detach() + d @ (phi - phi.detach())", "value")), "test_phi_and_its_meta_gradient"),
    Bug("back-propagation is not truncated", "learners/lstm_optimizer.py",
        ("t % unroll == 0 and", "t < 0 and"), "test_phi_and_its_meta_gradient"),
    Bug("truncation cuts the loss it comes after", "learners/lstm_optimizer.py",
        ("            d, value =",
        "            phi = phi.detach() if t % unroll == 0 else phi\n            d, value ="),
        "test_phi_and_its_meta_gradient"),
    Bug("coordinates lose their state", "learners/lstm_optimizer.py",
        ("g, h = step(m, theta, d, h)", "g, h = step(m, theta, d, None)"), "test_phi_and_its_meta_gradient"),
    Bug("small gradients are not told apart", "learners/lstm_optimizer.py",
        ("torch.e**P * d, d.sign()", "0 * d, d.sign()"), "test_preprocessing_at_every_size"),
    Bug("the start is scored instead of the end", "learners/lstm_optimizer.py",
        ("[*losses[1:], last]", "[*losses]"), "test_phi_and_its_meta_gradient"),
]  # fmt: skip
