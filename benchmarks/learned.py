"""Time a step of `ml.optim.Learned` beside that of another commit, and Adam's.

    git worktree add --detach OLD 136b528
    python benchmarks/learned.py --beside OLD [--sizes N ...] [--out learned-speed.json]
    python benchmarks/learned.py --rounding [--out ...]     what a state in bfloat16 does to a training; same file
    python benchmarks/learned.py --parts [--out ...]        where the time of a step goes, and what was tried; same file

One thread. Each commit has a process of its own, and they take a step in turn, so that whatever else the machine does
falls on all alike. Of each step its wall time and the processor time of its process are taken, that of page faults
included; on a machine that others use the latter is the steadier. The ratios are of steps taken one after the other.
Memory is the process's peak after two steps beside what it held with parameters and gradients; the state is told apart.
Before anything is timed, both take the same three steps, which must agree to 1e-6.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

CELL = """
#include <cmath>
#include <cstring>
static inline float e(float x) {  // exp for |x| <= 28, to 2 ulp
    x = x < -28.f ? -28.f : (x > 28.f ? 28.f : x);
    float k = __builtin_rintf(x * 1.44269504f);
    float r = __builtin_fmaf(k, -0.693359375f, x), p = 1.98756915e-4f;
    r = __builtin_fmaf(k, 2.12194440e-4f, r);
    p = __builtin_fmaf(p, r, 1.39819995e-3f);
    p = __builtin_fmaf(p, r, 8.33345191e-3f);
    p = __builtin_fmaf(p, r, 4.16657959e-2f);
    p = __builtin_fmaf(p, r, 1.66666665e-1f);
    p = __builtin_fmaf(p, r, 5.00000012e-1f);
    p = __builtin_fmaf(p * r, r, r) + 1.f;
    int i = ((int)k + 127) << 23;
    float s;
    memcpy(&s, &i, 4);
    return p * s;
}
extern "C" void cell(const float* __restrict g, float* __restrict c, float* __restrict h, long n, long H) {
    for (long j = 0; j < H; j++)
        for (long k = j * n; k < (j + 1) * n; k++) {
            float u = e(-2.f * g[3 * H * n + k]), a = (1.f + e(-g[k])) * (1.f + u), b = 1.f + e(-g[H * n + k]);
            float after = (c[k] * a + (1.f - u) * b) / (a * b), t = e(-2.f * after);
            c[k] = after;
            h[k] = (1.f - t) / ((1.f + e(-g[2 * H * n + k])) * (1.f + t));
        }
}
"""
STEPS = """
import json, sys, time
import torch
torch.set_num_threads(1)
import metaloop as ml
from metaloop.optim import Learned

def held(what="VmRSS"):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(what))

name, n = sys.argv[1], int(sys.argv[2])
options = {"state_dtype": torch.bfloat16} if name == "bfloat16" else {}
theta = ml.lstm_optimizer(ml.functional(torch.nn.Linear(10, 1))[0]).init(0)
build = torch.optim.Adam if name == "Adam" else lambda params: Learned(params, theta, **options)
g = torch.Generator().manual_seed(0)
few = torch.nn.Parameter(torch.zeros(5000))
optimizer = build([few])
for _ in range(3):
    few.grad = torch.randn(5000, generator=g) * 10.0 ** torch.randint(-7, 3, (5000,), generator=g)
    optimizer.step()
print(json.dumps(few.tolist()), flush=True)
p = torch.nn.Parameter(torch.zeros(n))
p.grad = torch.randn(n, generator=g)
optimizer = build([p])
before = held()
for _ in range(2):
    optimizer.step()
kept = sum(t.numel() * t.element_size() for t in optimizer.state[p].values())
print(json.dumps({"peak_mb": (held("VmHWM") - before) / 1e6, "state_mb": kept / 1e6}), flush=True)
for line in sys.stdin:
    began = time.perf_counter(), time.process_time()
    optimizer.step()
    print(json.dumps([time.perf_counter() - began[0], time.process_time() - began[1]]), flush=True)
