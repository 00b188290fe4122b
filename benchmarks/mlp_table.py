"""Table A: 1000 configurations of an MLP, each trained on eight PMLB tables, and searchers held to random search's law.

    python benchmarks/mlp_table.py table [NAME ...]       evaluate tables; what is there is not done again
    python benchmarks/mlp_table.py search NAME SAMPLER    run a searcher on a table
    python benchmarks/mlp_table.py show                   the figures as they stand
    python benchmarks/mlp_table.py page                   put them into docs/search.md

A configuration is a width, a rate and a weight decay, ten values each; the network is trained by SGD with momentum, the
hundred configurations of a width in one batch. Searchers see the mean validation accuracy over seeds. The tables were
chosen before anything was trained: of PMLB's classification tasks with 900 to 6000 rows eight without twins that are
made of measurements, where no class has nine tenths of the rows.
"""

import gzip
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import wilcoxon
from told import below, filled, median_rank, p_value
from torch import Tensor

from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import place
from metaloop.outer.search_law import expected_rank
from metaloop.outer.search_table import Table, evaluate_table, read_table

ROOT = Path(__file__).resolve().parent.parent
FOLDER, SEARCHES = ROOT / "results" / "mlp-table", ROOT / "results" / "mlp-search.json"
TABLES = ("churn", "phoneme", "segmentation", "spambase", "vowel", "waveform_21", "wine_quality_red", "yeast")
SPACE = {
    "width": [2, 3, 4, 6, 9, 13, 20, 30, 45, 64],
    "rate": [float(f"{r:.3g}") for r in np.geomspace(1e-3, 3, 10)],
    "decay": [float(f"{r:.3g}") for r in np.geomspace(1e-5, 0.3, 10)],
}
TOGETHER = 100  # configurations of one width
TRAIN, VALIDATION, TEST, BATCH, STEPS, SEEDS = 600, 400, 1000, 32, 150, 3
DRAWS = 50
ASKS = {"gp": 10}  # answers for each draw, after which a searcher has settled; of the others 100
POINTS = (5, 10, 15, 20, 25, 30, 40, 50)  # draws after which ranks are kept


def data(name: str, seed: int) -> tuple[Tensor, Tensor]:
    """Columns of mean 0 and variance 1 over the training rows, [n, d], and classes [n]; rows in the seed's order."""
    path = Path(os.environ["METALOOP_DATA"]) / "pmlb" / "datasets" / name / f"{name}.tsv.gz"
    with gzip.open(path, "rt") as file:
        columns = file.readline().rstrip("\n").split("\t")
        rows = np.loadtxt(file, delimiter="\t")
    rows = rows[np.random.default_rng(place(seed, "rows", 0)).permutation(len(rows))]
    target = columns.index("target")
    x = np.delete(rows, target, 1)
    spread = x[:TRAIN].std(0)
    x = (x - x[:TRAIN].mean(0)) / np.where(spread > 0, spread, 1)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(np.unique(rows[:, target], return_inverse=True)[1])


def score(name: str):
    def train(choices: list[dict], seed: int) -> dict[str, list[float]]:
        """Accuracies of every choice after training; nan where parameters are not finite."""
        x, y = data(name, seed)
        g = torch.Generator().manual_seed(place(seed, "weights", 0))
        rate, decay = (torch.tensor([c[k] for c in choices], dtype=torch.float32) for k in ("rate", "decay"))
        (width,) = {c["width"] for c in choices}
        n, d, classes = len(choices), x.shape[1], int(y.max()) + 1
        W = torch.randn(d, width, generator=g).mul(d**-0.5).repeat(n, 1, 1)
        V = torch.randn(width, classes, generator=g).mul(width**-0.5).repeat(n, 1, 1)
        p = {"W": W, "b": torch.zeros(n, width), "V": V, "c": torch.zeros(n, classes)}
        speed = {k: torch.zeros_like(v) for k, v in p.items()}

        for v in p.values():
            v.requires_grad_(True)

        def f(x: Tensor) -> Tensor:
            """[n, rows, classes]"""
            h = torch.relu(torch.baddbmm(p["b"][:, None], x.expand(n, -1, -1), p["W"]))
            return torch.baddbmm(p["c"][:, None], h, p["V"])

        for _ in range(STEPS):
            rows = torch.randint(TRAIN, (BATCH,), generator=g)
            answers = f(x[rows]).flatten(0, 1)
            losses = torch.nn.functional.cross_entropy(answers, y[rows].repeat(n), reduction="sum") / BATCH
            grads = torch.autograd.grad(losses, [*p.values()])  # of a sum over configurations: each has its own
            with torch.no_grad():
                for (k, v), dv in zip(p.items(), grads, strict=True):
                    shape = (n,) + (1,) * (v.dim() - 1)
                    speed[k].mul_(0.9).add_(dv).addcmul_(v, decay.view(shape))
                    v.addcmul_(speed[k], rate.view(shape), value=-1)
        ends = {"validation": (TRAIN, TRAIN + VALIDATION), "test": (TRAIN + VALIDATION, TRAIN + VALIDATION + TEST)}
        fine = torch.stack([v.flatten(1).isfinite().all(1) for v in p.values()]).all(0)
        with torch.no_grad():
            right = {
                part: (f(x[a:b]).argmax(-1) == y[a:b]).float().mean(1)
                for part, (a, b) in ends.items() if len(y) > a
            }  # fmt: skip
        return {part: torch.where(fine, share, torch.nan).tolist() for part, share in right.items()}

    return train


