"""The Neural Statistician, restated with loops over sets and examples and with torch.distributions; and held to models
whose densities are known. The sets have unequal sizes."""

import pytest
import torch
from mutations import Bug
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence
from torch.nn import Linear, Sequential, Tanh
from torch.testing import assert_close
from zoo import HELPS, WAYS, batched, blobs, drawings

from metaloop import Data, Task, evaluate, fit, functional, meta_gradient, neural_statistician, nn
from metaloop.nn.classes import thinned
from metaloop.targets import excess_nats
from metaloop.tasks import distributions
from metaloop.testing import Case
from metaloop.torch_private import pytree

X, H, C, Z = 4, 6, 3, 2
DOUBLE = torch.float64


def parts(out: int):
    sizes = ((X, 8, H), (H + 1, 8, 2 * C), (H + C, 8, 2 * Z), (C, 8, 2 * Z), (Z + C, 8, out))
    return [functional(nn.mlp(size)) for size in sizes]


GAUSSIAN, PIXELS = parts(2 * X), parts(X)
KINDS = pytest.mark.parametrize(("nets", "likelihood"), [(GAUSSIAN, nn.Gaussian), (PIXELS, nn.Bernoulli)])


@pytest.fixture
def task():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(13, X, generator=g).double()
    y = torch.tensor([0, 2, 2, 1, 2, 2, 0, 1, 2, 0, 0, 2, 1])
    return Task(Data(x[:8], y[:8]), Data(x[8:], y[8:]))


def theta_of(learner, seed=0):
    return pytree.tree_map(lambda t: t.double().requires_grad_(), learner.init(seed))


class Oracle:
    """The five networks on one example at a time; each answers a distribution over a vector."""

    def __init__(self, nets, theta):
        self.nets = {name: (net, theta[name]) for name, (net, _) in zip(theta, nets, strict=True)}

    def net(self, name, *inputs):
        net, params = self.nets[name]
        return net(params, torch.cat(inputs)[None])[0]

    def normal(self, name, *inputs):
        out = self.net(name, *inputs)
        half = len(out) // 2
        return Independent(Normal(out[:half], (out[half:] / 2).exp()), 1)

    def q_c(self, D):
        """Equation (2)."""
        h = sum(self.net("encoder", x) for x in D) / len(D)
        return self.normal("statistic", h, torch.tensor([1 / len(D)], dtype=DOUBLE))

    def q_z(self, x, c):
        return self.normal("posterior", self.net("encoder", x), c)

    def p_z(self, c):
        return self.normal("prior", c)

    def p_x(self, z, c):
        out = self.net("decoder", z, c)
        if len(out) == X:
            return Independent(Bernoulli(logits=out, validate_args=False), 1)
        return self.normal("decoder", z, c)


def at(q, noise):
    """Where a standard normal's noise puts a draw from q."""
    return q.mean + q.base_dist.stddev * noise


def sets(S):
    return [[(i, x) for i, (x, y) in enumerate(zip(*S, strict=True)) if y == k] for k in range(WAYS)]


@KINDS
@pytest.mark.parametrize("sample_dropout", [True, False])
def test_the_objective_is_the_bound(task, nets, likelihood, sample_dropout):
    learner = neural_statistician(*nets, ways=WAYS, likelihood=likelihood, sample_dropout=sample_dropout)
    theta = theta_of(learner)
    torch.manual_seed(3)
    loss, info = learner.objective(learner.adapt, theta, task)

    torch.manual_seed(3)
    lot, u = (torch.rand(8, dtype=DOUBLE), torch.rand(WAYS, dtype=DOUBLE)) if sample_dropout else (torch.zeros(8), None)
    noise_c, noise_z = torch.randn(WAYS, C, dtype=DOUBLE), torch.randn(8, Z, dtype=DOUBLE)
    model, log_p, kl_z, kl_c = Oracle(nets, theta), [], [], []
    prior = Independent(Normal(torch.zeros(C, dtype=DOUBLE), torch.ones(C, dtype=DOUBLE)), 1)
    for k, D in enumerate(sets(task.support)):
        left = len(D) if u is None else 1 + int(u[k] * len(D))
        kept = sorted(D, key=lambda example: lot[example[0]])[:left]
        q_c = model.q_c([x for _, x in kept])
        c = at(q_c, noise_c[k])
        kl_c.append(kl_divergence(q_c, prior))
        for i, x in D:
            q_z = model.q_z(x, c)
            log_p.append(model.p_x(at(q_z, noise_z[i]), c).log_prob(x))
            kl_z.append(kl_divergence(q_z, model.p_z(c)))
    bound = (sum(log_p) - sum(kl_z) - sum(kl_c)) / WAYS                                            # (4)
    assert_close(loss, -bound)
    for name, terms in (("log_p", log_p), ("kl_z", kl_z), ("kl_c", kl_c)):
        assert_close(info[name], sum(terms) / WAYS)
    leaves = pytree.tree_leaves(theta)
    assert_close(torch.autograd.grad(loss, leaves), torch.autograd.grad(-bound, leaves))


