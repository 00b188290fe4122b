"""Table D: 512 networks, each trained by itself; searchers held to it, and ENAS beside it.

    python benchmarks/architecture_table.py table     evaluate on from where it stopped
    python benchmarks/architecture_table.py search    every searcher on the table, 200 seeds
    python benchmarks/architecture_table.py enas      shared weights: 20 runs, each scored on all 512
    python benchmarks/architecture_table.py all       the three of them, the search if Optuna is there
    python benchmarks/architecture_table.py page      put the figures into docs/searched.md

--seconds: after which it stops, and keeps what is done; --processes, of one thread each; --out: the folder, `results`
unless given; --rehearse: all in miniature. It needs METALOOP_DATA.

A network is `nn.Macro` with three layers of four operations and three possible skips: 4^3 2^3 = 512. Fashion-MNIST's
pictures of 14x14 pixels (means of 2x2), 10 000 to train on; 400 steps of 64 by SGD with Nesterov's momentum .9, the
rate from .1 by a cosine to 0. Searchers see the mean accuracy over seeds on 5000 validation pictures; 10 000 others
test. A seed draws weights and batches, the same for all networks. ENAS trains the same network's weights in common, for
4000 steps; by them all 512 are then scored on 2000 of the validation pictures.
"""

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest, kendalltau
from shrunk import Parts, shrunk
from told import below, filled, interval, median_rank, p_value

from metaloop.core import Data
from metaloop.engine.checkpoint import write_bytes
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import generator, noise
from metaloop.nn import Macro
from metaloop.outer.enas import accuracy, enas, minibatch
from metaloop.outer.search_law import expected_rank
from metaloop.outer.search_space import read_space
from metaloop.outer.search_table import Table, evaluate_table, read_table

ROOT = Path(__file__).resolve().parent.parent
TABLE, SEARCHES, SHARED = "architecture-table.json", "architecture-search.json", "enas.json"
TRAIN, VALIDATION, TEST, BATCH, STEPS, SEEDS = 10_000, 5000, 10_000, 64, 400, 3
TOGETHER = 64  # networks between two writes of the table
RUNS, ROUNDS, UPDATES, LESSONS, SCORED = 20, 20, 200, 10, 2000
SEARCHERS = {"random": "random", "tpe": "TPE", "evolution": "regularised evolution", "controller": "controller"}
POINTS = (5, 10, 20, 30, 50, 75, 100)  # different networks after which ranks are kept
MOST, ASKS = 200, 10  # seeds of a searcher; answers for each of its networks, after which it has settled

SMALL = {"VALIDATION": 100, "TEST": 100, "STEPS": 2, "ROUNDS": 2, "UPDATES": 2, "LESSONS": 2, "SCORED": 10}
SMALL |= {"RUNS": 3, "MOST": 3, "TRAIN": 1000}

parts: Parts = {}  # of this process


def begin(small: bool) -> None:
    torch.set_num_threads(1)
    if small:
        globals().update(SMALL)
    parts.update(shrunk("fashion_mnist", 2, TRAIN, VALIDATION, TEST))


def data(part: str) -> Data:
    return Data(*parts[part])


def network(seed: int) -> Macro:
    with noise(seed, "architecture weights", 0):
        return Macro((1, 14, 14), 10)


SPACE = {name: list(values) for name, values in network(0).space.items()}


