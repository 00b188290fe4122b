"""Parts of networks: modules as functions, norms by policy, backbones, inner optimizers."""

from collections import OrderedDict
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug, law
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.testing import assert_close
from zoo import WAYS, blobs, one, pictures

from metaloop import (
    Data,
    Learner,
    Task,
    functional,
    maml,
    margin,
    matching,
    meta_gradient,
    pretrain,
    protonet,
    reptile,
)  # fmt: skip
from metaloop.engine.methods import not_learned
from metaloop.engine.session import calibrate
from metaloop.nn import (
    LSTM,
    POLICIES,
    BatchNorm,
    adam,
    attend,
    class_mean,
    class_sum,
    conv4,
    cosines,
    cross_entropy,
    fused,
    membership,
    mlp,
    norm,
    resnet12,
    rmsprop,
    sgd,
    unit,
)  # fmt: skip
from metaloop.nn.functional import pooled
from metaloop.nn.fused import Block, by_columns
from metaloop.nn.unit import length
from metaloop.objectives import normface
from metaloop.torch_private import in_vmap, per_task, pytree


@pytest.fixture
def x():
    """Six 16x16 images."""
    return torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def doubles(params):
    return {n: p.double() for n, p in params.items()}


# Modules as functions


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("shift", torch.ones(2))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x):
        return self.linear(x) + self.shift


def test_the_function_is_the_module():
    module, x = Scaled(), torch.randn(4, 3)
    before = {n: p.clone() for n, p in module.state_dict().items()}
    net, init = functional(module, reset=False)
    assert_close(net(init(0), x), module(x))
    params = {n: p + 1 for n, p in init(0).items()}
    assert_close(net(params, x), F.linear(x, params["linear.weight"], params["linear.bias"]) + params["shift"])
    assert_close(module.state_dict(), before)


def test_theta_holds_the_parameters_and_buffers_all_as_floats():
    _, init = functional(Scaled())
    assert set(init(0)) == {"linear.weight", "linear.bias", "shift", "calls"}
    assert all(p.is_floating_point() for p in init(0).values())
    assert not any(p.requires_grad for p in init(0).values())


def test_init_is_drawn_from_its_seed_alone():
    _, init = functional(Scaled())
    torch.manual_seed(1)
    first, state = init(0), torch.get_rng_state()
    torch.manual_seed(2)
    assert_close(init(0), first, rtol=0, atol=0)
    assert not torch.equal(init(1)["linear.weight"], first["linear.weight"])
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_values_of_theta_are_its_own():
    module = Scaled()
    _, init = functional(module, reset=False)
    init(0)["linear.weight"].zero_()
    assert_close(init(5)["linear.weight"], module.linear.weight.detach())


class Inside(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.inside = layer


@pytest.mark.parametrize(
    ("layer", "instead"),
    [
        (nn.BatchNorm2d(3), r'norm\(channels, "running"\) or BatchNorm2d\(..., track_running_stats=False\)'),
        (nn.InstanceNorm2d(3, track_running_stats=True), "track_running_stats=False"),
        (nn.SyncBatchNorm(3), r'norm\(channels, "transductive"\)'),
        (nn.LSTM(3, 3), "a cell written out"),
        (nn.GRUCell(3, 3), "a cell written out"),
        (nn.MultiheadAttention(4, 2), "softmax"),
        (nn.TransformerEncoderLayer(4, 2), "attention written out"),
        (nn.EmbeddingBag(3, 3), "nn.Embedding"),
        (nn.LazyLinear(3), "Linear with its sizes given"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_an_unsafe_layer_is_refused_by_name_with_a_replacement(layer, instead):
    with pytest.raises(ValueError, match=rf"layer 'inside' is {type(layer).__name__}, .*{instead}"):
        functional(Inside(layer))


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm2d(3, track_running_stats=False), nn.InstanceNorm2d(3), nn.LayerNorm(3), nn.GroupNorm(1, 3)],
    ids=lambda layer: type(layer).__name__,
)
def test_safe_stock_norms_pass(layer):
    functional(Inside(layer))


def test_dropout_differs_by_task_and_is_off_at_test():
    net, init = functional(nn.Sequential(nn.Dropout(0.5), nn.Linear(20, 2)))
    x, theta = torch.ones(3, 20), init(0)
    many = vmap(lambda x: net(theta, x), randomness="different")(x.expand(2, -1, -1))
    assert not torch.equal(many[0], many[1])
    assert_close(net.eval()(theta, x), F.linear(x, theta["1.weight"], theta["1.bias"]))


def test_the_same_mode_is_the_same_function():
    """So that two predictors of one network have equal structure, and can be stacked or loaded."""
    net, _ = functional(conv4((1, 16, 16), width=2, norm_policy="support"))
    assert net.eval() is net.eval()
    assert net.eval().eval() is net.eval()
    params = functional(conv4((1, 16, 16), width=2, norm_policy="support"))[1](0)
    (a, _), (b, _) = (net.condition(params, torch.randn(3, 1, 16, 16)) for _ in range(2))
    assert a is b
    assert a is not net


# Norms


def standardised(x, dims, eps=1e-5):
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean).pow(2).mean(dims, keepdim=True) + eps).sqrt()


GROUPS = {"group": 8, "layer": 1, "instance": 16}


@pytest.mark.parametrize(
    ("policy", "shape"),
    [
        (policy, shape)
        for policy in POLICIES
        for shape in ((6, 16), (6, 16, 5), (6, 16, 5, 4))
        if not (policy == "instance" and shape == (6, 16))  # a single number has no spread
    ],
)
def test_each_policy_normalises_by_its_own_statistics(policy, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double() * 3 + 1
    layer = norm(16, policy).double()
    nn.init.uniform_(layer.weight, 0.5, 2)
    nn.init.uniform_(layer.bias, -1, 1)
    if policy in GROUPS:
        want = standardised(x.reshape(6, GROUPS[policy], -1), [2]).reshape(shape)
    else:
        want = standardised(x, [d for d in range(x.ndim) if d != 1])
    affine = (1, -1, *[1] * (len(shape) - 2))
    assert_close(layer(x), want * layer.weight.view(affine) + layer.bias.view(affine))


def test_groups_divide_the_channels():
    assert norm(12, "group").num_groups == 6
    assert norm(12, "group", groups=3).num_groups == 3
    assert norm(4, "group").num_groups == 4


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="policy is 'batch', expected one of transductive, support, running"):
        norm(4, "batch")


