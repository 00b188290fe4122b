"""Table B: update rules, each training a small network, each at the best of its rates.

    python benchmarks/optimizer_table.py table --minutes 10    evaluate on from where it stopped
    python benchmarks/optimizer_table.py held-out              the ten best, where nothing was chosen by
    python benchmarks/optimizer_table.py page                  put the figures into docs/searched.md

Table: Fashion-MNIST's pictures of 14x14 pixels (means of 2x2), 196-32-10 with ReLU, one epoch of 10 000 in batches of
64, seven rates from 1e-5 to 10 of which the best by accuracy on 2000 others is taken; 3 seeds, which draw weights and
batches, the same for all rules. Rules that have a name come first, the others in a random order: as far as it is
evaluated it is a random sample of the 2726 rules of one group, and of a second that multiplies it by g.

Held out: two convolutions of stride 2, 8 and 16 channels, and a linear layer, on MNIST and on Fashion-MNIST, on
pictures that Table B has not seen; the ten best of the table and those with a name, each at its own best rate there,
chosen with a seed of its own; then 10 seeds, in pairs with Adam's.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from shrunk import Parts, shrunk
from told import filled, interval
from torch import Tensor

from metaloop.engine.checkpoint import write_bytes
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import place
from metaloop.nn.rules import BETA1, BETA2, operands, read_rule, rules
from metaloop.outer.search_table import evaluate_table

ROOT = Path(__file__).resolve().parent.parent
TABLE, HELD_OUT = (ROOT / "results" / f"optimizer-{kind}.json" for kind in ("table", "held-out"))
NAMED = {
    "g": "gradient descent", "m": "momentum", "rms": "RMSProp", "adam": "Adam", "exp(sign_g * sign_m) * g": "PowerSign",
    "(1 + sign_g * sign_m) * g": "AddSign",
}  # fmt: skip
RATES, BATCH, SEEDS, TOGETHER = tuple(10.0**k for k in range(-5, 2)), 64, 3, 50
TRAIN, VALIDATION, TEST = 10_000, 2000, 5000


def order() -> list[str]:
    rest = [name for name in (*rules(1), *rules(2)) if name not in NAMED]
    random.Random(0).shuffle(rest)
    return [*NAMED, *rest]


def data(name: str, *, others: bool = False) -> Parts:
    return shrunk(name, 2, TRAIN, VALIDATION, TEST, others=others)


# Many networks of one form: sizes of their parameters, and answers [networks, rows, 10] of their parameters, each
# [networks, ...], to rows that all of them see.

PERCEPTRON = {"W1": (196, 32), "b1": (1, 32), "W2": (32, 10), "b2": (1, 10)}
CONVOLUTIONS = {"K1": (8, 1, 3, 3), "k1": (8,), "K2": (16, 8, 3, 3), "k2": (16,), "W": (256, 10), "b": (1, 10)}


def perceptron(p: dict[str, Tensor], x: Tensor) -> Tensor:
    h = torch.baddbmm(p["b1"], x.flatten(1).expand(len(p["W1"]), -1, -1), p["W1"]).relu()
    return torch.baddbmm(p["b2"], h, p["W2"])


def convolutions(p: dict[str, Tensor], x: Tensor) -> Tensor:
    n = len(p["W"])
    h = F.conv2d(x, p["K1"].flatten(0, 1), p["k1"].flatten(), stride=2, padding=1).relu()
    h = F.conv2d(h, p["K2"].flatten(0, 1), p["k2"].flatten(), stride=2, padding=1, groups=n).relu()
    return torch.baddbmm(p["b"], h.view(len(x), n, -1).transpose(0, 1), p["W"])


def drawn(sizes: dict[str, tuple[int, ...]], g: torch.Generator) -> dict[str, Tensor]:
    """Weights of variance 2 over their inputs, biases zero."""
    inputs = {name: size[0] if len(size) == 2 else int(np.prod(size[1:])) for name, size in sizes.items()}
    return {
        name: torch.zeros(size) if name[0] in "bk" else torch.randn(size, generator=g) * (2 / inputs[name]) ** 0.5
        for name, size in sizes.items()
    }


def train(
    parts: Parts, sizes: dict[str, tuple[int, ...]], answer: Callable[[dict[str, Tensor], Tensor], Tensor],
    texts: list[str], rates: list[list[float]], seed: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Accuracies [rules, rates] after an epoch, nan where a network is not finite; all in one batch."""
    n, many = len(texts), len(rates[0])
    g = torch.Generator().manual_seed(place(seed, "update rules", 0))
    start = drawn(sizes, g)
    p = {name: t.repeat(n * many, *(1,) * t.dim()).requires_grad_() for name, t in start.items()}
    m, v = ({name: torch.zeros_like(t) for name, t in p.items()} for _ in "mv")
    step, at = [read_rule(text)[0] for text in texts], torch.tensor(rates)
    x, y = parts["train"]
    for t, rows in enumerate(torch.randperm(TRAIN, generator=g)[: TRAIN // BATCH * BATCH].split(BATCH), 1):
        scores = answer(p, x[rows]).flatten(0, 1)
        loss = F.cross_entropy(scores, y[rows].repeat(n * many), reduction="sum") / BATCH  # each has its own gradient
        with torch.no_grad():
            for (name, w), dw in zip(p.items(), torch.autograd.grad(loss, [*p.values()]), strict=True):
                m[name].lerp_(dw, 1 - BETA1)
                v[name].mul_(BETA2).addcmul_(dw, dw, value=1 - BETA2)
                for i in range(n):
                    of = slice(i * many, (i + 1) * many)
                    given = operands(dw[of], w[of], m[name][of], v[name][of], 1 - BETA1**t, 1 - BETA2**t)
                    w[of] -= at[i].view(many, *(1,) * (w.dim() - 1)) * step[i](given)
    fine = torch.stack([w.flatten(1).isfinite().all(1) for w in p.values()]).all(0).view(n, many)
    right = {}
    with torch.no_grad():
        for kind in ("validation", "test"):
            x, y = parts[kind]
            guesses = torch.cat([answer(p, some).argmax(-1) for some in x.split(500)], 1)
            right[kind] = torch.where(fine, (guesses == y).double().mean(1).view(n, many), torch.nan)
    return right


class Enough(Exception):
    pass


def table(minutes: float) -> None:
    end, parts = time.monotonic() + 60 * minutes, data("fashion_mnist")

    def score(choices: list[dict[str, Any]], seed: int) -> dict[str, list[float]]:
        if time.monotonic() > end:
            raise Enough
        texts = [choice["rule"] for choice in choices]
        right = train(parts, PERCEPTRON, perceptron, texts, [[*RATES]] * len(texts), seed)
        best = right["validation"].nan_to_num(-1.0).argmax(1, keepdim=True)
        return {kind: each.gather(1, best)[:, 0].tolist() for kind, each in right.items()}

    about = {"data": "Fashion-MNIST 14x14", "machine": machine(), "versions": versions()}
    with suppress(Enough):
        evaluate_table(TABLE, {"rule": order()}, score, seeds=SEEDS, batch=TOGETHER, about=about, digits=4)
    print(show())


def evaluated() -> dict[str, dict[str, np.ndarray]]:
    """Validation and test accuracies of each rule, of the seeds that are done for all of them, of the first if none
    is; nan where it diverged at every rate."""
    names, found = order(), {}
    for each in json.loads(TABLE.read_text())["batches"]:
        for kind, scores in each["scores"].items():
            for i, score in enumerate(scores):
                of = found.setdefault(names[each["first"] + i], {}).setdefault(kind, [])
                of.append(np.nan if score is None else score)
    seeds = min(len(of["test"]) for of in found.values()) if len(found) == len(names) else 1
    return {name: {kind: np.array(scores[:seeds]) for kind, scores in of.items()} for name, of in found.items()}


def best(many: int) -> list[str]:
    """By mean validation accuracy: what a search would answer."""
    means = {name: of["validation"].mean() for name, of in evaluated().items()}
    return sorted((name for name, mean in means.items() if not np.isnan(mean)), key=lambda name: -means[name])[:many]


def held_out() -> None:
    texts = list(dict.fromkeys([*NAMED, *best(10)]))
    kept: dict[str, Any] = {"rules": texts, "machine": machine(), "versions": versions()}
    for name in ("mnist", "fashion_mnist"):
        parts = data(name, others=True)
        tuned = train(parts, CONVOLUTIONS, convolutions, texts, [[*RATES]] * len(texts), 1000)["validation"]
        rates = [[RATES[int(row.nan_to_num(-1.0).argmax())]] for row in tuned]
        seeds = [train(parts, CONVOLUTIONS, convolutions, texts, rates, seed)["test"][:, 0] for seed in range(10)]
        kept[name] = {"rates": [rate for (rate,) in rates], "test": torch.stack(seeds, 1).tolist()}
    write_bytes(HELD_OUT, (json.dumps(kept, indent=1) + "\n").encode())
    print(show())


def gap(a: np.ndarray, b: np.ndarray) -> str:
    """Points of accuracy in pairs, with the 95 % interval over seeds."""
    mean, half = interval(100 * (a - b))
    return f"{mean:+.2f} ± {half:.2f}"


def show() -> str:
    found = evaluated()
    means = {name: np.nan_to_num(of["test"].mean(), nan=-1.0) for name, of in found.items()}
    rest = np.array([mean for name, mean in means.items() if name not in NAMED])
    seeds = len(found["adam"]["test"])
    whole = np.array([of["test"] for of in found.values() if not np.isnan(of["test"]).any()])
    noise = 100 * np.sqrt(whole.var(1, ddof=1).mean()) if seeds > 1 else 0.0
    apart = f"A rule's standard deviation over seeds is {noise:.2f}. " if seeds > 1 else ""
    beside = len(order()) - len(NAMED)
    lines = ["| rule | test accuracy, % | better of the others, % |", "| --- | --- | --- |"]
    for name, called in NAMED.items():
        lines.append(f"| {called} (`{name}`) | {100 * means[name]:.2f} | {100 * (rest > means[name]).mean():.1f} |")
    diverged = sum(bool(np.isnan(of["test"]).any()) for of in found.values())
    lines += [
        "",
        f"{len(rest)} of {beside} rules without a name were evaluated with {seeds} of {SEEDS} seeds; "
        f"{diverged} diverged at every rate with some seed, and count as worse than any. {apart}"
        "The ten best by validation: "
        + ", ".join(f"`{name}` {100 * means[name]:.2f}" for name in best(10)) + ".",
    ]  # fmt: skip
    if HELD_OUT.exists():
        kept = json.loads(HELD_OUT.read_text())
        lines += [
            "",
            "| held out: rule | MNIST, rate | less Adam | Fashion-MNIST, rate | less Adam |",
            "| --- " * 5 + "|",
        ]
        at = kept["rules"].index("adam")
        for i, name in enumerate(kept["rules"]):
            row = [f"{NAMED[name]} (`{name}`)" if name in NAMED else f"`{name}`"]
            for part in ("mnist", "fashion_mnist"):
                scores = np.array(kept[part]["test"], dtype=float)
                row.append(f"{100 * scores[i].mean():.2f}, {kept[part]['rates'][i]:g}")
                row.append("" if i == at else gap(scores[i], scores[at]))
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def page() -> None:
    path = ROOT / "docs" / "searched.md"
    path.write_text(filled(path.read_text(), "table B", show(), path.name))


def main() -> None:
    torch.set_num_threads(1)
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("what", choices=["table", "held-out", "show", "page"])
    given.add_argument("--minutes", type=float, default=10)
    asked = given.parse_args()
    if asked.what == "table":
        table(asked.minutes)
    else:
        {"held-out": held_out, "show": lambda: print(show()), "page": page}[asked.what]()


if __name__ == "__main__":
    main()
