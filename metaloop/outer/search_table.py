"""Search over a table: a finite space that has been evaluated whole, once, on which searchers are run in seconds.

So a searcher is judged by the rank of what it found, over as many seeds as wanted, beside what random search finds by
its law (`search_law`); and the table says how far two evaluations of one choice differ by their seeds alone.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.checkpoint import write_bytes
from ..engine.schema import conform, read_json
from .search_space import Space, cell, cells, read_space, told, value

Scores = dict[str, list[float]]  # by name, such as "validation" and "test": one number for each choice


@dataclass(frozen=True)
class Table:
    """scores: by name, [seeds, cells], the cells in the order of `settings`; nan where one diverged.

    higher: whether more is better. about: how it was made. Searchers see the mean over seeds of the first name's.
    """

    space: Space
    scores: dict[str, np.ndarray]
    higher: bool
    about: dict[str, Any]

    def __len__(self) -> int:
        return cells(self.space) or 0

    def settings(self, number: int) -> dict[str, Any]:
        """The choice that a cell is."""
        return {name: value(self.space[name], label) for name, label in cell(self.space, number).items()}

    def means(self, name: str | None = None) -> np.ndarray:
        """[cells], over seeds; nan where one of them diverged."""
        return self.scores[name or next(iter(self.scores))].mean(0)

    def ranks(self, name: str | None = None) -> np.ndarray:
        """[cells]: 1 for the best. Those that diverged are last; equals are in a random order, always the same."""
        means = self.means(name)
        worst = np.where(np.isnan(means), np.inf, -means if self.higher else means)
        order = np.lexsort((np.random.default_rng(0).permutation(len(means)), worst))
        ranks = np.empty(len(means), dtype=int)
        ranks[order] = np.arange(1, len(means) + 1)
        return ranks

    def noise(self, name: str | None = None) -> dict[str, float]:
        """How far seeds alone go: the standard deviation of a cell over its seeds (pooled) beside that of the cells'
        means, and Kendall's tau between two seeds' rankings, the mean over pairs of seeds."""
        from scipy.stats import kendalltau

        scores = self.scores[name or next(iter(self.scores))]
        whole = scores[:, ~np.isnan(scores).any(0)]
        pairs = [(a, b) for a in range(len(whole)) for b in range(a)]
        pairwise: list[Any] = [kendalltau(whole[a], whole[b]) for a, b in pairs]
        taus = [float(each.statistic) for each in pairwise]
        return {
            "over seeds": float(np.sqrt(whole.var(0, ddof=1).mean())) if pairs else float("nan"),
            "over cells": float(whole.mean(0).std(ddof=1)),
            "tau": float(np.mean(taus)) if pairs else float("nan"),
            "diverged": int(np.isnan(scores).any(0).sum()),
        }

    def run(self, sampler: str, draws: int, seed: int, *, asks: int = 100, **options: Any) -> list[int]:
        """The first `draws` different cells that a searcher asks for, in its order: one of `search_study.SAMPLERS`, or
        "controller", `Controller` with these options, for which a cell that diverged is as bad as the table's worst.

        A cell asked for again is answered again, and is no draw; after asks * draws answers in all it has settled, and
        there are fewer cells. Raises ValueError unless 1 <= draws <= len(self), and on options of another searcher.
        """
        import optuna

        from .controller import Controller
        from .search_study import make_sampler, quiet, suggest

        if not 1 <= draws <= len(self):
            raise ValueError(f"Table.run: draws={draws}, expected 1 to {len(self)}, the cells that there are.")
        if options and sampler != "controller":
            raise ValueError(f"Table.run: '{sampler}' takes no options, and {', '.join(options)} was given.")
        means, order, controller = self.means(), {}, None
        known = {json.dumps(cell(self.space, i)): i for i in range(len(self))}
        with quiet():
            study = optuna.create_study(direction="maximize" if self.higher else "minimize")
            if sampler == "controller":
                rewards = (means if self.higher else -means)[~np.isnan(means)]
                worst: dict[str, Any] = {"failed": float(rewards.min())} if len(rewards) else {}
                controller = Controller(self.space, seed=seed, **worst | options)
            else:
                study.sampler = make_sampler(sampler, self.space, len(self) if sampler == "grid" else draws, seed)
            for i in range(asks * draws):
                if controller is not None and i % controller.batch == 0:
                    controller.propose(study)
                trial = study.ask()
                number = known[json.dumps(suggest(trial, self.space))]
                order.setdefault(number, len(order))
                if np.isnan(means[number]):
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    study.tell(trial, means[number])
                if len(order) == draws:
                    break
        return [*order]


@dataclass(frozen=True)
class Batch:
    """Of some choices from the first on, with one seed."""

    seed: int
    first: int
    scores: dict[str, list[float | None]]

    def __post_init__(self):
        if min(self.seed, self.first) < 0:
            raise ValueError(f"a batch has seed {self.seed} and begins at {self.first}")


@dataclass(frozen=True)
class Kept:
    """The file of a table."""

    space: dict[str, Any]
    seeds: int
    higher: bool
    about: dict[str, Any]
    batches: list[Batch]


def evaluate_table(
    path: str | Path,
    space: Iterable[str] | dict[str, Any],
    score: Callable[[list[dict[str, Any]], int], Scores],
    *,
    seeds: int = 3,
    batch: int | None = None,
    higher: bool = True,
    about: dict[str, Any] | None = None,
    digits: int = 6,
) -> Table:
    """Evaluate every choice of a finite space with every seed, and keep it in a JSON file; or go on where it stopped.

    score: (choices, seed) -> for each name a number for each choice; not finite where one diverged. batch: how many
    choices it is given at once, all unless given. digits: decimal places that are kept. Raises ValueError if the space
    has no end, or the file holds another table.
    """
    dimensions, path = read_space(space), Path(path)
    total = cells(dimensions)
    if total is None:
        raise ValueError("evaluate_table: the space has a range without an end of choices. Say values.")
    made = {"space": told(dimensions), "seeds": seeds, "higher": higher, "about": about or {}}
    kept: dict[str, Any] = {**made, "batches": []}
    if path.exists():
        kept = conform(read_json(path), dict[str, Any], str(path))
        for name, given in made.items():
            if name != "about" and kept.get(name) != given:
                raise ValueError(f"{path} holds another table: its {name} is {kept.get(name)}, now it is {given}.")
        conform(kept, Kept, str(path))
    done = {(each["seed"], each["first"], len(next(iter(each["scores"].values())))) for each in kept["batches"]}
    table = Table(dimensions, {}, higher, kept["about"])
    for seed in range(seeds):
        for first in range(0, total, batch or total):
            part = range(first, min(first + (batch or total), total))
            if (seed, first, len(part)) not in done:
                scores = score([table.settings(i) for i in part], seed)
                plain = {n: [round(float(v), digits) if np.isfinite(v) else None for v in s] for n, s in scores.items()}
                kept["batches"].append({"seed": seed, "first": first, "scores": plain})
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, json.dumps(kept, separators=(",", ":")).encode())
    return read_table(path)


def read_table(path: str | Path, *, seeds: int | None = None) -> Table:
    """A table that `evaluate_table` kept; seeds: the first so many of its seeds, all unless given. Raises ValueError if
    there is none, it has fewer seeds, or it is not whole."""
    kept = conform(read_json(Path(path)), Kept, str(path))
    many = kept.seeds if seeds is None else seeds
    if not 1 <= many <= kept.seeds:
        raise ValueError(f"{path} has {kept.seeds} seeds, and {many} are asked for.")
    space = read_space(kept.space)
    shape = many, cells(space) or 0
    scores: dict[str, np.ndarray] = {}
    for each in kept.batches:
        for name, values in each.scores.items() if each.seed < many else ():
            part = scores.setdefault(name, np.full(shape, np.inf))[each.seed, each.first : each.first + len(values)]
            if len(part) != len(values):
                raise ValueError(f"{path} is damaged: it has scores of more than {shape[1]} choices.")
            part[:] = [np.nan if v is None else v for v in values]
    if not scores or any(np.isinf(each).any() for each in scores.values()):
        raise ValueError(f"{path} is not whole: evaluate on with evaluate_table.")
    return Table(space, scores, kept.higher, kept.about)
