"""Optimal transport against closed forms, permutations, a linear program and finite differences; then the learner on
it, restated one pair of maps at a time by scaling a matrix's rows and columns."""

from itertools import combinations, permutations
from math import log

import pytest
import torch
from mutations import Bug, law
from torch import nn
from torch.func import grad, vmap
from torch.testing import assert_close
from zoo import WAYS, blobs, one

from metaloop import Data, functional, protonet, transport
from metaloop.nn import Shaped, norm
from metaloop.objectives import divergence, geometric_loss, geometric_softmax, sinkhorn, wasserstein
from metaloop.objectives.transport import squared_distances
from metaloop.testing import Case


def some(*shape: int, seed: int = 0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(n: int, seed: int):
    return some(n, seed=seed).softmax(0)


# Densities on a line


def entropic(a, A, b, B, e):
    """OT_e of N(a, A) and N(b, B), with |x - y|^2 the cost."""
    s = e / 2
    D = (4 * A * B + s**2) ** 0.5
    return (a - b) ** 2 + A + B - D + s * (1 - log(2 * s)) + s * log(D + s)


@pytest.mark.parametrize("e", [2.0, 8.0])
@pytest.mark.parametrize("two", [(0.0, 1.0, 1.0, 2.25), (0.0, 1.0, 1.0, 1.0), (0.0, 0.5, -1.0, 1.5)])
def test_gaussians_cost_what_they_should(two, e):
    """On a grid, whose sums are the integrals to many digits. (5) too, whose OT_e(b, b) need not converge at once."""
    a, A, b, B = two
    x = torch.linspace(-11, 12, 116, dtype=torch.float64)
    density = lambda m, v: (-((x - m) ** 2) / (2 * v)).softmax(0)
    p, q = density(a, A), density(b, B)
    got = sinkhorn((x[:, None] - x) ** 2, p, q, eps=e, steps=60).cost.item()
    assert got == pytest.approx(entropic(a, A, b, B, e), abs=1e-6)
    S = entropic(a, A, b, B, e) - (entropic(a, A, a, A, e) + entropic(b, B, b, B, e)) / 2
    assert divergence(x[:, None], x[:, None], p, q, eps=e, steps=60).item() == pytest.approx(S, abs=1e-6)
    if A == B:
        assert pytest.approx((a - b) ** 2) == S  # whatever e


# A few points


@pytest.fixture
def few():
    """Costs between 7 and 9 points of the plane, and weights."""
    return squared_distances(some(7, 2), some(9, 2, seed=1)), weights(7, 2), weights(9, 3)


def test_the_plan_is_one_and_the_cost_is_reached_from_below(few):
    C, a, b = few
    costs = torch.stack([sinkhorn(C, a, b, eps=0.5, steps=n).cost for n in (1, 2, 3, 5, 10, 150)])
    assert (costs.diff() > 0).all()
    cost, _, _, P = sinkhorn(C, a, b, eps=0.5, steps=150)
    assert_close(P.sum(0), b, rtol=0, atol=1e-12)
    assert_close(P.sum(1), a, rtol=0, atol=1e-6)
    assert_close(cost, (P * C).sum() + 0.5 * (P * (P / (a[:, None] * b)).log()).sum(), rtol=0, atol=1e-6)  # (1)


def test_between_the_linear_programs_cost_and_that_of_its_plan(few):
    """OT_0 <= OT_e <= <C, P_0> + e KL(P_0 | a b'), P_0 the best plan without entropy; and POT's plan with entropy."""
    import ot

    C, a, b = (t.numpy() for t in few)
    P_0 = ot.emd(a, b, C)
    kl = sum(P_0[i, j] * log(P_0[i, j] / (a[i] * b[j])) for i in range(7) for j in range(9) if P_0[i, j] > 0)
    for e in (0.5, 0.1, 0.05):
        got = sinkhorn(*few, eps=e, steps=400)
        assert ot.emd2(a, b, C) <= got.cost.item() + 1e-9
        assert got.cost.item() <= (P_0 * C).sum() + e * kl + 1e-9 <= ot.emd2(a, b, C) + e * log(7 * 9)
    theirs = ot.sinkhorn(a, b, C, 0.5, method="sinkhorn_log", stopThr=1e-12)
    assert_close(sinkhorn(*few, eps=0.5, steps=1000).plan, torch.from_numpy(theirs), rtol=0, atol=1e-9)


def test_points_of_weight_zero_are_not_there(few):
    C, a, b = few
    more = torch.cat([C, some(7, 2, seed=4).square()], 1)
    padded = torch.cat([b, b.new_zeros(2)])
    assert_close(sinkhorn(more, a, padded, eps=0.5).cost, sinkhorn(C, a, b, eps=0.5).cost)
    g = grad(lambda b: sinkhorn(more, a, b, eps=0.5).cost)(padded)
    assert g.isfinite().all()


def test_many_are_each(few):
    C = torch.stack([few[0], 2 * few[0]])
    many = sinkhorn(C, few[1], few[2], eps=0.5, steps=3)
    under = vmap(lambda c: sinkhorn(c, few[1], few[2], eps=0.5, steps=3))(C)
    for each in (many, under):
        assert_close(each.plan[1], sinkhorn(C[1], *few[1:], eps=0.5, steps=3).plan)


@pytest.mark.parametrize("steps", [3, 50])
def test_first_and_second_derivatives_are_finite_differences(steps):
    """Along a line, converged or not."""
    x, v, y = some(5, 2), some(5, 2, seed=1), some(7, 2, seed=2)
    S = lambda t: divergence(x + t * v, y, eps=0.25, steps=steps)
    zero, h = torch.zeros((), dtype=torch.float64), 1e-4
    slope = (S(h) - S(-h)) / (2 * h)
    bend = (grad(S)(zero + h) - grad(S)(zero - h)) / (2 * h)
    assert_close(grad(S)(zero), slope, rtol=1e-5, atol=1e-6)
    assert_close(grad(grad(S))(zero), bend, rtol=1e-5, atol=1e-6)


def test_a_divergence_is_one():
    """Zero for equal sets, in any order; above zero; transport for small e, means alone for large."""
    x, y = some(5, 2), some(5, 2, seed=1)
    assert_close(divergence(x, x.flip(0), eps=0.5, steps=200), torch.zeros(()).double(), rtol=0, atol=1e-9)
    assert divergence(x, y, eps=0.5, steps=200) > 0.01
    best = min(((x[list(order)] - y) ** 2).sum(1).mean() for order in permutations(range(5)))
    assert_close(divergence(x, y, eps=0.005, steps=500), best, rtol=1e-3, atol=0)
    assert_close(divergence(x, y, eps=1e6), (x.mean(0) - y.mean(0)).square().sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_on_a_line_sorting_is_the_best_of_all_plans(p):
    x, y = some(5), some(5, seed=1)
    best = min((x[list(order)] - y).abs().pow(p).mean() for order in permutations(range(5)))
    assert_close(wasserstein(x, y, p=p), best)


# Scores of classes that are near or far from each other


def least(K):
    """min a'Ka over the simplex, and a: the best of the solutions on each set of classes that is a distribution."""
    found = []
    for size in range(1, len(K) + 1):
        for chosen in combinations(range(len(K)), size):
            x = torch.linalg.solve(K[chosen, :][:, chosen], torch.ones(size).double())
            if (x > 0).all():
                a = torch.zeros(len(K)).double().index_put((torch.tensor(chosen),), x / x.sum())
                found.append((a @ K @ a, a))
    return min(found, key=lambda pair: pair[0])


def test_the_geometric_softmax_solves_its_problem_and_is_a_derivative():
    C = squared_distances(some(4, 1), some(4, 1))
    f = some(4, seed=3)
    a, value = geometric_softmax(f, C, steps=600)
    want, best = least((-(f[:, None] + f + C) / 2).exp())
    assert_close(value, -want.log())
    assert_close(a, best, rtol=0, atol=1e-4)
    assert_close(grad(lambda f: geometric_softmax(f, C, steps=600)[1])(f), best, rtol=0, atol=1e-4)
    values = torch.stack([geometric_softmax(f, C, steps=n)[1] for n in (1, 2, 5, 20, 600)])
    assert (values.diff() > 0).all()
    assert geometric_loss(f, a, C, steps=300) == pytest.approx(0, abs=1e-4)
    assert geometric_loss(f, weights(4, 5), C, steps=300) > 0.01


def test_its_limits_are_the_maximum_and_the_softmax():
    f = some(4)
    assert_close(geometric_softmax(f, torch.zeros(4, 4).double(), steps=200)[1], f.max())
    far = torch.full((4, 4), 1e6).double().fill_diagonal_(0)
    a, value = geometric_softmax(f, far)
    assert_close((a, value), (f.softmax(0), f.logsumexp(0)))
    q = weights(4, 1)
    assert_close(geometric_loss(f, q, far), (q * (q.log() - f.log_softmax(0))).sum())
    assert_close(geometric_loss(f, torch.eye(4).double()[2], far), -f.log_softmax(0)[2])


# The learner

DIM, SIDE = 3, 2
embed, init = functional(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 12), Shaped(DIM, SIDE, SIDE)))
HOW = {"ways": WAYS, "eps": 0.7, "steps": 2, "place": 0.5}


