"""How the meta-gradient is taken: through inner optimizers that meet zero gradients, from checkpoints, truncated,
implicitly, by evolution, within a memory budget. Each beside the same thing written out."""

import math
import mmap
from collections import Counter
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug
from torch import nn
from torch.func import grad, jacrev, vmap
from torch.testing import assert_close
from zoo import WAYS, ZOO, Smooth, batched, blobs, one

from metaloop import Data, Learner, Task, fit, functional, maml, meta_gradient, tasks
from metaloop.engine.batch import chunks
from metaloop.engine.memory import SPARE, in_bytes, in_use, peak
from metaloop.nn import adam, conv4, mlp, rmsprop, sgd, unroll
from metaloop.nn.unroll import Route, backward, conjugate_gradients
from metaloop.torch_private import pytree

net, init = functional(Smooth())
LR = 0.4


@pytest.fixture
def theta():
    return {n: p.double() for n, p in init(0).items()}


@pytest.fixture
def task():
    return one(blobs(1, 0))


def slope(loss, phi, create_graph=True):
    return dict(zip(phi, torch.autograd.grad(loss, list(phi.values()), create_graph=create_graph), strict=True))


def require(theta):
    return {n: p.detach().clone().requires_grad_() for n, p in theta.items()}


def detach(theta):
    return {n: p.detach() for n, p in theta.items()}


# Inner optimizers where gradients are zero

OPTIMIZERS = {
    "sgd": sgd(), "momentum": sgd(momentum=0.9), "adam": adam(), "adam-beta1-0": adam(beta1=0.0),
    "adamw": adam(weight_decay=0.1), "rmsprop": rmsprop(), "rmsprop-momentum": rmsprop(momentum=0.9),
}  # fmt: skip
SEEDS = 200
line = functional(mlp((1, 6, 1)))


def dead(seed: int, dtype=torch.float32):
    """Half of the hidden units never fire, on any input: their weights have a gradient of exactly zero."""
    g = torch.Generator().manual_seed(seed)
    theta = {n: torch.randn(p.shape, generator=g, dtype=dtype) for n, p in line[1](0).items()}
    theta["body.1.bias"][:3] = -100.0
    x, y = (torch.randn(5, 1, generator=g, dtype=dtype) for _ in range(2))
    return theta, Task(Data(x, y), Data(x + 1, y))


def solved(seed: int, dtype=torch.float32):
    """The support set is fitted from the start: every gradient of the first step is exactly zero."""
    theta, (support, query) = dead(seed, dtype)
    return theta, Task(support._replace(y=line[0](theta, support.x)), query)


@pytest.mark.parametrize("deal", [dead, solved])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_meta_gradients_are_finite_where_inner_gradients_are_zero(name, deal):
    learner = maml(*line, inner_lr=0.01, inner_steps=3, optimizer=OPTIMIZERS[name], loss=F.mse_loss)
    many = [deal(seed) for seed in range(SEEDS)]
    inner = vmap(grad(lambda theta, S: F.mse_loss(line[0](theta, S.x), S.y)))
    thetas, all_tasks = pytree.tree_map(lambda *t: torch.stack(t), *many)
    zero = inner(thetas, all_tasks.support)["body.1.weight"][:, :3]
    assert (zero == 0).all()
    gradient = vmap(grad(lambda theta, task: learner.objective(learner.adapt, theta, task)[0]))
    for n, g in gradient(thetas, all_tasks).items():
        assert g.isfinite().all(), f"{n}: {(~g.flatten(1).isfinite().all(1)).sum()} of {SEEDS} seeds"


STEADY = ("sgd", "momentum")


@pytest.mark.parametrize(
    ("name", "deal"), [*((name, dead) for name in OPTIMIZERS), *((name, solved) for name in STEADY)]
)
def test_and_are_the_derivative(name, deal):
    learner = maml(*line, inner_lr=0.01, inner_steps=1, optimizer=OPTIMIZERS[name], loss=F.mse_loss)
    for seed in range(3):
        theta, task = deal(seed, torch.float64)
        loss = lambda theta, task=task: learner.objective(learner.adapt, theta, task)[0].item()
        g = grad(lambda theta, task=task: learner.objective(learner.adapt, theta, task)[0])(theta)
        v = {n: torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).double() for n, p in theta.items()}
        said, found = sum((g[n] * v[n]).sum().item() for n in g), []
        for h in (1e-6, 1e-8):
            up, down = ({n: p + sign * h * v[n] for n, p in theta.items()} for sign in (1, -1))
            found.append((loss(up) - loss(down)) / (2 * h))
        assert any(math.isclose(said, f, rel_tol=2e-3, abs_tol=1e-6) for f in found), (said, found)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in STEADY])
