"""The meta-gradient of many tasks: exact where the obvious form is not, in chunks, and clear about bad input."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug, law
from torch import nn
from torch.func import grad, vmap
from torch.testing import assert_close
from zoo import WAYS, ZOO, blobs, one, pictures

from metaloop import Data, Learner, Task, functional, maml, meta_gradient, protonet
from metaloop.engine.batch import chunks, predict
from metaloop.nn import BatchNorm
from metaloop.torch_private import pytree

STOCK = {
    "batch": lambda: nn.BatchNorm2d(3, track_running_stats=False),
    "instance": lambda: nn.InstanceNorm2d(3, affine=True),
    "layer": lambda: nn.LayerNorm([3, 7, 7]),
    "group": lambda: nn.GroupNorm(1, 3),
    "ours": lambda: BatchNorm(3),
}


def network(layer: nn.Module):
    return functional(nn.Sequential(nn.Conv2d(1, 3, 3, 2), layer, nn.Softplus(), nn.Flatten(), nn.Linear(147, WAYS)))


def double(tree):
    return pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, tree)


def in_a_loop(learner: Learner, theta, tasks: Task):
    """The meta-gradient by plain autograd, one task after the other."""
    leaves = {n: p.clone().requires_grad_() for n, p in theta.items()}
    losses = [learner.objective(learner.adapt, leaves, one(tasks, i))[0] for i in range(len(tasks.query.x))]
    return dict(zip(leaves, torch.autograd.grad(sum(losses) / len(losses), leaves.values()), strict=True))


def obvious(learner: Learner, theta, tasks: Task):
    """The form one writes first: the gradient of the mean over a batch of tasks."""
    each = vmap(lambda theta, task: learner.objective(learner.adapt, theta, task)[0], in_dims=(None, 0))
    return grad(lambda theta: each(theta, tasks).mean())(theta)


def error(got, want) -> float:
    """The largest relative error of a parameter's gradient."""
    return max(((got[n] - want[n]).norm() / want[n].norm()).item() for n in want if want[n].norm() > 1e-9)


@pytest.mark.parametrize("layer", STOCK)
def test_exact_for_stock_norm_layers(layer):
    net, init = network(STOCK[layer]())
    learner, theta, tasks = maml(net, init, inner_lr=0.5, inner_steps=2), double(init(0)), double(pictures(4, 0))
    assert error(meta_gradient(learner)(theta, tasks)[0], in_a_loop(learner, theta, tasks)) < 1e-10


@pytest.mark.parametrize("layer", ["batch", "instance", "layer"])
def test_the_obvious_form_is_wrong_for_native_norms_with_an_inner_gradient(layer):
    """Why the outer gradient is taken inside vmap. Should torch mend this, the pooled form may serve all learners."""
    net, init = network(STOCK[layer]())
    learner, theta, tasks = maml(net, init, inner_lr=0.5), double(init(0)), double(pictures(4, 0))
    assert error(obvious(learner, theta, tasks), in_a_loop(learner, theta, tasks)) > 1e-3


@pytest.mark.parametrize("layer", STOCK)
def test_the_obvious_form_is_exact_without_an_inner_gradient(layer):
    """Why a learner that takes no gradient may have the cheaper form."""
    net, init = network(STOCK[layer]())
    learner, theta, tasks = protonet(net, init, ways=WAYS), double(init(0)), double(pictures(4, 0))
    want = in_a_loop(learner, theta, tasks)
    assert error(obvious(learner, theta, tasks), want) < 1e-10
    assert error(meta_gradient(learner)(theta, tasks)[0], want) < 1e-10


@pytest.mark.parametrize("differentiates", [True, False])
@pytest.mark.parametrize(("chunk", "parts"), [(1, 5), (2, 3), (5, 1), (100, 1)])
def test_chunks_are_taken_one_after_the_other_and_weigh_each_task_the_same(chunk, parts, differentiates):
    calls = []

    def objective(adapt, theta, task):
        calls.append(task)
        return (theta["w"] * task.query.x).sum(), {"sum": task.query.x.sum()}

    learner = Learner(lambda seed: {}, lambda theta, S: F.relu, objective, differentiates=differentiates)
    x = torch.arange(15.0).reshape(5, 3)
    tasks, theta = Task(Data(x, x), Data(x, x)), {"w": torch.tensor(2.0)}
    grads, loss, info = meta_gradient(learner, chunk=chunk)(theta, tasks)
    assert len(calls) == parts
    assert (grads["w"], loss, info["sum"]) == (105 / 5, 2 * 105 / 5, 105 / 5)


def test_one_task_needs_a_task_axis():
    learner = ZOO["maml"].learner
    x, y = torch.zeros(3, 4), torch.zeros(2)
    with pytest.raises(ValueError, match=r"leading axes are \[2, 3\], expected one number .* add an axis"):
        meta_gradient(learner)(learner.init(0), Task(Data(x, x), Data(x, y)))
    with pytest.raises(ValueError, match=r"leading axes are \[0\]"):
        meta_gradient(learner)(learner.init(0), pytree.tree_map(lambda t: t[:0], ZOO["maml"].tasks(3, 0)))


