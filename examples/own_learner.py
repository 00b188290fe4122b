"""A learner of your own, in thirty lines, held to the laws.

    python examples/own_learner.py

A linear map on learned features, fitted to the support set by ridge regression (as Bertinetto et al. 2019,
arXiv:1805.08136, do): F has a closed form, so no inner loop and no learning rate.

    A = (Z'Z + exp(r) I)^-1 Z'Y        Z: features of S, Y: its labels as +1 and -1                         (1)
    f(x) = exp(s) z(x) A                r, s are learned with the features                                  (2)
"""

import torch
import torch.nn.functional as F
from torch import Tensor

import metaloop as ml
from metaloop.objectives import query_loss
from metaloop.testing import LAWS, check


@ml.predictor
class Linear:
    theta: dict[str, Tensor]
    A: Tensor
    net: ml.nn.Net = ml.static()

    def __call__(self, x: Tensor) -> Tensor:
        return self.theta["s"].exp() * self.net(self.theta["net"], x) @ self.A                          # (2)


def ridge(net: ml.nn.Net, init, *, ways: int) -> ml.Learner:
    def start(seed: int):
        return {"net": init(seed), "r": torch.zeros(()), "s": torch.zeros(())}

    def adapt(theta, S: ml.Data) -> Linear:
        Z = net(theta["net"], S.x)
        Y = 2.0 * (S.y[:, None] == torch.arange(ways, device=S.y.device)) - 1
        G = Z.T @ Z + theta["r"].exp() * torch.eye(Z.shape[1], dtype=Z.dtype, device=Z.device)
        return Linear(theta, torch.linalg.solve(G, Z.T @ Y.to(Z)), net)                                 # (1)

    return ml.Learner(start, adapt, query_loss(F.cross_entropy), differentiates=False)


def main() -> None:
    pool = ml.tasks.gaussians(dim=8, spread=1.0, noise=1.0)

    def tasks(n: int, seed: int) -> ml.Task:
        return pool.sample(tasks=n, ways=3, shots=2, queries=3, generator=torch.Generator().manual_seed(seed))

    small = ridge(*ml.functional(ml.nn.mlp((8, 6, 4))), ways=3)
    check(small, tasks)                                     # raises, naming each law that is broken
    print(f"keeps the {len(LAWS)} laws: {', '.join(LAWS)}")

    learner = ridge(*ml.functional(ml.nn.mlp((8, 32, 16))), ways=5)
    run = ml.fit(learner, pool, steps=300, tasks=8, ways=5, shots=1, queries=5, progress=False)
    for name, theta in (("random", learner.init(0)), ("learned", run.theta)):
        print(f"{name} features: {ml.evaluate(learner, theta, pool, ways=5, shots=1, tasks=500)}")


if __name__ == "__main__":
    main()
