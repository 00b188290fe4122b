"""The meta-gradient of two trees of this repository side by side: what rebuilding around it cost, or brought.

    python benchmarks/beside.py OLD [--compile] [--rounds 5] [--out results/beside-cpu.json]

OLD: a working tree of another commit. In each round each tree has a new process, in turns, with torch's default
threads: a process by itself is quicker or slower for as long as it lives, by where its memory came to lie. Of each case
it takes eight steps, of which the first three do not count. The cases are those of `make bench`: MAML 5-way 1-shot,
conv4-64 of stride 2, 32 tasks, with 1 and with 15 queries per class; ProtoNet, 20 tasks of 5-way 5-shot with 15
queries; and MAML on curves, a perceptron, 25 tasks. `import metaloop`: processor seconds over those of `import torch`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHILD = """
import json, resource, statistics, sys, time
import torch
used = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
before = used()
import metaloop as ml
ml.maml, ml.fit, ml.nn, ml.tasks  # what is there is imported once it is named
seconds = {"import metaloop": used() - before}
if not ml.__file__.startswith(sys.argv[1] + "/"):
    sys.exit(f"{ml.__file__} is not of {sys.argv[1]}")

def deal(tasks, ways, shots, queries):
    g = torch.Generator().manual_seed(0)
    x = lambda n: torch.rand(tasks, ways * n, 1, 28, 28, generator=g)
    y = lambda n: torch.arange(ways).repeat(n).expand(tasks, -1).contiguous()
    return ml.Task(ml.Data(x(shots), y(shots)), ml.Data(x(queries), y(queries)))

def maml(queries):
    net, init = ml.functional(ml.nn.conv4((1, 28, 28), out=5, downsample="stride", features="mean"))
    return ml.maml(net, init, inner_lr=0.4), deal(32, 5, 1, queries)

def protonet():
    return ml.protonet(*ml.functional(ml.nn.conv4((1, 28, 28))), ways=5), deal(20, 5, 5, 15)

def curves():
    learner = ml.maml(*ml.functional(ml.nn.mlp((1, 40, 40, 1))), inner_lr=0.01, loss=torch.nn.functional.mse_loss)
    return learner, ml.tasks.sinusoid().sample(25, shots=5, queries=5, generator=torch.manual_seed(0))

for name, make in {
    "MAML, 1 query": lambda: maml(1), "MAML, 15 queries": lambda: maml(15), "ProtoNet": protonet, "curves": curves
}.items():
    learner, tasks = make()
    step, theta, times = ml.meta_gradient(learner, compile="compile" in sys.argv), learner.init(0), []
    for _ in range(8):
        began = time.perf_counter()
        step(theta, tasks)
        times.append(time.perf_counter() - began)
    seconds[name] = statistics.median(times[3:])
print(json.dumps(seconds))
"""


def measured(root: Path, *more: str) -> dict[str, float]:
    """Seconds of each case in a process of a tree, which is its folder: `python -c` looks there before PYTHONPATH."""
    root = root.resolve()
    done = subprocess.run([sys.executable, "-c", CHILD, str(root), *more], cwd=root, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(root)})  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "beside-cpu.json")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: expected one at least.")
    if not (args.old / "metaloop").is_dir():
        parser.error(f"OLD: {args.old} is no working tree of metaloop.")
    from metaloop.engine.run import machine, versions

    trees, more = {"before": args.old, "now": ROOT}, ["compile"] if args.compile else []
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for i in range(args.rounds):
        for name in sorted(trees, reverse=i % 2 == 1):
            seen[name].append(measured(trees[name], *more))
    rows = {}
    for case in seen["now"][0]:
        before, now = ([each[case] for each in seen[name]] for name in trees)
        ratios = [b / a for a, b in zip(before, now, strict=True)]
        rows[case] = {"before": before, "now": now, "now / before, median": round(statistics.median(ratios), 3)}
        print(f"{case:20} before {statistics.median(before):.4f} s, now {statistics.median(now):.4f} s; now / before "
              f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")  # fmt: skip
    git = ["git", "-C", str(args.old), "rev-parse", "--short", "HEAD"]
    result = {
        "command": "python benchmarks/beside.py OLD" + (" --compile" if args.compile else ""),
        "before": subprocess.run(git, capture_output=True, text=True).stdout.strip(), "rows": rows,
        "load_of_the_last_minute": os.getloadavg()[0], "machine": machine(), "versions": versions(),
    }  # fmt: skip
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