def by_hand(theta, S, x, blocks=1):
    """The body of `tiny`, with each norm's statistics taken from S."""
    for i in range(blocks):
        w, b, scale = (theta[f"{i}.{n}"] for n in ("0.weight", "1.bias", "1.weight"))
        S, x = F.conv2d(S, w), F.conv2d(x, w)
        mean, var = S.mean([0, 2, 3], keepdim=True), S.var([0, 2, 3], keepdim=True, correction=0)
        scale, shift = scale.view(1, -1, 1, 1) / (var + 1e-5).sqrt(), b.view(1, -1, 1, 1)
        S, x = (((t - mean) * scale + shift).relu() for t in (S, x))
    return x


def tiny(policy, blocks):
    """Blocks of convolution, norm, ReLU; theta of each away from its start."""
    convs = [nn.Conv2d(1 if i == 0 else 3, 3, 3, bias=False) for i in range(blocks)]
    net, init = functional(nn.Sequential(*(nn.Sequential(conv, norm(3, policy), nn.ReLU()) for conv in convs)))
    g = torch.Generator().manual_seed(1)
    return net, {n: p.double() + 0.3 * torch.rand(p.shape, generator=g) for n, p in init(0).items()}


@pytest.mark.parametrize("blocks", [1, 3])
def test_support_norm_takes_the_support_sets_statistics(x, blocks):
    net, theta = tiny("support", blocks)
    S, Q = x.double()[:4], x.double()[4:]
    query_net, phi = net.condition(theta, S)
    assert_close(net(theta, S), by_hand(theta, S, S, blocks))  # the support set: by its own
    assert_close(query_net(phi, Q), by_hand(theta, S, Q, blocks))
    assert_close(query_net(phi, Q[:1]), by_hand(theta, S, Q[:1], blocks))  # alone as in company
    assert_close(query_net(phi, S), net(theta, S))


def test_the_gradient_goes_through_the_support_statistics(x):
    net, theta = tiny("support", 2)
    S, Q = x.double()[:4], x.double()[4:]

    def ours(theta):
        query_net, phi = net.condition(theta, S)
        return query_net(phi, Q).square().sum()

    def want(theta):
        return by_hand(theta, S, Q, 2).square().sum()

    trained = {n: p for n, p in theta.items() if "running" not in n}
    stored = {n: p for n, p in theta.items() if "running" in n}
    assert_close(grad(lambda p: ours({**p, **stored}))(trained), grad(want)(trained))


def test_maml_conditions_on_the_support_set_after_its_last_step(x):
    """The statistics that queries meet are those of the support set under phi, not under theta."""
    net, init = functional(conv4((1, 16, 16), width=2, out=WAYS, norm_policy="support"))
    task, theta = one(pictures(1, 0)), doubles(init(0))
    f = maml(net, init, inner_lr=0.5).adapt(theta, task.support)
    under = {}
    for name, params in (("phi", f.phi), ("theta", theta)):
        under[name] = net.condition({**f.phi, **params}, task.support.x)[1]["body.0.norm.running_mean"]
    assert_close(f.phi["body.0.norm.running_mean"], under["phi"])
    assert not torch.allclose(under["phi"], under["theta"])


class Fixed:
    """A pool that always deals the same tasks."""

    def __init__(self, tasks):
        self.tasks, self.train = tasks, self

    def sample(self, tasks, ways, shots, queries, generator):
        return Task(*(Data(x[:tasks], y[:tasks]) for x, y in self.tasks))


def test_population_statistics_are_those_of_all_tasks():
    """The mean of the tasks' variances and, without bias, the variance of their means."""
    module = conv4((1, 16, 16), width=2, norm_policy="running")
    net, init = functional(module)
    tasks = pictures(11, 0)
    learner, theta = protonet(net, init, ways=WAYS), init(0)
    calibrate(learner, theta, Fixed(tasks), tasks=11, ways=WAYS, shots=2, queries=2)
    seen = [F.conv2d(tasks.support.x[i], theta["body.0.conv.weight"], padding=1) for i in range(11)]
    assert_close(theta["body.0.norm.running_mean"], sum(z.mean([0, 2, 3]) for z in seen) / 11)
    within = sum(z.var([0, 2, 3], correction=0) for z in seen) / 11
    between = torch.stack([z.mean([0, 2, 3]) for z in seen]).var(0, correction=1)
    assert_close(theta["body.0.norm.running_var"], within + between)
    others = init(0)
    assert all(torch.equal(theta[n], others[n]) for n in theta if "running" not in n)
    assert not any(torch.equal(theta[n], others[n]) for n in theta if "running" in n)


def test_statistics_of_pairs_are_estimated_on_whole_tasks():
    """A network of pairs (query, class mean) with running norms: it sees no pair before it sees the queries."""

    class Pairs(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(8, 4), norm(4, "running"), nn.ReLU(), nn.Linear(4, 1))

    net, init = functional(Pairs())

    def pairs(S, x):
        means = torch.stack([S.x[S.y == k].mean(0) for k in range(WAYS)])
        return torch.cat([x[:, None].expand(-1, WAYS, -1), means.expand(len(x), -1, -1)], -1).flatten(0, 1)

    def seen(theta, task):
        member = (task.support.y[:, None] == torch.arange(WAYS)).to(task.support.x)
        means = (member.mT @ task.support.x) / member.sum(0)[:, None]
        x = task.query.x
        both = torch.cat([x[:, None].expand(-1, WAYS, -1), means.expand(len(x), -1, -1)], -1)
        return net.statistics(theta, both.flatten(0, 1))

    tasks = blobs(11, 0)
    learner = Learner(init, None, None, statistics=seen, statistics_of_task=True)
    theta = init(0)
    calibrate(learner, theta, Fixed(tasks), tasks=11, ways=WAYS, shots=3, queries=4)
    each = [pytree.tree_map(lambda t: t[i], tasks) for i in range(11)]  # noqa: B023
    z = [F.linear(pairs(task.support, task.query.x), theta["0.weight"], theta["0.bias"]) for task in each]
    assert_close(theta["1.running_mean"], sum(t.mean(0) for t in z) / 11)
    between = torch.stack([t.mean(0) for t in z]).var(0, correction=1)
    assert_close(theta["1.running_var"], sum(t.var(0, correction=0) for t in z) / 11 + between)
    assert not_learned(learner, theta, each[0]).keys() == {"1.running_mean", "1.running_var"}


