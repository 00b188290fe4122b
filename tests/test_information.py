"""Bounds of mutual information: the Gaussian table of which I is known, joint distributions that can be summed over,
and what an episode is a bound of."""

import math
from itertools import permutations, product

import pytest
import torch
from mutations import Bug
from torch.testing import assert_close

from metaloop.objectives import ba, ba_upper, dv, infonce, interpolated, leave_one_out, nwj, tuba
from metaloop.targets import information_nats

K, DIM, BATCHES = 64, 20, 200
DOUBLE = torch.float64

# I, bound -> mean, standard deviation of one batch, over 2000 batches of 64 pairs in 20 dimensions by the best critic.
TABLE = {
    2: {"nwj": (2.01, 0.26), "dv": (2.01, 0.26), "nce": (1.82, 0.20), 0.01: (2.01, 0.26), 0.5: (1.93, 0.22)},
    6: {"nwj": (5.99, 2.0), "dv": (6.24, 0.70), "nce": (3.74, 0.12), 0.01: (5.79, 0.49), 0.5: (4.58, 0.19)},
    10: {"nwj": (10.09, 5.3), "dv": (11.26, 1.35), "nce": (4.12, 0.04), 0.01: (8.33, 0.45), 0.5: (5.55, 0.09)},
}


def gaussians(nats: float, seed: int):
    """Batches of ln p(y_i|x_j) / p(y_i), [batches, K, K], of d = 20 coordinates with I = -d/2 ln(1 - rho^2)."""
    g = torch.Generator().manual_seed(seed)
    rest = math.exp(-2 * nats / DIM)  # 1 - rho^2
    x, e = torch.randn(2, BATCHES, K, DIM, generator=g, dtype=DOUBLE)
    rho = math.sqrt(1 - rest)
    y = rho * x + math.sqrt(rest) * e
    far = y.square().sum(-1)[..., None] - 2 * rho * y @ x.mT + rho**2 * x.square().sum(-1)[:, None]
    return -DIM / 2 * math.log(rest) - far / (2 * rest) + y.square().sum(-1)[..., None] / 2


@pytest.mark.parametrize("nats", TABLE)
def test_the_gaussian_table_within_three_standard_errors(nats):
    f = gaussians(nats, seed=nats)
    bounds = {"nwj": lambda f: nwj(1 + f), "dv": dv, "nce": infonce}
    for name, (mean, spread) in TABLE[nats].items():
        bound = bounds.get(name) or (lambda f: interpolated(f, name))  # noqa: B023
        got = torch.func.vmap(bound)(f)
        error = spread * math.sqrt(1 / BATCHES + 1 / 2000) + 0.005  # the table's last digit
        assert abs(got.mean() - mean) < 3 * error, name
        most = {"nce": math.log(K), 0.01: 1 + math.log((K - 1) / 0.01), 0.5: 1 + math.log((K - 1) / 0.5)}
        assert got.max() <= most.get(name, math.inf)
    log_p = torch.func.vmap(leave_one_out)(f)  # p(y) falls out of it
    assert log_p.mean() > nats - 3 * 0.4 * math.sqrt(1 / BATCHES)
    assert torch.func.vmap(lambda f: ba_upper(f.diagonal(), torch.zeros(K)))(f).mean() == pytest.approx(nats, abs=0.1)


def joint():
    """p(x, y) of 2 x 3 values, and its I."""
    p = torch.tensor([[0.30, 0.12, 0.08], [0.05, 0.15, 0.30]], dtype=DOUBLE)
    px, py = p.sum(1), p.sum(0)
    return p, px, py, (p * (p / (px[:, None] * py)).log()).sum().item()


def expected(bound, critic) -> float:
    """Over all batches of two pairs."""
    p, pairs, total = joint()[0], list(product(range(2), range(3))), 0.0
    for batch in product(pairs, repeat=2):
        f = torch.stack([torch.stack([critic[x, y] for x, _ in batch]) for _, y in batch])
        total += math.prod(p[pair].item() for pair in batch) * bound(f).item()
    return total


def test_bounds_hold_in_expectation_for_any_critic_and_are_tight_where_they_say():
    p, px, py, I = joint()
    best = (p / (px[:, None] * py)).log()
    some = torch.tensor([[0.5, -1.0, 0.2], [0.1, 0.9, -0.4]], dtype=DOUBLE)
    assert expected(lambda f: nwj(1 + f), best) == pytest.approx(I)                              # (4)
    assert expected(lambda f: tuba(f, 0.0), best) == pytest.approx(I)
    for critic in (best, some):
        for bound in (nwj, infonce, *(lambda f, a=a: interpolated(f, a, 0.3) for a in (0, 0.2, 0.7, 1))):
            assert expected(bound, critic) < I + 1e-12
    by_row = best + torch.tensor([0.7, -0.2, 1.1], dtype=DOUBLE)
    assert expected(infonce, by_row) == pytest.approx(expected(infonce, best))                   # any c(y)
    log_q = (torch.ones(2, 3, dtype=DOUBLE) / 3).log()
    H = -(py * py.log()).sum()
    assert (ba(torch.stack([log_q[x, y] for x, y in product(range(2), range(3))]), H)) < I
    known = torch.stack([6 * p[x, y] * (p / px[:, None]).log()[x, y] for x, y in product(range(2), range(3))])
    assert ba(known, H) == pytest.approx(I)                                                      # (1), weighed by p
    assert expected(leave_one_out, (p / px[:, None]).log()) > I                                  # (7)


