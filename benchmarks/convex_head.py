"""Heads on one encoder, trained for equal time: solved with a certificate, by descent, in closed form, and none.

    python benchmarks/convex_head.py [--seconds 240] [--seeds 0] [--out results/convex-heads.json]

    convex_head     softmax regression by 20 steps of the contracted flow
    anil            5 steps of descent on the head alone, from a learned one (maml(adapts="head"))
    ridge           ridge regression on one-hot labels in closed form, scale and strength learned (Bertinetto et al.,
                    ICLR 2019, arXiv:1805.08136; a head of MetaOptNet's, Lee et al., CVPR 2019, arXiv:1904.03758)
    protonet        no head

5-way 5-shot tasks of Omniglot's training characters, one a step, Adam 1e-3, the same network (conv4, `running`
norms), each trained for as many steps as take the processor `seconds`, by 100 that are timed before. Written: steps,
the seconds that they took, accuracy on the same 600 test tasks and its paired difference to convex_head, in per cent,
with 95 % intervals over tasks; of convex_head also the gap at test, as a share of the gap at the start: median and 90 %
quantile.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

import metaloop as ml
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import generator
from metaloop.learners import convex_head as head
from metaloop.nn import condition, membership, population
from metaloop.objectives import query_loss
from metaloop.recipes import data

WAYS, SHOTS, QUERIES = 5, 5, 5
TIMED = 100  # steps, before the training


@ml.predictor
class Ridge:
    """f(x) = scale X'z(x)."""

    theta: dict[str, Tensor]
    X: Tensor
    scale: Tensor
    embed: object = ml.static()

    def __call__(self, x: Tensor) -> Tensor:
        return self.scale * head.scaled(self.embed(self.theta, x)) @ self.X


def ridge(embed, init) -> ml.Learner:
    """X = A'(AA' + l I)^-1 Y."""

    def start(seed: int):
        return {"embed": init(seed), "strength": torch.tensor(0.1).log(), "scale": torch.tensor(5.0).log()}

    def adapt(theta, S):
        A, Y = head.scaled(embed(theta["embed"], S.x)), membership(S.y, WAYS)
        I = torch.eye(len(A), device=A.device, dtype=A.dtype)
        X = A.mT @ torch.linalg.solve(A @ A.mT + theta["strength"].exp() * I, Y.to(A))
        net, params = condition(embed, theta["embed"], S.x)
        return Ridge(params, X, theta["scale"].exp(), net)

    loss = query_loss(torch.nn.functional.cross_entropy)
    return ml.Learner(start, adapt, loss, differentiates=False, statistics=population(embed, "embed"))


def heads(shape) -> dict:
    """Each head's learner in training and at test."""

    def pair(make, **options):
        net, init = ml.functional(ml.nn.conv4(shape, norm_policy="running", **options))
        return make(net, init), make(net.eval(), init)

    return {
        "convex_head": pair(lambda net, init: ml.convex_head(net, init, ways=WAYS)),
        "anil": pair(lambda net, init: ml.maml(net, init, inner_lr=0.1, inner_steps=5, adapts="head"), out=WAYS),
        "ridge": pair(ridge),
        "protonet": pair(lambda net, init: ml.protonet(net, init, ways=WAYS)),
    }


def compare(pool, seconds: float, tasks: int, seed: int) -> dict:
    """The heads' rows, with a random seed of training."""
    episode = {"ways": WAYS, "shots": SHOTS, "queries": QUERIES}
    scores, found = {}, {}
    for name, (learner, at_test) in heads(pool.shape).items():
        how = {"tasks": 1, **episode, "seed": seed, "progress": False}
        steps = max(1, round(seconds / taken(learner, pool, steps=TIMED, **how)[1]))
        run, each = taken(learner, pool, steps=steps, **how)
        scores[name] = ml.evaluate(at_test, run.theta, pool, **{**episode, "queries": 15}, tasks=tasks)
        found[name] = {"steps": steps, "seconds": round(steps * each, 1), "accuracy": row(scores[name])}
        if name == "convex_head":
            found[name] |= {"strength": run.theta["strength"].exp().item(), "gap": gaps(at_test, run.theta, pool, seed)}
        print(f"{name}: {found[name]}", flush=True)
    for name in scores:
        if name != "convex_head":
            found[name]["difference to convex_head"] = row(scores[name] - scores["convex_head"])
    return found


def taken(*given, **how) -> tuple[ml.Run, float]:
    """A run, and the processor's seconds that each of its steps took, the first ones left out: what else runs on the
    machine takes none of them, and neither do the norms' statistics at the end."""
    at: dict[int, float] = {}
    run = ml.fit(*given, on_log=lambda step, line: at.update({step: time.process_time()}), **how)
    first, last = min(step for step in at if step > run.step // 10), max(at)
    return run, (at[last] - at[first]) / (last - first)


def gaps(learner: ml.Learner, theta, pool, seed: int) -> dict[str, float]:
    """Of 100 test tasks: the gap of f's head as a share of that of no head at all."""
    found = []
    for i in range(100):
        task = pool.test.sample(tasks=1, ways=WAYS, shots=SHOTS, queries=1, generator=generator(seed, "gap", i))
        S = ml.Data(task.support.x[0], task.support.y[0])
        with torch.no_grad():
            f = learner.adapt(theta, S)
            A, Y = head.scaled(f.embed(f.theta, S.x)), membership(S.y, WAYS).float()
            first = head.gap(A, Y, theta["strength"].exp(), torch.zeros_like(f.X), 1 / WAYS - Y)
        found.append((f.gap / first).item())
    share = torch.tensor(found)
    return {"median": share.median().item(), "90 %": share.quantile(0.9).item()}


def row(score) -> dict[str, float]:
    """In per cent."""
    return {"mean": 100 * score.mean, "ci95": 100 * score.ci95}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", default="results/convex-heads.json")
    args = parser.parse_args()
    pool = data.vinyals()
    result = {
        "command": f"python benchmarks/convex_head.py --seconds {args.seconds:g} --tasks {args.tasks} "
        f"--seeds {' '.join(map(str, args.seeds))}",
        "seeds": {seed: compare(pool, args.seconds, args.tasks, seed) for seed in args.seeds},
        "machine": machine(), "versions": versions(),
    }  # fmt: skip
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
