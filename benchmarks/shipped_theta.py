"""The theta that `ml.optim.Learned(params)` takes where none is given: how it was trained, and what it is good for.

    python benchmarks/shipped_theta.py train --seconds 200 --processes 14 --out DIR     candidates, and the choice
    python benchmarks/shipped_theta.py test --seconds 90 --processes 14 --out DIR       beside Adam, SGD and PowerSign
    python benchmarks/shipped_theta.py ship --out DIR     take what DIR holds over: metaloop/, results/ and docs/

train: an `lstm_optimizer` on a spread of small networks, each trained for 100 steps on minibatches of 128: perceptrons
of one and two layers and two convolutions of stride 2, with ReLU or tanh, on MNIST's digits (7x7 and 14x14 pixels), on
Omniglot's drawings (which of ten alphabets is it?) and on the numbers of pendigits (PMLB). A candidate is a learning
rate, an unroll, a size, a spread of scales (each tensor of a network is seen times a factor exp(U(-s, s)), so that m
meets gradients of many sizes) and a seed. Several processes may belong to one: each has a network of its own, and their
gradients are averaged. Rates follow the clock, so a candidate is complete whenever the seconds are over. The choice
among candidates is made on other networks for other parts of the same data, and never sees what is tested on.

test: networks and data that neither the training nor the choice saw, HELD below: Fashion-MNIST, CIFAR-10 and letter.
20 initialisations, 200 steps, with curves; each rival at the best of 12 rates, by the very figure that is compared, the
mean loss on test examples after 100 steps, from 8 of the 20, which favours the rivals; theta at the rate 1 it was
trained with. It may be shipped if it is better than Adam at Adam's best rate on at least half of the problems after 100
steps. What a file holds already is not done again, unless --again.

Data: mnist, fashion_mnist (t10k only), cifar10, omniglot (images_background.zip), pmlb (letter, pendigits), in
METALOOP_DATA.
"""

import argparse
import gzip
import hashlib
import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import unrolled
from PIL import Image
from safetensors.torch import load_file, save_file
from shrunk import idx
from told import filled, interval
from torch import Tensor, nn
from torch import multiprocessing as mp
from torch.nn.functional import avg_pool2d, cross_entropy

import metaloop as ml
from metaloop.engine.run import machine, versions

ROOT = Path(__file__).resolve().parent.parent
STEPS, BATCH, SCALE = 100, 128, 0.01
FACTORS = 1.0, 0.7, 0.5  # on the steps of a candidate
SAMPLE = 200  # coordinates of a tensor that are differentiated
RATES = {
    "Adam": [10 ** (k / 3 - 4) for k in range(12)], "SGD with momentum 0.9": [10 ** (k / 3 - 3) for k in range(12)],
    "PowerSign": [10 ** (k / 3 - 3.5) for k in range(12)],
}  # fmt: skip
INITIALISATIONS, TUNED_ON, CURVE = 20, 8, (0, 5, 10, 20, 30, 50, 70, 100, 120, 150, 200)
Data = dict[str, tuple[Tensor, Tensor]]  # "train", "validation", "test": x, y


# Data -----------------------------------------------------------------------------------------------------------------
def folder(name: str) -> Path:
    return Path(os.environ["METALOOP_DATA"]) / name


def divided(x: Any, y: Any, validation: int, test: int) -> Data:
    """In an order drawn once; classes are numbered from 0."""
    x, y = torch.tensor(np.asarray(x)), torch.tensor(np.unique(y, return_inverse=True)[1])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    cut = order.split([len(y) - validation - test, validation, test])
    return {name: (x[rows], y[rows]) for name, rows in zip(("train", "validation", "test"), cut, strict=True)}


def standard(data: Data, axes: tuple[int, ...]) -> Data:
    """Of mean 0 and variance 1 over the axes of the training part."""
    x = data["train"][0].float()
    mean, spread = x.mean(axes, keepdim=True), x.std(axes, keepdim=True).clamp(min=1e-6)
    return {name: ((x.float() - mean) / spread, y) for name, (x, y) in data.items()}


