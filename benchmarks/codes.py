"""What two levels of symbols and a prior over them are worth: a run of homoencoder-omniglot-codes on test characters.

    python benchmarks/codes.py RUN ... [--tasks 100] [--out results/codes.json]

Of each run: bits per symbol of test drawings, of both grids and together, under (a) all symbols alike, log2 K; (b) each
symbol as often as in training drawings; (c) the prior given five drawings of the class; in pairs. They are bits of
symbols, of which a drawing has 65, and not of pixels. Then the squared error per pixel of both levels, and with the
vectors of either set to zero, in pairs; and how many symbols are in use, as a perplexity.
"""

import argparse
import json
from math import log
from pathlib import Path

import torch

import metaloop as ml
from metaloop.engine import Score
from metaloop.engine.batch import chunks
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import generator, noise
from metaloop.nn.quantize import chances, perplexity, shares
from metaloop.torch_private import pytree

WAYS, SHOTS, QUERIES = 20, 5, 5
COUNTED = 100  # training tasks whose symbols are counted


def module_of(run: ml.Run) -> ml.nn.CodeDensity:
    """The run's prior with its levels, as a module that holds the run's parameters."""
    kept, shape = run.info["settings"], tuple(run.info["pool"]["shape"])
    levels = ml.nn.TwoLevels(shape, symbols=kept["symbols"], dim=kept["dim"], width=kept["level_width"])
    module = ml.nn.CodeDensity(kept["c"], levels, width=kept["width"], depth=kept["blocks"])
    module.load_state_dict(run.theta["decoder"])
    return module


def judged(run: ml.Run, pool, tasks: int, seed: int) -> dict[str, Score]:
    """Each quantity of each task."""
    module, learner = module_of(run), run.plan.at_test(WAYS)
    levels, places = module.levels, None
    usual = {}
    with torch.no_grad(), noise(seed, "codes", 0):
        seen = pool.train.sample(
            tasks=COUNTED, ways=WAYS, shots=SHOTS, queries=1, generator=generator(seed, "counted", 0)
        ).support.x
        pairs = zip(*(levels.seen(x)[2:4] for x in seen), strict=True)
        for name, k in zip(("top", "bottom"), pairs, strict=True):
            k = torch.stack(k)
            q = (shares(k, levels.symbols) * k.numel() + 1) / (k.numel() + levels.symbols)
            usual[name] = (q.log(), perplexity(k, levels.symbols).item())
        found = []
        dealt = pool.test.sample(
            tasks=tasks, ways=WAYS, shots=SHOTS, queries=QUERIES, generator=generator(seed, "codes", 1)
        )
        for one in chunks(dealt, 1):
            S, Q = pytree.tree_map(lambda t: t[0], one)
            f = learner.adapt(run.theta, S)
            e_t, e_b, t, b, _ = levels.seen(Q.x)
            prior = dict(zip(("top", "bottom"), module.log_p(f.c.draw()[Q.y], Q.x), strict=True))
            told = {}
            for name, k in (("top", t), ("bottom", b)):
                scores = usual[name][0][None, :, None, None].expand(len(k), -1, *k.shape[1:])
                told[name] = {"as often": -chances(scores, k) / log(2), "prior, 5 read": -prior[name] / log(2)}
            told["both"] = {way: torch.cat([told["top"][way], told["bottom"][way]], 1) for way in told["top"]}
            row = {f"bits per symbol, {name}, {way}": bits.mean().item()
                   for name, ways in told.items() for way, bits in ways.items()}  # fmt: skip
            for name, pair in (("both levels", (e_t, e_b)), ("no top", (0 * e_t, e_b)), ("no bottom", (e_t, 0 * e_b))):
                row[f"squared error, {name}"] = (levels.drawn(*pair) - Q.x).square().mean().item()
            found.append(row)
    scores = {name: Score.of(torch.tensor([row[name] for row in found]), name.split(",")[0]) for name in found[0]}
    for name in ("top", "bottom", "both"):
        of = f"bits per symbol, {name}"
        scores[f"{of}, prior less as often"] = scores[f"{of}, prior, 5 read"] - scores[f"{of}, as often"]
    for name in ("no top", "no bottom"):
        scores[f"squared error, {name} less both"] = (
            scores[f"squared error, {name}"] - scores["squared error, both levels"]
        )
    places = sum(a * b for a, b in levels.grids)
    constant = {"bits per symbol, all alike": log(levels.symbols, 2), "symbols of a drawing": places}
    constant |= {f"perplexity, {name}, training": usual[name][1] for name in usual}
    return {name: {"mean": s.mean, "ci95": s.ci95} for name, s in scores.items()}, constant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="results/codes.json")
    args = parser.parse_args()
    runs, rows = [ml.open_run(folder) for folder in args.run], []
    if other := [run.info["recipe"] for run in runs if not run.info["recipe"].endswith("-codes")]:
        parser.error(f"{other[0]} has no symbols.")
    pool = ml.recipes.find(runs[0].info["recipe"]).data()
    for run in runs:
        scores, constant = judged(run, pool, args.tasks, args.seed)
        about = {k: run.info[k] for k in ("recipe", "budget", "steps", "seed")} | {"seconds": round(run.seconds, 1)}
        rows.append({"run": about, "scores": scores, "constants": constant})
        for name, value in (constant | {name: s["mean"] for name, s in scores.items()}).items():
            print(f"{name}: {value:.4g}", flush=True)
    result = {
        "command": f"python benchmarks/codes.py RUN ... --tasks {args.tasks}", "tasks": args.tasks, "seed": args.seed,
        "rows": rows, "machine": machine(), "versions": versions(),
    }  # fmt: skip
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
