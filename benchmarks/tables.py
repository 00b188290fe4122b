"""How well a network fitted to random tables does on real ones: beside logistic regression and nearest neighbours.

    python benchmarks/tables.py RUN       writes results/tables.json; RUN is of prior-fitted-tables; needs METALOOP_DATA
    python benchmarks/tables.py --table   writes the table in docs/learners/prior_fitted.md from results/tables.json

Every classification table of PMLB (Olson et al. 2017) at hand with at most 10 columns and 10 classes, all of them
numbers, and 5 rows of each class beside those of S. S has 5 or 10 rows of each class, Q at most 15 of each, others; a
table's figure is its mean over draws, the same ones for each method. The run has seen random tables alone.

    prior-fitted   the run, by FewShotClassifier
    regression     sklearn's LogisticRegression as it comes, on columns standardised by S
    neighbours     sklearn's KNeighborsClassifier as it comes (5 of them), on the same columns

Intervals are Student's, over tables. Ranks are from 1, the best; ties share theirs.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from told import filled, interval

import metaloop as ml

ROOT = Path(__file__).parent.parent
LEFT = 5  # rows of each class that must remain for Q
OURS, OTHERS = "prior-fitted", ("regression", "neighbours")


def methods(run):
    return {
        OURS: lambda: ml.FewShotClassifier(run),
        "regression": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        "neighbours": lambda: make_pipeline(StandardScaler(), KNeighborsClassifier()),
    }


def accuracies(pool, run, shots, draws, seed=0):
    """Table -> method -> per cent, the mean over draws."""
    found = {}
    for name, table in pool.tables.items():
        least = int(table.counts.min())
        if least < shots + LEFT:
            continue
        g, right = torch.Generator().manual_seed(seed), {method: [] for method in methods(run)}
        for _ in range(draws):
            task = table.sample(1, table.classes, shots, min(15, least - shots), g)
            (X, y), (Q, z) = ((part.x[0].numpy(), part.y[0].numpy()) for part in task)
            for method, make in methods(run).items():
                right[method].append(100 * float((make().fit(X, y).predict(Q) == z).mean()))
        found[name] = {method: float(np.mean(r)) for method, r in right.items()}
    return found


def summary(found):
    names = [OURS, *OTHERS]
    acc = np.array([[row[m] for m in names] for row in found.values()])
    ranks = stats.rankdata(-acc, axis=1)
    return {
        "tables": len(found),
        "mean rank": {m: float(r) for m, r in zip(names, ranks.mean(0), strict=True)},
        "accuracy, per cent": {m: interval(a) for m, a in zip(names, acc.T, strict=True)},
        "ours - theirs, points": {m: interval(acc[:, 0] - acc[:, i + 1]) for i, m in enumerate(OTHERS)},
        "rank of theirs - rank of ours": {m: interval(ranks[:, i + 1] - ranks[:, 0]) for i, m in enumerate(OTHERS)},
        "tables won, lost": {m: [int((acc[:, 0] > acc[:, i + 1]).sum()), int((acc[:, 0] < acc[:, i + 1]).sum())]
                             for i, m in enumerate(OTHERS)},
    }  # fmt: skip


def table(told):
    """Markdown: accuracy in per cent, mean rank, and differences in points with 95 % intervals."""
    lines = ["| rows of each class | | accuracy | mean rank | ours - theirs, points | tables won, lost |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for shots, row in told["rows"].items():
        for m in (OURS, *OTHERS):
            versus = ["", ""]
            if m != OURS:
                mean, half = row["ours - theirs, points"][m]
                versus = [f"{mean:+.1f} ± {half:.1f}", ", ".join(map(str, row["tables won, lost"][m]))]
            few = [f"{row['accuracy, per cent'][m][0]:.1f}", f"{row['mean rank'][m]:.2f}", *versus]
            where = f"{shots}, {row['tables']} tables" if m == OURS else ""
            lines.append("| " + " | ".join([where, m, *few]) + " |")
    return "\n".join(lines)


def page(told):
    """The learner's page with that table."""
    path = ROOT / "docs" / "learners" / "prior_fitted.md"
    return filled(path.read_text(), "tables", table(told) + "\n", path.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", metavar="RUN")
    parser.add_argument("--draws", type=int, default=10, help="of S and Q, for each table")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "tables.json")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        (ROOT / "docs" / "learners" / "prior_fitted.md").write_text(page(json.loads(options.out.read_text())))
        return
    if options.run is None:
        parser.error("which run? metaloop train prior-fitted-tables makes one.")
    pool, run, start = ml.tasks.pmlb(os.environ["METALOOP_DATA"]), ml.open_run(options.run), time.process_time()
    last = json.loads((Path(options.run) / "metrics.jsonl").read_text().splitlines()[-1])
    told = {"rows": {}, "by table": {}, "about": {
        "metaloop": ml.__version__, "torch": torch.__version__, "recipe": run.info["recipe"],
        "budget": run.info["budget"], "settings": run.info["settings"], "steps": run.step,
        "of steps": run.info["steps"], "draws": options.draws, "last line of training": last,
    }}  # fmt: skip
    for shots in (5, 10):
        found = accuracies(pool, run, shots, options.draws)
        told["rows"][str(shots)], told["by table"][str(shots)] = summary(found), found
        told["about"]["cpu seconds"] = round(time.process_time() - start)
        options.out.write_text(json.dumps(told, indent=1) + "\n")
        print(shots, json.dumps(told["rows"][str(shots)]), flush=True)


if __name__ == "__main__":
    main()
