"""Captions translated into English from a language of which there are few, after two of which there are many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool


def meta_translation_plan(
    pool: Pool, *, method: Literal["meta", "multilingual", "scratch"], steps: int, universal: bool = True,
    inner: Literal["signs", "sgd"] = "signs", inner_lr: float = 3.5e-4, shots: int = 32, tasks: int = 2,
    languages: int = 3, pieces: int = 2000, keys: int = 100, source: int = 48, width: int = 128, layers: int = 2,
    heads: int = 4, hidden: int = 256, dropout: float = 0.1, lr: float = 1e-3, warm_up: int = 200, moves: str = "all",
    test_steps: int = 100, test_batch: int = 32, test_lr: float = 1e-3,
) -> Plan:  # fmt: skip
    """Translators. method: "meta" (MetaNMT: an inner step, a loss on other pairs of the language), "multilingual"
    (ordinary training on all source languages), "scratch" (nothing learned before). inner: "signs" or "sgd". universal:
    words by the vectors of `languages` vocabularies of `pieces` (`nn.Universal`), or embeddings of their own. Adam at
    lr, reached in warm_up steps. At meta-test test_steps of Adam at test_lr on test_batch pairs of S each, on what
    `moves` (`meta_translation`)."""
    import torch

    if not pool.target.numbers or len(pool.shape) != 1 or pool.shape[0] <= source:
        raise ValueError(f"this recipe translates sentences; {pool.name} deals examples of shape {tuple(pool.shape)}.")
    given = getattr(pool.train, "keys", (torch.zeros(languages * pieces, keys), torch.zeros(pieces, keys)))
    net, init = ml.functional(
        ml.nn.Transformer(
            languages * pieces, pieces, dim=width, layers=layers, heads=heads, hidden=hidden, dropout=dropout,
            keys=given if universal else None,
        )
    )  # fmt: skip
    joint = method == "multilingual"
    how: dict[str, Any] = {"source": source, "joint": joint}
    step = ml.nn.signs() if inner == "signs" else ml.nn.sgd()
    learner = ml.meta_translation(
        net, init, inner_lr=inner_lr, inner_steps=int(method == "meta"), optimizer=step, **how
    )  # fmt: skip

    def at_test(ways: int = 1, inner_steps: int = test_steps, moves: str = moves):
        return ml.meta_translation(
            net, init, inner_lr=test_lr, inner_steps=inner_steps, moves=moves, optimizer=ml.nn.adam(),
            batch=test_batch, **how,
        )  # fmt: skip

    row = Row("nats per sentence, fine-tuned", at_test(), 1, shots, shots, tasks=1)
    return Plan(
        pool, learner, at_test, (row,), steps=steps, tasks=tasks, ways=1, shots=shots, queries=shots, more_shots=(),
        options={
            "optimizer": optim.adam(lr if method != "scratch" else 0.0), "clip": 1.0, "validate_every": None,
            "chunk": 1, "schedule": optim.scaled(lambda t: min(1.0, (t + 1) / warm_up, (warm_up / (t + 1)) ** 0.5)),
        },
    )  # fmt: skip


# The paper's figures are of other languages, so none stands beside.
SMALL = {"steps": 2, "tasks": 1, "shots": 2, "width": 8, "layers": 1, "heads": 2, "hidden": 8, "test_steps": 1}
FORMS: tuple[tuple[str, str, str, int, dict[str, Any], dict[str, Any]], ...] = (
    ("meta-translation", "meta", "MetaNMT, after German and French", 10_000, {"steps": 600, "warm_up": 200}, {}),
    ("meta-translation-sgd", "meta", "the same, gradient steps", 10_000, {"steps": 600, "warm_up": 200},
     {"inner": "sgd", "inner_lr": 0.1}),
    ("multilingual-translation", "multilingual", "ordinary training on German and French", 20_000,
     {"steps": 1200, "warm_up": 200}, {}),
    ("scratch-translation", "scratch", "nothing learned before", 1, {}, {"test_steps": 300}),
)  # fmt: skip
RECIPES = [
    recipe(
        f"{name}-multi30k", "Gu et al. 2018", f"captions from Czech: {summary}", data.captions, meta_translation_plan,
        method=method, steps=steps, warm_up=min(1000, steps), quick=quick, smoke=SMALL, **more,
    ) for name, method, summary, steps, quick, more in FORMS
]  # fmt: skip