@pytest.mark.parametrize("apart", [0.0, 3.0])
def test_population_variance_has_no_bias(apart):
    """Over small support sets, and where tasks' means differ: with variance 1 within and apart^2 between."""
    net, init = functional(nn.Sequential(norm(1, "running"), nn.Linear(1, WAYS)))
    learner, theta, g = maml(net, init, inner_lr=0.1), init(0), torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 5, 1, generator=g) + apart * torch.randn(20_000, 1, 1, generator=g) + 2
    y = torch.zeros(20_000, 5, dtype=torch.long)
    calibrate(learner, theta, Fixed(Task(Data(x, y), Data(x, y))), tasks=20_000, ways=WAYS, shots=1, queries=1)
    assert theta["0.running_var"].item() == pytest.approx(1 + apart**2, rel=0.03)
    assert theta["0.running_mean"].item() == pytest.approx(2, abs=0.1)


def test_one_task_alone_has_a_variance():
    net, init = functional(nn.Sequential(norm(1, "running"), nn.Linear(1, WAYS)))
    theta, x, y = init(0), torch.randn(1, 5, 1), torch.zeros(1, 5, dtype=torch.long)
    calibrate(maml(net, init, inner_lr=0.1), theta, Fixed(Task(Data(x, y), Data(x, y))), tasks=1, ways=1, shots=1,
              queries=1)  # fmt: skip
    assert_close(theta["0.running_var"], x.var(correction=0)[None])


def test_what_a_learner_estimates_by_other_names_is_averaged():
    seen = {"mean": torch.tensor([1.0, 2.0]), "deep": {"var": torch.tensor([1.0, 5.0])}, "running_var": torch.ones(2)}
    want = {"mean": torch.tensor(1.5), "deep": {"var": torch.tensor(3.0)}, "running_var": torch.tensor(1.0)}
    assert_close(pooled(seen), want)