def test_steps_of_methods_that_scale_are_constant_where_every_gradient_is_zero(name):
    """Their slope there is 1 / eps, on a stretch of eps: exact, of no use, and it would drown all other tasks."""
    for seed in range(3):
        theta, task = solved(seed, torch.float64)
        # adamw's decay gives the second step a gradient
        steps, kept = (1, 1 - 0.01 * 0.1) if name == "adamw" else (3, 1.0)
        learner = maml(*line, inner_lr=0.01, inner_steps=steps, optimizer=OPTIMIZERS[name], loss=F.mse_loss)
        got = grad(lambda theta: learner.objective(learner.adapt, theta, task)[0])(theta)  # noqa: B023
        phi = learner.adapt(theta, task.support).phi
        assert_close(phi, {n: kept * p for n, p in theta.items()})
        want = grad(lambda phi: F.mse_loss(line[0](phi, task.query.x), task.query.y))(phi)  # noqa: B023
        assert_close(got, {n: kept * g for n, g in want.items()})


# Inner steps computed again

WITH_STEPS = [
    "maml", "maml-3-steps", "fomaml", "anil", "meta-sgd", "maml++", "maml-adam", "maml-regression",
    *(f"maml-conv4-{policy}" for policy in ("transductive", "support", "running", "group", "layer", "instance")),
]  # fmt: skip


@pytest.mark.parametrize("name", WITH_STEPS)
@pytest.mark.parametrize("n", [1, 3])
def test_checkpoints_change_nothing(name, n):
    case = ZOO[name]
    theta, batch = case.theta(), case.batch(n)
    want = meta_gradient(case.learner)(theta, batch)
    assert_close(meta_gradient(case.learner, recompute=True)(theta, batch), want, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 23])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_checkpoints_change_nothing_at_any_number_of_steps(theta, steps, optimizer):
    learner = maml(net, init, inner_lr=0.1, inner_steps=steps, optimizer=OPTIMIZERS[optimizer])
    batch = ZOO["maml"].batch(2)
    want = meta_gradient(learner)(theta, batch)
    assert_close(meta_gradient(learner, recompute=True)(theta, batch), want, rtol=1e-10, atol=1e-13)


def test_checkpoints_keep_few_states_and_compute_no_step_more_than_four_times():
    """Of 64 states 7 are kept; beside them are what a step makes and the gradient. Kept at once, they would be 128."""
    calls = Counter()

    def step(k, s, given):
        calls[k] += 1
        return (s * given).sin()

    x = torch.ones(10_000)
    with backward(Route(recompute=True)):
        most = peak(grad(lambda x: unroll(step, x, torch.tensor(0.9), 64)[-1].sum()), x)
    assert 2 <= max(calls.values()) <= 4
    assert len(calls) == 64
    assert most < 14 * x.nbytes


@pytest.mark.parametrize("steps", [4, 12])
def test_a_step_that_is_computed_again_meets_the_same_noise(steps):
    noisy, start = functional(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, WAYS)))
    learner, batch = maml(noisy, start, inner_lr=0.3, inner_steps=steps), ZOO["maml"].batch(3)
    theta = {n: p.double() for n, p in start(0).items()}
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        results.append((meta_gradient(learner, recompute=recompute)(theta, batch), torch.rand(1)))
    assert_close(*results, rtol=1e-10, atol=1e-13)


def pictures_to_adapt_to(steps: int, n: int = 1, **options):
    """The work of a meta-gradient on images, whose inner steps hold far more than their parameters."""
    image_net, image_init = functional(conv4((1, 16, 16), width=4, out=WAYS))
    learner = maml(image_net, image_init, inner_lr=0.1, inner_steps=steps, proximal=options.pop("proximal", 0.0))
    return meta_gradient(learner, chunk=n, **options), image_init(0), ZOO["maml-conv4-transductive"].tasks(n, 0)


def held(steps: int, **options) -> int:
    work, theta, batch = pictures_to_adapt_to(steps, **options)
    work(theta, batch)
    return peak(work, theta, batch)


def test_memory_is_flat_in_the_number_of_inner_steps():
    once = held(1)
    assert held(16) > 5 * once
    assert held(16, recompute=True) < 1.5 * once
    assert held(16, method="truncated") < 1.5 * once
    assert held(16, method="implicit", proximal=2.0) < 1.2 * once


