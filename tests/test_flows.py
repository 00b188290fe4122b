"""Residual flows: each claim of `nn/flows.py` held to an exact answer; the flow as what a set's statistic explains."""

import math

import pytest
import torch
from mutations import Bug
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.func import jacrev, vmap
from torch.testing import assert_close

import metaloop as ml
from metaloop import Data, Task, functional, nn, tasks
from metaloop.nn import flows
from metaloop.tasks.distributions import MIXTURES, log_circle, log_mixture
from metaloop.testing import Case, judge

DOUBLE = torch.float64


def drawn(*, dim=2, blocks=2, hidden=6, contraction=0.9, seed=0):
    """A flow with weights that reach its bound, in float64, and codes."""
    flow = nn.ResidualFlow(3, dim, blocks=blocks, hidden=hidden, contraction=contraction).double()
    g = torch.Generator().manual_seed(seed)
    for name, p in flow.named_parameters():
        size = 0.3 if name.startswith("place") else 1.0
        p.data = size * torch.randn(p.shape, generator=g, dtype=DOUBLE)
    flow.requires_grad_(False)
    return flow, torch.randn(5, 3, generator=g, dtype=DOUBLE), torch.randn(5, dim, generator=g, dtype=DOUBLE)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_change_of_volume_is_that_of_the_whole_map(dim):
    flow, code, x = drawn(dim=dim)
    z, change = flow.into(x, code)
    J = vmap(jacrev(lambda x, c: flow.into(x[None], c[None])[0][0]))(x, code)
    assert_close(change, torch.linalg.slogdet(J).logabsdet, rtol=0, atol=1e-10)
    normal = Independent(Normal(torch.zeros(dim).double(), 1.0), 1)
    assert_close(flow(torch.cat([code, x], 1))[:, 0], normal.log_prob(z) + change)


def test_it_contracts_by_as_much_as_it_says_and_is_turned_around():
    flow, code, x = drawn(blocks=3)
    for g in flow.residual:
        for layer in g.layers:
            assert torch.linalg.matrix_norm(layer.weight, 2) > 1  # without (6) it would not
        J = g(x, code, torch.eye(2, dtype=DOUBLE).expand(5, 2, 2))[1]
        assert (torch.linalg.matrix_norm(J, 2) <= 0.9).all()
    assert_close(flow.inverse(flow.into(x, code)[0], code), x, rtol=0, atol=1e-5)
    for layer in flow.residual[0].layers:  # all in one direction, where units are straight lines: as far as it goes
        layer.weight.fill_(2)
        layer.bias.fill_(99)
    J = flow.residual[0](x, code, torch.eye(2, dtype=DOUBLE).expand(5, 2, 2))[1]
    assert_close(torch.linalg.matrix_norm(J, 2), torch.full((5,), 0.9 / 1.1**2, dtype=DOUBLE))
    a = torch.linspace(-9, 9, 401, dtype=DOUBLE)
    _, slope = flows.lip_swish(a, torch.tensor(1.7))
    assert slope.abs().max() <= 1
    assert_close(slope, vmap(torch.func.grad(lambda a: flows.lip_swish(a, torch.tensor(1.7))[0]))(a))


def test_its_density_is_one_in_all():
    flow, code, _ = drawn()
    side, step = torch.linspace(-9, 9, 181, dtype=DOUBLE), 0.1
    grid = torch.cartesian_prod(side, side)
    for c in code[:2]:
        p = flow(torch.cat([c.expand(len(grid), -1), grid], 1)).exp()
        assert p.sum() * step**2 == pytest.approx(1, abs=1e-3)


def test_the_series_is_the_determinant_and_cut_off_it_is_off_by_the_bound():
    J = torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    J = 0.9 * J / torch.linalg.matrix_norm(J, 2)
    eye, exact = torch.eye(8, dtype=DOUBLE), flows.log_det(J)
    assert_close(exact, torch.linalg.slogdet(eye + J).logabsdet)
    told = lambda J, n: flows.series(lambda v: v @ J.mT, eye, torch.ones(n)).sum()
    assert_close(told(J, 200), exact, rtol=0, atol=1e-6)
    for n in (1, 5, 10):
        assert (told(J, n) - exact).abs() <= flows.cut_off(8, 0.9, n)
        worst = -0.9 * eye  # which is off by as much
        assert (told(worst, n) - 8 * math.log(0.1)).item() == pytest.approx(flows.cut_off(8, 0.9, n))
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=DOUBLE)] * 8)
    assert_close(flows.series(lambda v: v @ J.mT, signs, torch.ones(5)).mean(), told(J, 5))


