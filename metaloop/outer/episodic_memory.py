"""Toward Training Recurrent Neural Networks for Lifelong Learning
Sodhani, Chandar & Bengio, Neural Computation 32(1), 2020, arXiv:1811.07017

with the memory of Lopez-Paz & Ranzato, Gradient Episodic Memory for Continual Learning, NeurIPS 2017, arXiv:1706.08840.

Levels of a problem come one after another, each harder than the one before; the next one comes when a level is passed,
and life ends where one cannot be (then a wider network may go on: `metaloop.nn.wider`). Of each past level a few
examples M_k are kept. What is learned now should not be paid for by what was learned before:

    s    = the step theta - theta' that the optimizer takes on the gradient g of the level at hand          (1)
    g_k  = the gradient of the loss on M_k,    k < t                                                        (2)
    s~   = argmin 1/2 |s~ - s|^2   such that   <s~, g_k> >= 0  for all k < t,    theta <- theta - s~        (3)

found as s~ = s + G'v, where the rows of G are the g_k and v >= 0 minimises 1/2 v'GG'v + (Gs)'v             (4)

which for one memory is s~ = s - min(0, <s, g_1>) g_1 / |g_1|^2                                             (5)

For plain gradient descent s is a multiple of g, and this is GEM. To first order no past loss grows.
"""

import json
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core import Learner, Task
from ..engine.batch import predict
from ..engine.checkpoint import write_bytes
from ..engine.evaluate import Score
from ..engine.run import Run
from ..engine.seeds import generator, noise
from ..engine.session import CALIBRATION_TASKS, Session, begin, estimate, explain, finite
from ..targets import exact
from ..torch_private import pytree

if TYPE_CHECKING:
    from ..tasks.levels import Levels

METHODS = ("gem", "replay", "plain")


def episodic_memory(
    learner: Learner,
    pool: "Levels",
    *,
    method: str = "gem",
    steps: int | None = None,
    updates: int = 3000,
    goal: float = 0.8,
    look: int = 100,
    tested: int = 200,
    remembered: int = 64,
    margin: float = 0.0,
    first: int = 0,
    tasks: int = 32,
    ways: int | None = None,
    shots: int | None = None,
    queries: int | None = None,
    validation: dict[str, int] | None = None,
    validate_every: int | None = None,
    checkpoint_every: int | None = None,
    seed: int = 0,
    **training: Any,
) -> Run:
    """Live through a pool of levels, from level `first` on; theta learns the level at hand, and keeps the others.

    method: "gem", (3); "replay", the mean of g and all g_k in place of g, and no projection; "plain", no memory.
    updates: steps on a level, at most. After every `look` of them `tested` new tasks of it are tried: the level is
        passed if the share whose whole answer is right is `goal` or more. After the last level, and after one that is
        not passed, life ends. steps: how many to take in all; as many as there may be unless given.
    tasks: of a step. remembered: of a level, how many of the first tasks that it dealt are kept.
    margin: v >= margin * |s| / |g| in (4), which steps away from what is remembered as soon as (3) binds.
    first: the level to begin with; those before it are remembered, as if they had been lived through with this seed.
    ways, shots, queries, validation and validate_every, which `fit` takes, have no use here.
    training: the other arguments of `fit`, but for torchrun and CUDA graphs.

    Returns a Run; `run.info["levels"]`, kept as levels.json, holds for each level that was lived through whether it was
    `passed`, after which `step` it was over, and the `scores` of all levels then: shares of tasks all right.
    Raises ValueError on an unknown method, a pool without levels, a level that is not there, or numbers below 1; and as
    `fit` does.
    """
    if method not in METHODS:
        raise ValueError(f"episodic_memory: method is {method!r}, expected {', '.join(map(repr, METHODS))}.")
    if not hasattr(pool, "levels"):
        raise ValueError(f"episodic_memory: {pool!r} has no levels, expected a pool such as `tasks.copy_levels()`.")
    least = min(updates, look, tested, remembered, tasks)
    if least < 1 or margin < 0 or not 0 <= first < pool.levels:
        raise ValueError(
            f"episodic_memory({updates=}, {look=}, {tested=}, {remembered=}, {tasks=}, {margin=}, {first=}): expected "
            f"at least 1, a margin of at least 0, and one of the {pool.levels} levels, from 0 on."
        )
    total = updates * (pool.levels - first)
    session = begin(
        learner, pool, steps=total if steps is None else min(steps, total), tasks=tasks, seed=seed,
        checkpoint_every=checkpoint_every, longer=training.get("schedule") is None,
        decides={
            "method": method, "updates": updates, "goal": goal, "look": look, "tested": tested, "margin": margin,
            "remembered": remembered, "first level": first,
        },
        **training,
    )  # fmt: skip
    run, pool = session.run, session.pool  # type: ignore[assignment]
    told = run.info["levels"] = session.kept.setdefault("levels", [])
    memory: list[Task] = []

    def deal(k: int, i: int) -> Task:
        """The i-th batch of level k."""
        return pool.deal(k, tasks, generator(seed, f"level {k}", i))

    def judge(k: int, stream: str, i: int) -> Score:
        dealt = pool.deal(k, tested, generator(seed, stream, i))
        with noise(seed, f"{stream} noise", i):
            return Score.of(exact(predict(run.learner, run.theta, dealt), dealt.query.y).cpu(), exact.__name__)

    def save() -> None:
        if run.folder is not None:
            write_bytes(run.folder / "levels.json", json.dumps(told, indent=1).encode())
        session.save()

    if session.steps == 0:
        save()
    with session.running():
        while run.step < session.steps and len(told) < pool.levels - first and all(level["passed"] for level in told):
            k, i = first + len(told), run.step - (told[-1]["step"] if told else 0)
            if method != "plain":
                memory += [remember(deal, j, remembered, tasks) for j in range(len(memory), k)]
            info = learn(session, deal(k, i), memory, margin if method == "gem" else None)
            saving, over = session.count(), i + 1 == updates
            if over or (i + 1) % look == 0:
                if learner.statistics is not None:
                    g = generator(seed, "statistics", run.step)
                    estimate(learner, run.theta, pool.deal(k, CALIBRATION_TASKS, g), seed=seed)
                score = judge(k, "look", run.step)
                session.log.score(run.step, score)
                if over or score.mean >= goal:
                    scores = [judge(j, "test", j).mean for j in range(pool.levels)]
                    told.append({"level": k, "step": run.step, "passed": score.mean >= goal, "scores": scores})
                    saving = True
            session.log.step(run.step, info)
            if saving:
                save()
                session.stop()
    return run


