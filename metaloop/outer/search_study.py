"""The study that the workers of a search share: Optuna's, in a journal file or a PostgreSQL server.

What is added to Optuna: the study is made once; a trial's draw is addressed by its number, so that what random search
and grids try does not depend on how many workers there are; and a trial whose worker died is taken up by the next one.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from ..engine.checkpoint import write_bytes
from ..engine.lock import Lock
from ..engine.schema import conform, read_json
from ..engine.seeds import place
from .evolution import Evolution
from .search_space import Choice, Range, Space, cell, cells

MOST_CELLS = 10**6  # of a space that is drawn from without replacement
SAMPLERS = ("tpe", "random", "grid", "gp", "evolution")
START = b'{"op_code":'  # of each line of a journal


@dataclass(frozen=True)
class Store:
    """Where studies are kept. alone(): within it no other worker of this store chooses a trial. close(): let go of
    connections; whoever asks again makes them anew."""

    name: str  # for people; no password in it
    storage: Any
    alone: Callable[[], AbstractContextManager[Any]]
    close: Callable[[], None] = lambda: None


def open_store(where: str | Path) -> Store:
    """A journal file, which is made if need be, or `postgresql://user@host/database`.

    Raises ValueError if the server cannot be reached, or the journal is damaged. The last line of a journal may be cut
    short, by a kill: it is put aside, into a file beside it, which is said.
    """
    if "://" in str(where):
        return _server(str(where))
    path = Path(where)
    if path.is_dir():
        raise ValueError(f"search: the storage {path} is a folder, expected a file such as {path}/search.journal.")
    alone = lambda: Lock(path.parent, f".{path.name}.alone", wait=True)
    with alone():
        _mend(path)
        try:
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))  # which reads all of it
        except OSError:
            raise
        except Exception as error:  # what Optuna raises for lines of another form has no common base
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise ValueError(f"search: {path} is damaged: Optuna cannot read its lines ({reason}).") from None
    return Store(str(path), storage, alone)


def open_study(store: Store, name: str, about: dict[str, Any], *, higher: bool) -> optuna.Study:
    """The study of that name, made if need be: once, however many workers begin together.

    about: what the search is, by which it is known. Raises ValueError if the study there is another search.
    """
    with store.alone(), quiet():
        try:
            study = optuna.load_study(storage=store.storage, study_name=name)
        except KeyError:
            direction = "maximize" if higher else "minimize"
            study = optuna.create_study(storage=store.storage, study_name=name, direction=direction)
        recorded, about = study.user_attrs.get("search"), json.loads(json.dumps(about))
        if recorded is None and not study.get_trials(deepcopy=False):
            study.set_user_attr("search", about)
        elif recorded != about:
            same(f"the study '{name}' in {store.name}", recorded, about)
        if len(study.directions) != 1:
            raise ValueError(f"search: {store.name} is damaged: the study '{name}' has {len(study.directions)} scores.")
    return study


def same(what: str, recorded: Any, about: dict[str, Any]) -> None:
    """Raise ValueError, which says in what they differ, if what is there is another search."""
    if not isinstance(recorded, dict):
        raise ValueError(f"search: {what} is not one of metaloop's. Choose another name.")
    for key in dict.fromkeys([*about, *recorded]):
        was, now = recorded.get(key), about.get(key)
        if was != now:
            shown = [" ".join(f"{n}={v}" for n, v in t.items()) if isinstance(t, dict) else repr(t) for t in (was, now)]
            how = f"was begun with {key} {shown[0]}, now it is {shown[1]}"
            raise ValueError(f"search: {what} {how}. Choose another name.")


class Home:
    """The folder where a worker's trials are trained. `place` names it, for workers who see other disks."""

    def __init__(self, folder: Path, about: dict[str, Any]):
        self.folder, path = folder, folder / "search.json"
        with Lock(folder, ".search.lock", wait=True):
            if path.exists():
                known = conform(read_json(path), dict[str, Any], str(path))
                same(str(folder), known.get("search"), json.loads(json.dumps(about)))
                self.place = str(known.get("place"))
            else:
                self.place = uuid4().hex
                write_bytes(path, json.dumps({"place": self.place, "search": about}, indent=2).encode())

    def of(self, number: int) -> Path:
        """The folder of a trial's run."""
        return self.folder / f"trial-{number:04d}"

    def take(self, number: int) -> Lock | None:
        """A trial for this worker alone, until it is released or the worker dies; None if another has it."""
        try:
            return Lock(self.of(number), ".trial.lock")
        except ValueError:
            return None


def next_trial(
    store: Store, study: optuna.Study, home: Home, total: int, *, adopt: bool = False
) -> tuple[Trial, Lock] | None:
    """A trial to do, this worker's alone until the lock is released: one whose worker died, or else a new one, until
    there are `total`. None where nothing is left. adopt: take those as well that workers elsewhere have begun."""
    with store.alone():
        known = study.get_trials(deepcopy=False)
        for trial in known:
            if trial.state == TrialState.RUNNING:
                where = trial.user_attrs.get("place")  # None: its worker died as it chose it
                if where in (None, home.place) or adopt:
                    lock = home.take(trial.number)
                    if lock is not None:
                        return _begun(Trial(study, trial._trial_id), home), lock  # Optuna has no public way back to it
        if sum(trial.state != TrialState.WAITING for trial in known) >= total:
            return None
        trial = study.ask()
        lock = home.take(trial.number)
        if lock is None:
            raise ValueError(f"{home.of(trial.number)} is in use by another process.")
        return _begun(trial, home), lock


