"""The Variational Homoencoder, restated with loops over classes and examples; its bound held to a model whose
evidence is known, and to the Statistician's. The masked decoder: by summing over all pictures."""

from itertools import combinations, product

import pytest
import torch
from mutations import Bug, law
from test_neural_statistician import DOUBLE, GAUSSIAN, PIXELS, C, Oracle, X, Z, at, sets, theta_of
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence
from torch.nn import Linear, Sequential, Tanh
from torch.testing import assert_close
from zoo import HELPS, WAYS, batched, blobs, drawings

from metaloop import Data, Task, functional, homoencoder, meta_gradient, neural_statistician, nn
from metaloop.testing import Case
from metaloop.torch_private import pytree

KINDS = pytest.mark.parametrize(("nets", "likelihood"), [(GAUSSIAN, nn.Gaussian), (PIXELS, nn.Bernoulli)])


@pytest.fixture
def task():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(15, X, generator=g).double()
    y = torch.tensor([0, 2, 2, 1, 2, 2, 0, 1, 2, 0, 0, 2, 1, 1, 0])
    return Task(Data(x[:8], y[:8]), Data(x[8:], y[8:]))


@KINDS
@pytest.mark.parametrize("class_size", [20, 1, None])
@pytest.mark.parametrize("decodes", ["query", "support", "class"])
@pytest.mark.parametrize("sample_dropout", [True, False])
def test_the_objective_is_the_bound(task, nets, likelihood, class_size, decodes, sample_dropout):
    how = {"class_size": class_size, "decodes": decodes, "sample_dropout": sample_dropout}
    learner = homoencoder(*nets, ways=WAYS, likelihood=likelihood, **how)
    theta, (S, Q) = theta_of(learner), task
    torch.manual_seed(3)
    loss, info = learner.objective(learner.adapt, theta, task)

    torch.manual_seed(3)
    lot, u = (torch.rand(8, dtype=DOUBLE), torch.rand(WAYS, dtype=DOUBLE)) if sample_dropout else (torch.zeros(8), None)
    noise_c = torch.randn(WAYS, C, dtype=DOUBLE)
    decoded = {"query": [Q], "support": [S], "class": [S, Q]}[decodes]
    noise_z = [torch.randn(len(part.x), Z, dtype=DOUBLE) for part in decoded]
    model, prior = Oracle(nets, theta), Independent(Normal(torch.zeros(C, dtype=DOUBLE), 1.0), 1)
    told = {"log_p": [], "kl_z": [], "kl_c": [], "bound": []}
    for k, D in enumerate(sets(S)):
        kept = sorted(D, key=lambda example: lot[example[0]])[: len(D) if u is None else 1 + int(u[k] * len(D))]
        q_c = model.q_c([x for _, x in kept])
        c, size = at(q_c, noise_c[k]), class_size or len(D)
        means = []
        for part, noise in zip(decoded, noise_z, strict=True):
            log_p, kl_z = [], []
            for i, x in sets(part)[k]:
                q_z = model.q_z(x, c)
                log_p.append(model.p_x(at(q_z, noise[i]), c).log_prob(x))
                kl_z.append(kl_divergence(q_z, model.p_z(c)))
            means.append((sum(log_p) / len(log_p), sum(kl_z) / len(kl_z)))
        if decodes == "class":  # as if X were D and, in its other members, like the queries
            share = min(1, len(D) / size)
            means = [tuple(share * s + (1 - share) * q for s, q in zip(*means, strict=True))]
        (log_p, kl_z), kl_c = means[0], kl_divergence(q_c, prior)
        for name, term in (("log_p", log_p), ("kl_z", kl_z), ("kl_c", kl_c)):
            told[name].append(term)
        told["bound"].append(log_p - kl_z - kl_c / size)                                               # (3)
    for name, terms in told.items():
        assert_close(info[name], sum(terms) / WAYS)
    assert_close(loss, -info["bound"])
    leaves, want = pytree.tree_leaves(theta), -sum(told["bound"]) / WAYS
    assert_close(torch.autograd.grad(loss, leaves), torch.autograd.grad(want, leaves))