def mnist() -> Data:
    x, y = (idx(folder("mnist") / f"train-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return standard(divided(x[:30_000, None], y[:30_000], 5000, 1), (0, 1, 2, 3))


def fashion() -> Data:
    x, y = (idx(folder("fashion_mnist") / f"t10k-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return standard(divided(x[:, None], y, 1, 2000), (0, 1, 2, 3))


def alphabets() -> Data:
    """Drawings of every second character of each of Lake's background alphabets, 28x28; the class is the alphabet."""
    x, y = [], []
    with zipfile.ZipFile(folder("omniglot") / "images_background.zip") as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".png")):
            *_, alphabet, character, _ = name.split("/")
            if int(character[-2:]) % 2:
                ink = Image.open(BytesIO(archive.read(name))).convert("L").resize((28, 28), Image.Resampling.BOX)
                x.append(1 - np.asarray(ink, np.float32) / 255)
                y.append(alphabet)
    return standard(divided(np.stack(x)[:, None], y, 2000, 1), (0, 1, 2, 3))


def cifar10() -> Data:
    x, y = [], []
    with zipfile.ZipFile(folder("cifar10") / "cifar10-test-jpg.zip") as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".jpg")):
            x.append(np.asarray(Image.open(BytesIO(archive.read(name))).convert("RGB")).transpose(2, 0, 1))
            y.append(name.split("/")[-2])
    return standard(divided(np.stack(x), y, 1, 2000), (0, 2, 3))


def table(name: str) -> Data:
    with gzip.open(folder("pmlb") / "datasets" / name / f"{name}.tsv.gz", "rt") as file:
        rows = np.loadtxt(file, skiprows=1)
    return standard(divided(rows[:, :-1].astype(np.float32), rows[:, -1], 2000, 2000), (0,))


def smaller(data: Data, by: int) -> Data:
    return data if by == 1 else {name: (avg_pool2d(x, by), y) for name, (x, y) in data.items()}


TRAINED_ON = {"digits": mnist, "alphabets": alphabets, "pendigits": lambda: table("pendigits")}
TESTED_ON = {"fashion": fashion, "CIFAR-10": cifar10, "letter": lambda: table("letter")}


# Networks -------------------------------------------------------------------------------------------------------------
def perceptron(inputs: int, *units: int, classes: int, act: Callable[[], nn.Module]) -> nn.Module:
    sizes = [inputs, *units]
    layers = [m for a, b in zip(sizes, units, strict=False) for m in (nn.Linear(a, b), act())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], classes))


def convolutions(side: int, *channels: int, classes: int, act: Callable[[], nn.Module], norm: bool = False):
    layers, before = [], channels[0]
    for after in channels[1:]:
        layers += [nn.Conv2d(before, after, 3, 2, 1), *([nn.BatchNorm2d(after)] if norm else []), act()]
        before, side = after, (side + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * side**2, classes))


@dataclass(frozen=True)
class Problem:
    """A network for the pictures of a data set, made smaller by a factor, or for the rows of a table."""

    data: str
    by: int
    kind: str  # perceptron, convolutions, with batch norm
    sizes: tuple[int, ...]
    act: str

    @property
    def label(self) -> str:
        side = "" if self.data in ("pendigits", "letter") else f" {(32 if self.data == 'CIFAR-10' else 28) // self.by}"
        return f"{self.data}{side}, {self.kind} {'-'.join(map(str, self.sizes))}, {self.act}"

    def network(self, shape: torch.Size, classes: int) -> nn.Module:
        act = getattr(nn, self.act)
        if self.kind == "perceptron":
            return perceptron(math.prod(shape), *self.sizes, classes=classes, act=act)
        norm = self.kind == "convolutions with batch norm"
        return convolutions(shape[-1], shape[0], *self.sizes, classes=classes, act=act, norm=norm)


