"""Gradient descent is an LSTM whose gates are fixed: a picture of it, and of what learned gates do instead.

    python benchmarks/meta_lstm.py [--out results/meta-lstm-gates.json]      a minute on one core
    python benchmarks/meta_lstm.py --plot results/meta-lstm-gates.json       draw docs/meta-lstm.png

A line is fitted to twenty points, y = w . x with two weights, in twelve steps on the sum of squares; the scale of
inputs differs from task to task. `meta_lstm` is meta-trained with each of its gates on the same tasks, from one seed.
Measured: the squared error of unseen tasks' queries after each step; and how far the steps of gates="descent" are from
those of torch.optim.SGD at rate sigmoid(b_I) / B.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import metaloop as ml
from metaloop.engine.batch import predict
from metaloop.engine.run import machine, versions
from metaloop.torch_private import pytree

ROOT = Path(__file__).resolve().parent.parent
POINTS, STEPS, META_STEPS, TASKS = 20, 12, 300, 256
GATES = ("descent", "constant", "learned")
net, init = ml.functional(torch.nn.Linear(2, 1, bias=False))


def squares(predicted: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (predicted - y).square().sum()


def deal(n: int, seed: int) -> ml.Task:
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(n, 2, 1, generator=g)
    scale = 0.2 + 0.6 * torch.rand(n, 1, 2, generator=g)

    def data() -> ml.Data:
        x = scale * torch.randn(n, POINTS, 2, generator=g)
        return ml.Data(x, x @ w)

    return ml.Task(data(), data())


def learner(gates: str, steps: int = STEPS) -> ml.Learner:
    return ml.meta_lstm(net, init, inner_steps=steps, gates=gates, loss=squares)


def trained(gates: str) -> Any:
    """theta after META_STEPS of Adam, its rate falling to nothing, on 8 tasks each."""
    rule = learner(gates)
    theta, gradient = rule.init(0), ml.meta_gradient(rule)
    leaves = pytree.tree_leaves(theta)
    optimizer = torch.optim.Adam(leaves, lr=0.04)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, META_STEPS)
    for step in range(META_STEPS):
        for leaf, g in zip(leaves, pytree.tree_leaves(gradient(theta, deal(8, step))[0]), strict=True):
            leaf.grad = g
        torch.nn.utils.clip_grad_norm_(leaves, 0.25)
        optimizer.step()
        schedule.step()
    return theta


def sgd(theta: Any, S: ml.Data) -> list[list[float]]:
    """phi_0 .. phi_T of torch's own descent, at the rate that the input gate stands for."""
    phi = {n: p.detach().clone().requires_grad_() for n, p in theta["net"].items()}
    optimizer = torch.optim.SGD(phi.values(), lr=theta["input"]["bias"].sigmoid().item() / POINTS)
    path = [phi["weight"].flatten().tolist()]
    for _ in range(STEPS):
        optimizer.zero_grad()
        squares(net(phi, S.x), S.y).backward()
        optimizer.step()
        path.append(phi["weight"].flatten().tolist())
    return path


def measured() -> dict[str, Any]:
    unseen = deal(TASKS, 10**6)
    one = ml.Task(*(ml.Data(part.x[0], part.y[0]) for part in unseen))
    minimum = torch.linalg.lstsq(one.support.x, one.support.y).solution.flatten().tolist()
    x = one.support.x
    told: dict[str, Any] = {
        "quadratic": (x.mT @ x).tolist(), "minimum": minimum, "paths": {}, "errors": {}, "gates": {},
    }  # fmt: skip
    for gates in GATES:
        theta = trained(gates)
        rules = [learner(gates, t) for t in range(STEPS + 1)]
        told["paths"][gates] = [r.adapt(theta, one.support).phi["weight"].flatten().tolist() for r in rules]
        answers = [predict(r, theta, unseen) for r in rules]
        told["errors"][gates] = [(a - unseen.query.y).square().mean().item() for a in answers]
        told["gates"][gates] = {n: theta[n]["bias"].sigmoid().item() for n in ("forget", "input") if n in theta}
        if gates == "descent":
            told["paths"]["sgd"] = sgd(theta, one.support)
    pairs = zip(told["paths"]["sgd"], told["paths"]["descent"], strict=True)
    told["greatest_gap_to_sgd"] = max(abs(a - b) for p, q in pairs for a, b in zip(p, q, strict=True))
    return told


def plot(path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    told = json.loads(path.read_text())["measured"]
    paths = {name: torch.tensor(points) for name, points in told["paths"].items()}
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.6))
    every, A, best = torch.cat([*paths.values()]), torch.tensor(told["quadratic"]), torch.tensor(told["minimum"])
    low, high = every.amin(0), every.amax(0)
    middle, half = (low + high) / 2, 0.65 * (high - low).max()
    a, b = (torch.linspace(float(m - half), float(m + half), 80) for m in middle)
    grid = torch.stack(torch.meshgrid(a, b, indexing="xy"), -1) - best
    left.contour(a, b, ((grid @ A) * grid).sum(-1).sqrt(), levels=10, colors="0.85", linewidths=0.8)
    left.plot(*paths["sgd"].T, color="0.3", lw=1, label="torch.optim.SGD")
    left.plot(*paths["descent"].T, "o", mfc="none", color="C0", label="meta-LSTM: f = 1, i constant")
    left.plot(*paths["learned"].T, ".-", color="C1", label="meta-LSTM: gates learned")
    left.plot(*best, "k+", ms=9)
    left.set(xlabel="weight 1", ylabel="weight 2", title="steps on one unseen task", aspect="equal")
    left.legend(fontsize=7)
    names = {"descent": "f = 1, i learned", "constant": "f, i learned numbers", "learned": "gates learned"}
    for gates, colour in zip(GATES, ("C0", "C2", "C1"), strict=True):
        right.semilogy(told["errors"][gates], ".-", color=colour, label=names[gates])
    right.set(xlabel="inner steps", ylabel="squared error of queries", title="mean of unseen tasks")
    right.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "meta-lstm.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "meta-lstm-gates.json")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw what a results file holds, measure nothing")
    options = parser.parse_args()
    if options.plot:
        plot(options.plot)
        return
    told = {
        "command": "python benchmarks/meta_lstm.py", "machine": machine(), "versions": versions(),
        "points": POINTS, "inner_steps": STEPS, "meta_steps": META_STEPS, "tasks": TASKS, "measured": measured(),
    }  # fmt: skip
    options.out.write_text(json.dumps(told, indent=2) + "\n")
    for gates, errors in told["measured"]["errors"].items():
        print(f"{gates}: squared error {errors[0]:.3g} before, {errors[-1]:.3g} after {STEPS} steps")
    print(f"greatest distance of f = 1, i constant to torch.optim.SGD: {told['measured']['greatest_gap_to_sgd']:.1e}")


if __name__ == "__main__":
    main()
