"""MAML and what has been made of it, restated with loops and torch.autograd."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug, law
from torch.testing import assert_close
from zoo import DERIVATIVE, WAYS, Smooth, batched, blobs, image_net, one, pictures, waived, waves

from metaloop import Data, Task, functional, maml, meta_gradient
from metaloop.nn import POLICIES, adam, mlp, powersign, sign_decay
from metaloop.testing import Case
from metaloop.torch_private import pytree

net, init = functional(Smooth())
LR = 0.4


@pytest.fixture
def theta():
    return {n: p.double().requires_grad_() for n, p in init(0).items()}


@pytest.fixture
def task():
    return one(blobs(1, 0))


def descend(theta, S: Data, steps: int, *, rate=lambda k, name: LR, moved=None, create_graph=True):
    """phi_1 .. phi_steps."""
    phi, path = dict(theta), []
    for k in range(steps):
        names = [n for n in phi if moved is None or n in moved]
        gradient = torch.autograd.grad(
            F.cross_entropy(net(phi, S.x), S.y), [phi[n] for n in names], create_graph=create_graph
        )
        phi = {**phi, **{n: phi[n] - rate(k, n) * g for n, g in zip(names, gradient, strict=True)}}
        path.append(phi)
    return path


def gradient(loss, theta):
    return dict(zip(theta, torch.autograd.grad(loss, theta.values(), allow_unused=True), strict=True))


def of(learner, theta, task):
    """The library's meta-gradient and loss on this one task."""
    return meta_gradient(learner)(pytree.tree_map(torch.detach, theta), batched(task))


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_f_is_the_network_after_the_steps(theta, task, steps):
    f = maml(net, init, inner_lr=LR, inner_steps=steps).adapt(theta, task.support)
    phi = (descend(theta, task.support, steps) or [theta])[-1]
    assert_close(f(task.query.x), net(phi, task.query.x))


def test_the_meta_gradient_goes_through_every_step(theta, task):
    grads, loss, info = of(maml(net, init, inner_lr=LR, inner_steps=3), theta, task)
    phi = descend(theta, task.support, 3)[-1]
    scores = net(phi, task.query.x)
    assert_close(loss, F.cross_entropy(scores, task.query.y))
    assert_close(grads, gradient(loss=F.cross_entropy(scores, task.query.y), theta=theta))
    right = [float(s.argmax() == y) for s, y in zip(scores, task.query.y, strict=True)]
    assert_close(info["accuracy"].item(), sum(right) / len(right))


def test_first_order_is_the_gradient_at_phi(theta, task):
    grads, *_ = of(maml(net, init, inner_lr=LR, inner_steps=3, first_order=True), theta, task)
    phi = {n: p.detach().requires_grad_() for n, p in descend(theta, task.support, 3)[-1].items()}
    assert_close(grads, gradient(F.cross_entropy(net(phi, task.query.x), task.query.y), phi))


def test_both_orders_on_paper():
    """f(x) = w x, S = Q = {(1, 0)}: phi = (1 - 2a) w, dL/dw = 2 w (1 - 2a)^2 or, first order, 2 w (1 - 2a)."""
    w, a = torch.tensor([3.0]), 0.1
    example = Data(torch.ones(1, 1), torch.zeros(1, 1))
    for first_order, want in ((False, 2 * 3 * 0.8**2), (True, 2 * 3 * 0.8)):
        line = maml(
            lambda theta, x: theta["w"] * x, lambda seed: {"w": w},
            inner_lr=a, first_order=first_order, loss=F.mse_loss,
        )  # fmt: skip
        grads, loss, info = of(line, {"w": w}, Task(example, example))
        assert_close(grads["w"], torch.tensor([want]))
        assert_close(loss, torch.tensor((3 * 0.8) ** 2))
        assert info == {}


def test_the_loss_is_of_the_queries(theta, task):
    wrong = task._replace(query=task.query._replace(y=(task.query.y + 1) % WAYS))
    learner = maml(net, init, inner_lr=LR)
    assert_close(learner.adapt(theta, wrong.support)(task.query.x), learner.adapt(theta, task.support)(task.query.x))
    assert of(learner, theta, wrong)[1] > of(learner, theta, task)[1]