# Truncated


def in_windows(theta, S: Data, steps: int, horizon: int):
    """phi_1 .. phi_steps; the state is cut `horizon` steps before the end, and as far before that, and so on."""
    phi, path = dict(theta), []
    for k in range(steps):
        if k and (steps - k) % horizon == 0:
            phi = {n: theta[n] + (phi[n] - theta[n]).detach() for n in phi}
        g = slope(F.cross_entropy(net(phi, S.x), S.y), phi)
        phi = {n: phi[n] - LR * g[n] for n in phi}
        path.append(phi)
    return path


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("horizon", [1, 2, 3, 5, 9])
def test_truncated_is_a_loop_that_cuts(theta, task, horizon, recompute):
    learner, leaves = maml(net, init, inner_lr=LR, inner_steps=5), require(theta)
    phi = in_windows(leaves, task.support, 5, horizon)[-1]
    want = slope(F.cross_entropy(net(phi, task.query.x), task.query.y), leaves)
    options = {"method": "truncated", "horizon": horizon, "recompute": recompute}
    for batch in (batched(task), pytree.tree_map(lambda t: torch.stack([t, t]), task)):
        assert_close(meta_gradient(learner, **options)(theta, batch)[0], detach(want))
    exact = meta_gradient(learner)(theta, batched(task))[0]
    assert torch.allclose(exact["head.weight"], want["head.weight"]) == (horizon >= 5)


def test_truncated_scores_every_window(theta, task):
    weights, leaves = (0.1, 0.2, 0.3, 0.4), require(theta)
    learner = maml(net, init, inner_lr=LR, inner_steps=4, step_weights=weights)
    path = in_windows(leaves, task.support, 4, 3)
    losses = [w * F.cross_entropy(net(phi, task.query.x), task.query.y) for w, phi in zip(weights, path, strict=True)]
    got = meta_gradient(learner, method="truncated", horizon=3)(theta, batched(task))[0]
    assert_close(got, detach(slope(sum(losses), leaves)))


def test_what_a_step_is_given_has_a_gradient_from_the_last_window_alone():
    """s' = s + c, three times, from s_0: d s_3 / d s_0 = 1, and d s_3 / d c counts the steps of the window."""
    last = lambda s, c: unroll(lambda k, s, c: s + c, s, c, 3)[-1]
    for route, steps in ((Route(), 3), (Route(recompute=True), 3), (Route("truncated", horizon=2), 2)):
        with backward(route):
            assert grad(last, argnums=(0, 1))(torch.tensor(1.0), torch.tensor(2.0)) == (1, steps)
            assert last(torch.tensor(1.0), torch.tensor(2.0)) == 7


# Implicit

PULL = 1.0


def solver(**options) -> Learner:
    return maml(net, init, **{"inner_lr": 0.3, "inner_steps": 300, "proximal": PULL, **options})


def solution(theta, S: Data, moved):
    """The minimum of L(phi; S) + PULL / 2 |phi - theta|^2 over the moved entries, by Newton's method after a descent
    to its neighbourhood, and the Hessian of L there."""
    phi = {n: p.clone() for n, p in theta.items() if n in moved}

    def proximal_loss(flat):
        parts = dict(zip(phi, flat.split([p.numel() for p in phi.values()]), strict=True))
        parts = {n: p.view(theta[n].shape) for n, p in parts.items()}
        pull = sum((p - theta[n]).square().sum() for n, p in parts.items())
        return F.cross_entropy(net({**theta, **parts}, S.x), S.y) + PULL / 2 * pull

    flat = torch.cat([p.flatten() for p in phi.values()])
    for _ in range(100):
        flat = flat - 0.2 * grad(proximal_loss)(flat)
    for _ in range(4):
        flat = flat - torch.linalg.solve(jacrev(grad(proximal_loss))(flat), grad(proximal_loss)(flat))
    H = jacrev(grad(proximal_loss))(flat) - PULL * torch.eye(len(flat), dtype=flat.dtype)
    parts = dict(zip(phi, flat.split([p.numel() for p in phi.values()]), strict=True))
    return {n: p.view(theta[n].shape) for n, p in parts.items()}, H


def test_the_proximal_inner_problem_is_solved(theta, task):
    want, _ = solution(theta, task.support, set(theta))
    assert_close(solver().adapt(theta, task.support).phi, want, rtol=1e-8, atol=1e-8)


