"""Pointer networks that sort and find convex hulls, and sequences said backwards with and without attention.

    python benchmarks/parts.py [NAME ...] [--steps N] [--out results/parts.json]     each within minutes on one core

Each network is trained on fresh examples by Adam on the cross-entropy of its answer, the rate falling to nothing, and
scored on 10 000 unseen ones: an answer counts if all of it is right, made by the network alone. What is named is
measured anew and takes its place in the file beside what was there.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaloop.engine.run import machine, versions
from metaloop.nn import Pointer, Seq2Seq

ROOT = Path(__file__).resolve().parent.parent
RATE, TESTED = 3e-3, 10_000
Examples = tuple[Tensor, Tensor]  # x [m, batch, ...] and the answer [T, batch]


def numbers(n: int, batch: int, g: torch.Generator) -> Examples:
    """n numbers of [0, 1), and their places from least to greatest."""
    x = torch.rand(n, batch, 1, generator=g)
    return x, x[..., 0].argsort(0)


def hull(n: int, batch: int, g: torch.Generator) -> Examples:
    """n points of the unit square, and the corners of their convex hull counter-clockwise, from the one that comes
    first; the place n says that it is over, and fills what is left of n + 1 steps."""
    x = torch.rand(n, batch, 2, generator=g)
    step = x[None] - x[:, None]  # [i, j, batch, 2]: from i to j
    turn = step[:, :, None, :, 0] * step[:, None, :, :, 1] - step[:, :, None, :, 1] * step[:, None, :, :, 0]
    different = ~torch.eye(n, dtype=torch.bool)
    others = different[:, :, None] & different[:, None] & different
    edge = ((turn > 0) | ~others[..., None]).all(2) & different[..., None]  # all others are left of i -> j
    corner = edge.any(1)
    after = edge.long().argmax(1)  # the corner after i
    answer, now = torch.full((n + 1, batch), n), corner.long().argmax(0)
    first, going = now, torch.ones(batch, dtype=torch.bool)
    for t in range(n):
        answer[t] = torch.where(going, now, n)
        now = after.gather(0, now[None])[0]
        going &= now != first
    return x, answer


def backwards(n: int, batch: int, g: torch.Generator) -> Examples:
    """n of ten symbols, and the same from the last to the first."""
    x = torch.randint(10, (n, batch), generator=g)
    return x, x.flip(0)


@dataclass(frozen=True)
class Part:
    """A network, what it is trained and tested on, and for how long."""

    make: Callable[[], nn.Module]
    deal: Callable[..., Examples]
    sizes: tuple[int, ...]
    tested: tuple[int, ...]
    steps: int
    batch: int = 128


PARTS = {
    "sort": Part(lambda: Pointer(1, 64, once=True), numbers, tuple(range(5, 11)), (5, 10, 15), 5000),
    "hull": Part(lambda: Pointer(2, 64, ends=True, once=True), hull, (5,), (5,), 8000),
    "reversal-attention": Part(lambda: Seq2Seq(10, 64), backwards, (20,), (20,), 2000, 64),
    "reversal": Part(lambda: Seq2Seq(10, 64, attention=False), backwards, (20,), (20,), 2000, 64),
}


def answered(net: nn.Module, x: Tensor, steps: int) -> Tensor:
    return net.point(x, steps) if isinstance(net, Pointer) else net.answer(x, steps)


def exact(net: nn.Module, deal: Callable[..., Examples], n: int, tested: int = TESTED) -> float:
    """The share of unseen examples whose whole answer is right, in per cent."""
    x, answer = deal(n, tested, torch.Generator().manual_seed(10**6))
    with torch.no_grad():
        return 100 * (answered(net, x, len(answer)) == answer).all(0).double().mean().item()


def train(name: str, steps: int | None = None) -> tuple[nn.Module, dict]:
    part = PARTS[name]
    torch.manual_seed(0)
    net, g, steps = part.make(), torch.Generator().manual_seed(0), steps or part.steps
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    began = time.process_time()
    for step in range(steps):
        n = part.sizes[int(torch.randint(len(part.sizes), (), generator=g))]
        x, answer = part.deal(n, part.batch, g)
        loss = F.cross_entropy(net(x, answer).flatten(0, 1), answer.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimizer.step()
        schedule.step()
        if step % 500 == 499:
            print(f"{name}: step {step + 1}, loss {loss.item():.4f}", flush=True)
    seconds = round(time.process_time() - began, 1)
    return net, {
        "command": f"python benchmarks/parts.py {name} --steps {steps}", "steps": steps, "batch": part.batch,
        "trained on": list(part.sizes), "cpu seconds": seconds,
        "exact (%)": {str(n): exact(net, part.deal, n) for n in part.tested},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PARTS)}; all unless given")
    parser.add_argument("--steps", type=int, help="of training, for each; as many as below unless given")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "parts.json")
    options = parser.parse_args()
    if unknown := set(options.names) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}. There are: {', '.join(PARTS)}.")
    torch.set_num_threads(1)
    for name in options.names or PARTS:
        _, told = train(name, options.steps)
        before = json.loads(options.out.read_text())["parts"] if options.out.exists() else {}
        parts = {n: {**before, name: told}[n] for n in PARTS if n in before or n == name}
        about = {"machine": machine(), "versions": versions(), "rate": RATE, "tested": TESTED}
        options.out.write_text(json.dumps({**about, "parts": parts}, indent=2) + "\n")
        print(f"{name}: {told['exact (%)']} % exact, {told['cpu seconds']} s")


if __name__ == "__main__":
    main()
