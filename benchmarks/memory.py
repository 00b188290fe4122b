"""Time and memory of one meta-gradient against inner steps, tasks, ways and width; and whether a budget holds.

    python benchmarks/memory.py [--quick] [--device cpu|cuda] [--out results/memory-cpu.json]
    python benchmarks/memory.py --plot results/memory-cpu.json      draw docs/memory.png and docs/memory-steps.png

MAML 5-way 1-shot on conv4-64 of stride 2 with 28x28 pictures, 15 queries per class, float32, unless a curve says
otherwise. Memory is the most bytes of tensors that live at once beside weights and tasks, and of a whole process where
a budget is held against it. Times are medians.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from bench import deal

import metaloop as ml
from metaloop.engine.memory import in_bytes, in_use, peak
from metaloop.engine.run import machine, versions

ROOT = Path(__file__).resolve().parent.parent
STEPS = (1, 2, 4, 8, 16, 32, 64)
WAYS_BACK: dict[str, dict[str, Any]] = {
    "exact": {}, "recompute=True": {"recompute": True},
    'method="implicit"': {"method": "implicit"}, 'method="truncated"': {"method": "truncated"},
}  # fmt: skip
BUDGETS = ("600MB", "1GB", "2GB", "4GB")


def work(device: str, *, tasks: int = 1, ways: int = 5, width: int = 64, steps: int = 1, queries: int = 15, **options):
    """A meta-gradient and what it is of. The implicit one is of the proximal inner problem, as published."""
    torch.manual_seed(0)
    net, init = ml.functional(
        ml.nn.conv4((1, 28, 28), out=ways, width=width, downsample="stride", features="mean").to(device)
    )
    proximal = 2.0 if options.get("method") == "implicit" else 0.0
    learner = ml.maml(net, init, inner_lr=0.1, inner_steps=steps, proximal=proximal)
    theta = {n: p.to(device) for n, p in init(0).items()}
    return ml.meta_gradient(learner, **options), theta, deal(tasks, ways, 1, queries, device)


def measured(device: str, repeats: int, **settings) -> dict[str, float]:
    """Median time in ms, and peak bytes. The first call is not timed."""
    gradient, theta, tasks = work(device, **settings)
    gradient(theta, tasks)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        _, loss, _ = gradient(theta, tasks)
        loss.item()
        times.append(1e3 * (time.perf_counter() - began))
    return {"ms": statistics.median(times), "bytes": peak(gradient, theta, tasks)}


def curves(device: str, repeats: int, largest: int) -> dict[str, Any]:
    """{what is varied: {line: {value: measurement}}}, for values up to `largest`."""
    lines = {
        "inner steps": {
            name: [(k, {"steps": k, **options}) for k in STEPS] for name, options in WAYS_BACK.items()
        },
        "inner steps, 1 query per class": {
            name: [(k, {"steps": k, "queries": 1, **options}) for k in STEPS] for name, options in WAYS_BACK.items()
        },
        "tasks": {
            "all at once": [(n, {"tasks": n, "chunk": n}) for n in (1, 2, 4, 8, 16, 32)],
            "automatic chunks": [(n, {"tasks": n}) for n in (1, 2, 4, 8, 16, 32)],
            "one by one": [(n, {"tasks": n, "chunk": 1}) for n in (1, 2, 4, 8, 16, 32)],
        },
        "ways": {"exact": [(n, {"ways": n}) for n in (2, 5, 10, 20, 50)]},
        "width": {"exact": [(n, {"width": n}) for n in (16, 32, 64, 128)]},
    }  # fmt: skip
    told: dict[str, Any] = {}
    for varied, some in lines.items():
        told[varied] = {}
        for name, points in some.items():
            told[varied][name] = {n: measured(device, repeats, **settings) for n, settings in points if n <= largest}
            for n, m in told[varied][name].items():
                print(f"{varied:32} {name:20} {n:4}  {m['ms']:9.1f} ms  {m['bytes'] / 1e6:9.1f} MB", flush=True)
    return told


def whole_process(budget: str, threads: int) -> None:
    """Print the most that this process ever held, in bytes, while it computed 64 tasks within the budget."""
    torch.set_num_threads(threads)
    gradient, theta, tasks = work("cpu", tasks=64, chunk=64, memory=budget)
    before = in_use(torch.device("cpu"))
    gradient(theta, tasks)
    status = Path("/proc/self/status").read_text()
    most = 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    print(json.dumps({"before": before, "most": most}))


def budgets() -> list[dict[str, Any]]:
    """What whole processes took that had been given a budget, on one thread and on two."""
    told = []
    for threads in (1, 2):
        for budget in BUDGETS:
            command = [sys.executable, __file__, "--within", budget, "--threads", str(threads)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            told.append({"memory": budget, "budget": in_bytes(budget), "threads": threads, **json.loads(out)})
            print(f"memory={budget:8} {threads} threads: at most {told[-1]['most'] / 1e6:.0f} MB", flush=True)
    return told


def plot(path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    names = {"inner steps": "inner steps, 15 queries per class"}
    told = json.loads(path.read_text())["curves"]
    for name, shown in (
        ("memory-steps.png", ["inner steps", "inner steps, 1 query per class"]),
        ("memory.png", ["tasks", "ways", "width"]),
    ):
        figure, axes = plt.subplots(2, len(shown), figsize=(3.6 * len(shown), 5.4), squeeze=False, sharex="col")
        for column, varied in enumerate(shown):
            for i, (line, points) in enumerate(told[varied].items()):
                line = line.replace("checkpoint", "recompute")  # as it was called when it was measured
                x, style = [int(n) for n in points], {"ls": ["-", "--", "-.", ":"][i % 4], "marker": "o", "ms": 3}
                axes[0, column].plot(x, [m["bytes"] / 1e6 for m in points.values()], label=line, **style)
                axes[1, column].plot(x, [m["ms"] for m in points.values()], label=line, **style)
            for axis in axes[:, column]:
                axis.set_xscale("log", base=2)
                axis.set_yscale("log")
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.grid(alpha=0.3)
                for side in (axis.xaxis, axis.yaxis):
                    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                    side.set_minor_formatter(NullFormatter())
            axes[1, column].set_xlabel(names.get(varied, varied))
            if len(told[varied]) > 1:
                axes[0, column].legend(fontsize=7, frameon=False)
        axes[0, 0].set_ylabel("peak memory, MB")
        axes[1, 0].set_ylabel("time, ms")
        figure.tight_layout()
        figure.savefig(ROOT / "docs" / name, dpi=120)
        print(ROOT / "docs" / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats and small numbers: to see that it runs")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", default="memory.json")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw what a results file holds, measure nothing")
    parser.add_argument("--within", metavar="SIZE", help="64 tasks within this budget: what the process then held")
    parser.add_argument("--threads", type=int, default=1, help="of that process")
    args = parser.parse_args()
    if args.within:
        return whole_process(args.within, args.threads)
    if args.plot:
        return plot(args.plot)
    told = {
        "command": "python benchmarks/memory.py", "device": args.device, "machine": machine(), "versions": versions(),
        "curves": curves(args.device, *((1, 4) if args.quick else (5, 128))),
        "budgets": budgets() if args.device == "cpu" and not args.quick else [],
    }  # fmt: skip
    Path(args.out).write_text(json.dumps(told, indent=1) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
