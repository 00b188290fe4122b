"""Relation networks, restated one pair of a class and a query at a time. The classes have unequal sizes."""

import math
from collections import OrderedDict
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug, law
from torch import nn
from torch.testing import assert_close
from zoo import DERIVATIVE, WAYS, batched, blobs, features, pictures, waived

from metaloop import Data, Task, functional, meta_gradient, relation
from metaloop.engine.session import estimate
from metaloop.nn import POLICIES, Backbone, Relation, conv4, mlp
from metaloop.nn.backbones import Conv2d
from metaloop.nn.fused import Block
from metaloop.nn.norms import norm
from metaloop.testing import Case

SHAPE = (3, 6, 7)  # of a map
ALLOWED = [policy for policy in POLICIES if policy != "support"]


class Pairs(nn.Module):
    """Another relation module than the paper's: vectors, no norm."""

    def __init__(self, dim: int = 6):
        super().__init__()
        self.hidden, self.out = nn.Linear(2 * dim, 8), nn.Linear(8, 1)

    def forward(self, c, q):
        pairs = torch.cat([c.expand(len(q), -1, -1), q[:, None].expand(-1, len(c), -1)], -1)
        return self.out(self.hidden(pairs).tanh())[..., 0]


embed, init = functional(mlp((4, 8, 6)))
relate, init_relate = functional(Pairs())


def learner(loss="mse", ways=WAYS):
    return relation(embed, init, relate, init_relate, ways=ways, loss=loss)


def leaves(theta):
    return {part: {n: p.double().requires_grad_() for n, p in params.items()} for part, params in theta.items()}


def held(theta):
    return {part: {n: p.detach() for n, p in params.items()} for part, params in theta.items()}


@pytest.fixture
def task():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(13, 4, generator=g).double()
    y = torch.tensor([0, 2, 2, 1, 2, 2, 0, 1, 2, 0, 0, 2, 1])
    return Task(Data(x[:8], y[:8]), Data(x[8:], y[8:]))


def r_of_pair(theta, S: Data, k, x):
    """Equations (1) and (2), for one class and one query; the logit, and r."""
    c_k = sum(embed(theta["embed"], x_i[None])[0] for x_i, y in zip(*S, strict=True) if y == k)
    pair, g = torch.cat([c_k, embed(theta["embed"], x[None])[0]]), theta["relate"]
    h = torch.tanh(g["hidden.weight"] @ pair + g["hidden.bias"])
    logit = (g["out.weight"] @ h + g["out.bias"])[0]
    return logit, 1 / (1 + (-logit).exp())


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_scores_loss_and_gradient(task, loss):
    F_theta, theta, (S, Q) = learner(loss), leaves(learner().init(0)), task
    pairs = [[r_of_pair(theta, S, k, x) for k in range(WAYS)] for x in Q.x]
    if loss == "mse":
        scores = torch.stack([torch.stack([r.log() for _, r in row]) for row in pairs])
        errors = [(r - float(y == k)) ** 2 for row, y in zip(pairs, Q.y, strict=True) for k, (_, r) in enumerate(row)]
        want = sum(errors) / len(errors)                                                          # (3)
    else:
        scores = torch.stack([torch.stack([logit for logit, _ in row]) for row in pairs])
        p = scores.exp() / scores.exp().sum(1, keepdim=True)
        want = -sum(p_i[y].log() for p_i, y in zip(p, Q.y, strict=True)) / len(Q.y)
    assert_close(F_theta.adapt(theta, S)(Q.x), scores)                                            # (4)
    gradient = torch.autograd.grad(want, [t for params in theta.values() for t in params.values()])
    grads, got, info = meta_gradient(F_theta)(held(theta), batched(task))
    assert_close(got, want.detach())
    assert_close([g for params in grads.values() for g in params.values()], list(gradient))
    right = [float(s.argmax() == y) for s, y in zip(scores, Q.y, strict=True)]
    assert_close(info["accuracy"].item(), sum(right) / len(right))


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_a_class_without_examples_is_never_chosen_and_changes_nothing(task, loss):
    theta = held(leaves(learner().init(0)))
    many, few = (learner(loss, ways) for ways in (WAYS + 2, WAYS))
    scores = many.adapt(theta, task.support)(task.query.x)
    assert_close(scores[:, :WAYS], few.adapt(theta, task.support)(task.query.x))
    assert (scores[:, WAYS:] == -torch.inf).all()
    assert_close(*(meta_gradient(F_theta)(theta, batched(task))[:2] for F_theta in (many, few)))


