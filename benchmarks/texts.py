"""How well texts of few examples are told apart: metaloop's heads beside logistic regression, on the same features.

    python benchmarks/texts.py            writes results/texts.json; needs metaloop[texts] and METALOOP_DATA
    python benchmarks/texts.py --table    writes the table in docs/backbones.md from results/texts.json

CLINC150 (Larson et al. 2019) and BANKING77 (Casanueva et al. 2020). Nothing is trained on either. 5-way tasks are of
the classes of CLINC150's last five domains by name, and of BANKING77, which is one domain, of the last 27 classes by
name: the others are there to develop on. Examples of S are from the training part, queries from the test part, 15 a
class. All intents: 10 examples of each class, and the whole test part; the interval is over draws of S.

    ours         what `metaloop adapt` without a run does: head, scale and temperature chosen on S alone
    regression   sklearn's LogisticRegression as it comes, on the same features
    minilm, tf-idf    of which features; TF-IDF is told the words of S alone
"""

import argparse
import csv
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from told import filled, interval

import metaloop
from metaloop import features
from metaloop.own.predictor import key, remade
from metaloop.report.calibration import ece

ROOT = Path(__file__).parent.parent


def clinc150(data: Path):
    """The texts and classes of the training and the test part, and the classes of 5-way tasks."""
    parts = json.loads((data / "clinc150" / "data_full.json").read_text())
    domains = json.loads((data / "clinc150" / "domains.json").read_text())
    return parts["train"], parts["test"], [c for d in sorted(domains)[-5:] for c in domains[d]]


def banking77(data: Path):
    parts = []
    for part in ("train", "test"):
        with (data / "banking77" / f"{part}.csv").open(newline="") as file:
            parts.append([(row["text"], row["category"]) for row in csv.DictReader(file)])
    return *parts, sorted({c for _, c in parts[0]})[-27:]


class Known:
    """Features, remembered by text."""

    def __init__(self, f):
        self.f, self.kind, self.known = f, f.kind, {}

    def spec(self):
        return self.f.spec()

    def __call__(self, texts):
        new = sorted({t for t in texts if t not in self.known}, key=len)
        if new:
            self.known |= dict(zip(new, self.f(new), strict=True))
        return torch.stack([self.known[t] for t in texts])


def ours(f, S, y, Q):
    z = {key(f): F.normalize(f(S), dim=1)}
    names = [str(i).zfill(4) for i in range(int(y.max()) + 1)]
    own = remade(f.kind, names, [f], z, y, [str(i) for i in range(len(y))], [str(i) for i in range(len(y))])
    return own.of({key(f): F.normalize(f(Q).double(), dim=1)}).p


def regression(f, S, y, Q):
    head = LogisticRegression(max_iter=1000).fit(f(S).numpy(), y.numpy())
    return torch.from_numpy(head.predict_proba(f(Q).numpy()))


def task(rng, train, test, classes, shots, queries):
    """S and Q as texts and classes."""
    S = [(t, k) for k, c in enumerate(classes) for t in rng.choice(train[c], shots, replace=False)]
    Q = [(t, k) for k, c in enumerate(classes)
         for t in (test[c] if queries is None else rng.choice(test[c], queries, replace=False))]  # fmt: skip
    return *zip(*S, strict=True), *zip(*Q, strict=True)


def by_class(rows):
    of = {}
    for text, c in rows:
        of.setdefault(c, []).append(text)
    return of


def row(minilm, train, test, classes, *, ways, shots, tasks, queries, seed=0):
    rng, train, test = np.random.default_rng(seed), by_class(train), by_class(test)
    scores, calibration = {}, {}
    for _ in range(tasks):
        chosen = classes if ways is None else [str(c) for c in rng.choice(classes, ways, replace=False)]
        S, y, Q, q = task(rng, train, test, chosen, shots, queries)
        y, q = torch.tensor(y), torch.tensor(q)
        words = features.build({"features": "tf-idf"}).fit(S)
        for name, f in (("minilm", minilm), ("tf-idf", words)):
            for method in (ours, regression):
                p = method(f, list(S), y, list(Q))
                top, answer, of = *p.max(1), f"{method.__name__}, {name}"
                right = (answer == q).double()
                scores.setdefault(of, []).append(100 * right.mean().item())
                calibration.setdefault(f"{method.__name__}, {name}", []).extend(
                    zip(top.tolist(), right.tolist(), strict=True)
                )
    more = [a - b for a, b in zip(scores["ours, minilm"], scores["regression, minilm"], strict=True)]
    return {
        "ways": ways or len(classes), "shots": shots, "tasks": tasks, "queries a class": queries, "seed": seed,
        "accuracy, per cent": {n: interval(s) for n, s in scores.items()},
        "ours - regression, minilm, points": interval(more),
        "calibration error, points": {n: 100 * ece(*torch.tensor(c).T) for n, c in calibration.items()},
    }  # fmt: skip


METHODS = ("regression, tf-idf", "ours, tf-idf", "regression, minilm", "ours, minilm")


def table(rows):
    """Markdown: accuracy in per cent with 95 % intervals."""
    told = lambda v, half: f"{v:.1f} ± {half:.1f}"
    lines = ["| accuracy, per cent | " + " | ".join(METHODS) + " | the last two differ by |", "| --- " * 6 + "|"]
    for name, row in rows.items():
        few = [told(*row["accuracy, per cent"][m]) for m in METHODS]
        lines.append("| " + " | ".join([name, *few, told(*row["ours - regression, minilm, points"])]) + " |")
    return "\n".join(lines)


def page(rows):
    """docs/backbones.md with that table."""
    path = ROOT / "docs" / "backbones.md"
    return filled(path.read_text(), "texts", table(rows) + "\n", path.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=300, help="5-way tasks")
    parser.add_argument("--draws", type=int, default=5, help="draws of all intents")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "texts.json")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        (ROOT / "docs" / "backbones.md").write_text(page(json.loads(options.out.read_text())["rows"]))
        return
    data, start = Path(os.environ["METALOOP_DATA"]), time.process_time()
    warnings.simplefilter("error")
    minilm = Known(features.build({"features": "minilm-l6"}))
    sets = {"CLINC150": clinc150(data), "BANKING77": banking77(data)}
    kinds = {
        "5-way, 1 shot": {"ways": 5, "shots": 1, "tasks": options.tasks, "queries": 15},
        "5-way, 5 shots": {"ways": 5, "shots": 5, "tasks": options.tasks, "queries": 15},
        "all intents, 10 shots": {"ways": None, "shots": 10, "tasks": options.draws, "queries": None},
    }
    rows = {}
    for kind, of in kinds.items():
        for name, (train, test, few) in reversed(sets.items()):
            classes = few if of["ways"] else sorted(by_class(train))
            rows[f"{name}, {kind}"] = row(minilm, train, test, classes, **of)
            seconds = round(time.process_time() - start)
            about = {"metaloop": metaloop.__version__, "torch": torch.__version__, "cpu seconds": seconds}
            options.out.write_text(json.dumps({"rows": rows, "about": about}, indent=1) + "\n")
            print(json.dumps(rows[f"{name}, {kind}"]), flush=True)


if __name__ == "__main__":
    main()
