"""A recurrent network that learned to learn, beside online gradient descent on the same stream of examples.

    python benchmarks/online_sgd.py RUN [--tasks 1000] [--out results/online-sgd-quadratic.json]

RUN: of a meta-rnn recipe. Online descent: a perceptron with one layer of tanh units that takes one step on each example
when it comes, the last first forgotten; its size and rate are the best of a grid, chosen on these very tasks at 35
examples, so it is favoured. Written: the mean squared error on the next example after 1, 2, 5 ... examples, with 95 %
intervals over tasks, and the paired difference at 35.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad

import metaloop as ml
from metaloop.engine import Score
from metaloop.engine.batch import predict
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import generator
from metaloop.learners.maml import FineTuned
from metaloop.objectives import query_loss

EXAMPLES = (1, 2, 5, 10, 20, 30, 35, 50)
CHOSEN_AT, QUERIES = 35, 20
UNITS = (5, 10, 20, 40, 80)
RATES = torch.logspace(-3, 1, 37).tolist()
STARTS = 3  # random initial weights that are averaged over


def score(learner: ml.Learner, theta, task: ml.Task, examples: int) -> torch.Tensor:
    """The squared error of each task, after its first so many examples."""
    seen = ml.Data(task.support.x[:, :examples], task.support.y[:, :examples])
    return (predict(learner, theta, ml.Task(seen, task.query)) - task.query.y).square().flatten(1).mean(1)


def online(inputs: int, units: int, lr: float, task: ml.Task, examples: int) -> torch.Tensor:
    net, init = ml.functional(nn.Sequential(nn.Linear(inputs, units), nn.Tanh(), nn.Linear(units, 1)))

    def adapt(phi: dict[str, torch.Tensor], S: ml.Data) -> FineTuned:
        for x, y in zip(S.x.split(1), S.y.split(1), strict=True):
            g = grad(lambda phi: F.mse_loss(net(phi, x), y))(phi)  # noqa: B023
            phi = {name: p - lr * g[name] for name, p in phi.items()}
        return FineTuned(phi, net)

    learner = ml.Learner(init, adapt, query_loss(F.mse_loss))
    return torch.stack([score(learner, init(seed), task, examples) for seed in range(STARTS)]).mean(0)


def row(per_task: torch.Tensor) -> dict[str, float]:
    told = Score.of(per_task, "mse")
    return {"mean": told.mean, "ci95": told.ci95, "median": per_task.median().item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    args = parser.parse_args()
    run = ml.open_run(args.run)
    pool = ml.recipes.find(run.info["recipe"]).data()
    episode = {"ways": 1, "shots": max(EXAMPLES), "queries": QUERIES}
    task = pool.test.sample(tasks=args.tasks, **episode, generator=generator(args.seed, "online", 0))
    inputs = pool.shape[0]
    grid = []
    for units in UNITS:
        for lr in RATES:
            error = online(inputs, units, lr, task, CHOSEN_AT).mean().item()
            grid.append({"units": units, "lr": lr, "mean": error if error == error else float("inf")})
    best = min(grid, key=lambda g: g["mean"])
    curves = {}
    for n in EXAMPLES:
        ours, theirs = score(run.learner, run.theta, task, n), online(inputs, best["units"], best["lr"], task, n)
        curves[n] = {"meta_rnn": row(ours), "online_sgd": row(theirs), "difference": row(ours - theirs)}
    result = {
        "command": f"python benchmarks/online_sgd.py RUN --tasks {args.tasks} --seed {args.seed}",
        "run": {k: run.info[k] for k in ("recipe", "budget", "steps", "seed")} | {"seconds": round(run.seconds, 1)},
        "tasks": args.tasks, "queries": QUERIES,
        "online_sgd": {**best, "starts": STARTS, "rates": RATES, "sizes": UNITS},
        "mse_after": curves, "machine": machine(), "versions": versions(),
    }  # fmt: skip
    out = Path(args.out or f"results/online-sgd-{pool.name}.json")
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"online SGD: {best['units']} units at rate {best['lr']:.3g}")
    for n, c in curves.items():
        ours, theirs = (f"{c[k]['mean']:.5f} ± {c[k]['ci95']:.5f}" for k in ("meta_rnn", "online_sgd"))
        print(f"after {n:2} examples: {ours}, online SGD {theirs}")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