def table(name: str) -> None:
    began = time.process_time()
    about = {"data": f"PMLB {name}", "machine": machine(), "versions": versions(), "command": command()}
    how = {"seeds": SEEDS, "batch": TOGETHER, "about": about, "digits": 4}
    found = evaluate_table(FOLDER / f"{name}.json", SPACE, score(name), **how)
    print(f"{name}: {describe(found)}, {time.process_time() - began:.0f} s of CPU", flush=True)


def describe(found: Table) -> str:
    noise = found.noise()
    best = found.settings(int(found.ranks().argmin()))
    told = ", ".join(f"{k} {v:.3g}" for k, v in noise.items())
    return f"best {np.nanmax(found.means()):.4f} at {best}, {told}"


def search(name: str, sampler: str, seeds: int, draws: int) -> None:
    """The rank of the best of the first x draws, or of all where a searcher settles early, for each x and seed; seeds
    that are there are not done again. Raises SystemExit if they were allowed another number of answers."""
    found = read_table(FOLDER / f"{name}.json")
    ranks = found.ranks()
    kept = json.loads(SEARCHES.read_text()) if SEARCHES.exists() else {"ranks": {}}
    told = kept["ranks"].setdefault(name, {}).setdefault(sampler, [])
    asks, before = ASKS.get(sampler, 100), kept.setdefault("asks", {}).setdefault(name, {})
    if told and before.get(sampler, 100) != asks:
        raise SystemExit(f"{name} {sampler}: seeds that settle after {before.get(sampler, 100)} answers: delete them")
    before[sampler], began = asks, time.process_time()
    for seed in range(len(told), seeds):
        order = found.run(sampler, draws, seed, asks=asks)
        told.append([int(ranks[order[:x]].min()) for x in POINTS if x <= draws])
        kept |= {"points": list(POINTS), "machine": machine(), "versions": versions()}
        SEARCHES.write_text(json.dumps(kept, separators=(",", ":")) + "\n")
    print(f"{name} {sampler}: {time.process_time() - began:.0f} s of CPU", flush=True)


def held(ranks: np.ndarray, draws: int) -> tuple[float, float, float]:
    """Of ranks after so many draws, one of each seed: their median, the exact p that random's are as good, and
    Wilcoxon's that they are not below random's median."""
    gaps = ranks - median_rank(draws, 1000)
    return float(np.median(ranks)), below(ranks, draws, 1000), float(wilcoxon(gaps, alternative="less")[1])


def grids(found: Table) -> list[int]:
    """The best rank in each of the three even grids of 4, 4 and 3 values of the ten, 48 cells."""
    ranks, even = found.ranks().reshape(10, 10, 10), {n: [int((2 * i + 1) * 5 / n) for i in range(n)] for n in (3, 4)}
    shapes = ((3, 4, 4), (4, 3, 4), (4, 4, 3))
    return [int(ranks[np.ix_(*(even[n] for n in shape))].min()) for shape in shapes]


def show() -> str:
    """The figures as they stand, as the page has them: of each searcher that has been run on a table."""
    kept = json.loads(SEARCHES.read_text())["ranks"]
    run = {"random": ("random, 50 draws", 50)}
    run |= {"tpe": ("TPE, 50 draws", 50), "tpe at 25": ("TPE, 25 draws", 25), "gp": ("GP, 25 draws", 25)}
    kept = {name: {**of, "tpe at 25": of.get("tpe", [])} for name, of in kept.items()}
    run = {sampler: how for sampler, how in run.items() if any(kept.get(name, {}).get(sampler) for name in TABLES)}
    head = ["PMLB table", "best of 1000", "a cell's spread over seeds", "the cells' spread", "tau of two seeds"]
    rows, reached = [[*head, *(title for title, _ in run.values()), "grids of 48"]], np.zeros(2, int)
    rows.append(["---"] * len(rows[0]))
    for name in TABLES:
        found = read_table(FOLDER / f"{name}.json")
        noise, cells = found.noise(), []
        for sampler, (_, draws) in run.items():
            if not kept.get(name, {}).get(sampler):
                cells.append("not run yet")
                continue
            ranks = np.array([each[POINTS.index(draws)] for each in kept[name][sampler]])
            median, *both = held(ranks, draws)
            cells.append(f"{median:g} ({p_value(both[0])}, {len(ranks)} seeds)")
            reached += [sampler == "tpe" and p < 0.01 and median < expected_rank(draws, 1000) for p in both]
        spread = [f"{100 * noise[k]:.1f}" for k in ("over seeds", "over cells")]
        cells.append(", ".join(map(str, sorted(grids(found)))))
        rows.append([name, f"{100 * np.nanmax(found.means()):.1f}", *spread, f"{noise['tau']:.2f}", *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    law = [f"{expected_rank(x, 1000):.1f} and {median_rank(x, 1000)} after {x}" for x in (50, 48, 25)]
    told = f"Random's exact expectation and median are {', '.join(law)} draws. TPE's median after 50 is below the "
    told += f"expectation with p < .01 on {reached[0]} of {len(TABLES)}, and with Wilcoxon's p < .01 on {reached[1]}."
    return "\n".join([*lines, "", told]) + "\n"


def page() -> None:
    """Put the figures into docs/search.md."""
    path = ROOT / "docs" / "search.md"
    path.write_text(filled(path.read_text(), "table A", show(), path.name))


def command() -> str:
    return " ".join(["python", "benchmarks/mlp_table.py", *sys.argv[1:]])


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    if words[:1] == ["table"]:
        for name in words[1:] or TABLES:
            table(name)
    elif words[:1] == ["search"]:
        name, sampler = words[1:3]
        seeds, draws = (int(words[3]), int(words[4])) if len(words) > 4 else (200, DRAWS)
        search(name, sampler, seeds, draws)
    elif words[:1] == ["page"]:
        page()
    else:
        print(show())


if __name__ == "__main__":
    main(sys.argv[1:])
