"""Proto-MAML, restated with loops and torch.autograd."""

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug
from torch.testing import assert_close
from zoo import WAYS, batched, blobs, features, one

from metaloop import meta_gradient, proto_maml, protonet
from metaloop.testing import Case
from metaloop.torch_private import pytree

embed, init = features
LR, W, B = 0.05, "W", "b"


@pytest.fixture
def theta():
    return {n: p.double().requires_grad_() for n, p in init(0).items()}


@pytest.fixture
def task():
    return one(blobs(1, 0))


def scores(phi, x):
    """(4), one example and one class at a time."""
    rows = []
    for z in embed({n: p for n, p in phi.items() if n not in (W, B)}, x):
        rows.append(torch.stack([(w * z).sum() + b for w, b in zip(phi[W], phi[B], strict=True)]))
    return torch.stack(rows)


def start(theta, S):
    """phi_0: theta, W and b as three variables, though W and b were made of theta."""
    z, centres = embed(theta, S.x), []
    for k in range(WAYS):
        members = [z_i for z_i, y in zip(z, S.y, strict=True) if y == k]
        centres.append(sum(members) / len(members))
    head = {W: torch.stack([2 * c for c in centres]), B: torch.stack([-(c @ c) for c in centres])}
    return {n: p.clone() for n, p in theta.items()} | head


def descend(theta, S, steps, *, first_order=False):
    phi = start(theta, S)
    for _ in range(steps):
        L = F.cross_entropy(scores(phi, S.x), S.y)
        slopes = torch.autograd.grad(L, phi.values(), create_graph=True)
        slopes = [g.detach() for g in slopes] if first_order else slopes
        phi = {n: p - LR * g for (n, p), g in zip(phi.items(), slopes, strict=True)}
    return phi


@pytest.mark.parametrize("first_order", [False, True])
def test_f_and_its_meta_gradient(theta, task, first_order):
    learner = proto_maml(embed, init, ways=WAYS, inner_lr=LR, inner_steps=3, first_order=first_order)
    phi = descend(theta, task.support, 3, first_order=first_order)
    f = learner.adapt(theta, task.support)
    assert_close({**f.theta, W: f.W, B: f.b}, phi)
    assert_close(f(task.query.x), scores(phi, task.query.x))
    loss = F.cross_entropy(scores(phi, task.query.x), task.query.y)
    want = dict(zip(theta, torch.autograd.grad(loss, theta.values()), strict=True))
    grads, got, _ = meta_gradient(learner)(pytree.tree_map(torch.detach, theta), batched(task))
    assert_close(got, loss.detach())
    assert_close(grads, want)


def test_without_steps_it_is_a_prototypical_network(theta, task):
    ours = proto_maml(embed, init, ways=WAYS, inner_lr=LR, inner_steps=0).adapt(theta, task.support)
    theirs = protonet(embed, init, ways=WAYS).adapt(theta, task.support)
    assert_close(ours(task.query.x).softmax(1), theirs(task.query.x).softmax(1))


def test_a_class_without_examples_is_never_chosen_and_moves_nothing(theta, task):
    """Five classes are asked for and three shown: f is that of three."""
    few, many = (
        proto_maml(embed, init, ways=ways, inner_lr=LR, inner_steps=2).adapt(theta, task.support)
        for ways in (WAYS, WAYS + 2)
    )
    assert_close(many(task.query.x)[:, :WAYS], few(task.query.x))
    assert (many(task.query.x)[:, WAYS:] == -torch.inf).all()


CASES = {"proto_maml": lambda: Case(proto_maml(*features, ways=WAYS, inner_lr=LR, inner_steps=2), blobs)}

BUGS = [
    Bug("proto_maml's layer starts at its prototypes", "learners/proto_maml.py",
        ("W: 2 * c,", "W: c,"), "test_without_steps_it_is_a_prototypical_network"),
    Bug("proto_maml's start holds back the gradient", "learners/proto_maml.py",
        ("W: 2 * c,", "W: 2 * c.detach(),"), "test_f_and_its_meta_gradient"),
    Bug("proto_maml moves the layer alone", "learners/proto_maml.py",
        ("fast = {**learned(theta, embed), W", "fast = {W"), "test_f_and_its_meta_gradient"),
    Bug("proto_maml's absent classes score zero", "learners/proto_maml.py",
        ("torch.where(self.present, scores, -torch.inf)", "scores"),
        "test_a_class_without_examples_is_never_chosen_and_moves_nothing"),
]  # fmt: skip
