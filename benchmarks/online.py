"""The figures of learning online: a JSON file of the numbers in results/, and a plot of them in docs/.

    python benchmarks/online.py rainbow RUN ...     runs of *-rainbow-mnist, whose seeds are the orders of the tasks
    python benchmarks/online.py stream RUN          a run of oml-omniglot: accuracy by the number of classes learned

Regret of a round: the mean over its arrivals of the loss on held-out digits, less that of the leader in hindsight (what
FTML ends with, in the run of the same seed, adapted to the same points); it is summed over rounds.
"""

import json
import sys
from collections import defaultdict
from itertools import accumulate
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
METHODS = {
    "follow-leader": "follow the meta-leader", "everything-fine-tuned": "train on everything, fine-tune",
    "everything": "train on everything", "scratch": "from scratch",
}  # fmt: skip
LAST = 10  # rounds at the end, of which means are told


def rainbow(folders: list[Path]) -> None:
    from metaloop.outer.follow_leader import judge
    from metaloop.recipes.stored import open_run
    from metaloop.tasks import rainbow_mnist

    pool, told, hindsight = rainbow_mnist(), defaultdict(dict), {}
    for folder in folders:
        info, lived = json.loads((folder / "run.json").read_text()), json.loads((folder / "rounds.json").read_text())
        method = info["recipe"].removesuffix("-rainbow-mnist")
        told[method][info["seed"]] = {"info": info, **lived}
        if method == "follow-leader":
            run = open_run(folder)
            hindsight[info["seed"]] = {
                k: [judge(run.learner, run.theta, pool, k, n)[1] for n in lived["arrivals"]] for k in range(pool.rounds)
            }
    out: dict[str, Any] = {}
    for method in (m for m in METHODS if m in told):
        orders = [_order(seed, life, hindsight[seed], pool.points) for seed, life in sorted(told[method].items())]
        ends = {key: [order[key] for order in orders] for key in ("points_last", "regret_last", "reached_last")}
        out[method] = {
            **{key: {"mean": mean(v), "std": stdev(v) if len(v) > 1 else None} for key, v in ends.items()},
            "orders": orders,
        }
        print(f"{METHODS[method]:32}", *(f"{key} {mean(values):8.2f}" for key, values in ends.items()))
    first = next(iter(next(iter(told.values())).values()))["info"]
    about = {key: first[key] for key in ("budget", "versions", "machine")}
    path = ROOT / "results" / "rainbow-mnist.json"
    path.write_text(json.dumps({"about": about, "last": LAST, "methods": out}, indent=1) + "\n")
    _plot_rainbow(out, pool.points)
    print(path)


def _order(seed: int, life: dict[str, Any], leader: dict[int, list[float]], points: int) -> dict[str, Any]:
    """One order of the tasks: points to the goal for each (those that missed it count as all), regret so far."""
    needed = [r["points"] for r in life["rounds"]]
    losses = [mean(a - b for a, b in zip(r["loss"], leader[r["round"]], strict=True)) for r in life["rounds"]]
    counted = [n or points for n in needed]
    regret = list(accumulate(losses))
    return {
        "seed": seed, "budget": life["info"]["budget"], "rounds": [r["round"] for r in life["rounds"]],
        "points": needed, "regret": regret, "points_last": mean(counted[-LAST:]), "regret_last": regret[-1],
        "reached_last": sum(n is not None for n in needed[-LAST:]),
        "accuracy_at_the_end": [r["score"][-1] for r in life["rounds"]],
    }  # fmt: skip


def _plot_rainbow(out: dict[str, Any], points: int) -> None:
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for method, found in out.items():
        needed = [[n or points for n in order["points"]] for order in found["orders"]]
        smooth = [[mean(run[max(0, t - 6) : t + 1]) for t in range(len(run))] for run in needed]
        for axis, runs in ((left, smooth), (right, [order["regret"] for order in found["orders"]])):
            x = range(1, len(runs[0]) + 1)
            across = list(zip(*runs, strict=True))
            (line,) = axis.plot(x, [mean(v) for v in across], label=METHODS[method])
            axis.fill_between(x, [min(v) for v in across], [max(v) for v in across], alpha=0.2, color=line.get_color())
    left.set(xlabel="task", ylabel="points to 90 % accuracy (mean of 7 tasks)", ylim=(0, 1.03 * points))
    right.set(xlabel="task", ylabel="cumulative regret")
    left.legend(frameon=False)
    seeds = len(next(iter(out.values()))["orders"])
    figure.suptitle(f"Rainbow-MNIST: mean and range over {seeds} orders of the tasks")
    figure.savefig(ROOT / "docs" / "rainbow-mnist.png", dpi=120)


def stream(folders: list[Path]) -> None:
    """The curve of a run, as its evaluation has it; `results.py` keeps the same numbers in results/."""
    entries: list[dict[str, Any]] = []
    for folder in folders:
        entries += json.loads((folder / "evaluation.json").read_text())
    plt = _pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, recalled in zip(axes, (True, False), strict=True):
        title = "on the stream itself" if recalled else "on held-out examples"
        rows = sorted((e["ways"], e) for e in entries if e["label"].endswith("recalled") == recalled)
        x = [ways for ways, _ in rows]
        axis.errorbar(x, [e["mean"] for _, e in rows], [e["ci95"] for _, e in rows], marker="o", label="ours")
        axis.plot(x, [e["published"] for _, e in rows], "k--", label="published")
        axis.set(title=title, xlabel="classes learned, one after another", ylim=(0, 102))
    axes[0].set_ylabel("accuracy (%)")
    axes[0].legend(frameon=False)
    path = ROOT / "docs" / "oml-omniglot.png"
    figure.savefig(path, dpi=120)
    print(path)


def _pyplot():
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


if __name__ == "__main__":
    command, *folders = sys.argv[1:]
    {"rainbow": rainbow, "stream": stream}[command]([Path(folder) for folder in folders])