def moments(c: float, p: float, most: int, exact: int = 2, dim: int = 4) -> tuple[float, float]:
    """Of the roulette's answer for J = -cI: its mean and mean square over N = 1 .. most."""
    J = torch.eye(dim, dtype=DOUBLE)
    mean = square = 0.0
    for n in range(1, most + 1):
        w = flows.roulette(n, exact=exact, p=p).double()
        answer = flows.series(lambda v: -c * v, J, w).sum().item()
        mean += p * (1 - p) ** (n - 1) * answer
        square += p * (1 - p) ** (n - 1) * answer**2
    return mean, square


def test_the_roulette_has_no_bias_and_a_variance_only_while_it_contracts_enough():
    for c, exact in ((0.5, 2), (0.7, 0)):  # c^2 <= 1 - p
        (mean, near), (_, far) = (moments(c, 0.5, most, exact) for most in (30, 45))
        assert mean == pytest.approx(4 * math.log(1 - c), abs=1e-4 if c == 0.5 else 5e-3)
        assert far == pytest.approx(near, rel=0.02)
    (_, near), (_, far) = (moments(0.9, 0.5, most) for most in (30, 45))  # beyond, the mean square grows without end
    assert far > 20 * near
    (_, near), (_, far) = (moments(0.9, 0.15, most) for most in (60, 90))  # and is there again for a smaller p
    assert far == pytest.approx(near, rel=0.02)


def test_the_roulettes_draws_are_around_the_determinant():
    g, c, p = torch.Generator().manual_seed(0), 0.6, 0.5
    lengths = 1 + (torch.rand(20_000, generator=g).log() / math.log(1 - p)).long()
    assert lengths.float().mean() == pytest.approx(1 / p, abs=0.05)
    eye = torch.eye(4, dtype=DOUBLE)
    each = {n: flows.series(lambda v: -c * v, eye, flows.roulette(n, p=p)).sum() for n in lengths.unique().tolist()}
    answers = torch.stack([each[n] for n in lengths.tolist()])
    error = answers.std() / len(answers) ** 0.5
    assert abs(answers.mean() - 4 * math.log(1 - c)) < 3 * error


def test_a_flow_can_be_told_by_the_series():
    flow, code, x = drawn(contraction=0.5)
    z, exact = flow.into(x, code)
    torch.manual_seed(0)
    again, told = flow.into(x.repeat(400, 1), code.repeat(400, 1), torch.ones(25).double())
    assert_close(again, z.repeat(400, 1))
    told = told.view(400, 5)
    assert ((told.mean(0) - exact).abs() < 3 * told.std(0) / 20).all()
    assert (told.std(0) > 0.01).any()


def statistician(ways=1):
    sizes = ((2, 8, 6), (7, 8, 4))
    last = nn.ResidualFlow(2, 2, blocks=1, hidden=3, contraction=0.7)
    parts = (*map(nn.mlp, sizes), nn.Nothing(), nn.Nothing(), last)
    return ml.neural_statistician(
        *map(functional, parts), ways=ways, likelihood=nn.Density, sample_dropout=False
    )


def sets(n, seed):
    task = tasks.planar().sample(tasks=n, shots=4, queries=4, generator=torch.Generator().manual_seed(seed))
    classes = (torch.arange(4) % 2).expand(n, -1)
    return Task(*(Data(part.x, classes) for part in task))


@pytest.mark.parametrize("law", ["meta_gradient_is_the_derivative", "many_tasks_are_each_task", "reads_no_values"])
def test_a_set_explained_by_a_flow_keeps_the_laws(law):
    judge(law, Case(statistician(ways=2), sets))