def test_implicit_is_the_direct_solve(theta, task):
    phi, H = solution(theta, task.support, set(theta))
    leaves = require(phi)
    v = slope(F.cross_entropy(net(leaves, task.query.x), task.query.y), leaves)
    v = torch.cat([g.detach().flatten() for g in v.values()])
    want = torch.linalg.solve(torch.eye(len(v), dtype=v.dtype) + H / PULL, v)
    got = meta_gradient(solver(), method="implicit", cg_steps=40)(theta, batched(task))[0]
    assert_close(torch.cat([got[n].flatten() for n in phi]), want, rtol=1e-7, atol=1e-9)
    first = meta_gradient(solver(), method="implicit", cg_steps=1)(theta, batched(task))[0]
    assert not torch.allclose(torch.cat([first[n].flatten() for n in phi]), want, rtol=1e-3)


@pytest.mark.parametrize("options", [{}, {"adapts": "head"}, {"optimizer": sgd(momentum=0.5), "inner_lr": 0.2}])
def test_implicit_is_the_exact_gradient_in_the_limit(theta, options):
    """Also for what is not moved but has a part in the inner problem (ANIL's body), and for several tasks at once."""
    batch = ZOO["maml"].batch(2)
    exact = meta_gradient(solver(**options), recompute=True)(theta, batch)
    implicit = meta_gradient(solver(**options), method="implicit", cg_steps=40)(theta, batch)
    assert_close(implicit, exact, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learn_lr": "parameter"}, "'implicit' gives inner rates no gradient"),
        ({"learn_lr": "layer-step"}, "'implicit' gives inner rates no gradient"),
        ({"first_order": True}, r"'implicit' takes no gradient through the steps\. Leave out first_order"),
    ],
)
def test_implicit_refuses_what_it_would_leave_idle(task, options, message):
    learner = solver(inner_steps=3, **options)
    theta = pytree.tree_map(torch.Tensor.double, learner.init(0))
    learner.adapt(theta, task.support)
    with pytest.raises(ValueError, match=message):
        meta_gradient(learner, method="implicit")(theta, batched(task))


def test_implicit_needs_a_pull_and_one_solution(theta, task):
    with pytest.raises(ValueError, match="'implicit' needs a pull to the start, e"):
        meta_gradient(maml(net, init, inner_lr=LR), method="implicit")(theta, batched(task))
    learner = maml(net, init, inner_lr=LR, proximal=1.0, step_weights=(1.0,))
    with pytest.raises(ValueError, match="the gradient of the last step alone"):
        meta_gradient(learner, method="implicit")(theta, batched(task))
    with backward(Route("implicit")), pytest.raises(ValueError, match=r"needs an inner loop made by metaloop\.nn\.d"):
        unroll(lambda k, s, given: s, torch.zeros(1), (), 1)


def test_conjugate_gradients_solve():
    g = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=g, dtype=torch.float64)
    A, b = root @ root.T + torch.eye(6), torch.randn(6, generator=g, dtype=torch.float64)
    (x,) = conjugate_gradients(lambda x: (A @ x[0],), (b,), steps=9)
    assert_close(x, torch.linalg.solve(A, b))
    assert not any(x.any() for x in conjugate_gradients(lambda x: (A @ x[0],), (b * 0,), steps=2))


# Evolution


def parabola(seed: int) -> tuple[Learner, dict, Task]:
    """L = c + a . theta + theta . B theta / 2 on each task, with its own a."""
    g = torch.Generator().manual_seed(seed)
    B, a = torch.randn(4, 4, generator=g, dtype=torch.float64), torch.randn(3, 4, generator=g, dtype=torch.float64)

    def objective(adapt, theta, task: Task):
        w = torch.cat([theta["u"], theta["v"]])
        loss = 3.0 + task.query.x @ w + w @ B @ w / 2
        return loss, {"twice": 2 * loss}

    theta = {"u": torch.ones(1, dtype=torch.float64), "v": torch.full((3,), -0.5, dtype=torch.float64)}
    return Learner(lambda seed: theta, lambda theta, S: None, objective), theta, Task(Data(a, a), Data(a, a))


