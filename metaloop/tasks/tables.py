"""The small tables of the Penn Machine Learning Benchmarks, each with its own columns and classes."""

import os
from pathlib import Path

import torch

from ..core import Task
from ..torch_private import pytree
from .files import data_folders
from .own import read_rows, table
from .pool import ClassPool, Pool

URL = "https://github.com/EpistasisLab/pmlb"
OF_CLASSES = "classification"  # as its summary calls them


class Tables(Pool):
    """Tasks from tables, one table each: `tables`, name -> ClassPool of its rows, filled up with columns of 0.

    A task draws one of the tables that have enough classes with enough rows, evenly; `sample` raises ValueError if
    there is none.
    """

    def __init__(self, tables: dict[str, ClassPool], *, name: str, skipped=()):
        self.tables, self.name, self.skipped = tables, name, skipped
        first = next(iter(tables.values()))
        self.shape, self.device = first.shape, first.device

    def fitting(self, ways: int, shots: int, queries: int) -> list[str]:
        """The tables that such a task can be drawn from."""
        return [name for name, t in self.tables.items() if int((t.counts >= shots + queries).sum()) >= ways]

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        self._check_positive(tasks=tasks, ways=ways, shots=shots, queries=queries)
        names = self.fitting(ways, shots, queries)
        if not names:
            call = self._call(ways=ways, shots=shots, queries=queries)
            raise ValueError(f"{call} has no table of so many classes with so many rows each. Ask for fewer.")
        where = generator.device if generator is not None else torch.device("cpu")
        drawn = torch.randint(len(names), (tasks,), generator=generator, device=where).tolist()
        each = [self.tables[names[i]].sample(1, ways, shots, queries, generator) for i in drawn]
        return pytree.tree_map(lambda *parts: torch.cat(parts), *each)

    def to(self, device) -> "Tables":
        moved = {name: t.to(device) for name, t in self.tables.items()}
        return Tables(moved, name=self.name, skipped=self.skipped)

    def __repr__(self) -> str:
        return f"{self.name}({len(self.tables)} tables, of up to {self.shape[0]} columns)"


def pmlb(root: str | os.PathLike | None = None, *, features: int = 10, classes: int = 10) -> Tables:
    """The classification tables of PMLB (Olson et al. 2017; Romano et al. 2021) with at most so many columns and
    classes: x float32 [tasks, n, features], as the tables have them, then columns of 0; `ways` classes of one table.

    root: a copy of PMLB's repository or a folder that holds it as `pmlb`, METALOOP_DATA unless given; nothing is
    downloaded. Tables are chosen by its `all_summary_stats.tsv`. `skipped` tells which of them were not there, or have
    cells that are missing or no numbers. Raises ValueError if none is there.
    """
    places = [folder for folder in data_folders("pmlb", root) if (folder / "all_summary_stats.tsv").is_file()]
    if not places:
        raise ValueError(f"pmlb: there is no all_summary_stats.tsv in {root or 'METALOOP_DATA'}. Fetch {URL}.")
    about = read_rows("pmlb", places[0] / "all_summary_stats.tsv")
    tables, skipped = {}, []
    rows = zip(*(about[column] for column in ("dataset", "task", "n_features", "n_classes")), strict=True)
    for name, task, columns, kinds in sorted(rows):
        if task != OF_CLASSES or float(columns) > features or float(kinds) > classes:
            continue
        path = places[0] / "datasets" / name / f"{name}.tsv.gz"
        if reason := _fault(path):
            skipped.append((path, reason))
            continue
        found = table(path, label="target", split=None, standardize=False)
        assert isinstance(found, ClassPool)
        x = torch.nn.functional.pad(found.images, (0, features - found.shape[0]))
        tables[name] = ClassPool(x, found.counts, found.names, name=name, rows=found.rows)
    if not tables:
        raise ValueError(f"pmlb: none of its tables is in {places[0] / 'datasets'}. Fetch {URL}.")
    return Tables(tables, name="pmlb", skipped=skipped)


def _fault(path: Path) -> str:
    """Why a table is left out, or nothing."""
    if not path.is_file():
        return "not there"
    try:
        for column in read_rows("pmlb", path).values():
            [float(cell) for cell in column]
    except ValueError as error:
        return str(error)
    return ""
