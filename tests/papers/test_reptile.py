"""Reptile, restated with torch.optim on a copy of the network."""

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug, law
from torch.testing import assert_close
from zoo import DERIVATIVE, HELPS, ORDER, Smooth, blobs, one

from metaloop import Data, Task, functional, meta_gradient, reptile
from metaloop.nn import sgd
from metaloop.testing import Case
from metaloop.torch_private import pytree

net, init = functional(Smooth())


@pytest.fixture
def theta():
    return {n: p.double() for n, p in init(0).items()}


@pytest.fixture
def tasks():
    return Task(*(Data(x.double(), y) for x, y in blobs(3, 0)))


def solve(theta, S: Data, batches: list[list[int]], optimizer):
    """phi: theta after a step of a torch optimizer on each minibatch."""
    phi = {n: p.clone().requires_grad_() for n, p in theta.items()}
    method = optimizer(list(phi.values()))
    for B in batches:
        method.zero_grad()
        F.cross_entropy(net(phi, S.x[B]), S.y[B]).backward()
        method.step()
    return {n: p.detach() for n, p in phi.items()}


def published(params):
    return torch.optim.Adam(params, lr=0.05, betas=(0.0, 0.999))


# A support set has 9 examples: the third minibatch of four wraps around.
MINIBATCHES = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 0, 1, 2], [3, 4, 5, 6], [7, 8, 0, 1]]
ALL = [list(range(9))] * 5


@pytest.mark.parametrize(
    ("batch", "batches"), [(4, MINIBATCHES), (None, ALL), (9, ALL), (100, ALL)], ids=["4 of 9", "all", "9 of 9", "100"]
)
def test_phi_is_adam_without_momentum_on_consecutive_minibatches(theta, tasks, batch, batches):
    S, Q = one(tasks, 0)
    f = reptile(net, init, inner_lr=0.05, inner_steps=5, batch=batch).adapt(theta, S)
    phi = solve(theta, S, batches, published)
    assert_close(f.phi, phi)
    assert_close(f(Q.x), net(phi, Q.x))


def test_phi_by_sgd(theta, tasks):
    S, _ = one(tasks, 0)
    f = reptile(net, init, inner_lr=0.3, inner_steps=5, batch=4, optimizer=sgd()).adapt(theta, S)
    assert_close(f.phi, solve(theta, S, MINIBATCHES, lambda params: torch.optim.SGD(params, lr=0.3)))


def test_the_gradient_is_theta_minus_phi(theta, tasks):
    learner = reptile(net, init, inner_lr=0.05, inner_steps=5, batch=4)
    grads, loss, info = meta_gradient(learner)(theta, tasks)
    phis = [solve(theta, one(tasks, i).support, MINIBATCHES, published) for i in range(3)]
    assert_close(grads, {n: theta[n] - sum(phi[n] for phi in phis) / 3 for n in theta})
    assert_close(loss, sum((theta[n] - phi[n]).pow(2).sum() for phi in phis for n in theta) / 2 / 3)
    assert info == {}


def test_a_step_of_sgd_at_rate_eps_is_the_papers_update(theta, tasks):
    learner, eps = reptile(net, init, inner_lr=0.05, inner_steps=5, batch=4), 0.25
    phis = [solve(theta, one(tasks, i).support, MINIBATCHES, published) for i in range(3)]
    want = {n: p + eps * sum(phi[n] - p for phi in phis) / 3 for n, p in theta.items()}
    grads, *_ = meta_gradient(learner)(theta, tasks)
    moved = {n: p.clone() for n, p in theta.items()}
    for n, p in moved.items():
        p.grad = grads[n]
    torch.optim.SGD(moved.values(), lr=eps).step()
    assert_close(moved, want)


def test_the_queries_do_not_teach(theta, tasks):
    """Other queries change nothing."""
    learner = reptile(net, init, inner_steps=3, batch=4)
    other = tasks._replace(query=Data(tasks.query.x + 1, tasks.query.y.flip(1)))
    given, changed = (meta_gradient(learner)(theta, t) for t in (tasks, other))
    assert_close(given, changed)