@pytest.mark.parametrize("adapts", ["head", lambda name: name in ("head.weight", "head.bias")])
def test_anil_moves_the_head_and_learns_the_body(theta, task, adapts):
    learner = maml(net, init, inner_lr=LR, inner_steps=2, adapts=adapts)
    moved = ("head.weight", "head.bias")
    phi = descend(theta, task.support, 2, moved=moved)[-1]
    f = learner.adapt(theta, task.support)
    assert {n for n in theta if not torch.equal(f.phi[n], theta[n])} == set(moved)
    assert_close(f.phi, phi)
    want = gradient(F.cross_entropy(net(phi, task.query.x), task.query.y), theta)
    assert_close(of(learner, theta, task)[0], want)
    assert want["body.0.weight"].abs().max() > 0


def test_boil_moves_the_body_and_learns_the_head(theta, task):
    learner = maml(net, init, inner_lr=LR, inner_steps=2, adapts="body")
    phi = descend(theta, task.support, 2, moved=[n for n in theta if "head" not in n])[-1]
    f = learner.adapt(theta, task.support)
    assert {n for n in theta if torch.equal(f.phi[n], theta[n])} == {"head.weight", "head.bias"}
    assert_close(f.phi, phi)
    want = gradient(F.cross_entropy(net(phi, task.query.x), task.query.y), theta)
    assert_close(of(learner, theta, task)[0], want)
    assert want["head.weight"].abs().max() > 0


def rates_of(learner):
    """theta with rates spread out, so that each one counts."""
    theta, g = learner.init(0), torch.Generator().manual_seed(1)
    initial = {n: a.clone() for n, a in theta["inner_lr"].items()}
    spread = {n: a.double() * (0.5 + torch.rand(a.shape, generator=g)) for n, a in theta["inner_lr"].items()}
    params = {n: p.double().requires_grad_() for n, p in theta["net"].items()}
    return initial, {"net": params, "inner_lr": {n: a.requires_grad_() for n, a in spread.items()}}


def test_meta_sgd_learns_a_rate_for_each_parameter(task):
    learner = maml(net, init, inner_lr=LR, inner_steps=2, learn_lr="parameter")
    initial, theta = rates_of(learner)
    assert_close(initial, {n: torch.full_like(p, LR) for n, p in init(0).items()})
    phi = descend(theta["net"], task.support, 2, rate=lambda k, n: theta["inner_lr"][n])[-1]
    loss = F.cross_entropy(net(phi, task.query.x), task.query.y)
    grads, got, _ = of(learner, theta, task)
    assert_close(got, loss.detach())
    for part, values in theta.items():
        want = torch.autograd.grad(loss, list(values.values()), retain_graph=True)
        assert_close(list(grads[part].values()), list(want))
    assert all(g.abs().max() > 0 for g in grads["inner_lr"].values())


def test_maml_plus_plus_learns_a_rate_for_each_tensor_and_step_and_scores_every_step(task):
    weights = (0.2, 0.3, 0.5)
    learner = maml(net, init, inner_lr=LR, inner_steps=3, learn_lr="layer-step", step_weights=weights)
    initial, theta = rates_of(learner)
    assert_close(initial, {n: torch.full((3,), LR) for n in init(0)})
    path = descend(theta["net"], task.support, 3, rate=lambda k, n: theta["inner_lr"][n][k])
    losses = [F.cross_entropy(net(phi, task.query.x), task.query.y) for phi in path]
    loss = 0.2 * losses[0] + 0.3 * losses[1] + 0.5 * losses[2]
    grads, got, info = of(learner, theta, task)
    assert_close(got, loss.detach())
    assert_close(info["accuracy"], (net(path[-1], task.query.x).argmax(1) == task.query.y).double().mean())
    for part, values in theta.items():
        want = torch.autograd.grad(loss, list(values.values()), retain_graph=True)
        assert_close(list(grads[part].values()), list(want))
    assert all((g != 0).all() for g in grads["inner_lr"].values())
    assert_close(learner.adapt(theta, task.support).phi, path[-1])


