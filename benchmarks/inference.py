"""Does a smooth encoder help where training examples are few? A VAE of drawings, its encoder shown noise or none.

    python benchmarks/inference.py [--seeds 3] [--epochs 200] [--examples 1000]    writes results/inference.json
    python benchmarks/inference.py --table     writes the tables in docs/learners/inference.md from it, and from
                                               results/inference-long.json

--jobs N trains N at a time, on a thread each; --seconds T keeps, after so long, the seeds that have all strengths.

Amortised inference regularisation by denoising (Shu et al. 2018): `objectives.elbo(smooth=s)`, for s of 0, 0.1, 0.2 and
0.4, of pixels in [0, 1]. Perceptrons 784-200-200-2*32 and 32-200-200-784, Adam at 1e-3, batches of 100. Training
drawings are `--examples` of Omniglot's Vinyals split, drawn by the seed, without rotations; test drawings 1000 of its
test classes. Both are scored by the importance-weighted bound of 100 draws, in nats an example, grey pixels as means
of Bernoulli's, after the last epoch, and after that which is best, of every 20th, on 500 drawings of the validation
classes. Differences to s = 0 are paired by seed; their intervals are over seeds.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from told import filled, interval

import metaloop as ml
from metaloop.engine.run import machine, versions
from metaloop.objectives import elbo, iwae

ROOT = Path(__file__).resolve().parent.parent
WORDS = ("seeds", "epochs", "examples")
SMOOTH, DRAWS, LATENTS, HIDDEN = (0.0, 0.1, 0.2, 0.4), 100, 32, 200


def some(pool, n: int, seed: int) -> torch.Tensor:
    """n drawings of a pool, none twice: [n, 784]."""
    order = torch.randperm(len(pool.images), generator=torch.Generator().manual_seed(seed))[:n]
    return pool.images[order].flatten(1).float() / 255


def train(x, held, test, smooth: float, seed: int, epochs: int, until: float = float("inf")) -> dict | None:
    """None if it is not done by then, on the clock of time.time."""
    torch.manual_seed(seed)
    parts = {name: ml.functional(ml.nn.mlp((a, HIDDEN, HIDDEN, b)))
             for name, a, b in (("encoder", 784, 2 * LATENTS), ("decoder", LATENTS, 784))}  # fmt: skip
    theta = {name: {n: p.requires_grad_() for n, p in init(2 * seed + i).items()}
             for i, (name, (_, init)) in enumerate(parts.items())}  # fmt: skip
    encoder, decoder = (lambda v, name=name: parts[name][0](theta[name], v) for name in parts)
    adam = torch.optim.Adam([p for params in theta.values() for p in params.values()], lr=1e-3)
    best = {"validation": float("-inf")}

    def scored(v) -> float:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            return torch.cat([iwae(encoder, decoder, part, draws=DRAWS) for part in v.split(100)]).mean().item()

    both = lambda: {"training": scored(x), "test": scored(test)}
    for epoch in range(1, epochs + 1):
        if time.time() > until:
            return None
        for batch in x[torch.randperm(len(x))].split(100):
            adam.zero_grad()
            (-elbo(encoder, decoder, batch, smooth=smooth).mean()).backward()
            adam.step()
        if (epoch % 20 == 0 or epoch == epochs) and (value := scored(held)) > best["validation"]:
            kept = {name: {n: p.detach().clone() for n, p in params.items()} for name, params in theta.items()}
            best = {"epoch": epoch, "validation": value}
    last, theta = both(), kept
    return {"last": last, "best": best | both()}


def table(told: dict) -> str:
    head = ("s", "training, last epoch", "test, last epoch", "test less that of s = 0", "test, best epoch",
            "test less that of s = 0")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    pm = lambda pair: f"{pair[0]:.2f} ± {pair[1]:.2f}"
    for s, runs in told["runs"].items():
        cells = [s]
        for when, parts in (("last", ("training", "test")), ("best", ("test",))):
            cells += [pm(interval([r[when][part] for r in runs])) for part in parts]
            both = zip(runs, told["runs"]["0.0"], strict=True)
            cells += [pm(interval([a[when]["test"] - b[when]["test"] for a, b in both])) if s != "0.0" else ""]
        lines.append(f"| {' | '.join(cells)} |")
    best = sorted(r["best"]["epoch"] for runs in told["runs"].values() for r in runs)
    about = (f"Nats an example, {told['examples']} training drawings, {len(runs)} seeds, {told['epochs']} epochs, of "
             f"which the best were {best[0]} to {best[-1]}")  # fmt: skip
    made = f"`{told['command']}`; {told['machine']['cpu']}, {told['seconds']:.0f} s."
    return "\n".join([*lines, "", f"{about}; {made}"]) + "\n"


def run(smooth: float, seed: int, **given) -> dict | None:
    """`train`, in a process of its own."""
    torch.set_num_threads(1)
    found = train(smooth=smooth, seed=seed, **given)
    print(f"seed {seed}, s = {smooth}: {found}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--out", default="results/inference.json")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        page = ROOT / "docs" / "learners" / "inference.md"
        text = page.read_text()
        for mark, name in (("smooth", "inference"), ("smooth-long", "inference-long")):
            path = ROOT / "results" / f"{name}.json"
            text = filled(text, mark, table(json.loads(path.read_text())) if path.exists() else "Not measured.\n",
                          page.name)  # fmt: skip
        page.write_text(text)
        return
    pool, began = ml.tasks.omniglot(rotations=None), time.time()
    given = {"held": some(pool.val, 500, 0), "test": some(pool.test, 1000, 0), "epochs": args.epochs,
             "until": began + args.seconds}  # fmt: skip
    every = [partial(run, s, seed, x=some(pool.train, args.examples, seed), **given)
             for seed in range(args.seeds) for s in SMOOTH]  # fmt: skip
    if args.jobs == 1:
        found = [one() for one in every]
    else:
        with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as jobs:
            found = [one.result() for one in [jobs.submit(one) for one in every]]
    whole = [part for i in range(0, len(every), len(SMOOTH)) if None not in (part := found[i : i + len(SMOOTH)])]
    if not whole:
        raise SystemExit(f"no seed has all of {SMOOTH} after {args.seconds:g} s")
    runs = {str(s): [part[i] for part in whole] for i, s in enumerate(SMOOTH)}
    told = {
        "command": "python benchmarks/inference.py" + "".join(f" --{n} {getattr(args, n)}" for n in WORDS)
        + ("" if args.out == "results/inference.json" else f" --out results/{Path(args.out).name}"),
        "examples": args.examples, "epochs": args.epochs, "seconds": time.time() - began, "runs": runs,
        "machine": machine(), "versions": versions(),
    }  # fmt: skip
    Path(args.out).write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
