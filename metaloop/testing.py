"""Laws that every learner keeps, whatever its paper: check your own with `check(learner, tasks)`.

A learner is given as a `Case`: the learner, and a function that deals tasks. All is computed in float64, so take
small networks and small tasks; a law then takes a fraction of a second.

Three laws are about what no test of an algorithm sees: f's answers mean what `metaloop.predictor` says, every tensor of
theta learns or is estimated, scheduled or fixed, and nothing reads a tensor's values, for which a GPU would have to
wait.

A learner that breaks a law on purpose (first-order MAML's meta-gradient is no derivative) waives it by name and says
why. A waived law must be broken: a waiver that is no longer needed is reported like a broken law.

Where a law compares two ways to compute one thing, noise (torch.rand, torch.randn, dropout) is held still: a draw of
a size gives the same numbers every time, in every task. So a stochastic objective is judged like any other.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from inspect import getdoc
from math import isclose
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

from .core import Learner, Task, Theta
from .engine import meta_gradient
from .engine.batch import predict
from .engine.checkpoint import flatten
from .engine.methods import not_learned
from .engine.predictor import load, policies, save
from .engine.seeds import noise
from .engine.theta import drawn, fixed_leaves
from .targets import target_of
from .torch_private import TorchDispatchMode, pytree


@dataclass(frozen=True)
class Case:
    """A learner under test.

    tasks: (n, seed) -> n tasks on a leading axis, the same for the same seed; each with at least four queries.
    waived: law -> why this learner breaks it. device: where the laws are tried.
    """

    learner: Learner
    tasks: Callable[[int, int], Task]
    waived: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"

    def theta(self, seed: int = 0) -> Theta:
        return _double(drawn(self.learner, seed), self.device)

    def batch(self, n: int, seed: int = 0) -> Task:
        return _double(self.tasks(n, seed), self.device)

    def task(self, seed: int = 0) -> Task:
        return _each(self.batch(1, seed))[0]


def keeps_the_contract(case: Case) -> None:
    """f(x) answers once per example, loss and info are scalars, and the meta-gradient is shaped like theta."""
    learner, theta, task = case.learner, case.theta(), case.task()
    f = learner.adapt(theta, task.support)
    for x in (task.query.x, task.query.x[:2]):
        assert len(f(x)) == len(x), f"f gives {len(f(x))} answers to {len(x)} examples"
    loss, info = learner.objective(learner.adapt, theta, task)
    shapes = {"loss": loss.shape, **{n: v.shape for n, v in info.items()}}
    assert not any(shapes.values()), f"expected scalars: {shapes}"
    grads, *_ = meta_gradient(learner)(theta, case.batch(2))
    ours, theirs = flatten(grads, "theta"), flatten(theta, "theta")
    assert [(n, g.shape, g.dtype) for n, g in ours.items()] == [(n, p.shape, p.dtype) for n, p in theirs.items()]


def answers_mean_what_is_said(case: Case) -> None:
    """f answers what `metaloop.predictor` says: for classes, scores whose softmax is p(y | x); numbers for numbers.

    Scores are not probabilities themselves (answer their logarithm), and -inf only for classes that are not in S, also
    where S shows a single class. `probabilities(x)`, where f has it, is a distribution whose mode is a highest score.
    """
    theta, (S, Q) = case.theta(), case.task()
    if target_of(Q.y).numbers:
        answer = case.learner.adapt(theta, S)(Q.x)
        assert answer.shape == Q.y.shape, f"f answers {tuple(answer.shape)} to targets {tuple(Q.y.shape)}"
        assert answer.isfinite().all(), "f answers numbers that are not finite"
        return
    for y in (S.y, torch.zeros_like(S.y)):
        f = case.learner.adapt(theta, S._replace(y=y))
        scores, seen = f(Q.x), y.unique()
        assert int(seen.max()) < scores.shape[-1], f"f scores {scores.shape[-1]} classes, S has label {int(seen.max())}"
        assert not (scores.isnan() | (scores == torch.inf)).any(), "scores are NaN or infinite"
        assert scores[..., seen].isfinite().all(), "a class that is in S has the score -inf"
        if own := getattr(f, "probabilities", None):
            p = own(Q.x)
            assert p.shape == scores.shape, f"probabilities are {tuple(p.shape)}, scores {tuple(scores.shape)}"
            assert (p >= 0).all(), "probabilities are negative or NaN"
            assert_close(p.sum(-1), torch.ones_like(p[..., 0]), msg=_say("probabilities sum to one"))
            chosen = scores.gather(-1, p.argmax(-1, keepdim=True))[..., 0]
            assert_close(chosen, scores.amax(-1), msg=_say("the most probable class has the highest score"))
        elif scores.shape[-1] > 1:
            sums = scores.sum(-1)
            like = (scores >= 0).all() and torch.allclose(sums, torch.ones_like(sums))
            assert not like, "f answers probabilities, whose softmax is taken once more: answer their logarithm"


def many_tasks_are_each_task(case: Case) -> None:
    """What a batch of tasks gives (predictions, loss, info, meta-gradient) is what a loop over them gives."""
    learner, theta, tasks = case.learner, case.theta(), case.batch(3)
    fs = vmap(learner.adapt, in_dims=(None, 0), randomness="different")(theta, tasks.support)
    many = vmap(lambda f, x: f(x), randomness="different")(fs, tasks.query.x)
    each = [learner.adapt(theta, t.support)(t.query.x) for t in _each(tasks)]
    assert_close(many, torch.stack(each), msg=_say("predictions"))

    grads, loss, info = meta_gradient(learner)(theta, tasks)
    alone = [_loss_and_gradient(learner, theta, t) for t in _each(tasks)]
    mean = pytree.tree_map(lambda *values: torch.stack(values).mean(0), *alone)
    for what, got, want in zip(("loss", "info", "meta-gradient"), (loss, info, grads), mean, strict=True):
        assert_close(got, want, msg=_say(what))


def support_order_is_irrelevant(case: Case) -> None:
    """F sees a set: the support examples in another order give the same predictor."""
    theta, (S, Q) = case.theta(), case.task()
    order = torch.arange(len(S.x)).flip(0).roll(1)
    shuffled = S._replace(x=S.x[order], y=S.y[order])
    assert_close(case.learner.adapt(theta, shuffled)(Q.x), case.learner.adapt(theta, S)(Q.x))


def queries_do_not_see_each_other(case: Case) -> None:
    """f(x) of an example does not depend on the other examples in the batch."""
    theta, (S, Q) = case.theta(), case.task()
    f = case.learner.adapt(theta, S)
    half = len(Q.x) // 2
    assert_close(torch.cat([f(Q.x[:half]), f(Q.x[half:])]), f(Q.x))


def adapt_is_pure(case: Case) -> None:
    """adapt changes neither theta nor the support set, and answers the same twice; so does its predictor."""
    theta, (S, Q) = case.theta(), case.task()
    before = pytree.tree_map(torch.clone, (theta, S))
    f = case.learner.adapt(theta, S)
    once, twice = f(Q.x), f(Q.x)
    again = case.learner.adapt(theta, S)(Q.x)
    assert _equal((theta, S), before), "theta or the support set has changed"
    assert torch.equal(once, twice), "f answers differently the second time"
    assert torch.equal(once, again), "adapt answers differently the second time"


def meta_gradient_is_the_derivative(case: Case) -> None:
    """<gradient, v> = (L(theta + h v) - L(theta - h v)) / 2h, for a random v along each learned tensor of theta.

    Networks with ReLU and max-pooling have kinks, so it is enough that one of several small h agrees.
    """
    learner, theta, tasks = case.learner, case.theta(), case.batch(2, seed=1)
    grads, *_ = meta_gradient(learner)(theta, tasks)
    leaves, spec = pytree.tree_flatten(theta)

    def loss(i: int, leaf: Tensor) -> float:
        moved = pytree.tree_unflatten([*leaves[:i], leaf, *leaves[i + 1 :]], spec)
        return sum(learner.objective(learner.adapt, moved, t)[0].item() for t in _each(tasks)) / 2

    generator, fixed = torch.Generator().manual_seed(0), fixed_leaves(learner, theta)
    for i, (name, g) in enumerate(flatten(grads, "theta").items()):
        if fixed[i]:
            assert not g.any(), f"{name} is fixed, and has a gradient"
            continue
        v = torch.randn(g.shape, generator=generator, dtype=g.dtype).to(g.device)
        said, found = (g * v).sum().item(), []
        for h in (1e-6, 1e-7, 1e-8):
            found.append((loss(i, leaves[i] + h * v) - loss(i, leaves[i] - h * v)) / (2 * h))
            if isclose(said, found[-1], rel_tol=1e-5, abs_tol=1e-6):
                break
        else:
            raise AssertionError(f"along {name} the gradient says {said}, finite differences {found}")


def all_of_theta_learns(case: Case) -> None:
    """Every tensor of theta has a gradient in one of a few batches, or is estimated, scheduled or fixed instead.

    What `running` norms read at meta-test has no gradient: it is `Learner.statistics` that must name it. The places
    that theta holds for `support` norms, which take their statistics from S, are no part of what is learned.

    Any number but 0 counts as a gradient, rounding too: networks have biases that a norm or a difference takes out
    again, and a parameter of yours that cancels likewise is not found.
    """
    learner, theta = case.learner, case.theta()
    gradient, task = meta_gradient(learner), case.task()
    still, names = flatten(not_learned(learner, theta, task), "theta"), flatten(theta, "theta")
    unknown = min(still.keys() - names, default=None)
    assert unknown is None, f"statistics or scheduled give {unknown}, which theta does not hold"
    kept = policies(learner.adapt(theta, task.support)) & {"support", "running"} == {"support"}
    fixed = {n for n, held in zip(names, fixed_leaves(learner, theta), strict=True) if held}
    left = {n for n in names.keys() - still - fixed if not (kept and n.endswith(("running_mean", "running_var")))}
    for seed in range(3):
        grads, *_ = gradient(theta, case.batch(2, seed))
        left -= {n for n, g in flatten(grads, "theta").items() if g.any()}
        if not left:
            return
    raise AssertionError(f"{', '.join(sorted(left))} never has a gradient, and is neither in statistics nor scheduled")


def reads_no_values(case: Case) -> None:
    """adapt, f, the objective and the meta-gradient read no number back, and bring none from the host.

    No item(), bool(), nonzero() or indexing by a mask, and what is made is made where the data are: torch.arange(ways,
    device=y.device). It is tried on tensors without numbers (torch's device "meta"). So a GPU need not wait for Python,
    and a whole meta-step can be one CUDA graph.
    """
    case = replace(case, device="meta")
    learner, theta, tasks, (S, Q) = case.learner, case.theta(), case.batch(2), case.task()
    with _NoHost(), _NoLists():
        try:
            results = meta_gradient(learner)(theta, tasks), learner.adapt(theta, S)(Q.x)
        except TypeError as refused:  # what numpy() and tolist() of a tensor without numbers raise
            raise AssertionError(refused) from refused
    devices = {t.device.type for t in pytree.tree_leaves(results)}
    assert devices == {"meta"}, f"results lie on {', '.join(sorted(devices - {'meta'}))} instead of where the data are"


def chunks_change_nothing(case: Case) -> None:
    """How many tasks are held in memory at once does not change the meta-gradient."""
    theta, tasks = case.theta(), case.batch(5)
    assert_close(meta_gradient(case.learner, chunk=2)(theta, tasks), meta_gradient(case.learner)(theta, tasks))


def pooled_is_per_task(case: Case) -> None:
    """A learner that says it takes no gradient of its own has the same meta-gradient in either form.

    Where torch refuses the other form, F.one_hot is the usual reason: use `metaloop.nn.membership`.
    """
    theta, tasks = case.theta(), case.batch(3)
    per_task = replace(case.learner, differentiates=True)
    assert_close(meta_gradient(case.learner)(theta, tasks), meta_gradient(per_task)(theta, tasks))


def meta_training_helps(case: Case) -> None:
    """Forty steps of Adam on theta lower the query loss of f on unseen tasks, by a hundredth at least."""
    learner, theta, unseen = case.learner, case.theta(), case.batch(32, seed=999)
    leaves, gradient = pytree.tree_leaves(theta), meta_gradient(learner)
    optimizer = torch.optim.Adam(leaves, lr=0.02)
    with noise(0, "law", 0):  # the same in every process
        before = _query_loss(learner, theta, unseen)
        for seed in range(40):
            grads, *_ = gradient(theta, case.batch(8, seed))
            for leaf, g in zip(leaves, pytree.tree_leaves(grads), strict=True):
                leaf.grad = g
            optimizer.step()
        after = _query_loss(learner, theta, unseen)
    if after >= 0.99 * before:
        said = f"the query loss on unseen tasks went from {before:.4f} to {after:.4f}"
        scores = predict(learner, theta, unseen)
        if not target_of(unseen.query.y).numbers and torch.isclose(scores, scores[..., :1]).all():
            said += ": f answers the same for every class, whatever x"
        raise AssertionError(said)


def predictor_survives_saving(case: Case) -> None:
    """A predictor written to a file and read back, into the structure of another one, answers the same."""
    theta, (S, Q) = case.theta(), case.task()
    f, other = case.learner.adapt(theta, S), case.learner.adapt(case.theta(1), case.task(1).support)
    with TemporaryDirectory() as folder:
        save(Path(folder) / "f", f, {})
        again, _ = load(Path(folder) / "f", lambda about: other)
    assert torch.equal(again(Q.x), f(Q.x))


def compiles_whole_and_once(case: Case) -> None:
    """torch.compile takes the meta-step as one graph, once for all batches of a size, and changes nothing in it.

    The meta-gradient stays what it is to 1e-10 of its length.
    """
    learner, theta, graphs = case.learner, case.theta(), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    eager = meta_gradient(learner)
    compiled = torch.compile(eager, fullgraph=True, backend=backend)
    for seed in range(3):
        tasks = case.batch(3, seed)
        grads = compiled(theta, tasks)[0]
        ours, want = (torch.cat([t.flatten() for t in pytree.tree_leaves(g)]) for g in (grads, eager(theta, tasks)[0]))
        assert_close(ours, want, rtol=0, atol=1e-10 * want.norm().item(), msg=_say("the compiled meta-gradient"))
        theta = pytree.tree_map(lambda p, g: p - 0.01 * g, theta, grads)
    assert len(graphs) == 1, f"compiled {len(graphs)} times"


class _NoLists(TorchFunctionMode):
    """Forbids indexing by a list of numbers, which is a copy from the host; a meta tensor does without."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__getitem__:
            assert not isinstance(args[1], list), "indexed by a list"
        return func(*args, **(kwargs or {}))


class _NoHost(TorchDispatchMode):
    """Forbids copies between the host and the device; numbers of meta tensors cannot be read anyway."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        leaves = [t for t in pytree.tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        if "copy" in func.__name__:
            assert len({t.device.type for t in leaves}) == 1, f"{func} between host and device"
        return out


class _StillNoise(TorchFunctionMode):
    """Random numbers without chance: n of them are the multiples of the golden ratio, modulo 1, up to n."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.rand_like, torch.randn_like):
            return _numbers(args[0].shape, func is torch.randn_like).to(args[0])
        if func in (torch.rand, torch.randn):
            like = torch.empty(0, dtype=kwargs.get("dtype"), device=kwargs.get("device"))
            return _numbers(torch.Size(args if isinstance(args[0], int) else args[0]), func is torch.randn).to(like)
        return _dropout(*args, **kwargs) if func is F.dropout else func(*args, **kwargs)


def _numbers(size: torch.Size, normal: bool) -> Tensor:
    u = (torch.arange(1, size.numel() + 1, dtype=torch.float64) * 0.6180339887498949 % 1).view(size)
    return torch.special.ndtri(u) if normal else u


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    kept = _numbers(input.shape, False).to(input) >= p
    return input * kept / (1 - p) if training else input


# What `check` holds a learner to, by name.
LAWS: dict[str, Callable[[Case], None]] = {
    law.__name__: law
    for law in (
        keeps_the_contract, answers_mean_what_is_said, many_tasks_are_each_task, support_order_is_irrelevant,
        queries_do_not_see_each_other, adapt_is_pure, meta_gradient_is_the_derivative, all_of_theta_learns,
        reads_no_values, chunks_change_nothing, pooled_is_per_task, meta_training_helps, predictor_survives_saving,
        compiles_whole_and_once,
    )
}  # fmt: skip


# The laws that compare two ways to compute one thing, for which noise is held still.
STILL = (
    "answers_mean_what_is_said", "many_tasks_are_each_task", "meta_gradient_is_the_derivative",
    "chunks_change_nothing", "pooled_is_per_task", "compiles_whole_and_once",
)  # fmt: skip


def judge(law: str, case: Case) -> None:
    """Try one law on a case. Raises AssertionError if it is broken without a waiver, or waived without need; ValueError
    where the learner or its tasks are refused, which says all by itself."""
    try:
        with _StillNoise() if law in STILL else nullcontext():
            LAWS[law](case)
    except ValueError:
        raise
    except Exception as broken:
        if law not in case.waived or not isinstance(broken, (AssertionError, RuntimeError)):  # torch refuses by these
            what = broken if isinstance(broken, AssertionError) else f"{type(broken).__name__}: {broken}"
            raise AssertionError(f"{law}: {what}\n    The law: {getdoc(LAWS[law])}") from broken
    else:
        if law in case.waived:
            raise AssertionError(f"{law}: holds, though waived ({case.waived[law]!r}). Remove the waiver.")


def check(
    learner: Learner,
    tasks: Callable[[int, int], Task],
    *,
    waive: Mapping[str, str] | None = None,
    laws: Iterable[str] = tuple(LAWS),
) -> None:
    """Try the laws on a learner; tasks and waive are a Case's.

    Raises AssertionError with a paragraph for each law that is broken without a waiver, or waived without need;
    ValueError on a law that is not in `LAWS`, and where the learner or its tasks are refused.

    >>> import metaloop as ml
    >>> net, init = ml.functional(ml.nn.mlp((2, 16, 16)))
    >>> def tasks(n, seed):
    ...     return ml.tasks.gaussians().sample(n, ways=3, shots=2, queries=4, generator=torch.manual_seed(seed))
    >>> check(ml.protonet(net, init, ways=3), tasks, laws=["adapt_is_pure", "support_order_is_irrelevant"])
    """
    case, broken = Case(learner, tasks, waive or {}), []
    if unknown := ({*laws, *case.waived} - LAWS.keys()):
        raise ValueError(f"check: there is no law {min(unknown)!r}. There are: {', '.join(LAWS)}.")
    for law in laws:
        try:
            judge(law, case)
        except AssertionError as error:
            broken.append(str(error))
    if broken:
        raise AssertionError("\n\n".join(broken))


def _double(tree, device: str):
    return pytree.tree_map(lambda t: t.detach().to(device, torch.float64 if t.is_floating_point() else None), tree)


def _each(tasks: Task) -> list[Task]:
    return [pytree.tree_map(lambda t: t[i], tasks) for i in range(len(tasks.support.x))]  # noqa: B023


def _loss_and_gradient(learner: Learner, theta: Theta, task: Task):
    """One task by plain autograd: (loss, info, gradient)."""
    theta = pytree.tree_map(lambda t: t.clone().requires_grad_(), theta)
    loss, info = learner.objective(learner.adapt, theta, task)
    leaves, spec = pytree.tree_flatten(theta)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return loss.detach(), pytree.tree_map(torch.detach, info), pytree.tree_unflatten(grads, spec)


def _query_loss(learner: Learner, theta: Theta, tasks: Task) -> float:
    predicted, y = predict(learner, theta, tasks).flatten(0, 1), tasks.query.y.flatten(0, 1)
    return target_of(y).loss(predicted, y).item()


def _equal(a, b) -> bool:
    pairs = zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def _say(what: str) -> Callable[[str], str]:
    return lambda message: f"{what}: {message}"
