"""Angular margins and triplets, restated one example at a time; and beside pytorch-metric-learning's own."""

from functools import partial
from math import acos, cos, pi, sin

import pytest
import torch
from mutations import Bug, law
from pytorch_metric_learning import losses
from torch.func import functional_call
from torch.testing import assert_close
from zoo import READS, WAYS, batched, blobs, features, known_blobs

from metaloop import Data, Task, functional, maml, margin, meta_gradient
from metaloop import objectives as O
from metaloop.nn import mlp
from metaloop.objectives.embedding import psi
from metaloop.testing import Case
from metaloop.torch_private import pytree

CLASSES, DIM = 7, 5
embed, init = functional(mlp((4, 8, DIM)))
ANGULAR = ("softmax", "normface", "sphereface", "cosface", "arcface")


def made(name, **options):
    return getattr(O, name)(classes=CLASSES, dim=DIM, **options)


def learner(loss, ways=WAYS):
    return margin(embed, init, ways=ways, loss=loss)


def start(loss):
    return pytree.tree_map(torch.Tensor.double, learner(loss).init(0))


@pytest.fixture
def task():
    """Labels of the whole training set; some classes are in the support set alone, some in the queries alone."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(14, 4, generator=g).double()
    y = torch.tensor([0, 6, 6, 1, 2, 2, 0, 1, 3, 5, 0, 6, 3, 1])
    return Task(Data(x[:8], y[:8]), Data(x[8:], y[8:]))


def dot(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


def length(a):
    return dot(a, a).sqrt()


def angle(a, b):
    return (dot(a, b) / length(a) / length(b)).acos()


def sphere(z, theta, own, lam, m=4):
    """Equation (4), with k looked for."""
    if not own:
        return length(z) * theta.cos()
    k = next(k for k in range(m) if k * pi / m <= theta <= (k + 1) * pi / m)
    drawn_out = (-1) ** k * (m * theta).cos() - 2 * k
    return length(z) * (lam * theta.cos() + drawn_out) / (1 + lam)


def arc(theta, own, m=0.5, s=16.0):
    """Equation (6), and what stands for it where the angle would pass pi."""
    if own and theta + m > pi:
        return s * (theta.cos() - m * sin(m))
    return s * (theta + m * own).cos()


LOGIT = {
    "softmax": lambda p, z, j, own: dot(p["W"][j], z) + p["b"][j],
    "normface": lambda p, z, j, own: 16 * angle(z, p["W"][j]).cos(),
    "sphereface": lambda p, z, j, own: sphere(z, angle(z, p["W"][j]), own, p["lambda"]),
    "cosface": lambda p, z, j, own: 16 * (angle(z, p["W"][j]).cos() - 0.35 * own),
    "arcface": lambda p, z, j, own: arc(angle(z, p["W"][j]), own),
}


@pytest.mark.parametrize("name", ANGULAR)
@pytest.mark.parametrize("steps", [0, 40_000])
def test_loss_and_gradient(name, steps, task):
    loss = made(name)
    theta = start(loss)
    if loss.scheduled is not None:
        theta["loss"] |= {n: t.double() for n, t in loss.scheduled(steps).items()}
    if name == "softmax":
        theta["loss"]["b"] = torch.linspace(-1, 1, CLASSES, dtype=torch.float64)
    leaves, spec = pytree.tree_flatten(theta)
    leaves = [t.clone().requires_grad_() for t in leaves]
    live = pytree.tree_unflatten(leaves, spec)
    values = []
    for x, y in [pair for part in task for pair in zip(*part, strict=True)]:                   # S and Q together
        z = embed(live["net"], x[None])[0]
        logits = torch.stack([LOGIT[name](live["loss"], z, j, j == y) for j in range(CLASSES)])
        values.append(-(logits.exp() / logits.exp().sum())[y].log())                           # (1)
    value = sum(values) / len(values)
    want = pytree.tree_unflatten(torch.autograd.grad(value, leaves), spec)
    grads, got, _ = meta_gradient(learner(loss))(theta, batched(task))
    assert_close(got, value.detach())
    assert_close(grads, want)


THEIRS = {
    "normface": partial(losses.NormalizedSoftmaxLoss, temperature=1 / 16),
    "sphereface": losses.SphereFaceLoss,
    "cosface": partial(losses.CosFaceLoss, margin=0.35, scale=16),
    "arcface": partial(losses.ArcFaceLoss, margin=0.5 * 180 / pi, scale=16),
}


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # its SphereFace, under NumPy 2
@pytest.mark.parametrize("name", THEIRS)
def test_it_is_the_loss_of_pytorch_metric_learning(name):
    """At angles all over the circle, the true class's opposite included."""
    ours = made(name, **({"anneal": (0.0, 0.0, 0.0)} if name == "sphereface" else {}))
    params, theirs = ours.init(0), O.from_pml(lambda: THEIRS[name](CLASSES, DIM))
    g = torch.Generator().manual_seed(1)
    y = torch.arange(CLASSES).repeat(4)
    near = params["W"][y] * torch.linspace(-1, 1, len(y))[:, None]
    z = (near + 0.1 * torch.randn(len(y), DIM, generator=g)).double()
    W = params["W"].double()
    assert {bool(angle(z_i, W[k]) > pi - 0.5) for z_i, k in zip(z, y, strict=True)} == {True, False}
    norm = 1 if name == "sphereface" else z.norm(dim=1, keepdim=True)  # its NormFace leaves that to the embedding
    value = theirs.value({"W": W.mT}, z / norm, y)
    assert_close(ours.value({**params, "W": W}, z / norm, y), value)