@KINDS
@pytest.mark.parametrize("sample_dropout", [True, False])
def test_where_D_is_all_of_its_class_it_is_the_statistician(nets, likelihood, sample_dropout):
    """Its loss is of a set, ours of an example."""
    x = torch.rand(12, X, generator=torch.Generator().manual_seed(1)).double()
    S = Data(x, torch.arange(12) % WAYS)
    how = {"ways": WAYS, "likelihood": likelihood, "sample_dropout": sample_dropout}
    theirs = neural_statistician(*nets, **how)
    ours = homoencoder(*nets, class_size=None, decodes="support", **how)
    theta = pytree.tree_map(torch.Tensor.detach, theta_of(theirs))
    assert_close(ours.init(3), theirs.init(3), rtol=0, atol=0)
    torch.manual_seed(0)
    loss, info = ours.objective(ours.adapt, theta, Task(S, S))
    torch.manual_seed(0)
    want, terms = theirs.objective(theirs.adapt, theta, Task(S, S))
    assert_close(4 * loss, want)
    assert_close(4 * info["kl_z"], terms["kl_z"])
    assert_close(info["kl_c"], terms["kl_c"])
    assert_close(ours.adapt(theta, S)(x), theirs.adapt(theta, S)(x), rtol=0, atol=0)


class Linear2:
    """x = A z + B c + b + noise of 3 numbers, with c of 2 and z of 1 Gaussian: every density is known."""

    def __init__(self):
        g = torch.Generator().manual_seed(1)
        self.A, self.B, self.W, self.b = (
            torch.randn(*size, generator=g, dtype=DOUBLE) for size in ((3, 1), (3, 2), (1, 2), (3,))
        )  # fmt: skip
        self.v_z, self.v_x = 0.6, 1.3
        self.each = self.v_z * self.A @ self.A.mT + self.v_x * torch.eye(3, dtype=DOUBLE)  # covariance of x given c
        self.M = self.A @ self.W + self.B

    def learner(self, **how):
        def part(answer):
            return (lambda params, x: answer(x)), (lambda seed: {"unused": torch.zeros(1, dtype=DOUBLE)})

        def normal(mean, v):
            return torch.cat((mean, torch.full_like(mean, v).log()), 1)

        v = 1 / (1 / self.v_z + self.A.square().sum() / self.v_x)  # of z given x and c

        def posterior(hc):
            x, c = hc.split((3, 2), 1)
            return normal(v * (c @ self.W.mT / self.v_z + (x - c @ self.B.mT - self.b) @ self.A / self.v_x), v.item())

        return homoencoder(
            part(lambda x: x), part(lambda h: normal(h[:, :2], 0.4)), part(posterior),
            part(lambda c: normal(c @ self.W.mT, self.v_z)),
            part(lambda zc: normal(zc[:, :1] @ self.A.mT + zc[:, 1:] @ self.B.mT + self.b, self.v_x)),
            ways=1, likelihood=nn.Gaussian, sample_dropout=False, **how,
        )  # fmt: skip

    def evidence(self, x):
        """log p(X), and p(c|X)."""
        n, P = len(x), torch.linalg.inv(self.each)
        cov = torch.block_diag(*[self.each] * n) + self.M.repeat(n, 1) @ self.M.repeat(n, 1).mT
        v = torch.linalg.inv(torch.eye(2, dtype=DOUBLE) + n * self.M.mT @ P @ self.M)
        c = MultivariateNormal(v @ self.M.mT @ P @ (x - self.b).sum(0), v)
        return MultivariateNormal(self.b.repeat(n), cov).log_prob(x.flatten()), c


@pytest.mark.parametrize("decodes", ["class", "query", "support"])
def test_the_bound_is_below_the_evidence_by_what_the_inference_is_wrong(monkeypatch, decodes):
    """In the mean over all D, two of three, log p(X) - |X| (3) = KL(q(c|D) | p(c|X)), where q(z|x,c) is exact: with X
    the class, or what the class has besides D, or D. The terms are quadratic in the noise, so that its signs do."""
    model, x = Linear2(), torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    size = {"class": 3, "query": 1, "support": None}[decodes]
    learner, y = model.learner(class_size=size, decodes=decodes), torch.zeros(3, dtype=torch.int64)
    theta, gaps, wrong = learner.init(0), [], []
    for chosen in combinations(range(3), 2):
        D, rest = (torch.stack([x[i] for i in range(3) if (i in chosen) == inside]) for inside in (True, False))
        whole = {"class": x, "query": rest, "support": D}[decodes]
        draws = []
        for signs in product((-1.0, 1.0), repeat=2 + len(whole)):
            left = list(signs)

            def noise(like, left=left):
                taken = [left.pop(0) for _ in range(like.numel())]
                return torch.tensor(taken, dtype=DOUBLE).view(like.shape)

            monkeypatch.setattr(torch, "randn_like", noise)
            loss, _ = learner.objective(learner.adapt, theta, Task(Data(D, y[:2]), Data(rest, y[2:])))
            draws.append(-loss)
        evidence, exact = model.evidence(whole)
        q = MultivariateNormal(D.mean(0)[:2], 0.4 * torch.eye(2, dtype=DOUBLE))
        gaps.append(evidence - len(whole) * sum(draws) / len(draws))
        wrong.append(kl_divergence(q, exact))
    assert_close(torch.stack(gaps).mean(), torch.stack(wrong).mean())
    assert min(wrong) > 0.05


