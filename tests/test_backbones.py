"""Networks that serve any learner: beside their definitions, and with each learner under the laws; other starts, inner
gradients that are cut, dropout."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug
from torch import nn
from torch.func import grad, vmap
from torch.testing import assert_close
from zoo import WAYS, blobs, classifier, one, pictures, waived

from metaloop import Data, Task, functional, maml, meta_gradient, protonet, reptile
from metaloop.engine.batch import predict
from metaloop.nn import (
    POLICIES,
    EncoderLayer,
    SplitAttention,
    TokenNorm,
    adam,
    clipped,
    drawn,
    mlp,
    resnest,
    resnet12,
    resnet18,
    rmsprop,
    sgd,
    transformer,
    vit,
)
from metaloop.report.calibration import ensemble
from metaloop.testing import Case, judge
from metaloop.torch_private import pytree

PICTURE, LINES = (1, 16, 16), (16, 16)
NETWORKS = {
    "resnet12": partial(resnet12, PICTURE, widths=(4, 4)),
    "resnet18": partial(resnet18, PICTURE, widths=(4, 4), blocks=(1, 1)),
    "resnest": partial(resnest, PICTURE, widths=(2, 2), blocks=(1, 1)),
    "transformer": partial(transformer, LINES, dim=16, heads=2, depth=1, expand=1),
    "vit": partial(vit, PICTURE, patch=4, dim=16, heads=2, depth=1, expand=1, features="class"),
}
LEARNERS = {
    "protonet": lambda net, head: protonet(*net, ways=WAYS),
    "maml": lambda net, head: maml(*head, inner_lr=0.3),
    "anil": lambda net, head: maml(*head, inner_lr=0.5, inner_steps=2, adapts="head"),
    "reptile": lambda net, head: reptile(*head, inner_lr=0.01, inner_steps=2),
}
PAIRS = [(network, learner) for network in NETWORKS for learner in LEARNERS]
LAWS = {pair: ["many_tasks_are_each_task", "all_of_theta_learns"] for pair in PAIRS}
for pair in (("resnet12", "protonet"), ("resnest", "maml"), ("vit", "anil"), ("transformer", "reptile")):
    LAWS[pair] += ["queries_do_not_see_each_other", "support_order_is_irrelevant", "predictor_survives_saving"]


def lines(n: int, seed: int) -> Task:
    """The pictures as sequences of their rows."""
    return Task(*(Data(part.x[:, :, 0], part.y) for part in pictures(n, seed)))


def make(network: str, learner: str, policy: str = "support") -> Case:
    net, head = (functional(NETWORKS[network](out=out, norm_policy=policy)) for out in (None, WAYS))
    deal = lines if network == "transformer" else pictures
    return Case(LEARNERS[learner](net, head), deal, waived(policy))


def doubles(tree):
    return pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, tree)


# Any network with any learner


@pytest.mark.parametrize(("network", "learner"), PAIRS)
def test_laws(network, learner):
    case = make(network, learner)
    for law in LAWS[network, learner]:
        judge(law, case)


@pytest.mark.parametrize(("network", "learner"), PAIRS)
def test_trains(network, learner):
    """Ten steps on one task whose queries are its support set: the loss falls by a third, whatever the objective."""
    case = make(network, learner, "transductive")
    theta, S = case.learner.init(0), case.tasks(1, 0).support
    task = Task(S, S)
    leaves, spec = pytree.tree_flatten(theta)
    optimizer = torch.optim.SGD(leaves, lr=1.0) if learner == "reptile" else torch.optim.Adam(leaves, lr=0.02)
    loss = lambda: F.cross_entropy(predict(case.learner, theta, task)[0], task.query.y[0]).item()
    before, gradient = loss(), meta_gradient(case.learner)
    for _ in range(10):
        for p, g in zip(leaves, spec.flatten_up_to(gradient(theta, task)[0]), strict=True):
            p.grad = g
        optimizer.step()
    assert loss() < before * 2 / 3


@pytest.mark.parametrize("network", ["resnet12", "resnest", "vit"])
@pytest.mark.parametrize("policy", POLICIES)
def test_meta_gradients_are_exact_with_each_norm(network, policy):
    """A batch of tasks by torch.func, beside torch.autograd on one task after the other."""
    case = make(network, "maml", policy)
    learner, theta, tasks = case.learner, case.theta(), case.batch(2)
    grads, *_ = meta_gradient(learner)(theta, tasks)
    leaves = {n: p.clone().requires_grad_() for n, p in theta.items()}
    each = [pytree.tree_map(lambda t: t[i], tasks) for i in range(2)]  # noqa: B023
    loss = sum(learner.objective(learner.adapt, leaves, task)[0] for task in each) / 2
    want = torch.autograd.grad(loss, leaves.values(), allow_unused=True, materialize_grads=True)
    assert_close(list(grads.values()), list(want))


@pytest.mark.parametrize("network", NETWORKS)
def test_second_derivatives_are_those_of_finite_differences(network):
    """MAML's meta-gradient along a line, for one of several widths: there are kinks."""
    case = make(network, "maml")
    learner, theta, tasks = case.learner, case.theta(), case.batch(1)
    gradient, g = meta_gradient(learner), torch.Generator().manual_seed(0)
    v = {n: torch.randn(p.shape, generator=g, dtype=p.dtype) for n, p in theta.items() if "running" not in n}
    said = sum((d * v[n]).sum() for n, d in gradient(theta, tasks)[0].items() if n in v)
    at = lambda h: learner.objective(learner.adapt, {**theta, **{n: theta[n] + h * v[n] for n in v}}, one(tasks))[0]
    found = [(at(h) - at(-h)) / (2 * h) for h in (1e-6, 1e-7, 1e-8)]
    assert min(abs(said - f) / abs(f) for f in found) < 1e-5