LONELY = {
    "group": (norm(4, "group"), (5, 4)), "instance": (norm(4, "instance"), (5, 4, 1, 1)),
    "transductive": (norm(4), (1, 4)), "support": (norm(4, "support"), (1, 4, 1, 1)),
    "running": (norm(4, "running"), (1, 4)), "layer": (norm(1, "layer"), (5, 1)),
    "stock-group": (nn.GroupNorm(2, 2), (5, 2)), "stock-layer": (nn.LayerNorm(1), (5, 3, 1)),
    "stock-instance": (nn.InstanceNorm2d(2, affine=True), (5, 2, 1, 1)),
    "stock-batch": (nn.BatchNorm1d(2, track_running_stats=False), (1, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", LONELY)
def test_a_norm_of_one_number_is_refused(name):
    layer, shape = LONELY[name]
    net, init = functional(layer)
    said = r"norm: \w+ on inputs of shape .* takes each mean of one number, which leaves zeros\. Take fewer groups"
    with pytest.raises(ValueError, match=said):
        net(init(0), torch.randn(shape))
    with pytest.raises(ValueError, match=said):
        vmap(net, in_dims=(None, 0))(init(0), torch.randn(3, *shape))
    if name in ("group", "instance", "layer"):
        with pytest.raises(ValueError, match=said):
            layer(torch.randn(shape))
    if name in ("support", "running"):
        with pytest.raises(ValueError, match=said):
            net._record(init(0), name, torch.randn(shape))


def test_the_populations_statistics_serve_one_number():
    net, init = functional(norm(4, "running"))
    assert_close(net.eval()(init(0), torch.ones(1, 4)), torch.ones(1, 4) / (1 + 1e-5) ** 0.5)


def test_a_first_block_of_one_position_is_refused():
    net, init = functional(Block(OrderedDict(conv=nn.Conv2d(1, 16, 1), norm=norm(16), relu=nn.ReLU())))
    assert net(init(0), torch.randn(2, 1, 1, 1)).any()
    with pytest.raises(ValueError, match="takes each mean of one number"):
        net(init(0), torch.randn(1, 1, 1, 1))


# Labels and cosines


@pytest.mark.parametrize("y", [[0, 3], [-1, 0], [0, -100]])
def test_labels_out_of_range_are_refused_alone_and_in_a_batch(y):
    y, z = torch.tensor(y), torch.randn(2, 3)
    uses = (
        lambda z, y: membership(y, 3), lambda z, y: class_mean(z, y, 3)[0], lambda z, y: class_sum(z, y, 3),
        cross_entropy, grad(cross_entropy),
    )  # fmt: skip
    for use in uses:
        use(z, y.clamp(0, 2))
        vmap(use)(z[None], y.clamp(0, 2)[None])
        for call in (lambda use=use: use(z, y), lambda use=use: vmap(use)(z[None], y[None])):
            with pytest.raises(ValueError, match=rf"labels: y is from {y.min()} to {y.max()}, expected 0\.\.2"):
                call()
    assert_close(cross_entropy(z, y.clamp(0, 2)), F.cross_entropy(z, y.clamp(0, 2)))
    assert_close(cross_entropy(z, z.softmax(1)), F.cross_entropy(z, z.softmax(1)))


def test_directions_are_torchs_and_zero_has_none():
    z = torch.randn(4, 5, dtype=torch.float64)
    z[2] = 0
    assert_close(unit(z), F.normalize(z, dim=-1), rtol=0, atol=0)
    assert_close(length(z), z.norm(dim=-1, keepdim=True), rtol=0, atol=0)
    assert_close(cosines(z, z.flip(0)), F.normalize(z, dim=-1) @ F.normalize(z.flip(0), dim=-1).mT, rtol=0, atol=0)
    weights = torch.randn(4, 5, dtype=torch.float64)
    for f in (unit, length):
        first = grad(lambda z, f=f: (f(z) * weights).sum())
        second = grad(lambda z, first=first: first(z).pow(3).sum())
        assert not first(z)[2].any()
        assert not second(z)[2].any()
        assert second(z).isfinite().all()
        assert first(z)[[0, 1, 3]].all()
    assert unit(torch.zeros(1, 3, dtype=torch.float16)).isfinite().all()


@pytest.mark.parametrize("name", ["protonet", "matching", "margin"])
def test_a_cosine_metric_is_bounded_where_an_embedding_is_zero(name):
    """A ReLU network that answers zeros to some inputs."""
    net, init = functional(nn.Sequential(nn.Linear(2, 4), nn.ReLU()))
    made = {
        "protonet": lambda: protonet(net, init, ways=2, metric="cosine"),
        "matching": lambda: matching(net, init, ways=2, metric="cosine"),
        "margin": lambda: margin(net, init, ways=2, loss=normface(classes=2, dim=4)),
    }
    learner, theta = made[name](), {"weight": torch.eye(4, 2), "bias": torch.zeros(4)}
    params = {"0.weight": theta["weight"], "0.bias": theta["bias"]}
    x, y = torch.tensor([[1.0, 0.5], [-1.0, -1.0], [-2.0, -2.0], [0.3, 1.0]]), torch.tensor([0, 1, 0, 1])
    assert not net(params, x)[1].any()
    whole = {"protonet": params, "matching": {"embed": params}}.get(name) or {**learner.init(0), "net": params}
    loss = lambda whole: cross_entropy(learner.adapt(whole, Data(x, y))(x), y)
    for g in pytree.tree_leaves(grad(loss)(whole)):
        assert g.abs().max() < 1e3


def test_every_learner_on_running_norms_is_calibrated_and_no_other_is():
    def learners(policy):
        net, init = functional(conv4((1, 16, 16), width=2, out=WAYS, norm_policy=policy))
        return [
            maml(net, init, inner_lr=0.1),
            maml(net, init, inner_lr=0.1, learn_lr="parameter"),
            reptile(net, init),
            protonet(net, init, ways=WAYS),
            pretrain(net, init, classes=9, dim=WAYS, ways=WAYS),
        ]

    for learner in learners("running"):
        theta = learner.init(0)
        calibrate(learner, theta, Fixed(pictures(3, 0)), tasks=3, ways=WAYS, shots=2, queries=2)
        params = theta if "body.0.conv.weight" in theta else theta.get("net", theta.get("embed"))
        assert params["body.0.norm.running_mean"].abs().min() > 0
    assert all(learner.statistics is None for learner in learners("support"))


def test_at_test_running_norms_use_the_population_and_at_training_the_batch(x):
    net, theta = tiny("running", 1)
    mean, var = theta["0.1.running_mean"], theta["0.1.running_var"]
    z = F.conv2d(x.double(), theta["0.0.weight"])
    scale, shift = (theta[f"0.1.{n}"].view(1, -1, 1, 1) for n in ("weight", "bias"))
    want = (z - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + 1e-5).sqrt() * scale + shift
    assert_close(net.eval()(theta, x.double()), want.relu())
    assert_close(net(theta, x.double()), by_hand(theta, x.double(), x.double()))


def test_population_statistics_are_not_moved_by_descent():
    net, init = functional(conv4((1, 16, 16), width=2, out=WAYS, norm_policy="running"))
    task, theta = one(pictures(1, 0)), doubles(init(0))
    f = maml(net.eval(), init, inner_lr=0.5).adapt(theta, task.support)
    assert all(torch.equal(f.phi[n], theta[n]) == ("running" in n) for n in theta)


def test_a_network_without_statistics_is_conditioned_on_nothing(x):
    net, init = functional(conv4((1, 16, 16), width=2))
    theta = init(0)
    assert net.condition(theta, x) == (net, theta)


def test_nothing_is_kept_in_the_layer(x):
    layer = BatchNorm(1, "running")
    before = {n: t.clone() for n, t in layer.state_dict().items()}
    layer(x)
    assert_close(layer.state_dict(), before)


# Classes


@pytest.mark.parametrize("shape", [(2,), (2, 3, 4)])
def test_classes_are_summed_and_averaged(shape):
    """Against a loop; class 2 has no examples."""
    y, z = torch.tensor([3, 0, 3, 1, 3]), torch.randn(5, *shape, dtype=torch.float64)
    member, of_class = membership(y, 4), [z[y == k] for k in range(4)]
    assert member.tolist() == [[k == label for k in range(4)] for label in y]
    assert_close(class_sum(z, y, 4), torch.stack([part.sum(0) for part in of_class]))
    mean, present = class_mean(z, y, 4)
    assert_close(mean, torch.stack([part.sum(0) / max(1, len(part)) for part in of_class]))
    assert present.tolist() == [True, True, False, True]


def test_classes_are_batched_under_a_gradient():
    y, z = torch.tensor([[0, 1, 1], [1, 1, 0]]), torch.randn(2, 3, 4, dtype=torch.float64)

    def score(z, y):
        return class_mean(z, y, 2)[0][1].square().sum() + class_sum(z, y, 2)[0].sum()

    want = [torch.autograd.functional.jacobian(partial(score, y=y[i]), z[i]) for i in range(2)]
    assert_close(vmap(grad(score))(z, y), torch.stack(want))


# Networks


@pytest.mark.parametrize(
    ("shape", "options", "dim"),
    [
        ((1, 28, 28), {}, 64),
        ((1, 28, 28), {"downsample": "stride"}, 256),
        ((1, 28, 28), {"downsample": "stride", "features": "mean"}, 64),
        ((3, 84, 84), {}, 1600),
        ((3, 84, 84), {"width": 32}, 800),
        ((2, 16, 20), {"width": 8}, 8),
        ((1, 9, 9), {"width": 8, "downsample": "stride"}, 8),
    ],
)
def test_conv4_gives_features_of_its_dim(shape, options, dim):
    module = conv4(shape, **options)
    assert module.dim == dim
    assert module(torch.randn(2, *shape)).shape == (2, dim)
    assert conv4(shape, out=7, **options)(torch.randn(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("make", "shape", "size"),
    [
        (partial(conv4, width=8), (1, 33, 50), (8, 2, 3)),
        (partial(conv4, width=8, downsample="stride"), (1, 28, 28), (8, 2, 2)),
        (partial(conv4, width=8, downsample="twice"), (1, 28, 33), (8, 5, 6)),
        (partial(resnet12, widths=(2, 3, 4, 5)), (3, 32, 48), (5, 2, 3)),
    ],
)
def test_a_map_is_the_features_where_they_are(make, shape, size):
    module, x = make(shape, features="map"), torch.randn(2, *shape)
    assert (module.dim, module.shape) == (size[0], size)
    assert module(x).shape == (2, *size)
    mean = make(shape, features="mean")
    assert mean.shape == size[:1]
    mean.load_state_dict(module.state_dict())
    assert_close(mean(x), module(x).mean((2, 3)))


def test_conv4_is_the_papers_network():
    """Four 3x3 convolutions of 64 filters, each with a scale and a shift; a bias only where it is not void."""
    weights = 9 * 64 * (1 + 3 * 64)
    counts = {p: sum(w.numel() for w in conv4(norm_policy=p).parameters()) for p in POLICIES}
    for policy in ("transductive", "support", "running", "instance"):
        assert counts[policy] == weights + 4 * 128
    for policy in ("group", "layer"):
        assert counts[policy] == weights + 4 * 128 + 4 * 64
    kinds = [type(layer).__name__ for block in list(conv4().body)[:4] for layer in block]
    assert kinds == ["Conv2d", "BatchNorm", "ReLU", "MaxPool2d"] * 4


ODD = (1, 20, 28)  # halved to 5 and 7, then to 2 and 3


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        (ODD, {}),
        ((2, 16, 16), {"norm_policy": "running"}),
        ((1, 16, 16), {"norm_policy": "support"}),
        ((1, 19, 17), {"downsample": "stride"}),
        ((1, 19, 16), {"downsample": "twice"}),
        ((1, 16, 16), {"norm_policy": "group"}),
    ],
)
@pytest.mark.parametrize("form", ["eager", "compilers"])
def test_conv4_on_a_cpu_is_its_layers(shape, options, form, monkeypatch):
    """Patches x weights, and norms after the pooling: the same outputs and gradients, where scales are negative too."""
    monkeypatch.setattr(fused, "is_compiling", lambda: form == "compilers")
    is_its_layers(shape, options, False, monkeypatch)


@pytest.mark.compile
def test_conv4_on_a_cpu_is_its_layers_compiled(monkeypatch):
    is_its_layers(ODD, {}, True, monkeypatch)


def is_its_layers(shape, options, compiled: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    module = conv4(shape, width=20, out=2, **options).double()
    for name, p in module.named_parameters():
        if "conv" not in name:
            nn.init.normal_(p)
    x = torch.randn(3, *shape, dtype=torch.float64)
    data = Data(torch.randn(2, 4, *shape, dtype=torch.float64), torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]]))

    def results(compiled: bool):
        net, init = functional(module, reset=False)
        yield (torch.compile(net.eval()) if compiled else net.eval())(init(0), x)
        for learner in (maml(net, init, inner_lr=0.1), protonet(net, init, ways=2)):
            yield meta_gradient(learner, compile=compiled)(init(0), Task(data, data))[0]

    ours = [*results(compiled)]
    monkeypatch.setattr(Block, "forward", nn.Sequential.forward)
    for mine, plain in zip(ours, results(False), strict=True):
        assert_close(mine, plain)


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.delattr(torch._C, "_functorch"),
        lambda patch: patch.delattr(torch._C._functorch, "get_interpreter_stack"),
        lambda patch: patch.setattr(torch._C._functorch, "get_interpreter_stack", lambda: [None]),
        lambda patch: patch.setattr(torch._C._functorch, "get_interpreter_stack", lambda kind: []),
    ],
    ids=["no module", "no function", "other levels", "other arguments"],
)
def test_conv4_needs_nothing_that_torch_keeps_private(change, monkeypatch):
    """Where torch does not tell whether tasks are batched, a picture is copied once more, and nothing else changes."""
    net, init = functional(conv4((1, 16, 16), width=10))
    theta, x = doubles(init(0)), torch.randn(3, 6, 1, 16, 16, dtype=torch.float64)

    def results():
        told.append(in_vmap())
        yield net(theta, x[0])
        yield grad(lambda theta: net(theta, x[0]).square().sum())(theta)
        yield vmap(grad(lambda theta, x: net(theta, x).square().sum()), in_dims=(None, 0))(theta, x)

    told: list[bool] = []
    want = [*results()]
    change(monkeypatch)
    assert_close([*results()], want)
    assert told == [False, True]