P, C, N = "perceptron", "convolutions", "convolutions with batch norm"
TRAINED = [
    *(Problem(d, by, P, u, a) for d, (by, u), a in product(
        ("digits", "alphabets"), ((4, (24,)), (4, (12, 12)), (2, (8,)), (2, (16, 16)), (1, (8,)), (1, (16,))),
        ("ReLU", "Tanh"))),
    *(Problem(d, by, C, u, a) for d, (by, u), a in product(
        ("digits", "alphabets"), ((2, (4, 8)), (2, (6, 6)), (1, (4, 8, 8))), ("ReLU", "Tanh"))),
    *(Problem("pendigits", 1, P, u, a) for u, a in product(((16,), (32,), (16, 16), (24, 16)), ("ReLU", "Tanh"))),
]  # fmt: skip
CHOSEN_BY = [
    Problem("digits", 1, P, (20,), "ReLU"), Problem("digits", 2, P, (24, 24), "Tanh"),
    Problem("digits", 2, C, (12, 12), "ReLU"), Problem("alphabets", 2, P, (32,), "ReLU"),
    Problem("alphabets", 1, C, (8, 8, 16), "Tanh"), Problem("pendigits", 1, P, (64,), "ReLU"),
    Problem("pendigits", 1, P, (24, 24, 24), "Tanh"),
]  # fmt: skip
HELD = [
    Problem("CIFAR-10", 1, C, (8, 16, 16), "ReLU"), Problem("CIFAR-10", 2, C, (8, 16), "Tanh"),
    Problem("fashion", 1, C, (8, 16), "ReLU"), Problem("fashion", 2, N, (8, 16), "ReLU"),
    Problem("CIFAR-10", 2, P, (28,), "GELU"), Problem("fashion", 1, P, (40,), "ReLU"),
    Problem("fashion", 2, P, (20, 20, 20), "Tanh"), Problem("letter", 1, P, (56,), "ReLU"),
    Problem("letter", 1, P, (48, 48), "Sigmoid"), Problem("letter", 1, P, (40, 40, 40), "GELU"),
]  # fmt: skip


# Meta-training --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Candidate:
    lr: float
    unroll: int
    scales: float  # s
    hidden: int
    seed: int
    processes: int

    @property
    def name(self) -> str:
        named = f"lr{self.lr:g}-unroll{self.unroll}-scales{self.scales:g}-hidden{self.hidden}"
        return f"{named}-x{self.processes}-seed{self.seed}"


def learner(hidden: int) -> ml.Learner:
    net, _ = ml.functional(nn.Linear(2, 2))
    return ml.lstm_optimizer(net, inner_steps=STEPS, batch=BATCH, hidden=hidden, scale=SCALE)


