"""Time the meta-gradient of MAML, and ProtoNet's, beside other libraries: same weights, same tasks, same arithmetic.
And Relation Network's beside plain loops, whose relation modules convolve whole pairs, or halves as ours does.

    python benchmarks/bench.py [--quick] [--device cpu|cuda] [--out results/bench-cpu.json]
    python benchmarks/bench.py --queries 1 2 5 ... [--out results/bench-queries-cpu.json]    MAML alone
    python benchmarks/bench.py --resnet12 64 160 320 640 [--queries 15]    MAML over a ResNet-12 of these widths alone

First every implementation's meta-gradient in float64 is compared with a plain loop's; one that differs is not timed.
What is timed is float32. There a ReLU rounded to the other side of zero changes a gradient by up to a hundredth, for
all alike, so less is asked of it (KINKS).
Then the repeats are interleaved, so that whatever else the machine does falls on all alike. Peers that are not
installed are left out with the reason. `make bench` installs them in an environment of their own.

On a GPU our steps are also timed as one CUDA graph, which is how `fit` does them there; and for ours the rate at which
memory is read and written is reported, as if every operation read its inputs and wrote its results there, beside the
rate of a large copy.
"""

import argparse
import copy
import importlib.metadata
import json
import statistics
import sys
import time
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import metaloop as ml
from metaloop.engine.memory import peak
from metaloop.engine.run import machine, versions
from metaloop.engine.steady import ORDINARY, Replayed
from metaloop.nn.fused import Block
from metaloop.torch_private import TorchDispatchMode, pytree

Step = Callable[[], list[torch.Tensor]]  # -> the meta-gradient, in the order of the network's parameters
SAME, KINKS = 1e-9, 0.03  # how far from the plain loop in float64: in float64, in float32


def network(ways: int) -> nn.Module:
    return ml.nn.conv4((1, 28, 28), out=ways, downsample="stride", features="mean")


def of_torchs_layers(module: nn.Module) -> nn.Module:
    """A copy with the same parameters, of torch's own layers: what one would write for the other libraries."""
    module = copy.deepcopy(module)
    for name, child in list(module.named_children()):
        if isinstance(child, ml.nn.BatchNorm):
            twin: nn.Module = nn.BatchNorm2d(len(child.weight), child.eps, track_running_stats=False)
            twin.load_state_dict(child.state_dict())
        elif isinstance(child, Block):
            twin = nn.Sequential(OrderedDict(of_torchs_layers(child).named_children()))
        else:
            twin = of_torchs_layers(child)
        setattr(module, name, twin)
    return module


def deal(
    tasks: int, ways: int, shots: int, queries: int, device: str, shape: tuple[int, ...] = (1, 28, 28)
) -> ml.Task:  # fmt: skip
    """Random pictures and balanced labels: what is timed does not depend on what the pictures show."""
    g = torch.Generator().manual_seed(0)

    def data(n: int) -> ml.Data:
        y = torch.arange(ways).repeat(n).expand(tasks, -1).contiguous()
        return ml.Data(torch.rand(tasks, ways * n, *shape, generator=g).to(device), y.to(device))

    return ml.Task(data(shots), data(queries))


def ours(module: nn.Module, theta, tasks: ml.Task, lr: float, compile: bool, inner_steps: int = 1) -> Step:
    net, init = ml.functional(module)
    gradient = ml.meta_gradient(ml.maml(net, init, inner_lr=lr, inner_steps=inner_steps), compile=compile)
    return lambda: list(gradient(theta, tasks)[0].values())