def test_torch_tells_whether_tasks_are_batched():
    seen = []
    tell = lambda x: (seen.append((in_vmap(), per_task())), x)[1]
    vmap(grad(tell))(torch.ones(2))
    grad(lambda x: vmap(tell)(x).sum())(torch.ones(2))
    grad(tell)(torch.ones(()))
    assert seen == [(True, True), (True, False), (False, False)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own forward mode
@pytest.mark.parametrize("how", [{"stride": 2, "padding": 1}, {"padding": (0, 2), "dilation": (1, 2), "bias": False}])
def test_convolutions_by_columns_are_convolutions_with_their_second_derivatives(how):
    """Each task with weights of its own, as a GPU does them."""
    conv = nn.Conv2d(2, 3, (3, 2), dtype=torch.float64, **how)
    x, names = torch.randn(4, 5, 2, 7, 6, dtype=torch.float64), [name for name, _ in conv.named_parameters()]

    def of(work):
        def stepped(theta, x):
            loss = lambda theta: work(theta, x).square().sum()
            return sum((v.detach() - g).square().sum() for v, g in zip(theta, grad(loss)(theta), strict=True))

        return vmap(grad(stepped, argnums=(0, 1)), in_dims=(None, 0))(tuple(conv.parameters()), x)

    def columns(theta, x):
        own = SimpleNamespace(**{n: getattr(conv, n) for n in ("kernel_size", "stride", "padding", "dilation", "bias")})
        vars(own).update(zip(names, theta, strict=True))
        return by_columns(own, x)

    plain = lambda theta, x: functional_call(conv, dict(zip(names, theta, strict=True)), x)
    assert_close(of(columns), of(plain))
    theta, along = tuple(conv.parameters()), torch.randn_like(x)
    forward = lambda work: vmap(lambda x, v: jvp(grad(lambda x: work(theta, x).pow(3).sum()), (x,), (v,)))(x, along)
    assert_close(forward(columns), forward(plain))


def test_a_first_block_keeps_single_precision():
    """The variance of a filter that answers to differences alone is far smaller than what it is made of."""
    x = nn.functional.interpolate(torch.rand(200, 1, 7, 7), 28, mode="bilinear")
    block = conv4().body[0]
    block.conv.weight.data -= block.conv.weight.data.mean((1, 2, 3), keepdim=True)
    single, double = block(x).double(), block.double()(x.double())
    assert (single - double).norm() < 2e-6 * double.norm()


def test_convolutions_start_as_glorot_and_bengio_say():
    _, init = functional(conv4(norm_policy="layer"))
    w, bound = init(0)["body.1.conv.weight"], (6 / (64 * 9 + 64 * 9)) ** 0.5
    assert 0.99 * bound < w.abs().max() <= bound
    assert not init(0)["body.1.conv.bias"].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: conv4((1, 15, 28)), "inputs of 15x28 vanish. Use at least 16x16"),
        (lambda: conv4((1, 9, 28), downsample="twice"), "inputs of 9x28 vanish. Use at least 10x10"),
        (lambda: conv4(downsample="pool"), "downsample is 'pool', expected 'max', 'stride' or 'twice'"),
        (lambda: conv4(norm_policy="none"), "policy is 'none'"),
        (lambda: conv4(features="maps"), "features is 'maps', expected 'flatten' or 'mean' or 'map'"),
        (lambda: conv4(features="map", out=5), "conv4: out is 5 with features='map', expected None"),
        (lambda: resnet12(features="flatten"), "resnet12: features is 'flatten', expected 'mean' or 'map'"),
        (lambda: resnet12(features="map", out=5), "resnet12: out is 5 with features='map', expected None"),
        (lambda: mlp((3,)), r"sizes is \(3,\), expected at least"),
    ],
)
def test_impossible_networks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_mlp():
    module = mlp((6, 5, 4, 2))
    kinds = [type(layer).__name__ for layer in module.body]
    assert kinds == ["Flatten", "Linear", "ReLU", "Linear", "ReLU"]
    assert module.dim == 4
    assert [(layer.in_features, layer.out_features) for layer in (module.body[1], module.body[3], module.head)] == [
        (6, 5), (5, 4), (4, 2),
    ]  # fmt: skip
    assert module(torch.randn(3, 2, 3)).shape == (3, 2)
    assert [type(layer).__name__ for layer in mlp((6, 5, 2), norm_policy="layer").body][2] == "GroupNorm"
    assert mlp((6, 2))(torch.randn(3, 6)).shape == (3, 2)