def test_learned_rates_of_a_head_alone(task):
    learner = maml(net, init, inner_lr=LR, adapts="head", learn_lr="parameter")
    assert set(learner.init(0)["inner_lr"]) == {"head.weight", "head.bias"}
    initial, theta = rates_of(learner)
    phi = descend(theta["net"], task.support, 1, rate=lambda k, n: theta["inner_lr"][n], moved=initial)[-1]
    assert_close(learner.adapt(theta, task.support).phi, phi)


def test_inner_adam_is_adam(theta, task):
    learner = maml(net, init, inner_lr=0.05, inner_steps=4, optimizer=adam())
    phi = {n: p.detach().clone().requires_grad_() for n, p in theta.items()}
    optimizer = torch.optim.Adam(phi.values(), lr=0.05)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(net(phi, task.support.x), task.support.y).backward()
        optimizer.step()
    assert_close(learner.adapt(theta, task.support).phi, phi, check_stride=False)


def test_regression_on_the_mean_squared_error():
    line, start = functional(mlp((1, 8, 1)))
    task, theta = one(waves(1, 0)), {n: p.double() for n, p in start(0).items()}
    f = maml(line, start, inner_lr=0.1, loss=F.mse_loss).adapt(theta, task.support)
    phi = {n: p.clone().requires_grad_() for n, p in theta.items()}
    errors = [line(phi, x[None])[0] - y for x, y in zip(*task.support, strict=True)]
    slopes = torch.autograd.grad(sum(e.pow(2).sum() for e in errors) / len(errors), phi.values())
    want = {n: p - 0.1 * g for (n, p), g in zip(theta.items(), slopes, strict=True)}
    assert_close(f(task.query.x), line(want, task.query.x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learn_lr": "tensor"}, "learn_lr is 'tensor'"),
        ({"inner_steps": 3, "step_weights": (0.5, 0.5)}, "2 step_weights for inner_steps=3"),
        ({"adapts": "tail"}, "adapts='tail' names no parameter. There are: body.0.weight"),
    ],
)
def test_bad_options_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        maml(net, init, **{"inner_lr": LR, **wrong}).init(0)


def test_the_last_learned_rate_serves_further_steps():
    """MAML++ with more inner steps at meta-test than it has rates for."""
    learner = maml(net, init, inner_lr=0.1, inner_steps=2, learn_lr="layer-step")
    longer = maml(net, init, inner_lr=0.1, inner_steps=4, learn_lr="layer-step")
    start, S = pytree.tree_map(torch.Tensor.double, learner.init(0)), one(blobs(1, 0), 0).support
    spelled = {n: torch.cat([a, a[-1:], a[-1:]]) for n, a in start["inner_lr"].items()}
    assert_close(longer.adapt(start, S).phi, longer.adapt({**start, "inner_lr": spelled}, S).phi)


CURVE = functional(mlp((1, 16, 16, 1)))


def images(policy: str, blocks: int = 4) -> Case:
    net = functional(image_net(policy, blocks=blocks, out=WAYS))
    return Case(maml(*net, inner_lr=0.5), pictures, waived(policy))


CASES = {
    "maml": lambda: Case(maml(net, init, inner_lr=0.5), blobs),
    "maml-3-steps": lambda: Case(maml(net, init, inner_lr=0.3, inner_steps=3), blobs),
    "fomaml": lambda: Case(
        maml(net, init, inner_lr=0.3, inner_steps=2, first_order=True), blobs,
        {DERIVATIVE: "inner gradients are held constant"},
    ),
    "anil": lambda: Case(maml(net, init, inner_lr=0.5, inner_steps=2, adapts="head"), blobs),
    "meta-sgd": lambda: Case(maml(net, init, inner_lr=0.3, learn_lr="parameter"), blobs),
    "maml++": lambda: Case(
        maml(net, init, inner_lr=0.3, inner_steps=2, learn_lr="layer-step", step_weights=(0.3, 0.7)), blobs
    ),
    "maml-adam": lambda: Case(maml(net, init, inner_lr=0.05, inner_steps=3, optimizer=adam()), blobs),
    "maml-powersign": lambda: Case(
        maml(net, init, inner_lr=0.1, inner_steps=2, optimizer=powersign(decay=sign_decay("cosine", 4))), blobs
    ),
    "maml-regression": lambda: Case(maml(*CURVE, inner_lr=0.05, inner_steps=2, loss=F.mse_loss), waves),
    **{f"maml-conv4-{policy}": partial(images, policy) for policy in POLICIES},
}  # fmt: skip

