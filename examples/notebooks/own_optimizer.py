# %% [markdown]
# # Replace Adam by an optimizer that you trained
# A task is an optimisation problem: train a small network on S, from a start that the task brings along. F is descent
# whose steps a recurrent network takes, and theta are that network's weights. So theta is an optimizer.

# %%
import torch
import torch.nn.functional as F
from torch import nn

import metaloop as ml

data = ml.tasks.gaussians(dim=8, spread=1.0, noise=1.0)
net, init = ml.functional(nn.Sequential(nn.Linear(8, 10), nn.Sigmoid(), nn.Linear(10, 5)))
problems = ml.tasks.problems(data, init)
learner = ml.lstm_optimizer(net, inner_steps=20, unroll=20, hidden=10)

# %% [markdown]
# Meta-training. The score is how often a network is right that was trained by 20 steps of the rule: with the weights
# that the rule began with, and with the learned ones.

# %%
run = ml.fit(
    learner, problems, steps=30, tasks=4, ways=5, shots=10, queries=10, progress=False, clip=1.0,
    optimizer=lambda p: torch.optim.Adam(p, 3e-2),
)  # fmt: skip
for name, theta in (("as it began", learner.init(0)), ("learned", run.theta)):
    print(f"rule {name}: {ml.evaluate(learner, theta, problems, ways=5, shots=10, tasks=20)}")

# %% [markdown]
# In a training loop of your own it stands where Adam stood. The network is larger than any that meta-training saw, and
# the data are new. Adam has the best of six rates, chosen on these very losses; the rule has nothing to choose.


# %%
def trained(optimizer, task: int) -> list[float]:
    """The loss at each of twenty steps."""
    torch.manual_seed(task)
    model = nn.Sequential(nn.Linear(8, 20), nn.Sigmoid(), nn.Linear(20, 5))
    S = data.test.sample(ways=5, shots=10, queries=1, generator=torch.Generator().manual_seed(task)).support
    descent, losses = optimizer(model.parameters()), []
    for _ in range(20):
        descent.zero_grad()
        loss = F.cross_entropy(model(S.x[0]), S.y[0])
        loss.backward()
        descent.step()
        losses.append(loss.item())
    return losses


def mean(optimizer) -> list[float]:
    return torch.tensor([trained(optimizer, task) for task in range(5)]).mean(0).tolist()


learned = mean(lambda p: ml.optim.Learned(p, run))
adams = {lr: mean(lambda p, lr=lr: torch.optim.Adam(p, lr)) for lr in (1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)}
best = min(adams, key=lambda lr: adams[lr][-1])
print(f"mean loss over five tasks; Adam's best rate is {best}")
for step in (0, 5, 10, 15, 19):
    print(f"step {step:2}: learned {learned[step]:.3f}, Adam {adams[best][step]:.3f}")

# %% [markdown]
# After more steps than the rule was meta-trained for, or on other kinds of networks, it may do worse: measure first.