def test_what_is_unknown_or_has_no_meaning_is_refused():
    with pytest.raises(ValueError, match=r"^relation: loss is 'hinge', expected 'mse' or 'cross_entropy'\.$"):
        learner("hinge")
    pairs = functional(Relation(SHAPE, norm_policy="support"))
    with pytest.raises(ValueError, match=r"^relation: relate has norm policy 'support', expected .* holds none\.$"):
        relation(embed, init, *pairs, ways=WAYS)


# The paper's relation module


@pytest.fixture
def maps():
    g = torch.Generator().manual_seed(0)
    return torch.randn(4, *SHAPE, generator=g).double(), torch.randn(5, *SHAPE, generator=g).double() - 1


def drawn(policy, shape=SHAPE, **options):
    """A relation module whose scales, shifts and linear layers are far from where they start."""
    net, init = functional(Relation(shape, width=4, norm_policy=policy, **options))
    g, params = torch.Generator().manual_seed(0), init(0)
    return net, {n: p.double() if p.ndim == 4 else torch.randn(p.shape, generator=g).double().abs() if "var" in n
                 else torch.randn(p.shape, generator=g).double() for n, p in params.items()}  # fmt: skip


def normalised(policy, params, name, x, stored):
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    if policy in ("group", "layer", "instance"):
        groups = {"group": 4, "layer": 1, "instance": 4}[policy]
        return F.group_norm(x, groups, weight, bias)
    if stored:
        mean, var = params[f"{name}.running_mean"], params[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, weight, bias)
    return F.batch_norm(x, None, None, weight, bias, training=True)


def of_whole_pairs(policy, params, c, q, stored=False):
    """g of every pair, one map above the other, with the convolution of all channels."""
    pairs = torch.stack([torch.cat([c_k, q_i]) for q_i in q for c_k in c])
    x = F.conv2d(pairs, params["conv.weight"], params.get("conv.bias"), padding=1)
    x = F.max_pool2d(F.relu(normalised(policy, params, "norm", x, stored)), 2)
    x = F.conv2d(x, params["block.conv.weight"], params.get("block.conv.bias"), padding=1)
    x = F.max_pool2d(F.relu(normalised(policy, params, "block.norm", x, stored)), 2).flatten(1)
    x = F.relu(F.linear(x, params["score.1.weight"], params["score.1.bias"]))
    return F.linear(x, params["score.3.weight"], params["score.3.bias"]).view(len(q), len(c))


@pytest.mark.parametrize("policy", ALLOWED)
@pytest.mark.parametrize("at_test", [False, True])
def test_halves_are_the_convolution_of_whole_pairs(policy, at_test, maps):
    """The numbers, and the gradients of both maps and of every parameter."""
    net, params = drawn(policy)
    learned = {n: p.requires_grad_("running" not in n) for n, p in params.items()}
    c, q = (t.requires_grad_() for t in maps)
    stored = at_test and policy == "running"
    ours = (net.eval() if at_test else net)(learned, c, q)
    want = of_whole_pairs(policy, learned, c, q, stored)
    assert_close(ours, want)
    to = [c, q, *(p for p in learned.values() if p.requires_grad)]
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(0)).double()
    assert_close(*(torch.autograd.grad((g * weight).sum(), to) for g in (ours, want)))


def test_halves_keep_single_precision():
    net, params = drawn("transductive", (8, 5, 5))
    g = torch.Generator().manual_seed(1)
    c, q = (torch.randn(n, 8, 5, 5, generator=g) for n in (20, 30))
    exact = of_whole_pairs("transductive", params, c.double(), q.double())
    single = net({n: p.float() for n, p in params.items()}, c, q)
    assert (single - exact).abs().max() < 1e-5 * exact.abs().max()