def as_graphs(steps: dict[str, Step], device: str) -> tuple[dict[str, Step], dict[str, str]]:
    """Our steps as CUDA graphs, where there are any, and why others are none."""
    graphs: dict[str, Replayed] = {}
    for name, step in steps.items():
        if device == "cuda" and name.startswith("metaloop"):
            graphs[f"{name}, one CUDA graph"] = replayed = Replayed(step, torch.device(device))
            for _ in range(ORDINARY + 1):
                replayed()
    refused = {name: step.refused for name, step in graphs.items() if step.refused}
    return {name: step for name, step in graphs.items() if name not in refused}, refused


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations are given and give, views left out; too many where inputs are expanded."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given, made = ([t for t in pytree.tree_leaves(tree) if isinstance(t, torch.Tensor)] for tree in (args, out))
        held = {t.untyped_storage().data_ptr() for t in given}
        if function._schema.is_mutable or any(t.untyped_storage().data_ptr() not in held for t in made):
            self.bytes += sum(t.numel() * t.element_size() for t in (*given, *made))
        return out


def plain_loop(module: nn.Module, theta, tasks: ml.Task, lr: float, inner_steps: int = 1) -> Step:
    """A Python loop over tasks: torch.autograd.grad with create_graph, native batch norm."""

    def step():
        total = None
        for i in range(len(tasks.support.x)):
            leaves = {n: p.detach().requires_grad_() for n, p in theta.items()}
            s, q = (ml.Data(d.x[i], d.y[i]) for d in tasks)
            fast = leaves
            for _ in range(inner_steps):
                inner = F.cross_entropy(torch.func.functional_call(module, fast, s.x), s.y)
                g = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
                fast = {n: p - lr * d for (n, p), d in zip(fast.items(), g, strict=True)}
            outer = F.cross_entropy(torch.func.functional_call(module, fast, q.x), q.y)
            g = torch.autograd.grad(outer, list(leaves.values()))
            total = g if total is None else [a + b for a, b in zip(total, g, strict=True)]
        return [t / len(tasks.support.x) for t in total]

    return step


def with_higher(module: nn.Module, theta, tasks: ml.Task, lr: float) -> Step:
    import higher  # type: ignore[import-not-found]

    def step():
        module.zero_grad()
        descent = torch.optim.SGD(module.parameters(), lr=lr)
        for i in range(len(tasks.support.x)):
            with higher.innerloop_ctx(module, descent, copy_initial_weights=False) as (fast, inner):
                inner.step(F.cross_entropy(fast(tasks.support.x[i]), tasks.support.y[i]))
                loss = F.cross_entropy(fast(tasks.query.x[i]), tasks.query.y[i])
                (loss / len(tasks.support.x)).backward()
        return [p.grad for p in module.parameters()]

    return step


def with_torchopt(module: nn.Module, theta, tasks: ml.Task, lr: float) -> Step:
    import torchopt  # type: ignore[import-not-found]

    def step():
        module.zero_grad()
        inner = torchopt.MetaSGD(module, lr=lr)
        start, state = torchopt.extract_state_dict(module), torchopt.extract_state_dict(inner)
        for i in range(len(tasks.support.x)):
            inner.step(F.cross_entropy(module(tasks.support.x[i]), tasks.support.y[i]))
            loss = F.cross_entropy(module(tasks.query.x[i]), tasks.query.y[i])
            (loss / len(tasks.support.x)).backward()
            torchopt.recover_state_dict(module, start)
            torchopt.recover_state_dict(inner, state)
        return [p.grad for p in module.parameters()]

    return step


def with_learn2learn(module: nn.Module, theta, tasks: ml.Task, lr: float) -> Step:
    import learn2learn  # type: ignore[import-not-found]

    def step():
        module.zero_grad()
        maml = learn2learn.algorithms.MAML(module, lr=lr, first_order=False)
        for i in range(len(tasks.support.x)):
            fast = maml.clone()
            fast.adapt(F.cross_entropy(fast(tasks.support.x[i]), tasks.support.y[i]))
            loss = F.cross_entropy(fast(tasks.query.x[i]), tasks.query.y[i])
            (loss / len(tasks.support.x)).backward()
        return [p.grad for p in module.parameters()]

    return step