@KINDS
def test_scores_compare_the_statistics_of_one_example_and_of_a_set(task, nets, likelihood):
    learner, (S, Q) = neural_statistician(*nets, ways=WAYS, likelihood=likelihood), task
    theta = theta_of(learner)
    model, f = Oracle(nets, theta), learner.adapt(theta, S)
    for x, scores in zip(Q.x, f(Q.x), strict=True):
        want = [-kl_divergence(model.q_c([x for _, x in D]), model.q_c([x])) for D in sets(S)]    # (5)
        assert_close(scores, torch.stack(want))


@KINDS
def test_densities_are_importance_weighted(task, nets, likelihood):
    learner, (S, Q) = neural_statistician(*nets, ways=WAYS, likelihood=likelihood), task
    theta, draws = theta_of(learner), 5
    torch.manual_seed(4)
    got = learner.adapt(theta, S).log_prob(Q.x, draws)

    torch.manual_seed(4)
    noise_c, noise_z = (torch.randn(draws, len(Q.x), WAYS, size, dtype=DOUBLE) for size in (C, Z))
    model = Oracle(nets, theta)
    for k, D in enumerate(sets(S)):
        q_c = model.q_c([x for _, x in D])
        for i, x in enumerate(Q.x):
            weights = []
            for j in range(draws):
                c = at(q_c, noise_c[j, i, k])
                q_z = model.q_z(x, c)
                z = at(q_z, noise_z[j, i, k])
                weights.append((model.p_x(z, c).log_prob(x) + model.p_z(c).log_prob(z) - q_z.log_prob(z)).exp())
            assert_close(got[i, k], (sum(weights) / draws).log())                                  # (6)
    by_density = neural_statistician(*nets, ways=WAYS, likelihood=likelihood, by_density=True).adapt(theta, S)
    torch.manual_seed(4)
    scores = by_density(Q.x)
    torch.manual_seed(4)
    assert_close(scores, by_density.log_prob(Q.x))


def linear_model():
    """x = A z + B c + noise, with c and z Gaussian: p(x|D) is Gaussian, with moments known."""
    g = torch.Generator().manual_seed(1)
    A, B, W, b = (torch.randn(*size, generator=g, dtype=DOUBLE) for size in ((X, Z), (X, C), (Z, C), (X,)))

    def part(answer):
        return (lambda params, x: answer(x)), (lambda seed: {"unused": torch.zeros(1, dtype=DOUBLE)})

    def logvar(like, size, value):
        return like.new_full((len(like), size), value)

    learner = neural_statistician(
        part(lambda x: x),
        part(lambda h: torch.cat((h[:, :C], logvar(h, C, -1.0)), 1)),
        part(lambda hc: torch.cat((hc[:, X:] @ W.mT, logvar(hc, Z, 0.3)), 1)),  # wider than p(z|c), about it
        part(lambda c: torch.cat((c @ W.mT, logvar(c, Z, -0.5)), 1)),
        part(lambda zc: torch.cat((zc[:, :Z] @ A.mT + zc[:, Z:] @ B.mT + b, logvar(zc, X, 0.2)), 1)),
        ways=2, likelihood=nn.Gaussian,
    )

    def exact(mean_c):
        M = A @ W + B
        v_c, v_z, v_x = (torch.tensor(v, dtype=DOUBLE).exp() for v in (-1.0, -0.5, 0.2))
        cov = v_c * M @ M.mT + v_z * A @ A.mT + v_x * torch.eye(X, dtype=DOUBLE)
        return MultivariateNormal(M @ mean_c + b, cov)

    return learner, exact


