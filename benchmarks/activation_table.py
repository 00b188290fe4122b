"""Table C: activation functions, each in a small network on Fashion-MNIST, as far as time was given to it.

    python benchmarks/activation_table.py table --minutes 6    evaluate on from where it stopped
    python benchmarks/activation_table.py speed                a batch of functions against one after the other
    python benchmarks/activation_table.py page                 put the figures into docs/searched.md

Pictures of 7x7 pixels (means of 4x4), 49-32-32-10 with layer norm before each activation, 100 steps of Adam on batches
of 64, the best of three rates by validation accuracy. Seeds draw weights and batches, the same for all functions. The
functions that have a name come first and the others in a random order, so that what was evaluated beside them is a
random sample of the 4450 units.
"""

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shrunk import Parts, shrunk
from told import filled
from torch import Tensor

from metaloop.engine.checkpoint import write_bytes
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import place
from metaloop.nn.activations import Unit, Units, units
from metaloop.outer.search_table import evaluate_table

ROOT = Path(__file__).resolve().parent.parent
TABLE, AGAIN, SPEED = (ROOT / "results" / f"activation-{kind}.json" for kind in ("table", "seeds", "speed"))
NAMED = {
    "max x relu": "ReLU", "gate x x": "Swish", "gate beta*x x": "Swish, beta learned",
    "max x sigmoid": "max(x, sigma(x))", "add x beta": "none: linear",
}  # fmt: skip
RATES, STEPS, BATCH, WIDTH = (1e-3, 3e-3, 1e-2), 100, 64, 32
TRAIN, VALIDATION, TEST = 10_000, 1000, 2000
TOGETHER, SEEDS = 50, 5  # seeds of the first fifty; of the others one


def order() -> list[str]:
    rest = [name for name in units() if name not in NAMED]
    random.Random(0).shuffle(rest)
    return [*NAMED, *rest]


def data() -> Parts:
    """Flat pictures, x [n, 49]."""
    parts = shrunk("fashion_mnist", 4, TRAIN, VALIDATION, TEST)
    return {kind: (x.flatten(1), y) for kind, (x, y) in parts.items()}


def train(parts: Parts, names: list[str], seed: int) -> dict[str, list[float]]:
    """Of each function the accuracy at its best rate, all functions and rates in one batch; nan if all diverged."""
    given, names = names, sorted(names, key=lambda name: name.split()[1])  # less to move about
    n, g = len(names) * len(RATES), torch.Generator().manual_seed(place(seed, "activations", 0))
    rates = torch.tensor(RATES).repeat(len(names))  # function by function
    apply = Units([name for name in names for _ in RATES])
    sizes, p = (49, WIDTH, WIDTH, 10), {}
    for i in range(3):
        p[f"W{i}"] = (torch.randn(sizes[i], sizes[i + 1], generator=g) * sizes[i] ** -0.5).repeat(n, 1, 1)
        p[f"b{i}"] = torch.zeros(n, 1, sizes[i + 1])
    for i in range(2):
        p[f"scale{i}"], p[f"beta{i}"] = torch.ones(n, 1, WIDTH), torch.ones(n, 3, WIDTH)
    p = {k: v.requires_grad_() for k, v in p.items()}
    m, v = ({k: torch.zeros_like(t) for k, t in p.items()} for _ in "mv")

    def f(x: Tensor) -> Tensor:
        """[n, rows, 10]"""
        h = x.expand(n, -1, -1)
        for i in range(2):
            h = torch.nn.functional.layer_norm(torch.bmm(h, p[f"W{i}"]), (WIDTH,)) * p[f"scale{i}"] + p[f"b{i}"]
            h = apply(h, p[f"beta{i}"])
        return torch.baddbmm(p["b2"], h, p["W2"])

    x, y = parts["train"]
    for t in range(1, STEPS + 1):
        rows = torch.randint(TRAIN, (BATCH,), generator=g)
        loss = torch.nn.functional.cross_entropy(f(x[rows]).flatten(0, 1), y[rows].repeat(n), reduction="sum") / BATCH
        slopes = torch.autograd.grad(loss, [*p.values()], allow_unused=True)  # of a sum: each network has its own
        with torch.no_grad():
            for (k, w), dw in zip(p.items(), slopes, strict=True):
                if dw is not None:
                    m[k].lerp_(dw, 0.1)
                    v[k].mul_(0.999).addcmul_(dw, dw, value=0.001)
                    step = m[k] / (1 - 0.9**t) / ((v[k] / (1 - 0.999**t)).sqrt() + 1e-8)
                    w.sub_(rates.view(n, 1, 1) * step)
    fine = torch.stack([w.flatten(1).isfinite().all(1) for w in p.values()]).all(0).view(-1, len(RATES))
    right = {}
    with torch.no_grad():
        for kind in ("validation", "test"):
            x, y = parts[kind]
            answers = torch.cat([f(some).argmax(-1) for some in x.split(500)], 1)
            right[kind] = torch.where(fine, (answers == y).float().mean(1).view(fine.shape), torch.nan)
    best = right["validation"].nan_to_num(-1.0).argmax(1, keepdim=True)
    chosen = {kind: dict(zip(names, each.gather(1, best)[:, 0].tolist(), strict=True)) for kind, each in right.items()}
    return {kind: [of[name] for name in given] for kind, of in chosen.items()}


