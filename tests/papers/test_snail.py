"""SNAIL, restated as one whole sequence per query: torch's convolutions, attention one step at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug, law
from torch.testing import assert_close
from zoo import ORDER, WAYS, batched, blobs, features

from metaloop import Data, Task, functional, meta_gradient, snail
from metaloop.nn import mlp
from metaloop.testing import Case

DIM, SHOTS, FILTERS, KEYS, VALUES = 5, 3, 4, (3, 2, 6), (2, 7, 3)
LENGTH = WAYS * SHOTS + 1  # 10: dilations 1, 2, 4, 8
embed, init = functional(mlp((4, 8, DIM)))
learner = snail(embed, init, ways=WAYS, dim=DIM, shots=SHOTS, filters=FILTERS, keys=KEYS, values=VALUES)


@pytest.fixture
def theta():
    start = learner.init(0)
    return {part: {n: p.double().requires_grad_() for n, p in params.items()} for part, params in start.items()}


def task(shots):
    g = torch.Generator().manual_seed(shots)
    x = torch.randn(WAYS * shots + 4, 4, generator=g).double()
    y = torch.cat([torch.arange(WAYS).repeat(shots)[torch.randperm(WAYS * shots, generator=g)],
                   torch.randint(WAYS, (4,), generator=g)])  # fmt: skip
    return Task(Data(x[:-4], y[:-4]), Data(x[-4:], y[-4:]))


def dense(p, name, dilation, x):
    """x: [channels, T]."""
    w = p[f"{name}.conv.weight"]
    c = len(x)
    kernel = torch.stack([w[:, :c], w[:, c:]], -1)
    f, g = F.conv1d(F.pad(x, (dilation, 0)), kernel, p[f"{name}.conv.bias"], dilation=dilation).chunk(2)
    return torch.cat([x, torch.tanh(f) * torch.sigmoid(g)])


def attention(p, name, keys, x):
    def affine(part, x_t):
        return p[f"{name}.{part}.weight"] @ x_t + p[f"{name}.{part}.bias"]

    columns = []
    for t in range(x.shape[1]):
        q = affine("query", x[:, t])
        a = torch.stack([q @ affine("key", x[:, s]) / math.sqrt(keys) for s in range(t + 1)]).softmax(0)
        read = sum(a[s] * affine("value", x[:, s]) for s in range(t + 1))
        columns.append(torch.cat([x[:, t], read]))
    return torch.stack(columns, 1), a


def last(theta, S: Data, x):
    """The output at the last of N K + 1 elements, and what the last attention there looks at."""
    elements = []
    for x_t, y_t in zip(S.x, S.y, strict=True):
        label = torch.zeros(WAYS, dtype=torch.float64)
        label[y_t] = 1
        elements.append(torch.cat([embed(theta["embed"], x_t[None])[0], label]))                  # (1)
    elements.append(torch.cat([embed(theta["embed"], x[None])[0], torch.zeros(WAYS, dtype=torch.float64)]))
    h, p = torch.stack(elements, 1), theta["reader"]
    for i, keys in enumerate(KEYS):                                                               # (2)
        if i > 0:
            for j, dilation in enumerate((1, 2, 4, 8)):
                h = dense(p, f"body.{2 * i - 1}.{j}", dilation, h)
        h, a = attention(p, f"body.{2 * i}", keys, h)
    return p["head.weight"] @ h[:, -1] + p["head.bias"], a                                        # (3)


@pytest.mark.parametrize("shots", [1, 2, SHOTS, SHOTS + 2])
def test_scores_loss_and_gradient(theta, shots):
    S, Q = task(shots)
    scores, a = map(torch.stack, zip(*(last(theta, S, x) for x in Q.x), strict=True))
    f = learner.adapt(theta, S)
    assert_close(f(Q.x), scores)
    assert_close(f.attends(Q.x), a[:, :-1])

    p = scores.softmax(1)
    loss = -sum(p_i[y].log() for p_i, y in zip(p, Q.y, strict=True)) / len(Q.y)                   # (4)
    want = torch.autograd.grad(loss, [t for params in theta.values() for t in params.values()])
    start = {part: {n: t.detach() for n, t in params.items()} for part, params in theta.items()}
    grads, got, _ = meta_gradient(learner)(start, batched(Task(S, Q)))
    assert_close(got, loss.detach())
    assert_close([g for params in grads.values() for g in params.values()], list(want))


def test_one_theta_serves_any_number_of_shots(theta):
    for shots in (1, 2, 5):
        S, Q = task(shots)
        assert learner.adapt(theta, S)(Q.x).shape == (len(Q.x), WAYS)


def test_labels_matter_and_their_order_with_the_examples(theta):
    S, Q = task(2)
    f, g, h = (learner.adapt(theta, Data(x, y)) for x, y in (S, (S.x, S.y.flip(0)), (S.x.flip(0), S.y.flip(0))))
    assert (f(Q.x) - g(Q.x)).abs().max() > 1e-6
    assert (f(Q.x) - h(Q.x)).abs().max() > 1e-6


CASES = {
    "snail": lambda: Case(
        snail(*features, ways=WAYS, dim=6, shots=3, filters=4, keys=(4, 4), values=(4, 4)), blobs,
        {ORDER: "the support set is a sequence, which temporal convolutions read in its order"},
    ),
}  # fmt: skip

BUGS = [
    Bug("snail is told nothing of labels", "learners/snail.py",
        ("torch.cat([z, y], -1)", "torch.cat([z, 0 * y], -1)"), "test_labels_matter_and_their_order_with_the_examples"),
    Bug("snail's queries claim a class", "learners/snail.py",
        ("z.new_zeros(len(z), self.ways)", "z.new_ones(len(z), self.ways)"), "test_scores_loss_and_gradient"),
    Bug("snail's labels follow another order", "learners/snail.py",
        ("membership(S.y,", "membership(S.y.flip(0),"), "test_scores_loss_and_gradient"),
    Bug("snail's embedding is frozen in the support set", "learners/snail.py",
        ('z = embed(theta["embed"], S.x)', 'z = embed(theta["embed"], S.x).detach()'),
        law("meta_gradient_is_the_derivative", "snail")),
]  # fmt: skip
