"""Choose by trials what no gradient reaches: an outer loop whose theta is a choice, judged by tasks.

    for each trial:  settings <- sampler(all trials so far)
                     F        <- meta-train the learner with these settings
                     score    <- mean score of F's predictors on validation tasks, the same for all trials
    the best trial is tested once, on test tasks

Samplers, the store of trials and their exchange between machines are Optuna's (`search_study`).
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..core import Task
from ..engine import NonFinite, Run, Score
from ..engine.device import choose
from ..engine.evaluate import NoScore
from ..engine.schema import conform
from ..engine.seeds import generator
from ..recipes.plan import Plan, Recipe
from ..targets import units
from ..tasks.pool import Over, Pool
from ..torch_private import pytree
from .search_prune import blocks, worse
from .search_space import Space, read_space, told, value
from .search_subject import Subject, checked, higher, judged, subject_of

if TYPE_CHECKING:
    from optuna import Study

DONE, PRUNED, DIVERGED, REFUSED, BEGUN = "done", "pruned", "diverged", "refused", "begun"


@dataclass(frozen=True)
class Trial:
    """One choice, and what came of it.

    state: "done"; "pruned", worse than the best after some of the tasks; "diverged", numbers that are not finite;
    "refused", no such plan; "begun", by a worker that is at it or has died. score: the mean over tasks, of those that
    are done; per_task: as far as tasks were scored. why: it diverged or was refused. seconds: it took.
    """

    number: int
    settings: dict[str, Any]
    state: str
    score: float | None = None
    per_task: tuple[float, ...] = ()
    why: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Found:
    """What a search has found so far.

    trials: all of them, by number. best: the best that is done. complete: none is left to do or under way. run: the
    best trial's, if it lies here and all is complete; test: its scores on test tasks by row, if it was tested here.
    study: Optuna's, for all that Optuna shows of one. metric, higher: of the scores, and whether more is better.
    """

    trials: list[Trial]
    best: Trial | None
    complete: bool
    total: int
    space: Space
    metric: str
    higher: bool
    about: dict[str, Any]
    study: "Study"
    run: Run | None = None
    test: dict[str, Score] = field(default_factory=dict)


def search(
    of: str | Recipe | Callable[..., Any],
    space: Mapping[str, Any] | Iterable[str],
    pool: Pool | None = None,
    *,
    trials: int = 20,
    sampler: str = "tpe",
    prune: bool = False,
    storage: str | Path | None = None,
    name: str | None = None,
    out: str | Path = "runs/search",
    seed: int = 0,
    validation_tasks: int = 200,
    test_tasks: int = 1000,
    budget: str = "full",
    device: str | torch.device = "auto",
    adopt: bool = False,
    progress: bool = True,
    info: dict[str, Any] | None = None,
    **options: Any,
) -> Found:
    """Search for the settings whose F is best on validation tasks; test the best once.

    of: a recipe, by name; or a function of the settings that gives a Learner, a pair of Learners (in training, at
        meta-test) or a Plan. The same seed trains every trial.
    space: {"inner_lr": "1e-3..1:log", "inner_steps": "1,2,5", "norm_policy": ["group", "layer"]}, or texts such as
        "inner_steps=1,2,5"; `metaloop.outer.search_space` has the language.
    pool: the recipe's own unless given; a function's learners are trained on it.
    trials: how many, over all workers and starts; more, when started again, go on. sampler: "tpe", "random", "grid",
        "evolution", or "gp", which takes a second to choose. prune: stop scoring a trial that the tasks so far, in
        pairs, say is worse than the best (`search_prune`).
    storage: a journal file, OUT/search.journal unless given, for workers with a shared disk; or
        "postgresql://user@host/database" for those without. Start the same search as often as wanted, on as many
        machines: a worker takes new trials until there are enough, and trials whose worker died before them.
    name: of the study in the storage; the recipe's or the function's unless given.
    out: the folder of the trials' runs, trial-0000 and on.
    adopt: take up also the trials that workers with another `out` have begun, where these are gone for good.
    budget: the recipe's. options: for a recipe `steps`; for a learner what `fit` takes (steps, tasks, ways, ...).
    info: further entries of each trial's run.json.

    Random search without an end of choices, and grids, try the same for any number of workers; what the others try
    depends on what was told when. A trial that diverges is told as such and has no score.
    Raises ValueError on bad arguments; if the study or `out` holds another search, naming the difference; if the
    storage is damaged or cannot be reached; if no trial comes to a score. Ctrl-C leaves the trial to the next start.
    """
    study_of = _optuna()
    _check(trials=trials, validation_tasks=validation_tasks)
    choose(device)
    if not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"search: seed={seed}, expected a whole number below 2**63.")
    subject = subject_of(of, pool, budget, options, info or {})
    dimensions = checked(read_space(space, known=subject.names), subject.read)
    chosen = study_of.make_sampler(sampler, dimensions, trials, seed)
    base = subject.base(dimensions)
    about = {
        "of": subject.name, **subject.about, "space": told(dimensions), "sampler": sampler, "seed": seed,
        "validation tasks": validation_tasks, "judged": judged(base), "prune": prune,
    }  # fmt: skip
    folder, better = Path(out), higher(base)
    with study_of.quiet():
        store = study_of.open_store(storage or folder / "search.journal")
        with study_of.reached(store.name), closing(store):
            home = study_of.Home(folder, about)
            study = study_of.open_study(store, name or subject.name, about, higher=better)
            study.sampler = chosen
            look = partial(_look, study, dimensions, trials, base, better, about, {}, store.name)
            shown = _Shown(look, trials, progress)
            with shown:
                while (taken := study_of.next_trial(store, study, home, trials, adopt=adopt)) is not None:
                    trial, lock = taken
                    try:
                        settings = study_of.suggest(trial, dimensions)
                        settings = {n: value(dimensions[n], label) for n, label in settings.items()}
                        work = _Work(subject, judged(base), home.of(trial.number), seed, device, validation_tasks)
                        _do(work, trial, study, settings, look(), prune)
                    finally:
                        lock.release()
                    shown.tell()
            found = look()
            if found.complete and found.best is None:
                first = next((t for t in found.trials if t.why), None)
                raise ValueError(f"search: no trial came to a score. {first.why if first else ''}")
            if found.complete and found.best is not None and (home.of(found.best.number) / "run.json").exists():
                found = _winner(found, subject, home, study, pool=base.pool, tasks=test_tasks)
    return found


@dataclass(frozen=True)
class _Work:
    """How one trial is trained and judged."""

    subject: Subject
    judged: dict[str, Any]
    folder: Path
    seed: int
    device: str | torch.device
    tasks: int

    def train(self, settings: dict[str, Any]) -> Run:
        try:
            plan = self.subject.plan(settings)
        except Exception as error:  # a width of -1 is torch's to refuse, by errors of any kind
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(f"no plan can be made with it ({reason}).") from None
        if judged(plan) != self.judged:
            was, now = (" ".join(f"{n}={v}" for n, v in each.items()) for each in (self.judged, judged(plan)))
            raise ValueError(f"its tasks are others ({now}) than the search's ({was}): scores cannot be compared.")
        training = {**plan.training(), "validate_every": None, "progress": False, "device": self.device}
        run = plan.outer(
            plan.learner, plan.pool, **training, seed=self.seed, out=self.folder, resume=True,
            info=self.subject.info(settings, plan),
        )  # fmt: skip
        run.plan = plan
        return run

    def score(self, run: Run, part: range) -> list[float]:
        """Of some of the validation tasks, one number each."""
        some = Shuffled(run.plan.pool.val, part, self.seed)
        score = run.plan.rows[0].score(run, some, split="val", tasks=len(part))
        return [round(float(s), 7) for s in score.per_task]


def _do(work: _Work, trial: Any, study: "Study", settings: dict[str, Any], before: Found, prune: bool) -> None:
    """Train and judge one trial, and tell the study."""
    from optuna.trial import TrialState

    began = time.monotonic()

    def end(**attributes: Any) -> None:
        for name, given in attributes.items():
            trial.set_user_attr(name, given)
        trial.set_user_attr("seconds", round(time.monotonic() - began, 2))

    twin = next((t for t in before.trials if t.state == DONE and t.settings == settings), None)
    if twin is not None:  # the same seed: it would come to the same
        end(per_task=list(twin.per_task), twin=twin.number)
        study.tell(trial, twin.score)
        return
    rival, scores = before.best if prune else None, []
    try:
        run = work.train(settings)
        for part in blocks(_many(run.plan.pool.val, work.tasks)):
            scores += work.score(run, part)
            known = () if rival is None else rival.per_task
            if len(scores) < len(known) and worse(scores, known, higher=before.higher):
                trial.report(_mean(scores), step=len(scores))
                end(per_task=scores)
                study.tell(trial, state=TrialState.PRUNED)
                return
    except ValueError as error:
        if isinstance(error.__context__, OSError):  # a full disk is no fault of the settings: the next start goes on
            raise
        diverged = isinstance(error, NonFinite | NoScore)
        end(state=DIVERGED if diverged else REFUSED, why=" ".join(str(error).split()))
        study.tell(trial, state=TrialState.FAIL)
        return
    end(per_task=scores)
    study.tell(trial, _mean(scores))


def _mean(scores: list[float]) -> float:
    return sum(scores) / len(scores)


def _many(pool: Pool, tasks: int) -> int:
    return min(tasks, pool.tasks) if pool.tasks else tasks


class Shuffled(Over):
    """Some of the tasks that a pool deals, in an order that the seed says: `part` of them, the same whenever asked.

    Tasks that are drawn come each from its own place of the seed; those of a FixedPool are shuffled.
    """

    def __init__(self, pool: Pool, part: range, seed: int):
        self.pool, self.part, self.seed = pool, part, seed

    tasks: Any = property(lambda self: len(self.part))  # as of a pool whose tasks are fixed
    train = val = test = property(lambda self: self)  # type: ignore[assignment]

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        episode: dict[str, Any] = {"ways": ways, "shots": shots, "queries": queries}
        if self.pool.tasks:
            every = self.pool.sample(tasks=self.pool.tasks, **episode)
            order = torch.randperm(self.pool.tasks, generator=_place(self.seed, 0))[list(self.part)[:tasks]]
            return pytree.tree_map(lambda t: t[order.to(t.device)], every)
        dealt = [self.pool.sample(tasks=1, **episode, generator=_place(self.seed, i)) for i in list(self.part)[:tasks]]
        return pytree.tree_map(lambda *t: torch.cat(t), *dealt)

    def over(self, pool: Pool) -> "Shuffled":
        return Shuffled(pool, self.part, self.seed)


def _place(seed: int, i: int) -> torch.Generator:
    return generator(seed, "search tasks", i)


def _look(
    study: "Study", space: Space, total: int, base: Plan, better: bool, about: dict[str, Any], ended: dict[int, Trial],
    source: str = "the study",
) -> Found:  # fmt: skip
    """What the study says now. ended: the trials that have ended, as they were read before. source: its storage."""
    from optuna.trial import TrialState

    trials = []
    for t in study.get_trials(deepcopy=False):
        if t.state == TrialState.WAITING:
            continue
        one = ended.get(t.number)
        if one is None:
            one = _read(t, space, source)
            if one.state != BEGUN:
                ended[t.number] = one
        trials.append(one)
    done = [t for t in trials if t.state == DONE and t.score is not None]
    best = (max if better else min)(done, key=lambda t: t.score, default=None)  # the first of equals
    complete = len(trials) >= total and all(t.state != BEGUN for t in trials)
    return Found(trials, best, complete, total, space, judged(base)["metric"], better, about, study)


@dataclass
class _Told:
    """What a trial is told of itself, as far as it is."""

    per_task: list[float] = field(default_factory=list)
    why: str = ""
    seconds: float = 0.0
    state: str = DIVERGED


def _read(t: Any, space: Space, source: str) -> Trial:
    """A trial as Optuna has it. Raises ValueError, naming the source, if it is of another form."""
    from optuna.trial import TrialState

    about = conform(dict(t.user_attrs), _Told, f"search: trial {t.number} of {source}")
    states = {TrialState.COMPLETE: DONE, TrialState.PRUNED: PRUNED, TrialState.RUNNING: BEGUN}
    done = t.state == TrialState.COMPLETE
    try:
        settings = {n: value(space[n], label) for n, label in t.params.items() if n in space}
        score = float(t.value) if done else None
    except (IndexError, TypeError, ValueError):
        raise ValueError(f"search: trial {t.number} of {source} is damaged: its settings or score are none.") from None
    state = states.get(t.state) or about.state
    return Trial(t.number, settings, state, score, tuple(about.per_task), about.why, about.seconds)


def _winner(found: Found, subject: Subject, home: Any, study: "Study", *, pool: Pool, tasks: int) -> Found:
    """The best trial's run, and its scores on test tasks, measured once."""
    from ..engine.lock import Lock

    assert found.best is not None
    plan, folder = subject.plan(found.best.settings), home.of(found.best.number)
    run = Run.open(folder, plan.learner, at_test=plan.rows[0].learner, plan=plan)
    if not tasks:
        return replace(found, run=run)
    with Lock(folder, ".trial.lock", wait=True):
        known = conform(study.user_attrs.get("test", {}), dict[str, Any], "search: the study's test")
        kept = known.get("rows", {}) if known.get("trial") == found.best.number and known.get("tasks") == tasks else {}
        scores = {label: Score.of(torch.tensor(each), metric) for label, (each, metric) in kept.items()}
        for row in plan.rows if not kept else ():
            where = row.data() if row.data is not None else plan.pool
            scores[row.label] = row.score(run, where, tasks=row.tested(tasks))
        if not kept:
            rows = {label: [score.per_task.tolist(), score.metric] for label, score in scores.items()}
            study.set_user_attr("test", {"trial": found.best.number, "tasks": tasks, "rows": rows})
    return replace(found, run=run, test=scores)