def with_easyfsl(module: nn.Module, theta, tasks: ml.Task) -> Step:
    """easyfsl's PrototypicalNetworks in its own episode loop. It answers -distance where the paper and we have its
    square, so the scores are squared; torchvision, which its other methods import, may be an empty module."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        resnet = types.ModuleType("torchvision.models.resnet")
        for name in ("BasicBlock", "Bottleneck", "conv1x1", "conv3x3"):
            setattr(resnet, name, nn.Identity)
        sys.modules |= {name: types.ModuleType(name) for name in ("torchvision", "torchvision.models")}
        sys.modules["torchvision.models.resnet"] = resnet
    from easyfsl.methods import PrototypicalNetworks  # type: ignore[import-not-found]

    model = PrototypicalNetworks(module).train()

    def step():
        model.zero_grad()
        for i in range(len(tasks.support.x)):
            model.process_support_set(tasks.support.x[i], tasks.support.y[i])
            loss = F.cross_entropy(-model(tasks.query.x[i]).square(), tasks.query.y[i])
            (loss / len(tasks.support.x)).backward()
        return [p.grad for p in module.parameters()]

    return step


PEERS = {"higher": with_higher, "torchopt": with_torchopt, "learn2learn": with_learn2learn}


def difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """|a - b| / |b| over all parameters."""
    a64, b64 = (torch.cat([t.detach().double().flatten() for t in ts]) for ts in (a, b))
    return ((a64 - b64).norm() / b64.norm()).item()


def maml_case(queries: int, device: str, repeats: int, compile: bool) -> dict:
    """MAML, 5-way 1-shot, conv4-64 of stride 2, 32 tasks, one inner step, second order, float32."""
    ways, lr = 5, 0.4
    torch.manual_seed(0)
    module = network(ways).to(device)
    for name, p in module.named_parameters():
        if "conv" in name:
            nn.init.xavier_uniform_(p)
    theta = {n: p.detach().clone() for n, p in module.named_parameters()}
    tasks = deal(32, ways, 1, queries, device)
    plain = of_torchs_layers(module).to(device)
    wide, wide_plain = (copy.deepcopy(m).double() for m in (module, plain))
    double = in_double(theta, tasks)
    exact = {"metaloop": ours(wide, *double, lr, False)(), "plain loop": plain_loop(wide_plain, *double, lr)()}
    steps = {"metaloop": ours(module, theta, tasks, lr, False), "plain loop": plain_loop(plain, theta, tasks, lr)}
    if compile:
        steps["metaloop, compiled"] = ours(module, theta, tasks, lr, True)
    graphs, left_out = as_graphs(steps, device)
    steps |= graphs
    for name, build in PEERS.items():
        try:
            steps[name] = build(copy.deepcopy(plain), theta, tasks, lr)
            exact[name] = build(copy.deepcopy(wide_plain), *double, lr)()
        except ImportError as error:
            left_out[name] = str(error)
    each = "1 query" if queries == 1 else f"{queries} queries"
    return {"case": f"MAML 5-way 1-shot, {each} per class", **race(steps, exact, repeats, device, left_out)}


def resnet_case(widths: list[int], queries: int, device: str, repeats: int, compile: bool) -> dict:
    """MAML over ResNet-12, 5-way 1-shot of 84x84 pictures, 4 tasks, five inner steps, second order, float32; and the
    most bytes that live at once for 1, 2 and 4 tasks."""
    ways, lr, steps, shape = 5, 0.01, 5, (3, 84, 84)
    torch.manual_seed(0)
    module = ml.nn.resnet12(shape, out=ways, widths=widths).to(device)
    theta = {n: p.detach().clone() for n, p in module.named_parameters()}
    tasks = deal(4, ways, 1, queries, device, shape)
    plain = of_torchs_layers(module).to(device)
    wide, wide_plain = (copy.deepcopy(m).double() for m in (module, plain))
    double = in_double(theta, tasks)
    exact = {"metaloop": ours(wide, *double, lr, False, steps)()}
    exact["plain loop"] = plain_loop(wide_plain, *double, lr, steps)()
    raced = {"metaloop": ours(module, theta, tasks, lr, False, steps)}
    raced["plain loop"] = plain_loop(plain, theta, tasks, lr, steps)
    if compile:
        raced["metaloop, compiled"] = ours(module, theta, tasks, lr, True, steps)
    graphs, left_out = as_graphs(raced, device)
    told = race(raced | graphs, exact, repeats, device, left_out)
    gradient = ml.meta_gradient(ml.maml(*ml.functional(module), inner_lr=lr, inner_steps=steps))
    some = {n: pytree.tree_map(lambda t: t[:n], tasks) for n in (1, 2, 4)}  # noqa: B023
    case = f"MAML 5-way 1-shot, {queries} per class, ResNet-12 of {'-'.join(map(str, widths))}, 84x84, 5 steps, 4 tasks"
    return {"case": case, **told, "peak_bytes_by_tasks": {n: peak(gradient, theta, few) for n, few in some.items()}}


def in_double(theta, tasks: ml.Task):
    return {n: p.double() for n, p in theta.items()}, ml.Task(*(ml.Data(d.x.double(), d.y) for d in tasks))


def protonet_case(device: str, repeats: int, compile: bool) -> dict:
    """ProtoNet, 20 tasks of 5-way 5-shot with 15 queries: all at once, or a Python loop over episodes."""
    ways = 5
    torch.manual_seed(0)
    module = ml.nn.conv4((1, 28, 28)).to(device)
    theta = {n: p.detach().clone() for n, p in module.named_parameters()}
    tasks = deal(20, ways, 5, 15, device)

    plain = of_torchs_layers(module).to(device)

    def of(module, theta, tasks, compile: bool) -> Step:
        net, init = ml.functional(module)
        gradient = ml.meta_gradient(ml.protonet(net, init, ways=ways), compile=compile)
        return lambda: list(gradient(theta, tasks)[0].values())

    def loop(module, theta, tasks) -> Step:
        def step():
            leaves = {n: p.detach().requires_grad_() for n, p in theta.items()}
            for i in range(len(tasks.support.x)):
                s, q = (ml.Data(d.x[i], d.y[i]) for d in tasks)
                z, zq = (torch.func.functional_call(module, leaves, d.x) for d in (s, q))
                c = torch.stack([z[s.y == k].mean(0) for k in range(ways)])
                loss = F.cross_entropy(-torch.cdist(zq, c).square(), q.y)
                (loss / len(tasks.support.x)).backward()
            return [p.grad for p in leaves.values()]

        return step

    wide, wide_plain = (copy.deepcopy(m).double() for m in (module, plain))
    double = in_double(theta, tasks)
    exact = {"metaloop": of(wide, *double, False)(), "plain loop over episodes": loop(wide_plain, *double)()}
    steps = {"metaloop": of(module, theta, tasks, False), "plain loop over episodes": loop(plain, theta, tasks)}
    if compile:
        steps["metaloop, compiled"] = of(module, theta, tasks, True)
    graphs, left_out = as_graphs(steps, device)
    steps |= graphs
    try:
        steps["easyfsl"] = with_easyfsl(copy.deepcopy(plain), theta, tasks)
        exact["easyfsl"] = with_easyfsl(copy.deepcopy(wide_plain), *double)()
    except ImportError as error:
        left_out["easyfsl"] = str(error)
    return {"case": "ProtoNet 5-way 5-shot, 15 queries per class", **race(steps, exact, repeats, device, left_out)}


class WholePairs(ml.nn.Relation):
    """The relation module with each pair made before its first convolution."""

    def forward(self, c: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        of_c, of_q = c.expand(len(q), *c.shape), q[:, None].expand(-1, len(c), *q.shape[1:])
        x = self.norm(self.conv(torch.cat([of_c, of_q], 2).flatten(0, 1)))
        return self.score(self.block(F.max_pool2d(x.relu(), 2))).view(len(q), len(c))


def relation_case(device: str, repeats: int, compile: bool) -> dict:
    """Relation Network, 4 tasks of 20-way 1-shot with 10 queries, mean squared error."""
    ways = 20
    torch.manual_seed(0)
    encoder = ml.nn.conv4((1, 28, 28), downsample="twice", features="map").to(device)
    pairs, whole = (kind(encoder.shape).to(device) for kind in (ml.nn.Relation, WholePairs))
    whole.load_state_dict(pairs.state_dict())
    theta = {part: {n: p.detach().clone() for n, p in module.named_parameters()}
             for part, module in (("embed", encoder), ("relate", pairs))}  # fmt: skip
    tasks = deal(4, ways, 1, 10, device)

    def of(modules, theta, tasks, compile: bool) -> Step:
        encoder, pairs = modules
        learner = ml.relation(*ml.functional(encoder), *ml.functional(pairs), ways=ways)
        gradient = ml.meta_gradient(learner, compile=compile)
        return lambda: [g for part in gradient(theta, tasks)[0].values() for g in part.values()]

    def loop(modules, theta, tasks) -> Step:
        embed, relate = modules

        def step():
            leaves = {part: {n: p.detach().requires_grad_() for n, p in of_it.items()} for part, of_it in theta.items()}
            for i in range(len(tasks.support.x)):
                s, q = (ml.Data(d.x[i], d.y[i]) for d in tasks)
                z, zq = (torch.func.functional_call(embed, leaves["embed"], d.x) for d in (s, q))
                c = torch.stack([z[s.y == k].sum(0) for k in range(ways)])
                r = torch.func.functional_call(relate, leaves["relate"], (c, zq)).sigmoid()
                loss = F.mse_loss(r, F.one_hot(q.y, ways).to(r))
                (loss / len(tasks.support.x)).backward()
            return [p.grad for part in leaves.values() for p in part.values()]

        return step

    double = pytree.tree_map(torch.Tensor.double, theta), in_double({}, tasks)[1]
    wide = [copy.deepcopy(m).double() for m in (encoder, pairs)]
    loops = {"plain loop over episodes, whole pairs": whole, "plain loop over episodes, halves": pairs}
    exact, steps = {"metaloop": of(wide, *double, False)()}, {"metaloop": of((encoder, pairs), theta, tasks, False)}
    for name, relate in loops.items():
        modules = [of_torchs_layers(m).to(device) for m in (encoder, relate)]
        exact[name] = loop([copy.deepcopy(m).double() for m in modules], *double)()
        steps[name] = loop(modules, theta, tasks)
    if compile:
        steps["metaloop, compiled"] = of((encoder, pairs), theta, tasks, True)
    graphs, left_out = as_graphs(steps, device)
    steps |= graphs
    case = "Relation Network 20-way 1-shot, 10 queries per class"
    return {"case": case, **race(steps, exact, repeats, device, left_out)}


def race(steps: dict[str, Step], exact: dict, repeats: int, device: str, left_out: dict[str, str]) -> dict:
    """Check the gradients, warm up, then time the implementations in turn.

    The arithmetic is that of the plain loop's convolutions and matrix products; rates are for that.
    """
    loop = next(name for name in steps if name.startswith("plain loop"))
    plain, eager = steps[loop], steps["metaloop"]
    errors = {name: difference(step(), exact[loop]) for name, step in steps.items()}
    kinks = max(KINKS, 2 * errors[loop])  # of deep networks the loop itself is further off
    for name, error in errors.items():
        wide = difference(exact[name], exact[loop]) if name in exact else 0.0
        if not (error < kinks and wide < SAME):
            left_out[name] = f"its meta-gradient differs by {error:.1e}, in float64 by {wide:.1e}"
            del steps[name]
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            if device == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(1e3 * (time.perf_counter() - began))
    rows = {}
    for name, ms in times.items():
        low, median, high = statistics.quantiles(ms, n=4)
        rows[name] = {"median_ms": median, "quartiles_ms": [low, high], "gradient_error": errors[name]}
    with FlopCounterMode(display=False) as counter:
        plain()
    flops = counter.get_total_flops()
    with Traffic() as traffic:
        eager()
    for name, row in rows.items():
        row["gflops"] = flops / row["median_ms"] / 1e6
        if name.startswith("metaloop") and "compiled" not in name:
            row["gbyte_per_s"] = traffic.bytes / row["median_ms"] / 1e6
    fastest_other = min(row["median_ms"] for name, row in rows.items() if not name.startswith("metaloop"))
    for row in rows.values():
        row["times_faster_than_the_best_other"] = fastest_other / row["median_ms"]
    return {"rows": rows, "left_out": left_out, "repeats": repeats, "arithmetic_gflop": flops / 1e9}


def seconds(work: Callable[[], torch.Tensor], device: str) -> float:
    """The median time of five goes, on a GPU of twenty calls each."""
    calls, times = 20 if device == "cuda" else 1, []
    work()
    for _ in range(5):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(calls):
            result = work()
        result.flatten()[0].item()
        times.append((time.perf_counter() - began) / calls)
    return statistics.median(times)


def sgemm_gflops(device: str) -> float:
    """The machine's own rate on a large float32 matrix product."""
    a, b = (torch.randn(2048, 2048, device=device) for _ in range(2))
    return 2 * 2048**3 / seconds(lambda: a @ b, device) / 1e9