def test_densities_and_samples_are_those_of_a_model_that_can_be_solved():
    learner, exact = linear_model()
    x = torch.randn(7, X, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    S = Data(x, torch.tensor([0, 1, 0, 1, 0, 1, 0]))
    f = learner.adapt(learner.init(0), S)
    torch.manual_seed(0)
    x = f.sample(100_000)
    for k in range(2):
        p = exact(S.x[S.y == k].mean(0)[:C])
        assert_close(x[:, k].mean(0), p.mean, atol=0.05, rtol=0)
        assert_close(x[:, k].mT.cov(), p.covariance_matrix, atol=0.2, rtol=0.03)
        near = p.mean + 0.5 * torch.randn(3, X, generator=torch.Generator().manual_seed(k), dtype=DOUBLE)
        assert_close(f.log_prob(near, 40_000)[:, k], p.log_prob(near), atol=0.05, rtol=0)
        few = torch.stack([f.log_prob(near, 2)[:, k] for _ in range(2000)]).mean(0)
        assert (few < p.log_prob(near)).all()  # too low in expectation


def test_sample_dropout_leaves_each_number_and_each_example_as_often():
    torch.manual_seed(0)
    member = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0], [0, 1]])
    kept = torch.stack([thinned(member) for _ in range(6000)])
    assert ((kept == 0) | (kept == member)).all()
    for k, m in ((0, 3), (1, 2)):
        numbers = kept[:, :, k].sum(1)
        for n in range(1, m + 1):
            assert abs((numbers == n).float().mean().item() - 1 / m) < 0.02
        share = kept[:, member[:, k] == 1, k].mean(0)
        assert (share - (m + 1) / (2 * m)).abs().max() < 0.02


def test_a_single_set_has_no_labels(task):
    learner = neural_statistician(*GAUSSIAN, ways=1, likelihood=nn.Gaussian)
    theta, (S, Q) = theta_of(learner), task
    f, g = learner.adapt(theta, S), learner.adapt(theta, Data(S.x, torch.randn(len(S.x), 1)))
    assert_close(f(Q.x), g(Q.x))
    assert_close(f.c.mean[0], Oracle(GAUSSIAN, theta).q_c(S.x).mean)


def test_a_class_without_examples_is_never_chosen_and_changes_nothing(task):
    few, many = (neural_statistician(*PIXELS, ways=ways, sample_dropout=False) for ways in (WAYS, WAYS + 2))
    theta = pytree.tree_map(torch.Tensor.detach, theta_of(few))
    scores = many.adapt(theta, task.support)(task.query.x)
    assert_close(scores[:, :WAYS], few.adapt(theta, task.support)(task.query.x))
    assert (scores[:, WAYS:] == -torch.inf).all()
    two = Task(*(Data(d.x, d.y.clamp_max(1)) for d in task))  # the third class is absent
    _, _, info = meta_gradient(few)(theta, batched(two))
    model = Oracle(PIXELS, theta)
    prior = Independent(Normal(torch.zeros(C, dtype=DOUBLE), torch.ones(C, dtype=DOUBLE)), 1)
    there = [model.q_c([x for _, x in D]) for D in sets(two.support) if D]
    assert_close(info["kl_c"], sum(kl_divergence(q, prior) for q in there) / 2)


