"""Meta-learning by a recurrent network, restated one example and one number at a time."""

import pytest
import torch
from mutations import Bug, law
from torch.testing import assert_close
from zoo import ORDER, batched, one, waves

from metaloop import Data, functional, meta_gradient, meta_rnn
from metaloop.learners.meta_rnn import read as read_at_once
from metaloop.nn import Recurrent
from metaloop.testing import Case

HIDDEN = 5
net, init = functional(Recurrent(2, HIDDEN, 1, 2))


@pytest.fixture
def theta():
    return {n: p.double().requires_grad_() for n, p in init(0).items()}


@pytest.fixture
def task():
    return one(waves(1, 0))


def after(theta, inputs, state):
    """One step of the network: the state and the prediction."""
    h_below, new = inputs, []
    for layer, (h, c) in enumerate(state):
        z = theta[f"lstm.cells.{layer}.weight"] @ torch.cat([h_below, h]) + theta[f"lstm.cells.{layer}.bias"]
        i, f, o, g = (z[k * HIDDEN : (k + 1) * HIDDEN] for k in range(4))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h_below = torch.sigmoid(o) * torch.tanh(c)
        new.append((h_below, c))
    return new, theta["head.weight"] @ h_below + theta["head.bias"]


def read(theta, S: Data):
    """Equation (1): the predictions on the way, the state after it."""
    nothing = torch.zeros(HIDDEN, dtype=torch.double)
    state, before, predictions = [(nothing, nothing)] * 2, torch.zeros(1, dtype=torch.double), []
    for x, y in zip(*S, strict=True):
        state, p = after(theta, torch.cat([x, before]), state)
        predictions.append(p)
        before = y
    return predictions, state


def test_each_query_is_the_next_example(theta, task):
    S, Q = task
    _, state = read(theta, S)
    want = torch.stack([after(theta, torch.cat([x, S.y[-1]]), state)[1] for x in Q.x])  # (2)
    assert_close(meta_rnn(net, init).adapt(theta, S)(Q.x), want)


def test_every_step_is_scored(theta, task):
    S, Q = task
    predictions, state = read(theta, S)
    squares = [(p - y).square().sum() for p, y in zip(predictions, S.y, strict=True)]
    last = [(after(theta, torch.cat([x, S.y[-1]]), state)[1] - y).square().sum() for x, y in zip(*Q, strict=True)]
    squares.append(sum(last) / len(last))
    loss = sum(squares) / len(squares)                                                            # (3)
    want = dict(zip(theta, torch.autograd.grad(loss, theta.values()), strict=True))
    still = {n: p.detach() for n, p in theta.items()}
    grads, got, info = meta_gradient(meta_rnn(net, init))(still, batched(task))
    assert_close(got, loss.detach())
    assert_close(info, {"last": squares[-1].detach()})
    assert_close(grads, want)


def test_a_prediction_is_made_before_its_target_is_seen(theta, task):
    """Another y(3) changes no prediction up to p(3), and every one after."""
    S, _ = task
    other = Data(S.x, torch.cat([S.y[:2], S.y[2:3] + 1, S.y[3:]]))
    p, q = (read_at_once(net, theta, d)[0] for d in (S, other))
    assert [torch.equal(a, b) for a, b in zip(p, q, strict=True)] == [True, True, True, False, False]
    assert_close(p, torch.stack(read(theta, S)[0]))


def test_inputs_of_any_shape_and_several_targets():
    net, init = functional(Recurrent(2 * 3 + 2, 4, 2))
    x, y = torch.randn(5, 2, 3), torch.randn(5, 2)
    learner = meta_rnn(net, init)
    f, g = (learner.adapt(init(0), Data(each, y)) for each in (x, x.flatten(1)))
    assert f(x).shape == (5, 2)
    assert_close(f(x), g(x.flatten(1)))


def test_classes_are_refused(theta):
    for y in (torch.zeros(4, dtype=torch.int64), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"meta_rnn: support.y is torch.* expected floats \[n, out\]"):
            meta_rnn(net, init).adapt(theta, Data(torch.zeros(4, 1), y))


CASES = {
    "meta_rnn": lambda: Case(
        meta_rnn(*functional(Recurrent(2, 8, 1))), waves, {ORDER: "the network reads S one example after another"}
    ),
}

BUGS = [
    Bug("a recurrent network sees the target it predicts", "learners/meta_rnn.py",
        ("torch.cat([torch.zeros_like(S.y[:1]), S.y[:-1]])", "S.y"),
        "test_a_prediction_is_made_before_its_target_is_seen"),
    Bug("queries do not see the last target", "learners/meta_rnn.py",
        ("self.y.expand(n, -1)", "0 * self.y.expand(n, -1)"), "test_each_query_is_the_next_example"),
    Bug("queries go on from each other's states", "learners/meta_rnn.py",
        ("inputs[None], h)[0][0]", "inputs, self.h)[0]"), law("queries_do_not_see_each_other", "meta_rnn")),
    Bug("only the last step is scored", "learners/meta_rnn.py",
        ("(loss(p, S.y) * len(S.y) + last) / (len(S.y) + 1)", "last"), "test_every_step_is_scored"),
    Bug("the state forgets what it has read", "learners/meta_rnn.py",
        ("read(net, theta, checked(S))[1], S.y[-1]", "read(net, theta, checked(Data(S.x[-1:], S.y[-1:])))[1], S.y[-1]"),
        "test_each_query_is_the_next_example"),
]  # fmt: skip