def _begun(trial: Trial, home: Home) -> Trial:
    trial.set_user_attr("place", home.place)
    return trial


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """A label for each setting: what the trial has been given before, or what the sampler says."""
    found = {}
    for name, dimension in space.items():
        if isinstance(dimension, Choice):
            found[name] = trial.suggest_categorical(name, dimension.labels)
        elif dimension.whole:
            found[name] = trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
        else:
            found[name] = trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    return found


def make_sampler(kind: str, space: Space, trials: int, seed: int) -> BaseSampler:
    """A sampler by name. random: without replacement where there is an end of choices; grid: all of them, in order.

    Raises ValueError if there is none of that name, or it cannot make that many trials of the space.
    """
    if kind not in SAMPLERS:
        raise ValueError(f"search: sampler={kind!r}, expected one of {', '.join(SAMPLERS)}.")
    most = cells(space)
    if kind == "grid":
        if most is None:
            name, dimension = next((n, d) for n, d in space.items() if isinstance(d, Range) and not d.whole)
            raise ValueError(f"search: a grid wants values, and {name}={dimension} is a range. Say {name}=A,B,C.")
        if most > trials:
            raise ValueError(f"search: the grid has {most} cells, more than {trials} trials. Ask for {most}.")
    if kind in ("grid", "random") and most is not None and trials > most:
        raise ValueError(f"search: there are {most} choices in all, fewer than {trials} trials. Ask for {most}.")
    if kind == "grid":
        return Cells(space, range(most or 0))
    if kind == "random" and most is not None and most <= MOST_CELLS:
        return Cells(space, np.random.default_rng(place(seed, "search", 0)).permutation(most).tolist())
    if kind == "evolution":
        return Evolution(space, seed=seed)
    return Addressed({"random": RandomSampler, "tpe": TPESampler, "gp": GPSampler}[kind], seed)


class Addressed(BaseSampler):
    """Optuna's sampler of that class, made anew for each trial with a seed of (seed, trial's number).

    So no two workers draw the same numbers, and what a trial draws depends on its number and on the trials told before.
    """

    def __init__(self, kind: Callable[..., BaseSampler], seed: int):
        self.make = lambda number: kind(seed=place(seed, "search", number) % 2**32)
        self.inner = self.make(0)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.inner = self.make(trial.number)
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(self, study, trial) -> dict[str, BaseDistribution]:
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space) -> dict[str, Any]:
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution) -> Any:
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study, trial, state, values) -> None:
        self.inner.after_trial(study, trial, state, values)


class Cells(BaseSampler):
    """The choices of a finite space in a given order, by the trial's number: each once, whoever evaluates it."""

    def __init__(self, space: Space, order):
        self.space, self.order = space, order

    def infer_relative_search_space(self, study, trial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study, trial, search_space) -> dict[str, Any]:
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution) -> Any:
        return cell(self.space, self.order[trial.number])[param_name]


@contextmanager
def quiet() -> Iterator[None]:
    """Within this Optuna tells warnings alone."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _mend(path: Path) -> None:
    """Put the end of a journal aside that a kill cut short; raise ValueError if it is damaged elsewhere."""
    if not path.exists():
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()  # so that nobody is about to write a line
    try:
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                fine = isinstance(json.loads(line), dict)
            except (ValueError, RecursionError):
                fine = False
            if not fine:
                raise ValueError(f"search: {path} is damaged, or no journal: line {number} is not one of its lines.")
        tail = data[len(whole) :]
        if tail[: len(START)] != START[: len(tail)]:
            raise ValueError(f"search: {path} is damaged, or no journal: its last line is none.")
        if tail:
            aside = path.with_name(f"{path.name}.cut")
            write_bytes(aside, tail)
            with path.open("rb+") as file:
                file.truncate(len(whole))
            warnings.warn(f"{path} was cut short in its last line, which is put aside in {aside.name}.", stacklevel=4)
    finally:
        lock.release()


def _server(url: str) -> Store:
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError
    from sqlalchemy.pool import NullPool

    try:
        address = sqlalchemy.make_url(url)
    except ArgumentError:
        raise ValueError("search: the storage is no address such as postgresql://user@host/database.") from None
    name = address.render_as_string(hide_password=True)
    if address.get_backend_name() != "postgresql":
        raise ValueError(f"search: the storage is {name}, expected a journal file or postgresql://user@host/database.")
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {"connect_args": {"connect_timeout": 10}}
    key = int.from_bytes(blake2b(b"metaloop search", digest_size=8).digest(), signed=True)

    @contextmanager
    def alone() -> Iterator[None]:
        with engine.begin() as connection:  # the server takes the lock back when the connection ends, however it ends
            connection.execute(sqlalchemy.text("select pg_advisory_xact_lock(:key)"), {"key": key})
            yield

    with reached(name), quiet():
        try:
            engine = sqlalchemy.create_engine(address, poolclass=NullPool, **options)
        except ModuleNotFoundError:
            raise ValueError("search: PostgreSQL needs a driver: pip install 'metaloop[postgresql]'.") from None
        with alone():  # two that make the tables at once would not both live
            storage = optuna.storages.RDBStorage(address.render_as_string(hide_password=False), engine_kwargs=options)
    def close() -> None:
        storage.remove_session()
        storage.engine.dispose()

    return Store(name, storage, alone, close)


@contextmanager
def reached(name: str) -> Iterator[None]:
    """A storage that cannot be reached is told in one line."""
    try:
        yield
    except Exception as error:
        internal = isinstance(error, optuna.exceptions.StorageInternalError)
        if not internal and type(error).__module__.partition(".")[0] != "sqlalchemy":
            raise
        cause = getattr(error, "orig", None) or error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).strip().partition("\n")[0]
        raise ValueError(f"search: the storage {name} cannot be reached ({reason}).") from None
