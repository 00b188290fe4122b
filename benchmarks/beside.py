"""The meta-gradient of two trees of this repository side by side: what rebuilding around it cost, or brought.

    python benchmarks/beside.py OLD [--compile] [--repeats 15] [--out results/beside-cpu.json]

OLD: a working tree of another commit. Each tree has a process of its own, with torch's default threads; the two take
steps in turn, so that whatever else the machine does falls on both. The cases are those of `make bench`: MAML 5-way
1-shot, conv4-64 of stride 2, 32 tasks, with 1 and with 15 queries per class; ProtoNet, 20 tasks of 5-way 5-shot with 15
queries; and MAML on curves, a perceptron, 25 tasks. `import metaloop`: processor time over that of `import torch`, in
fresh processes.
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
import sys, time, torch
import metaloop as ml

if not ml.__file__.startswith(sys.argv[1] + "/"):
    sys.exit(f"{ml.__file__} is not of {sys.argv[1]}")

def deal(tasks, ways, shots, queries, shape=(1, 28, 28)):
    g = torch.Generator().manual_seed(0)
    x = lambda n: torch.rand(tasks, ways * n, *shape, generator=g)
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

compile = "compile" in sys.argv
kinds = {"MAML, 1 query": lambda: maml(1), "MAML, 15 queries": lambda: maml(15), "ProtoNet": protonet, "curves": curves}
ready = {}
for line in sys.stdin:
    name = line.strip()
    if name not in ready:
        learner, tasks = kinds[name]()
        step, theta = ml.meta_gradient(learner, compile=compile), learner.init(0)
        for _ in range(3):
            step(theta, tasks)
        ready[name] = step, theta, tasks
    step, theta, tasks = ready[name]
    began = time.perf_counter()
    step(theta, tasks)
    print(time.perf_counter() - began, flush=True)
"""
CASES = ("MAML, 1 query", "MAML, 15 queries", "ProtoNet", "curves")
IMPORT = "import resource, sys; import {}; u = resource.getrusage(0); print(u.ru_utime + u.ru_stime)"


def there(root: Path) -> dict:
    """Where a process of a tree runs: `python -c` looks into its folder before PYTHONPATH."""
    return {"cwd": root, "env": {**os.environ, "PYTHONPATH": str(root.resolve())}, "text": True}


def asked(child: subprocess.Popen, case: str) -> float:
    """Seconds of one step."""
    assert child.stdin
    assert child.stdout
    print(case, file=child.stdin, flush=True)
    answer = child.stdout.readline()
    if not answer:
        raise SystemExit(f"{case}: its process ended; what it told is above.")
    return float(answer)


def importing(root: Path, module: str) -> float:
    """Processor seconds of a process that imports a module and nothing else."""
    command = [sys.executable, "-c", IMPORT.format(module)]
    return float(subprocess.run(command, **there(root), capture_output=True, check=True).stdout)


def middle(times: list[float]) -> dict[str, float]:
    low, mid, high = statistics.quantiles(times, n=4)
    return {"median": round(mid, 5), "quartiles": [round(low, 5), round(high, 5)]}  # type: ignore[dict-item]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=15, help="at least two")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "beside-cpu.json")
    args = parser.parse_args()
    if args.repeats < 2:
        parser.error(f"--repeats {args.repeats}: a spread needs two.")
    if not (args.old / "metaloop").is_dir():
        parser.error(f"OLD: {args.old} is no working tree of metaloop.")
    trees, more = {"before": args.old, "now": ROOT}, ["compile"] if args.compile else []
    children = {
        name: subprocess.Popen([sys.executable, "-c", CHILD, str(root.resolve()), *more], **there(root),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for name, root in trees.items()
    }  # fmt: skip
    rows = {}
    for case in CASES:
        for child in children.values():
            asked(child, case)
        times = {name: [] for name in trees}
        for i in range(args.repeats):
            for name in sorted(trees, reverse=i % 2 == 1):
                times[name].append(asked(children[name], case))
        ratio = middle([b / a for a, b in zip(times["before"], times["now"], strict=True)])
        rows[case] = {**{name: middle(each) for name, each in times.items()}, "now / before": ratio}
    for child in children.values():
        child.communicate()
    spent = {name: [importing(root, "metaloop") for _ in range(5)] for name, root in trees.items()}
    bare = [importing(ROOT, "torch") for _ in range(5)]
    rows["import metaloop, processor seconds over torch"] = {
        name: round(statistics.median(each) - statistics.median(bare), 3) for name, each in spent.items()
    }
    from metaloop.engine.run import machine, versions

    commit = subprocess.run(
        ["git", "-C", str(args.old), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    result = {
        "command": "python benchmarks/beside.py OLD" + (" --compile" if args.compile else ""),
        "before": commit.stdout.strip(), "rows": rows, "load_of_the_last_minute": os.getloadavg()[0],
        "machine": machine(), "versions": versions(),
    }  # fmt: skip
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    for case, row in rows.items():
        print(case, row)


if __name__ == "__main__":
    main()