def test_formulas_by_loops():
    f = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).requires_grad_()
    log_q = torch.linspace(-1, 1, 5, dtype=DOUBLE)
    off = [(i, j) for i in range(5) for j in range(5) if i != j]
    alpha, joint, product_, nce = 0.3, 0.0, 0.0, 0.0
    for i, j in off:
        rest = {k: sum(f[i, m].exp() for m in range(5) if m != k) / 4 for k in (i, j)}
        a = {k: alpha * mean + (1 - alpha) * log_q[i].exp() for k, mean in rest.items()}
        joint = joint + (f[i, i] - a[j].log()) / 20
        product_ = product_ + f[i, j].exp() / a[i] / 20
    for i in range(5):
        nce = nce + (f[i, i].exp() / (sum(f[i].exp()) / 5)).log() / 5
    assert_close(interpolated(f, alpha, log_q), 1 + joint - product_)
    assert_close(infonce(f), nce)
    left = sum(f[i, i] - (sum(f[i, j].exp() for j in range(5) if j != i) / 4).log() for i in range(5)) / 5
    assert_close(leave_one_out(f), left)                                                         # (7)
    assert_close(ba_upper(f[0], log_q), sum(f[0, i] - log_q[i] for i in range(5)) / 5)
    assert_close(dv(f), f.diagonal().mean() - (sum(f[i, j].exp() for i, j in off) / 20).log())
    assert_close(interpolated(f, 0, log_q), tuba(f, log_q))
    (g,) = torch.autograd.grad(interpolated(f, 1.0), f)
    step = 1e-5 * torch.eye(25, dtype=DOUBLE)[7].view(5, 5)
    assert_close(g[1, 2], (interpolated(f + step, 1.0) - interpolated(f - step, 1.0)) / 2e-5)
    large = torch.full((3, 3), -800.0).fill_diagonal_(900.0)  # nothing cancels, nothing overflows
    assert infonce(large) == pytest.approx(math.log(3))
    assert interpolated(large, 0.5).isfinite()


def test_an_episode_is_a_bound_of_what_a_query_tells_of_its_class_and_not_of_what_another_example_does():
    """All episodes of two or of three of three classes, one noisy example of each, by the best predictor there is."""
    noise, M = 0.3, 3
    tells = torch.full((M, M), noise / (M - 1)).fill_diagonal_(1 - noise).double()  # p(picture | class)
    I_class = math.log(M) + (tells[0] * tells[0].log()).sum().item()
    both = tells.mT @ tells / M
    I_pair = (both * (both * M * M).log()).sum().item()
    nats = {}
    for N in (2, 3):
        weight, cost, orders = 0.0, 0.0, list(permutations(range(M), N))  # the query is of the first's class
        for classes, s, x in product(orders, product(range(M), repeat=N), range(M)):
            each = [math.prod(tells[k, v].item() for k, v in zip(order, s, strict=True)) for order in orders]
            known = [*zip(each, orders, strict=True)]
            likely = [sum(p * tells[order[n], x].item() for p, order in known) for n in range(N)]
            p = each[orders.index(classes)] * tells[classes[0], x].item()
            weight, cost = weight + p, cost - p * math.log(likely[0] / sum(likely))
        nats[N] = math.log(N) - cost / weight
        assert 0 < nats[N] < I_class
    assert nats[2] < I_pair < nats[3]
    told = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 0.0, 5.0]]], dtype=DOUBLE)
    want = math.log(3) + told.log_softmax(-1)[0, [0, 1], [0, 2]].mean()
    assert_close(information_nats(told, torch.tensor([[0, 2]])), want[None])


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match=r"infonce: the scores are \(2, 3\), expected \[K, K\], of two pairs at least"):
        infonce(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"dv: the scores are \(1, 1\)"):
        dv(torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"interpolated: alpha is 1\.5, expected 0 to 1"):
        interpolated(torch.zeros(3, 3), 1.5)


BUGS = [
    Bug("the upper bound counts its own pair", "objectives/information.py",
        ('_apart("leave_one_out", log_p).logsumexp(1)', "log_p.logsumexp(1)"), "test_formulas_by_loops"),
    Bug("InfoNCE leaves its own pair out", "objectives/information.py",
        ("f.logsumexp(1)).mean() + math.log(len(f))", '_apart("", f).logsumexp(1)).mean() + math.log(len(f))'),
        "test_formulas_by_loops"),
    Bug("NWJ's a is 1", "objectives/information.py", ("tuba(f, 1.0)", "tuba(f, 0.0)"),
        "test_bounds_hold_in_expectation_for_any_critic_and_are_tight_where_they_say"),
    Bug("the interpolated bound leaves the wrong example out", "objectives/information.py",
        ("f - log_a.diagonal()[:, None]).exp()", "f - log_a).exp()"), "test_formulas_by_loops"),
]  # fmt: skip