def test_statistics_are_those_of_whole_pairs(maps):
    net, params = drawn("running")
    c, q = maps
    got = net.statistics(params, c, q)
    pairs = torch.stack([torch.cat([c_k, q_i]) for q_i in q for c_k in c])
    x = F.conv2d(pairs, params["conv.weight"], padding=1)
    assert_close(got["norm.running_mean"], x.mean((0, 2, 3)))
    assert_close(got["norm.running_var"], x.var((0, 2, 3), correction=0))
    x = F.max_pool2d(F.relu(normalised("running", params, "norm", x, False)), 2)
    x = F.conv2d(x, params["block.conv.weight"], padding=1)
    assert_close(got["block.norm.running_mean"], x.mean((0, 2, 3)))
    assert_close(got["block.norm.running_var"], x.var((0, 2, 3), correction=0))


def test_the_relation_module_is_the_papers():
    """Maps of 64 x 5 x 5 for 28 x 28; 128 channels, two blocks of 64, 64 -> 8 -> 1; linear layers from N(0, 0.01^2)."""
    encoder = conv4(downsample="twice", features="map")
    assert encoder.shape == (64, 5, 5)
    assert encoder(torch.randn(3, 1, 28, 28)).shape == (3, 64, 5, 5)
    params = functional(Relation(encoder.shape))[1](0)
    assert {n: tuple(p.shape) for n, p in params.items() if p.ndim > 1} == {
        "conv.weight": (64, 128, 3, 3), "block.conv.weight": (64, 64, 3, 3),
        "score.1.weight": (8, 64), "score.3.weight": (1, 8),
    }  # fmt: skip
    assert 0.008 < params["score.1.weight"].std() < 0.012
    assert all((params[f"score.{i}.bias"] == 1).all() for i in (1, 3))
    assert not any(n.endswith("conv.bias") for n in params)
    assert "conv.bias" in functional(Relation(SHAPE, norm_policy="group"))[1](0)


def test_maps_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"^Relation: maps are \(64, 1, 1\), expected .* from 4x4 on\.$"):
        Relation((64, 1, 1))
    net, params = drawn("transductive")
    c, q = (torch.zeros(2, *shape).double() for shape in (SHAPE, (3, 7, 6)))
    with pytest.raises(ValueError, match=r"^Relation: maps are \(3, 6, 7\) and \(3, 7, 6\), expected \(3, 6, 7\)\. "):
        net(params, c, q)
    with pytest.raises(ValueError, match=r"^Relation: maps are \(3, 7, 6\) and \(3, 6, 7\)"):
        net(params, q, c)


# Both networks together


def networks(policy, of_pairs=None, *, at_test=False):
    """One block that makes maps of 8x8 of the zoo's pictures, and the relation module on them."""
    width = 10 if policy == "group" else 4
    block = Block(OrderedDict(
        conv=Conv2d(1, width, 3, padding=1, bias=policy in ("group", "layer")), norm=norm(width, policy),
        relu=nn.ReLU(), pool=nn.MaxPool2d(2),
    ))  # fmt: skip
    encoder = Backbone(nn.Sequential(block), width, None, (8, 8))
    pairs = Relation(encoder.shape, width=width, norm_policy=of_pairs or policy)
    (embed, init), (relate, init_relate) = functional(encoder), functional(pairs)
    return (embed.eval(), init, relate.eval(), init_relate) if at_test else (embed, init, relate, init_relate)


