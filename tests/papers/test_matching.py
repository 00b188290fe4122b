"""Matching networks, restated one pair of examples at a time, with torch's LSTMs. The classes have unequal sizes."""

import math

import pytest
import torch
from mutations import Bug, law
from torch import nn
from torch.testing import assert_close
from zoo import ORDER, WAYS, batched, blobs, features

from metaloop import Data, Task, functional, matching, meta_gradient
from metaloop.nn import mlp
from metaloop.testing import Case

DIM, STEPS = 5, 3
embed, init = functional(mlp((4, 8, DIM)))
FORMS = {
    "cosine": {}, "warm": {"temperature": 3.0}, "euclidean": {"metric": "euclidean"},
    "fce": {"context": DIM, "steps": STEPS}, "fce-euclidean": {"context": DIM, "steps": STEPS, "metric": "euclidean"},
}  # fmt: skip


def learner(form, ways=WAYS):
    return matching(embed, init, ways=ways, **FORMS[form])


def weights(form):
    theta = learner(form).init(0)
    return {part: {n: p.double().requires_grad_() for n, p in params.items()} for part, params in theta.items()}


@pytest.fixture
def task():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(13, 4, generator=g).double()
    y = torch.tensor([0, 2, 2, 1, 2, 2, 0, 1, 2, 0, 0, 2, 1])
    return Task(Data(x[:8], y[:8]), Data(x[8:], y[8:]))


def similarity(form, a, b):
    if "euclidean" in form:
        return -sum((a_i - b_i) ** 2 for a_i, b_i in zip(a, b, strict=True))
    return FORMS[form].get("temperature", 10.0) * (a @ b) / (a @ a).sqrt() / (b @ b).sqrt()


def gates(weight):
    """A cell's rows, from the order i, f, o, g to torch's i, f, g, o."""
    i, f, o, g = weight.chunk(4)
    return torch.cat([i, f, g, o])


def torchs(cell, params, prefix, suffix, inputs):
    """The parameters for torch's cell that are those of ours, as graph nodes."""
    weight, bias = (gates(params[f"{prefix}cells.0.{n}"]) for n in ("weight", "bias"))
    return {f"weight_ih{suffix}": weight[:, :inputs], f"weight_hh{suffix}": weight[:, inputs:],
            f"bias_ih{suffix}": bias, f"bias_hh{suffix}": torch.zeros_like(bias)}  # fmt: skip


def contextual(theta, z):
    """Equation (4)."""
    both = nn.LSTM(DIM, DIM, bidirectional=True).double()
    params = {**torchs(both, theta["g"], "forwards.", "_l0", DIM),
              **torchs(both, theta["g"], "backwards.", "_l0_reverse", DIM)}  # fmt: skip
    out, _ = torch.func.functional_call(both, params, (torch.stack(z),))
    return [z_i + o[:DIM] + o[DIM:] for z_i, o in zip(z, out, strict=True)]


def attentive(theta, z, g):
    """Equation (5)."""
    cell = nn.LSTMCell(2 * DIM, DIM).double()
    params = torchs(cell, theta["f"], "lstm.", "", 2 * DIM)
    h, c = z, torch.zeros_like(z)
    for _ in range(STEPS):
        a = torch.stack([(h @ g_i).exp() for g_i in g])
        r = sum(a_i * g_i for a_i, g_i in zip(a / a.sum(), g, strict=True))
        hat, c = torch.func.functional_call(cell, params, (torch.cat([z, r])[None], (h[None], c[None])))
        h, c = hat[0] + z, c[0]
    return h


def probabilities(form, theta, S: Data, x):
    """Equations (1) and (2)."""
    g, f = [embed(theta["embed"], x_i[None])[0] for x_i in S.x], embed(theta["embed"], x[None])[0]
    if "fce" in form:
        g = contextual(theta, g)
        f = attentive(theta, f, g)
    a = [similarity(form, f, g_i).exp() for g_i in g]
    return torch.stack([sum(a_i for a_i, y in zip(a, S.y, strict=True) if y == k) for k in range(WAYS)]) / sum(a)


@pytest.mark.parametrize("form", FORMS)
def test_scores_loss_and_gradient(task, form):
    F_theta, theta, (S, Q) = learner(form), weights(form), task
    p = torch.stack([probabilities(form, theta, S, x) for x in Q.x])
    f = F_theta.adapt(theta, S)
    assert_close(f(Q.x), p.log())
    member = (S.y[:, None] == torch.arange(WAYS)).double()
    assert_close(f.attends(Q.x) @ member, p)

    loss = -sum(p_i[y].log() for p_i, y in zip(p, Q.y, strict=True)) / len(Q.y)                   # (3)
    leaves = [t for params in theta.values() for t in params.values()]
    want = torch.autograd.grad(loss, leaves)
    grads, got, _ = meta_gradient(F_theta)({part: {n: t.detach() for n, t in params.items()}
                                            for part, params in theta.items()}, batched(task))  # fmt: skip
    assert_close(got, loss.detach())
    assert_close([g for params in grads.values() for g in params.values()], list(want))