def test_the_margin_of_sphereface_draws_the_cosine_out():
    for m in (1, 2, 3, 4):
        angles = torch.linspace(0, pi, 201, dtype=torch.float64)
        want = []
        for t in angles.tolist():
            k = min(int(m * t / pi), m - 1)
            want.append((-1) ** k * cos(m * t) - 2 * k)
        drawn_out = psi(angles.cos(), m)
        assert_close(drawn_out, torch.tensor(want, dtype=torch.float64), atol=1e-7, rtol=0)
        assert (drawn_out.diff() < 0).all()
        assert_close(psi(torch.tensor([1.0, -1.0]), m), torch.tensor([1.0, 1.0 - 2 * m]))
    gradient = torch.func.grad(lambda c: psi(c, 4))
    assert_close(gradient(torch.tensor(1.0)), torch.tensor(16.0))  # m^2, where acos has no derivative


@pytest.mark.parametrize("name", ["sphereface", "arcface"])
def test_gradients_are_finite_where_an_embedding_meets_its_class(name):
    loss = made(name)
    params = loss.init(0)
    z, y = params["W"][:3].clone(), torch.arange(3)
    for sign in (1, -1):
        grads = torch.func.grad(loss.value, argnums=(0, 1))(params, sign * z, y)
        assert all(g.isfinite().all() for g in pytree.tree_leaves(grads))


def test_the_annealing_of_sphereface():
    scheduled = made("sphereface").scheduled
    got = [scheduled(step)["lambda"].item() for step in (0, 10, 90, 2989, 2990, 10**6)]
    assert_close(torch.tensor(got), torch.tensor([1500, 750, 150, 1500 / 299.9, 5, 5]))
    assert learner(made("sphereface")).scheduled(10) == {"loss": {"lambda": torch.tensor(750.0)}}
    assert learner(made("sphereface")).init(0)["loss"]["lambda"] == 1500
    assert all(learner(made(name)).scheduled is None for name in ANGULAR if name != "sphereface")


def triplets(z, y):
    """All (|a - p|^2, |a - n|^2) on the sphere."""
    z = [z_i / length(z_i) for z_i in z]
    n = range(len(z))
    for a in n:
        for p in (p for p in n if p != a and y[p] == y[a]):
            for q in (q for q in n if y[q] != y[a]):
                yield dot(z[a] - z[p], z[a] - z[p]), dot(z[a] - z[q], z[a] - z[q])


@pytest.mark.parametrize("mining", ["all", "semihard"])
def test_triplets(mining, task):
    m = 0.3
    loss = O.triplet(margin=m, mining=mining)
    theta = start(loss)
    assert theta["loss"] == {}
    live = {n: t.clone().requires_grad_() for n, t in theta["net"].items()}
    x, y = (torch.cat(part) for part in zip(*task, strict=True))
    terms, seen = [], 0
    for near, far in triplets(embed(live, x), y):
        seen += 1
        if (near < far if mining == "semihard" else True) and near - far + m > 0:
            terms.append(near - far + m)
    assert 0 < len(terms) < seen
    value = sum(terms) / len(terms)
    want = dict(zip(live, torch.autograd.grad(value, live.values()), strict=True))
    grads, got, _ = meta_gradient(learner(loss))(theta, batched(task))
    assert_close(got, value.detach())
    assert_close(grads["net"], want)