def test_population_statistics_are_of_all_examples_and_all_pairs_of_whole_tasks():
    F_theta = relation(*networks("running"), ways=WAYS)
    theta, tasks = leaves(F_theta.init(0)), pictures(3, 0)
    tasks = Task(*(Data(d.x.double(), d.y) for d in tasks))
    theta = held(theta)
    net, *_ = networks("running")
    seen = {"embed": [], "relate": []}
    for i in range(3):
        S, Q = (Data(d.x[i], d.y[i]) for d in tasks)
        z = F.conv2d(torch.cat([S.x, Q.x]), theta["embed"]["body.0.conv.weight"], padding=1)
        s, q = net(theta["embed"], S.x), net(theta["embed"], Q.x)
        c = torch.stack([sum(s_i for s_i, y in zip(s, S.y, strict=True) if y == k) for k in range(WAYS)])
        both = torch.stack([torch.cat([c_k, q_i]) for q_i in q for c_k in c])
        for name, x in (("embed", z), ("relate", F.conv2d(both, theta["relate"]["conv.weight"], padding=1))):
            seen[name].append((x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)))
    before = theta["relate"]["conv.weight"].clone()
    estimate(F_theta, theta, tasks)
    for part, norm_of in (("embed", "body.0.norm"), ("relate", "norm")):
        means, variances = (torch.stack(each) for each in zip(*seen[part], strict=True))
        assert_close(theta[part][f"{norm_of}.running_mean"], means.mean(0))
        assert_close(theta[part][f"{norm_of}.running_var"], variances.mean(0) + means.var(0))
    assert torch.equal(theta["relate"]["conv.weight"], before)


@pytest.mark.parametrize(("policy", "of_pairs", "estimated"), [
    ("running", "running", {"embed", "relate"}), ("running", "group", {"embed"}), ("support", "running", {"relate"}),
    ("group", "transductive", None),
])  # fmt: skip
def test_only_running_norms_are_estimated(policy, of_pairs, estimated):
    embed, init, *_ = networks(policy)
    relate = networks("group" if of_pairs == "group" else "transductive", of_pairs)[2:]
    if "group" in (policy, of_pairs):  # whose maps have ten channels
        width = 10 if policy == "group" else 4
        relate = functional(Relation((width, 8, 8), width=10, norm_policy=of_pairs))
    F_theta = relation(embed, init, *relate, ways=WAYS)
    if estimated is None:
        assert F_theta.statistics is None
    else:
        S, Q = pictures(1, 0)
        task = Task(Data(S.x[0], S.y[0]), Data(Q.x[0], Q.y[0]))
        assert F_theta.statistics(F_theta.init(0), task).keys() == estimated


def test_an_embedding_may_have_support_norms():
    """They take the support set's statistics for queries too; the relation module's norms are of each pair here."""
    embed, init, *_ = networks("support")
    F_theta = relation(embed, init, *functional(Relation((4, 8, 8), width=4, norm_policy="layer")), ways=WAYS)
    S, Q = (Data(d.x[0], d.y[0]) for d in pictures(1, 0))
    f = F_theta.adapt(F_theta.init(0), S)
    assert_close(torch.cat([f(x[None]) for x in Q.x]), f(Q.x))


def test_a_constant_relation_is_at_chance():
    """Where r is 1/ways for every pair, the squared error is (1 - 1/ways)/ways and the answers are uniform."""
    theta = learner().init(0)
    theta["relate"]["out.weight"].zero_()
    theta["relate"]["out.bias"].fill_(math.log(1 / (WAYS - 1)))
    S, Q = (Data(d.x[0], d.y[0]) for d in blobs(1, 0))
    loss, _ = learner().objective(learner().adapt, theta, Task(S, Q))
    assert_close(loss.item(), (1 - 1 / WAYS) / WAYS)
    assert_close(learner().adapt(theta, S)(Q.x).softmax(1), torch.full((len(Q.x), WAYS), 1 / WAYS))


def images(policy):
    """Layer norms with the other loss: at the law's rate the squared error kills the last ReLUs."""
    loss = "cross_entropy" if policy == "layer" else "mse"
    return Case(relation(*networks(policy), ways=WAYS, loss=loss), pictures, waived(policy))


def images_at_test():
    estimated = {DERIVATIVE: "population statistics are estimated, not learned by gradient"}
    F_theta = relation(*networks("running", at_test=True), ways=WAYS, loss="cross_entropy")
    return Case(F_theta, pictures, estimated)


CASES = {
    "relation": lambda: Case(relation(*features, *functional(Pairs()), ways=WAYS), blobs),
    "relation-cross-entropy": lambda: Case(
        relation(*features, *functional(Pairs()), ways=WAYS, loss="cross_entropy"), blobs
    ),
    **{f"relation-{policy}": partial(images, policy) for policy in ALLOWED},
    "relation-running-at-test": images_at_test,
}  # fmt: skip

