"""Meta-training by gradient: draw tasks, take the meta-gradient, step; survive whatever stops it.

Step t draws its tasks and noise from generators seeded by (seed, t), so a resumed run repeats an unbroken one bit by
bit on the same machine. Under torchrun the tasks of a step are shared among processes (`engine.ranks`).
"""

import inspect
import warnings
from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..core import Info, Learner
from ..targets import target_of
from .batch import chunks, meta_gradient
from .deal import Deal
from .evaluate import NoScore, check_labels, check_outputs, evaluate
from .ranks import Lost, join
from .renamed import renamed
from .run import Run, appears
from .seeds import generator
from .session import begin
from .steady import Steady
from .trial import trial

if TYPE_CHECKING:
    from ..tasks.pool import Pool


@renamed("checkpoint", "recompute")
def fit(
    learner: Learner,
    pool: "Pool",
    *,
    steps: int = 1000,
    tasks: int = 32,
    ways: int = 5,
    shots: int | tuple[int, int] = 1,
    queries: int | tuple[int, int] = 15,
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
    on_log: Callable[[int, dict[str, float]], Any] | None = None,
    info: dict[str, Any] | None = None,
    **options: Any,
) -> Run:
    """Meta-train a learner on tasks from `pool.train`: theta <- optimizer(theta, mean meta-gradient), `steps` times.

    tasks, ways, shots, queries: the meta-batch; queries count per class. shots, queries of a range such as (1, 5)
        differ by class and task, where the pool deals such tasks; those of one size are then computed together.
    optimizer: (parameters) -> a torch.optim optimizer, Adam at 1e-3 unless given; schedule: (optimizer) -> a torch
        scheduler, stepped once per meta-step. clip: largest norm of the meta-gradient.
    at_test: the learner as used at meta-test, where that differs (inner steps, ways, norm statistics).
    validation: what `evaluate` is given on `pool.val` (tasks, ways, shots, queries), every validate_every steps. The
        theta that was best in it is kept beside the checkpoints, and is what `Run.open` takes; `fit` itself returns,
        and resumes from, the newest.
    out: the run's folder; None keeps nothing on disk. An existing run is never overwritten: resume=True goes on from
        its newest whole checkpoint (and starts anew if there is none); to more steps than before too, if there is
        no schedule.
    on_log: (step, {name: number}) -> anything, called with every line that is logged, as metrics.jsonl has them: where
        a tracker is told. What it raises ends training, as a full disk does.
    On a GPU convolutions are in float32 here, not in TF32, torch's default, whose ten bits derivatives of derivatives
    do not survive; a meta_gradient of your own goes by torch's flags.
    compile: trace the whole meta-step with torch.compile; half a minute or more at the start, for long runs.
    capture: do whole meta-steps, dealing and optimizer included, without Python: a GPU replays them as one CUDA graph,
        and whether all was finite is asked only where a line is logged. None: on a GPU, for one process alone.
    options: how the meta-gradient is taken, as `meta_gradient` has it: method, recompute, memory, horizon and so on.

    Under torchrun the processes share the tasks of each step and end in the same weights as one process, but for
    rounding, and for the noise of learners that draw any: each process draws its own. Only the first writes files.

    Returns a Run. Raises ValueError on bad arguments; on an existing run folder, or one that another process writes
    to; if the run was started with other arguments, as far as can be told, or a checkpoint does not fit; NonFinite (a
    ValueError) on a loss, gradient or theta that is not finite, leaving the last checkpoint. Ctrl-C, or SIGTERM, lets
    the step end, writes a checkpoint, then raises KeyboardInterrupt. If another process dies, the last whole
    step is kept and `ranks.Lost` (a ValueError) raised; any number of processes can resume.
    """
    _check_arguments(
        learner, at_test, pool, optimizer, clip, seed, options, resume and out is None, tasks=tasks, steps=steps,
        validate_every=validate_every, checkpoint_every=checkpoint_every,
    )
    ranks, where = join(device)
    if tasks < ranks.size and ranks.rank == 0:
        warnings.warn(f"{tasks} tasks a step cannot keep {ranks.size} processes busy.", stacklevel=3)
    episode: dict[str, Any] = {"ways": ways, "shots": shots, "queries": queries}
    if any(isinstance(n, tuple | list) for n in (shots, queries)):
        if compile or capture:
            raise ValueError("fit: uneven tasks are of many sizes, which compile and capture cannot take. Leave both.")
        options, capture = {**options, "uneven": True}, False
    first = None if out is None else pool.train.sample(tasks=1, **episode, generator=generator(seed, "check", 0))
    session = begin(
        learner, pool, steps=steps, tasks=tasks, optimizer=optimizer, schedule=schedule, clip=clip, at_test=at_test,
        checkpoint_every=checkpoint_every, chunk=chunk, compile=compile, seed=seed, device=where, out=out,
        resume=resume, progress=progress, on_log=on_log, info=info, longer=schedule is None, ranks=ranks,
        decides=episode, first=first, **options,
    )  # fmt: skip
    run, theta, pool, log = session.run, session.run.theta, session.pool, session.log
    judged = {"tasks": 100, **episode, **(validation or {})}
    deal, steady = Deal(pool.train, tasks, seed, where, **episode), None
    try:
        if run.step < steps:
            how = {"together": tasks > 1 and chunk != 1, "apart": tasks > 3 or chunk == 1 or tasks == 1}
            how |= {**options, "seed": seed}
            _check_first(learner, run.learner, theta, pool, episode, judged if validate_every else None, how)
        if steps == 0:
            session.save()
    except BaseException:
        session.release()
        raise

    def meta_step(step: int) -> Info:
        if steady is not None:
            told = steady(step)
            session.schedule(step + 1)
            return told
        share, weight = ranks.share(tasks)
        of_all = None if ranks.size == 1 else lambda: deal.at(step)()  # every process looks there for what went wrong
        return session.meta_step(deal.at(step)(share), step, weight=weight, of_all=of_all)

    with session.running():
        if ranks.size == 1 and not options.get("recompute") and (where.type == "cuda" if capture is None else capture):
            descent, scheduler = session.optimizer, session.scheduler
            how = {"fixed": session.fixed, "clip": clip, "seed": seed, "step": run.step}
            steady = Steady(session.gradient, theta, deal, descent, scheduler, **how)
        while run.step < steps:
            try:
                told = meta_step(run.step)
            except Lost as lost:
                if ranks.rank == 1 and run.folder is not None and not appears(run.folder, run.step - 1):
                    session.files, lost.heir = run.folder, True  # it is the first who died
                session.calibrate(**episode)
                session.save()
                kept = "" if out is None else f". Step {run.step} is kept in {run.folder}, for any number of processes"
                lost.args = (f"fit: step {run.step + 1}: {lost}{kept}",)
                raise
            saving = session.count()
            judging = validate_every and (run.step % validate_every == 0 or run.step == steps)
            if steady and (judging or saving or log.due(run.step)):
                if not steady.fine():
                    failed, run.step, steady = run.step, steady.back(), None
                    log.forget(failed - 1 - run.step)
                    continue
                steady.mark(run.step)
            log.step(run.step, told)
            if judging or saving:
                session.calibrate(**episode)
            if judging:
                try:
                    score = evaluate(run.learner, theta, pool, split="val", **judged)  # type: ignore[arg-type]
                    session.judge(score, **judged)
                except NoScore as error:  # of the learner at meta-test; training is as it should be
                    warnings.warn(f"fit: step {run.step} has no validation score. {error}", stacklevel=2)
            if saving:
                session.save()
                session.stop()
    return run