def test_resnet12_is_the_papers_network():
    """Four residual blocks of three convolutions, 12.4 million parameters."""
    module = resnet12()
    assert round(sum(p.numel() for p in module.parameters()) / 1e6, 1) == 12.4
    assert module.dim == 640
    small = resnet12((1, 16, 16), out=5, widths=(2, 3, 4, 5))
    assert small(torch.randn(3, 1, 16, 16)).shape == (3, 5)
    block = small.body[0]
    x = torch.randn(3, 1, 16, 16)
    assert_close(block(x), F.max_pool2d(F.leaky_relu(block.path(x) + block.skip(x), 0.1), 2))


# Inner optimizers


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (sgd(), lambda p: torch.optim.SGD(p, lr=0.1)),
        (sgd(momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        (
            sgd(momentum=0.9, nesterov=True),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        ),
        (adam(), lambda p: torch.optim.Adam(p, lr=0.1)),
        (adam(beta1=0.0, beta2=0.9, eps=1e-3), lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.0, 0.9), eps=1e-3)),
        (adam(weight_decay=0.2), lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2)),
        (rmsprop(), lambda p: torch.optim.RMSprop(p, lr=0.1)),
        (rmsprop(alpha=0.8, momentum=0.5), lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.8, momentum=0.5)),
    ],
    ids=["sgd", "momentum", "nesterov", "adam", "adam-beta1-0", "adamw", "rmsprop", "rmsprop-momentum"],
)
def test_descent_is_torchs(ours, theirs):
    start = {"a": torch.tensor([1.0, -2.0, 0.5]).double(), "b": torch.tensor([[0.3]]).double()}
    losses = lambda p, t: (p["a"] - t).pow(2).sum() * p["b"].sum().exp()
    phi, state = start, ours.init(start)
    reference = {n: p.clone().requires_grad_() for n, p in start.items()}
    method = theirs(list(reference.values()))
    for t in range(6):
        phi, state = ours.update(0.1, grad(losses)(phi, t), phi, state)
        method.zero_grad()
        losses(reference, t).backward()
        method.step()
        assert_close(phi, {n: p.detach() for n, p in reference.items()})
    assert_close(start["b"], torch.tensor([[0.3]]).double())