def copy_gbyte_per_s(device: str) -> float:
    """The machine's own rate of reading and writing memory: a large copy, both ways counted."""
    source = torch.ones(2**26, device=device)
    target = source.clone()
    return 2 * 4 * 2**26 / seconds(lambda: target.copy_(source), device) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats, nothing compiled: to see that it runs")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--queries", type=int, nargs="+", metavar="Q", help="MAML alone, with Q queries per class")
    parser.add_argument("--resnet12", type=int, nargs=4, metavar="W", help="MAML alone, ResNet-12 of these widths")
    parser.add_argument("--out", default="bench.json")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here.")
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # not TF32, for all alike
    repeats, compile = (3, False) if args.quick else (15, True)
    if args.resnet12:
        asked = args.queries or [15]
        cases = [resnet_case(args.resnet12, queries, args.device, min(repeats, 5), compile) for queries in asked]
    else:
        cases = [maml_case(queries, args.device, repeats, compile) for queries in args.queries or (1, 15)]
    if not (args.queries or args.resnet12):
        cases.append(protonet_case(args.device, repeats, compile))
        cases.append(relation_case(args.device, repeats, compile))
    installed = {}
    for name in (*PEERS, "easyfsl"):
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    asked = f" --resnet12 {' '.join(map(str, args.resnet12))}" if args.resnet12 else ""
    asked += f" --queries {' '.join(map(str, args.queries))}" if args.queries else ""
    result = {
        "command": "python benchmarks/bench.py" + asked, "device": args.device,
        "sgemm_gflops": sgemm_gflops(args.device), "copy_gbyte_per_s": copy_gbyte_per_s(args.device),
        "machine": machine(), "versions": {**versions(), **installed}, "cases": cases,
    }  # fmt: skip
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")
    for case in cases:
        print(case["case"])
        for name, row in sorted(case["rows"].items(), key=lambda item: item[1]["median_ms"]):
            low, high = row["quartiles_ms"]
            ratio = row["times_faster_than_the_best_other"]
            share = row["gflops"] / result["sgemm_gflops"]
            time_taken = f"{row['median_ms']:8.1f} ms  ({low:.1f} to {high:.1f})"
            memory = f", memory at {row['gbyte_per_s']:.0f} GB/s" if "gbyte_per_s" in row else ""
            print(f"  {name:36} {time_taken}  {ratio:5.2f}x  {share:4.0%} of sgemm{memory}")
        for tasks, most in case.get("peak_bytes_by_tasks", {}).items():
            print(f"  metaloop, {tasks} tasks: {most / 1e6:.0f} MB at once")
        for name, reason in case["left_out"].items():
            print(f"  {name:36} left out: {reason}")
    ceilings = f"sgemm {result['sgemm_gflops']:.0f} GFLOP/s, copy {result['copy_gbyte_per_s']:.0f} GB/s"
    print(f"{ceilings}; written to {args.out}")


if __name__ == "__main__":
    main()