@pytest.mark.slow
def test_after_a_little_training_a_density_has_the_mean_and_the_variance_of_its_points():
    pool, h = distributions(), 64
    sizes = ((1, h, h), (h + 1, h, 6), (h + 3, h, 4), (3, h, 4), (5, h, 2))
    learner = neural_statistician(
        *(functional(nn.mlp(size)) for size in sizes),
        ways=1, likelihood=nn.Gaussian, by_density=True, sample_dropout=False,
    )  # fmt: skip
    adam = {"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=3e-3), "device": "cpu", "progress": False}
    run = fit(learner, pool, steps=600, tasks=16, ways=1, shots=50, queries=1, **adam)
    score = evaluate(learner, run.theta, pool, tasks=100, ways=1, shots=200, queries=100, metric=excess_nats)
    assert score.mean < 0.22  # nats; the best Gaussian for all tasks together is 0.32 from them, one for each 0.18

    given = pool.sample(tasks=40, shots=200, queries=1, generator=torch.Generator().manual_seed(5)).support
    torch.manual_seed(0)
    drawn = [learner.adapt(run.theta, Data(x, y)).sample(2000)[:, 0, 0] for x, y in zip(*given, strict=True)]
    (m, v), (ours, spread) = ((t.mean(1), t.var(1)) for t in (given.x[..., 0], torch.stack(drawn).detach()))
    assert (ours - m).abs().mean() < 0.15 < m.std() / 3
    assert torch.stack((spread, v)).corrcoef()[0, 1] > 0.5


def statistician(encoder, decoder, likelihood: type, **options):
    """A Neural Statistician with 6 features, statistics of size 3 and latents of size 2."""

    def smooth(*sizes):
        return Sequential(Linear(sizes[0], 8), Tanh(), Linear(8, sizes[1]))

    parts = (encoder, smooth(7, 6), smooth(9, 4), smooth(3, 4), decoder)
    return neural_statistician(*map(functional, parts), ways=WAYS, likelihood=likelihood, **options)


CASES = {
    "neural_statistician": lambda: Case(
        statistician(Sequential(Linear(4, 8), Tanh(), Linear(8, 6)), Linear(5, 8), nn.Gaussian), blobs
    ),
    "neural_statistician-pixels": lambda: Case(
        statistician(
            nn.conv_encoder((1, 16, 16), 6, widths=(3, 4), depth=2, norm_policy="layer"),
            nn.conv_decoder(5, (1, 16, 16), widths=(3, 4), depth=2), nn.Bernoulli, sample_dropout=False,
        ), drawings, {HELPS: "forty steps teach the mean drawing, and no statistic yet"},
    ),
}  # fmt: skip

BUGS = [
    Bug("the statistician weighs KL(c) by example", "learners/neural_statistician.py",
        ('per_set["kl_z"] + per_set["kl_c"]', 'per_set["kl_z"] + len(h) * per_set["kl_c"]'),
        "test_the_objective_is_the_bound"),
    Bug("sample dropout drops nothing", "learners/neural_statistician.py",
        ("thinned(member) if dropout else member", "member"), "test_the_objective_is_the_bound"),
    Bug("sample dropout hides examples from the bound", "learners/neural_statistician.py",
        ("by_density=by_density), h, member", "by_density=by_density), h, kept"), "test_the_objective_is_the_bound"),
    Bug("sample dropout may leave nothing", "nn/classes.py",
        ("< 1 + (torch.rand_like(size)", "< (torch.rand_like(size)"),
        "test_sample_dropout_leaves_each_number_and_each_example_as_often"),
    Bug("statistics pool sums", "learners/neural_statistician.py",
        (", 1) / size.clamp_min(1)", ", 1)"), "test_scores_compare_the_statistics_of_one_example_and_of_a_set"),
    Bug("the divergence runs backwards", "learners/neural_statistician.py",
        ("-self.c.kl(alone)", "-alone.kl(self.c)"), "test_scores_compare_the_statistics_of_one_example_and_of_a_set"),
    Bug("latents come from the prior in training", "learners/neural_statistician.py",
        ("z = q_z.draw()", "z = p_z.draw()"), "test_the_objective_is_the_bound"),
    Bug("importance weights forget q", "learners/neural_statistician.py",
        (" - q_z.log_prob(z))", ")"), "test_densities_and_samples_are_those_of_a_model_that_can_be_solved"),
    Bug("a class without examples has a KL(c)", "learners/neural_statistician.py",
        ("torch.where(f.present, f.c.kl(), 0.0)", "f.c.kl()"),
        "test_a_class_without_examples_is_never_chosen_and_changes_nothing"),
]  # fmt: skip
