"""MAML learns to learn sine waves: from ten points of a new wave to the wave, by one step of descent.

    python examples/regression.py
"""

import torch

import metaloop as ml


def main() -> None:
    pool = ml.tasks.sinusoid()                              # y = A sin(x - b), with A and b new in each task
    net, init = ml.functional(ml.nn.mlp((1, 40, 40, 1)))
    learner = ml.maml(net, init, inner_lr=0.01, loss=torch.nn.functional.mse_loss)
    before = ml.evaluate(learner, learner.init(0), pool, ways=1, shots=10, queries=100, tasks=500)
    run = ml.fit(learner, pool, steps=1000, tasks=25, ways=1, shots=10, queries=10, progress=False)
    after = ml.evaluate(learner, run.theta, pool, ways=1, shots=10, queries=100, tasks=500)
    print(f"squared error after one step: {before} from random weights, {after} from the learned ones")

    task = pool.test.sample(shots=10, queries=5, generator=torch.Generator().manual_seed(0))
    f = learner.adapt(run.theta, ml.Data(task.support.x[0], task.support.y[0]))               # f = F(S), one task
    for x, y, guess in zip(task.query.x[0, :, 0], task.query.y[0, :, 0], f(task.query.x[0])[:, 0], strict=True):
        print(f"x = {x:5.2f}: y = {y:5.2f}, f(x) = {guess:5.2f}")


if __name__ == "__main__":
    main()