def test_a_sets_density_is_one_in_all_and_is_what_it_draws():
    learner = statistician()
    theta, (S, _) = learner.init(0), Task(*(Data(*(t[0] for t in part)) for part in sets(1, 0)))
    f = learner.adapt(theta, Data(S.x, torch.zeros(4, dtype=torch.int64)))
    side = torch.linspace(-12, 12, 97)
    grid = torch.cartesian_prod(side, side)
    torch.manual_seed(0)
    p = f.log_prob(grid, draws=4).exp()[:, 0]
    assert p.sum().item() * 0.0625 == pytest.approx(1, abs=0.05)
    drawn = f.sample(3000)
    assert drawn.shape == (3000, 1, 2)
    inside = grid.norm(dim=1) < 1
    assert p[inside].sum().item() * 0.0625 == pytest.approx((drawn.norm(dim=-1) < 1).float().mean().item(), abs=0.04)


def test_planar_deals_points_with_their_log_densities():
    side = torch.linspace(-3, 3, 121)
    grid = torch.cartesian_prod(side, side)
    assert log_circle(grid).exp().sum().item() * 0.0025 == pytest.approx(1, abs=1e-4)
    for means, deviations in MIXTURES:
        each = Independent(Normal(torch.tensor(means), torch.tensor(deviations)), 1)
        whole = MixtureSameFamily(Categorical(torch.ones(len(means))), each)
        assert_close(log_mixture(grid, means, deviations), whole.log_prob(grid))
    pool = tasks.planar(mean=(0.0, 0.0), scale=(2.0, 2.0))
    S = pool.sample(tasks=60, shots=2000, queries=1, generator=torch.Generator().manual_seed(0)).support
    circle = [
        bool((y[:, 0] - log_circle(x / 2) + 2 * math.log(2)).abs().max() < 1e-3)
        for x, y in zip(*S, strict=True)
    ]  # fmt: skip
    assert 8 < sum(circle) < 35
    # E[1 / p] over a region where p is large is its area: an annulus of every circle, a disc of every cross
    annulus = ((S.x.norm(dim=-1) > 1.8) & (S.x.norm(dim=-1) < 2.2)) / S.y[..., 0].exp()
    centre = (S.x.norm(dim=-1) < 0.3) / S.y[..., 0].exp()
    assert annulus[torch.tensor(circle)].mean().item() == pytest.approx(math.pi * (2.2**2 - 1.8**2), rel=0.03)
    cross = ~torch.tensor(circle) & ((S.x.norm(dim=-1) < 0.3).sum(1) > 50)
    assert cross.sum() > 8
    assert centre[cross].mean().item() == pytest.approx(math.pi * 0.09, rel=0.05)
    for wrong in ({"mean": (1.0, 0.0)}, {"scale": (0.0, 1.0)}):
        with pytest.raises(ValueError, match=rf"planar\({next(iter(wrong))}="):
            tasks.planar(**wrong)


def test_what_makes_no_sense_is_refused():
    for contraction in (0, 1, 1.5):
        with pytest.raises(ValueError, match="expected a number between 0 and 1"):
            nn.ResidualFlow(2, 2, contraction=contraction)
    with pytest.raises(ValueError, match="inputs 0, dim 2, blocks 4, hidden 32, expected at least 1"):
        nn.ResidualFlow(0, 2)
    with pytest.raises(ValueError, match="expected n >= 1, exact >= 0, 0 < p < 1"):
        flows.roulette(0)
    for contraction in (0, 1, 1.5):
        with pytest.raises(ValueError, match=r"cut_off: contraction is .*, expected a number between 0 and 1"):
            flows.cut_off(8, contraction, 5)
    for numbers in (1, 3):
        with pytest.raises(ValueError, match=f"told points of {numbers} numbers, expected dim 2"):
            nn.ResidualFlow(3, 2)(torch.zeros(4, 3 + numbers))


HERE = "nn/flows.py"
BUGS = [
    Bug("the series forgets its signs", HERE, ("(-1) ** (k + 1) * weight", "weight"),
        "test_the_series_is_the_determinant_and_cut_off_it_is_off_by_the_bound"),
    Bug("the roulette pays a term too much", HERE, ("-torch.arange(float(n))", "-torch.arange(1.0, n + 1)"),
        "test_the_roulette_has_no_bias_and_a_variance_only_while_it_contracts_enough"),
    Bug("a flow's code moves x and does not scale the density", HERE, ("change - scale.sum(-1)", "change"),
        "test_the_change_of_volume_is_that_of_the_whole_map[2]"),
    Bug("a flow contracts in each layer by all it may", HERE, ("contraction ** (1 / len(self.layers))", "1.5"),
        "test_it_contracts_by_as_much_as_it_says_and_is_turned_around"),
]  # fmt: skip
