"""One prepared quarter of an hour on a GPU: is it exact there, how fast, and the rows that were short of steps.

    python benchmarks/gpu.py [--seconds 420] [--data DIR] [--from DIR] [--out DIR] [--parts exactness speed maml rows]
    python benchmarks/gpu.py --rehearse            all of it in miniature, on a CPU

Four parts in this order, each with a share of the seconds, so that one that takes too long costs nothing earlier:

1. exactness: each system's meta-gradient on the device in float32, TF32 and bfloat16, against float64 on the CPU, as
   ||g - ref|| / ||ref||; steps of one CUDA graph against ordinary steps, bit by bit; tasks dealt on the device.
2. speed: MAML's and ProtoNet's meta-gradient beside plain loops, as benchmarks/bench.py has it, and tasks per second by
   the size of chunks; beside the card's own rates on a large product and a large copy.
3. MAML, 5-way 1-shot, as published: 60 000 meta-steps of 32 tasks, timed and tested.
4. rows: those of benchmarks/queue.json, in its order, some side by side in processes of their own, each going on where
   the last time left it.

It needs torch, numpy, Pillow, safetensors, jaxtyping and scikit-learn, and installs nothing. DIR of --data holds the
data sets (`METALOOP_DATA` unless given); a part whose data are absent says so. It writes at most seven files of at most
16 MB: one of JSON for each part, what was printed, and runs.tar and runs-2.tar, the runs, which --from unpacks the next
time. It stops itself after --seconds, saving what is trained.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import bench
import reproduce
import torch

import metaloop as ml
from metaloop.cli import main as metaloop
from metaloop.engine import batch
from metaloop.engine.methods import METHODS
from metaloop.engine.run import BEST, checkpoints, machine, versions
from metaloop.recipes import RECIPES
from metaloop.testing import _StillNoise
from metaloop.torch_private import pytree

SHARES = {"exactness": 0.4, "speed": 0.4, "maml": 0.6, "rows": 1.0}  # of the seconds left, if others come after it
LARGEST = 15 * 2**20  # bytes of runs.tar
MAML = reproduce.Item("maml-omniglot-5w1s", 60_000, 0, "as published, timed")


class Session:
    """Where it runs, how large, until when, and the folder of what it writes."""

    def __init__(self, device: str, seconds: float, out: Path, *, small: bool, at_once: int = 1):
        self.device, self.out, self.small, self.at_once = torch.device(device), out, small, at_once
        self.ends = time.monotonic() + seconds
        self.lines: list[str] = []

    def left(self) -> float:
        return self.ends - time.monotonic()

    def say(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)

    def keep(self, name: str, told: Any) -> None:
        """Write what is known so far: a part that is cut off has lost what it was at, and no more."""
        about = {"device": told_of(self.device), "machine": machine(), "versions": versions(), "rehearsed": self.small}
        (self.out / f"{name}.json").write_text(json.dumps({**about, name: told}, indent=2) + "\n")


def told_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Ctrl-C after so many seconds: training hears it, saves, and stops. Raises KeyboardInterrupt."""

    def strike(*_) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# 1. Is it exact?


REHEARSED = ("maml-glyphs", "meta-rnn-boolean", "statistician-distributions")


def plans(small: bool) -> Iterator[tuple[str, Any]]:
    """The first recipe of each system whose data are here, or why there is none; three of the rehearsal need none."""
    recipes = [RECIPES[name] for name in REHEARSED] if small else RECIPES.values()
    for system in sorted({recipe.system for recipe in recipes}):
        why, plan, name = "", None, system
        for recipe in recipes:
            if recipe.system == system and plan is None:
                try:
                    plan, name = recipe.plan(budget="smoke"), recipe.name
                except (ValueError, OSError) as error:
                    why = first_line(error)
        yield name, plan or why


PRECISIONS = {"float32": (torch.float32, "ieee"), "tf32": (torch.float32, "tf32"), "bfloat16": (torch.bfloat16, "ieee")}


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Matrix products and convolutions of float32 on a GPU in this precision."""
    flags: Any = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [flag.fp32_precision for flag in flags]
    try:
        for flag in flags:
            flag.fp32_precision = precision
        yield
    finally:
        for flag, was in zip(flags, before, strict=True):
            flag.fp32_precision = was


def cast(tree: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The floating-point tensors of a tree in this precision, and all of them there."""
    return pytree.tree_map(
        lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype) if isinstance(t, torch.Tensor) else t, tree
    )