def alone(parts: Parts, name: str, seed: int) -> float:
    """The same of one function with torch's modules and Adam, one rate after the other: validation accuracy."""
    found = []
    for rate in RATES:
        g = torch.Generator().manual_seed(place(seed, "activations", 0))
        nn = torch.nn
        net = nn.Sequential(
            nn.Linear(49, WIDTH, bias=False), nn.LayerNorm(WIDTH), Unit(name, WIDTH),
            nn.Linear(WIDTH, WIDTH, bias=False), nn.LayerNorm(WIDTH), Unit(name, WIDTH), nn.Linear(WIDTH, 10),
        )  # fmt: skip
        with torch.no_grad():
            for layer in (net[0], net[3], net[6]):
                ins = layer.in_features
                layer.weight.copy_((torch.randn(ins, layer.out_features, generator=g) * ins**-0.5).T)
            net[6].bias.zero_()
        method = torch.optim.Adam(net.parameters(), lr=rate)
        x, y = parts["train"]
        for _ in range(STEPS):
            rows = torch.randint(TRAIN, (BATCH,), generator=g)
            method.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            method.step()
        x, y = parts["validation"]
        with torch.no_grad():
            found.append(float((net(x).argmax(-1) == y).float().mean()))
            float((net(parts["test"][0]).argmax(-1) == parts["test"][1]).float().mean())
    return max(found)


class Enough(Exception):
    pass


def table(minutes: float) -> None:
    end, parts = time.monotonic() + 60 * minutes, data()

    def score(choices: list[dict[str, Any]], seed: int) -> dict[str, list[float]]:
        if time.monotonic() > end:
            raise Enough
        return train(parts, [c["function"] for c in choices], seed)

    about = {"data": "Fashion-MNIST 7x7", "machine": machine(), "versions": versions()}
    how = {"batch": TOGETHER, "about": about, "digits": 4}
    try:
        evaluate_table(AGAIN, {"function": order()[:TOGETHER]}, score, seeds=SEEDS, **how)
        evaluate_table(TABLE, {"function": order()}, score, seeds=1, **how)
    except Enough:
        pass
    print(show())


def speed(many: int = 20) -> None:
    """CPU seconds of one process, each function trained by itself, and of the same functions in batches of 50."""
    parts, names = data(), order()[: len(NAMED)] + order()[-TOGETHER + len(NAMED) :]
    spent, scores = {}, {}
    for kind, work in (("together", lambda: train(parts, names, 0)["validation"]),
                       ("one by one", lambda: [alone(parts, name, 0) for name in names[:many]])):  # fmt: skip
        began = time.process_time()
        scores[kind] = work()
        spent[kind] = (time.process_time() - began) / (TOGETHER if kind == "together" else many)
    apart = [abs(a - b) for a, b in zip(scores["together"], scores["one by one"], strict=False)]
    kept = {
        "seconds a function": {k: round(s, 4) for k, s in spent.items()},
        "times faster": round(spent["one by one"] / spent["together"], 2),
        "accuracies apart, median": round(float(np.nanmedian(apart)), 4), "machine": machine(), "versions": versions(),
    }  # fmt: skip
    write_bytes(SPEED, (json.dumps(kept, indent=2) + "\n").encode())
    print(json.dumps(kept))