def test_a_batch_without_triplets_has_no_loss_and_no_gradient(task):
    alone = Task(*(Data(x, torch.zeros_like(y)) for x, y in task))
    loss = O.triplet(mining="semihard")
    grads, value, _ = meta_gradient(learner(loss))(start(loss), batched(alone))
    assert value == 0
    assert all((g == 0).all() for g in pytree.tree_leaves(grads))


def test_any_loss_of_pytorch_metric_learning_in_a_batch_of_tasks(task):
    """One with weights of its own that indexes by the data and sets `.data`, which torch.func does not bear."""
    make = partial(losses.ProxyAnchorLoss, num_classes=CLASSES, embedding_size=DIM)
    loss = O.from_pml(make)
    theta, other = start(loss), Task(*(Data(x.flip(0), y.roll(1)) for x, y in task))
    both = pytree.tree_map(lambda a, b: torch.stack([a, b]), task, other)
    module = make()
    wanted = []
    for S, Q in (task, other):
        leaves, spec = pytree.tree_flatten(pytree.tree_map(lambda t: t.clone().requires_grad_(), theta))
        live = pytree.tree_unflatten(leaves, spec)
        z = embed(live["net"], torch.cat([S.x, Q.x]))
        value = functional_call(module, live["loss"], (z, torch.cat([S.y, Q.y])))
        wanted.append((value.detach(), *torch.autograd.grad(value, leaves)))
    grads, value, _ = meta_gradient(learner(loss), chunk=2)(theta, both)
    want = [sum(pair) / 2 for pair in zip(*wanted, strict=True)]
    assert_close([value, *pytree.tree_leaves(grads)], want)
    z = embed(theta["net"], task.support.x)
    gradient = lambda times: torch.func.grad(lambda z: times * loss.value(theta["loss"], z, task.support.y))(z)
    assert_close(gradient(3), 3 * gradient(1))
    assert not torch.equal(loss.init(0)["proxies"], loss.init(1)["proxies"])
    assert torch.equal(loss.init(0)["proxies"], loss.init(0)["proxies"])


def test_a_loss_of_pytorch_metric_learning_has_no_second_derivative_and_says_so(task):
    """Held constant, its gradient serves: first-order MAML is a loop with `detach`."""
    loss = O.triplet(margin=2.0)
    value = lambda z, y: loss.value({}, z, y)
    inner = lambda **options: maml(embed, init, inner_lr=0.1, inner_steps=2, loss=value, **options)
    theta, many = {n: p.double() for n, p in init(0).items()}, batched(task)
    with pytest.raises(ValueError, match="from_pml: TripletMarginLoss has a first derivative only, and its second is"):
        meta_gradient(inner())(theta, many)
    with pytest.raises(ValueError, match="first derivative only"):
        meta_gradient(inner())(theta, Task(*(Data(x.expand(2, *x.shape), y.expand(2, -1)) for x, y in task)))
    grads = meta_gradient(inner(first_order=True))(theta, many)[0]
    leaves = {n: p.clone().requires_grad_() for n, p in theta.items()}
    phi = leaves
    for _ in range(2):
        held = {n: p.detach().requires_grad_() for n, p in phi.items()}
        g = torch.autograd.grad(value(embed(held, task.support.x), task.support.y), list(held.values()))
        phi = {n: p - 0.1 * g_n for (n, p), g_n in zip(phi.items(), g, strict=True)}
    want = torch.autograd.grad(value(embed(phi, task.query.x), task.query.y), list(leaves.values()))
    assert_close(list(grads.values()), list(want))


def test_a_loss_of_pytorch_metric_learning_hands_no_nan_on():
    loss = O.from_pml(partial(losses.ArcFaceLoss, num_classes=CLASSES, embedding_size=DIM))
    theta, y = loss.init(0), torch.tensor([1])
    theta["W"] = torch.eye(*theta["W"].shape)  # lengths of exactly 1
    at = theta["W"].mT[1:2] * 2  # where the angle has no derivative
    with pytest.raises(ValueError, match=r"from_pml: ArcFaceLoss has a loss of .* and a gradient that is not finite"):
        torch.func.grad(lambda z: loss.value(theta, z, y))(at)
    assert loss.value(theta, at * torch.nan, y).isnan()  # what came in is not its doing