def test_carried_moments_make_one_run_of_adam_over_the_tasks(theta, tasks):
    """With one task per meta-step and eps = 1, theta is handed on whole: as if the tasks' minibatches were one run."""
    learner = reptile(net, init, inner_lr=0.05, inner_steps=5, batch=4, carry_moments=True)
    start = pytree.tree_map(lambda t: t.double(), learner.init(0))
    assert len({id(t) for t in pytree.tree_leaves(learner.init(0))}) == len(pytree.tree_leaves(start))  # none twice
    assert_close(start["net"], theta)
    moved, leaves = start, pytree.tree_leaves(start)
    phi = {n: p.clone().requires_grad_() for n, p in theta.items()}
    adam = published(list(phi.values()))
    for i in range(3):
        S, Q = one(tasks, i)
        f = learner.adapt(moved, S)
        grads, *_ = meta_gradient(learner)(moved, pytree.tree_map(lambda t: t[i : i + 1], tasks))  # noqa: B023
        for leaf, g in zip(leaves, pytree.tree_leaves(grads), strict=True):
            leaf.sub_(g)
        for B in MINIBATCHES:
            adam.zero_grad()
            F.cross_entropy(net(phi, S.x[B]), S.y[B]).backward()
            adam.step()
        assert_close(moved["net"], {n: p.detach() for n, p in phi.items()})
        assert_close(f(Q.x), net(moved["net"], Q.x))
    _, v, _, scale = moved["method"]
    assert_close(scale, torch.tensor(1 - 0.999**15, dtype=torch.double))
    assert_close(list(v.values()), [adam.state[p]["exp_avg_sq"] for p in phi.values()])


HELD = "the solution phi is held constant in the meta-gradient"

CASES = {
    "reptile": lambda: Case(
        reptile(net, init, inner_lr=0.05, inner_steps=5, batch=4), blobs,
        {DERIVATIVE: HELD, ORDER: "inner steps take consecutive minibatches of S"},
    ),
    "reptile-carried": lambda: Case(
        reptile(net, init, inner_lr=0.05, inner_steps=3, batch=None, carry_moments=True), blobs,
        {DERIVATIVE: HELD, HELPS: "moments that Adam has moved are no moments; its meta-training is plain SGD"},
    ),
    "reptile-sgd": lambda: Case(
        reptile(net, init, inner_lr=0.3, inner_steps=4, batch=None, optimizer=sgd()), blobs, {DERIVATIVE: HELD}
    ),
}  # fmt: skip

BUGS = [
    Bug("reptile's gradient flows through phi", "learners/reptile.py",
        (("solve(held, task", "solve(theta, task"), ("q.detach()", "q")), "test_the_gradient_is_theta_minus_phi"),
    Bug("reptile steps twice as far", "learners/reptile.py",
        (".sum() / 2, {} ", ".sum(), {} "), "test_a_step_of_sgd_at_rate_eps_is_the_papers_update"),
    Bug("reptile sees its first minibatch only", "learners/reptile.py",
        ("torch.arange(k * batch, (k + 1) * batch,", "torch.arange(batch,"),
        "test_phi_is_adam_without_momentum_on_consecutive_minibatches"),
    Bug("reptile's last minibatch does not wrap around", "learners/reptile.py",
        ("device=S.x.device) % n", "device=S.x.device).clamp(max=n - 1)"),
        "test_phi_is_adam_without_momentum_on_consecutive_minibatches"),
    Bug("reptile's inner adam has momentum", "learners/reptile.py",
        ("adam(beta1=0.0)", "adam()"), "test_phi_is_adam_without_momentum_on_consecutive_minibatches"),
    Bug("reptile adapts to the queries", "learners/reptile.py",
        ("solve(held, task.support)", "solve(held, task.query)"), "test_the_queries_do_not_teach"),
    Bug("reptile's moments start anew for each task", "learners/reptile.py",
        ('return (theta["net"], theta["method"])', 'return (theta["net"], method.init(learned(theta["net"])))'),
        "test_carried_moments_make_one_run_of_adam_over_the_tasks"),
    Bug("reptile's moments are not drawn", "learners/reptile.py",
        ("state) if carry_moments else learned(phi, net)", "state) if False else learned(phi, net)"),
        "test_carried_moments_make_one_run_of_adam_over_the_tasks"),
    Bug("adam's second moment is not rescaled", "nn/descent.py",
        ("beta2 * v_scale + (1 - beta2)", "v_scale + 1"), "test_carried_moments_make_one_run_of_adam_over_the_tasks"),
    Bug("reptile brings its indices from the host", "learners/reptile.py",
        ("device=S.x.device) % n", "device=S.x.device) % n\n                B = [i % n for i in range(batch)]"),
        law("reads_no_values", "reptile")),
]  # fmt: skip