def test_a_class_that_lacks_examples_counts_for_nothing(task):
    S, Q = task
    how = {"class_size": 9, "sample_dropout": False}
    few, many = (homoencoder(*PIXELS, ways=ways, **how) for ways in (WAYS, WAYS + 1))
    theta = pytree.tree_map(torch.Tensor.detach, theta_of(few))
    two = Data(S.x, S.y.clamp_max(1))  # the third class is in the queries alone
    only = Task(two, Data(Q.x[Q.y < 2], Q.y[Q.y < 2]))
    _, _, info = meta_gradient(many)(theta, batched(Task(two, Q)))
    _, _, want = meta_gradient(few)(theta, batched(only))
    assert_close(info["kl_c"], want["kl_c"])
    assert all(value.isfinite() for value in info.values())


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="decodes is 'all', expected 'query', 'support', 'class'"):
        homoencoder(*PIXELS, ways=WAYS, class_size=20, decodes="all")
    for size in (0, 0.5, float("nan")):
        with pytest.raises(ValueError, match=f"class_size is {size}, expected at least 1"):
            homoencoder(*PIXELS, ways=WAYS, class_size=size)
    with pytest.raises(ValueError, match=r"Masked: pictures have shape \(3, 8, 8\), expected one channel"):
        nn.Masked(4, (3, 8, 8))


# The masked decoder


def masked(shape, depth=2, seed=0):
    net, init = functional(nn.Masked(3, shape, width=4, depth=depth))
    return net, {n: 2 * p.double() for n, p in init(seed).items()}


def test_a_logit_sees_the_code_and_what_was_drawn_before():
    net, theta = masked((1, 6, 9), depth=3)
    v = torch.randn(1, 3 + 54, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).requires_grad_()
    logits = net(theta, v).flatten()
    for i in range(54):
        (g,) = torch.autograd.grad(logits[i], v, retain_graph=True)
        code, x = g[0].split((3, 54))
        assert code.all()
        assert not x[i:].any()
        row, column = divmod(i, 9)
        close = [9 * r + c for r in range(6) for c in range(9) if row - r <= 2 and abs(column - c) <= 3]
        near = [j for j in close if j < i]
        assert x[near].all()  # what the first layer sees


def every(pixels: int):
    return torch.tensor(list(product((0.0, 1.0), repeat=pixels)), dtype=DOUBLE)


def test_its_pictures_have_probability_one_together_and_are_drawn_as_often():
    shape, code = (1, 2, 4), torch.tensor([[0.3, -1.0, 0.7]], dtype=DOUBLE)
    net, theta = masked(shape)
    x = every(8)
    log_p = nn.CausalBernoulli.of(net(theta, torch.cat([code.expand(256, -1), x], 1)).flatten(1)).log_prob(x)
    p = log_p.exp()
    assert_close(p.sum(), torch.tensor(1.0, dtype=DOUBLE))
    torch.manual_seed(0)
    along = net(theta, code.expand(4000, -1))
    assert along.shape == (4000, *shape)
    drawn = along.flatten(1).sigmoid().mean(0)
    assert_close(drawn, p @ x, atol=0.03, rtol=0)
    assert (p @ x - (p @ x).mean()).abs().max() > 0.05


def test_drawing_answers_the_logits_of_what_it_drew():
    net, theta = masked((1, 5, 6))
    codes = torch.randn(7, 3, generator=torch.Generator().manual_seed(5), dtype=DOUBLE)
    torch.manual_seed(4)
    along = net(theta, codes)
    torch.manual_seed(4)
    places = [torch.rand(7, 1, 5, 6, dtype=DOUBLE)[:, 0].flatten(1)[:, i] for i in range(30)]
    x = (torch.stack(places, 1) < along.flatten(1).sigmoid()).double()
    assert_close(net(theta, torch.cat([codes, x], 1)), along)
    assert 0 < x.mean() < 1


