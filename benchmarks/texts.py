"""How well texts of few examples are told apart: metaloop's heads beside logistic regression, on the same features.

    python benchmarks/texts.py            writes results/texts.json; needs metaloop[texts] and METALOOP_DATA
    python benchmarks/texts.py --prepare FILE; ... --vectors FILE     the same where there is no metaloop[texts]
    python benchmarks/texts.py --table    writes the table in docs/backbones.md from results/texts.json

CLINC150 (Larson et al. 2019) and BANKING77 (Casanueva et al. 2020). Nothing is trained on either. 5-way tasks are of
the classes of CLINC150's last five domains by name, and of BANKING77, which is one domain, of the last 27 classes by
name: the others are there to develop on. Examples of S are from the training part, queries from the test part, 15 a
class. All intents: 10 examples of each class, and the whole test part; the interval is over draws of S.

    ours         what `metaloop adapt` without a run does: head, scale and temperature chosen on S alone
                 (of strangers: one text of each other class, or CLINC150's texts that are out of scope)
    regression   sklearn's LogisticRegression as it comes, on the same features
    minilm, tf-idf    of which features; TF-IDF is told the words of S alone
"""

import argparse
import csv
import json
import os
import time
import warnings
from contextlib import suppress
from functools import cache
from itertools import chain
from multiprocessing import Pool, TimeoutError
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from told import filled, interval

import metaloop
from metaloop import features
from metaloop.engine.run import machine
from metaloop.own.predictor import key, remade
from metaloop.report.calibration import auroc, ece

ROOT = Path(__file__).parent.parent
RATES = (0.1, 0.2)


@cache
def clinc150(data: Path):
    """The texts and classes of the training and the test part, the classes of 5-way tasks, and texts of no class."""
    parts = json.loads((data / "clinc150" / "data_full.json").read_text())
    domains = json.loads((data / "clinc150" / "domains.json").read_text())
    return parts["train"], parts["test"], [c for d in sorted(domains)[-5:] for c in domains[d]], [
        t for t, _ in parts["oos_test"]
    ]


@cache
def banking77(data: Path):
    parts = []
    for part in ("train", "test"):
        with (data / "banking77" / f"{part}.csv").open(newline="") as file:
            parts.append([(row["text"], row["category"]) for row in csv.DictReader(file)])
    return *parts, sorted({c for _, c in parts[0]})[-27:], []


class Known:
    """Features, remembered by text; `vectors` are known beforehand."""

    kind = "texts"

    def __init__(self, make, spec, vectors=()):
        self.make, self.told, self.known = make, spec, dict(vectors)

    def spec(self):
        return self.told

    def __call__(self, texts):
        new = sorted({t for t in texts if t not in self.known}, key=len)
        if new:
            self.known |= dict(zip(new, self.make()(new), strict=True))
        return torch.stack([self.known[t] for t in texts]).float()


MINILM = {"features": "minilm-l6"}


def minilm(vectors=()):
    return Known(lambda: features.build(MINILM), MINILM, vectors)


def ours(f, S, y, Q, U):
    """p of Q; the area under the curve of known against unknown, and for each rate that can be promised the share of U
    that is let in, and of Q."""
    z = {key(f): F.normalize(f(S), dim=1)}
    names = [str(i).zfill(4) for i in range(int(y.max()) + 1)]
    marks = [str(i).zfill(6) for i in range(len(y))]
    own = remade(f.kind, names, [f], z, y, marks, marks)
    answers = lambda texts: own.of({key(f): F.normalize(f(texts).double(), dim=1)})
    asked = answers(Q)
    if not U:
        return asked.p, None
    known, unknown, found = asked.known, answers(U).known, []
    for rate in RATES:
        with suppress(ValueError):  # too few to promise that
            t = own.threshold(rate)
            found.append([rate, float((unknown > t).double().mean()), float((known > t).double().mean())])
    return asked.p, [auroc(known, unknown), found]


def regression(f, S, y, Q, U):
    head = LogisticRegression(max_iter=1000).fit(f(S).numpy(), y.numpy())
    return torch.from_numpy(head.predict_proba(f(Q).numpy())), None


def task(rng, train, test, classes, ways, shots, queries, strange):
    """S and Q as texts and classes, and texts of no class of S."""
    chosen = classes if ways is None else [str(c) for c in rng.choice(classes, ways, replace=False)]
    S = [(t, k) for k, c in enumerate(chosen) for t in rng.choice(train[c], shots, replace=False)]
    Q = [(t, k) for k, c in enumerate(chosen)
         for t in (test[c] if queries is None else rng.choice(test[c], queries, replace=False))]  # fmt: skip
    others = [c for c in classes if c not in chosen]
    U = [str(rng.choice(test[c])) for c in others] if others else strange
    return *zip(*S, strict=True), *zip(*Q, strict=True), U


def by_class(rows):
    of = {}
    for text, c in rows:
        of.setdefault(c, []).append(text)
    return of


KINDS = {
    "all intents, 10 shots": {"ways": None, "shots": 10, "queries": None},
    "5-way, 1 shot": {"ways": 5, "shots": 1, "queries": 15},
    "5-way, 5 shots": {"ways": 5, "shots": 5, "queries": 15},
}
SETS = {"BANKING77": banking77, "CLINC150": clinc150}


