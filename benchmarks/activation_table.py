"""Table C: activation functions, each in a small network, as far as time was given to it.

    python benchmarks/activation_table.py child                choose the network by what it tells apart
    python benchmarks/activation_table.py table --minutes 6    evaluate on from where it stopped
    python benchmarks/activation_table.py held-out             the named ones in a convolutional network, 20 seeds
    python benchmarks/activation_table.py speed                a batch of functions against one after the other
    python benchmarks/activation_table.py page                 put the figures into docs/searched.md

A child is a perceptron with layers of width 32, trained by Adam on batches of 64 at three rates, of which the best by
validation accuracy is taken. Seeds draw weights and batches, the same for all functions. The functions that have a name
come first and the others in a random order, so that what was evaluated beside them is a random sample of the 4450.

The child is chosen among CHILDREN by a rule that sees neither ReLU nor Swish nor max(x, sigma(x)): forty functions
without a name, and the linear network, are trained with three seeds. The first seed's test accuracies say which half is
better and which function is best; with the others, (1) the better half's share of variance that is between functions,
the intraclass correlation, is measured, and (2) how far the linear network is below that best function, in standard
deviations of a function over seeds. The child with the highest share is taken, of those with (2) above 2 that take at
most 0.6 s of CPU a function, all 4450 in 45 minutes.

Held out: two convolutions of stride 2, 8 and 16 channels, and a linear layer, an epoch of Adam, on MNIST and
Fashion-MNIST, on pictures that neither the child nor the table has seen; each function at its own best of six rates,
chosen with a seed of its own.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from optimizer_table import CONVOLUTIONS, drawn, gap
from shrunk import Parts, shrunk
from told import filled
from torch import Tensor, nn

from metaloop.engine.checkpoint import write_bytes
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import place
from metaloop.nn.activations import Unit, Units, units
from metaloop.outer.search_table import evaluate_table

ROOT = Path(__file__).resolve().parent.parent
CHOSEN, TABLE, HELD_OUT, SPEED = (
    ROOT / "results" / f"activation-{kind}.json" for kind in ("child", "table", "held-out", "speed")
)
NAMED = {
    "max x relu": "ReLU", "gate x x": "Swish", "gate beta*x x": "Swish, beta learned",
    "max x sigmoid": "max(x, sigma(x))", "add x beta": "none: linear",
}  # fmt: skip
RELU, LINEAR = "max x relu", "add x beta"
RATES, BATCH, WIDTH = (1e-3, 3e-3, 1e-2), 64, 32
TRAIN, VALIDATION, TEST = 10_000, 1000, 2000
TOGETHER, SEEDS = 100, 3
ABOVE, COST = 2, 0.6  # what a child must reach: standard deviations, and seconds a function
HELD_OUT_RATES, HELD_OUT_SEEDS = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2), 20


@dataclass(frozen=True)
class Child:
    """norm: layer norm "before" each activation, "after" it, "none", or before it in a branch beside the "identity".
    fades: rates fall to 0 along a line."""

    data: str
    layers: int
    norm: str
    steps: int
    fades: bool = False

    def __str__(self) -> str:
        data = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}[self.data]
        norms = {"none": "no norm", "identity": "layer norm before, and the identity beside, each activation"}
        norm = norms.get(self.norm, f"layer norm {self.norm} each activation")
        sizes, fading = "-".join(["49", *["32"] * self.layers, "10"]), ", fading" * self.fades
        return f"{data} 7x7, {sizes}, {norm}, {self.steps} steps{fading}"


CHILDREN = (
    Child("fashion_mnist", 2, "before", 100), Child("fashion_mnist", 4, "before", 300),
    Child("fashion_mnist", 4, "none", 300), Child("mnist", 2, "before", 300), Child("mnist", 4, "before", 300),
    Child("mnist", 4, "none", 300), Child("mnist", 4, "after", 300), Child("mnist", 4, "identity", 300),
    Child("mnist", 2, "before", 300, fades=True), Child("mnist", 2, "none", 300, fades=True),
    Child("mnist", 4, "none", 300, fades=True), Child("fashion_mnist", 4, "none", 300, fades=True),
)  # fmt: skip


def order() -> list[str]:
    rest = [name for name in units() if name not in NAMED]
    random.Random(0).shuffle(rest)
    return [*NAMED, *rest]


def data(child: Child) -> Parts:
    """Flat pictures, x [n, 49]: means of 4x4 pixels."""
    parts = shrunk(child.data, 4, TRAIN, VALIDATION, TEST)
    return {kind: (x.flatten(1), y) for kind, (x, y) in parts.items()}


# Many networks of one form in one batch: parameters, each [networks, ...], and answers [networks, rows, 10] of their
# parameters to rows that all of them see.

Answer = Callable[[dict[str, Tensor], Tensor], Tensor]


def descend(
    parts: Parts, p: dict[str, Tensor], answer: Answer, rates: Tensor, steps: int, g: torch.Generator, *, fades: bool,
) -> None:  # fmt: skip
    """Adam, in place; rates [networks]."""
    p |= {k: w.requires_grad_() for k, w in p.items()}
    m, v = ({k: torch.zeros_like(w) for k, w in p.items()} for _ in "mv")
    x, y = parts["train"]
    for t in range(1, steps + 1):
        rows, rate = torch.randint(TRAIN, (BATCH,), generator=g), rates * (1 - (t - 1) / steps if fades else 1)
        scores = answer(p, x[rows]).flatten(0, 1)
        loss = F.cross_entropy(scores, y[rows].repeat(len(rates)), reduction="sum") / BATCH
        slopes = torch.autograd.grad(loss, [*p.values()], allow_unused=True)  # of a sum: each network has its own
        with torch.no_grad():
            for (k, w), dw in zip(p.items(), slopes, strict=True):
                if dw is not None:
                    m[k].lerp_(dw, 0.1)
                    v[k].mul_(0.999).addcmul_(dw, dw, value=0.001)
                    step = m[k] / (1 - 0.9**t) / ((v[k] / (1 - 0.999**t)).sqrt() + 1e-8)
                    w.sub_(rate.view(-1, *(1,) * (w.dim() - 1)) * step)


def accuracies(parts: Parts, p: dict[str, Tensor], answer: Answer) -> dict[str, Tensor]:
    """Of validation and test, [networks]; nan where a network is not finite."""
    fine = torch.stack([w.flatten(1).isfinite().all(1) for w in p.values()]).all(0)
    right = {}
    with torch.no_grad():
        for kind in ("validation", "test"):
            x, y = parts[kind]
            guesses = torch.cat([answer(p, some).argmax(-1) for some in x.split(500)], 1)
            right[kind] = torch.where(fine, (guesses == y).float().mean(1), torch.nan)
    return right


def train(parts: Parts, child: Child, names: list[str], seed: int) -> dict[str, list[float]]:
    """Of each function the accuracy at its best rate, all functions and rates in one batch; nan if all diverged."""
    given, names = names, sorted(names, key=lambda name: name.split()[1])  # less to move about
    n, g = len(names) * len(RATES), torch.Generator().manual_seed(place(seed, "activations", 0))
    apply = Units([name for name in names for _ in RATES])
    sizes, p = (49, *[WIDTH] * child.layers, 10), {}
    for i, (a, b) in enumerate(pairwise(sizes)):
        p[f"W{i}"] = (torch.randn(a, b, generator=g) * a**-0.5).repeat(n, 1, 1)
        p[f"b{i}"] = torch.zeros(n, 1, b)
    for i in range(child.layers):
        p[f"scale{i}"], p[f"beta{i}"] = torch.ones(n, 1, WIDTH), torch.ones(n, 3, WIDTH)

    def answer(p: dict[str, Tensor], x: Tensor) -> Tensor:
        h = x.expand(n, -1, -1)
        for i in range(child.layers):
            z = torch.bmm(h, p[f"W{i}"])
            if child.norm in ("before", "identity"):
                z = F.layer_norm(z, (WIDTH,)) * p[f"scale{i}"]
            z = apply(z + p[f"b{i}"], p[f"beta{i}"])
            if child.norm == "after":
                z = F.layer_norm(z, (WIDTH,)) * p[f"scale{i}"]
            h = h + z if child.norm == "identity" and i else z
        return torch.baddbmm(p[f"b{child.layers}"], h, p[f"W{child.layers}"])

    descend(parts, p, answer, torch.tensor(RATES).repeat(len(names)), child.steps, g, fades=child.fades)
    right = {kind: of.view(-1, len(RATES)) for kind, of in accuracies(parts, p, answer).items()}
    best = right["validation"].nan_to_num(-1.0).argmax(1, keepdim=True)
    chosen = {kind: dict(zip(names, each.gather(1, best)[:, 0].tolist(), strict=True)) for kind, each in right.items()}
    return {kind: [of[name] for name in given] for kind, of in chosen.items()}


class Layer(nn.Module):
    """A layer of one child, with torch's modules."""

    def __init__(self, name: str, inputs: int, norm: str, *, first: bool):
        super().__init__()
        self.linear = nn.Linear(inputs, WIDTH, bias=norm in ("none", "after"))
        self.norm = nn.Identity() if norm == "none" else nn.LayerNorm(WIDTH, bias=norm != "after")
        self.unit, self.after, self.identity = Unit(name, WIDTH), norm == "after", norm == "identity" and not first

    def forward(self, h: Tensor) -> Tensor:
        z = self.linear(h)
        z = self.norm(self.unit(z)) if self.after else self.unit(self.norm(z))
        return h + z if self.identity else z


