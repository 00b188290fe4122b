"""Training speed of recipes of small operations, alone and with one core taken by another process.

    python benchmarks/shared.py [--beside OLD] [--out results/shared-cpu.json]     OLD: a working tree of another commit

A process that does nothing but count keeps one core busy, which this script starts and ends. `metaloop train` is run
for a few and for more steps, commit by commit, alone and shared in turn; the difference of the two wall times is that
of the steps. Settings of OpenMP that the caller has are left out, so that what is measured is the default.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPES = {"lstm-optimizer-quadratic": (2, 10), "maml-sinusoid-10shot": (5, 105)}
OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "MKL_NUM_THREADS")


def seconds(root: Path, recipe: str, steps: int, limit: float) -> float:
    env = {**{k: v for k, v in os.environ.items() if k not in OPENMP}, "PYTHONPATH": str(root.resolve())}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "metaloop", "train", recipe, "--budget", "smoke", "--steps", str(steps),
                   "--tasks", "2", "--out", f"{folder}/run"]  # fmt: skip
        began = time.perf_counter()
        try:
            done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return float("inf")
        if done.returncode:
            raise SystemExit(done.stderr)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, metavar="OLD")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which a training is given up")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--out", type=Path, default=Path("shared-cpu.json"))
    args = parser.parse_args()
    from metaloop.engine.run import machine, versions

    roots = {"before": args.beside} if args.beside else {}
    roots["now"] = Path(__file__).resolve().parents[1]
    cases = []
    for recipe in args.recipes:
        few, more = RECIPES[recipe]
        rates: dict[tuple[str, str], list[float]] = {}
        for _ in range(args.repeats):
            for when in ("alone", "shared"):
                for name, root in roots.items():
                    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if when == "shared" else None
                    try:
                        taken = seconds(root, recipe, more, args.limit) - seconds(root, recipe, few, args.limit)
                    finally:
                        if other:
                            other.kill()
                            other.wait()
                    rates.setdefault((name, when), []).append((more - few) / taken if taken > 0 else float("nan"))
        rows = {f"{name}, {when}": {"steps_per_second": statistics.median(of), "all": of}
                for (name, when), of in rates.items()}  # fmt: skip
        cases.append({"recipe": recipe, "rows": rows})
        for name, row in rows.items():
            print(f"{recipe:26} {name:16} {row['steps_per_second']:8.2f} steps/s", flush=True)
        command = "python benchmarks/shared.py" + (" --beside OLD" if args.beside else "")
        result = {"command": command, "cases": cases,
                  "load_of_the_last_minute": os.getloadavg()[0],
                  "machine": machine(), "versions": versions()}  # fmt: skip
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
