"""Digits at angles that no training has met: how well few labels do on what a network sees in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, recipe

if TYPE_CHECKING:
    from torch import Tensor

    from ..tasks.pool import Pool


def probe_of(labels: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The share of each task's queries that a logistic regression on f(x) classifies rightly, learned from the first
    `labels` of each class and tested on the others."""

    def probe(seen: Tensor, y: Tensor) -> Tensor:
        import torch
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        right = []
        for x, k in zip(seen.cpu(), y.cpu(), strict=True):
            nth = (k == k[:, None]).tril().sum(1)  # of its class, from 1
            learned = nth <= labels
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, C=0.1))
            classifier.fit(x[learned].numpy(), k[learned].numpy())
            said = torch.from_numpy(classifier.predict(x[~learned].numpy()))
            right.append(float((said == k[~learned]).double().mean()))
        return torch.tensor(right)

    return probe


def metavae_plan(
    pool: Pool, *, steps: int, summarises: bool = True, divisor: float | None = None, distributions: int = 5,
    labels: Sequence[int] = (100, 10), tested: int = 50, z: int = 40, c: int = 400, hidden: int = 400, batch: int = 10,
    tasks: int = 5, lr: float = 2e-4,
) -> Plan:  # fmt: skip
    """MetaVAE: D of ten pictures, a batch of 10 `batch` others of the same angle; five angles a step; Adam at lr.
    summarises: whether there is a summary. divisor: instead of 10, of the sum over D. labels: of each class for the
    probe, a row each, beside the same probe of raw pixels; `tested` others of each class are classified."""
    from math import prod

    from torch import nn

    if not pool.pictures or distributions < 1:
        raise ValueError(f"this recipe is for images; {pool.name} deals examples of shape {tuple(pool.shape)}.")
    size, mlp, f = prod(pool.shape), ml.nn.mlp, ml.functional
    parts: Any = (
        f(mlp((size, 2 * hidden, hidden, c))) if summarises else None,
        f(mlp((size + c * summarises, hidden, hidden, 2 * z))),
        f(nn.Sequential(mlp((z, hidden, hidden, size)), ml.nn.Shaped(*pool.shape))),
    )
    how: dict[str, Any] = {"distributions": distributions, "divisor": divisor}
    learner, pixels = ml.metavae(*parts, **how), ml.metavae(*parts, raw=True, **how)
    rows = [
        Row(f"{n} labels{of}", one, 10, 1, n + tested, metric=probe_of(n))
        for n in labels for of, one in (("", learner), (", pixels", pixels))
    ]  # fmt: skip
    return Plan(
        pool, learner, lambda ways=10: learner, tuple(rows), steps=steps, tasks=tasks, ways=10, shots=1, queries=batch,
        more_shots=(), options={"optimizer": optim.adam(lr), "validate_every": None},
    )  # fmt: skip


# The paper's figures are drawings, of all 60 000 labels, so none stands beside.
FORMS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("", "MetaVAE", {}),
    ("divided-", "its summary divided by the batch, as in the authors' code", {"divisor": 100}),
    ("no-summary-", "a decoder for each angle, no summary", {"summarises": False}),
)
RECIPES = [
    recipe(
        f"metavae-{name}rotated-mnist", "Choi et al. 2020", f"digits at unseen angles: {words}", data.rotated_mnist,
        metavae_plan, steps=55_000, quick={"steps": 6000, "lr": 1e-3},
        smoke={"steps": 2, "hidden": 8, "c": 4, "z": 10, "batch": 1, "labels": (2,), "tested": 2}, **settings,
    ) for name, words, settings in FORMS
]  # fmt: skip