def cost(A, B):
    """OT_e of two maps by scaling rows and columns of exp(-C / e)."""
    P = SIDE * SIDE
    C = torch.stack([
        torch.stack([((A[:, i // 2, i % 2] - B[:, j // 2, j % 2]) ** 2).sum()
                     + 0.5 * ((i // 2 - j // 2) ** 2 + (i % 2 - j % 2) ** 2) for j in range(P)]) for i in range(P)
    ])  # fmt: skip                                                                                           # (2)
    K, v = (-C / 0.7).exp() / P**2, torch.ones(P).double()
    for _ in range(2):
        u = 1 / P / (K @ v)
        v = 1 / P / (K.T @ u)
    return 0.7 * (u.log().mean() + v.log().mean())


def test_scores_loss_and_gradient():
    learner, task = transport(embed, init, **HOW), one(blobs(1, 0))
    theta, (S, Q) = {n: p.double().requires_grad_() for n, p in init(0).items()}, task

    def score(x, k):
        members = [embed(theta, s[None])[0] for s, y in zip(*S, strict=True) if y == k]
        c = sum(members) / len(members)                                                                       # (1)
        return -4 * (cost(embed(theta, x[None])[0], c) - cost(c, c) / 2)                                      # (3)

    scores = torch.stack([torch.stack([score(x, k) for k in range(WAYS)]) for x in Q.x])
    f = learner.adapt(theta, S)
    assert_close(f(Q.x), scores)
    assert_close(f.plans(Q.x).plan.sum(-2), torch.full((len(Q.x), WAYS, 4), 0.25).double())
    want = -scores.log_softmax(1)[range(len(Q.y)), Q.y].mean()                                                # (4)
    loss, _ = learner.objective(learner.adapt, theta, task)
    assert_close(loss, want)
    ours, theirs = (torch.autograd.grad(t, list(theta.values())) for t in (loss, want))
    assert_close(ours, theirs)


def test_where_nothing_may_move_it_is_a_prototypical_network():
    S, Q = one(blobs(1, 0))
    theta = {n: p.double() for n, p in init(0).items()}
    fixed = transport(embed, init, ways=WAYS, eps=0.01, steps=5, place=1e3).adapt(theta, S)(Q.x)
    flat = protonet(lambda theta, x: embed(theta, x).flatten(1), init, ways=WAYS).adapt(theta, S)(Q.x)
    assert_close(fixed.log_softmax(1), flat.log_softmax(1))


def test_queries_are_normalised_as_their_norms_say():
    net, start = functional(nn.Sequential(nn.Linear(4, 12), norm(12, "support"), Shaped(DIM, SIDE, SIDE)))
    S, Q = one(blobs(1, 0))
    f = transport(net, start, **HOW).adapt({n: p.double() for n, p in start(0).items()}, S)
    assert_close(f(Q.x[:1]), f(Q.x)[:1])


def test_what_makes_no_sense_is_refused():
    C = torch.zeros(2, 2)
    for call in (lambda: sinkhorn(C, eps=0.0), lambda: sinkhorn(C, eps=1.0, steps=0)):
        with pytest.raises(ValueError, match="expected eps above 0 and at least one step"):
            call()
    with pytest.raises(ValueError, match="expected at least 1"):
        wasserstein(C[0], C[0], p=0.5)
    with pytest.raises(ValueError, match="steps is 0"):
        geometric_softmax(C[0], C, steps=0)
    for wrong in ({"eps": 0.0}, {"steps": 0}, {"place": -1.0}):
        with pytest.raises(ValueError, match="expected eps above 0, steps at least 1, place at least 0"):
            transport(embed, init, **{**HOW, **wrong})
    flat = transport(lambda theta, x: x, init, ways=2)
    with pytest.raises(ValueError, match="expected maps"):
        flat.adapt({}, Data(torch.zeros(2, 3), torch.tensor([0, 1])))


CASES = {"transport": lambda: Case(transport(embed, init, **HOW), blobs)}

HERE, THERE = "learners/transport.py", "objectives/transport.py"
BUGS = [
    Bug("a class is nearer the more it varies", HERE, (" - self.own / 2)", ")"), "test_scores_loss_and_gradient"),
    Bug("the kernel of classes is not the square root", THERE, ("[..., None, :] + C) / 2", "[..., None, :] + C)"),
        "test_the_geometric_softmax_solves_its_problem_and_is_a_derivative"),
    Bug("class maps hold back the gradient", HERE, ("local(z, place), S.y", "local(z, place).detach(), S.y"),
        law("meta_gradient_is_the_derivative", "transport")),
]  # fmt: skip
