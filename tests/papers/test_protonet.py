"""Prototypical networks, restated one example and one class at a time. The classes have unequal sizes."""

from functools import partial

import pytest
import torch
from mutations import Bug, law
from torch.testing import assert_close
from zoo import DERIVATIVE, WAYS, batched, blobs, features, image_net, pictures, waived

from metaloop import Data, Task, functional, meta_gradient, protonet
from metaloop.nn import POLICIES, mlp
from metaloop.testing import Case

embed, init = functional(mlp((4, 8, 5)))


@pytest.fixture
def theta():
    return {n: p.double().requires_grad_() for n, p in init(0).items()}


@pytest.fixture
def task():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(13, 4, generator=g).double()
    y = torch.tensor([0, 2, 2, 1, 2, 2, 0, 1, 2, 0, 0, 2, 1])
    return Task(Data(x[:8], y[:8]), Data(x[8:], y[8:]))


def z(theta, x):
    return embed(theta, x[None])[0]


def centres(theta, S: Data):
    """Equation (1)."""
    c = []
    for k in range(WAYS):
        members = [z(theta, x) for x, y in zip(*S, strict=True) if y == k]
        c.append(sum(members) / len(members))
    return c


def euclidean(theta, S: Data, x):
    """Equation (2)."""
    return torch.stack([-sum((a - b) ** 2 for a, b in zip(z(theta, x), c, strict=True)) for c in centres(theta, S)])


def cosine(theta, S: Data, x, temperature=10.0):
    a = z(theta, x)
    return torch.stack([temperature * (a @ c) / (a @ a).sqrt() / (c @ c).sqrt() for c in centres(theta, S)])


@pytest.mark.parametrize(("metric", "score"), [("euclidean", euclidean), ("cosine", cosine)])
def test_scores_loss_and_gradient(theta, task, metric, score):
    learner, (S, Q) = protonet(embed, init, ways=WAYS, metric=metric), task
    scores = torch.stack([score(theta, S, x) for x in Q.x])
    assert_close(learner.adapt(theta, S)(Q.x), scores)

    p = scores.exp() / scores.exp().sum(1, keepdim=True)                                          # (3)
    loss = -sum(p_i[y].log() for p_i, y in zip(p, Q.y, strict=True)) / len(Q.y)                   # (4)
    want = dict(zip(theta, torch.autograd.grad(loss, theta.values()), strict=True))
    grads, got, info = meta_gradient(learner)({n: t.detach() for n, t in theta.items()}, batched(task))
    assert_close(got, loss.detach())
    assert_close(grads, want)
    right = [float(s.argmax() == y) for s, y in zip(scores, Q.y, strict=True)]
    assert_close(info["accuracy"].item(), sum(right) / len(right))


def test_the_temperature_scales_cosines(theta, task):
    S, Q = task
    cool, warm = (protonet(embed, init, ways=WAYS, metric="cosine", temperature=t).adapt(theta, S) for t in (1.0, 7.0))
    assert_close(warm(Q.x), 7 * cool(Q.x))
    assert cool(Q.x).abs().max() <= 1


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="metric is 'manhattan', expected 'euclidean' or 'cosine'"):
        protonet(embed, init, ways=WAYS, metric="manhattan")


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_class_without_examples_is_never_chosen_and_changes_nothing(theta, task, metric):
    few, many = (protonet(embed, init, ways=ways, metric=metric) for ways in (WAYS, WAYS + 2))
    scores = many.adapt(theta, task.support)(task.query.x)
    assert_close(scores[:, :WAYS], few.adapt(theta, task.support)(task.query.x))
    assert (scores[:, WAYS:] == -torch.inf).all()
    one_task = Task(*(Data(d.x[None], d.y[None]) for d in task))
    assert_close(meta_gradient(many)(theta, one_task)[:2], meta_gradient(few)(theta, one_task)[:2])


def images(policy: str, blocks: int = 4) -> Case:
    return Case(protonet(*functional(image_net(policy, blocks=blocks)), ways=WAYS), pictures, waived(policy))


def images_at_test(blocks: int = 4) -> Case:
    net, init = functional(image_net("running", blocks=blocks))
    estimated = {DERIVATIVE: "population statistics are estimated, not learned by gradient"}
    return Case(protonet(net.eval(), init, ways=WAYS), pictures, estimated)


CASES = {
    "protonet": lambda: Case(protonet(*features, ways=WAYS), blobs),
    "protonet-cosine": lambda: Case(protonet(*features, ways=WAYS, metric="cosine"), blobs),
    **{f"protonet-conv4-{policy}": partial(images, policy) for policy in POLICIES},
    "protonet-conv4-running-at-test": images_at_test,
}

BUGS = [
    Bug("prototypes are sums", "nn/classes.py", (" / count.clamp_min(1).view(-1, *[1] * (z.ndim - 1))", ""),
        "test_scores_loss_and_gradient"),
    Bug("absent classes are chosen", "learners/protonet.py",
        ("torch.where(self.present, score, -torch.inf)", "score"),
        "test_a_class_without_examples_is_never_chosen_and_changes_nothing"),
    Bug("prototypes hold back the gradient", "nn/classes.py", ("_sum(z, member) /", "_sum(z.detach(), member) /"),
        law("meta_gradient_is_the_derivative", "protonet")),
    Bug("prototypes depend on the order", "nn/classes.py", ("_sum(z, member) /", "_sum(z.cumsum(0), member) /"),
        law("support_order_is_irrelevant", "protonet")),
    Bug("distances are not squared", "learners/protonet.py",
        (".square().sum(-1)", ".abs().sum(-1)"), "test_scores_loss_and_gradient"),
    Bug("queries are centred together", "learners/protonet.py",
        ("z = self.embed(self.theta, x)", "z = self.embed(self.theta, x)\n        z = z - z.mean(0)"),
        law("queries_do_not_see_each_other", "protonet")),
    Bug("cosines are not scaled", "learners/protonet.py",
        (".mT * self.temperature", ".mT"), "test_scores_loss_and_gradient"),
    Bug("accuracy counts the worst guess", "targets.py",
        ("(scores.argmax", "(scores.argmin"), "test_scores_loss_and_gradient"),
]  # fmt: skip