def alone(parts: Parts, child: Child, name: str, seed: int) -> float:
    """The same of one function with torch's modules and Adam, one rate after the other: validation accuracy."""
    found = []
    for rate in RATES:
        g = torch.Generator().manual_seed(place(seed, "activations", 0))
        layers = [Layer(name, WIDTH if i else 49, child.norm, first=not i) for i in range(child.layers)]
        net = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
        with torch.no_grad():
            for linear in (each for each in net.modules() if isinstance(each, nn.Linear)):
                ins = linear.in_features
                linear.weight.copy_((torch.randn(ins, linear.out_features, generator=g) * ins**-0.5).T)
                if linear.bias is not None:
                    linear.bias.zero_()
        method = torch.optim.Adam(net.parameters(), lr=rate)
        falls = torch.optim.lr_scheduler.LinearLR(method, 1.0, 0.0 if child.fades else 1.0, child.steps)
        x, y = parts["train"]
        for _ in range(child.steps):
            rows = torch.randint(TRAIN, (BATCH,), generator=g)
            method.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            method.step()
            falls.step()
        right = {}
        with torch.no_grad():
            for kind in ("validation", "test"):
                x, y = parts[kind]
                right[kind] = float((net(x).argmax(-1) == y).float().mean())  # of both kinds, as in a batch
        found.append(right["validation"])
    return max(found)