def _check_arguments(learner, at_test, pool, optimizer, clip, seed, options, nowhere: bool, **counts) -> None:
    """Raise ValueError, or TypeError for a keyword that is none, before anything is done or written."""
    for name, given in (("learner", learner), ("at_test", learner if at_test is None else at_test)):
        if not isinstance(given, Learner):
            raise ValueError(f"fit: {name} is {type(given).__name__}, expected a Learner such as ml.maml(...).")
    if not all(hasattr(pool, name) for name in ("train", "sample", "to")):
        raise ValueError(f"fit: the pool is {type(pool).__name__}, expected one such as ml.tasks.glyphs().")
    if optimizer is not None and not callable(optimizer):
        wanted = "a function such as lambda p: torch.optim.SGD(p, lr=0.1)"
        raise ValueError(f"fit: optimizer is {type(optimizer).__name__}, expected {wanted}.")
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


def _check_first(learner, at_test, theta, pool, episode, judged, how) -> None:
    """Deal two tasks for training and one for validation, so that what does not fit fails before the first step; it
    costs no more than one. how: the `trial`."""
    g, ways = generator(how["seed"], "check", 0), episode["ways"]
    episode, judged = ({name: max(n) if isinstance(n, tuple | list) else n for name, n in of.items()} if of else of
                       for of in (episode, judged))  # fmt: skip  # of uneven tasks, the largest
    tasks = pool.train.sample(tasks=1 + how["together"], **episode, generator=g)
    task = next(chunks(tasks, 1))
    if getattr(pool.train, "labels", "task") == "task":  # f is for these, not for the labels of a whole pool
        if learner.classes is not None:
            raise ValueError(
                f"fit: the learner's loss is over {learner.classes} classes, the same in every task; {pool.name} deals "
                f"episodes, which number theirs 0..{ways - 1} anew each time. Train on pool.flat(), or on a pool of "
                'your own that says labels = "pool".'
            )
        target = target_of(task.query.y, pool.train)
        check_labels("fit", task, ways, target)
        check_outputs("fit", learner, theta, task, ways, target)
    trial(learner, theta, tasks, **how)
    if judged is not None:
        task = pool.val.sample(**{**judged, "tasks": 1}, generator=g)
        target = target_of(task.query.y, pool.val)
        check_outputs("fit: validation", at_test, theta, task, judged["ways"], target)
