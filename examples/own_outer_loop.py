"""Meta-training written out: an outer loop of your own needs `ml.meta_gradient` alone.

    python examples/own_outer_loop.py

Here theta moves by plain SGD whose rate falls to zero, and its average over the second half of the steps is kept: two
things that `ml.fit` does not do. What it does besides (checkpoints, processes, graphs) is not needed to learn.
"""

import torch

import metaloop as ml

STEPS, TASKS, LR = 300, 8, 0.3


def main() -> None:
    pool = ml.tasks.gaussians(dim=8, spread=1.0, noise=1.0)
    learner = ml.protonet(*ml.functional(ml.nn.mlp((8, 32, 16))), ways=5)
    theta = learner.init(0)                                 # for this learner a dict of tensors
    average = {name: torch.zeros_like(t) for name, t in theta.items()}
    gradient = ml.meta_gradient(learner)                    # (theta, tasks) -> (gradient of the mean loss, loss, info)
    for step in range(STEPS):
        drawn = torch.Generator().manual_seed(step)
        tasks = pool.train.sample(tasks=TASKS, ways=5, shots=1, queries=5, generator=drawn)
        grads, loss, info = gradient(theta, tasks)
        lr = LR * (1 - step / STEPS)
        theta = {name: t - lr * grads[name] for name, t in theta.items()}
        if step >= STEPS // 2:
            average = {name: a + theta[name] / (STEPS - STEPS // 2) for name, a in average.items()}
        if step % 50 == 0:
            print(f"step {step}: loss {loss:.3f}, accuracy {100 * info['accuracy']:.0f} %")
    for name, kept in (("at the start", learner.init(0)), ("at the end", theta), ("averaged", average)):
        print(f"{name}: {ml.evaluate(learner, kept, pool, ways=5, shots=1, tasks=500)}")


if __name__ == "__main__":
    main()
