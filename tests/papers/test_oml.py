"""OML, restated with torch modules whose head takes its steps one example after another."""

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug, law
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close
from zoo import LEARNS, ORDER, WAYS, blobs, features, one, waves

from metaloop import Data, Task, functional, meta_gradient, oml
from metaloop.nn import adam, mlp
from metaloop.testing import Case

LR = 0.3
head = functional(nn.Linear(6, WAYS + 2))


def learner(**options):
    return oml(*features, *head, inner_lr=LR, **options)


@pytest.fixture
def theta():
    start = learner().init(0)
    return {part: {n: p.double() for n, p in params.items()} for part, params in start.items()}


@pytest.fixture
def task():
    return one(blobs(3, 0), 1)


def walk(rln: nn.Module, W: dict, S: Data, batches: list[list[int]], loss=F.cross_entropy) -> dict:
    """W after a step on each minibatch, with its graph: each step sees the head as the last one left it."""
    pln = nn.Linear(W["weight"].shape[1], W["weight"].shape[0]).double()
    for B in batches:
        answer = functional_call(pln, W, (rln(S.x[B]),))
        gradients = torch.autograd.grad(loss(answer, S.y[B]), list(W.values()), create_graph=True)
        W = {n: w - LR * g for (n, w), g in zip(W.items(), gradients, strict=True)}
    return W


def modules(theta):
    rln = mlp((4, 12, 6)).double()
    rln.load_state_dict(theta["representation"])
    return rln, {n: w.clone().requires_grad_() for n, w in theta["prediction"].items()}


@pytest.mark.parametrize(("batch", "batches"), [(1, [[i] for i in range(9)]), (4, [[0, 1, 2, 3], [4, 5, 6, 7], [8]])])
def test_the_head_steps_through_the_stream_in_its_order(theta, task, batch, batches):
    f = learner(batch=batch).adapt(theta, task.support)
    rln, W = modules(theta)
    W = walk(rln, W, task.support, batches)
    assert_close(f.W, {n: w.detach() for n, w in W.items()})
    assert_close(f(task.query.x), (rln(task.query.x) @ W["weight"].T + W["bias"]).detach())
    assert_close(f.theta, theta["representation"])


def test_the_head_may_step_by_adam(theta, task):
    """As torch's, which is handed one example after another."""
    f = learner(optimizer=adam()).adapt(theta, task.support)
    rln, W = modules(theta)
    descent = torch.optim.Adam(W.values(), lr=LR)
    for x, y in zip(*task.support, strict=True):
        descent.zero_grad()
        F.cross_entropy(rln(x[None]).detach() @ W["weight"].T + W["bias"], y[None]).backward()
        descent.step()
    assert_close(f.W, {n: w.detach() for n, w in W.items()})


def test_the_meta_gradient_runs_back_through_the_whole_trajectory(theta, task):
    rln, W0 = modules(theta)
    W = walk(rln, W0, task.support, [[i] for i in range(9)])
    loss = F.cross_entropy(rln(task.query.x) @ W["weight"].T + W["bias"], task.query.y)
    loss.backward()
    grads, ours, info = meta_gradient(learner())(theta, Task(*(Data(x[None], y[None]) for x, y in task)))
    assert_close(ours, loss.detach())
    assert_close(grads["representation"], {n: p.grad for n, p in rln.named_parameters()})
    assert_close(grads["prediction"], {n: w.grad for n, w in W0.items()})
    assert set(info) == {"accuracy"}


def test_rows_of_the_classes_in_the_stream_are_learned_anew(theta, task):
    """The head has two rows for classes that the stream does not hold: they start where meta-training left them."""
    rln, W = modules(theta)
    seen = torch.arange(WAYS + 2) < WAYS
    assert set(task.support.y.tolist()) == set(range(WAYS))
    W = {n: torch.where(seen.view(-1, *[1] * (w.ndim - 1)), 0, w) for n, w in W.items()}
    f = learner(anew="classes").adapt(theta, task.support)
    assert_close(f.W, {n: w.detach() for n, w in walk(rln, W, task.support, [[i] for i in range(9)]).items()})