@pytest.mark.compile
def test_compiles_whole_and_once():
    judge("compiles_whole_and_once", make("vit", "protonet"))


# Beside their definitions


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (partial(resnet18, stem="large"), 11_689_512),
        (partial(resnet18, stem="large", blocks=(3, 4, 6, 3)), 21_797_672),
        # biases before a gate's norm are void and left out: half as many as its widths' sum times the blocks
        (partial(resnest, stem="large"), 10_611_688 - 480),
        (partial(vit, patch=16, dim=768, depth=12, heads=12, features="class"), 86_567_656),
    ],
    ids=["ResNet-18", "ResNet-34", "ResNeSt-14", "ViT-B/16"],
)
def test_sizes_are_the_papers(network, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in network((3, 224, 224), out=1000).parameters()) == parameters


@pytest.mark.parametrize(("stem", "halvings"), [("small", 2), ("large", 4)])
@pytest.mark.parametrize("network", [resnet18, resnest])
def test_a_map_has_the_size_that_is_told(network, stem, halvings):
    module = network((1, 33, 50), widths=(4, 4, 6), blocks=(1, 1, 1), stem=stem, features="map")
    x = torch.randn(2, 1, 33, 50)
    assert module(x).shape == (2, *module.shape)
    assert module.shape[1:] == (-(-33 // 2**halvings), -(-50 // 2**halvings))
    mean = network((1, 33, 50), widths=(4, 4, 6), blocks=(1, 1, 1), stem=stem)
    mean.load_state_dict(module.state_dict())
    assert mean.shape == (module.dim,)
    assert_close(mean(x), module(x).mean((2, 3)))


@pytest.mark.parametrize("radix", [1, 2, 3])
def test_split_attention_by_loops(radix):
    layer, x = SplitAttention(6, 4, radix=radix).double(), torch.randn(5, 6, 3, 3, dtype=torch.float64)
    each = 6 // radix
    maps = [F.conv2d(x[:, r * each : (r + 1) * each], w, padding=1) for r, w in enumerate(layer.conv.weight.split(4))]
    normal = lambda z, dims: (z - z.mean(dims, True)) / (z.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()
    maps = [normal(u, (0, 2, 3)).relu() for u in maps]
    s = sum(u.sum((2, 3)) for u in maps) / 9
    rows, answer = layer.gate[0].weight, layer.gate[3]
    assert rows.shape == (32, 4)
    gate = F.linear(normal(s @ rows.T, 0).relu(), answer.weight, answer.bias).split(4, 1)
    whole = sum(g.exp() for g in gate) if radix > 1 else 1 + gate[0].exp()
    assert_close(layer(x), sum((g.exp() / whole)[:, :, None, None] * u for g, u in zip(gate, maps, strict=True)))


def test_a_residual_block_adds_to_what_it_is_given():
    """With the last scale of each branch at zero, blocks of one size pass on what the stem gives."""
    module, x = resnet18(PICTURE, widths=(4,), blocks=(3,), features="map"), torch.randn(3, *PICTURE)
    net, init = functional(module)
    theta = drawn(init, "zero", only=lambda name: name.endswith("path.4.weight"))(0)
    module.load_state_dict(theta)
    assert_close(net(theta, x), module.body[:3](x))
    assert not torch.allclose(net(init(0), x), net(theta, x))


@pytest.mark.parametrize("length", [1, 5])
def test_a_layer_is_torchs(length):
    ours = EncoderLayer(8, 2, expand=3).double()
    theirs = nn.TransformerEncoderLayer(8, 2, 24, 0.0, "gelu", batch_first=True, norm_first=True).double().train()
    for p in ours.parameters():
        nn.init.normal_(p)
    of_theirs = (
        (theirs.norm1, ours.norm.norm), (theirs.norm2, ours.norm_after.norm), (theirs.self_attn.out_proj, ours.out),
        (theirs.linear1, ours.mlp[0]), (theirs.linear2, ours.mlp[2]),
    )  # fmt: skip
    for a, b in of_theirs:
        a.load_state_dict(b.state_dict())
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.qkv.weight)
        theirs.self_attn.in_proj_bias.copy_(ours.qkv.bias)
    h = torch.randn(3, length, 8, dtype=torch.float64)
    assert_close(ours(h), theirs(h))


@pytest.mark.parametrize(
    ("policy", "over"),
    [("layer", [2]), ("group", None), ("instance", [1]), ("transductive", [0, 1]), ("running", [0, 1])],
)
def test_whose_statistics_normalise_a_token(policy, over):
    norm, h = TokenNorm(16, policy).double(), torch.randn(3, 4, 16, dtype=torch.float64) * 3 + 1
    z, dims = (h.unflatten(2, (8, 2)), [3]) if over is None else (h, over)
    want = (z - z.mean(dims, True)) / (z.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()
    assert_close(norm(h), want.view_as(h))


def test_patches_are_a_convolution_and_places_are_added_behind_the_token():
    module, x = vit((2, 6, 9), patch=3, dim=8, heads=2, depth=1, features="class"), torch.randn(4, 2, 6, 9)
    patches, places = module.body[0], module.body[1]
    h = F.conv2d(x, patches.weight.view(8, 2, 3, 3), patches.bias, stride=3).flatten(2).mT
    assert_close(patches(x), h)
    assert_close(places(h), torch.cat([places.token.expand(4, 1, 8), h], 1) + places.at)
    assert places.at.shape == (7, 8)
    assert_close(module(x), module.body[3](module.body[2](places(h)))[:, 0])
    whole = vit((2, 6, 9), patch=3, dim=8, heads=2, depth=1, features="map")
    mean = vit((2, 6, 9), patch=3, dim=8, heads=2, depth=1)
    mean.load_state_dict(whole.state_dict())
    assert whole(x).shape == (4, *whole.shape) == (4, 8, 2, 3)
    assert_close(mean(x), whole(x).mean((2, 3)))


@pytest.mark.parametrize("policy", POLICIES)
def test_features_tell_inputs_apart(policy):
    """Under "instance" too, where the mean over positions of a last norm's answers would be its shift."""
    z = vit(PICTURE, patch=4, dim=16, heads=2, depth=1, norm_policy=policy)(torch.randn(3, *PICTURE))
    assert (z[0] - z[1]).abs().max() > 1e-3


def test_a_transformer_knows_places_by_what_it_learned_of_them_alone():
    net, init = functional(transformer((5, 3), dim=8, heads=2, depth=2))
    theta, x = init(0), torch.randn(4, 5, 3)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert not torch.allclose(net(theta, x[:, order]), net(theta, x), atol=1e-4)
    nowhere = {n: torch.zeros_like(p) if n.endswith("at") else p for n, p in theta.items()}
    assert_close(net(nowhere, x[:, order]), net(nowhere, x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: resnet18(stem="deep"), "resnet18: stem is 'deep', expected 'small' or 'large'"),
        (lambda: resnest((16, 16)), r"resnest: inputs have shape \(16, 16\), expected images"),
        (lambda: resnet18(widths=(4, 8)), "resnet18: 2 widths for 4 stages"),
        (lambda: resnest(features="map", out=5), "resnest: out is 5 with features='map', expected None"),
        (lambda: resnest(radix=3), "SplitAttention: radix is 3, expected at least 1, and to divide 64 channels"),
        (lambda: resnet12(dropout=1.0), "resnet12: dropout is 1.0, expected a share from 0 to below 1"),
        (lambda: vit(patch=16), "vit: patches of 16x16 do not tile inputs of 84x84"),
        (lambda: vit(heads=5), "vit: depth=6, dim=192, heads=5, expected at least 1, and heads to divide dim"),
        (lambda: vit((84, 84)), r"vit: inputs have shape \(84, 84\), expected images"),
        (lambda: transformer((3, 84, 84)), "transformer: inputs have shape .* expected sequences"),
        (lambda: transformer(LINES, features="map"), "transformer: features is 'map', expected 'mean' or 'class'"),
        (lambda: EncoderLayer(6, 4), "EncoderLayer: 4 heads do not divide dim=6"),
        (lambda: drawn(lambda seed: {}, "gaussian"), "drawn: start is 'gaussian', expected one of glorot, he"),
        (lambda: drawn(classifier[1], "he", only="tail")(0), "only='tail' names nothing that 'he' draws"),
        (lambda: clipped(), "clipped: norm=None, value=None, expected a number above 0 for at least one"),
        (lambda: clipped(sgd(), norm=0.0), "clipped: norm=0.0"),
    ],
)
def test_what_is_impossible_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


# Starts


@pytest.mark.parametrize(("start", "variance"), [("glorot", 2 / 1152), ("he", 2 / 576), ("lecun", 1 / 576)])
def test_a_start_has_its_variance(start, variance):
    """Of a convolution of 64 channels, 36864 numbers: within four standard errors of the variance."""
    _, init = functional(nn.Sequential(nn.Conv2d(64, 64, 3), nn.GroupNorm(2, 64)))
    theta, before = drawn(init, start)(3), init(3)
    w = theta["0.weight"]
    assert abs(w.square().mean() / variance - 1) < 4 * (2 / w.numel()) ** 0.5
    assert all(torch.equal(theta[n], before[n]) for n in theta if n != "0.weight")
    assert torch.equal(drawn(init, start)(3)["0.weight"], w)
    assert not torch.equal(drawn(init, start)(4)["0.weight"], w)
    assert_close(drawn(init, start, scale=0.5)(3)["0.weight"], w / 2)


def test_what_is_drawn_is_by_seed_and_name():
    """Two layers of one form, drawn together or one upon the other: other numbers each, the same both ways."""
    _, init = functional(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    both, before = drawn(init, "he")(3), init(3)
    nested = drawn(drawn(init, "he", only="0"), "he", only="1")(3)
    alone = drawn(init, "he", only="1")(3)
    assert not torch.equal(nested["0.weight"], nested["1.weight"])
    for name in ("0.weight", "1.weight"):
        assert torch.equal(nested[name], both[name])
    assert torch.equal(alone["1.weight"], both["1.weight"])
    assert torch.equal(alone["0.weight"], before["0.weight"])
    assert not torch.equal(drawn(init, "he")(4)["1.weight"], both["1.weight"])


def test_starts_of_other_kinds():
    _, init = functional(mlp((20, 30, 8, 5)))
    theta = drawn(drawn(init, "orthogonal"), "zero", only="head")(0)
    for name in ("body.1.weight", "body.3.weight"):
        w = theta[name] if len(theta[name]) < theta[name].shape[1] else theta[name].mT
        assert_close(w @ w.mT, torch.eye(len(w)), atol=1e-5, rtol=0)
    assert not theta["head.weight"].any()
    assert not theta["head.bias"].any()
    small = drawn(init, "small")(0)["body.1.weight"]
    assert small.abs().max() <= 0.04
    assert abs(small.std() / 0.0176 - 1) < 0.1  # 0.02 cut off at two deviations


def test_what_a_network_does_not_learn_keeps_its_start():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    _, init = functional(module)
    theta = drawn(init, "he")(0)
    assert torch.equal(theta["0.weight"], module[0].weight)
    assert not torch.equal(theta["1.weight"], init(0)["1.weight"])
    assert drawn(init, "he").fixed == init.fixed


# Inner gradients that are cut


@pytest.mark.parametrize("method", [sgd(), sgd(momentum=0.9), adam(), rmsprop()], ids=["sgd", "heavy", "adam", "rms"])
@pytest.mark.parametrize("how", [{"norm": 0.5}, {"value": 0.2}], ids=["norm", "value"])
def test_cut_gradients_are_torchs(method, how):
    theirs = {"norm": nn.utils.clip_grad_norm_, "value": nn.utils.clip_grad_value_}[next(iter(how))]
    phi = {"a": torch.tensor([1.0, -2.0, 0.5]).double(), "b": torch.tensor([[0.3]]).double()}
    ours, state, plain = clipped(method, **how), clipped(method, **how).init(phi), method.init(phi)
    at, cut = phi, 0
    for t in range(4):
        g = grad(lambda p: (p["a"] * t).square().sum() * p["b"].exp().sum())(at)  # noqa: B023
        leaves = [nn.Parameter(p.clone()) for p in at.values()]
        for leaf, g_n in zip(leaves, g.values(), strict=True):
            leaf.grad = g_n.clone()
        theirs(leaves, next(iter(how.values())))
        given = dict(zip(at, (leaf.grad for leaf in leaves), strict=True))
        cut += not torch.allclose(given["a"], g["a"])
        want, plain = method.update(0.1, given, at, plain)
        at, state = ours.update(0.1, g, at, state)
        assert_close(at, want, rtol=1e-5, atol=1e-6)  # theirs divides by |g| + 1e-6
    assert 0 < cut < 4


def test_the_meta_gradient_goes_through_cut_steps():
    """Beside torch.autograd, and finite where the inner gradient is zero: by a head of zeros that sees zeros."""
    net, init = classifier
    task, theta = one(blobs(1, 0)), doubles(init(0))
    learner = maml(net, init, inner_lr=0.5, inner_steps=2, optimizer=clipped(norm=0.1))
    got = meta_gradient(learner)(theta, pytree.tree_map(lambda t: t[None], task))[0]
    start = {n: p.clone().requires_grad_() for n, p in theta.items()}
    phi = start
    for _ in range(2):
        loss = F.cross_entropy(net(phi, task.support.x), task.support.y)
        g = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
        length = torch.cat([t.flatten() for t in g]).norm()
        assert length > 0.1
        phi = {n: p - 0.5 * 0.1 * g_n / length for (n, p), g_n in zip(phi.items(), g, strict=True)}
    loss = F.cross_entropy(net(phi, task.query.x), task.query.y)
    assert_close(list(got.values()), list(torch.autograd.grad(loss, list(start.values()))))

    def after(w):
        g = grad(lambda phi: (phi["w"] * 0).square().sum())({"w": w})
        return clipped(norm=1.0).update(0.1, g, {"w": w}, {})[0]["w"].sum()

    assert_close(grad(after)(torch.ones(3)), torch.ones(3))


def test_cut_steps_keep_the_laws():
    case = Case(maml(*classifier, inner_lr=0.5, inner_steps=2, optimizer=clipped(norm=0.3, value=0.2)), blobs)
    for law in ("many_tasks_are_each_task", "meta_gradient_is_the_derivative"):
        judge(law, case)


# Dropout, in ensembles too


@pytest.mark.parametrize("network", ["resnet12", "vit", "transformer"])
def test_dropout_is_noise_of_meta_training_alone(network):
    """Each member of an ensemble, each task and each draw has its own; at meta-test there is none, nor in a network
    that drops nothing."""
    case = make(network, "protonet")
    learner = protonet(*functional(NETWORKS[network](dropout=0.3, norm_policy="layer")), ways=WAYS)
    still = protonet(*functional(NETWORKS[network](norm_policy="layer")), ways=WAYS)
    theta, tasks = learner.init(0), case.tasks(2, 0)
    assert theta.keys() == still.init(0).keys()
    assert_close(predict(learner, theta, tasks), predict(learner, theta, tasks))
    loss = lambda learner: meta_gradient(learner)(theta, tasks)[1]
    assert loss(learner) != loss(learner)
    many = ensemble(learner, 2)
    alike = pytree.tree_map(lambda t: torch.stack([t, t]), theta)
    S = Data(tasks.support.x[0], tasks.support.y[0])
    f = vmap(learner.adapt, (0, None), randomness="different")(alike, S)
    c = next(t for t in pytree.tree_leaves(f) if len(t) == 2 and t.dim() == 3 and t.shape[1] == WAYS)
    assert not torch.equal(c[0], c[1])
    assert_close(predict(many, alike, tasks), predict(learner, theta, tasks).log_softmax(-1))


BUGS = [
    Bug("layers that are drawn apart are alike", "nn/starts.py", ('f"{seed} {n}"', 'f"{seed}"'),
        "test_what_is_drawn_is_by_seed_and_name"),
    Bug("split attention gives all maps one weight", "nn/residual.py",
        ("a.softmax(1) if", "a.softmax(2) if"), "test_split_attention_by_loops[2]"),
    Bug("a transformer's norms see all tokens", "nn/tokens.py",
        ('norm(dim, policy), policy != "instance"', 'norm(dim, policy), policy not in ("instance", "layer")'),
        "test_whose_statistics_normalise_a_token[layer-over0]"),
    Bug("shortened gradients hold their length constant", "nn/descent.py",
        ("norm * squares.clamp_min", "norm * squares.detach().clamp_min"),
        "test_the_meta_gradient_goes_through_cut_steps"),
    Bug("patches lie column by column", "nn/tokens.py",
        (".permute(0, 2, 4, 1, 3, 5)", ".permute(0, 4, 2, 1, 3, 5)"),
        "test_patches_are_a_convolution_and_places_are_added_behind_the_token"),
]  # fmt: skip