def gradient_of(plan: Any, theta: Any, tasks: ml.Task) -> torch.Tensor:
    options = {name: plan.options[name] for name in ("method", "horizon") if name in plan.options}
    if options.get("method") not in METHODS:  # it is a way to train, whose gradients are the exact ones
        options = {}
    still = _StillNoise()  # noise that is the same everywhere
    with still, patch.object(batch, "float32", lambda device: nullcontext()):  # convolutions as `products` has them
        grads = ml.meta_gradient(plan.learner, **options)(theta, tasks)[0]
    leaves = [g.detach().cpu().double().flatten() for g in pytree.tree_leaves(grads) if g.is_floating_point()]
    return torch.cat(leaves)


def exactness(session: Session) -> None:
    graphs, dealing = {"protonet, six steps": same_steps(session)}, {"glyphs": dealt_there(session)}
    told: dict[str, Any] = {"gradients": {}, "graphs": graphs, "dealing": dealing}
    session.say(f"steps of a graph and ordinary ones: {graphs}; dealt on the device: {dealing}")
    for name, plan in plans(session.small):
        if isinstance(plan, str):
            told["gradients"][name] = {"left out": plan}
            session.say(f"{name:36} left out: {plan}")
            continue
        row: dict[str, Any] = {}
        try:
            episode = {"ways": plan.ways, "shots": plan.shots, "queries": plan.queries}
            tasks = plan.pool.train.sample(tasks=2, **episode, generator=torch.Generator().manual_seed(0))
            theta = plan.learner.init(0)
            cpu = torch.device("cpu")
            want = gradient_of(plan, *cast((theta, tasks), cpu, torch.float64))
            for precision, (dtype, flag) in PRECISIONS.items():
                try:
                    with products(flag):
                        got = gradient_of(plan, *cast((theta, tasks), session.device, dtype))
                    row[precision] = ((got - want).norm() / want.norm()).item()
                except (RuntimeError, ValueError) as error:
                    row[precision] = first_line(error)
        except (RuntimeError, ValueError, TypeError) as error:
            row["left out"] = first_line(error)
        told["gradients"][name] = row
        session.keep("exactness", told)
        columns = (
            f"{key} {value:.1e}" if isinstance(value, float) else f"{key}: {value}" for key, value in row.items()
        )
        session.say(f"{name:36} " + "  ".join(columns))


def same_steps(session: Session) -> dict[str, str]:
    """Whether a run of whole steps ends in the weights of one that goes step by step; and whether that one does twice.

    With torch's deterministic algorithms, since sums in another order each time differ from run to run; and by plain
    descent: Adam, captured, rounds otherwise, and makes whole steps of a gradient that should be zero.
    """
    pool = ml.tasks.glyphs()
    net, init = ml.functional(ml.nn.conv4(pool.shape, width=8))

    def ends(capture: bool) -> list[torch.Tensor]:
        run = ml.fit(
            ml.protonet(net, init, ways=5), pool, steps=6, tasks=2, shots=1, queries=2, capture=capture, progress=False,
            device=session.device, optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        )  # fmt: skip
        return pytree.tree_leaves(run.theta)

    def apart(some: list[torch.Tensor], others: list[torch.Tensor]) -> str:
        worst = max((a - b).abs().max().item() for a, b in zip(some, others, strict=True))
        return "equal bit by bit" if worst == 0 else f"differ by {worst:.1e}"

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        ordinary = ends(False)
        return {"captured": apart(ends(True), ordinary), "once more": apart(ends(False), ordinary)}
    finally:
        torch.use_deterministic_algorithms(before)


def dealt_there(session: Session) -> str:
    """Whether tasks that are drawn on the device hold the pictures that their drawing says, but for one rounding: a GPU
    divides bytes by 255 as a product."""
    pool = ml.tasks.glyphs().train
    there = pool.to(session.device)
    where = session.device.type if session.device.type == "cuda" else "cpu"
    drawn = there.draw(2, ways=3, shots=1, queries=2, generator=torch.Generator(where).manual_seed(0))
    ours, theirs = there.deal(drawn), pool.deal(cast(drawn, torch.device("cpu"), torch.float32))
    pairs = [(a.cpu(), b) for a, b in zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True)]
    if all(torch.equal(a, b) for a, b in pairs):
        return "equal"
    worst = max((a.double() - b.double()).abs().max().item() for a, b in pairs)
    return f"equal but for a rounding of {worst:.1e}" if worst < 1e-7 else f"differ by {worst:.1e}"


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:160]


