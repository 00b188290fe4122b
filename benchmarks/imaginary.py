"""What imagined examples add to prototypes, and whether noise would have done: paired differences on the same tasks.

    python benchmarks/imaginary.py RUN ... [--tasks 1000] [--out results/imaginary-omniglot-gains.json]

RUN: of an imaginary recipe, one for each seed. On the fixed features of each, at 1, 2, 5 and 10 shots:

    real        prototypes of the real examples alone
    imagined    of real and imagined ones
    no noise    the same network with its noise at 0: what the layers do without any variety
    spread      real ones, and as many with Gaussian noise of the features' covariance within classes, which is pooled
                over meta-training classes: what a single matrix knows of how classes vary

Written: accuracy in per cent and its paired difference to `real`, with 95 % intervals over tasks; and where there are
several runs the mean of the differences over runs, with the interval over them.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

import metaloop as ml
from metaloop.engine import Score
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import generator

SHOTS = (1, 2, 5, 10)
OTHERS = ("imagined", "no noise", "spread")


def within_classes(net, params: dict[str, Tensor], pool, seed: int) -> Tensor:
    """The covariance of features within classes, pooled over classes of meta-training: [dim, dim]."""
    found, degrees, ways = torch.zeros(()), 0, min(20, pool.train.classes)
    for i in range(100):
        deal = generator(seed, "spread", i)
        task = pool.train.sample(tasks=1, ways=ways, shots=10, queries=10, generator=deal)
        with torch.no_grad():
            z = torch.stack([net(params, part.x[0])[part.y[0].argsort()].unflatten(0, (ways, 10)) for part in task], 1)
        z = z.flatten(1, 2).double()
        apart = z - z.mean(1, keepdim=True)
        found, degrees = found + torch.einsum("kia,kib->ab", apart, apart), degrees + ways * 19
    return found / degrees


def compare(run: ml.Run, pool, tasks: int, seed: int) -> dict:
    learner, theta = run.learner, run.theta
    ways, queries = run.plan.rows[0].ways, 10
    examples, _ = theta["noise"].shape
    support = pool.test.sample(tasks=1, ways=ways, generator=generator(seed, "looks", 0)).support
    f = learner.adapt(theta, ml.Data(support.x[0], support.y[0]))  # which knows the features' network
    covariance = within_classes(f.embed, theta["embed"], pool, seed)
    dim = len(covariance)
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp_min(0).sqrt()).float()  # of a covariance that may be singular
    added = (lambda params, v: v[:, :dim] + v[:, dim:] @ params["root"].mT), (lambda seed: {"root": root})
    how = {"ways": ways, "noise": dim, "examples": examples, "embed": (f.embed, lambda seed: theta["embed"])}
    spread = ml.imaginary(ml.protonet(*ml.functional(nn.Identity()), ways=ways), added, **how)
    noisy = spread.init(seed) | {"embed": theta["embed"]}
    rows = {
        "real": (run.plan.at_test(ways, imagines=False), theta),
        "imagined": (learner, theta),
        "no noise": (learner, {**theta, "noise": torch.zeros_like(theta["noise"])}),
        "spread": (spread, noisy),
    }
    told, gains = {}, {}
    for n in SHOTS:
        episode = {"ways": ways, "shots": n, "queries": queries, "tasks": tasks, "seed": seed}
        scores = {name: ml.evaluate(one, t, pool, **episode) for name, (one, t) in rows.items()}
        gains[n] = {name: scores[name] - scores["real"] for name in OTHERS}
        gains[n]["imagined - spread"] = scores["imagined"] - scores["spread"]
        told[n] = {name: row(score) for name, score in scores.items()}
        told[n]["differences"] = {name: row(score) for name, score in gains[n].items()}
        print(f"{n} shots: " + ", ".join(f"{name} {score}" for name, score in scores.items()), flush=True)
    few, many = (gains[n]["imagined"] for n in (SHOTS[0], SHOTS[-1]))
    less = {"mean": 100 * (few.mean - many.mean), "ci95": 100 * (few.ci95**2 + many.ci95**2) ** 0.5}
    return {
        "run": {k: run.info[k] for k in ("recipe", "budget", "steps", "seed")} | {"seconds": round(run.seconds, 1)},
        "noise_weights": theta["generator"]["0.0.weight"][:, dim:].norm().item(),
        "shots": told, "gain at 1 shot less that at 10": less,
    }  # fmt: skip


def row(score: Score) -> dict[str, float]:
    """In per cent."""
    return {"mean": 100 * score.mean, "ci95": 100 * score.ci95}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    args = parser.parse_args()
    runs = [ml.open_run(folder) for folder in args.run]
    recipes = {run.info["recipe"] for run in runs}
    if len(recipes) > 1 or "imaginary" not in min(recipes):
        parser.error(f"these are runs of {', '.join(sorted(recipes))}, expected one imaginary recipe.")
    recipe = recipes.pop()
    pool = ml.recipes.find(recipe).data()
    found = [compare(run, pool, args.tasks, args.seed) for run in runs]
    over = {
        n: {
            name: row(Score.of(torch.tensor([f["shots"][n]["differences"][name]["mean"] / 100 for f in found])))
            for name in (*OTHERS, "imagined - spread")
        } for n in SHOTS
    } if len(runs) > 1 else None  # fmt: skip
    result = {
        "command": f"python benchmarks/imaginary.py RUN ... --tasks {args.tasks} --seed {args.seed}",
        "tasks": args.tasks, "runs": found, "differences over runs": over,
        "machine": machine(), "versions": versions(),
    }  # fmt: skip
    out = Path(args.out or f"results/{recipe}-gains.json")
    out.write_text(json.dumps(result, indent=2) + "\n")
    for n, differences in (over or {}).items():
        told = ", ".join(f"{name} {d['mean']:+.2f} ± {d['ci95']:.2f}" for name, d in differences.items())
        print(f"{n} shots, over {len(runs)} runs: {told}")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