def nesterov(p: Iterator[torch.Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)


def trained(given: tuple[dict[str, Any], int]) -> dict[str, float]:
    """The accuracies of one network by itself; nan if it diverged."""
    choice, seed = given
    net = network(seed)
    a, optimizer = net.tokens(choice), nesterov(net.parameters())
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for t in range(STEPS):
        B = minibatch(data("train"), BATCH, generator(seed, "architecture batches", t))
        optimizer.zero_grad()
        F.cross_entropy(net(B.x, a), B.y).backward()
        optimizer.step()
        rate.step()
    fine = all(p.isfinite().all() for p in net.parameters())
    return {part: accuracy(net, a, data(part)) if fine else float("nan") for part in ("validation", "test")}


def shared(seed: int) -> dict[str, Any]:
    """A run of ENAS: the mean reward of each round, what it picked, and the accuracy of all 512 by its weights."""
    began, net = time.process_time(), network(1000 + seed)
    how = {"rounds": ROUNDS, "updates": UPDATES, "lessons": LESSONS, "batch": BATCH, "optimizer": nesterov}
    found = enas(net, data("train"), data("validation"), seed=seed, **how)
    table = Table(read_space(SPACE), {}, True, {})
    cells = [net.tokens(table.settings(i)) for i in range(len(table))]
    log_p = found.policy.log_p(torch.tensor(cells)).detach()
    some = Data(*(t[:SCORED] for t in parts["validation"]))
    every = [accuracy(net, a, some) for a in cells]
    return {
        "seed": seed, "picked": cells.index([*found.picked]), "rewards": [round(r, 4) for r in found.rewards],
        "entropy": round(-float((log_p.exp() * log_p).sum()), 3), "accuracies": [round(r, 4) for r in every],
        "seconds": round(time.process_time() - began, 1),
    }  # fmt: skip


def searched(given: tuple[str, int, int, str]) -> tuple[str, int, list[int]]:
    """Of one searcher and seed: the cells in the order that it evaluated them."""
    sampler, seed, seeds, path = given
    return sampler, seed, read_table(path, seeds=seeds).run(sampler, POINTS[-1], seed, asks=ASKS)


class Enough(Exception):
    pass


class Work:
    """Processes, until a time; and the folder of what is kept."""

    def __init__(self, seconds: float, processes: int, out: Path, *, small: bool):
        self.ends, self.out = time.monotonic() + seconds, out
        if small:
            globals().update(SMALL)
        self.pool = multiprocessing.get_context("spawn").Pool(processes, begin, (small,))

    def left(self) -> float:
        return max(0.0, self.ends - time.monotonic())

    def map(self, do, jobs: list) -> list:
        """All of them, or Enough."""
        try:
            return self.pool.map_async(do, jobs, chunksize=1).get(self.left())
        except multiprocessing.TimeoutError:
            raise Enough from None

    def each(self, found) -> Iterator[Any]:
        """Of an imap_unordered what comes in time."""
        try:
            while True:
                yield found.next(max(self.left(), 0.1))
        except (StopIteration, multiprocessing.TimeoutError):
            return

    def table(self, before: tuple[int, Any] | None = None) -> None:
        """before: a seed, and what is done before that one is begun."""
        waits = [before] if before else []

        def score(choices: list[dict[str, Any]], seed: int) -> dict[str, list[float]]:
            if waits and waits[0][0] == seed:
                waits.pop()[1]()
            found = self.map(trained, [(choice, seed) for choice in choices])
            return {part: [each[part] for each in found] for part in found[0]}

        about = {"data": "Fashion-MNIST 14x14", "steps": STEPS, "machine": machine(), "versions": versions()}
        how = {"seeds": SEEDS, "batch": TOGETHER, "about": about, "digits": 4}
        evaluate_table(self.out / TABLE, SPACE, score, **how)

    def enas(self):
        """Begin the runs that are not there yet."""
        done = {run["seed"] for run in kept(self.out / SHARED, "runs", [])["runs"]}
        return self.pool.imap_unordered(shared, [seed for seed in range(RUNS) if seed not in done])

    def keep_enas(self, found) -> None:
        for run in self.each(found):
            told = kept(self.out / SHARED, "runs", [])
            told["runs"] = sorted([*told["runs"], run], key=lambda run: run["seed"])
            write(self.out / SHARED, told)

    def search(self) -> None:
        path, table = self.out / TABLE, read(self.out)
        seeds, ranks, tests = len(table.scores["test"]), table.ranks(), table.means("test")
        told = kept(self.out / SEARCHES, "seeds", seeds, "ranks", {}, "test", {})
        if told["seeds"] != seeds:
            told = {"seeds": seeds, "ranks": {}, "test": {}}
        jobs = [
            (sampler, seed, seeds, str(path)) for seed in range(MOST) for sampler in SEARCHERS
            if str(seed) not in told["ranks"].setdefault(sampler, {})
        ]  # fmt: skip
        for i, (sampler, seed, order) in enumerate(self.each(self.pool.imap_unordered(searched, jobs, chunksize=1))):
            best = [order[int(ranks[order[:x]].argmin())] for x in POINTS]
            told["ranks"][sampler][str(seed)] = [int(ranks[cell]) for cell in best]
            told["test"].setdefault(sampler, {})[str(seed)] = [round(float(tests[cell]), 4) for cell in best]
            if i % 50 == 49:
                write(self.out / SEARCHES, told)
        write(self.out / SEARCHES, told)


def kept(path: Path, *otherwise: Any) -> dict[str, Any]:
    """What the file holds; otherwise, names and values by turns."""
    return json.loads(path.read_text()) if path.exists() else dict(zip(otherwise[::2], otherwise[1::2], strict=True))


def write(path: Path, told: dict[str, Any]) -> None:
    told |= {"machine": machine(), "versions": versions()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(told, separators=(",", ":")) + "\n").encode())


