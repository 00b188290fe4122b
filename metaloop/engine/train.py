"""Meta-training by gradient: draw tasks, take the meta-gradient, step; survive whatever stops it.

Step t draws its tasks and noise from generators seeded by (seed, t), so a resumed run repeats an unbroken one bit by
bit on the same machine. Under torchrun the tasks of a step are shared among processes (`engine.ranks`).
"""

import inspect
import math
import warnings
from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch.func import vmap

from ..core import Info, Learner, Task, Theta
from ..targets import target_of
from . import checkpoint
from .batch import chunks, count, meta_gradient
from .deal import Deal
from .device import float32
from .evaluate import check_labels, check_outputs, evaluate
from .interrupt import Interrupt
from .log import Log
from .methods import overwrite
from .ranks import Lost, join
from .run import Run, appears, checkpoints, newest_whole, peak_memory, prepare
from .seeds import generator, noise
from .steady import Steady, point, total

if TYPE_CHECKING:
    from ..tasks.pool import Pool

CALIBRATION_TASKS = 64


class NonFinite(ValueError):
    """The loss or the meta-gradient is not finite; says at which step, task and parameter."""


def fit(
    learner: Learner,
    pool: "Pool",
    *,
    steps: int = 1000,
    tasks: int = 32,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    optimizer: Callable[[list[torch.Tensor]], torch.optim.Optimizer] | None = None,
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
    clip: float | None = None,
    at_test: Learner | None = None,
    validation: dict[str, int] | None = None,
    validate_every: int | None = None,
    checkpoint_every: int | None = None,
    chunk: int | None = None,
    compile: bool = False,
    capture: bool | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    info: dict[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Meta-train a learner on tasks from `pool.train`: theta <- optimizer(theta, mean meta-gradient), `steps` times.

    tasks, ways, shots, queries: the meta-batch; queries count per class.
    optimizer: (parameters) -> a torch.optim optimizer, Adam at 1e-3 unless given; schedule: (optimizer) -> a torch
        scheduler, stepped once per meta-step. clip: largest norm of the meta-gradient.
    at_test: the learner as used at meta-test, where that differs (inner steps, ways, norm statistics).
    validation: what `evaluate` is given on `pool.val` (tasks, ways, shots, queries), every validate_every steps.
    out: the run's folder; None keeps nothing on disk. An existing run is never overwritten: resume=True goes on from
        its newest whole checkpoint (and starts anew if there is none); to more steps than before too, if there is
        no schedule.
    On a GPU convolutions are in float32 here, not in TF32, torch's default, whose ten bits derivatives of derivatives
    do not survive; a meta_gradient of your own goes by torch's flags.
    compile: trace the whole meta-step with torch.compile; half a minute or more at the start, for long runs.
    capture: do whole meta-steps, dealing and optimizer included, without Python: a GPU replays them as one CUDA graph,
        and whether all was finite is asked only where a line is logged. None: on a GPU, for one process alone.
    options: how the meta-gradient is taken, as `meta_gradient` has it: method, checkpoint, memory, horizon and so on.

    Under torchrun the processes share the tasks of each step and end in the same weights as one process, but for
    rounding, and for the noise of learners that draw any: each process draws its own. Only the first writes files.

    Returns a Run. Raises ValueError on bad arguments, on an existing run folder, or if a checkpoint does not fit the
    learner; NonFinite (a ValueError) on a loss, gradient or theta that is not finite, leaving the last checkpoint.
    Ctrl-C lets the step end, writes a checkpoint, then raises KeyboardInterrupt. If another process dies, the last
    whole step is kept and `ranks.Lost` (a ValueError) raised; any number of processes can resume.
    """
    _check_arguments(
        learner, at_test, pool, optimizer, clip, seed, options, resume and out is None, tasks=tasks, steps=steps,
        validate_every=validate_every, checkpoint_every=checkpoint_every,
    )
    ranks, where = join(device)
    if tasks < ranks.size and ranks.rank == 0:
        warnings.warn(f"{tasks} tasks a step cannot keep {ranks.size} processes busy.", stacklevel=2)
    gradient = meta_gradient(learner, chunk=chunk, **options)
    folder = Path(out) if out is not None else None
    given = info = {**(info or {}), "seed": seed}
    if folder is not None:
        info = ranks.from_first(lambda: prepare(folder, resume, given, longer=schedule is None))
    pool = pool.to(where)
    theta = pytree.tree_map(lambda t: t.to(where), ranks.from_first(lambda: learner.init(seed)))
    leaves = pytree.tree_leaves(theta)
    descent = (optimizer or (lambda p: torch.optim.Adam(p, lr=1e-3)))(leaves)
    scheduler = schedule(descent) if schedule else None
    compiled = meta_gradient(learner, chunk=chunk, compile=True, **options) if compile else gradient
    episode = {"ways": ways, "shots": shots, "queries": queries}
    judged = {"tasks": 100, **episode, **(validation or {})}
    run = Run(at_test or learner, theta, folder=folder, info=info)
    if folder is not None and resume and (found := ranks.from_first(lambda: newest_whole(folder))) is not None:
        restore(run, found, descent, scheduler)
    start, deal = run.step, Deal(pool.train, tasks, seed, where, **episode)
    if start < steps:
        _check_first(learner, run.learner, theta, pool, episode, judged if validate_every else None, seed)
    files = folder if ranks.rank == 0 else None
    log = Log(files, steps=steps, start=start, seconds=run.seconds, tasks=tasks, show=progress and ranks.rank == 0)

    def save() -> None:
        keep(run, files, descent, scheduler, log)

    if steps == 0:
        save()
    every = checkpoint_every or max(1, min(1000, steps // 10))
    interrupt = Interrupt(many=ranks.size > 1)

    def watched(step: int) -> Info:
        """A meta-step whose result is looked at, and whose tasks are shared with other processes."""
        share, weight = ranks.share(tasks)
        batch = deal.at(step)(share)
        with noise(seed, ranks.stream("noise"), step):
            result = compiled(theta, batch)
        (grads, loss, scalars), interrupt.agreed = ranks.mean(result, weight, interrupt.heard)
        if not finite(grads, loss):
            if ranks.size > 1:  # every process looks for it among the tasks of all
                batch = deal.at(step)()
            explain(gradient, theta, batch, step)
        descend(leaves, grads, descent, scheduler, clip)
        return {"loss": loss, **scalars}

    with log, interrupt, float32(where):
        steady = None
        if ranks.size == 1 and not options.get("checkpoint") and (where.type == "cuda" if capture is None else capture):
            steady = Steady(compiled, theta, deal, descent, scheduler, clip=clip, seed=seed, step=start)
        while run.step < steps:
            try:
                told = (steady or watched)(run.step)
            except Lost as lost:
                if ranks.rank == 1 and folder is not None and not appears(folder, run.step - 1):
                    files, lost.heir = folder, True  # it is the first who died
                calibrate(learner, theta, pool, seed=seed, **episode)
                save()
                kept = "" if folder is None else f". Step {run.step} is kept in {folder}, for any number of processes"
                lost.args = (f"fit: step {run.step + 1}: {lost}{kept}",)
                raise
            run.step += 1
            if learner.scheduled is not None:
                overwrite(theta, learner.scheduled(run.step))
            last = run.step == steps
            judging = validate_every and (run.step % validate_every == 0 or last)
            saving = interrupt.asked or run.step % every == 0 or last
            if steady and (judging or saving or log.due(run.step)):
                if not steady.fine():
                    failed, run.step, steady = run.step, steady.back(), None
                    log.forget(failed - 1 - run.step)
                    continue
                steady.mark(run.step)
            log.step(run.step, told)
            if judging or saving:
                calibrate(learner, theta, pool, seed=seed, **episode)
            if judging:
                score = evaluate(run.learner, theta, pool, split="val", **judged)  # type: ignore[arg-type]
                log.score(run.step, score)
            if saving:
                save()
            if saving and interrupt.asked:
                raise KeyboardInterrupt
        if interrupt.heard:  # too late to agree on it
            raise KeyboardInterrupt
    return run


def calibrate(learner: Learner, theta: Theta, pool: "Pool", *, seed: int = 0, tasks=CALIBRATION_TASKS, **episode):
    """Put into theta, in place, what is estimated over meta-training tasks rather than learned by gradient.

    The mean over tasks of `learner.statistics(theta, support)`; nothing for learners that have none.
    """
    if learner.statistics is None:
        return
    batch = pool.train.sample(tasks=tasks, **episode, generator=generator(seed, "statistics", 0))
    parts = []
    with torch.no_grad(), noise(seed, "statistics", 1):
        for part in chunks(batch, 8):
            statistics = vmap(learner.statistics, in_dims=(None, 0), randomness="different")
            parts.append(statistics(theta, part.support))
    overwrite(theta, pytree.tree_map(lambda *values: torch.cat(values).mean(0), *parts))


def keep(run: Run, folder: Path | None, descent: torch.optim.Optimizer, scheduler, log: Log, **more: Any) -> None:
    """Write a checkpoint of theta, the optimizer and what more is JSON-able, by name; the two newest stay.

    Raises NonFinite if theta is not finite.
    """
    for name, leaf in checkpoint.flatten(run.theta, "theta").items():
        if not leaf.isfinite().all():
            raise NonFinite(f"step {run.step}: {name} is not finite after it. Lower the learning rates, or clip.")
    run.seconds, run.memory = log.seconds(), peak_memory(run.memory)
    if folder is not None:
        tensors, rest = checkpoint.optimizer_state(descent)
        meta = {"step": run.step, "seconds": run.seconds, "memory": run.memory, "optimizer": rest, **more}
        meta["scheduler"] = scheduler.state_dict() if scheduler else None
        name = folder / f"checkpoint-{run.step:08d}.safetensors"
        checkpoint.write(name, {**checkpoint.flatten(run.theta, "theta"), **tensors}, meta)
        for old in checkpoints(folder)[:-2]:
            old.unlink()


def restore(run: Run, found, descent: torch.optim.Optimizer, scheduler) -> dict[str, Any]:
    """Put a checkpoint, as `newest_whole` found it, into the run and its optimizer; what else was kept with it."""
    path, tensors, meta = found
    saved = checkpoint.unflatten(tensors, run.theta, "theta", str(path))
    pytree.tree_map(lambda ours, theirs: ours.copy_(theirs), run.theta, saved)
    checkpoint.restore_optimizer(descent, tensors, meta["optimizer"])
    if scheduler is not None:
        scheduler.load_state_dict(meta["scheduler"])
    run.step, run.seconds, run.memory = meta["step"], meta["seconds"], meta["memory"]
    return meta


def _check_arguments(learner, at_test, pool, optimizer, clip, seed, options, nowhere: bool, **counts) -> None:
    """Raise ValueError, or TypeError for a keyword that is none, before anything is done or written."""
    for name, given in (("learner", learner), ("at_test", learner if at_test is None else at_test)):
        if not isinstance(given, Learner):
            raise ValueError(f"fit: {name} is {type(given).__name__}, expected a Learner such as ml.maml(...).")
    if not all(hasattr(pool, name) for name in ("train", "sample", "to")):
        raise ValueError(f"fit: the pool is {type(pool).__name__}, expected one such as ml.tasks.glyphs().")
    if optimizer is not None and not callable(optimizer):
        wanted = "a function such as lambda p: torch.optim.SGD(p, lr=0.1)"
        raise ValueError(f"fit: optimizer={optimizer!r}, expected {wanted}.")
    for name, n in counts.items():
        least = 0 if name == "steps" else 1
        if n is not None and (not isinstance(n, Integral) or n < least):
            raise ValueError(f"fit: {name}={n}, expected a whole number, at least {least}.")
    if clip is not None and not clip > 0:
        raise ValueError(f"fit: clip={clip}, expected a norm above 0, or None.")
    if not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"fit: seed={seed}, expected a whole number below 2**63.")
    if nowhere:
        raise ValueError("fit: resume=True needs out, the folder of the run to go on with.")
    if unknown := set(options) - set(inspect.signature(meta_gradient).parameters):
        raise TypeError(f"fit: unknown keyword {sorted(unknown)[0]!r}.")


def _check_first(learner, at_test, theta, pool, episode, judged, seed) -> None:
    """Deal one task for training and one for validation, so that what does not fit fails before the first step."""
    g, ways = generator(seed, "check", 0), episode["ways"]
    task = pool.train.sample(tasks=1, **episode, generator=g)
    if getattr(pool.train, "labels", "task") == "task":  # f is for these, not for the labels of a whole pool
        target = target_of(task.query.y, pool.train)
        check_labels("fit", task, ways, target)
        check_outputs("fit", learner, theta, task, ways, target)
    if judged is not None:
        task = pool.val.sample(**{**judged, "tasks": 1}, generator=g)
        target = target_of(task.query.y, pool.val)
        check_outputs("fit: validation", at_test, theta, task, judged["ways"], target)


def descend(leaves, grads: Theta, descent, scheduler, clip: float | None) -> None:
    """One step of the optimizer on a meta-gradient."""
    point(leaves, grads, clip)
    descent.step()
    if scheduler is not None:
        scheduler.step()


def finite(grads: Theta, loss: torch.Tensor) -> bool:
    """Whether the loss and the whole meta-gradient are finite."""
    return math.isfinite(total(grads, loss).item())


def explain(gradient, theta: Theta, batch: Task, step: int) -> None:
    """Raise NonFinite, saying of which task and parameter: what to do when a result is not finite."""
    for i, task in enumerate(chunks(batch, 1)):
        for what, data in (("support", task.support), ("query", task.query)):
            if not all(t.isfinite().all() for t in pytree.tree_leaves(data)):
                raise NonFinite(f"step {step + 1}, task {i}: its {what} set holds values that are not finite.")
        grads, loss, _ = gradient(theta, task)
        bad = [name for name, g in checkpoint.flatten(grads, "theta").items() if not g.isfinite().all()]
        if bad or not math.isfinite(loss.item()):
            where = f"the gradient of {bad[0]}" if bad else "every gradient"
            state = "is not finite" if bad else "is finite"
            raise NonFinite(
                f"step {step + 1}, task {i} of {count(batch)}: the loss is {loss.item():.4g}, {where} {state}. "
                "Lower the learning rates, or clip."
            )
    raise NonFinite(f"step {step + 1}: the mean over tasks overflows, though each task is finite.")