def remember(deal: Any, k: int, n: int, tasks: int) -> Task:
    """The first n tasks that level k dealt, in batches of `tasks`: dealt again, so that none need be stored."""
    batches = [deal(k, i) for i in range(-(-n // tasks))]
    return pytree.tree_map(lambda *t: torch.cat(t)[:n], *batches)


def learn(session: Session, batch: Task, memory: list[Task], margin: float | None) -> dict[str, Tensor]:
    """A step on a batch and a memory; what there is to log. margin: (3), or None for the mean of all gradients."""
    run, i = session.run, session.run.step
    with noise(session.seed, "noise", i):
        found = [session.gradient(run.theta, tasks) for tasks in (batch, *memory)]                          # (1, 2)
    for tasks, (grads, loss, _) in zip((batch, *memory), found, strict=True):
        if not finite(grads, loss):
            explain(session.plain, run.theta, tasks, i)
    (grads, loss, info), others = found[0], [g for g, _, _ in found[1:]]
    if margin is None and others:
        grads = pytree.tree_map(lambda *g: sum(g) / len(g), grads, *others)
    before = flat(session.leaves)
    session.improve(grads)
    if margin is not None and others:
        g, G = flat(pytree.tree_leaves(grads)), torch.stack([flat(pytree.tree_leaves(g_k)) for g_k in others])
        s = before - flat(session.leaves)
        kept = project(s, G, margin * (s.norm() / g.norm().clamp_min(1e-12)).item())                        # (3)
        info = {**info, "projected": (kept is not s) * torch.ones(())}
        if kept is not s:
            each = (before - kept).split([p.numel() for p in session.leaves])
            for leaf, now in zip(session.leaves, each, strict=True):
                leaf.copy_(now.view_as(leaf))
    session.schedule(i + 1)
    return {"loss": loss, **info}


def project(s: Float[Tensor, " d"], G: Float[Tensor, "t d"], margin: float = 0.0) -> Float[Tensor, " d"]:
    """(3) by (4), with v >= margin; s itself where it does no harm. Non-negative least squares in float64."""
    if not (G @ s < 0).any():
        return s
    from scipy.optimize import nnls

    G_, s_ = G.detach().cpu().double(), s.detach().cpu().double()
    Q, R = torch.linalg.qr(G_.T)  # |G'v + s|^2 = |R v + Q's|^2 and what does not depend on v
    v = torch.from_numpy(nnls(R.numpy(), -(Q.T @ (s_ + margin * G_.sum(0))).numpy())[0]) + margin
    return (s_ + G_.T @ v).to(s)


def flat(leaves: list[Tensor]) -> Tensor:
    return torch.cat([leaf.detach().flatten() for leaf in leaves])


def forgetting(levels: list[dict[str, Any]]) -> float:
    """Of `run.info["levels"]`: the mean over the levels before the last one of what was right when the level was over,
    less what is right in the end, in shares of tasks. Negative if it got better; nan of one level."""
    *past, last = levels
    lost = [level["scores"][level["level"]] - last["scores"][level["level"]] for level in past]
    return sum(lost) / len(lost) if lost else float("nan")