# 2. How fast is it?


def speed(session: Session) -> None:
    with products("ieee"):  # torch's own default, TF32, is for neither side
        raced(session)


def raced(session: Session) -> None:
    device, told = session.device.type, {}
    if not session.small:
        ceilings = bench.sgemm_gflops(device), bench.copy_gbyte_per_s(device)
        told["ceilings"] = dict(zip(("sgemm_gflops", "copy_gbyte_per_s"), ceilings, strict=True))
    told["chunks"] = chunks(session)
    session.keep("speed", told)
    if not session.small:  # the rehearsal of these is benchmarks/bench.py's own
        told["cases"] = []
        for case in (lambda: bench.maml_case(1, device, 15, False), lambda: bench.maml_case(15, device, 15, False),
                     lambda: bench.protonet_case(device, 15, False)):  # fmt: skip
            told["cases"].append(case())
            session.keep("speed", told)
            for name, row in told["cases"][-1]["rows"].items():
                session.say(f"{told['cases'][-1]['case']:44} {name:32} {row['median_ms']:8.2f} ms")


def chunks(session: Session) -> dict[str, float]:
    """Tasks per second of MAML's meta-gradient, by how many are computed at once."""
    tasks, rates = (4 if session.small else 256), {}
    module = bench.network(5).to(session.device)
    net, init = ml.functional(module)
    theta = cast(init(0), session.device, torch.float32)
    dealt = bench.deal(tasks, 5, 1, 1, str(session.device))
    for chunk in (2, 4) if session.small else (8, 32, 64, 128, 256):
        gradient = ml.meta_gradient(ml.maml(net, init, inner_lr=0.4), chunk=chunk)
        took = bench.seconds(lambda gradient=gradient: gradient(theta, dealt)[1].view(1), "cpu")
        rates[str(chunk)] = tasks / took
        session.say(f"chunks of {chunk}: {rates[str(chunk)]:.0f} tasks per second")
    return rates


# 3 and 4. What was short of steps


def words_of(session: Session, item: reproduce.Item) -> list[str]:
    small = ["--budget", "smoke", "--tasks", "2"] if session.small else []
    return [*item.words, "--device", str(session.device), *small]


def train(session: Session, item: reproduce.Item) -> dict[str, Any]:
    """Train an item on, until it is done or the time is over; what became of it."""
    began = time.monotonic()
    try:
        status = metaloop(words_of(session, item))
    except KeyboardInterrupt:
        status = 130
    return told_about(session, item, began, status)


def told_about(session: Session, item: reproduce.Item, began: float, status: int | None) -> dict[str, Any]:
    told = {"recipe": item.recipe, "seed": item.seed, "budget": item.budget, "why": item.why, "step": item.step}
    told |= {"steps": item.steps, "status": status, "seconds": time.monotonic() - began}
    if (scores := item.folder / "evaluation.json").exists():
        told["evaluation"] = json.loads(scores.read_text())
    session.say(f"{item.folder.name}: step {item.step} of {item.steps} after {told['seconds']:.0f} s")
    return told


def maml(session: Session) -> None:
    item = reproduce.Item("maml-sinusoid-5shot", 2, 0, "rehearsed") if session.small else MAML
    if not item.done:
        session.keep("maml", told := train(session, item))
        if told["status"] == 130:
            raise KeyboardInterrupt


def rows(session: Session) -> None:
    items = [reproduce.Item("meta-rnn-boolean", 2, 0, "rehearsed")] if session.small else reproduce.queue()
    told: list[dict[str, Any]] = []
    with ThreadPoolExecutor(session.at_once) as several:
        for one in several.map(lambda item: beside(session, item), [item for item in items if not item.done]):
            told.append(one)
            session.keep("rows", told)


