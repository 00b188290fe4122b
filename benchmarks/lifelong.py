"""What is forgotten in a life through levels: plain training, GEM and replay of the same memory; wider networks; OML.

    python benchmarks/lifelong.py copy [--seeds 5] [--out results/lifelong.json]        about ten minutes a seed
    python benchmarks/lifelong.py recall [--seeds 5]                                    about ten minutes a seed
    python benchmarks/lifelong.py oml [--seeds 5]                                       about ten minutes a seed

copy, recall: for each seed and method an LSTM of 64 units lives through `copy_levels` or `recall_levels`; where a level
is not passed it is widened to 128 (`nn.wider`) and tries that level once more, from there on. Beside it an LSTM of 128
from the start, which nothing widens. Forgetting is compared in pairs of one seed, over the levels that all three
methods lived through. oml: its representation is learned on streams of the levels of `recall_levels` with other orders
of bits; then its last layer alone goes once through 64 examples of each level of the life's own, batch after batch.
What is named is measured anew and takes its place in the file beside what was there.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from told import interval
from torch import Tensor, nn

import metaloop as ml
from metaloop import outer
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import generator
from metaloop.targets import NUMBERS, exact

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("plain", "gem", "replay")
POOLS = {"copy": (ml.tasks.copy_levels, 7, 6), "recall": (ml.tasks.recall_levels, 8, 6)}
LIFE = {
    "goal": 0.8, "margin": 0.5, "tasks": 32, "remembered": 64, "clip": 10.0, "chunk": 32, "progress": False,
    "device": "cpu",
}  # fmt: skip
STREAM, BATCH = 64, 8  # examples of a level in OML's stream, and of one online step


def life(problem: str, method: str, hidden: int, seed: int, updates: int, theta=None, first: int = 0) -> ml.Run:
    make, size, bits = POOLS[problem]
    learner = ml.ntm(*ml.functional(ml.nn.Recurrent(size, hidden, bits)))
    if theta is not None:
        learner = replace(learner, init=lambda seed: theta)
    adam = lambda p: torch.optim.Adam(p, lr=3e-3)
    how = {"method": method, "updates": updates, "first": first, "seed": seed}
    return ml.episodic_memory(learner, make(), optimizer=adam, **how, **LIFE)


def forgetting(levels: list[dict]) -> float | None:
    """None of one level."""
    return outer.forgetting(levels) if len(levels) > 1 else None


def passed(levels: list[dict]) -> int:
    return sum(level["passed"] for level in levels)


def lives(problem: str, seed: int, updates: int) -> dict:
    """Of each method: the levels as the narrow network lived them, then the wider one; and the large one from the
    start."""
    told = {}
    for method in METHODS:
        began = time.process_time()
        run = life(problem, method, 64, seed, updates)
        levels, row = run.info["levels"], {}
        row = {"levels": levels, "passed": passed(levels), "forgetting": forgetting(levels)}
        if not levels[-1]["passed"]:
            theta, _ = ml.nn.wider(run.theta, 128, seed=seed)
            wide = life(problem, method, 128, seed, updates, theta, first=len(levels) - 1).info["levels"]
            row |= {"widened": wide, "passed when widened": passed(levels) + passed(wide)}
        row["cpu seconds"] = round(time.process_time() - began, 1)
        told[method] = row
        print(f"{problem}, seed {seed}, {method}: {row['passed']} levels, then {row.get('passed when widened')}; "
              f"forgetting {row['forgetting']}", flush=True)  # fmt: skip
    large = life(problem, "plain", 128, seed, updates).info["levels"]
    told["128 from the start"] = {"levels": large, "passed": passed(large), "forgetting": forgetting(large)}
    common = min(len(told[method]["levels"]) for method in METHODS)
    told["forgetting over"] = common
    for method in METHODS:
        told[method]["forgetting in common"] = forgetting(told[method]["levels"][:common])
    return told


def summary(seeds: dict[str, dict]) -> dict:
    def paired(key: str, a: str, b: str) -> list[float]:
        """Mean and interval over seeds. Lives of one level forget nothing, and are left out."""
        values = [s[a][key] - s[b][key] for s in seeds.values() if None not in (s[a][key], s[b][key])]
        return interval(values) if len(values) > 1 else values

    gained = [s[m]["passed when widened"] - s[m]["passed"] for s in seeds.values() for m in METHODS
              if "widened" in s[m]]  # fmt: skip
    return {
        "plain - gem, forgetting in common": paired("forgetting in common", "plain", "gem"),
        "replay - gem, forgetting in common": paired("forgetting in common", "replay", "gem"),
        "gem - plain, levels passed": paired("passed", "gem", "plain"),
        "levels gained by widening, each life that ended early": gained,
    }


class Streams(ml.tasks.Pool):
    """`recall_levels` one level after another, its examples padded in front to one length; queries are of all levels.
    orders: fixed ones [levels, bits], or None for new ones in each task."""

    name, target, device = "recall_streams", NUMBERS, torch.device("cpu")

    def __init__(self, order: Tensor | None = None):
        self.life, self.order = ml.tasks.recall_levels(), order
        self.shape = self.deal(0, 1, torch.Generator()).x.shape[1:]

    def deal(self, k: int, n: int, g: torch.Generator, order: Tensor | None = None) -> ml.Data:
        (said, _), (blank, y) = self.life.pool.sample(tasks=n, shots=self.life.shots[k], generator=g)
        longest = (self.life.shots[-1] + 2) * (blank.shape[1] + 1) + 1
        x = torch.cat([F.pad(said, (0, 0, longest - said.shape[1], 0)), blank], 1)
        return ml.Data(x, y if order is None else y[..., order])

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> ml.Task:
        g = generator or torch.Generator()
        dealt = []
        for _ in range(tasks):
            orders = self.order
            if orders is None:
                orders = torch.stack([torch.randperm(6, generator=g) for _ in range(self.life.levels)])
            parts = [[self.deal(k, n, g, orders[k]) for k in range(self.life.levels)] for n in (shots, queries)]
            dealt.append([torch.cat(t) for part in parts for t in zip(*part, strict=True)])
        x, y, q, z = (torch.stack(t) for t in zip(*dealt, strict=True))
        return ml.Task(ml.Data(x, y), ml.Data(q, z))

    def to(self, device) -> "Streams":
        return self


class Reading(nn.Module):
    """x [n, T, size] -> what an LSTM holds at the last two steps, [n, 2, hidden]."""

    def __init__(self, size: int, hidden: int):
        super().__init__()
        self.lstm = ml.nn.LSTM(size, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.movedim(1, 0))[0][-2:].movedim(0, 1)


def of_oml(seed: int, steps: int) -> dict:
    began = time.process_time()
    nets = (*ml.functional(Reading(8, 64)), *ml.functional(nn.Linear(64, 6)))
    learner = ml.oml(*nets, inner_lr=0.5, batch=BATCH, loss=F.binary_cross_entropy_with_logits)
    adam = lambda p: torch.optim.Adam(p, lr=3e-3)
    how = {"tasks": 4, "ways": 1, "shots": 16, "queries": 16, "clip": 10.0, "seed": seed, "device": "cpu"}
    run = ml.fit(learner, Streams(), steps=steps, optimizer=adam, progress=False, validate_every=None, **how)
    order = ml.tasks.recall_levels().order
    pool, theta, levels = Streams(order), run.theta, []
    for k in range(pool.life.levels):
        f = learner.adapt(theta, pool.deal(k, STREAM, generator(seed, f"level {k}", 0), order[k]))
        theta, scores = {"representation": f.theta, "prediction": f.W}, []
        for j in range(pool.life.levels):
            x, y = pool.deal(j, 200, generator(seed, "test", j), order[j])
            scores.append(exact(f(x).sigmoid(), y).mean().item())
        levels.append({"level": k, "scores": scores})
    row = {"levels": levels, "forgetting": forgetting(levels), "steps": steps,
           "cpu seconds": round(time.process_time() - began, 1)}  # fmt: skip
    print(f"oml, seed {seed}: forgetting {row['forgetting']}, in the end {levels[-1]['scores']}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of copy, recall, oml; all unless given")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=3000, help="steps on a level at most (3000)")
    parser.add_argument("--steps", type=int, default=3000, help="of OML's meta-training (3000)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "lifelong.json")
    options = parser.parse_args()
    if unknown := set(options.names) - {*POOLS, "oml"}:
        parser.error(f"there is no {', '.join(sorted(unknown))}. There are: copy, recall, oml.")
    torch.set_num_threads(1)
    for name in options.names or (*POOLS, "oml"):
        seeds = {}
        for seed in range(options.seeds):
            one = of_oml(seed, options.steps) if name == "oml" else lives(name, seed, options.updates)
            seeds[str(seed)] = one
            told = {"command": f"python benchmarks/lifelong.py {name} --seeds {options.seeds}", "seeds": seeds}
            told |= {} if name == "oml" else {"updates": options.updates, "summary": summary(seeds)}
            before = json.loads(options.out.read_text()) if options.out.exists() else {}
            about = {"machine": machine(), "versions": versions()}
            options.out.write_text(json.dumps({**before, **about, name: told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
