"""What a summary of a distribution is worth: probes at unseen angles in pairs, and posteriors that are known.

    python benchmarks/metavae.py RUN ...          runs of metavae-*-rotated-mnist; some minutes each on one core
    python benchmarks/metavae.py --families       two minutes on one core

RUN ...: a logistic regression learns from 10 and 100 labels of each digit at each of the thirteen unseen angles what a
run sees in pictures, and is tested on 50 others of each; the same of raw pixels, and of their first 40 principal
components, learned from the pictures of the training angles. All meet the same pictures, so the first run is compared
with each other row in pairs, angle by angle. --families: x = a z + noise with z ~ N(0, 1), of a slope a of its own for
each distribution (and log-normal x, by their logarithms, are the same): the mean squared distance of f(x) from
the mean of the closed posterior, on slopes that no training had; with a summary, without, and of no network (0, the
mean of the prior). Decoders may take z for -z, so the better sign of all of f counts.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch

import metaloop as ml
from metaloop.core import Data, Task
from metaloop.engine.run import machine, versions
from metaloop.recipes.metavae import probe_of

ROOT = Path(__file__).resolve().parent.parent
SLOPES, UNSEEN = torch.linspace(0.25, 3.0, 12), torch.linspace(0.375, 2.875, 6)  # in the middle between two
NOISE, DRAWS, STEPS = 0.5, 30, 3000


def row(score: ml.Score) -> dict:
    return {"mean": 100 * score.mean, "ci95": 100 * score.ci95, "each": (100 * score.per_task).tolist()}


def components(pool, n: int = 40):
    """f(x) of x's first principal components."""
    x = pool.train.sample(tasks=5, ways=10, shots=1, queries=100, generator=torch.Generator().manual_seed(0)).query.x
    x = x.flatten(0, 1).flatten(1)
    mean, V = x.mean(0), torch.pca_lowrank(x, n, niter=4)[2]

    @ml.predictor
    class Turned:
        mean: torch.Tensor
        V: torch.Tensor

        def __call__(self, x):
            return (x.flatten(1) - self.mean) @ self.V

    return lambda theta, S: Turned(mean, V)


def of_runs(args) -> dict:
    from dataclasses import replace

    runs = [ml.open_run(folder) for folder in args.runs]
    pool, rows, scores = ml.tasks.rotated_mnist(), [], {}
    for labels in (100, 10):
        tested = {"tasks": 13, "ways": 10, "shots": 1, "queries": labels + 50, "metric": probe_of(labels), "seed": 0}
        others = {f"{run.info['recipe']}, seed {run.info['seed']}": (run.learner, run.theta) for run in runs}
        raw = next(r.learner for r in runs[0].plan.rows if r.label.endswith("pixels"))
        others["pixels"] = (raw, runs[0].theta)
        others["40 components of pixels"] = (replace(raw, adapt=components(pool)), runs[0].theta)
        for name, (learner, theta) in others.items():
            scores[labels, name] = ml.evaluate(learner, theta, pool, **tested)
            first = scores[labels, next(iter(others))]
            told = {"row": name, "labels": labels, **row(scores[labels, name])}
            told |= {"first - this": row(first - scores[labels, name])}
            rows.append(told)
            print(f"{name}, {labels} labels: {told['mean']:.2f} %", flush=True)
    about = [{k: run.info[k] for k in ("recipe", "budget", "steps", "seed")} for run in runs]
    return {"runs": about, "angles": list(pool.test.angles), "rows": rows}


class Known(ml.nn.Gaussian):
    """A mean, and the noise that there is. Were it learned, x would tell a^2 + noise^2 alone, and of z nothing sure."""

    @classmethod
    def of(cls, out):
        return cls(out, torch.full_like(out, 2 * math.log(NOISE)))


class Families(ml.tasks.Pool):
    """x = a z + noise of a slope of its own in each task; y of the support set is the slope's place, that of the query
    set the mean of z's posterior."""

    name, target, shape, device = "families", ml.tasks.sinusoid().target, (1,), torch.device("cpu")

    def __init__(self, slopes):
        self.slopes = slopes

    def sample(self, tasks=1, ways=1, shots=1, queries=15, generator=None) -> Task:
        which = torch.randint(len(self.slopes), (tasks,), generator=generator)
        a, parts = self.slopes[which][:, None, None], []
        for n in (shots, queries):
            z, noise = torch.randn(2, tasks, n, 1, generator=generator)
            x = a * z + NOISE * noise
            parts.append((x, a * x / (a**2 + NOISE**2)))
        return Task(Data(parts[0][0], which[:, None].expand(-1, shots)), Data(*parts[1]))

    def to(self, device) -> "Families":
        return self


def of_families(args) -> dict:
    rows, mlp, f = [], ml.nn.mlp, ml.functional
    dealt = Families(UNSEEN).sample(500, 1, DRAWS, 50, torch.Generator().manual_seed(10**6))
    y = dealt.query.y
    rows.append({"row": "0, the mean of the prior", "distance": float(y.square().mean())})
    for seed in range(args.seeds):
        for name, summary in (("with a summary", f(mlp((1, 32, 32, 4)))), ("without a summary", None)):
            encoder = f(mlp((1 + 4 * (summary is not None), 32, 32, 2)))
            how = {"distributions": len(SLOPES), "likelihood": Known}
            learner = ml.metavae(summary, encoder, f(torch.nn.Linear(1, 1)), **how)
            began = time.process_time()
            run = ml.fit(
                learner, Families(SLOPES), steps=args.steps, tasks=16, ways=1, shots=DRAWS, queries=20, seed=seed,
                optimizer=lambda p: torch.optim.Adam(p, lr=3e-3), progress=False, validate_every=None, device="cpu",
            )  # fmt: skip
            with torch.no_grad():
                said = torch.stack([
                    learner.adapt(run.theta, Data(x, k))(q)
                    for x, k, q in zip(*dealt.support, dealt.query.x, strict=True)
                ])  # fmt: skip
            distance = min(float((sign * said - y).square().mean()) for sign in (1, -1))
            rows.append({
                "row": name, "seed": seed, "steps": args.steps, "distance": distance,
                "cpu seconds": round(time.process_time() - began, 1),
            })  # fmt: skip
            print(f"{name}, seed {seed}: {distance:.4f}", flush=True)
    return {"slopes": SLOPES.tolist(), "unseen": UNSEEN.tolist(), "noise": NOISE, "draws": DRAWS, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--families", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "metavae.json")
    args = parser.parse_args()
    if not args.runs and not args.families:
        parser.error("give runs, or --families.")
    torch.set_num_threads(1)
    name, told = ("families", of_families(args)) if args.families else ("angles", of_runs(args))
    before = json.loads(args.out.read_text()) if args.out.exists() else {}
    about = {"machine": machine(), "versions": versions()}
    args.out.write_text(json.dumps({**before, **about, name: told}, indent=1) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