def test_a_bare_cosine_cannot_be_sure(task):
    """Departure 1: with cosines in [-1, 1] no support example draws more than e^2 times the attention of another."""
    S, Q = task
    theta = weights("cosine")
    each = Data(S.x, torch.arange(len(S.x)))
    bare, scaled = (
        matching(embed, init, ways=len(S.x), temperature=t).adapt(theta, each)(Q.x).detach() for t in (1.0, 30.0)
    )
    assert (bare.amax(1) - bare.amin(1)).max() <= 2
    assert (scaled.amax(1) - scaled.amin(1)).max() > 2


@pytest.mark.parametrize("form", ["cosine", "euclidean", "fce"])
def test_a_class_without_examples_is_never_chosen_and_changes_nothing(task, form):
    theta = weights(form)
    scores = learner(form, WAYS + 2).adapt(theta, task.support)(task.query.x)
    assert_close(scores[:, :WAYS], learner(form).adapt(theta, task.support)(task.query.x))
    assert (scores[:, WAYS:] == -torch.inf).all()
    many, few = (meta_gradient(learner(form, ways))(theta, batched(task)) for ways in (WAYS + 2, WAYS))
    assert_close(many[:2], few[:2])
    assert math.isfinite(many[1].item())


def test_context_sees_the_whole_support_set_from_both_ends(task):
    """g of each example moves with every other; without context it does not."""
    S, _ = task
    for form, moves in (("fce", True), ("cosine", False)):
        F_theta, theta = learner(form), weights(form)
        for i in (0, len(S.x) - 1):
            other = S.x.clone()
            other[i] += 1
            change = (F_theta.adapt(theta, Data(other, S.y)).g - F_theta.adapt(theta, S).g).abs().sum(1)
            others = [j for j in range(len(S.x)) if j != i]
            assert bool((change[others] > 1e-9).all()) is moves
            assert bool((change[others] == 0).all()) is not moves


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="metric is 'manhattan', expected 'cosine' or 'euclidean'"):
        matching(embed, init, ways=WAYS, metric="manhattan")


CASES = {
    "matching": lambda: Case(matching(*features, ways=WAYS), blobs),
    "matching-euclidean": lambda: Case(matching(*features, ways=WAYS, metric="euclidean"), blobs),
    "matching-fce": lambda: Case(
        matching(*features, ways=WAYS, context=6, steps=2), blobs,
        {ORDER: "two LSTMs read the support set in its order"},
    ),
}  # fmt: skip

BUGS = [
    Bug("matching adds up logarithms", "learners/matching.py",
        ("torch.where(member, log_a[..., None], -torch.inf).logsumexp(-2)", "log_a @ member.to(log_a)"),
        "test_scores_loss_and_gradient"),
    Bug("matching's cosines are not scaled", "learners/matching.py",
        ("self.g) * self.temperature", "self.g)"), "test_scores_loss_and_gradient"),
    Bug("matching normalises over the queries", "learners/matching.py",
        ("x).log_softmax(-1)", "x).log_softmax(0)"), law("queries_do_not_see_each_other", "matching")),
    Bug("queries match the support set out of context", "learners/matching.py",
        ('"embed": params}, g, labels', '"embed": params}, embed(theta["embed"], S.x), labels'),
        "test_scores_loss_and_gradient[fce]"),
    Bug("the context is learned by half", "learners/matching.py",
        ('read["g"](theta["g"], g) ', 'read["g"](theta["g"], g).detach() '),
        law("meta_gradient_is_the_derivative", "matching-fce")),
    Bug("the backward LSTM answers in its own order", "nn/context.py",
        ("back.flip(0)", "back"), "test_scores_loss_and_gradient[fce]"),
    Bug("the support context looks one way", "nn/context.py",
        ("self.backwards(z.flip(0))", "self.backwards(0 * z)"),
        "test_context_sees_the_whole_support_set_from_both_ends"),
    Bug("what was read is forgotten", "nn/context.py",
        ("torch.cat([z, r], -1)", "torch.cat([z, 0 * r], -1)"), "test_scores_loss_and_gradient[fce]"),
    Bug("the attentive LSTM keeps no cell", "nn/context.py",
        ("out, ((_, c),) =", "out, _ ="), "test_scores_loss_and_gradient[fce]"),
]  # fmt: skip
