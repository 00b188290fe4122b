"""The flow's rate, the steps' limits and the solution, in a slow form; and the head, restated one number at a time."""

from math import exp, log

import pytest
import torch
from mutations import Bug, law
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.func import grad, jacrev
from torch.testing import assert_close
from zoo import WAYS, blobs, features, one

from metaloop import convex_head, functional
from metaloop.learners.convex_head import descend, gap
from metaloop.nn import norm
from metaloop.testing import Case

embed, init = features
N, DIM = 12, 5


def some(*shape: int, seed: int = 0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def number(t: float):
    return torch.tensor(t, dtype=torch.float64)


A, Y = some(N, DIM), torch.eye(WAYS).double()[torch.arange(N) % WAYS]


def primal(l, X):
    return -((A @ X).log_softmax(1) * Y).sum() + l / 2 * X.square().sum()


def field(l, X, p):
    """(4)."""
    return -A.mT @ p / l - X, (A @ X).softmax(1) - Y - p


@pytest.mark.parametrize("l", [1.0, 0.1])
def test_along_the_flow_the_gap_falls_as_fast_as_promised(l):
    """By Runge and Kutta's method, to t = 5."""
    X, p, dt = some(DIM, WAYS, seed=3), 1 / WAYS - Y, 0.05
    first = gap(A, Y, l, X, p)
    for i in range(100):
        k1 = field(l, X, p)
        k2 = field(l, X + dt / 2 * k1[0], p + dt / 2 * k1[1])
        k3 = field(l, X + dt / 2 * k2[0], p + dt / 2 * k2[1])
        k4 = field(l, X + dt * k3[0], p + dt * k3[1])
        X, p = (z + dt / 6 * (a + 2 * b + 2 * c + d) for z, a, b, c, d in zip((X, p), k1, k2, k3, k4, strict=True))
        assert 0 < gap(A, Y, l, X, p) <= first * exp(-dt * (i + 1))


def test_the_gap_bounds_the_distance_to_the_solution_and_closes():
    """Of the primal alone, as logistic regression without an intercept solves it."""
    theirs = LogisticRegression(C=1 / 0.5, fit_intercept=False, tol=1e-10, max_iter=1000)
    best = primal(0.5, torch.from_numpy(theirs.fit(A.numpy(), Y.argmax(1).numpy()).coef_.T))
    for steps in (1, 3, 10, 30):
        X, p = descend(A, Y, number(0.5), steps=steps)
        assert 0 <= primal(0.5, X) - best <= gap(A, Y, 0.5, X, p)
    X, p = descend(A, Y, number(0.5), steps=400)
    assert gap(A, Y, 0.5, X, p) < 1e-10
    assert_close(primal(0.5, X), best, rtol=0, atol=1e-8)
    assert grad(lambda X: primal(0.5, X))(X).abs().max() < 1e-6


def test_the_gap_in_float32_is_never_below_zero_and_near_what_it_is():
    for seed in range(5):
        a, y, l = some(N, DIM, seed=seed).float(), Y.float(), torch.tensor(0.5)
        for steps in (10, 30, 100, 400):
            X, p = descend(a, y, l, steps=steps)
            got = gap(a, y, l, X, p)
            assert got.dtype == torch.float32
            assert got >= 0
            assert_close(got.double(), gap(a.double(), Y, 0.5, X.double(), p.double()), rtol=1e-6, atol=0)
    sure = torch.tensor([[50.0, 0, 0]]), torch.tensor([[1.0, 0, 0]])  # an entry of p + Y that rounding took below 0
    assert gap(torch.ones(1, 1), sure[1], torch.tensor(0.5), sure[0], torch.tensor([[0.0, -1e-9, 0]])).isfinite()


def test_the_first_gap_is_in_closed_form():
    """X = 0, p = softmax(0) - Y: ln ways from F, as much back from F*, and what is left is G*."""
    p = 1 / WAYS - Y
    assert_close(primal(0.5, number(0.0) * some(DIM, WAYS)), number(N * log(WAYS)))
    assert_close(gap(A, Y, 0.5, torch.zeros(DIM, WAYS).double(), p), (A.mT @ p).square().sum())


def steps_by(kind: str, l: float, h: float, X, p, n: int):
    for _ in range(n):
        new = X + h * field(l, X, p)[0]
        p = p + h * field(l, new if kind == "semi" else X, p)[1]
        X = new
    return X, p


@pytest.mark.parametrize("l", [1.0, 0.1])
@pytest.mark.parametrize(("kind", "limit"), [("semi", lambda w: 2 / (1 + w)), ("explicit", lambda w: 2 / (1 + w**2))])
def test_steps_are_stable_up_to_the_predicted_limit(kind, limit, l):
    """From near the solution: w^2 is the largest curvature of F(AX) there, over l."""
    X, p = descend(A, Y, number(l), steps=1500)
    H = jacrev(grad(lambda X: primal(0.0, X)))(X).reshape(X.numel(), -1)
    h = limit((torch.linalg.eigvalsh(H).max() / l).sqrt().item())
    start = X + 1e-5 * some(DIM, WAYS, seed=5)
    far = lambda factor: (steps_by(kind, l, factor * h, start, p, int(100 / h))[0] - X).norm() / (start - X).norm()
    assert far(0.95) < 0.5
    assert not far(1.05) < 2


def test_ours_is_the_semi_implicit_step_within_its_limit():
    X, p = steps_by("semi", 0.5, 0.1, torch.zeros(DIM, WAYS).double(), 1 / WAYS - Y, 7)
    assert_close(descend(A, Y, number(0.5), steps=7, h=0.1), (X, p))
    h = 1 / (1 + A.norm() / (2 * 0.5) ** 0.5)
    assert_close(descend(A, Y, number(0.5), steps=7), descend(A, Y, number(0.5), steps=7, h=h))
    for scale in (0.1, 1, 30):  # the curvature of ln sum exp is at most 1/2, so no features are too large for it
        X, p = descend(scale * A, Y, number(0.1), steps=300)
        assert gap(scale * A, Y, 0.1, X, p) < gap(scale * A, Y, 0.1, 0 * X, 1 / WAYS - Y)


def test_a_rotation_of_the_features_changes_no_gap():
    R = torch.linalg.qr(some(DIM, DIM, seed=7))[0]
    ours, theirs = (gap(B, Y, 0.5, *descend(B, Y, number(0.5), steps=5)) for B in (A, A @ R))
    assert_close(ours, theirs)


def test_scores_loss_and_gradient():
    task = one(blobs(1, 0))
    S, Q = task
    learner = convex_head(embed, init, ways=WAYS, strength=0.2, steps=3)
    theta = {"embed": {n: p.double().requires_grad_() for n, p in init(0).items()},
             "strength": number(0.2).log().requires_grad_()}  # fmt: skip
    z = lambda x: embed(theta["embed"], x) / 6**0.5
    l = theta["strength"].exp()
    w = sum(a.square().sum() for a in z(S.x)).sqrt() / (2 * l).sqrt()
    h = 1 / (1 + w)                                                                                        # (6)
    X, p = torch.zeros(6, WAYS).double(), [1 / WAYS - torch.eye(WAYS).double()[y] for y in S.y]
    for _ in range(3):
        X = X + h * (-sum(a[:, None] * p_i for a, p_i in zip(z(S.x), p, strict=True)) / l - X)             # (5)
        e = [(a @ X).exp() for a in z(S.x)]
        p = [p_i + h * (e_i / e_i.sum() - torch.eye(WAYS).double()[y] - p_i)
             for p_i, e_i, y in zip(p, e, S.y, strict=True)]  # fmt: skip
    f = learner.adapt(theta, S)
    assert_close(f(Q.x), z(Q.x) @ X)                                                                       # (7)
    loss, info = learner.objective(learner.adapt, theta, task)
    want = -(z(Q.x) @ X).log_softmax(1)[range(len(Q.y)), Q.y].mean()
    assert_close(loss, want)
    ours, theirs = (torch.autograd.grad(t, [*theta["embed"].values(), theta["strength"]]) for t in (loss, want))
    assert_close(ours, theirs)
    assert_close(info["gap"], gap(z(S.x), torch.eye(WAYS).double()[S.y], l, X, torch.stack(p)).detach())


def test_queries_are_normalised_as_their_norms_say():
    net, start = functional(nn.Sequential(nn.Linear(4, 5), norm(5, "support")))
    S, Q = one(blobs(1, 0))
    learner = convex_head(net, start, ways=WAYS)
    theta = {"embed": {n: p.double() for n, p in start(0).items()}, "strength": number(0.1).log()}
    f = learner.adapt(theta, S)
    assert_close(f(Q.x[:1]), f(Q.x)[:1])


def test_what_makes_no_sense_is_refused():
    for wrong in ({"strength": 0.0}, {"steps": 0}):
        with pytest.raises(ValueError, match="expected above 0 and at least 1"):
            convex_head(embed, init, ways=WAYS, **wrong)


CASES = {"convex_head": lambda: Case(convex_head(embed, init, ways=WAYS, steps=2), blobs)}

HERE = "learners/convex_head.py"
BUGS = [
    Bug("the certificate forgets half of the dual", HERE, (" + (a.mT @ z).square().sum() / (2 * l)", ""),
        "test_the_gap_bounds_the_distance_to_the_solution_and_closes"),
    Bug("the certificate is what rounding leaves", HERE, ("(t.double() for t in (A, Y, X, p))", "(A, Y, X, p)"),
        "test_the_gap_in_float32_is_never_below_zero_and_near_what_it_is"),
    Bug("the step is twice what is stable", HERE, ("h = 1 / (1 + A.norm()", "h = 2 / (1 + A.norm()"),
        "test_ours_is_the_semi_implicit_step_within_its_limit"),
    Bug("the head holds back the gradient", HERE, ("A.mT @ p / l", "A.mT.detach() @ p / l"),
        law("meta_gradient_is_the_derivative", "convex_head")),
]  # fmt: skip