BUGS = [
    Bug("relation's class maps are means", "learners/relation.py",
        ("c = class_sum(embed(theta[\"embed\"], S.x), S.y, ways)",
         "c = class_sum(embed(theta[\"embed\"], S.x), S.y, ways)\n"
         "        c = c / membership(S.y, ways).sum(0).clamp_min(1).view(-1, *[1] * (c.ndim - 1))"),
        "test_scores_loss_and_gradient"),
    Bug("relation answers r itself", "learners/relation.py",
        ("F.logsigmoid(g) if", "g.sigmoid() if"), "test_scores_loss_and_gradient[mse]"),
    Bug("relation's squared error is of logits", "learners/relation.py",
        ("r, one = log_r.exp(),", "r, one = log_r.exp() / (1 - log_r.exp()),"), "test_scores_loss_and_gradient[mse]"),
    Bug("relation's squared error is a mean over all classes", "learners/relation.py",
        ("/ (log_r > -torch.inf).sum()", "/ log_r.numel()"),
        "test_a_class_without_examples_is_never_chosen_and_changes_nothing[mse]"),
    Bug("relation chooses absent classes", "learners/relation.py",
        ("torch.where(self.present, F.logsigmoid(g) if self.squashed else g, -torch.inf)",
         "F.logsigmoid(g) if self.squashed else g"),
        "test_a_class_without_examples_is_never_chosen_and_changes_nothing"),
    Bug("relation's class maps hold back the gradient", "learners/relation.py",
        ("S.y, ways)        ", "S.y, ways).detach()        "), law("meta_gradient_is_the_derivative", "relation")),
    Bug("relation forgets the population's statistics", "learners/relation.py",
        ("statistics=statistics if running else None", "statistics=None"),
        law("all_of_theta_learns", "relation-running")),
    Bug("relation's statistics are of the support set alone", "learners/relation.py",
        ("torch.cat([task.support.x, task.query.x])", "task.support.x"),
        "test_population_statistics_are_of_all_examples_and_all_pairs_of_whole_tasks"),
    Bug("relation's statistics are of support pairs", "learners/relation.py",
        ('f.theta["embed"], task.query.x)', 'f.theta["embed"], task.support.x)'),
        "test_population_statistics_are_of_all_examples_and_all_pairs_of_whole_tasks"),
    Bug("halves are the wrong way round", "nn/relation.py",
        ("of_c, of_q =", "of_q, of_c ="), "test_halves_are_the_convolution_of_whole_pairs"),
    Bug("both halves have the bias", "nn/relation.py",
        ("F.conv2d(q, of_q, padding=1)", "F.conv2d(q, of_q, self.conv.bias, padding=1)"),
        "test_halves_are_the_convolution_of_whole_pairs[False-layer]"),
    Bug("pairs are counted class by class", "nn/relation.py",
        ("(b[:, None] + a)", "(b + a[:, None])"), "test_halves_are_the_convolution_of_whole_pairs"),
    Bug("pairs vary as their class maps do", "nn/relation.py",
        ("a.var(0, correction=0) + b.var(0, correction=0)", "a.var(0, correction=0)"),
        "test_halves_are_the_convolution_of_whole_pairs[False-running]"),
    Bug("positions do not vary", "nn/relation.py",
        (" + mean.var((1, 2), correction=0)", ""), "test_halves_are_the_convolution_of_whole_pairs[False-running]"),
    Bug("the shift is added to both halves", "nn/relation.py",
        ("b * scale)", "b * scale + shift)"), "test_halves_are_the_convolution_of_whole_pairs[False-running]"),
    Bug("statistics of a network of two inputs see the first", "nn/functional.py",
        ('self._record(params, "running", x, *more)', 'self._record(params, "running", x, x)'),
        "test_statistics_are_those_of_whole_pairs"),
    Bug("the first blocks of twice have a margin", "nn/backbones.py",
        ('margin = 0 if downsample == "twice" and i < 2', 'margin = 0 if downsample == "twice" and i < 1'),
        "test_the_relation_module_is_the_papers"),
]  # fmt: skip
