"""How near a network fitted to a prior comes to the posterior, where the posterior is known in closed form.

    python benchmarks/posterior.py        writes results/posterior.json; some minutes on one thread

Clouds of points (`ml.tasks.gaussians`): m_k ~ N(0, s^2 I), x ~ N(m_k, n^2 I), so that with c rows of class k in S, of
mean a_k, and v = 1 / (1 / s^2 + c / n^2),

    p(y = k | x, S)  is in proportion to  N(x; v c a_k / n^2, (n^2 + v) I)

for classes with equally many rows. The mean of -log p(y | x, S) over tasks is the least that any F can have; what a
network has more is its mean KL divergence from the posterior, in nats. It is told S and x in units of S, so that it
must guess how large n is.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F

import metaloop as ml

ROOT = Path(__file__).parent.parent
DIM, SPREAD, NOISE, WAYS, SHOTS = 2, 2.0, 0.5, 3, 3


def posterior(S, x):
    """log p(y | x, S) [tasks, n, ways] of a batch of tasks."""
    member = F.one_hot(S.y, WAYS).float()  # [tasks, m, ways]
    count = member.sum(1)[..., None]
    v = 1 / (1 / SPREAD**2 + count / NOISE**2)
    mean = v * (member.mT @ S.x) / NOISE**2
    d = (x[:, :, None] - mean[:, None]).square().sum(-1)
    variance = (NOISE**2 + v)[:, None, :, 0]
    return (-d / (2 * variance) - DIM / 2 * variance.log()).log_softmax(-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--tasks", type=int, default=2000, help="to measure on")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "posterior.json")
    options = parser.parse_args()
    start = time.process_time()
    pool = ml.tasks.gaussians(dim=DIM, spread=SPREAD, noise=NOISE)
    S, Q = pool.sample(options.tasks, WAYS, SHOTS, 10, torch.Generator().manual_seed(12345))
    least = posterior(S, Q.x)
    nats = lambda scores: float(F.cross_entropy(scores.flatten(0, 1), Q.y.flatten()))
    kl = lambda scores: float((least.exp() * (least - scores.log_softmax(-1))).sum(-1).mean())
    told = {"posterior, nats": nats(least)}
    for head in ("attention", "linear"):
        net, init = ml.functional(ml.nn.InContext(DIM, WAYS, dim=32, layers=3, heads=4, head=head))
        learner = ml.prior_fitted(net, init, ways=WAYS)
        run = ml.fit(
            learner, pool, steps=options.steps, tasks=32, ways=WAYS, shots=SHOTS, queries=10, progress=False, clip=1.0,
            optimizer=lambda leaves: torch.optim.Adam(leaves, lr=2e-3),
            schedule=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 2e-3, total_steps=options.steps, pct_start=0.1),
        )  # fmt: skip
        for when, theta in (("at the start", learner.init(0)), (f"after {options.steps} steps", run.theta)):
            with torch.no_grad():
                scores = torch.func.vmap(lambda S, x: learner.adapt(theta, S)(x))(S, Q.x)  # noqa: B023
            told[f"{head}, {when}"] = {"nats": nats(scores), "KL from the posterior": kl(scores)}
            print(head, when, told[f"{head}, {when}"], flush=True)
    about = {"metaloop": ml.__version__, "torch": torch.__version__, "cpu seconds": round(time.process_time() - start)}
    options.out.write_text(json.dumps({"rows": told, "tasks": options.tasks, "about": about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