def read(out: Path) -> Table:
    """The table, of the seeds that are whole. Raises ValueError if none is."""
    path = out / TABLE
    done = [sum(len(e["scores"]["test"]) for e in kept(path, "batches", [])["batches"] if e["seed"] == s)
            for s in range(SEEDS)]  # fmt: skip
    whole = next((s for s, n in enumerate(done) if n < 512), SEEDS)
    if not whole:
        raise ValueError(f"{path} has no whole seed yet: {done[0]} of 512 networks.")
    return read_table(path, seeds=whole)


def per_cent(values) -> str:
    return plain([100 * v for v in values])


def show(out: Path) -> str:
    """The figures as they stand."""
    table = read(out)
    ranks, tests, many = table.ranks(), table.means("test"), len(table)
    means, best, twice = table.means(), int(ranks.argmin()), two_seeds(out)
    order, seeds, n = np.argsort(ranks), len(table.scores["test"]), twice.shape[1]
    lines = [
        f"{many} networks, {seeds} seed{'s' * (seeds > 1)}; {int(np.isnan(means).sum())} diverged. Of validation "
        f"accuracies, in per cent: the networks' standard deviation is {100 * np.nanstd(means, ddof=1):.2f}; {n} "
        f"networks have two seeds, over which a network's is {100 * np.sqrt(twice.var(0, ddof=1).mean()):.2f} and "
        f"Kendall's tau {kendalltau(*twice).statistic:.2f}. The best is {named(table, best)}, with "
        f"{100 * tests[best]:.2f} in test; the median network has "
        f"{100 * tests[order[many // 2]]:.2f}, the worst {100 * tests[order[-1]]:.2f}."
    ]
    if (out / SEARCHES).exists():
        lines += ["", *searchers(table, json.loads((out / SEARCHES).read_text()))]
    if (out / SHARED).exists():
        lines += ["", *of_shared(table, json.loads((out / SHARED).read_text())["runs"])]
    return "\n".join(lines) + "\n"


def two_seeds(out: Path) -> np.ndarray:
    """Validation accuracies [2, n] of the networks that the first two seeds have trained so far."""
    found = np.full((2, 512), np.nan)
    for each in kept(out / TABLE)["batches"]:
        if each["seed"] < 2:
            scores = np.array(each["scores"]["validation"], dtype=float)
            found[each["seed"], each["first"] : each["first"] + len(scores)] = scores
    return found[:, ~np.isnan(found).any(0)]


def named(table: Table, cell: int) -> str:
    chosen = table.settings(cell)
    ops, skips = (", ".join(v) for v in ([v for v in chosen.values() if isinstance(v, str)],
                                         [k for k, v in chosen.items() if v is True]))  # fmt: skip
    return f"`{ops}`, skips {skips or 'none'}"


def searchers(table: Table, told: dict[str, Any]) -> list[str]:
    """Ranks of the best so far beside random's exact median and expectation, and its test accuracy."""
    shown = [10, 20, 50, 100]
    lines = [
        f"| median and mean rank | seeds | {' | '.join(f'after {x} networks' for x in shown)} | test after 50, % |",
        "| --- " * (len(shown) + 3) + "|",
    ]
    law = [f"{median_rank(x, len(table))}, {expected_rank(x, len(table)):.1f}" for x in shown]
    lines.append(f"| random, exactly | all | {' | '.join(law)} | {100 * of_random(table, 50):.2f} |")
    for sampler, called in SEARCHERS.items():
        if found := [*told["ranks"].get(sampler, {}).values()]:
            row = []
            for x in shown:
                ranks = np.array(found)[:, POINTS.index(x)]
                row.append(f"{np.median(ranks):g}, {ranks.mean():.1f} ({p_value(below(ranks, x, len(table)))})")
            tests = [each[POINTS.index(50)] for each in told["test"][sampler].values()]
            lines.append(f"| {called} | {len(found)} | {' | '.join(row)} | {per_cent(tests)} |")
    return lines