@pytest.mark.parametrize("sigma", [0.1, 3.0])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_a_pair_has_the_slope_along_its_direction(sigma, chunk):
    """On parabolas the even terms cancel, so each pair gives e (e . gradient), however large sigma is."""
    learner, theta, batch = parabola(0)
    exact, loss, info = meta_gradient(learner)(theta, batch)
    torch.manual_seed(5)
    got = meta_gradient(learner, method="evolution", pairs=3, sigma=sigma, chunk=chunk)(theta, batch)
    torch.manual_seed(5)
    want = {n: torch.zeros_like(p) for n, p in theta.items()}
    for _ in range(3):
        e = {n: torch.randn_like(p) for n, p in theta.items()}
        along = sum((e[n] * exact[n]).sum() for n in e)
        want = {n: want[n] + e[n] * along / 3 for n in e}
    assert_close(got, (want, loss, info))


def test_evolution_is_unbiased():
    learner, theta, batch = parabola(1)
    exact, pairs = meta_gradient(learner)(theta, batch)[0], 2000
    torch.manual_seed(0)
    got = meta_gradient(learner, method="evolution", pairs=pairs)(theta, batch)[0]
    square = sum(g.square().sum() for g in exact.values())
    for n, g in exact.items():
        spread = ((square + g.square()) / pairs).sqrt()  # of the mean of e (e . g)
        assert ((got[n] - g).abs() < 4 * spread).all()
        assert (4 * spread < 0.2 * square.sqrt()).all()


def test_evolution_needs_no_inner_loop_and_leaves_alone_what_is_not_learned():
    case = ZOO["maml-conv4-running"]
    theta, batch = case.theta(), case.batch(2)
    grads = meta_gradient(case.learner, method="evolution", pairs=2)(theta, batch)[0]
    for n, g in grads.items():
        assert g.any() == ("running" not in n), n
    case = ZOO["protonet"]
    assert meta_gradient(case.learner, method="evolution", pairs=1)(case.theta(), case.batch(2))[1].isfinite()


# What does not go together


@pytest.mark.parametrize("method", ["truncated", "implicit"])
def test_a_method_of_inner_loops_needs_one(method):
    case = ZOO["protonet"]
    with pytest.raises(ValueError, match=f"method='{method}' is for learners with an inner loop"):
        meta_gradient(case.learner, method=method)(case.theta(), case.batch(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "exactly"}, "method is 'exactly', expected one of exact, truncated"),
        ({"method": "truncated", "horizon": 0}, "horizon=0.*expected at least 1"),
        ({"method": "evolution", "sigma": 0.0}, r"sigma=0\.0; .*above 0"),
        ({"method": "implicit", "compile": True}, "method='implicit' cannot be compiled"),
        ({"recompute": True, "compile": True}, "recompute=True cannot be compiled"),
        ({"recompute": True, "method": "evolution"}, "'evolution' keeps no inner steps"),
        ({"horizon": 2}, "horizon=2 changes nothing with method='exact', but for 'truncated'"),
        ({"method": "truncated", "cg_steps": 9}, "cg_steps=9 changes nothing with method='truncated'"),
        ({"pairs": 2}, "pairs=2 changes nothing with method='exact', but for 'evolution'"),
        ({"method": "implicit", "sigma": 0.2}, "sigma=0.2 changes nothing"),
        ({"memory": "much"}, "memory='much', expected a size such as '4GB'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        meta_gradient(ZOO["maml"].learner, **options)


def test_descent_needs_one_number_to_descend_on(task, theta):
    learner = maml(net, init, inner_lr=LR, loss=lambda scores, y: F.cross_entropy(scores, y, reduction="none"))
    with pytest.raises(ValueError, match=r"loss gives \(9,\) numbers, expected one"):
        learner.adapt(theta, task.support)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "truncated", "horizon": 2}, {"method": "implicit"}, {"method": "evolution", "pairs": 2},
        {"recompute": True}, {"memory": "64GB"},
    ],
    ids=lambda options: next(iter(options.values())),
)  # fmt: skip
def test_fit_takes_each(options):
    network = functional(mlp((2, 8, 3)))
    learner = maml(*network, inner_lr=0.1, inner_steps=3, proximal=1.0)
    training = {"steps": 2, "tasks": 2, "ways": 3, "shots": 2, "queries": 2, "progress": False, "device": "cpu"}
    run = fit(learner, tasks.gaussians(), **training, **options)
    start = learner.init(0)
    assert all(p.isfinite().all() and not torch.equal(p, start[n]) for n, p in run.theta.items())


