"""How sure several seeds of one recipe are: each alone, each at a temperature, all as one ensemble, and a kernel.

    python benchmarks/calibration.py RUN ... [--kernel RECIPE] [--tasks 1000] [--out results/calibration.json]
    python benchmarks/calibration.py --table    writes the table in docs/calibration.md from results/calibration.json

RUN: of one recipe, a seed each, e.g. five of `metaloop train protonet-omniglot-1shot --budget quick --seed 0 ...`.
Scored on the same test tasks of 5 and 20 ways, 1 shot: NLL in nats, Brier, calibration error in 15 bins beside what a
calibrated predictor would have, accuracy, and (not cooled) the AUROC of known queries over those of a class that is not
in the task.

    one         a single run; mean over the runs
    cooled      its scores divided by the temperature of least NLL on validation tasks; mean over the runs
    ensemble    the mean of all runs' probabilities, and that at a temperature of its own
    kernel      RECIPE's learner as it begins, untrained, and at a temperature: what is known before anything is
                learned; at the fewest ways alone and not asked of strangers, since a kernel costs the square of the
                number of pictures

Differences in NLL to `one` are paired by task; their intervals are over tasks, of these seeds.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean

import torch
from told import filled
from torch import Tensor

import metaloop as ml
from metaloop.engine import Score
from metaloop.engine.run import machine, versions
from metaloop.recipes.plan import Row, label
from metaloop.report.calibration import Seen, ensemble, stack, temperature
from metaloop.report.findings import strangers
from metaloop.targets import information_nats

ROOT = Path(__file__).resolve().parent.parent
WAYS, QUERIES, HELD = (5, 20), 5, 100
CHUNK = 2  # tasks at a time: a kernel has maps for each pair of pictures


class Cooled(Seen):
    """What another was told, at a temperature."""

    def __init__(self, seen: Seen, t: float):
        self.parts = [(scores / t, y) for scores, y in seen.parts]


def looked(run: ml.Run, learner, theta, pool, ways: int, tasks: int, asks=True) -> tuple[Seen, Seen, float | None]:
    """What a learner answers to test tasks and to validation tasks, and its AUROC if it is asked of strangers."""
    row, held, (test, val) = Row(label(ways, 1), learner, ways, 1, QUERIES), min(tasks, HELD), (Seen(), Seen())
    own, run.theta = run.theta, theta
    row.score(run, pool, tasks=tasks, answers=test)
    row.score(run, pool, tasks=held, answers=val, split="val")
    area = strangers(learner, run, row, pool, held, QUERIES) if asks else None
    run.theta = own
    return test, val, area


def judged(seen: Seen, auroc: float | None) -> dict:
    told = seen.told()
    assert told is not None
    right = torch.cat([(s.argmax(-1) == y).float().mean(1) for s, y in seen.parts])
    return {**asdict(told), "accuracy": 100 * right.mean().item(), "auroc": auroc}


def nats(seen: Seen) -> Tensor:
    return torch.cat([information_nats(*part) for part in seen.parts])


def compare(runs: list[ml.Run], pool, ways: int, tasks: int, kernel: str | None) -> dict:
    learner = runs[0].plan.at_test(ways=ways)
    each = [looked(run, run.plan.at_test(ways=ways), run.theta, pool, ways, tasks) for run in runs]
    each_t = [temperature(*val.flat()) for _, val, _ in each]
    cooled = [Cooled(test, t) for (test, _, _), t in zip(each, each_t, strict=True)]
    found = {
        "one": average([judged(test, area) for test, _, area in each]),
        "cooled": average([judged(seen, None) for seen in cooled]) | {"temperature": mean(each_t)},
    }
    information = {"one": mean_of(nats(test) for test, _, _ in each), "cooled": mean_of(map(nats, cooled))}
    others = {"ensemble": (ensemble(learner, len(runs)), stack([run.theta for run in runs]))}
    if kernel:
        known = ml.recipes.find(kernel).plan(pool, budget="smoke").at_test(ways=ways)
        others["kernel"] = known, known.init(0)
    for name, (one, theta) in others.items():
        test, val, area = looked(runs[0], one, theta, pool, ways, tasks, asks=name != "kernel")
        t = temperature(*val.flat())
        both = (name, test, {"auroc": area}), (f"cooled {name}", Cooled(test, t), {"temperature": t})
        for title, seen, more in both:
            found[title], information[title] = judged(seen, None) | more, nats(seen)
    for name, of in information.items():
        if name != "one":
            more = Score.of(of - information["one"])
            found[name]["NLL less one's"] = {"mean": -more.mean, "ci95": more.ci95}
    return found


def mean_of(each) -> Tensor:
    return torch.stack([*each]).mean(0)


def average(rows: list[dict]) -> dict:
    return {k: mean(r[k] for r in rows) if all(r[k] is not None for r in rows) else None for k in rows[0]}


HEAD = ("", "accuracy, %", "NLL", "less one's", "Brier", "calibration error, %", "by chance up to", "AUROC")


def table(told: dict) -> str:
    lines = []
    for ways, rows in told["ways"].items():
        lines += [f"{ways}-way 1-shot", "", f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
        for name, r in rows.items():
            d = r.get("NLL less one's")
            gain = "" if d is None else f"{d['mean']:+.4f} ± {d['ci95']:.4f}"
            area = "" if r["auroc"] is None else f"{r['auroc']:.3f}"
            errors = [f"{100 * r[key]:.2f}" for key in ("ece", "ece_null_high")]
            cells = [name, f"{r['accuracy']:.2f}", f"{r['nll']:.4f}", gain, f"{r['brier']:.4f}", *errors, area]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    runs = ", ".join(f"seed {r['seed']}" for r in told["runs"])
    about = f"{told['runs'][0]['recipe']}, {told['runs'][0]['budget']}, {runs}; {told['tasks']} test tasks"
    return "\n".join([*lines, f"{about}; `{told['command']}`; {told['machine']['cpu']}."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="*")
    parser.add_argument("--kernel", metavar="RECIPE")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--ways", type=int, nargs="*", default=WAYS)
    parser.add_argument("--out", default="results/calibration.json")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        runs = [ml.open_run(folder) for folder in args.run]
        for run in runs:
            run.plan = replace(run.plan, options={**run.plan.options, "chunk": CHUNK})
        recipes = {run.info["recipe"] for run in runs}
        if len(runs) < 2 or len(recipes) > 1:
            parser.error(f"these are {len(runs)} runs of {len(recipes)} recipes, expected several of one.")
        pool = ml.recipes.find(recipes.pop()).data()
        kernel = f" --kernel {args.kernel}" if args.kernel else ""
        ways = f" --ways {' '.join(map(str, args.ways))}" if tuple(args.ways) != WAYS else ""
        told = {
            "command": f"python benchmarks/calibration.py RUN ...{kernel} --tasks {args.tasks}{ways}",
            "tasks": args.tasks,
            "runs": [{k: run.info[k] for k in ("recipe", "budget", "steps", "seed")} for run in runs],
            "ways": {ways: compare(runs, pool, ways, args.tasks, args.kernel if ways == min(args.ways) else None)
                     for ways in args.ways},
            "machine": machine(), "versions": versions(),
        }  # fmt: skip
        Path(args.out).write_text(json.dumps(told, indent=2) + "\n")
        print(table(told))
        return
    page = ROOT / "docs" / "calibration.md"
    page.write_text(filled(page.read_text(), "calibration", table(json.loads(Path(args.out).read_text())), page.name))


if __name__ == "__main__":
    main()
