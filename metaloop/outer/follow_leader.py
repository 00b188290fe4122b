"""Online Meta-Learning: follow the meta-leader (FTML)
Finn, Rajeswaran, Kakade & Levine, ICML 2019, arXiv:1902.08438

Tasks come one after another, and each must be learned from few points. The leader is the theta that would have been
best, after adaptation, for all tasks so far:

    theta_t = argmin  sum_{k <= t} L_k(F_theta(D_k))                                                       (1)

found in practice by steps on a memory of the data seen so far, the current task's included, each on

    E_{k ~ U(1..t)}  L(F_theta(D_tr); D_val)        D_tr, D_val: disjoint examples drawn from D_k           (2)

after which the current task is adapted to, from all of its data that have arrived, and judged on held-out data  (3)

What is followed is up to F: MAML's is the paper's FTML; MAML's with no inner step is ordinary training on everything
(with inner steps at test, its fine-tuning); no updates at all is learning each task from scratch.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core import Data, Learner, Task, Theta
from ..engine.checkpoint import write_bytes
from ..engine.evaluate import Score, score_each
from ..engine.run import Run
from ..engine.seeds import generator, noise
from ..engine.session import CALIBRATION_TASKS, begin, estimate
from ..nn.functional import at_meta_test
from ..targets import target_of
from ..torch_private import pytree

if TYPE_CHECKING:
    from ..tasks.rainbow_mnist import Rounds


def follow_leader(
    learner: Learner,
    pool: "Rounds",
    *,
    steps: int | None = None,
    updates: int = 50,
    arrivals: Sequence[int] = (100, 300, 900),
    goal: float = 0.9,
    tasks: int = 25,
    ways: int = 10,
    shots: int = 10,
    queries: int = 10,
    validation: dict[str, int] | None = None,
    validate_every: int | None = None,
    checkpoint_every: int | None = None,
    seed: int = 0,
    **training: Any,
) -> Run:
    """Live through a pool of rounds, whose order `seed` draws; theta follows the leader on all data seen so far.

    arrivals: how many of a round's points are there, each time that more of them arrive; those of the last time
        stay in memory. A step is one arrival: `updates` meta-steps (2), then the judgement (3).
    steps: how many arrivals to live through; all unless given. goal: the accuracy, or squared error, that is aimed at.
    tasks: past rounds per meta-step. shots, queries: points of each for adapting and for the loss, of whatever class.
    ways, validation and validate_every, which `fit` takes, have no use here: every round is a test.
    training: the other arguments of `fit`, but for torchrun and CUDA graphs: optimizer, clip, at_test (the learner of
        (3), where that differs), out, resume and so on. Like its runs this one survives being stopped at any moment.

    Returns a Run; `run.info["rounds"]`, kept as rounds.json, holds for each round its accuracy (or squared error) and
    loss at each arrival, and the points that were needed for the goal: None if it was not reached.
    Raises ValueError if the arrivals are not increasing, or the first cannot hold shots + queries; and as `fit` does.
    """
    last, total = arrivals[-1], pool.rounds * len(arrivals)
    if list(arrivals) != sorted({*arrivals}) or last > pool.points or (updates and arrivals[0] < shots + queries):
        raise ValueError(
            f"follow_leader: arrivals={tuple(arrivals)}, expected numbers that rise from shots + queries = "
            f"{shots + queries} at least to the pool's {pool.points} at most."
        )
    session = begin(
        learner, pool, steps=total if steps is None else min(steps, total), tasks=tasks * max(1, updates),
        checkpoint_every=checkpoint_every or len(arrivals), seed=seed, longer=training.get("schedule") is None,
        decides={"updates": updates, "arrivals": arrivals, "goal": goal, "shots": shots, "queries": queries},
        **training,
    )  # fmt: skip
    run, theta, pool = session.run, session.run.theta, session.pool  # type: ignore[assignment]
    order = torch.randperm(pool.rounds, generator=generator(seed, "order", 0))
    told = run.info["rounds"] = session.kept.setdefault("rounds", [])

    def save() -> None:
        if run.folder is not None:
            record = {"arrivals": arrivals, "rounds": told}
            write_bytes(run.folder / "rounds.json", json.dumps(record, indent=1).encode())
        session.save()

    if session.steps == 0:
        save()
    with session.running():
        while run.step < session.steps:
            t, arrival = divmod(run.step, len(arrivals))
            now, current = arrivals[arrival], int(order[t])
            seen = torch.full((t + 1,), last).index_fill(0, torch.tensor([t]), now)
            logs = []
            for i in range(run.step * updates, (run.step + 1) * updates):
                batch = remember(pool, order[: t + 1], seen, tasks, shots, queries, generator(seed, "train", i))
                logs.append(session.meta_step(batch, i))
            if learner.statistics is not None:
                g = generator(seed, "statistics", run.step)
                asked = queries if learner.statistics_of_task else 0
                batch = remember(pool, order[: t + 1], seen, CALIBRATION_TASKS, min(shots, now), asked, g)
                estimate(learner, theta, batch, seed=seed)
            with noise(seed, "test noise", run.step):
                score, loss = judge(run.learner, theta, pool, current, now)
            if arrival == 0:
                told.append({"round": current, "look": pool.look(current), "score": [], "loss": [], "points": None})
            told[-1]["score"].append(score.mean)
            told[-1]["loss"].append(loss)
            reached = score.mean >= goal if pool.target.higher else score.mean <= goal
            if reached and told[-1]["points"] is None:
                told[-1]["points"] = now
            saving = session.count()
            means = pytree.tree_map(lambda *values: sum(values) / len(values), *logs) if logs else {}
            session.log.step(run.step, means)
            if now == last:
                session.log.score(run.step, score)
            if saving:
                save()
                session.stop()
    return run


def remember(
    pool: "Rounds", rounds: Tensor, seen: Tensor, tasks: int, shots: int, queries: int, g: torch.Generator
) -> Task:
    """A batch of tasks from memory: of the rounds [t], of which the first `seen` [t] points have been seen, some are
    drawn with replacement, and of each shots points for the support set and queries others for the query set."""
    k = torch.randint(len(rounds), (tasks,), generator=g)
    lot = torch.rand(tasks, pool.points, generator=g)
    index = torch.where(torch.arange(pool.points) < seen[k][:, None], lot, -1.0).topk(shots + queries).indices
    x, y = pool.deal(rounds[k], index)
    return Task(Data(x[:, :shots], y[:, :shots]), Data(x[:, shots:], y[:, shots:]))


def judge(learner: Learner, theta: Theta, pool: "Rounds", k: int, points: int) -> tuple[Score, float]:
    """How well F_theta, given the first `points` points of round k, does on what is held out: the score, whose interval
    is over examples, and the mean loss."""
    D, Q = pool.deal(torch.tensor([k]), torch.arange(points)[None]), pool.held_out(k)
    target = target_of(Q.y, pool)
    with torch.no_grad(), at_meta_test():
        predicted = learner.adapt(theta, Data(D.x[0], D.y[0]))(Q.x)
        loss = target.loss(predicted, Q.y)
    scores = score_each("follow_leader", target, predicted[:, None], Q.y[:, None])
    return Score.of(scores.cpu(), target.metric), loss.item()