@pytest.mark.parametrize("value", [False, True])
def test_recompute_may_be_called_by_its_old_name_for_a_release(theta, value):
    """It does what it did, says once in one line what to write instead, and is not taken beside the new name."""
    learner, batch = maml(net, init, inner_lr=LR, inner_steps=3), ZOO["maml"].batch(2)
    small = {"steps": 1, "tasks": 2, "ways": 3, "shots": 2, "queries": 2, "progress": False, "device": "cpu"}
    mine = maml(*functional(mlp((2, 8, 3))), inner_lr=0.1)
    for call in (partial(meta_gradient, learner), partial(fit, mine, tasks.gaussians(), **small)):
        name = call.func.__name__
        with pytest.warns(FutureWarning, match=f"^{name}: checkpoint= is now called recompute=; the old") as told:
            call(checkpoint=value)
        assert [warning.filename for warning in told] == [__file__]
        with pytest.raises(ValueError, match=f"^{name}: checkpoint= is now called recompute=, and both are given"):
            call(checkpoint=value, recompute=value)
    with pytest.warns(FutureWarning):
        old = meta_gradient(learner, checkpoint=value)
    assert_close(old(theta, batch), meta_gradient(learner, recompute=value)(theta, batch), rtol=0, atol=0)
    with pytest.warns(FutureWarning), pytest.raises(ValueError, match="recompute=True cannot be compiled"):
        meta_gradient(learner, checkpoint=True, compile=True)


# Within a budget


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("4 GiB", 4 * 2**30), ("512mb", 512 * 10**6), ("1.5K", 1500), (123, 123), ("7B", 7)],
)
def test_sizes_are_read(text, size):
    assert in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1GB", "4GBB", "G", "4XB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="expected a size such as"):
        in_bytes(text)


def test_the_peak_counts_what_lives_at_once():
    def work(x):
        a = x + 1  # 400 bytes
        b = torch.cat([a, a])  # 800
        del a
        return b[:3] + (b * 2).sum()  # 800, 4, 12

    x = torch.zeros(100)
    assert peak(work, x) == 800 + 800 + 4
    assert peak(lambda x: x[:50].view(5, 10), x) == 0


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_budget_bounds_the_chunks_and_changes_nothing(chunk, monkeypatch):
    """Tasks of some 100 kB within a budget for two or three: chunks of two."""
    work, theta, batch = pictures_to_adapt_to(2, 6)
    network = functional(conv4((1, 16, 16), width=4, out=WAYS))
    learner = maml(*network, inner_lr=0.1, inner_steps=2)
    some = [pytree.tree_map(lambda t: t[:n], batch) for n in (1, 2)]  # noqa: B023
    each = max(peak(meta_gradient(learner, chunk=2), theta, part) / n for n, part in zip((1, 2), some, strict=True))
    monkeypatch.setattr("metaloop.engine.memory.in_use", lambda device: 10**6)
    sizes = []

    def watched(tasks, size):
        sizes.append(size)
        return chunks(tasks, size)

    monkeypatch.setattr("metaloop.engine.batch.chunks", watched)
    budget = int(10**6 + 2.7 * SPARE * each)
    got = meta_gradient(learner, chunk=chunk, memory=budget)(theta, batch)
    assert sizes[-1] == 2
    assert_close(got, work(theta, batch))
    meta_gradient(learner, chunk=chunk, memory="1GB")(theta, batch)
    assert sizes[-1] == (chunk or 6)


def test_a_task_that_does_not_fit_is_said():
    work, theta, batch = pictures_to_adapt_to(2, 2, memory="1MB")
    with pytest.raises(ValueError, match=r"memory='1 MB': a task takes .* MB beside the .* in use\. Give it more"):
        work(theta, batch)


def test_measuring_draws_no_noise():
    noisy, start = functional(nn.Sequential(nn.Dropout(0.5), nn.Linear(4, WAYS)))
    learner, theta, batch = maml(noisy, start, inner_lr=0.1), start(0), ZOO["maml"].tasks(3, 0)
    after = []
    for memory in (None, "64GB"):
        torch.manual_seed(0)
        after.append(meta_gradient(learner, memory=memory)(theta, batch))
    assert_close(*after)


def test_this_process_holds_more_than_its_tensors():
    before = in_use(torch.device("cpu"))
    with mmap.mmap(-1, 2**26) as held:  # memory that nobody has had before
        held[:: mmap.PAGESIZE] = b"1" * (2**26 // mmap.PAGESIZE)
        assert in_use(torch.device("cpu")) >= before + 0.9 * 2**26 or not before


BUGS = [
    Bug("checkpoints keep every state", "nn/unroll.py",
        ("LEVELS = 3", "LEVELS = 1"), "test_checkpoints_keep_few_states_and_compute_no_step_more_than_four_times"),
]  # fmt: skip