def of_random(table: Table, draws: int) -> float:
    """The exact mean test accuracy of the best by validation of so many draws: rank r is the best of them with
    probability C(N-r, x-1) / C(N, x)."""
    n, tests = len(table), table.means("test")[np.argsort(table.ranks())]
    chances = [math.comb(n - r, draws - 1) / math.comb(n, draws) for r in range(1, n + 1)]
    return float(np.dot(chances, tests))


def of_shared(table: Table, runs: list[dict[str, Any]]) -> list[str]:
    """How shared weights order the networks, and what was picked by them."""
    means, ranks, tests = table.means(), table.ranks(), table.means("test")
    taus = [float(kendalltau(run["accuracies"], means).statistic) for run in runs]
    top = np.argsort(ranks)[: len(table) // 10]
    within = [float(kendalltau(np.array(run["accuracies"])[top], means[top]).statistic) for run in runs]
    picks = [run["picked"] for run in runs]
    better = sum(int(ranks[cell] <= len(table) // 2) for cell in picks)
    p = binomtest(better, len(picks), alternative="greater").pvalue
    seeds, rest = table.scores["validation"], []
    if len(seeds) > 1:
        rest = [kendalltau(one, np.delete(seeds, i, 0).mean(0)).statistic for i, one in enumerate(seeds)]
    beside = f"; of one seed of the table with the mean of the others it is {np.mean(rest):.2f}" if rest else ""
    return [
        f"ENAS, {len(runs)} of {RUNS} runs. Kendall's tau of accuracies by shared weights with the table's means is "
        f"{plain(taus)}{beside}. Among the table's best tenth it is {plain(within)}. The picks' true ranks have "
        f"the median {np.median(ranks[picks]):g} of {len(table)}; {better} of {len(picks)} are in the better half "
        f"({'p < .001' if p < 1e-3 else f'p {p:.3f}'}). Trained anew, the picks have {per_cent(tests[picks])} in test; "
        f"the mean of all networks is {100 * tests.mean():.2f}, the best of ten at random "
        f"{100 * of_random(table, 10):.2f}. A run took {np.mean([run['seconds'] for run in runs]):.0f} s of CPU, "
        "the scores of all networks by its weights included; the controller's entropy fell to "
        f"{np.mean([run['entropy'] for run in runs]):.1f} of {math.log(len(table)):.1f} nats.",
    ]


def plain(values: list[float]) -> str:
    """The mean, with half of its interval where there are several."""
    return "{:.2f} ± {:.2f}".format(*interval(values)) if len(values) > 1 else f"{values[0]:.2f}"


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("what", choices=["table", "search", "enas", "all", "show", "page"])
    given.add_argument("--seconds", type=float, default=3600)
    given.add_argument("--processes", type=int, default=1)
    given.add_argument("--out", type=Path, default=ROOT / "results")
    given.add_argument("--rehearse", action="store_true")
    asked = given.parse_args()
    if asked.what == "show":
        print(show(asked.out))
    elif asked.what == "page":
        path = ROOT / "docs" / "searched.md"
        path.write_text(filled(path.read_text(), "table D", show(asked.out), path.name))
    else:
        do(asked.what, Work(asked.seconds, asked.processes, asked.out, small=asked.rehearse))


def do(what: str, work: Work) -> None:
    began, runs = time.monotonic(), []
    try:
        if what == "table":
            work.table()
        if what == "all":  # the runs before the last seed, which fills what processes they leave
            work.table(before=(SEEDS - 1, lambda: runs.append(work.enas())))
    except Enough:
        print("stopped: the time is over", flush=True)
    if what == "enas" or (what == "all" and not runs):
        runs.append(work.enas())
    for each in runs:
        work.keep_enas(each)
    try:
        if what == "search" or (what == "all" and find_spec("optuna")):
            work.search()
        print(show(work.out))
    except ValueError as error:  # no seed of the table is whole
        print(error)
    work.pool.terminate()
    print(f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