def evaluated(path: Path) -> dict[str, np.ndarray]:
    """By function, test accuracies of the seeds that are done; nan where it diverged."""
    names, found = order(), {}
    for each in json.loads(path.read_text())["batches"]:
        for i, score in enumerate(each["scores"]["test"]):
            found.setdefault(names[each["first"] + i], []).append(np.nan if score is None else score)
    return {name: np.array(scores) for name, scores in found.items()}


def show() -> str:
    """Functions that have a name beside the random sample, all by the first seed's test accuracy at the rate that
    validation chose; and how far seeds go."""
    tests, again = {name: scores[0] for name, scores in evaluated(TABLE).items()}, evaluated(AGAIN)
    sample = np.array([score for name, score in tests.items() if name not in NAMED])
    diverged = int(np.isnan(sample).sum())
    worst = np.nan_to_num(sample, nan=-1.0)
    head = ["function", "test accuracy, %", "better in the sample, %", f"mean of {SEEDS} seeds", "less ReLU, in pairs"]
    lines, relu = [f"| {' | '.join(head)} |", "| --- | --- | --- | --- | --- |"], next(iter(NAMED))
    for name, called in NAMED.items():
        share, gap = float((worst > tests[name]).mean()), 100 * (again[name] - again[relu])
        apart = "" if name == relu else f"{gap.mean():+.1f} ± {gap.std(ddof=1) / len(gap) ** 0.5:.1f}"
        row = [f"{called} (`{name}`)", f"{100 * tests[name]:.1f}", f"{100 * share:.1f}",
               f"{100 * again[name].mean():.1f}", apart]  # fmt: skip
        lines.append(f"| {' | '.join(row)} |")
    two = np.array([scores for scores in again.values() if not np.isnan(scores).any()])
    noise = f"{100 * np.sqrt(two.var(1, ddof=1).mean()):.2f} (the first {len(again)} functions, {SEEDS} seeds)"
    top = sorted((name for name in tests if not np.isnan(tests[name])), key=lambda name: -tests[name])[:20]
    raw = sum("x" in name.split()[1:] for name in top)
    base = sum("x" in name.split()[1:] for name in units()) / len(units())
    told = [
        "",
        f"{len(sample)} of the {len(units()) - len(NAMED)} functions without a name were evaluated, a random sample, "
        f"with one seed; {diverged} of them diverged at every rate. A function's standard deviation over seeds is "
        f"{noise}. The ten best: {', '.join(f'`{name}` {100 * tests[name]:.1f}' for name in top[:10])}. Of the twenty "
        f"best {raw} take x itself; of all functions {100 * base:.0f} % do.",
    ]  # fmt: skip
    if SPEED.exists():
        kept = json.loads(SPEED.read_text())
        each = kept["seconds a function"]
        told.append(f"A function takes {each['together']:.2f} s of CPU in a batch of {TOGETHER}, alone by torch's "
                    f"modules {each['one by one']:.2f} s: {kept['times faster']:.1f} times faster.")  # fmt: skip
    return "\n".join([*lines, *told]) + "\n"


def page() -> None:
    path = ROOT / "docs" / "searched.md"
    path.write_text(filled(path.read_text(), "table C", show(), path.name))


def main() -> None:
    torch.set_num_threads(1)
    given = argparse.ArgumentParser()
    given.add_argument("what", choices=["table", "speed", "show", "page"])
    given.add_argument("--minutes", type=float, default=6)
    asked = given.parse_args()
    if asked.what == "table":
        table(asked.minutes)
    else:
        {"speed": speed, "show": lambda: print(show()), "page": page}[asked.what]()


if __name__ == "__main__":
    main()