@pytest.mark.parametrize("method", [sgd(), adam(), rmsprop()], ids=["sgd", "adam", "rmsprop"])
def test_rates_may_differ_by_entry_and_element(method):
    phi = {"a": torch.ones(2), "b": torch.ones(2)}
    g = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    whole, _ = method.update(1.0, g, phi, method.init(phi))
    rates = {"a": torch.tensor(0.5), "b": torch.tensor([0.1, 0.2])}
    parts, _ = method.update(rates, g, phi, method.init(phi))
    assert_close(parts, {n: phi[n] + rates[n] * (whole[n] - phi[n]) for n in phi})


@pytest.mark.parametrize("method", [adam(), adam(beta1=0.0), rmsprop()], ids=["adam", "adam-beta1-0", "rmsprop"])
def test_a_gradient_that_was_always_zero_has_a_finite_derivative(method):
    """A dead unit: its gradient is zero at every step, and must not make the meta-gradient infinite."""

    def after_two_steps(w):
        phi = {"w": w}
        state = method.init(phi)
        for _ in range(2):
            g = grad(lambda phi: (phi["w"] * torch.tensor([1.0, 0.0])).square().sum())(phi)
            phi, state = method.update(0.1, g, phi, state)
        return phi["w"].sum()

    slope = grad(after_two_steps)(torch.tensor([1.0, 1.0]))
    assert slope.isfinite().all()
    assert slope[1] == 1


# Modes of a network


def test_a_theta_without_statistics_serves_support_norms_and_is_refused_by_running_ones(x):
    net, init = functional(conv4((1, 16, 16), width=2))
    theta = init(0)
    support, support_init = functional(conv4((1, 16, 16), width=2, norm_policy="support"))
    with_statistics = {**support_init(0), **theta}
    for params in (theta, with_statistics):
        query_net, conditioned = support.condition(params, x)
        assert_close(query_net(conditioned, x), net(theta, x))
    running, _ = functional(conv4((1, 16, 16), width=2, norm_policy="running"))
    with pytest.raises(ValueError, match=r"theta has no 'body\.0\.norm\.running_mean'"):
        running.eval()(theta, x)


def test_a_conditioned_network_can_be_conditioned_again(x):
    net, init = functional(conv4((1, 16, 16), width=2, norm_policy="support"))
    theta = init(0)
    first = net.condition(theta, x)
    again = first[0].eval().condition(first[1], 2 * x + 1)
    assert_close(again[1], net.condition(theta, 2 * x + 1)[1])


def test_statistics_are_estimated_under_dropout():
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Dropout(0.5), norm(3, "running"), nn.Flatten())
    net, init = functional(module)
    learner = protonet(net, init, ways=WAYS)
    first, second = init(0), init(0)
    for theta in (first, second):
        calibrate(learner, theta, Fixed(pictures(3, 0)), tasks=3, ways=WAYS, shots=2, queries=2)
    assert_close(first, second)
    assert first["2.running_mean"].abs().min() > 0


def test_norm_statistics_are_no_parameters_to_descend(x):
    net, init = functional(conv4((1, 16, 16), width=2, out=WAYS, norm_policy="support"))
    theta = maml(net, init, inner_lr=0.1, learn_lr="parameter").init(0)
    assert set(theta["net"]) - set(theta["inner_lr"]) == {n for n in theta["net"] if "running" in n}


@pytest.mark.parametrize("layers", [1, 2])
def test_an_lstm_is_torchs(layers):
    ours, theirs = LSTM(3, 5, layers).double(), torch.nn.LSTM(3, 5, layers).double()
    with torch.no_grad():
        for i, gates in enumerate(ours.cells):
            w_x, w_h = gates.weight.split([gates.in_features - 5, 5], 1)
            order = lambda w: torch.cat([w.chunk(4)[k] for k in (0, 1, 3, 2)])  # torch's is i, f, g, o
            getattr(theirs, f"weight_ih_l{i}").copy_(order(w_x))
            getattr(theirs, f"weight_hh_l{i}").copy_(order(w_h))
            getattr(theirs, f"bias_ih_l{i}").copy_(order(gates.bias))
            getattr(theirs, f"bias_hh_l{i}").zero_()
    x = torch.randn(7, 2, 3, dtype=torch.double)
    (h, state), (want, (h_n, c_n)) = ours(x), theirs(x)
    assert_close(h, want)
    assert_close(torch.stack([h for h, _ in state]), h_n)
    assert_close(torch.stack([c for _, c in state]), c_n)
    halves, middle = ours(x[:4])
    assert_close(torch.cat([halves, ours(x[4:], middle)[0]]), want)


def test_attention_is_torchs():
    q, k, v = (torch.randn(2, n, 4, dtype=torch.double) for n in (3, 5, 5))
    mask = torch.ones(3, 5, dtype=torch.bool).tril(1)
    for m in (None, mask):
        assert_close(attend(q, k, v, m), F.scaled_dot_product_attention(q, k, v, attn_mask=m))


@pytest.mark.parametrize("part", ["lstm", "attention"])
def test_recurrence_and_attention_batch_and_differentiate_twice(part):
    net, init = functional(LSTM(3, 4, 2))
    theta = {n: p.double() for n, p in init(0).items()}
    causal = torch.ones(5, 5, dtype=torch.bool).tril()

    def loss(theta, x):
        h = net(theta, x)[0] if part == "lstm" else attend(x, x * theta["cells.0.bias"][0], x, causal)
        return h.square().sum()

    def curved(theta, x):
        return sum(g.square().sum() for g in grad(loss)(theta, x).values())

    x = torch.randn(2, 5, 3, dtype=torch.double)
    many = vmap(grad(curved), in_dims=(None, 0))(theta, x)
    for i in range(2):
        assert_close({n: g[i] for n, g in many.items()}, grad(curved)(theta, x[i]))
    name, h = "cells.0.bias", 1e-6
    step = torch.zeros_like(theta[name])
    step[0] = h
    moved = [curved({**theta, name: theta[name] + s * step}, x[0]) for s in (1, -1)]
    assert_close(many[name][0, 0], (moved[0] - moved[1]) / (2 * h), rtol=1e-4, atol=1e-6)


