"""A recurrent controller that proposes choices, trained by their rewards: architecture search as Zoph & Le did it.

Zoph & Le, Neural Architecture Search with Reinforcement Learning, ICLR 2017, arXiv:1611.01578. Of a finite space whose
settings, in their order, are the tokens a_1 .. a_T of a choice, and of m proposals of a batch with the rewards R_k:

    p(a)        = prod_t softmax(W_t h_t + c_t)[a_t],    h_t = LSTM(embedding of a_{t-1}, h_{t-1})          (1)
    grad J      = 1/m sum_k (R_k - b) grad log p(a_k)                                                     (2)
    b           = moving average of the mean rewards of the batches before this one                       (3)

A study holds the proposals and what came of them, and a controller is a fold over it: the next batch is a function of
the seed and of the batches that are told, in the order of their numbers. So whichever worker finds that all are told
proposes the next, and there is the same search for any number of workers; one that is killed and started again goes on.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..engine.seeds import generator
from .search_space import Choice, Space, value

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


class Policy(nn.Module):
    """(1), in float64. sizes: how many values each token has."""

    def __init__(self, sizes: list[int], *, hidden: int = 35, layers: int = 2, seed: int = 0):
        super().__init__()
        self.sizes = sizes
        self.first = nn.Parameter(torch.zeros(1, hidden))
        self.embeddings = nn.ModuleList(nn.Embedding(size, hidden) for size in sizes[:-1])
        self.cells = nn.ModuleList(nn.LSTMCell(hidden, hidden) for _ in range(layers))
        self.heads = nn.ModuleList(nn.Linear(hidden, size) for size in sizes)
        self.double()
        g = generator(seed, "controller weights", 0)
        with torch.no_grad():
            for p in self.parameters():
                p.uniform_(-0.08, 0.08, generator=g)

    def forward(self, choose: Callable[[int, Tensor], Tensor], m: int) -> tuple[Tensor, Tensor]:
        """Tokens [m, T] and log p(a) [m]; choose: (t, log-probabilities [m, size of t]) -> a_t [m]."""
        x, tokens, log_p = self.first.expand(m, -1), [], 0.0
        states: list[Any] = [None] * len(self.cells)
        for t, head in enumerate(self.heads):
            for i, cell in enumerate(self.cells):
                states[i] = cell(x, states[i])
                x = states[i][0]
            each = head(x).log_softmax(-1)
            tokens.append(choose(t, each.detach()))
            log_p = log_p + each.gather(1, tokens[-1][:, None])[:, 0]
            if t + 1 < len(self.sizes):
                x = self.embeddings[t](tokens[-1])
        return torch.stack(tokens, 1), log_p  # type: ignore[return-value]

    def sample(self, m: int, g: torch.Generator) -> Tensor:
        """m choices, [m, T]."""
        with torch.no_grad():
            return self(lambda t, each: torch.multinomial(each.exp(), 1, generator=g)[:, 0], m)[0]

    def log_p(self, tokens: Tensor) -> Tensor:
        """log p(a), [m], of tokens [m, T]."""
        return self(lambda t, each: tokens[:, t], len(tokens))[1]


def reinforce(log_p: Tensor, rewards: Tensor, baseline: float) -> Tensor:
    """A loss whose gradient is that of (2), downwards."""
    return -((rewards - baseline) * log_p).mean()


class Controller:
    """Proposes batches of choices of a finite space to a study of Optuna's.

    batch: m. lr: Adam's; the paper's 6e-4 is for twelve thousand trials, 0.01 for hundreds. decay: of (3); the first
    batch sets the average and moves nothing. A study that minimises rewards by minus the value. failed: the reward of a
    trial without a value; unless given the worst that has been told so far, and batches before there is one move
    nothing. Raises ValueError if a setting has no end of values.
    """

    def __init__(
        self, space: Space, *, batch: int = 8, lr: float = 0.01, decay: float = 0.9, hidden: int = 35, layers: int = 2,
        failed: float | None = None, seed: int = 0,
    ):  # fmt: skip
        for name, dimension in space.items():
            if not isinstance(dimension, Choice):
                raise ValueError(f"Controller: {name}={dimension} is a range. Say values.")
        if not batch >= 1 or not lr > 0 or not 0 <= decay < 1:
            wanted = "expected at least 1, above 0, and from 0 to below 1"
            raise ValueError(f"Controller: batch={batch}, lr={lr}, decay={decay}, {wanted}.")
        self.space, self.batch, self.decay, self.failed, self.seed = space, batch, decay, failed, seed
        self.labels = [dimension.labels for dimension in space.values() if isinstance(dimension, Choice)]
        self.policy = Policy([len(each) for each in self.labels], hidden=hidden, layers=layers, seed=seed)
        self.adam = torch.optim.Adam(self.policy.parameters(), lr=lr)
        self.baseline: float | None = None
        self.worst = math.inf  # reward that has been told
        self.learned = 0  # batches

    def propose(self, study: "Study") -> bool:
        """Learn from the batches that are told, and enqueue the next if all are; whether it did.

        Only one worker at a time may be here. Raises ValueError if the study holds proposals of another controller.
        """
        ours = sorted((t for t in study.get_trials(deepcopy=False) if "batch" in t.user_attrs), key=lambda t: t.number)
        if not all(t.state.is_finished() for t in ours):
            return False
        while len(begun := [t for t in ours if t.user_attrs["batch"] == self.learned]) == self.batch:
            self._learn(begun, study)
        for tokens in self._next()[len(begun) :]:  # a worker may have been killed as it enqueued
            params = {name: labels[a] for name, labels, a in zip(self.space, self.labels, tokens, strict=True)}
            study.enqueue_trial(params, user_attrs={"batch": self.learned, "tokens": tokens})
        return True

    def _next(self) -> list[list[int]]:
        return self.policy.sample(self.batch, generator(self.seed, "controller", self.learned)).tolist()

    def _learn(self, told: "list[FrozenTrial]", study: "Study") -> None:
        tokens = [t.user_attrs["tokens"] for t in told]
        if tokens != self._next():
            raise ValueError(f"Controller: batch {self.learned} of the study '{study.study_name}' is another "
                             "controller's: of another space, seed, batch or rate.")  # fmt: skip
        sign = 1.0 if study.direction.name == "MAXIMIZE" else -1.0
        values = [None if t.value is None or not math.isfinite(t.value) else sign * t.value for t in told]
        self.worst = min([self.worst, *(v for v in values if v is not None)])
        self.learned += 1
        failed = self.worst if self.failed is None else self.failed
        rewards = [failed if v is None else v for v in values]
        if not all(map(math.isfinite, rewards)):  # nothing has come to a value yet
            return
        R, mean = torch.tensor(rewards, dtype=torch.double), sum(rewards) / len(rewards)
        if self.baseline is not None:
            self.adam.zero_grad()
            reinforce(self.policy.log_p(torch.tensor(tokens)), R, self.baseline).backward()
            self.adam.step()
        self.baseline = mean if self.baseline is None else self.decay * self.baseline + (1 - self.decay) * mean


def search_by(
    controller: Controller,
    study: "Study",
    score: Callable[[dict[str, Any]], float],
    *,
    trials: int,
    alone: Callable[[], AbstractContextManager[Any]] = nullcontext,
    pause: float = 0.1,
) -> None:
    """A worker: evaluate what the controller proposes until there are `trials`, whole batches; start as many as wanted.

    study: of a storage that all workers share. score: of a choice; an error fails the trial, and
    one that is no ValueError ends the worker too. alone: within it no
    other worker is, such as `search_study.Store.alone`. pause: seconds between looks for the others' trials. A worker
    that is killed leaves a trial begun, for which all wait: `study.tell(number, state=TrialState.FAIL)` ends it.
    """
    from optuna.trial import TrialState

    from .search_study import suggest

    space = controller.space
    while True:
        with alone():
            every = study.get_trials(deepcopy=False)
            waiting = any(t.state == TrialState.WAITING for t in every)
            if not waiting and len(every) < trials:
                waiting = controller.propose(study)
            trial = study.ask() if waiting else None
        if trial is not None:
            found, failed = math.nan, True
            try:
                found = score({name: value(space[name], label) for name, label in suggest(trial, space).items()})
                failed = not math.isfinite(found)
            except ValueError:
                pass
            finally:  # whatever happens, the others do not wait for it
                study.tell(trial, None if failed else found, TrialState.FAIL if failed else None)
        elif len(every) >= trials:
            return
        else:
            time.sleep(pause)