def correlation(scores: np.ndarray) -> float:
    """[seeds, functions]: the share of variance that is between functions, of two crossed factors; a seed's own mean,
    which all functions have in common, is neither."""
    k, n = scores.shape
    between = k * scores.mean(0).var(ddof=1)
    rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    within = (rest**2).sum() / ((n - 1) * (k - 1))
    return float((between - within) / (between + (k - 1) * within))


def judged(scores: np.ndarray) -> dict[str, float]:
    """By the rule above, of test accuracies [seeds, functions], the linear network's last."""
    worst = np.nan_to_num(scores, nan=0.1)  # chance
    first, others = np.argsort(-worst[0, :-1]), worst[1:]
    half = others[:, first[: len(first) // 2]]
    noise = np.sqrt(others[:, :-1].var(0, ddof=1).mean())
    below = others[:, first[0]].mean() - others[:, -1].mean()
    return {"share": correlation(half), "noise": float(noise), "linear below best": float(below / noise)}


def child() -> None:
    names = [*order()[-40:], LINEAR]
    kept: dict[str, Any] = {"functions": names, "children": []}
    if CHOSEN.exists():
        kept = json.loads(CHOSEN.read_text())
    before = tuple(map(measured, kept["children"]))
    if before != CHILDREN[: len(before)]:
        raise SystemExit(f"{CHOSEN.name} is of other children: delete it, and begin anew")
    for each in CHILDREN[len(before) :]:
        parts, began = data(each), time.process_time()
        tests = [train(parts, each, names, 100 + seed)["test"] for seed in range(3)]
        spent = (time.process_time() - began) / len(tests) / len(names)
        told = {**asdict(each), **judged(np.array(tests)), "seconds a function": spent}
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in told.items()}
        tests = [[None if np.isnan(v) else round(v, 4) for v in row] for row in tests]
        kept["children"].append({**rounded, "test": tests})
        kept |= {"machine": machine(), "versions": versions()}
        write_bytes(CHOSEN, (json.dumps(kept) + "\n").encode())
        print(rounded, flush=True)


def measured(told: dict[str, Any]) -> Child:
    """The child of which something is told."""
    return Child(**{name: told[name] for name in Child.__dataclass_fields__})


def chosen() -> tuple[Child, list[dict[str, Any]]]:
    """The child by the rule, and what was measured of each."""
    if not CHOSEN.exists():
        raise SystemExit("choose the network first: python benchmarks/activation_table.py child")
    told = json.loads(CHOSEN.read_text())["children"]
    fit = [each for each in told if each["linear below best"] > ABOVE and each["seconds a function"] <= COST]
    if not fit:
        raise SystemExit("no child does what is asked of it")
    return measured(max(fit, key=lambda each: each["share"])), told


class Enough(Exception):
    pass


def table(minutes: float) -> None:
    end, (child, _) = time.monotonic() + 60 * minutes, chosen()
    if TABLE.exists() and measured(json.loads(TABLE.read_text())["about"]["child"]) != child:
        raise SystemExit(f"{TABLE.name} is of another child: delete it, and begin anew")
    parts = data(child)

    def score(choices: list[dict[str, Any]], seed: int) -> dict[str, list[float]]:
        if time.monotonic() > end:
            raise Enough
        return train(parts, child, [c["function"] for c in choices], seed)

    about = {"child": asdict(child), "machine": machine(), "versions": versions()}
    with suppress(Enough):
        evaluate_table(TABLE, {"function": order()}, score, seeds=SEEDS, batch=TOGETHER, about=about, digits=4)
    print(show())


def convolutional(parts: Parts, names: list[str], rates: list[tuple[float, ...]], seed: int) -> dict[str, Tensor]:
    """Accuracies [functions, rates] after an epoch; a beta for each layer."""
    many = len(rates[0])
    n, g = len(names) * many, torch.Generator().manual_seed(place(seed, "activations held out", 0))
    apply = Units([name for name in names for _ in range(many)])
    p = {k: w.repeat(n, *(1,) * w.dim()) for k, w in drawn(CONVOLUTIONS, g).items()}
    p |= {f"beta{i}": torch.ones(n, 3, 1) for i in range(2)}

    def layer(p: dict[str, Tensor], x: Tensor, i: int) -> Tensor:
        kernel, bias = p[f"K{i + 1}"].flatten(0, 1), p[f"k{i + 1}"].flatten()
        z = F.conv2d(x, kernel, bias, stride=2, padding=1, groups=n if i else 1)
        h = apply(z.view(len(z), n, -1).transpose(0, 1), p[f"beta{i}"])
        return h.transpose(0, 1).reshape(z.shape)

    def answer(p: dict[str, Tensor], x: Tensor) -> Tensor:
        h = layer(p, layer(p, x, 0), 1)
        return torch.baddbmm(p["b"], h.view(len(x), n, -1).transpose(0, 1), p["W"])

    descend(parts, p, answer, torch.tensor(rates).flatten(), TRAIN // BATCH, g, fades=False)
    return {kind: of.view(-1, many) for kind, of in accuracies(parts, p, answer).items()}


def held_out() -> None:
    names = [*NAMED]
    kept: dict[str, Any] = {"functions": names, "machine": machine(), "versions": versions()}
    for name in ("mnist", "fashion_mnist"):
        parts = shrunk(name, 2, TRAIN, VALIDATION, TEST, others=True)
        tuned = convolutional(parts, names, [HELD_OUT_RATES] * len(names), 1000)["validation"].nan_to_num(-1.0)
        rates = [(HELD_OUT_RATES[i],) for i in tuned.argmax(1)]
        seeds = [convolutional(parts, names, rates, seed)["test"][:, 0].tolist() for seed in range(HELD_OUT_SEEDS)]
        tests = [[round(v, 4) for v in of] for of in zip(*seeds, strict=True)]
        kept[name] = {"rates": [rate for (rate,) in rates], "test": tests}
    write_bytes(HELD_OUT, (json.dumps(kept) + "\n").encode())
    print(show())


def speed(many: int = 10) -> None:
    """CPU seconds a function of one process that trains the first `many` by themselves, and of all in one batch."""
    child, _ = chosen()
    parts, names = data(child), order()[-TOGETHER:]
    spent, scores = {}, {}
    for kind, work in (("together", lambda: train(parts, child, names, 0)["validation"]),
                       ("one by one", lambda: [alone(parts, child, name, 0) for name in names[:many]])):  # fmt: skip
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


def evaluated() -> dict[str, dict[str, np.ndarray]]:
    """Validation and test accuracies of each function, of the seeds that are done for all of them, of the first if none
    is; nan where it diverged at every rate."""
    names, found = order(), {}
    for each in json.loads(TABLE.read_text())["batches"]:
        for kind, scores in each["scores"].items():
            for i, score in enumerate(scores):
                of = found.setdefault(names[each["first"] + i], {}).setdefault(kind, [])
                of.append(np.nan if score is None else score)
    seeds = min(len(of["test"]) for of in found.values()) if len(found) == len(names) else 1
    return {name: {kind: np.array(scores[:seeds]) for kind, scores in of.items()} for name, of in found.items()}


def show() -> str:
    """How the child was chosen; functions that have a name beside the random sample; the convolutional network."""
    child, told = chosen()
    lines = ["| child | share of variance | linear below the best, in sd | seconds a function |", "| --- " * 4 + "|"]
    for each in told:
        which = measured(each)
        row = [f"**{which}**" if which == child else f"{which}", f"{each['share']:.2f}",
               f"{each['linear below best']:.1f}", f"{each['seconds a function']:.2f}"]  # fmt: skip
        lines.append(f"| {' | '.join(row)} |")
    for path, more in ((TABLE, of_table), (HELD_OUT, of_held_out), (SPEED, of_speed)):
        if path.exists():
            lines += ["", *more()]
    return "\n".join(lines) + "\n"


def of_table() -> list[str]:
    """By mean test accuracy over seeds, at the rates that validation chose."""
    found = evaluated()
    tests = {name: float(np.nan_to_num(of["test"].mean(), nan=-1.0)) for name, of in found.items()}
    sample = np.array([mean for name, mean in tests.items() if name not in NAMED])
    seeds = len(found[RELU]["test"])
    lines = ["| function | test accuracy, % | better of the others, % |", "| --- | --- | --- |"]
    for name, called in NAMED.items():
        share = 100 * float((sample > tests[name]).mean())
        lines.append(f"| {called} (`{name}`) | {100 * tests[name]:.2f} | {share:.1f} |")
    whole = np.array([of["test"] for of in found.values() if not np.isnan(of["test"]).any()]).T
    better = whole[:, np.argsort(-whole[0])[: whole.shape[1] // 2]]
    noise = f"A function's standard deviation over seeds is {100 * np.sqrt(whole.var(0, ddof=1).mean()):.2f}. " \
        if seeds > 1 else ""
    if seeds > 2:
        noise += ("Of the variance among the half that is better by the first seed, "
                  f"{100 * correlation(better[1:]):.0f} % is between functions. ")  # fmt: skip
    means = {name: of["validation"].mean() for name, of in found.items()}
    top = sorted((name for name, mean in means.items() if not np.isnan(mean)), key=lambda name: -means[name])[:20]
    raw = sum("x" in name.split()[1:] for name in top)
    base = sum("x" in name.split()[1:] for name in units()) / len(units())
    return [
        *lines,
        "",
        f"{len(sample)} of the {len(units()) - len(NAMED)} functions without a name were evaluated, "
        f"{'a random sample, ' if len(found) < len(units()) else ''}with {seeds} of {SEEDS} seeds; "
        f"{(sample < 0).sum()} diverged at every rate with some seed, and count as worse than any. {noise}"
        f"The best has {100 * sample.max():.2f}, the median {100 * np.median(sample):.2f}. The ten best by "
        f"validation: {', '.join(f'`{name}` {100 * tests[name]:.2f}' for name in top[:10])}. Of the twenty best {raw} "
        f"take x itself; of all functions {100 * base:.0f} % do.",
    ]


def of_held_out() -> list[str]:
    kept = json.loads(HELD_OUT.read_text())
    lines = ["| held out: function | MNIST, rate | less ReLU | Fashion-MNIST, rate | less ReLU |", "| --- " * 5 + "|"]
    at = kept["functions"].index(RELU)
    for i, name in enumerate(kept["functions"]):
        row = [f"{NAMED[name]} (`{name}`)"]
        for part in ("mnist", "fashion_mnist"):
            scores = np.array(kept[part]["test"], dtype=float)
            row.append(f"{100 * scores[i].mean():.2f}, {kept[part]['rates'][i]:g}")
            row.append("" if i == at else gap(scores[i], scores[at]))
        lines.append(f"| {' | '.join(row)} |")
    return [*lines, "", f"{len(kept['mnist']['test'][0])} seeds, in pairs."]


def of_speed() -> list[str]:
    kept = json.loads(SPEED.read_text())
    each = kept["seconds a function"]
    return [f"A function takes {each['together']:.2f} s of CPU in a batch of {TOGETHER}, alone by torch's modules "
            f"{each['one by one']:.2f} s: {kept['times faster']:.1f} times faster."]  # fmt: skip


def page() -> None:
    path = ROOT / "docs" / "searched.md"
    path.write_text(filled(path.read_text(), "table C", show(), path.name))


def main() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # functions that die would cost twice as much
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("what", choices=["child", "table", "held-out", "speed", "show", "page"])
    given.add_argument("--minutes", type=float, default=6)
    asked = given.parse_args()
    if asked.what == "table":
        table(asked.minutes)
    else:
        does = {"child": child, "held-out": held_out, "speed": speed, "show": lambda: print(show()), "page": page}
        does[asked.what]()


if __name__ == "__main__":
    main()