BUGS = [
    Bug("statistics see the support set alone", "engine/methods.py",
        ("task if learner.statistics_of_task else task.support", "task.support"),
        "test_statistics_of_pairs_are_estimated_on_whole_tasks"),
    Bug("norm statistics descend", "nn/functional.py",
        ("if not n.endswith(STATISTICS) and n not in still}", "if n not in still}"),
        "test_norm_statistics_are_no_parameters_to_descend"),
    Bug("adam does not correct its bias", "nn/descent.py",
        ("m_scale, v[n] / v_scale, eps)", "m_scale, v[n], eps)"), "test_descent_is_torchs"),
    Bug("rmsprop forgets its momentum", "nn/descent.py",
        ("momentum * m[n] + _scaled(", "_scaled("), "test_descent_is_torchs"),
    Bug("adam's derivative is infinite at zero", "nn/descent.py",
        ("torch.where(met, v.clamp_min(tiny).sqrt(), torch.zeros_like(v))", "v.sqrt()"),
        "test_a_gradient_that_was_always_zero_has_a_finite_derivative"),
    Bug("adam's derivative is vast at zero", "nn/descent.py",
        ("torch.where(met, m, m.detach())", "m"),
        "tests/test_methods.py::test_steps_of_methods_that_scale_are_constant_where_every_gradient_is_zero[adam]"),
    Bug("labels are not looked at", "nn/classes.py",
        ("if not 0 <= least <= most < ways:", "if False:"),
        "test_labels_out_of_range_are_refused_alone_and_in_a_batch[y1]"),
    Bug("labels are looked at only where nothing is batched", "torch_private.py",
        ("            t = functorch.get_unwrapped(t)", "            return None"),
        "test_labels_out_of_range_are_refused_alone_and_in_a_batch[y1]"),
    Bug("a direction's slope is torch's", "nn/unit.py",
        ("torch.where(none, 1.0, z), dim=-1", "z, dim=-1"), "test_directions_are_torchs_and_zero_has_none"),
    Bug("torch's norms may have one number", "nn/functional.py",
        ("layer.register_forward_pre_hook(of_several)", "None"), "test_a_norm_of_one_number_is_refused[stock-group]"),
    Bug("our norms may have one number", "nn/norms.py",
        ("    if numbers == 1:", "    if False:"), "test_a_norm_of_one_number_is_refused[instance]"),
    Bug("population variance is that within tasks", "nn/functional.py",
        ("means[n] + m.var(0)", "means[n]"), "test_population_variance_has_no_bias[3.0]"),
    Bug("population variance has a bias", "nn/functional.py",
        ("means[n] + m.var(0)", "means[n] * len(m) / (len(m) - 1) + m.var(0, correction=0)"),
        "test_population_statistics_are_those_of_all_tasks"),
    Bug("support variance is the unbiased one", "nn/norms.py",
        ("x.var(over, correction=0)", "x.var(over)"), "test_support_norm_takes_the_support_sets_statistics"),
    Bug("support statistics are held constant", "nn/norms.py",
        (("(var + self.eps)", "(var.detach() + self.eps)"), ("bias - mean * scale", "bias - mean.detach() * scale")),
        law("meta_gradient_is_the_derivative", "maml-conv4-support")),
    Bug("support norms forget eps", "nn/norms.py",
        ("(var + self.eps).rsqrt()", "var.rsqrt()"), "test_support_norm_takes_the_support_sets_statistics"),
    Bug("pooled norms forget negative scales", "nn/fused.py",
        ("scale < 0, -1.0", "scale < 0, 1.0"), "test_conv4_on_a_cpu_is_its_layers[compilers-shape0-options0]"),
    Bug("pooled norms take the statistics of what is left", "nn/fused.py",
        ("moments(x))", "moments(_largest_of_fours(x)))"),
        "test_conv4_on_a_cpu_is_its_layers[compilers-shape0-options0]"),
    Bug("the patches' covariance is their second moment", "nn/fused.py",
        ("rows = rows - mean", "rows = rows * 1"), "test_conv4_on_a_cpu_is_its_layers[eager-shape0-options0]"),
    Bug("patches are cut without the margin", "nn/fused.py",
        ("(x, (b, b, a, a))", "(x, (0, 2 * b, 0, 2 * a))"), "test_conv4_on_a_cpu_is_its_layers[eager-shape0-options0]"),
    Bug("patches' moments are summed in single precision", "nn/fused.py",
        ("flatten(0, 2).double()", "flatten(0, 2)"), "test_a_first_block_keeps_single_precision"),
    Bug("a first block's shift misses the mean", "nn/norms.py",
        ("bias - mean * scale", "bias"), "test_conv4_on_a_cpu_is_its_layers[eager-shape0-options0]"),
    Bug("layer norm is instance norm", "nn/norms.py",
        ('"layer": 1', '"layer": channels'),
        "test_each_policy_normalises_by_its_own_statistics"),
    Bug("running norms use the batch at test", "nn/functional.py",
        ('"running": stored[name]', '"running": False'),
        "test_at_test_running_norms_use_the_population_and_at_training_the_batch"),
    Bug("init does not heed its seed", "nn/functional.py",
        ("torch.manual_seed(seed)", "torch.manual_seed(0)"), "test_init_is_drawn_from_its_seed_alone"),
    Bug("init draws from everyone's numbers", "nn/functional.py",
        ("with torch.random.fork_rng():", "if True:"), "test_init_is_drawn_from_its_seed_alone"),
    Bug("a network's modes are made within a trace", "nn/functional.py",
        ("skeleton._variant(*mode)", "mode"),
        "tests/test_laws.py::test_compiles_whole_and_once[protonet-conv4-support]"),
    Bug("population statistics are of the first chunk", "engine/session.py",
        ("torch.cat(values), *parts", "values[0], *parts"), "test_population_statistics_are_those_of_all_tasks"),
]  # fmt: skip