"""


class Commit:
    """A process that takes a step when told."""

    def __init__(self, name: str, root: Path, n: int):
        env = {**os.environ, "PYTHONPATH": str(root.resolve()), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", STEPS, name, str(n)]
        told, tells = subprocess.PIPE, subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=told, stdout=tells, text=True, env=env, cwd=root)
        self.moved = self.read()
        self.memory = self.read()

    def read(self):
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"a step's process ended with status {self.process.wait()}")
        return json.loads(line)

    def step(self) -> list[float]:
        """Seconds of wall, and of the processor."""
        self.process.stdin.write("\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.read()

    def end(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def spread(values: list[float]) -> dict:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": median, "quartiles": [low, high]}


def race(n: int, beside: Path, repeats: int) -> dict:
    here = Path(__file__).resolve().parents[1]
    roots = {"before": beside, "now": here, "bfloat16": here, "Adam": here}
    commits = {name: Commit(name, root, n) for name, root in roots.items()}
    apart = max(abs(a - b) for a, b in zip(commits["before"].moved, commits["now"].moved, strict=True))
    if apart > 1e-6:
        raise SystemExit(f"the steps differ by {apart:.1e}: nothing is timed.")
    times: dict[str, list[list[float]]] = {name: [] for name in commits}
    for _ in range(repeats):
        for name, commit in commits.items():
            times[name].append(commit.step())
    for commit in commits.values():
        commit.end()
    rows = {}
    for name, taken in times.items():
        of = zip(times["before"], taken, strict=True)
        ratios = [[b[i] / a[i] for i in range(2)] for b, a in of]
        rows[name] = {"wall_s": spread([t[0] for t in taken]), "cpu_s": spread([t[1] for t in taken]),
                      "times_faster_wall": spread([r[0] for r in ratios]),
                      "times_faster_cpu": spread([r[1] for r in ratios]), **commits[name].memory}  # fmt: skip
    return {"parameters": n, "repeats": repeats, "steps_differ_by": apart, "rows": rows}


def parts(n: int = 400_000) -> dict:
    """Nanoseconds for each coordinate: the best, and the median, of processor time."""
    import ctypes
    import shutil
    import tempfile
    import time

    import torch

    import metaloop as ml
    from metaloop import optim

    torch.set_num_threads(1)
    B, told = optim.CHUNK, {}
    theta = ml.lstm_optimizer(ml.functional(torch.nn.Linear(2, 1))[0]).init(0)

    def taken(name: str, f, of: int, times: int) -> None:
        f()
        each = []
        for _ in range(11):
            began = time.process_time()
            for _ in range(times):
                f()
            each.append((time.process_time() - began) / times / of * 1e9)
        told[name] = {"best": min(each), "median": statistics.median(each)}

    with torch.no_grad():
        A = torch.randn(1024, 1024)
        taken("a product of 1024^3, for each of its multiply-adds", lambda: torch.mm(A, A), 1024**3, 1)
        rule = optim._Rule(theta["m"], theta["scale"])
        space, d, p = (
            optim._Space(rule, B, torch.empty(rule.rows * B)),
            torch.randn(n // B * B),
            torch.zeros(n // B * B),
        )
        H, gates, states = rule.hidden, space.gates, [torch.zeros(rule.hidden, B) for _ in range(4)]
        rule.move([optim._Part(p[:B], d[:B], states, 1.0)], space)
        products = lambda: [torch.mm(W, x, out=gates) for W, x in zip(rule.gates, space.xs, strict=True)]
        taken("the products", products, B, 60)
        kept, c, h = gates.clone().normal_(), torch.randn(H, B), torch.empty(H, B)

        def cell() -> None:
            kept[: 3 * H].sigmoid_()
            c.mul_(kept[H : 2 * H]).addcmul_(kept[:H], kept[3 * H :].tanh_())
            torch.tanh(c, out=h).mul_(kept[2 * H : 3 * H])

        taken("a layer's gates and state", cell, B, 60)

        def fresh(g, c):
            i, f, o, u = g.split(H)
            c = f.sigmoid() * c + i.sigmoid() * u.tanh()
            return c, o.sigmoid() * c.tanh()

        if shutil.which("g++"):
            compiled = torch.compile(fresh)
            taken("the same by torch.compile", lambda: compiled(kept, c), B, 60)
            with tempfile.TemporaryDirectory() as folder:
                source, library = Path(folder, "cell.cpp"), Path(folder, "cell.so")
                source.write_text(CELL)
                flags = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-shared", "-fPIC"]
                subprocess.run(["g++", *flags, source, "-o", library], check=True)
                call, point = ctypes.CDLL(str(library)).cell, lambda t: ctypes.c_void_p(t.data_ptr())
            g = torch.randn(4 * H, B)
            want, after = fresh(g.double(), c.double()), c.clone()
            long = ctypes.c_long
            call(point(g), point(after), point(h), long(B), long(H))
            apart = max((after - want[0]).abs().max().item(), (h - want[1]).abs().max().item())
            if apart > 1e-6:
                raise SystemExit(f"the cell in C++ differs by {apart:.1e}: nothing is timed.")
            written = lambda: call(point(g), point(after), point(h), long(B), long(H))
            taken("the same in C++, with three divisions for five", written, B, 60)
        one = [optim._Part(p[:B], d[:B], states, 1.0)]
        taken("a chunk again and again, in the cache", lambda: rule.move(one, space), B, 60)
        whole = [torch.zeros(H, len(p)) for _ in range(4)]
        cut = [[part] for part in optim._cut(p, d, whole, 1.0, B)]
        taken("all chunks", lambda: rule(cut), len(p), 1)
        cut = [
            [optim._Part(p[a : a + B], d[a : a + B], [*torch.zeros(4, H, B)], 1.0)] for a in range(0, len(p), B)
        ]  # fmt: skip
        taken("all chunks, each with its state in one piece", lambda: rule(cut), len(p), 1)
    return told


def rounding(seeds: int = 5, steps: int = 100) -> dict:
    """A rule meta-trained on small networks here, then a larger one's training loss with both kinds of state."""
    import torch
    from torch import nn
    from torch.nn.functional import mse_loss

    import metaloop as ml

    def network(width: int):
        return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))

    net, init = ml.functional(network(16))
    waves = ml.tasks.sinusoid()
    learner = ml.lstm_optimizer(net, inner_steps=20, scale=0.05, loss=mse_loss)
    run = ml.fit(learner, ml.tasks.problems(waves, init), steps=25, tasks=4, shots=40, queries=40, seed=0, device="cpu",
                 progress=False, optimizer=lambda p: torch.optim.Adam(p, lr=0.01))  # fmt: skip
    losses: dict[str, list[float]] = {"start": [], "float32": [], "bfloat16": []}
    for seed in range(seeds):
        S = waves.sample(1, shots=40, queries=1, generator=torch.Generator().manual_seed(10_000 + seed)).support
        for name, ends in losses.items():
            torch.manual_seed(seed)
            model = network(48)
            if name != "start":
                optimizer = ml.optim.Learned(model.parameters(), run, state_dtype=getattr(torch, name))
                for _ in range(steps):
                    optimizer.zero_grad()
                    mse_loss(model(S.x[0]), S.y[0]).backward()
                    optimizer.step()
            ends.append(mse_loss(model(S.x[0]), S.y[0]).item())
    return {"steps": steps, "training_loss": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, metavar="OLD", help="a working tree of the other commit")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 4_000_000], metavar="N")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rounding", action="store_true")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("learned-speed.json"))
    args = parser.parse_args()
    if not (args.beside or args.rounding or args.parts):
        parser.error("give --beside OLD, --rounding or --parts.")
    from metaloop.engine.run import machine, versions

    result = json.loads(args.out.read_text()) if args.out.is_file() else {}
    result |= {"machine": machine(), "versions": versions()}
    if args.beside:
        commit = subprocess.check_output(["git", "-C", args.beside, "rev-parse", "--short", "HEAD"], text=True).strip()
        result |= {"command": f"python benchmarks/learned.py --beside OLD  (OLD: {commit})", "before": commit,
                   "threads": 1, "load_of_the_last_minute": os.getloadavg()[0]}  # fmt: skip
        result["cases"] = []
        for n in args.sizes:
            result["cases"].append(case := race(n, args.beside, args.repeats))
            print(f"{n} parameters; steps differ by {case['steps_differ_by']:.1e}")
            for name, row in case["rows"].items():
                of_wall, of_cpu = row["times_faster_wall"]["median"], row["times_faster_cpu"]["median"]
                print(f"  {name:9} {row['wall_s']['median']:8.3f} s wall {row['cpu_s']['median']:8.3f} s cpu; before / "
                      f"this {of_wall:.1f} wall {of_cpu:.1f} cpu; peak {row['peak_mb']:.0f} MB, of which state "
                      f"{row['state_mb']:.0f} MB")  # fmt: skip
            args.out.write_text(json.dumps(result, indent=2) + "\n")
    if args.parts:
        result["ns_for_each_coordinate"] = told = parts()
        for name, t in told.items():
            print(f"{t['best']:8.3g} {t['median']:8.3g}  {name}")
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    if args.rounding:
        result["rounding"] = rounding()
        print(json.dumps(result["rounding"], indent=2))
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
