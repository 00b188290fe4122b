"""Tasks from data of your own: a pool is a class that answers `sample`.

    python examples/own_pool.py

Each class is a machine, heard through noise: two tones at frequencies of its own. A task is to tell five machines apart
after hearing each twice. Where you have pictures instead, you need no class: `ml.tasks.folder` reads them, and
`ml.tasks.ClassPool` holds them.
"""

import math

import torch

import metaloop as ml


class Machines(ml.tasks.Pool):
    """A recording is 64 numbers: sin(a t + p) + sin(b t + q) + noise, with a, b the machine's, p, q new each time."""

    name, shape, device = "machines", (64,), torch.device("cpu")

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> ml.Task:
        tone = 0.1 + 1.4 * torch.rand(tasks, ways, 2, generator=generator)        # two frequencies for each machine

        def record(n: int) -> ml.Data:
            y = torch.rand(tasks, ways * n, generator=generator).argsort(1) // n      # n of each class, shuffled
            phase = 2 * math.pi * torch.rand(tasks, ways * n, 2, 1, generator=generator)
            frequency = tone.gather(1, y[..., None].expand(-1, -1, 2))[..., None]
            x = (frequency * torch.arange(64) + phase).sin().sum(2)
            return ml.Data(x + 0.3 * torch.randn(x.shape, generator=generator), y)

        return ml.Task(record(shots), record(queries))

    def to(self, device) -> "Machines":
        return self                                            # fit and evaluate bring each batch to their device


def main() -> None:
    pool = Machines()
    learner = ml.protonet(*ml.functional(ml.nn.mlp((64, 128, 64))), ways=5)
    before = ml.evaluate(learner, learner.init(0), pool, ways=5, shots=2, tasks=300)
    run = ml.fit(learner, pool, steps=400, tasks=8, ways=5, shots=2, queries=5, progress=False)
    after = ml.evaluate(learner, run.theta, pool, ways=5, shots=2, tasks=300)
    print(f"five machines, two recordings of each: {before} from random weights, {after} from the learned ones")


if __name__ == "__main__":
    main()