def drawn(data, name, kind, number, seed=0):
    """The task of that number."""
    train, test, few, strange = SETS[name](data)
    train, test = by_class(train), by_class(test)
    classes = few if KINDS[kind]["ways"] else sorted(train)
    return task(np.random.default_rng([seed, number]), train, test, classes, **KINDS[kind], strange=strange)


def job(asked):
    """What the methods score on one task by one kind of features: {method: [accuracy, tops, rights, of strangers]}."""
    data, name, kind, number, which, vectors = asked
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    S, y, Q, q, U = drawn(data, name, kind, number)
    f = minilm(_vectors(vectors)) if which == "minilm" else features.build({"features": "tf-idf"}).fit(S)
    found = {}
    for method in (ours, regression):
        p, strangers = method(f, list(S), torch.tensor(y), list(Q), list(U))
        top, answer = p.max(1)
        right = (answer == torch.tensor(q)).double()
        found[f"{method.__name__}, {which}"] = [100 * right.mean().item(), top.tolist(), right.tolist(), strangers]
    return (name, kind, number), found


@cache
def _vectors(path):
    """Vectors by text, as --prepare kept them."""
    if path is None:
        return {}
    with np.load(path) as kept:
        texts = kept["texts"].tobytes().decode().split("\0")
        return dict(zip(texts, torch.from_numpy(kept["z"]), strict=True))


def summary(tasks, kind):
    """A row of the tasks that are there, each with all methods."""
    of = lambda m, at: [t[m][at] for t in tasks]
    methods = sorted(tasks[0])
    strangers = [s for s in of("ours, minilm", 3) if s is not None]
    row = {
        **KINDS[kind], "tasks": len(tasks), "seed": 0,
        "accuracy, per cent": {m: interval(of(m, 0)) for m in methods},
        "ours - regression, minilm, points": interval(np.subtract(of("ours, minilm", 0), of("regression, minilm", 0))),
        "calibration error, points": {
            m: 100 * ece(*(torch.tensor([*chain(*of(m, at))]) for at in (1, 2))) for m in methods
        },
    }  # fmt: skip
    if len(strangers):
        row["of no class"] = {"AUROC": float(np.mean([area for area, _ in strangers]))}
        for rate in RATES:
            promised = np.array([taken for _, found in strangers for asked, *taken in found if asked == rate])
            row["of no class"][f"at {100 * rate:.0f} %"] = {
                "promised, per cent of tasks": 100 * len(promised) / len(strangers),
                "let in, per cent": 100 * float(promised[:, 0].mean()) if len(promised) else None,
                "of its own let in, per cent": 100 * float(promised[:, 1].mean()) if len(promised) else None,
            }
    return row


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
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e6, help="after which what is not done is left")
    parser.add_argument("--prepare", type=Path, metavar="FILE", help="only keep MiniLM's vectors of these tasks")
    parser.add_argument("--vectors", type=Path, metavar="FILE", help="where they are kept")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="tasks that are done, to go on from where it ended")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "texts.json")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        (ROOT / "docs" / "backbones.md").write_text(page(json.loads(options.out.read_text())["rows"]))
        return
    data, start = Path(os.environ["METALOOP_DATA"]), time.monotonic()
    numbered = [(n, k, i) for k in options.kinds for n in options.sets
                for i in range(options.tasks if KINDS[k]["ways"] else options.draws)]  # fmt: skip
    if options.prepare is not None:
        tasks = [drawn(data, *of) for of in numbered]
        texts = sorted({*chain(*(part for S, _, Q, _, U in tasks for part in (S, Q, U)))}, key=lambda t: (len(t), t))
        z = features.build(MINILM)(texts).half().numpy()
        np.savez(options.prepare, texts=np.frombuffer("\0".join(texts).encode(), np.uint8), z=z)
        return
    done, end = {}, start + options.seconds
    if options.kept is not None and options.kept.exists():
        for line in options.kept.read_text().splitlines():
            of, of_features = json.loads(line)
            done.setdefault(tuple(of), {}).update(of_features)
    asked = [(data, *of, which, options.vectors) for of in numbered for which in ("minilm", "tf-idf")
             if f"ours, {which}" not in done.get(of, {})]  # fmt: skip
    with Pool(options.processes) as pool, suppress(StopIteration, TimeoutError):
        found = pool.imap_unordered(job, asked)
        while True:
            of, of_features = found.next(max(end - time.monotonic(), 0.01))
            done.setdefault(of, {}).update(of_features)
            if options.kept is not None:
                with options.kept.open("a") as file:
                    file.write(json.dumps([of, of_features]) + "\n")
    rows = json.loads(options.out.read_text())["rows"] if options.out.exists() else {}
    for kind in options.kinds:
        for name in options.sets:
            whole = [t for (n, k, _), t in sorted(done.items()) if (n, k) == (name, kind) and len(t) == len(METHODS)]
            if len(whole) > 1:  # of one there is no interval
                rows[f"{name}, {kind}"] = summary(whole, kind)
    about = {"metaloop": metaloop.__version__, "torch": torch.__version__, "seconds": round(time.monotonic() - start),
             "processes": options.processes, "machine": machine()["cpu"]}  # fmt: skip
    options.out.write_text(json.dumps({"rows": rows, "about": about}, indent=1) + "\n")
    print(json.dumps(rows), flush=True)


if __name__ == "__main__":
    main()