def beside(session: Session, item: reproduce.Item) -> dict[str, Any]:
    """Train an item in a process of its own; when the time is over it gets Ctrl-C, and saves."""
    began = time.monotonic()
    words = [sys.executable, "-m", "metaloop", *words_of(session, item)]
    env = {**os.environ, "PYTHONPATH": str(reproduce.ROOT), "OMP_NUM_THREADS": "2"}
    status: int | None = None
    if session.left() > 50:  # else it would not come to its first step
        with open(item.folder.with_suffix(".txt"), "w") as log:
            child = subprocess.Popen(words, env=env, stdout=log, stderr=subprocess.STDOUT)
            while (status := child.poll()) is None and session.left() > 30:
                time.sleep(0.1)
            if status is None:
                child.send_signal(signal.SIGINT)
                status = child.wait()
    return told_about(session, item, began, status)


# All of it


def pack(session: Session, where: Path) -> None:
    """The runs into runs.tar: of each what its next training needs, or what was tested. Those that do not fit go into
    runs-2.tar, or are left out, and told."""
    free = {"runs.tar": LARGEST, "runs-2.tar": LARGEST}
    for name in free:
        (session.out / name).unlink(missing_ok=True)
    for folder in sorted(where.glob("*/")):
        files = [path for path in folder.iterdir() if path.suffix in (".json", ".jsonl")]
        best, newest = [*folder.glob(BEST)], checkpoints(folder)[-1:]
        files += best if best and (folder / "evaluation.json").exists() else [*best, *newest]
        size = sum(path.stat().st_size + 2048 for path in files)
        name = next((name for name, left in free.items() if size <= left), None)
        if name is None:
            session.say(f"{folder.name} is left out: {size / 2**20:.0f} MB too many")
            continue
        free[name] -= size
        with tarfile.open(session.out / name, "a") as tar:
            for path in files:
                tar.add(path, path.relative_to(where))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=420, help="when it stops itself (420)")
    parser.add_argument("--data", metavar="DIR", help="the folder of the data sets (METALOOP_DATA)")
    parser.add_argument("--from", dest="earlier", metavar="DIR", help="what an earlier time wrote: its runs go on")
    parser.add_argument("--out", metavar="DIR", default="results/gpu", help="where to write (results/gpu)")
    parser.add_argument("--parts", nargs="+", choices=list(SHARES), default=list(SHARES), help="of the four (all)")
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="rows that train side by side (4)")
    parser.add_argument("--rehearse", action="store_true", help="all of it in miniature, on a CPU")
    args = parser.parse_args(argv)
    device = "cpu" if args.rehearse else "cuda"
    if not args.rehearse and not torch.cuda.is_available():
        print("gpu: torch finds no GPU here. --rehearse does all of it in miniature on a CPU.", file=sys.stderr)
        return 2
    if args.data:
        os.environ["METALOOP_DATA"] = str(Path(args.data).resolve())
    if args.earlier and not (Path(args.earlier) / "runs.tar").is_file():
        print(f"gpu: --from {args.earlier}: there is no runs.tar in it.", file=sys.stderr)
        return 2
    out = Path(args.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    session = Session(device, args.seconds, out, small=args.rehearse, at_once=args.at_once)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what its deterministic algorithms want
    reproduce.RUNS.mkdir(parents=True, exist_ok=True)
    if args.earlier:
        for path in Path(args.earlier).glob("runs*.tar"):
            with tarfile.open(path) as tar:
                tar.extractall(reproduce.RUNS, filter="data")
    table = []
    parts: dict[str, Callable[[Session], None]] = {"exactness": exactness, "speed": speed, "maml": maml, "rows": rows}
    for name in args.parts:
        part, share = parts[name], 1.0 if name == args.parts[-1] else SHARES[name]
        began, how = time.monotonic(), "whole"
        session.say(f"-- {name}")
        try:
            with at_most(share * (session.left() - 15)):  # the last seconds are for writing
                part(session)
        except KeyboardInterrupt:
            how = "cut off by its limit"
        except Exception as error:  # a part that fails costs the others nothing
            how = first_line(error)
        table.append((name, time.monotonic() - began, how))
    pack(session, reproduce.RUNS)
    session.say(f"{'part':12} {'seconds':>8}  outcome, on {told_of(session.device)}")
    for name, seconds, how in table:
        session.say(f"{name:12} {seconds:8.1f}  {how}")
    (out / "printed.txt").write_text("\n".join(session.lines) + "\n")
    return 0 if all(how in ("whole", "cut off by its limit") for *_, how in table) else 1


if __name__ == "__main__":
    sys.exit(main())
