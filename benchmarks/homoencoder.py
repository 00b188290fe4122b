"""What each part of the homoencoder's bound is worth: runs beside each other on the same test characters.

    python benchmarks/homoencoder.py RUN ... [--tasks 100] [--out results/homoencoder-bounds.json]

RUN: of the homoencoder recipes. All are judged by one quantity, whatever they were trained by: the bound on
log p(X) / |X| of a whole test character X of 20 drawings, with c inferred from 5 of them and, as the Statistician reads
a set, from 19; in nats per drawing, with what it consists of, and in bits per pixel (an upper bound), of pixels of two
colours, or of as many greys as the recipe's `levels`. And by 20-way 1-shot accuracy. Tasks are of 20 classes.
Written beside: the paired difference of each run to the first one, with 95 % intervals over tasks.
"""

import argparse
import json
from math import log, prod
from pathlib import Path

import torch

import metaloop as ml
from metaloop.engine import Score
from metaloop.engine.batch import chunks
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import generator, noise
from metaloop.torch_private import pytree

WAYS, SIZE, READ = 20, 20, (5, 19)
KEPT = ("bound", "log_p", "kl_z", "kl_c")


def bounds(run: ml.Run, dealt: ml.Task, draws: int, seed: int) -> dict[str, Score]:
    """Of each task; noise is drawn anew `draws` times and averaged."""
    learner, found = run.plan.at_test(WAYS, decodes="class", class_size=SIZE, sample_dropout=False), []
    with torch.no_grad(), noise(seed, "bound", 0):
        for one in chunks(dealt, 1):
            task = pytree.tree_map(lambda t: t[0], one)
            each = [learner.objective(learner.adapt, run.theta, task)[1] for _ in range(draws)]
            found.append({name: sum(info[name].item() for info in each) / draws for name in KEPT})
    scores = {name: Score.of(torch.tensor([f[name] for f in found]), "nats") for name in KEPT}
    pixels = prod(dealt.support.x.shape[2:])
    return scores | {"bits per pixel": Score.of(-scores["bound"].per_task / pixels / log(2), "bits per pixel")}


def row(score: Score, scale: float = 1) -> dict[str, float]:
    return {"mean": scale * score.mean, "ci95": scale * score.ci95}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+")
    parser.add_argument("--tasks", type=int, default=100, help="for the bound (100); accuracy is of ten times as many")
    parser.add_argument("--draws", type=int, default=2, help="of noise for each task (2)")
    parser.add_argument("--newest", action="store_true",
                        help="the last step, for bits; else the one that was best in validation, by accuracy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="results/homoencoder-bounds.json")
    args = parser.parse_args()
    runs = [ml.open_run(folder, newest=args.newest) for folder in args.run]
    if other := [run.info["recipe"] for run in runs if not run.info["recipe"].startswith("homoencoder-")]:
        parser.error(f"{other[0]} is no recipe of the homoencoder.")
    if codes := [run.info["recipe"] for run in runs if run.info["recipe"].endswith("-codes")]:
        parser.error(f"{codes[0]} is a density of symbols, not of pixels: see benchmarks/codes.py.")
    if len({run.info["settings"].get("levels", 2) for run in runs}) > 1:
        parser.error("bits of pixels of two colours and of greys have nothing in common: give runs of one `levels`.")
    pool, rows, first = ml.recipes.find(runs[0].info["recipe"]).data(), [], {}
    for run in runs:
        scores = {}
        for n in READ:
            deal = generator(args.seed, "bound", n)
            dealt = pool.test.sample(tasks=args.tasks, ways=WAYS, shots=n, queries=SIZE - n, generator=deal)
            scores |= {f"{name}, {n} read": s for name, s in bounds(run, dealt, args.draws, args.seed).items()}
        at_test = run.plan.at_test(WAYS)
        scores["accuracy"] = ml.evaluate(
            at_test, run.theta, pool, tasks=10 * args.tasks, ways=WAYS, shots=1, queries=15, seed=args.seed
        )
        first = first or scores
        told = {name: row(score, 100 if name == "accuracy" else 1) for name, score in scores.items()}
        less = {name: row(score - first[name], 100 if name == "accuracy" else 1) for name, score in scores.items()}
        about = {k: run.info[k] for k in ("recipe", "budget", "steps", "seed")} | {"seconds": round(run.seconds, 1)}
        rows.append({"run": about, "scores": told, "differences to the first": less})
        shown = ("bound, 5 read", "bits per pixel, 5 read", "kl_c, 5 read", "accuracy")
        said = ", ".join(f"{name} {told[name]['mean']:.4g}" for name in shown)
        print(f"{run.info['recipe']}, seed {run.info['seed']}: {said}", flush=True)
    result = {
        "command": f"python benchmarks/homoencoder.py RUN ... --tasks {args.tasks} --draws {args.draws}"
        + " --newest" * args.newest,
        "tasks": args.tasks, "seed": args.seed, "rows": rows, "machine": machine(), "versions": versions(),
    }  # fmt: skip
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