def task(problem: Problem, data: Data, scales: float, g: torch.Generator):
    """A start, the losses (of minibatches drawn anew, and at last of 512 examples), and a sample of coordinates."""
    x, y = data["train"]
    torch.manual_seed(int(torch.randint(2**62, (), generator=g)))
    module = problem.network(x.shape[1:], int(y.max()) + 1)
    params = list(module.parameters())
    sizes = [p.numel() for p in params]
    drawn = [torch.full((n,), math.exp(scales * (2 * float(torch.rand((), generator=g)) - 1))) for n in sizes]
    factor, weights = torch.cat(drawn), torch.cat([p.detach().flatten() for p in params])
    for p, part in zip(params, weights.split(sizes), strict=True):
        p.data = part.view(p.shape)

    def f(phi: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        torch.mul(phi, factor, out=weights)
        rows = torch.randint(len(y), (4 * BATCH if last else BATCH,), generator=g)
        value = cross_entropy(module(x[rows]), y[rows])
        return value.detach(), torch.cat([d.flatten() for d in torch.autograd.grad(value, params)]).mul_(factor)

    return weights / factor, f, unrolled.sample(sizes, SAMPLE, g)


def rate(lr: float, done: float) -> float:
    """It rises for a twentieth of the time, and falls as a cosine does."""
    return lr * min(done / 0.05, 1) * (1 + math.cos(math.pi * done)) / 2


def horizon(done: float) -> int:
    return STEPS // 5 if done < 0.1 else STEPS // 2 if done < 0.25 else STEPS


def train(c: Candidate, rank: int, shared: Tensor, meet: Any, every: dict[tuple[str, int], Data], seconds: float, out):
    """One process of a candidate. shared [processes, gradient and how much of the time is over]: what they tell."""
    torch.set_num_threads(1)
    began, theta = time.monotonic(), learner(c.hidden).init(c.seed)
    parts = [p.requires_grad_() for p in unrolled.packed(theta)]
    adam = torch.optim.Adam(parts)
    alike, own = (torch.Generator().manual_seed(1000 * c.seed + k) for k in (0, 1 + rank))
    done, losses, steps = 0.0, [], 0
    while done < 1:
        problem = TRAINED[int(torch.randint(len(TRAINED), (), generator=alike))]
        start, f, sampled = task(problem, every[problem.data, problem.by], c.scales, own)
        many = horizon(done)
        with torch.no_grad():
            plain = [p.detach() for p in parts]
        with torch.enable_grad():
            f_t = lambda phi, t: f(phi, t == many)  # noqa: B023
            unroll = min(c.unroll, many)
            grads, values = unrolled.meta_gradient(plain, theta["scale"], start, f_t, many, unroll, sampled)
        flat = torch.cat([g.flatten() for g in grads])
        shared[rank, :-1] = flat / max(1.0, float(flat.norm())) if flat.isfinite().all() else 0.0
        shared[rank, -1] = (time.monotonic() - began) / seconds
        meet.wait(60)  # a process that has died takes its candidate along, no more
        mean, done = shared[:, :-1].mean(0), float(shared[0, -1])
        meet.wait(60)
        for p, d in zip(parts, mean.split([p.numel() for p in parts]), strict=True):
            p.grad = d.view(p.shape).clone()
        adam.param_groups[0]["lr"] = rate(c.lr, min(done, 1))
        adam.step()
        losses.append([problem.label, many, values[0], values[-1]])
        steps += 1
        if rank == 0 and (steps % 100 == 0 or done >= 1):
            found = unrolled.unpacked([p.detach() for p in parts], theta["scale"])
            save(found, out / f"{c.name}.safetensors", {})
            (out / f"{c.name}.json").write_text(json.dumps({"steps": steps, "losses": losses}) + "\n")


def save(theta: dict, path: Path, about: dict[str, str]) -> None:
    """In float16, in the form that `ml.optim` reads."""
    kept = {name: p.half().contiguous() for name, p in theta["m"].items()}
    save_file({**kept, "scale": theta["scale"].float()}, path, about)


def load(path: Path) -> dict:
    kept = {name: p.float() for name, p in load_file(path).items()}
    return {"scale": kept.pop("scale"), "m": kept}


# Descent, in a loop of one's own --------------------------------------------------------------------------------------
def optimizer(method: str, params: Any, lr: float, theta: dict | None) -> torch.optim.Optimizer:
    if method == "Adam":
        return torch.optim.Adam(params, lr=lr)
    if method == "PowerSign":
        return ml.optim.PowerSign(params, lr=lr)
    if method == "SGD with momentum 0.9":
        return torch.optim.SGD(params, lr=lr, momentum=0.9)
    return ml.optim.Learned(params, theta, lr=lr)  # type: ignore[arg-type]


def descend(
    problem: Problem, data: Data, part: str, method: str, lr: float, seed: int, theta: dict | None, at: tuple[int, ...]
) -> dict[int, float]:
    """The mean loss on the examples of `part` after each number of steps in `at`."""
    (x, y), (x_asked, y_asked) = data["train"], data[part]
    torch.manual_seed(seed)
    module = problem.network(x.shape[1:], int(y.max()) + 1)
    g, curve, rows = torch.Generator().manual_seed(seed), {}, torch.empty(0, dtype=torch.long)
    of = optimizer(method, module.parameters(), lr, theta)
    for t in range(at[-1] + 1):
        if t in at:
            module.eval()
            with torch.no_grad():
                value = cross_entropy(module(x_asked), y_asked).item()
            curve[t] = value if math.isfinite(value) else math.inf
            module.train()
        if t == at[-1]:
            return curve
        if len(rows) < BATCH:
            rows = torch.randperm(len(y), generator=g)
        B, rows = rows[:BATCH], rows[BATCH:]
        of.zero_grad()
        cross_entropy(module(x[B]), y[B]).backward()
        of.step()
    raise AssertionError


EVERY: dict[tuple[str, int], Data] = {}  # set before processes are forked


def run(job: tuple) -> tuple[tuple, list[dict[int, float]]]:
    """A job: (key, problem, part, method, lr, seeds, theta, at)."""
    key, problem, part, method, lr, seeds, theta, at = job
    torch.set_num_threads(1)
    data = EVERY[problem.data, problem.by]
    return key, [descend(problem, data, part, method, lr, seed, theta, at) for seed in seeds]


def finished(jobs: list[tuple], processes: int, ends: float) -> Iterator[tuple[tuple, list[dict[int, float]]]]:
    """What jobs give, in any order, until the time is over."""
    if processes == 1:
        for job in jobs:
            if time.monotonic() < ends:
                yield run(job)
        return
    with mp.get_context("fork").Pool(processes) as pool:
        results = pool.imap_unordered(run, jobs)
        for _ in jobs:
            try:
                yield results.next(timeout=max(0.0, ends - time.monotonic()))
            except mp.TimeoutError:
                pool.terminate()
                return


def read(problems: list[Problem], sources: dict[str, Callable[[], Data]]) -> None:
    torch.set_num_threads(1)
    for name in {p.data for p in problems}:
        whole = sources[name]()
        for by in {p.by for p in problems if p.data == name}:
            EVERY[name, by] = smaller(whole, by)


# Commands -------------------------------------------------------------------------------------------------------------
def candidates(processes: int) -> list[Candidate]:
    """As many as the processes are enough for."""
    wanted = [
        Candidate(1e-2, 20, 0.5, 12, 0, 4), Candidate(5e-3, 20, 0.5, 12, 1, 4), Candidate(5e-3, 20, 0.5, 20, 2, 3),
        Candidate(1e-2, 50, 0.2, 12, 3, 3),
    ]  # fmt: skip
    taken = []
    for c in wanted:
        if c.processes <= processes:
            taken.append(c)
            processes -= c.processes
    return taken or [Candidate(1e-2, 20, 0.5, 12, 0, 1)]


def train_all(out: Path, seconds: float, processes: int, only: list[Candidate] | None = None) -> None:
    ends = time.monotonic() + seconds
    read(TRAINED + CHOSEN_BY, TRAINED_ON)
    context, working = mp.get_context("fork"), []
    for_training = max(0.85 * (ends - time.monotonic()), ends - time.monotonic() - 25)
    for c in only or candidates(processes):
        shared = torch.zeros(c.processes, sum(p.numel() for p in learner(c.hidden).init(0)["m"].values()) + 1)
        shared.share_memory_()
        meet = context.Barrier(c.processes)
        for rank in range(c.processes):
            process = context.Process(target=train, args=(c, rank, shared, meet, EVERY, for_training, out))
            process.start()
            working.append(process)
    for process in working:
        process.join()
    choose(out, max(ends, time.monotonic() + 20), processes)


def choose(out: Path, ends: float, processes: int) -> None:
    """The candidate, and a factor on its steps, of the least mean log loss on CHOSEN_BY after 100 steps, 4
    initialisations."""
    thetas = {}
    for path, factor in product(sorted(out.glob("lr*.safetensors")), FACTORS):
        theta = load(path)
        thetas[f"{path.stem} x {factor:g}"] = {**theta, "scale": factor * theta["scale"]}
    jobs = [
        ((name, p.label), p, "validation", "learned", 1.0, range(900, 904), theta, (STEPS,))
        for p, (name, theta) in product(CHOSEN_BY, thetas.items())
    ]
    told: dict[str, dict[str, float]] = {name: {} for name in thetas}
    for (name, label), curves in finished(jobs, processes, ends):
        told[name][label] = float(np.mean([c[STEPS] for c in curves]))
    whole = [p.label for p in CHOSEN_BY if all(p.label in of for of in told.values())]
    if not whole:
        raise SystemExit("there was no time to choose: run `choose`.")
    score = {name: float(np.mean([math.log(of[label]) for label in whole])) for name, of in told.items()}
    chosen = min(score, key=score.__getitem__)
    about = {
        name: {"mean_log_loss": score[name], "losses": told[name],
               "meta_steps": json.loads((out / f"{name.split()[0]}.json").read_text())["steps"]} for name in thetas
    }  # fmt: skip
    result = {"chosen": chosen, "candidates": about, "machine": machine(), "versions": versions()}
    (out / "choice.json").write_text(json.dumps(result, indent=2) + "\n")
    save(thetas[chosen], out / "theta.safetensors", {"trained": chosen})
    for name in sorted(score, key=score.__getitem__):
        print(f"{score[name]:8.4f} {name}, {about[name]['meta_steps']} meta-steps")


def test_all(out: Path, seconds: float, processes: int, methods: list[str], again: bool) -> None:
    """Of one method after the other its rates, and its curves at the best of them."""
    ends, path = time.monotonic() + seconds, out / "test.json"
    stored = out / "theta.safetensors"
    digest = hashlib.sha256(stored.read_bytes()).hexdigest() if stored.is_file() else ""
    result = {"ends": {}, "curves": {}} if again or not path.is_file() else json.loads(path.read_text())
    if result.get("theta") != digest:
        for of in result["curves"].values():
            of.pop("learned", None)
    result["theta"], theta = digest, load(stored) if digest else None
    read(HELD, TESTED_ON)

    def keep() -> None:
        result.update(machine=machine(), versions=versions())
        path.write_text(json.dumps(result, indent=1) + "\n")

    for method in methods:
        rates = RATES.get(method, [1.0] if theta else [])
        jobs = [
            ((p.label, str(lr)), p, "test", method, lr, range(TUNED_ON), None, (STEPS,)) for p in HELD for lr in rates
            if method in RATES and str(lr) not in result["ends"].get(p.label, {}).get(method, {})
        ]  # fmt: skip
        for (label, lr), curves in finished(jobs, processes, ends):
            result["ends"].setdefault(label, {}).setdefault(method, {})[lr] = [c[STEPS] for c in curves]
            keep()
        jobs, parts = [], list(range(0, INITIALISATIONS, 5))
        for p in HELD:
            of = result["ends"].get(p.label, {}).get(method, {})
            if method in result["curves"].get(p.label, {}) or (method in RATES and len(of) < len(rates)) or not rates:
                continue
            lr = float(best(of)) if method in RATES else 1.0
            seeds = [range(first, min(first + 5, INITIALISATIONS)) for first in parts]
            jobs += [((p.label, part[0]), p, "test", method, lr, part, theta, CURVE) for part in seeds]
        pieces: dict[str, dict[int, list]] = {}
        for (label, first), curves in finished(jobs, processes, ends):
            of = pieces.setdefault(label, {})
            of[first] = [{str(t): loss for t, loss in curve.items()} for curve in curves]
            if len(of) == len(parts):
                result["curves"].setdefault(label, {})[method] = [c for first in parts for c in of[first]]
                keep()
    keep()
    print("\n".join(lines(result)))


def best(of: dict[str, list[float]]) -> str:
    """The rate of the least mean loss."""
    return min(of, key=lambda lr: np.mean(of[lr]))


def compared(result: dict) -> dict[str, dict[str, Any]]:
    """For each problem that is whole: each method's mean loss at step 100 and half of its interval, the rivals' rates,
    and theta's loss less theirs on the same initialisations."""
    rows = {}
    for label, of in result["curves"].items():
        if any(method not in of for method in ("learned", *RATES)):
            continue
        losses = {method: [c[str(STEPS)] for c in curves] for method, curves in of.items()}
        row: dict[str, Any] = {"learned": {"loss": interval(losses["learned"])}}
        for method, rates in RATES.items():
            lr = best(result["ends"][label][method])
            less = [a - b for a, b in zip(losses["learned"], losses[method], strict=True)]
            row[method] = {"loss": interval(losses[method]), "lr": float(lr), "difference": interval(less),
                           "at_edge": lr in (str(rates[0]), str(rates[-1]))}  # fmt: skip
        rows[label] = row
    return {p.label: rows[p.label] for p in HELD if p.label in rows}


def lines(result: dict) -> list[str]:
    rows = compared(result)
    better = {m: sum(row["learned"]["loss"][0] < row[m]["loss"][0] for row in rows.values()) for m in RATES}
    told = ["| held out | " + " | ".join(["learned", *RATES]) + " |", "| --- | --- | --- | --- | --- |"]
    for label, row in rows.items():
        cells = ["{:.3f} ± {:.3f}".format(*row[m]["loss"]) + (f" at {row[m]['lr']:.2g}" if m in RATES else "")
                 for m in ("learned", *RATES)]  # fmt: skip
        told.append(f"| {label} | " + " | ".join(cells) + " |")
    told.append("")
    told += [f"better than {m} on {n} of {len(rows)}" for m, n in better.items()]
    return told


def curves_table(result: dict) -> list[str]:
    """Mean loss of each method, and 95 % intervals, after some numbers of steps."""
    told = ["| held out | steps | learned | " + " | ".join(RATES) + " |", "| --- | --- | --- | --- | --- | --- |"]
    for label in compared(result):
        of = result["curves"][label]
        for t in (20, 50, 200):
            cells = ["{:.3f} ± {:.3f}".format(*interval([c[str(t)] for c in of[m]])) if m in of else ""
                     for m in ("learned", *RATES)]  # fmt: skip
            told.append(f"| {label if t == 20 else ''} | {t} | " + " | ".join(cells) + " |")
    return told


def rounded(told: Any) -> Any:
    """Numbers to five digits: what is kept need not be longer."""
    if isinstance(told, dict):
        return {k: rounded(v) for k, v in told.items()}
    if isinstance(told, list):
        return [rounded(v) for v in told]
    if isinstance(told, float):
        return float(f"{told:.5g}") if math.isfinite(told) else None
    return told


def ship(out: Path) -> None:
    """results/ and the page always; the theta and pyproject.toml only where it may be shipped."""
    test, choice = (json.loads((out / f"{name}.json").read_text()) for name in ("test", "choice"))
    rows = compared(test)
    if missing := [p.label for p in HELD if p.label not in rows]:
        raise SystemExit(f"not tested to the end: {', '.join(missing)}. Run `test` once more; it goes on.")
    better = [label for label, row in rows.items() if row["learned"]["loss"][0] < row["Adam"]["loss"][0]]
    good = 2 * len(better) >= len(rows)
    result = {
        "command": "python benchmarks/shipped_theta.py train, test, ship", "shipped": good, "better_than_adam": better,
        "after_100_steps": rows, "choice": choice, **test,
    }  # fmt: skip
    (ROOT / "results" / "shipped-theta.json").write_text(json.dumps(rounded(result)) + "\n")
    page = ROOT / "docs" / "learners" / "lstm_optimizer.md"
    chosen, mark = choice["candidates"][choice["chosen"]], "\n\n"
    about = (
        f"Chosen: `{choice['chosen']}`, {chosen['meta_steps']} meta-steps, of {len(choice['candidates'])} candidates."
        f" Mean loss on test examples after {STEPS} steps, with 95 % intervals over {INITIALISATIONS} initialisations:"
    )
    worse = [label for label in rows if label not in better]
    verdict = (
        f"It is better than Adam at Adam's best rate on {len(better)} of {len(rows)}"
        + (f", and worse on: {'; '.join(worse)}." if worse else ".")
        + (" So it is shipped." if good else " So it is not shipped.")
        + " It was trained for 100 steps; before and beyond:"
    )
    text = mark.join([about, "\n".join(table for table in lines(test)), verdict, "\n".join(curves_table(test))])
    page.write_text(filled(page.read_text(), "shipped", text + "\n", page.name))
    if good:
        (ROOT / "metaloop" / "optim.safetensors").write_bytes((out / "theta.safetensors").read_bytes())
        project = ROOT / "pyproject.toml"
        said = project.read_text()
        if '"optim.safetensors"' not in said:
            project.write_text(said.replace('"pixels.js"]', '"pixels.js", "optim.safetensors"]'))
    print(verdict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "choose", "test", "ship"])
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path("shipped-theta"))
    parser.add_argument("--methods", nargs="+", default=["learned", *RATES], choices=["learned", *RATES])
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--one", type=json.loads, help="train one candidate, such as '[3e-3, 20, 0.5, 20, 0, 1]'")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "train":
        train_all(args.out, args.seconds, args.processes, [Candidate(*args.one)] if args.one else None)
    elif args.what == "choose":
        read(CHOSEN_BY, TRAINED_ON)
        choose(args.out, time.monotonic() + args.seconds, args.processes)
    elif args.what == "test":
        test_all(args.out, args.seconds, args.processes, args.methods, args.again)
    else:
        ship(args.out)


if __name__ == "__main__":
    main()
