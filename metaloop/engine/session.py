"""A training under way: what every outer loop has, and the few things that each does with it.

    session = begin(learner, pool, steps=1000, tasks=32, out="runs/mine", resume=True)
    run, deal = session.run, Deal(session.pool.train, 32, session.seed, ways=5, shots=1, queries=15)
    with session.running():
        while run.step < session.steps:
            told = session.meta_step(deal.at(run.step)(), run.step)
            saving = session.count()
            session.log.step(run.step, told)
            if saving:
                session.calibrate(ways=5, shots=1, queries=15)
                session.save()
                session.stop()

is an outer loop that survives being killed, goes on bit by bit, and ends after the step at Ctrl-C.
"""

import inspect
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import vmap

from ..core import Info, Learner, Task, Theta
from ..nn.functional import pooled
from ..targets import TARGETS
from ..torch_private import pytree
from . import checkpoint
from .batch import MetaGradient, chunks, count, groups, meta_gradient
from .device import choose, float32
from .evaluate import Score
from .identity import of_training
from .interrupt import Interrupt
from .lock import Lock
from .log import Log
from .methods import estimated, overwrite
from .ranks import Ranks
from .restore import restore_optimizer, restore_scheduler
from .run import (
    BEST,
    Found,
    Judged,
    Kept,
    Run,
    checkpoints,
    machine,
    newest_whole,
    peak_memory,
    prepare,
    read_best,
    read_info,
    same,
)
from .schema import conform
from .seeds import generator, noise
from .steady import point, total
from .theta import drawn, fixed_leaves, not_finite, opened
from .trial import explained

if TYPE_CHECKING:
    from ..tasks.pool import Pool

CALIBRATION_TASKS = 64


class NonFinite(ValueError):
    """The loss or the meta-gradient is not finite; says at which step, task and parameter."""


