"""The pretrained baseline, restated with a torch.nn.Linear on frozen features."""

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug
from torch import nn
from torch.testing import assert_close
from zoo import WAYS, batched, features, known_blobs

from metaloop import Data, Task, functional, meta_gradient, pretrain, protonet
from metaloop.nn import mlp
from metaloop.testing import Case
from metaloop.torch_private import pytree

CLASSES, DIM = 7, 5
embed, init = functional(mlp((4, 8, DIM)))


def baseline(**options):
    return pretrain(embed, init, classes=CLASSES, dim=DIM, ways=WAYS, **options)


@pytest.fixture
def theta():
    return pytree.tree_map(torch.Tensor.double, baseline().init(0))


@pytest.fixture
def task():
    g = torch.Generator().manual_seed(0)
    y = torch.tensor([0, 2, 2, 1, 2, 2, 0, 1])
    return Task(Data(torch.randn(8, 4, generator=g).double(), y), Data(torch.randn(6, 4, generator=g).double(), y[:6]))


def test_it_is_trained_as_an_ordinary_classifier_of_all_classes(theta, task):
    theta["b"] = torch.linspace(-1, 1, CLASSES, dtype=torch.float64)
    labels = torch.tensor([6, 0, 3, 3, 5, 1])
    task = task._replace(query=task.query._replace(y=labels))
    leaves = {n: t.clone().requires_grad_() for n, t in {**theta["embed"], "W": theta["W"], "b": theta["b"]}.items()}
    losses, right = [], 0
    for x, y in zip(*task.query, strict=True):
        logits = leaves["W"] @ embed({n: leaves[n] for n in theta["embed"]}, x[None])[0] + leaves["b"]
        losses.append(-(logits.exp() / logits.exp().sum())[y].log())
        right += int(logits.argmax() == y)
    loss = sum(losses) / len(losses)
    want = dict(zip(leaves, torch.autograd.grad(loss, leaves.values()), strict=True))

    grads, got, info = meta_gradient(baseline())(theta, batched(task))
    assert_close(got, loss.detach())
    assert_close({**grads["embed"], "W": grads["W"], "b": grads["b"]}, want)
    assert_close(info["accuracy"], torch.tensor(right / 6).double())


def test_the_support_set_has_no_part_in_training(theta, task):
    other = task._replace(support=Data(task.support.x + 1, task.support.y.flip(0)))
    (a, b) = (baseline().objective(baseline().adapt, theta, t)[0] for t in (task, other))
    assert a == b


def test_nearest_prototypes_on_its_features(theta, task):
    S, Q = task
    z_S, z_Q = embed(theta["embed"], S.x), embed(theta["embed"], Q.x)
    c = [torch.stack([z for z, y in zip(z_S, S.y, strict=True) if y == k]).mean(0) for k in range(WAYS)]
    want = torch.stack([torch.stack([-(z - c_k).pow(2).sum() for c_k in c]) for z in z_Q])
    assert_close(baseline().adapt(theta, S)(Q.x), want)
    assert_close(protonet(embed, init, ways=WAYS).adapt(theta["embed"], S)(Q.x), want)


def test_a_linear_head_by_adam_from_zero_on_frozen_features(theta, task):
    S, Q = task
    head = nn.Linear(DIM, WAYS).double()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    z = embed(theta["embed"], S.x)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(head(z), S.y).backward()
        optimizer.step()
    f = baseline(head="linear", inner_lr=0.1, inner_steps=20).adapt(theta, S)
    assert_close(f(Q.x), head(embed(theta["embed"], Q.x)).detach())
    assert f.theta is theta["embed"]


def test_theta_has_a_weight_per_training_class():
    a, b = baseline().init(0), baseline().init(1)
    assert a["W"].shape == (CLASSES, DIM)
    assert a["b"].tolist() == [0] * CLASSES
    assert not torch.equal(a["W"], b["W"])
    assert torch.equal(a["W"], baseline().init(0)["W"])


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="head is 'svm', expected 'prototypes' or 'linear'"):
        baseline(head="svm")


CASES = {
    "pretrain": lambda: Case(pretrain(*features, classes=WAYS, dim=6, ways=WAYS), known_blobs),
    "pretrain-linear": lambda: Case(
        pretrain(*features, classes=WAYS, dim=6, ways=WAYS, head="linear", inner_lr=0.1, inner_steps=10), known_blobs
    ),
}

BUGS = [
    Bug("pretraining takes the support set", "learners/pretrain.py",
        ("x, y = task.query", "x, y = task.support"), "test_the_support_set_has_no_part_in_training"),
    Bug("a linear head takes one step", "learners/pretrain.py",
        ("range(inner_steps)", "range(1)"), "test_a_linear_head_by_adam_from_zero_on_frozen_features"),
    Bug("a linear head has no bias", "learners/pretrain.py",
        (".mT + self.v", ".mT"), "test_a_linear_head_by_adam_from_zero_on_frozen_features"),
]  # fmt: skip