@pytest.mark.parametrize("classes", [WAYS, 40])
def test_a_new_head_for_any_number_of_classes(theta, task, classes):
    rln, _ = modules(theta)
    W = {"weight": torch.zeros(classes, 6), "bias": torch.zeros(classes)}
    W = {n: w.double().requires_grad_() for n, w in W.items()}
    f = learner(anew=classes).adapt(theta, task.support)
    assert_close(f.W, {n: w.detach() for n, w in walk(rln, W, task.support, [[i] for i in range(9)]).items()})
    assert f(task.query.x).shape == (len(task.query.x), classes)


def test_a_stream_can_be_cut_anywhere(theta, task):
    S, whole = task.support, learner().adapt(theta, task.support)
    first = learner().adapt(theta, Data(S.x[:4], S.y[:4]))
    then = learner().adapt({"representation": first.theta, "prediction": first.W}, Data(S.x[4:], S.y[4:]))
    assert_close(then.W, whole.W)


def test_regression_by_squares():
    rln, pln = mlp((1, 8, 5)), nn.Linear(5, 1)
    ours = oml(*functional(rln), *functional(pln), inner_lr=LR, batch=2, loss=F.mse_loss)
    theta = {part: {n: p.double() for n, p in params.items()} for part, params in ours.init(0).items()}
    task = one(waves(1, 0))
    rln.double().load_state_dict(theta["representation"])
    W = {n: w.clone().requires_grad_() for n, w in theta["prediction"].items()}
    W = walk(rln, W, task.support, [[0, 1], [2, 3], [4]], F.mse_loss)
    f = ours.adapt(theta, task.support)
    assert_close(f(task.query.x), (rln(task.query.x) @ W["weight"].T + W["bias"]).detach())


def test_what_does_not_fit_is_said():
    for wrong in ("all", 0):
        with pytest.raises(ValueError, match=f'anew is {wrong!r}, expected None, "classes" or a number'):
            learner(anew=wrong)
    deep = oml(*features, *functional(mlp((6, 8, 3))), inner_lr=LR, anew="classes")
    with pytest.raises(ValueError, match="needs a head of one linear layer, its parameters are"):
        deep.init(0)


STREAM = {ORDER: "the support set is a stream"}

CASES = {
    "oml": lambda: Case(oml(*features, *functional(nn.Linear(6, WAYS)), inner_lr=0.1), blobs, STREAM),
    "oml-classes": lambda: Case(oml(*features, *head, inner_lr=0.1, anew="classes"), blobs, STREAM),
    "oml-new-head": lambda: Case(
        oml(*features, *functional(nn.Linear(6, WAYS)), inner_lr=0.1, batch=2, anew=WAYS), blobs,
        {**STREAM, LEARNS: "the whole head starts anew, whatever theta holds for it"},
    ),
    "oml-regression": lambda: Case(
        oml(*functional(mlp((1, 16, 16))), *functional(nn.Linear(16, 1)), inner_lr=0.05, loss=F.mse_loss), waves, STREAM
    ),
}

BUGS = [
    Bug("oml loses its second order", "learners/oml.py",
        ("method.update(inner_lr, g,", "method.update(inner_lr, {n: t.detach() for n, t in g.items()},"),
        "test_the_meta_gradient_runs_back_through_the_whole_trajectory"),
    Bug("oml's moments start anew with each example", "learners/oml.py",
        ("g, learned(W, head), moments)", "g, learned(W, head), method.init(learned(W, head)))"),
        "test_the_head_may_step_by_adam"),
    Bug("oml's representation gets no gradient from the trajectory", "learners/oml.py",
        ("Data(z, S.y))", "Data(z.detach(), S.y))"), law("meta_gradient_is_the_derivative", "oml")),
    Bug("oml forgets rows of classes that the stream does not hold", "learners/oml.py",
        ("torch.where(met[n]", "torch.where(~met[n]"), "test_rows_of_the_classes_in_the_stream_are_learned_anew"),
    Bug("oml takes every step from where the head began", "core.py",
        (("            f = update(f", "            g = update(f"),
        ("return f\n\n    return run", "return g\n\n    return run")),
        "test_the_head_steps_through_the_stream_in_its_order"),
    Bug("oml reads the stream backwards", "learners/oml.py",
        ("Data(z, S.y))", "Data(z.flip(0), S.y.flip(0)))"), "test_the_head_steps_through_the_stream_in_its_order"),
]  # fmt: skip