@dataclass
class Session:
    """What `begin` makes.

    learner: as it is trained; run.learner is the one of meta-test. pool and run.theta lie on the device. fixed: which
    of theta's leaves are not learned. gradient: the
    meta-gradient, compiled if asked for; plain: the same, uncompiled, to look for what went wrong. every: steps between
    checkpoints. files: the folder that this process writes to. kept: what the loop remembers beside theta and the
    optimizer, by name and JSON-able: it is in every checkpoint, and comes back from it. best: how good the best theta
    in validation is, so far.
    """

    learner: Learner
    pool: "Pool"
    run: Run
    leaves: list[Tensor]
    fixed: list[bool]
    gradient: MetaGradient
    plain: MetaGradient
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    clip: float | None
    steps: int
    every: int
    seed: int
    device: torch.device
    ranks: Ranks
    files: Path | None
    kept: dict[str, Any]
    log: Log
    interrupt: Interrupt
    lock: Lock | None
    best: Judged | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within this the log is open, Ctrl-C waits for the end of a step, and a GPU's convolutions are in float32.

        After it the folder may be written to by others.
        """
        try:
            with self.log, self.interrupt, float32(self.device):
                yield
                if self.interrupt.heard:  # too late for `stop`
                    raise KeyboardInterrupt
        finally:
            self.release()

    def release(self) -> None:
        """Let others write to the folder."""
        if self.lock is not None:
            self.lock.release()

    def meta_step(
        self, tasks: Task, i: int, *, weight: float = 1.0, of_all: Callable[[], Task] | None = None
    ) -> Info:  # fmt: skip
        """The i-th step of the optimizer, on the meta-gradient of these tasks; what there is to log of it.

        weight, of_all: of this process's share of the tasks, and all of them, where there are more processes than one.
        Raises NonFinite.
        """
        with noise(self.seed, self.ranks.stream("noise"), i):
            result = self.gradient(self.run.theta, tasks)
        (grads, loss, scalars), self.interrupt.agreed = self.ranks.mean(result, weight, self.interrupt.heard)
        if not finite(grads, loss):
            explain(self.plain, self.run.theta, of_all() if of_all else tasks, self.run.step)
        self.improve(grads)
        self.schedule(i + 1)
        return {"loss": loss, **scalars}

    def improve(self, grads: Theta) -> None:
        """theta <- optimizer(theta, grads), and on with the learning rate's schedule."""
        point(self.leaves, grads, self.fixed, self.clip)
        with explained("fit", f"step {self.run.step + 1}: "):
            self.optimizer.step()
            if self.scheduler is not None:
                self.scheduler.step()

    def schedule(self, i: int) -> None:
        """Put into theta what is scheduled for after i steps of the optimizer."""
        if self.learner.scheduled is not None:
            overwrite(self.run.theta, self.learner.scheduled(i))

    def count(self) -> bool:
        """A step is done. Whether it is one to be kept: at its time, as the last, or since Ctrl-C was heard."""
        self.run.step += 1
        return self.interrupt.asked or self.run.step % self.every == 0 or self.run.step == self.steps

    def calibrate(self, **episode: int) -> None:
        """`calibrate` theta on the pool, as must be before theta is kept or judged."""
        calibrate(self.learner, self.run.theta, self.pool, seed=self.seed, **episode)

    def save(self) -> None:
        """Write a checkpoint of theta, the optimizer and what else is `kept`; the two newest stay.

        Raises NonFinite if theta is not finite.
        """
        run, named = self.run, checkpoint.flatten(self.run.theta, "theta")
        if bad := not_finite(self.learner, run.theta):
            raise NonFinite(f"step {run.step}: {bad[0]} is not finite after it. Lower the learning rates, or clip.")
        run.seconds, run.memory = self.log.seconds(), peak_memory(run.memory)
        if self.files is not None:
            tensors, rest = checkpoint.optimizer_state(self.optimizer)
            meta = {"step": run.step, "seconds": run.seconds, "memory": run.memory, "optimizer": rest, **self.kept}
            meta["scheduler"] = self.scheduler.state_dict() if self.scheduler else None
            checkpoint.write(self.files / f"checkpoint-{run.step:08d}.safetensors", {**named, **tensors}, meta)
            for old in checkpoints(self.files)[:-2]:
                old.unlink()

    def judge(self, score: Score, **on: Any) -> None:
        """Log a validation score, and keep theta, as best.safetensors, if none was better on such tasks before.

        on: the tasks it is of. Whoever resumes meets its file again: a step that
        is done twice is kept once.
        """
        self.log.score(self.run.step, score)
        if self.files is None:
            return
        sign = 1 if any(target.higher for target in TARGETS if target.metric == score.metric) else -1
        best, on = self.best, json.loads(json.dumps(on))
        if best is None or best.metric != score.metric or best.on != on or sign * score.mean > sign * best.mean:
            self.best = Judged(score.metric, score.mean, score.ci95 if math.isfinite(score.ci95) else None, on)
            run = self.run
            meta = {"step": run.step, "seconds": self.log.seconds(), "memory": peak_memory(run.memory)}
            meta["judged"] = asdict(self.best)
            checkpoint.write(self.files / BEST, checkpoint.flatten(run.theta, "theta"), meta)

    def stop(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was heard: where the step is kept."""
        if self.interrupt.asked:
            raise KeyboardInterrupt


def begin(
    learner: Learner,
    pool: "Pool",
    *,
    steps: int,
    tasks: int,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
    clip: float | None = None,
    at_test: Learner | None = None,
    checkpoint_every: int | None = None,
    compile: bool = False,
    seed: int = 0,
    device: str | torch.device = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    on_log: Callable[[int, dict[str, float]], Any] | None = None,
    info: dict[str, Any] | None = None,
    longer: bool = False,
    ranks: Ranks | None = None,
    decides: dict[str, Any] | None = None,
    first: Task | None = None,
    **options: Any,
) -> Session:
    """A training about to take its first step, or the one after the newest whole checkpoint in `out`.

    tasks: of a step, for the speed that is shown. longer: whether a run may go on to more steps than it was begun for.
    ranks: this process among those that train together; alone unless given. decides: what else than the arguments here
    decides the weights, by name; first: a task of the pool: both are kept, and compared when the run is resumed.
    options: how the meta-gradient is taken, as `meta_gradient` has it. The others are those of `fit`, which says what
    is raised. No other process can write to the folder until the session has been `running`, or is let go by `release`.
    """
    ranks, where = ranks or Ranks(), choose(device)
    plain = meta_gradient(learner, **options)
    gradient = meta_gradient(learner, compile=True, **options) if compile else plain
    folder = Path(out) if out is not None else None
    theta = pytree.tree_map(lambda t: t.to(where), ranks.from_first(lambda: drawn(learner, seed)))
    leaves, fixed = pytree.tree_leaves(theta), fixed_leaves(learner, theta)
    if all(fixed):
        raise ValueError("fit: nothing in theta is learned. Give a parameter requires_grad_(True).")
    descent = (optimizer or (lambda p: torch.optim.Adam(p, lr=1e-3)))(leaves)
    scheduler = schedule(descent) if schedule else None
    _steps_alone("the optimizer", descent, "torch.optim.Adam")
    if schedule:
        _steps_alone("the schedule", scheduler, "torch.optim.lr_scheduler.StepLR")
        ours, theirs = ({id(p) for group in getattr(o, "param_groups", ()) for p in group["params"]}
                        for o in (descent, getattr(scheduler, "optimizer", descent)))  # fmt: skip
        if not ours & theirs:
            raise ValueError("fit: the schedule is of another optimizer, and would change nothing. Make it of the one "
                             "that it is given: lambda o: torch.optim.lr_scheduler.StepLR(o, 100).")  # fmt: skip
    _moves(descent, leaves)
    given, lock = {"steps": steps, **(info or {}), "seed": seed}, None

    def enter(folder: Path) -> tuple[dict[str, Any], Found | None]:
        """What run.json says, and the checkpoint to go on from, of a folder that is this process's alone."""
        nonlocal lock
        how = {name: p.default for name, p in inspect.signature(meta_gradient).parameters.items() if name != "learner"}
        how |= {**options, "compile": compile}
        how.pop("uneven")  # the episode says so
        rounding = {name: how.pop(name) for name in ("chunk", "memory", "recompute", "compile")}
        decided = {"tasks": tasks, "clip": clip, **how, **(decides or {})}
        training = of_training(learner, pool, descent, scheduler, first, **decided)
        here = {"device": where.type, **{name: machine()[name] for name in ("threads", "processes")}, **rounding}
        lock = Lock(folder)
        found = newest_whole(folder) if resume else None
        if found is not None:
            if "settings" in given:  # before what comes of them
                same(folder, read_info(folder), json.loads(json.dumps({"settings": given["settings"]})))
            opened(learner, theta, found[1], str(found[0]))
        told = {**given, "training": training, "where": here}
        return prepare(folder, resume, told, longer=longer, seen=lambda: seen_by(pool)), found

    try:
        info, found, kept, best = given, None, {}, None
        if folder is not None:
            info, found = ranks.from_first(lambda: enter(folder))
        pool = pool.to(where)
        run = Run(at_test or learner, theta, folder=folder, info=info)
        if found is not None:
            kept = _restore(run, learner, fixed, found, descent, scheduler)
            best = read_best(folder) if folder is not None and ranks.rank == 0 else None
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    alone = ranks.rank == 0
    files, show = folder if alone else None, progress and alone
    return Session(
        learner, pool, run, leaves, fixed, gradient, plain, descent, scheduler, clip, steps,
        checkpoint_every or max(1, min(1000, steps // 10)), seed, where, ranks, files, kept,
        Log(files, steps=steps, start=run.step, seconds=run.seconds, tasks=tasks, show=show,
            on_log=on_log if alone else None),
        Interrupt(many=ranks.size > 1), lock, best,
    )  # fmt: skip


def _steps_alone(what: str, given: Any, instead: str) -> None:
    """Raise ValueError if it cannot do a step by itself."""
    if not callable(getattr(given, "step", None)):
        raise ValueError(f"fit: {what} is {type(given).__name__}, which has no step. Take one such as {instead}.")
    try:
        _, *wanted = inspect.signature(type(given).step).parameters.values()
    except (AttributeError, TypeError, ValueError):  # it tells nothing of itself
        return
    if names := [p.name for p in wanted if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]:
        step = f"{type(given).__name__}.step wants {names[0]}"
        raise ValueError(f"fit: {what}: {step}, which a meta-step does not have. Take another, such as {instead}.")


def _moves(descent: torch.optim.Optimizer, leaves: list[Tensor]) -> None:
    """Raise ValueError if the optimizer is of other parameters than theta's. It may leave some of them."""
    ours, theirs = {id(leaf) for leaf in leaves}, [p for group in descent.param_groups for p in group["params"]]
    if not theirs or not all(id(p) in ours for p in theirs):
        raise ValueError(
            f"fit: the optimizer ({type(descent).__name__}) moves other tensors than theta's. Make it of the "
            "parameters that it is given: lambda p: torch.optim.SGD(p, lr=0.1)."
        )


def seen_by(pool: "Pool") -> list[str] | None:
    """The digests of the classes in the training split, where there is a fixed list of them."""
    tell = getattr(pool.train, "digests", None)
    return None if tell is None else tell()


def _restore(
    run: Run, learner: Learner, fixed: list[bool], found: Found, descent: torch.optim.Optimizer, scheduler
) -> dict[str, Any]:  # fmt: skip
    """Put a checkpoint, as `newest_whole` found it, into the run and its optimizer; what else was kept with it."""
    path, tensors, meta = found
    saved = opened(learner, run.theta, tensors, str(path))
    still = [leaf for leaf, stays in zip(pytree.tree_leaves(run.theta), fixed, strict=True) if stays]
    restore_optimizer(descent, tensors, meta.get("optimizer"), str(path), scheduled=scheduler is not None, still=still)
    restore_scheduler(scheduler, descent, meta.get("scheduler"), str(path))
    pytree.tree_map(lambda ours, theirs: ours.copy_(theirs), run.theta, saved)
    known = conform(meta, Kept, str(path))
    run.step, run.seconds, run.memory = known.step, known.seconds, known.memory
    ours = ("step", "seconds", "memory", "optimizer", "scheduler")
    return {name: value for name, value in meta.items() if name not in ours}


def calibrate(learner: Learner, theta: Theta, pool: "Pool", *, seed: int = 0, tasks=CALIBRATION_TASKS, **episode):
    """Put into theta, in place, what is estimated over meta-training tasks rather than learned by gradient.

    `learner.statistics` of many tasks, dealt as in meta-training, made into the population's by `nn.functional.pooled`:
    the mean over tasks; of norms the mean and the unbiased variance. Nothing for learners that have none.
    """
    if learner.statistics is not None:
        batch = pool.train.sample(tasks=tasks, **episode, generator=generator(seed, "statistics", 0))
        estimate(learner, theta, batch, seed=seed)


def estimate(learner: Learner, theta: Theta, tasks: Task, *, seed: int = 0) -> None:
    """The same, over these tasks; the learner has something to estimate."""
    parts, statistics = [], vmap(partial(estimated, learner), in_dims=(None, 0), randomness="different")
    with torch.no_grad(), noise(seed, "statistics", 1):
        for part in (part for _, some in groups(tasks) for part in chunks(some, 8)):
            parts.append(statistics(theta, part))
    overwrite(theta, pooled(pytree.tree_map(lambda *values: torch.cat(values), *parts)))


def finite(grads: Theta, loss: Tensor) -> bool:
    """Whether the loss and the whole meta-gradient are finite."""
    return math.isfinite(total(grads, loss).item())


def explain(gradient: MetaGradient, theta: Theta, batch: Task, step: int) -> None:
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
