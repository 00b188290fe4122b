"""Regularized evolution, as a sampler of Optuna's
Real, Aggarwal, Huang & Le, Regularized Evolution for Image Classifier Architecture Search, AAAI 2019, arXiv:1802.01548

    population = the last P trials that were told a value, whatever they are worth: each dies of age               (1)
    parent     = the best of S draws from it, with replacement                                                     (2)
    child      = the parent with one setting, evenly drawn, that has another value, evenly drawn                   (3)

The first P trials are drawn at random. The population is read from the study, and the draws are addressed by (seed,
trial's number), so there is nothing to keep: one worker's search is a function of the seed, and goes on where it was.
"""

from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from ..engine.seeds import place
from .search_space import Space


class Evolution(BaseSampler):
    """population: P. sample: S. Of a range, another value is a draw from all of it; of a single value there is none."""

    def __init__(self, space: Space, *, population: int = 20, sample: int = 5, seed: int = 0):
        self.names, self.population, self.sample, self.seed = [*space], population, sample, seed
        self.parent: dict[str, Any] | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        told = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        alive = sorted(told, key=lambda t: t.number)[-self.population :]                                  # (1)
        self.random = RandomSampler(seed=place(self.seed, "evolution", trial.number) % 2**32)
        self.parent = None
        if len(alive) == self.population:
            g = np.random.default_rng(place(self.seed, "evolution's parent", trial.number))
            sign = 1.0 if study.direction.name == "MAXIMIZE" else -1.0
            drawn = [alive[i] for i in g.integers(len(alive), size=self.sample)]
            self.parent = max(drawn, key=lambda t: sign * t.value).params                                 # (2)
            self.changed = self.names[g.integers(len(self.names))]

    def infer_relative_search_space(self, study, trial) -> dict[str, Any]:
        return {}

    def sample_relative(self, study, trial, search_space) -> dict[str, Any]:
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution) -> Any:
        if self.parent is None or param_name == self.changed:                                             # (3)
            was = None if self.parent is None else self.parent[param_name]
            if isinstance(param_distribution, CategoricalDistribution) and self.parent is not None:
                others = tuple(choice for choice in param_distribution.choices if choice != was)
                param_distribution = CategoricalDistribution(others or param_distribution.choices)
            return self.random.sample_independent(study, trial, param_name, param_distribution)
        return self.parent[param_name]
