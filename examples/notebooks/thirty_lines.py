# %% [markdown]
# # A learner in thirty lines
# Meta-learning turns a small data set S into a predictor, f = F(S). A learner is three pure functions, written for one
# task: `init` draws theta, `adapt` is F, and the objective scores f on queries. The engine does many tasks at once.

# %%
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import metaloop as ml
from metaloop.objectives import query_loss

# %% [markdown]
# Here f compares x with the sum of each class's examples, by the cosine of what a network makes of them:
# f(x)_k = exp(t) cos(z(x), sum of z(s) over class k). The network and t are learned over tasks.


# %%
@ml.predictor
class Directions:
    theta: dict[str, Any]
    c: Tensor
    net: ml.nn.Net = ml.static()

    def __call__(self, x: Tensor) -> Tensor:
        z = F.normalize(self.net(self.theta["net"], x), dim=-1)
        return self.theta["t"].exp() * z @ self.c.T


def directions(net: ml.nn.Net, init, *, ways: int) -> ml.Learner:
    def start(seed: int):
        return {"net": init(seed), "t": torch.full((), 2.0)}

    def adapt(theta, S: ml.Data) -> Directions:
        z = net(theta["net"], S.x)
        c = ml.nn.membership(S.y, ways).to(z).T @ z
        return Directions(theta, F.normalize(c, dim=-1), net)

    return ml.Learner(start, adapt, query_loss(F.cross_entropy), differentiates=False)


# %% [markdown]
# Meta-training, and what it gained: accuracy on tasks that were never seen, with the interval of 95 %. The laws that a
# learner must keep, `metaloop.testing.check(learner, tasks)` tries on it: `examples/own_learner.py` shows how.

# %%
pool = ml.tasks.gaussians(dim=8, spread=1.0, noise=1.0)
learner = directions(*ml.functional(ml.nn.mlp((8, 32, 16))), ways=5)
run = ml.fit(learner, pool, steps=200, tasks=8, ways=5, shots=1, queries=5, progress=False)
for name, theta in (("random", learner.init(0)), ("learned", run.theta)):
    print(f"{name} features: {ml.evaluate(learner, theta, pool, ways=5, shots=1, tasks=300)}")