@pytest.mark.parametrize("name", ["TripletMarginLoss", "NTXentLoss", "ArcFaceLoss", "ProxyAnchorLoss"])
def test_a_loss_of_pytorch_metric_learning_has_no_steep_slope_at_zero_and_its_own_elsewhere(name):
    kind = getattr(losses, name)
    of_classes = {"num_classes": CLASSES, "embedding_size": DIM} if name in ("ArcFaceLoss", "ProxyAnchorLoss") else {}
    loss, module = O.from_pml(partial(kind, **of_classes)), kind(**of_classes)
    theta, y = loss.init(0), torch.tensor([0, 0, 1, 1])
    z = torch.randn(4, DIM, generator=torch.Generator().manual_seed(0))
    slope = lambda z: torch.func.grad(lambda z: loss.value(theta, z, y))(z)
    live = z.clone().requires_grad_()
    assert_close(slope(z), torch.autograd.grad(functional_call(module, theta, (live, y)), live)[0])
    z[1] = 0
    assert slope(z).abs().max() < 1e4
    assert not slope(z)[1].any()


def test_losses_over_classes_say_so():
    assert {made(name).classes for name in ANGULAR} == {CLASSES}
    assert O.triplet().classes is None
    assert O.from_pml(partial(losses.ProxyAnchorLoss, CLASSES, DIM)).classes == CLASSES
    assert learner(made("cosface")).classes == CLASSES


@pytest.mark.parametrize("name", ANGULAR)
def test_an_embedding_of_zero_has_a_loss_and_no_steep_slope(name):
    loss, y = made(name), torch.tensor([0, 1])
    theta, z = loss.init(0), torch.zeros(2, DIM)
    z[1] = theta["W"][1] + 0.1
    slope = lambda z: torch.func.grad(lambda z: loss.value(theta, z, y))(z)
    for found in (slope(z), torch.func.grad(lambda z: slope(z).square().sum())(z)):
        assert found.isfinite().all()
        assert found.abs().max() < 1e4


def test_sphereface_without_annealing():
    """lambda = 0: the true class's logit is |z| psi alone."""
    loss = made("sphereface", anneal=(0, 0, 0))
    theta, y = loss.init(0), torch.tensor([2, 0])
    z = torch.randn(2, DIM, generator=torch.Generator().manual_seed(1))
    logits = torch.stack([torch.stack([dot(z_i, w) / length(w) for w in theta["W"]]) for z_i in z])
    for i, k in enumerate(y):
        cosine = logits[i, k] / length(z[i])
        logits[i, k] = length(z[i]) * psi(cosine, 4)
    assert_close(loss.value(theta, z, y), torch.nn.functional.cross_entropy(logits, y))
    grads = torch.func.grad(loss.value)(theta, z, y)
    assert grads["W"].any()
    assert loss.scheduled(7)["lambda"] == 0


def test_the_nearest_example_decides(task):
    loss = made("softmax")
    S, Q = task
    S = Data(S.x, S.y % WAYS)
    theta = start(loss)
    f = learner(loss, WAYS + 1).adapt(theta, S)
    for x, scores in zip(Q.x, f(Q.x), strict=True):
        z = embed(theta["net"], x[None])[0]
        for k in range(WAYS):
            cosines = [cos(acos(dot(z, s) / length(z) / length(s)))
                       for s, y in zip(embed(theta["net"], S.x), S.y, strict=True) if y == k]  # fmt: skip
            assert_close(scores[k].item(), 10 * max(cosines))
        assert scores[WAYS] == -torch.inf


@pytest.mark.parametrize("name", ANGULAR)
def test_theta_has_weights_for_each_training_class(name):
    a, b = (learner(made(name)).init(seed)["loss"] for seed in (0, 1))
    assert a["W"].shape == (CLASSES, DIM)
    assert not torch.equal(a["W"], b["W"])
    assert torch.equal(a["W"], learner(made(name)).init(0)["loss"]["W"])


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="triplet: mining is 'hard', expected 'all' or 'semihard'"):
        O.triplet(mining="hard")
    with pytest.raises(ValueError, match="sphereface: margin=0, expected a whole number, at least 1"):
        made("sphereface", margin=0)
    with pytest.raises(ValueError, match=r"sphereface: anneal=\(1, 0, -2\), expected lambda_0, gamma and"):
        made("sphereface", anneal=(1, 0, -2))


def angular(name: str) -> Case:
    return Case(margin(*features, ways=WAYS, loss=getattr(O, name)(classes=WAYS, dim=6)), known_blobs)


