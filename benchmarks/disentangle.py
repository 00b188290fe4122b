"""What decides how disentangled a code comes out, and does a disentangled code need fewer shots to learn a factor?

    python benchmarks/disentangle.py [--seeds 5] [--steps 4000]    60 models; goes on where it was stopped
    python benchmarks/disentangle.py --table    writes docs/disentanglement.md's table and figure from the results

Six objectives (`ml.objectives`: beta_vae, annealed, factor_vae, tc_vae, dip_vae and with second=True), two strengths of
each, `--seeds` seeds. Perceptrons 256-128-128-2*6 and 6-128-128-256, pixels as means of Bernoulli's, Adam at 2e-3,
batches of 64 of the 1152 sprites, all of which are seen in training. Codes are q's means. The capacity of `annealed`
grows over the first half of the steps.

Shares of variance: of a measure over all models, how much the objective explains, and how much objective and strength
together: R^2 of group means; the rest is the seed's. Intervals: 95 % of 1000 draws of models with replacement within
each setting, whose distances from the setting's mean are made longer by sqrt(n / (n - 1)), as n of n drawn are nearer
to their own mean; 500 draws, as they are, for correlations. Such shares are not 0 for labels that mean nothing: beside
them, their mean for shuffled labels.

Shots: K pictures of each value of a factor (1, 2, 4 .. 64), probes: the nearest of them, to which no axis is special,
and 20 extremely random trees, which split along axes; judged on 200 other pictures, 3 draws; codes in use (a mean
variance of q below 0.9), divided by their deviations. Shots needed: the least K, on a line in log2 K between those
tried, at which a factor is right half way from chance to always; 128 where that is never. Answered thrice, as log2:
(a) rank correlation with each measure over all models; (b) the same within settings, medians taken off; (c) in pairs,
the same codes turned by a random rotation, which keeps all that they tell and takes the axes away. Below 0 in (a, b):
more disentangled, fewer shots; above 0 in (c): the rotation costs shots.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from told import filled, interval
from torch import Tensor

import metaloop as ml
from metaloop.engine.run import machine, versions
from metaloop.objectives import (
    annealed,
    beta_vae,
    dip_vae,
    elbo,
    factor_vae,
    gaussian_tc,
    tc_vae,
    total_correlation,
)
from metaloop.report.disentanglement import measures

ROOT = Path(__file__).resolve().parent.parent
LATENTS, HIDDEN, BATCH, RATE, MOST = 6, 128, 64, 2e-3, 128
SHOTS, DRAWS, ASKED = (1, 2, 4, 8, 16, 32, 64), 3, 200
MEASURES = ("MIG", "SAP", "DCI-D", "DCI-C", "FactorVAE", "beta-VAE")

# name -> strengths; what is added, of q, the critic, the strength and the share of training that is over
OBJECTIVES: dict[str, tuple[tuple[float, ...], Callable[[Any, Any, float, float], Tensor]]] = {
    "beta-VAE": ((1, 4), lambda q, critic, s, t: beta_vae(q, s)),
    "AnnealedVAE": ((4, 8), lambda q, critic, s, t: annealed(q, 10, s * min(1, 2 * t))),
    "FactorVAE": ((5, 30), lambda q, critic, s, t: factor_vae(q, critic, s)),
    "beta-TCVAE": ((2, 5), lambda q, critic, s, t: tc_vae(q, s)),
    "DIP-VAE-I": ((2, 20), lambda q, critic, s, t: dip_vae(q, s, 10 * s)),
    "DIP-VAE-II": ((2, 20), lambda q, critic, s, t: dip_vae(q, s, s, second=True)),
}


def train(x: Tensor, name: str, strength: float, seed: int, steps: int):
    """The q of all pictures, and -ELBO in nats a picture."""
    torch.manual_seed(1000 + seed)
    sizes = {"encoder": (256, HIDDEN, HIDDEN, 2 * LATENTS), "decoder": (LATENTS, HIDDEN, HIDDEN, 256),
             "critic": (LATENTS, 64, 64, 1)}  # fmt: skip
    encoder, decoder, critic = (ml.nn.mlp(s) for s in sizes.values())
    adam = torch.optim.Adam([p for m in (encoder, decoder, critic) for p in m.parameters()], lr=RATE)
    extra = OBJECTIVES[name][1]
    for step in range(steps):
        batch = x[torch.randint(len(x), (BATCH,))]
        out = encoder(batch)
        bound = elbo(lambda _: out, decoder, batch)  # noqa: B023
        adam.zero_grad()
        (extra(ml.nn.Gaussian.of(out), critic, strength, step / steps) - bound.mean()).backward()
        adam.step()
    with torch.no_grad():
        return ml.nn.Gaussian.of(encoder(x)), -elbo(encoder, decoder, x).mean().item()


def by_nearest(S: Tensor, y: Tensor, Q: Tensor) -> Tensor:
    return y[torch.cdist(Q, S).argmin(1)]


def by_trees(S: Tensor, y: Tensor, Q: Tensor) -> Tensor:
    from sklearn import ensemble

    make: Any = ensemble.ExtraTreesClassifier
    trees = make(20, max_features=None, random_state=0, n_jobs=1)
    return torch.from_numpy(trees.fit(S.numpy(), y.numpy()).predict(Q.numpy()))


PROBES = {"nearest": by_nearest, "trees": by_trees}


def shots_needed(z: Tensor, v: Tensor, probe) -> dict[str, float]:
    """Of each factor: log2 of the shots at which it is right half way from chance to always."""
    z, found = z.double() / z.double().std(0).clamp_min(1e-9), {}
    for f, (name, n) in enumerate(ml.tasks.sprites().factors.items()):
        half, right = (1 + 1 / n) / 2, []
        for K in SHOTS:
            g, each = torch.Generator().manual_seed(K), []
            for _ in range(DRAWS):
                lot = torch.rand(len(z), generator=g)
                known = torch.cat([(lot + 2 * (v[:, f] == k)).topk(K).indices for k in range(n)])
                asked = lot.index_fill(0, known, -1).topk(ASKED).indices
                each.append((probe(z[known], v[known, f], z[asked]) == v[asked, f]).double().mean().item())
            right.append(sum(each) / DRAWS)
        found[name] = reached(right, half)
    return found


def reached(right: list[float], goal: float) -> float:
    """log2 of the shots at which `right`, at SHOTS, first is `goal`; on a line between; log2 MOST where it never is."""
    if right[0] >= goal:
        return 0.0
    for i in range(1, len(right)):
        if right[i] >= goal:
            low, high = np.log2(SHOTS[i - 1]), np.log2(SHOTS[i])
            return float(low + (high - low) * (goal - right[i - 1]) / (right[i] - right[i - 1]))
    return float(np.log2(MOST))


def judged(q, cost: float, v: Tensor, seed: int) -> dict:
    z = q.mean.double()
    variance = q.logvar.exp().mean(0)
    alive = z[:, (variance < 0.9) | (variance == variance.min())]
    n, g = alive.shape[1], torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(n, n, generator=g).double()).Q
    turned = (alive - alive.mean(0)) / alive.std(0).clamp_min(1e-9) @ turn
    shots = {
        name: {"own axes": shots_needed(alive, v, probe), "turned": shots_needed(turned, v, probe)}
        for name, probe in PROBES.items()
    }
    torch.manual_seed(seed)
    return measures(z, v) | {
        "-ELBO": cost, "KL": q.kl().mean().item(), "TC of draws": total_correlation(q, q.draw()).item(),
        "TC of means": gaussian_tc(alive).item() if n > 1 else 0.0, "codes in use": n,
        "log2 shots": shots,
    }  # fmt: skip


def r2(values: np.ndarray, groups: np.ndarray) -> float:
    within = sum(((values[groups == g] - values[groups == g].mean()) ** 2).sum() for g in np.unique(groups))
    return float(1 - within / ((values - values.mean()) ** 2).sum())


def ends(values) -> list[float]:
    return [float(e) for e in np.quantile(values, (0.025, 0.975))]


def shares(values: np.ndarray, objective: np.ndarray, setting: np.ndarray, draws: int = 1000) -> dict:
    """Each share: its value, the interval, and its mean for shuffled labels."""
    rng, told, places = np.random.default_rng(0), {}, [np.flatnonzero(setting == g) for g in np.unique(setting)]
    again = np.empty((draws, len(values)))
    for p in places:
        middle, longer = values[p].mean(), (len(p) / max(1, len(p) - 1)) ** 0.5
        again[:, p] = middle + longer * (rng.choice(values[p], (draws, len(p))) - middle)
    for name, groups in (("objective", objective), ("objective and strength", setting)):
        chance = np.mean([r2(values, rng.permutation(groups)) for _ in range(200)])
        told[name] = [r2(values, groups), *ends([r2(y, groups) for y in again]), float(chance)]
    rest = [1 - r2(y, setting) for y in again]
    told["seed"] = [1 - told["objective and strength"][0], *ends(rest), 1 - told["objective and strength"][3]]
    return told


def _again(setting: np.ndarray, rng) -> np.ndarray:
    """Models drawn with replacement within each setting."""
    places = [np.flatnonzero(setting == g) for g in np.unique(setting)]
    return np.concatenate([rng.choice(p, len(p)) for p in places])


def ranked(a: np.ndarray, b: np.ndarray, setting: np.ndarray, within: bool, draws: int = 500) -> list[float]:
    """Rank correlation, and its interval."""
    from scipy.stats import spearmanr

    if within:
        middle = lambda x: x - np.array([np.median(x[setting == g]) for g in setting])
        a, b = middle(a), middle(b)
    rng, rank = np.random.default_rng(0), lambda i: spearmanr(a[i], b[i])[0]
    of = lambda i: float(np.nan_to_num(rank(i)))
    return [of(np.arange(len(a))), *ends([of(_again(setting, rng)) for _ in range(draws)])]


def answered(models: list[dict]) -> dict:
    objective = np.array([m["objective"] for m in models])
    setting = np.array([f"{m['objective']} {m['strength']}" for m in models])
    column = lambda name: np.array([m[name] for m in models], dtype=float)
    log2 = lambda probe, axes: np.array([np.mean([*m["log2 shots"][probe][axes].values()]) for m in models])
    told: dict[str, Any] = {}
    told["shares of variance"] = {n: shares(column(n), objective, setting) for n in (*MEASURES, "-ELBO")}
    for probe in PROBES:
        own = log2(probe, "own axes")
        told[f"log2 shots, {probe}"] = {
            "mean": interval(own),
            "rank correlation": {n: ranked(column(n), own, setting, False) for n in (*MEASURES, "DCI-I", "-ELBO")},
            "within settings": {n: ranked(column(n), own, setting, True) for n in (*MEASURES, "DCI-I", "-ELBO")},
            "turned less own axes": interval(log2(probe, "turned") - own),
        }  # fmt: skip
    told["by setting"] = {
        g: {n: interval(column(n)[setting == g]) for n in ("MIG", "DCI-D", "TC of draws", "TC of means", "KL", "-ELBO")}
        for g in dict.fromkeys(setting.tolist())
    }  # fmt: skip
    return told


def table(told: dict) -> str:
    pm = lambda v: f"{v[0]:.2f} ± {v[1]:.2f}"
    to = lambda v: f"{v[0]:.2f} ({v[1]:.2f} to {v[2]:.2f})"
    a = told["answers"]
    lines = ["| share of variance | objective | objective and strength | seed |", "| --- " * 4 + "|"]
    for name, row in a["shares of variance"].items():
        lines.append(f"| {name} | " + " | ".join(f"{to(v)}, by chance {v[3]:.2f}" for v in row.values()) + " |")
    lines += ["", "| rank correlation with log2 shots | nearest | within settings | trees | within settings |"]
    lines += ["| --- " * 5 + "|"]
    both = [a[f"log2 shots, {probe}"] for probe in PROBES]
    for name in both[0]["rank correlation"]:
        cells = [to(one[kind][name]) for one in both for kind in ("rank correlation", "within settings")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    costs = ", ".join(f"{p} {pm(one['turned less own axes'])}" for p, one in zip(PROBES, both, strict=True))
    lines += ["", f"Codes turned by a rotation need more shots, in log2: {costs}.", ""]
    lines += ["![Shots that a factor needs beside MIG and DCI-D, a dot a model](disentanglement.png)", ""]
    lines += ["| setting | MIG | DCI-D | TC of draws | TC of means | KL | -ELBO |", "| --- " * 7 + "|"]
    for name, row in a["by setting"].items():
        lines.append(f"| {name} | {' | '.join(pm(v) for v in row.values())} |")
    seconds = sum(m["cpu seconds"] for m in told["models"])
    made = f"{len(told['models'])} models of {told['steps']} steps; `{told['command']}`; {told['machine']['cpu']}"
    return "\n".join([*lines, "", f"{made}, {seconds / 60:.0f} minutes of CPU."]) + "\n"


def figure(told: dict, path: Path) -> None:
    """Disentanglement against the shots that a factor needs, a dot a model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
    for axis, name in zip(axes, ("MIG", "DCI-D"), strict=True):
        for probe, mark in zip(PROBES, "o^", strict=True):
            mean = lambda m, probe=probe: np.mean([*m["log2 shots"][probe]["own axes"].values()])
            axis.scatter([m[name] for m in told["models"]], [2 ** mean(m) for m in told["models"]],
                         marker=mark, s=16, alpha=0.6, label=f"by {probe}")  # fmt: skip
        axis.set(xlabel=name, yscale="log")
        axis.set_yticks([8, 16, 32, 64], ["8", "16", "32", "64"])
        axis.minorticks_off()
    axes[0].set_ylabel("shots needed, mean over factors")
    axes[0].legend(frameon=False)
    drawn.tight_layout()
    drawn.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "disentangle.json")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        told, page = json.loads(args.out.read_text()), ROOT / "docs" / "disentanglement.md"
        page.write_text(filled(page.read_text(), "study", table(told), page.name))
        figure(told, ROOT / "docs" / "disentanglement.png")
        return
    pool = ml.tasks.sprites()
    x, v = pool.images.flatten(1).float() / 255, pool.values
    told = json.loads(args.out.read_text()) if args.out.exists() else {"models": [], "steps": args.steps}
    if told["steps"] != args.steps:
        parser.error(f"{args.out} holds models of {told['steps']} steps; give another --out.")
    told |= {"command": f"python benchmarks/disentangle.py --seeds {args.seeds} --steps {args.steps}",
             "machine": machine(), "versions": versions()}  # fmt: skip
    known = {(m["objective"], m["strength"], m["seed"]) for m in told["models"]}
    for seed in range(args.seeds):
        for name, (strengths, _) in OBJECTIVES.items():
            for strength in strengths:
                if (name, strength, seed) in known:
                    continue
                began = time.process_time()
                found = judged(*train(x, name, strength, seed, args.steps), v, seed)
                about = {"objective": name, "strength": strength, "seed": seed}
                told["models"].append(about | found | {"cpu seconds": round(time.process_time() - began, 1)})
                args.out.write_text(json.dumps(told, indent=1) + "\n")
                short = {k: round(m, 3) for k, m in told["models"][-1].items() if isinstance(m, float)}
                print(name, strength, seed, json.dumps(short), flush=True)
    told["answers"] = answered(told["models"])
    args.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