def test_a_set_has_a_density_under_a_decoder_that_reads():
    learner = readers(shape=(1, 2, 2))
    theta = pytree.tree_map(torch.Tensor.double, learner.init(0))
    x = every(4).view(16, 1, 2, 2)
    f = learner.adapt(theta, Data(x[:6], torch.arange(6) % WAYS))
    flat, c = x.flatten(1), f.c.mean[:1].expand(16, -1)
    log_p, _, _, z = f.terms(flat, f.encoder(theta["encoder"], x), c)
    read = nn.CausalBernoulli.of(f.decoder(theta["decoder"], torch.cat([z, c, flat], 1)).flatten(1))
    assert_close(log_p, read.log_prob(flat))
    torch.manual_seed(0)
    total = f.log_prob(x, draws=600).exp().sum(0)
    assert_close(total, torch.ones_like(total), atol=0.05, rtol=0)
    assert f.sample(2).shape == (2, WAYS, 1, 2, 2)


def readers(shape=(1, 16, 16), **how):
    """Networks for drawings, with a decoder that reads."""
    wide = shape[1] * shape[2]
    parts = (Sequential(nn.Shaped(wide), Linear(wide, 6), Tanh()), smooth(7, 6), smooth(9, 4), smooth(3, 4))
    decoder = nn.Masked(5, shape, width=3, depth=1)
    how = {"class_size": 20, **how}
    return homoencoder(*map(functional, (*parts, decoder)), ways=WAYS, likelihood=nn.CausalBernoulli, **how)


def smooth(*sizes):
    return Sequential(Linear(sizes[0], 8), Tanh(), Linear(8, sizes[1]))


def points(**how) -> Case:
    parts = (smooth(4, 6), smooth(7, 6), smooth(9, 4), smooth(3, 4), Linear(5, 8))
    return Case(homoencoder(*map(functional, parts), ways=WAYS, likelihood=nn.Gaussian, **how), blobs)


CASES = {
    "homoencoder": lambda: points(class_size=20),
    "homoencoder-masked": lambda: Case(
        readers(decodes="class"), drawings, {HELPS: "forty steps teach the mean drawing, and no statistic yet"}
    ),
}

HERE = "learners/homoencoder.py"
BUGS = [
    Bug("the homoencoder forgets that a class shares its c", HERE, ("kl_c / size.clamp_min(1)", "kl_c"),
        "test_the_bound_is_below_the_evidence_by_what_the_inference_is_wrong"),
    Bug("the homoencoder pays for c by the example at hand", HERE,
        ("size = here if class_size is None else torch.full_like(here, class_size)", "size = here"),
        "test_the_objective_is_the_bound"),
    Bug("the homoencoder decodes what it has encoded", HERE,
        ("explained(f, c, task.query)\n        else", "explained(f, c, task.support)\n        else"),
        "test_the_bound_is_below_the_evidence_by_what_the_inference_is_wrong[query]"),
    Bug("the homoencoder weighs D and the others alike", HERE,
        ("(seen * s + (1 - seen) * q", "((s + q) / 2"), "test_the_objective_is_the_bound"),
    Bug("the homoencoder infers c from the queries too", HERE,
        ("infer(theta, task.support, dropout", "infer(theta, Data(*map(torch.cat, zip(*task))), dropout"),
        "test_the_objective_is_the_bound"),
    Bug("the homoencoder's sets are all one", HERE, ("member @ c)", "member.roll(1, 1) @ c)"),
        "test_the_objective_is_the_bound"),
    Bug("the homoencoder holds c back", HERE, ("f.c.draw(), member.sum(0)", "f.c.draw().detach(), member.sum(0)"),
        law("meta_gradient_is_the_derivative", "homoencoder")),
    Bug("a class without D has a bound", HERE, ("f.present & (n > 0)", "n > 0"),
        "test_a_class_that_lacks_examples_counts_for_nothing"),
    Bug("a pixel sees itself", "nn/masked.py", ("width, 7, itself=False)", "width, 7, itself=True)"),
        "test_its_pictures_have_probability_one_together_and_are_drawn_as_often"),
    Bug("a pixel sees its right neighbour", "nn/masked.py", ("< self.seen", "< self.seen + 1"),
        "test_a_logit_sees_the_code_and_what_was_drawn_before"),
    Bug("a pixel is blind to its left neighbour", "nn/masked.py", ("// 2 + itself", "// 2 - 1 + itself"),
        "test_a_logit_sees_the_code_and_what_was_drawn_before"),
    Bug("a drawing forgets the pixels before", "nn/masked.py", ("x[:, :, :rows]), (0", "0 * x[:, :, :rows]), (0"),
        "test_drawing_answers_the_logits_of_what_it_drew"),
    Bug("a decoder that reads is told nothing", "learners/neural_statistician.py",
        ('"causal", False) else ()))', '"causal", False) and 0 else ()))'),
        "test_a_set_has_a_density_under_a_decoder_that_reads"),
]  # fmt: skip
