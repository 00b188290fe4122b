"""What two levels of symbols and a prior over them are worth: a run of homoencoder-omniglot-codes on test characters.

    python benchmarks/codes.py RUN ... [--tasks 100] [--out results/codes.json]

Of each run, at its last step (validation, by accuracy, chooses for something else): bits per symbol of test drawings,
of both grids and together, under (a) all symbols alike, log2 K; (b) each symbol as often as in training drawings; (c)
the prior given five drawings of the class, or of another one, which tells what the five are worth beside the symbols
that were read before; in pairs. They are bits of symbols, of which a drawing has 65, and not of pixels. Then the
squared error per pixel of both levels, and with the vectors of either set to zero, in pairs; and how many symbols are
in use, as a perplexity.
"""

import argparse
import json
from math import log
from pathlib import Path

import torch
from torch import Tensor

import metaloop as ml
from metaloop.engine import Score
from metaloop.engine.batch import chunks
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import generator, noise
from metaloop.nn.quantize import chances, shares
from metaloop.torch_private import pytree

WAYS, SHOTS, QUERIES, GRIDS = 20, 5, 5, ("top", "bottom")
COUNTED = 100  # training tasks whose symbols are counted


def module_of(run: ml.Run) -> ml.nn.CodeDensity:
    """The run's prior with its levels, as a module that holds the run's parameters."""
    kept, shape = run.info["settings"], tuple(run.info["pool"]["shape"])
    levels = ml.nn.TwoLevels(shape, symbols=kept["symbols"], dim=kept["dim"], width=kept["level_width"])
    module = ml.nn.CodeDensity(kept["c"], levels, width=kept["width"], depth=kept["blocks"])
    module.load_state_dict(run.theta["decoder"])
    return module


def counted(levels: ml.nn.TwoLevels, pool, seed: int) -> dict[str, Tensor]:
    """How often each symbol of each grid is there in training drawings; each at least once."""
    deal = generator(seed, "counted", 0)
    x = pool.train.sample(tasks=COUNTED, ways=WAYS, shots=SHOTS, queries=1, generator=deal).support.x
    found = zip(*(levels.seen(each)[2:4] for each in x), strict=True)
    n = {name: torch.cat([k.flatten() for k in ks]) for name, ks in zip(GRIDS, found, strict=True)}
    return {name: (shares(k, levels.symbols) * len(k)).clamp_min(1) / len(k) for name, k in n.items()}


def of_task(run: ml.Run, learner: ml.Learner, module: ml.nn.CodeDensity, often: dict[str, Tensor], task: ml.Task):
    """Each quantity, on the queries of one task."""
    f, (x, y) = learner.adapt(run.theta, task.support), task.query
    e_t, e_b, *symbols, _ = module.levels.seen(x)
    c, bits = f.c.draw(), {"as often": {}, "prior, 5 read": {}, "prior, 5 of another class": {}}
    prior, others = module.log_p(c[y], x), module.log_p(c.roll(1, 0)[y], x)
    for name, k, log_p, misled in zip(GRIDS, symbols, prior, others, strict=True):
        q = (often[name] / often[name].sum()).log()
        bits["as often"][name] = -chances(q[None, :, None, None].expand(len(k), -1, *k.shape[1:]), k) / log(2)
        bits["prior, 5 read"][name] = -log_p / log(2)
        bits["prior, 5 of another class"][name] = -misled / log(2)
    for told in bits.values():
        told["both"] = torch.cat([told[name] for name in GRIDS], 1)
    found = {f"bits per symbol, {grid}, {way}": told[grid].mean().item() for way, told in bits.items() for grid in told}
    for name, pair in (("both levels", (e_t, e_b)), ("no top", (0 * e_t, e_b)), ("no bottom", (e_t, 0 * e_b))):
        found[f"squared error, {name}"] = (module.levels.drawn(*pair) - x).square().mean().item()
    return found


def judged(run: ml.Run, pool, tasks: int, seed: int) -> tuple[dict[str, Score], dict[str, float]]:
    """Scores over test tasks, paired differences among them; and what is the same for all tasks."""
    module, learner = module_of(run), run.plan.at_test(WAYS)
    levels, deal = module.levels, generator(seed, "codes", 1)
    with torch.no_grad(), noise(seed, "codes", 0):
        often = counted(levels, pool, seed)
        dealt = pool.test.sample(tasks=tasks, ways=WAYS, shots=SHOTS, queries=QUERIES, generator=deal)
        each = (pytree.tree_map(lambda t: t[0], one) for one in chunks(dealt, 1))
        found = [of_task(run, learner, module, often, task) for task in each]
    scores = {
        name: Score.of(torch.tensor([row[name] for row in found], dtype=torch.float64), name.partition(",")[0])
        for name in found[0]
    }
    for grid in (*GRIDS, "both"):
        of = f"bits per symbol, {grid}"
        for name in ("as often", "prior, 5 of another class"):
            scores[f"{of}, prior less {name}"] = scores[f"{of}, prior, 5 read"] - scores[f"{of}, {name}"]
    for name in ("no top", "no bottom"):
        less = scores[f"squared error, {name}"] - scores["squared error, both levels"]
        scores[f"squared error, {name} less both levels"] = less
    places = sum(a * b for a, b in levels.grids)
    constants = {"bits per symbol, all alike": log(levels.symbols, 2), "symbols of a drawing": places}
    for grid, q in often.items():
        constants[f"perplexity, {grid}, training"] = torch.special.entr(q / q.sum()).sum().exp().item()
    return scores, constants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="results/codes.json")
    args = parser.parse_args()
    runs, rows = [ml.open_run(folder, newest=True) for folder in args.run], []
    if other := [run.info["recipe"] for run in runs if not run.info["recipe"].endswith("-codes")]:
        parser.error(f"{other[0]} has no symbols.")
    pool = ml.recipes.find(runs[0].info["recipe"]).data()
    for run in runs:
        scores, constants = judged(run, pool, args.tasks, args.seed)
        about = {k: run.info[k] for k in ("recipe", "budget", "steps", "seed")}
        about |= {"coding": run.info["settings"]["coding"], "seconds": round(run.seconds, 1)}
        told = {name: {"mean": s.mean, "ci95": s.ci95} for name, s in scores.items()}
        rows.append({"run": about, "scores": told, "constants": constants})
        print(*(f"{name}: {value:.4g}" for name, value in constants.items()), sep="\n")
        print(*(f"{name}: {s.mean:.4g} ± {s.ci95:.2g}" for name, s in scores.items()), sep="\n", flush=True)
    result = {
        "command": f"python benchmarks/codes.py RUN ... --tasks {args.tasks}", "tasks": args.tasks, "seed": args.seed,
        "rows": rows, "machine": machine(), "versions": versions(),
    }  # fmt: skip
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