def mined(mining: str) -> Case:
    by_the_data = dict.fromkeys(("compiles_whole_and_once", READS), "which triplets are mined depends on the data")
    return Case(margin(*features, ways=WAYS, loss=O.triplet(mining=mining)), blobs, by_the_data)


CASES = {
    **{f"margin-{name}": partial(angular, name) for name in ANGULAR},
    **{f"margin-triplet-{mining}": partial(mined, mining) for mining in ("all", "semihard")},
}

BUGS = [
    Bug("a foreign loss is steep at zero", "objectives/mined.py", ("if func is not F.normalize:", "if True:"),
        "test_a_loss_of_pytorch_metric_learning_has_no_steep_slope_at_zero_and_its_own_elsewhere"),
    Bug("the farthest example decides", "learners/margin.py",
        ("torch.where(member.mT, cosine[:, None], -torch.inf).amax(-1)",
        "torch.where(member.mT, cosine[:, None], torch.inf).amin(-1)"), "test_the_nearest_example_decides"),
    Bug("support embeddings stay off the sphere", "learners/margin.py",
        ('z = unit(embed(theta["net"], S.x))', 'z = embed(theta["net"], S.x)'),
        "test_the_nearest_example_decides"),
    Bug("the metric is trained on queries alone", "learners/margin.py",
        ("Data(*(torch.cat(part) for part in zip(*task, strict=True)))", "task.query"), "test_loss_and_gradient"),
    Bug("the margin is asked of every class", "objectives/embedding.py",
        ("torch.where(membership(y, classes), target(params, c.gather(-1, y[:, None])), c)", "target(params, c)"),
        "test_loss_and_gradient"),
    Bug("sphereface's cosine is not drawn out", "objectives/embedding.py",
        ("* cos_mt - 2 * k", "* cos_mt"), "test_the_margin_of_sphereface_draws_the_cosine_out"),
    Bug("sphereface starts where it should end", "objectives/embedding.py",
        ("max(least, first", "min(least, first"), "test_the_annealing_of_sphereface"),
    Bug("sphereface forgets the length of embeddings", "objectives/embedding.py",
        ("(length(z) if scale is None else scale)", "(scale or 16.0)"), "test_loss_and_gradient"),
    Bug("arcface turns back past pi", "objectives/embedding.py",
        ("c - margin * sin(margin))", "c * cos(margin) - sine * sin(margin))"),
        "test_it_is_the_loss_of_pytorch_metric_learning"),
    Bug("arcface divides by zero", "objectives/embedding.py",
        (".clamp_min(torch.finfo(c.dtype).eps)", ".clamp_min(0)"),
        "test_gradients_are_finite_where_an_embedding_meets_its_class"),
    Bug("triplets are measured off the square", "objectives/mined.py",
        ("p=2, power=2", "p=2, power=1"), "test_triplets"),
    Bug("what is mined is not used", "objectives/mined.py", ("(z, y, *mined)", "(z, y)"), "test_triplets"),
    Bug("in a batch every task has the first one's loss", "objectives/mined.py",
        ("t.select(axis, i)", "t.select(axis, 0)"), law("many_tasks_are_each_task", "margin-triplet-semihard")),
    Bug("the upstream gradient is dropped", "objectives/mined.py",
        ("else g * saved for", "else 1 * saved for"), "test_any_loss_of_pytorch_metric_learning_in_a_batch_of_tasks"),
    Bug("the second derivative is silently zero", "objectives/mined.py",
        ("ctx.set_materialize_grads(False)", "ctx.mark_non_differentiable(*output[1:])"),
        "test_a_loss_of_pytorch_metric_learning_has_no_second_derivative_and_says_so"),
    Bug("the loss hands NaN on", "objectives/mined.py",
        ("if _finite(at) and not _finite([value, *grads]):", "if False:"),
        "test_a_loss_of_pytorch_metric_learning_hands_no_nan_on"),
    Bug("the lambda of whole numbers is one", "objectives/embedding.py",
        ("map(float, anneal)", "anneal"), "test_sphereface_without_annealing"),
    Bug("an embedding of zero has a direction", "nn/unit.py",
        ("amax(-1, keepdim=True) <= SHORTEST", "amax(-1, keepdim=True) < 0"),
        "test_an_embedding_of_zero_has_a_loss_and_no_steep_slope[cosface]"),
    Bug("weights are drawn once for all seeds", "objectives/mined.py",
        ("torch.manual_seed(seed)", "torch.manual_seed(0)"),
        "test_any_loss_of_pytorch_metric_learning_in_a_batch_of_tasks"),
]  # fmt: skip
