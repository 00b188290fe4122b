"""Where does sharing tasks among GPUs stop paying? A model on paper, from sizes that are measured.

    python benchmarks/scaling_model.py             measure, write results/scaling-model.json, rebuild the page's tables
    python benchmarks/scaling_model.py --tables    rebuild the tables from the results file
    python benchmarks/scaling_model.py --check     exit 1 if the page's tables are not those of the results file

Measured here: bytes of the message, operations of the meta-gradient of one task (counted by torch), its time on one CPU
core, the time to draw the indices of one task. Assumed: all of ASSUMED. The rest is arithmetic; see `step`.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import told
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import metaloop as ml
from metaloop.engine.deal import BLOCK
from metaloop.engine.run import machine, versions
from metaloop.nn import attend, conv4, resnet12
from metaloop.tasks.pool import ClassPool
from metaloop.torch_private import pytree

ROOT = Path(__file__).resolve().parent.parent
FILE, PAGE = ROOT / "results" / "scaling-model.json", ROOT / "docs" / "performance" / "many-processes.md"
EPISODE = {"ways": 5, "shots": 1, "queries": 5}
SIZES, TASKS = (8, 64, 512), (1, 4, 32)  # GPUs; tasks on each
BATCHES, GAIN = (32, 512), 1.5  # tasks of all; what twice the GPUs must bring, at least, to be worth it

ASSUMED = {
    "flops": 30e12,  # sustained by one GPU in the meta-gradient, per second
    "memory": 2e12,  # its memory's bandwidth, bytes per second
    "fixed": 1e-3,  # seconds of a step that depend on nothing: launches, one wait for the loss
    "node": 8,  # GPUs of a machine
    "inner bandwidth": 150e9,  # bytes per second of a GPU to the others of its machine
    "inner latency": 5e-6,  # seconds of one message there
    "outer bandwidth": 20e9,  # bytes per second of a GPU to other machines, each GPU having a link of its own
    "outer latency": 15e-6,
    "optimizer": 28,  # bytes read and written per parameter by Adam in float32
}


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1, self.norm2, self.heads = nn.LayerNorm(dim), nn.LayerNorm(dim), heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).movedim(-2, 1).unbind(-2)
        x = x + self.out(attend(q, k, v).movedim(1, -2).flatten(-2))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """ViT-S/16 (Dosovitskiy et al. 2021, arXiv:2010.11929; Touvron et al. 2021, arXiv:2012.12877)."""

    def __init__(self, out: int, size: int = 224, patch: int = 16, dim: int = 384, depth: int = 12, heads: int = 6):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.places = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, out)

    def forward(self, x: Tensor) -> Tensor:
        z = self.patches(x).flatten(2).mT
        z = torch.cat([self.token.expand(len(z), -1, -1), z], 1) + self.places
        return self.head(self.norm(self.blocks(z))[:, 0])


NETWORKS = {
    "conv4-64, 28x28": ((1, 28, 28), lambda shape: conv4(shape, out=5, downsample="stride"), 1100),
    "ResNet-12, 84x84": ((3, 84, 84), lambda shape: resnet12(shape, out=5), 64),
    "ViT-S/16, 224x224": ((3, 224, 224), lambda shape: ViT(5), 64),
}


def measure(shape: tuple[int, ...], make, classes: int) -> dict[str, float]:
    """Sizes and times of one task: MAML, one inner step, second order, float32."""
    torch.manual_seed(0)
    net, init = ml.functional(make(shape))
    learner = ml.maml(net, init, inner_lr=0.1, inner_steps=1)
    theta, gradient = learner.init(0), ml.meta_gradient(learner)
    each = EPISODE["shots"] + EPISODE["queries"]
    images = torch.randint(256, (classes * each, *shape), dtype=torch.uint8)
    pool = ClassPool(images, torch.full((classes,), each), [str(k) for k in range(classes)], name="random")
    task = pool.sample(tasks=1, **EPISODE)
    with FlopCounterMode(display=False) as counter:
        result = gradient(theta, task)
    message = sum(t.numel() for t in pytree.tree_leaves(result)) + 1
    g, many = torch.Generator().manual_seed(0), 512
    return {
        "parameters": sum(t.numel() for t in pytree.tree_leaves(theta)),
        "message bytes": 4 * message,
        "operations": counter.get_total_flops(),
        "task bytes": sum(t.numel() * t.element_size() for t in pytree.tree_leaves(task)),
        "cpu seconds": seconds(lambda: gradient(theta, task)),
        "draw seconds": seconds(lambda: pool._draw(many, *EPISODE.values(), g)) / many,
    }


def seconds(work) -> float:
    """CPU seconds of this thread, the best of several."""
    best, until = math.inf, time.process_time() + 2
    for _ in range(100):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
        if time.process_time() > until:
            break
    return best


def all_reduce(size: float, gpus: int, a: dict[str, float]) -> float:
    """Seconds: reduce-scatter in each machine, all-reduce of each piece among machines, gather in each machine."""
    inner = min(gpus, int(a["node"]))
    outer = gpus // inner
    within = 2 * (inner - 1) / inner * size / a["inner bandwidth"] + 2 * math.log2(inner) * a["inner latency"]
    between = 2 * (outer - 1) / outer * size / inner / a["outer bandwidth"] + 2 * math.log2(outer) * a["outer latency"]
    return within + between


def step(m: dict[str, float], gpus: int, tasks: int, total: int, a: dict[str, float]) -> dict[str, float]:
    """Seconds of a step's parts. Every rank draws the blocks of tasks that hold its share: indices on its CPU, then
    images on its GPU (a byte read and four written per number)."""
    drawn = min(total, BLOCK * math.ceil(tasks / BLOCK))
    return {
        "compute": a["fixed"] + tasks * m["operations"] / a["flops"] + m["parameters"] * a["optimizer"] / a["memory"],
        "draw": drawn * (m["draw seconds"] + 1.25 * m["task bytes"] / a["memory"]),
        "message": all_reduce(m["message bytes"], gpus, a),
    }


def model(measured: dict[str, dict[str, float]], a: dict[str, float]) -> list[dict]:
    rows = []
    for name, m in measured.items():
        for tasks in TASKS:
            alone = sum(step(m, 1, tasks, tasks, a).values())
            for gpus in SIZES:
                parts = step(m, gpus, tasks, gpus * tasks, a)
                rows.append({
                    "network": name, "gpus": gpus, "tasks": tasks, **parts, "alone": alone,
                    "efficiency": alone / sum(parts.values()),
                })  # fmt: skip
    return rows


def speedup(m: dict[str, float], gpus: int, total: int, a: dict[str, float]) -> float:
    """Of a step with so many tasks in all, over that on one GPU."""
    seconds = [sum(step(m, n, math.ceil(total / n), total, a).values()) for n in (1, gpus)]
    return seconds[0] / seconds[1]


def end(m: dict[str, float], total: int, a: dict[str, float]) -> int:
    """The number of GPUs, a power of two, that it does not pay to double."""
    gpus = 1
    while speedup(m, 2 * gpus, total, a) >= GAIN * speedup(m, gpus, total, a):
        gpus *= 2
    return gpus


def tables(kept: dict) -> dict[str, str]:
    """The page's tables by name."""
    head = ["network", "parameters", "message", "operations of a task", "one CPU core", "drawing its indices"]
    sizes = [f"| {' | '.join(head)} |", "|" + " --- |" * 6]
    for name, m in kept["measured"].items():
        sizes.append(
            f"| {name} | {m['parameters'] / 1e6:.3g} M | {m['message bytes'] / 1e6:.3g} MB "
            f"| {m['operations'] / 1e9:,.1f} GFLOP | {m['cpu seconds']:.3g} s | {1e6 * m['draw seconds']:.2g} µs |"
        )
    sizes += ["", f"Machine and versions: {kept['machine']['cpu']}, one core; torch {kept['versions']['torch']}."]
    head = "| network | tasks per GPU | " + " | ".join(f"{n} GPUs" for n in SIZES) + " |"
    modelled = [head, "|" + " --- |" * (2 + len(SIZES))]
    rows = model(kept["measured"], kept["assumed"])
    for name in kept["measured"]:
        for tasks in TASKS:
            cells = []
            for r in (r for r in rows if (r["network"], r["tasks"]) == (name, tasks)):
                ms = " + ".join(figure(1e3 * r[part]) for part in ("compute", "message", "draw"))
                cells.append(f"{100 * r['efficiency']:.0f} % ({ms} ms)")
            modelled.append(f"| {name} | {tasks} | " + " | ".join(cells) + " |")
    head = " | ".join([*(f"{n} GPUs" for n in SIZES), "ends at GPUs"])
    ends = [f"| network | tasks of all GPUs | {head} |", "|" + " --- |" * (3 + len(SIZES))]
    for name, m in kept["measured"].items():
        for total in BATCHES:
            cells = [f"{speedup(m, n, total, kept['assumed']):.1f} x" for n in SIZES]
            ends.append(f"| {name} | {total} | {' | '.join(cells)} | {end(m, total, kept['assumed'])} |")
    return {name: "\n".join(lines) + "\n" for name, lines in {"sizes": sizes, "model": modelled, "ends": ends}.items()}


def figure(value: float) -> str:
    """Two significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def filled(text: str, kept: dict) -> str:
    """The page with its tables replaced."""
    for name, table in tables(kept).items():
        text = told.filled(text, name, table)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if not (args.tables or args.check):
        torch.set_num_threads(1)
        measured = {name: measure(*network) for name, network in NETWORKS.items()}
        kept = {"episode": EPISODE, "measured": measured, "assumed": ASSUMED}
        FILE.write_text(json.dumps({**kept, "machine": machine(), "versions": versions()}, indent=2) + "\n")
    old = PAGE.read_text()
    new = filled(old, json.loads(FILE.read_text()))
    if args.check:
        return int(new != old)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