def test_chunks_cut_a_batch_in_order():
    tasks = ZOO["maml"].tasks(5, 0)
    parts = list(chunks(tasks, 2))
    assert [len(part.support.y) for part in parts] == [2, 2, 1]
    assert_close(torch.cat([part.query.x for part in parts]), tasks.query.x)


def test_a_tensor_of_theta_that_plays_no_part_has_a_zero_gradient():
    case = ZOO["maml-conv4-running"]
    theta = case.theta()
    grads, *_ = meta_gradient(case.learner)(theta, case.batch(2))
    assert grads.keys() == theta.keys()
    assert not grads["body.0.norm.running_var"].any()


@pytest.mark.parametrize("differentiates", [True, False])
def test_each_task_meets_its_own_noise(differentiates):
    """Of two tasks that are alike but for the sign of their loss, shared noise would leave nothing."""
    net, init = functional(nn.Sequential(nn.Dropout(0.5), nn.Linear(8, WAYS)))
    x, y = torch.ones(1, 6, 8).expand(2, -1, -1), torch.zeros(2, 6, dtype=torch.long)
    tasks = Task(Data(x, y), Data(x, torch.tensor([[1.0], [-1.0]]).expand(2, 6)))

    def objective(adapt, theta, task):
        return (task.query.y * adapt(theta, task.support)(task.query.x)[:, 0]).sum(), {}

    learner, theta = maml(net, init, inner_lr=0.1), init(0)
    learner = replace(learner, objective=objective, differentiates=differentiates)
    grads, loss, _ = meta_gradient(learner, chunk=2)(theta, tasks)
    assert loss != 0
    assert grads["1.weight"].any()


def test_noise_of_a_learners_own_is_each_predictors_own():
    """A network's dropout is none at meta-test; what a predictor draws itself is."""
    net, init = functional(nn.Sequential(nn.Dropout(0.5), nn.Linear(8, WAYS)))
    x, y = torch.ones(1, 6, 8).expand(2, -1, -1), torch.zeros(2, 6, dtype=torch.long)
    tasks, theta = Task(Data(x, y), Data(x, y)), init(0)
    a, b = predict(maml(net, init, inner_lr=0.1), theta, tasks)
    assert torch.equal(a, b)
    noisy = maml(lambda params, x: net(params, x + torch.randn_like(x)), init, inner_lr=0.1)
    a, b = predict(noisy, theta, tasks)
    assert not torch.equal(a, b)


def test_predict_is_each_predictors_answer():
    case = ZOO["maml-3-steps"]
    theta, tasks = case.theta(), case.batch(3)
    want = [case.learner.adapt(theta, t.support)(t.query.x) for t in (one(tasks, i) for i in range(3))]
    got = predict(case.learner, theta, tasks)
    assert_close(got, torch.stack(want))
    assert not got.requires_grad


@pytest.mark.compile
def test_a_session_may_compile_many_learners(monkeypatch):
    """torch gives a function eight compilations, here two; each meta-gradient is a function of its own."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    net, init = functional(nn.Linear(4, WAYS))
    theta, tasks = double(init(0)), double(blobs(2, 0))
    with torch._dynamo.config.patch(recompile_limit=2):  # monkeypatch would leave torch without the limit
        for tenths in range(1, 5):
            learner = maml(net, init, inner_lr=tenths / 10)
            assert_close(meta_gradient(learner, compile=True)(theta, tasks), meta_gradient(learner)(theta, tasks))


BUGS = [
    Bug("the meta-gradient is a sum", "engine/batch.py",
        ("lambda t: t / count(tasks), total", "lambda t: t, total"), law("many_tasks_are_each_task", "maml")),
    Bug("chunks weigh the same, whatever is in them", "engine/batch.py",
        ("at_once(theta, parts, spread=spread(tasks))",
        "(pytree.tree_map(lambda t: t * count(parts[0]) / count(part), work(theta, part)) for part in parts)"),
        law("chunks_change_nothing", "maml")),
    Bug("the last chunk is dropped", "engine/batch.py",
        ("range(0, count(tasks), size)", "range(0, count(tasks) - size + 1, size)"),
        law("chunks_change_nothing", "protonet")),
    Bug("the pooled form is taken for maml", "engine/batch.py",
        ("if learner.differentiates:", "if False:"), law("many_tasks_are_each_task", "maml-conv4-transductive")),
    Bug("the pooled form is taken for maml, stock layers", "engine/batch.py",
        ("if learner.differentiates:", "if False:"), "test_exact_for_stock_norm_layers"),
    Bug("tasks share their noise", "engine/batch.py",
        ('randomness="different")(theta, task)', 'randomness="same")(theta, task)'),
        "test_each_task_meets_its_own_noise[False]"),
    Bug("tasks share their noise where it has an inner gradient", "engine/batch.py",
        ('(gradient(one), in_dims=(None, 0), randomness="different")',
        '(gradient(one), in_dims=(None, 0), randomness="same")'), "test_each_task_meets_its_own_noise[True]"),
    Bug("predictors share their noise", "engine/batch.py",
        ('randomness="different")(theta, tasks)', 'randomness="same")(theta, tasks)'),
        "test_noise_of_a_learners_own_is_each_predictors_own"),
]  # fmt: skip