BUGS = [
    Bug("maml loses its second order", "nn/unroll.py",
        ("if first_order:\n            with", "if True:\n            with"),
        law("meta_gradient_is_the_derivative", "maml")),
    Bug("first-order maml is of second order", "nn/unroll.py",
        ("if first_order:\n            with", "if False:\n            with"),
        "test_first_order_is_the_gradient_at_phi"),
    Bug("first-order maml keeps its waiver without need", "nn/unroll.py",
        ("if first_order:\n            with", "if False:\n            with"),
        law("meta_gradient_is_the_derivative", "fomaml")),
    Bug("maml takes one step too few", "learners/maml.py",
        ("steps=inner_steps, optimizer", "steps=max(1, inner_steps - 1), optimizer"),
        "test_f_is_the_network_after_the_steps"),
    Bug("maml starts every step from theta", "nn/unroll.py",
        ("now = (state, given) if every", "now = (start, given) if every"), "test_f_is_the_network_after_the_steps"),
    Bug("maml sums its inner loss", "learners/maml.py",
        ("return loss(net({**rest, **fast}, S.x), S.y)", "return loss(net({**rest, **fast}, S.x), S.y) * len(S.y)"),
        "test_f_is_the_network_after_the_steps"),
    Bug("maml moves theta in place", "nn/unroll.py",
        ("        if proximal:\n            g = {n", "        phi[n0 := next(iter(phi))].sub_(g[n0])\n"
        "        if proximal:\n            g = {n"), law("adapt_is_pure", "maml")),
    Bug("anil moves the body too", "learners/maml.py",
        ("learned(phi, net).items() if moves(n)}", "learned(phi, net).items()}"),
        "test_anil_moves_the_head_and_learns_the_body"),
    Bug("boil's head is held constant in the meta-gradient", "learners/maml.py",
        ("rest = {n: p for n, p in phi.items()", "rest = {n: p.detach() for n, p in phi.items()"),
        "test_boil_moves_the_body_and_learns_the_head"),
    Bug("meta-sgd does not learn its rates", "learners/maml.py",
        ('(theta["net"], theta["inner_lr"]) if', '(theta["net"], inner_lr) if'),
        "test_meta_sgd_learns_a_rate_for_each_parameter"),
    Bug("maml++ has one rate for all steps", "learners/maml.py",
        ("{n: a[min(k, len(a) - 1)] for", "{n: a[0] for"),
        "test_maml_plus_plus_learns_a_rate_for_each_tensor_and_step_and_scores_every_step"),
    Bug("maml++ weighs its steps alike", "learners/maml.py",
        ("[w * loss(", "[loss("), "test_maml_plus_plus_learns_a_rate_for_each_tensor_and_step_and_scores_every_step"),
    Bug("maml++ logs the accuracy of its first step", "learners/maml.py",
        ("scalars(each[-1]", "scalars(each[0]"),
        "test_maml_plus_plus_learns_a_rate_for_each_tensor_and_step_and_scores_every_step"),
    Bug("maml's queries have norms of their own", "learners/maml.py",
        ("query_net, phi = condition(net, phi, S.x)", "query_net = net"),
        law("queries_do_not_see_each_other", "maml-conv4-support")),
    Bug("the objective adapts to the queries", "objectives/query.py",
        ("adapt(theta, task.support)", "adapt(theta, task.query)"), "test_the_meta_gradient_goes_through_every_step"),
]  # fmt: skip