class _Shown:
    """A bar, or a line for each trial: how many, the best so far, the time left."""

    def __init__(self, look: Callable[[], Found], total: int, show: bool):
        self.look, self.total, self.show, self.bar = look, total, show, None
        self.began, self.before = time.monotonic(), 0

    def __enter__(self) -> "_Shown":
        self.before = self._ended(self.look())
        if self.show and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[text]}"))
            self.bar = progress.Progress(*columns, progress.TimeRemainingColumn(), console=Console(stderr=True))
            self.task = self.bar.add_task("", total=self.total, completed=self.before, text="")
            self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.stop()

    def tell(self) -> None:
        """A trial has ended, here."""
        if not self.show:
            return
        found = self.look()
        done, best = self._ended(found), found.best
        text = "no score yet"
        if best is not None:
            text = f"best so far {in_words(best.score, found.metric)} (trial {best.number})"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, text=text)
            return
        rate = (done - self.before) / max(time.monotonic() - self.began, 1e-9)  # of all workers
        minutes, seconds = divmod(round((self.total - done) / rate) if rate else 0, 60)
        print(f"trial {done}/{self.total}  {text}  {minutes}:{seconds:02d} left", file=sys.stderr, flush=True)

    @staticmethod
    def _ended(found: Found) -> int:
        return sum(t.state != BEGUN for t in found.trials)


def in_words(score: float | None, metric: str) -> str:
    """A score in its unit."""
    if score is None:
        return "–"
    scale, unit, words = units(metric)
    return f"{scale * score:.2f} %" if unit.endswith("(%)") else f"{words} {scale * score:.4g}"


def _check(**counts: Any) -> None:
    for name, n in counts.items():
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"search: {name}={n!r}, expected a whole number, at least 1.")


def _optuna() -> Any:
    """`search_study`, or one line on how to get what it stands on."""
    try:
        from . import search_study
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "optuna":
            raise
        raise ValueError("search: Optuna is not installed: pip install 'metaloop[search]'.") from None
    return search_study
