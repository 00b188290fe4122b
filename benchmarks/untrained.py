"""What infinitely wide networks know of drawings untrained, and whether their probabilities mean what they say.

    python benchmarks/untrained.py [--tasks 200] [--out results/untrained-kernels.json]

5-way 1-shot tasks of Omniglot's test characters at 14 x 14 pixels, 5 queries of each class, the same for all. Written
for each kernel: accuracy and, beside it, the mean probability of the class that is chosen (equal if calibrated), both
in per cent; the loss in nats for each query; all with 95 % intervals over tasks; and the expected calibration error
over 10 bins of all queries, in per cent, beside that of as many labels drawn from the probabilities themselves (mean
of 200 draws). As a comparison, the posterior's means as logits, which say too little.
"""

import argparse
import json
from pathlib import Path

import torch
from told import interval
from torch import Tensor

import metaloop as ml
from metaloop.engine.run import machine, versions
from metaloop.engine.seeds import generator
from metaloop.recipes import data
from metaloop.recipes.gaussian_process import KINDS

BINS = 10


def calibration_error(p: Tensor, right: Tensor) -> float:
    """Of the chosen classes' probabilities [n] and whether they are right [n]: the mean over bins of how far they are
    apart, by how many are in each."""
    of = (p * BINS).long().clamp_max(BINS - 1)
    apart = torch.zeros(BINS, dtype=torch.float64).index_add(0, of, (p - right).double())
    return (apart.abs().sum() / len(p)).item()


def told(ln_p: Tensor, y: Tensor) -> dict:
    """Of log-probabilities [tasks, n, ways] and labels [tasks, n]."""
    p, choice = ln_p.exp().max(-1)
    right = (choice == y).double()
    nats = -ln_p.gather(-1, y[..., None])[..., 0].mean(1)
    g = torch.Generator().manual_seed(0)
    flat, drawn = ln_p.exp().flatten(0, 1), []
    for _ in range(200):
        again = torch.multinomial(flat, 1, generator=g)[:, 0]
        drawn.append(calibration_error(p.flatten(), (again == choice.flatten()).double()))
    return {
        "accuracy": interval(100 * right.mean(1)), "mean probability": interval(100 * p.mean(1)),
        "nats": interval(nats),
        "calibration error": 100 * calibration_error(p.flatten(), right.flatten()),
        "calibration error, of its own draws": 100 * sum(drawn) / len(drawn),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="results/untrained-kernels.json")
    args = parser.parse_args()
    pool, found = data.tiny_characters().test, {}
    learners = {words: ml.gaussian_process(ml.nn.infinite(kind), ways=5) for kind, words in KINDS.items()}
    answers, as_logits, labels = {w: [] for w in learners}, {w: [] for w in learners}, []
    for i in range(args.tasks):
        task = pool.sample(tasks=1, ways=5, shots=1, queries=5, generator=generator(args.seed, "untrained", i))
        labels.append(task.query.y[0])
        for words, learner in learners.items():
            f = learner.adapt(learner.init(0), ml.Data(task.support.x[0], task.support.y[0]))
            m, deviation = f.moments(task.query.x[0])
            answers[words].append((m / deviation.square()[:, None]).log_softmax(-1))  # f's answer
            as_logits[words].append(m.log_softmax(-1))
    y = torch.stack(labels)
    for words in learners:
        found[words] = told(torch.stack(answers[words]), y)
        found[words]["means as logits"] = told(torch.stack(as_logits[words]), y)
        print(words, found[words], flush=True)
    result = {
        "command": f"python benchmarks/untrained.py --tasks {args.tasks} --seed {args.seed}", "tasks": args.tasks,
        "kernels": found, "machine": machine(), "versions": versions(),
    }  # fmt: skip
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
