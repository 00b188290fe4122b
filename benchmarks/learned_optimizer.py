"""A learned optimizer beside Adam, RMSprop, SGD and Nesterov's momentum, each at the best of 37 rates.

    python benchmarks/learned_optimizer.py RUN [--tasks 4096] [--tune N] [--out results/learned-optimizer-NAME.json]

RUN: of an lstm-optimizer recipe. All optimizers start from the same points and meet the same minibatches. Each rate is
the best of the grid on the first --tune of the very problems that are tested on (all of them unless given), which
favours the four. Written: the mean final loss with 95 % intervals over problems, the median, and the paired difference
to the best of the four. Rows beyond the first are other networks, each with rates of its own.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.func import grad

import metaloop as ml
from metaloop.engine import Score
from metaloop.engine.batch import chunks, predict
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import generator
from metaloop.learners.maml import FineTuned
from metaloop.nn import Descent, adam, rmsprop, sgd
from metaloop.recipes import lstm_optimizer

METHODS = {
    "Adam": adam(), "RMSprop": rmsprop(), "SGD": sgd(), "NAG": sgd(momentum=0.9, nesterov=True),
}  # fmt: skip
RATES = torch.logspace(-3, 1.5, 37).tolist()


def descent(method: Descent, net: Callable, loss: Callable, steps: int, batch: int | None) -> ml.Learner:
    """The same steps, minibatches and start as the learned optimizer's; theta is the rate."""

    def adapt(lr: Tensor, S: ml.Problem) -> FineTuned:
        phi, state, n = S.start, method.init(S.start), len(S.x)
        for t in range(steps):
            B = slice(None)
            if batch and batch < n:
                B = torch.arange(t * batch, (t + 1) * batch, device=S.x.device) % n
            g = grad(lambda phi: loss(net(phi, S.x[B]), S.y[B]))(phi)  # noqa: B023
            phi, state = method.update(dict.fromkeys(phi, lr), g, phi, state)
        return FineTuned(phi, net)

    return ml.Learner(lambda seed: torch.tensor(1.0), adapt, lambda *_: (torch.zeros(()), {}))


def final(learner: ml.Learner, theta, tasks: ml.Task, metric: Callable, chunk: int) -> Tensor:
    return torch.cat([metric(predict(learner, theta, part), part.query.y) for part in chunks(tasks, chunk)])


def told(per_task: Tensor) -> dict[str, float]:
    score = Score.of(per_task, "final loss")
    return {"mean": score.mean, "ci95": score.ci95, "median": per_task.median().item()}


def first(tasks: ml.Task, n: int) -> ml.Task:
    return next(chunks(tasks, n))


def compare(run: ml.Run, case: lstm_optimizer.Case, tasks: int, tune: int, seed: int, chunk: int) -> dict:
    (ways, shots, queries), (net, _), metric = case.episode, ml.functional(case.module), case.metric
    deal = generator(seed, "benchmark", 0)
    dealt = case.data().test.sample(tasks=tasks, ways=ways, shots=shots, queries=queries, generator=deal)
    ours = final(case.learner(), run.theta, dealt, metric, chunk)
    rows, each = {"learned": told(ours)}, {}
    for name, method in METHODS.items():
        learner = descent(method, net, case.loss, case.steps, case.batch)
        means = []
        for lr in RATES:
            mean = final(learner, torch.tensor(lr), first(dealt, tune), metric, chunk).double().mean().item()
            means.append(mean if math.isfinite(mean) else math.inf)
        best = min(range(len(RATES)), key=means.__getitem__)
        each[name] = final(learner, torch.tensor(RATES[best]), dealt, metric, chunk)
        rows[name] = {**told(each[name]), "lr": RATES[best], "at_edge": best in (0, len(RATES) - 1)}
        print(f"  {case.label}: {name} {rows[name]['mean']:.4f} at {RATES[best]:.3g}", flush=True)
    rival = min(each, key=lambda name: rows[name]["mean"])
    rows["learned"]["difference_to_best"] = {"to": rival, **told(ours - each[rival])}
    start = final(descent(sgd(), net, case.loss, 0, None), torch.tensor(0.0), dealt, metric, chunk)
    about = {"label": case.label, "steps": case.steps, "tasks": tasks, "tuned_on": tune}
    return {**about, "start": told(start), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--tasks", type=int, help="problems: 4096 quadratics or 64 networks unless given")
    parser.add_argument("--tune", type=int, help="problems that rates are chosen on: all quadratics, 8 networks")
    parser.add_argument("--rows", type=int, default=1, help="how many of the recipe's rows (1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out")
    args = parser.parse_args()
    run = ml.open_run(args.run)
    recipe = run.info["recipe"]
    quadratic = recipe.endswith("quadratic")
    tasks = args.tasks or (4096 if quadratic else 64)
    tune = min(tasks, args.tune or (tasks if quadratic else 8))
    cases = (lstm_optimizer.quadratic_cases() if quadratic else lstm_optimizer.mnist_cases())[: args.rows]
    found = [compare(run, case, tasks, tune, args.seed, 1024 if quadratic else 1) for case in cases]
    result = {
        "command": f"python benchmarks/learned_optimizer.py RUN --tasks {tasks} --tune {tune} --rows {args.rows}",
        "run": {k: run.info[k] for k in ("recipe", "budget", "steps", "seed")} | {"seconds": round(run.seconds, 1)},
        "seed": args.seed, "rates": RATES, "cases": found, "machine": machine(), "versions": versions(),
    }  # fmt: skip
    out = Path(args.out or f"results/learned-optimizer-{recipe.rpartition('-')[2]}.json")
    out.write_text(json.dumps(result, indent=2) + "\n")
    for case in found:
        print(f"{case['label']}, {tasks} problems (start {case['start']['mean']:.3f})")
        for name, r in sorted(case["rows"].items(), key=lambda item: item[1]["mean"]):
            rate = f" at rate {r['lr']:.3g}" if "lr" in r else ""
            print(f"  {name:8} {r['mean']:.4f} ± {r['ci95']:.4f}, median {r['median']:.4f}{rate}")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
