"""Regularized evolution, as a sampler of Optuna's
Real, Aggarwal, Huang & Le, Regularized Evolution for Image Classifier Architecture Search, AAAI 2019, arXiv:1802.01548

    population = the last P trials that were told a value, whatever they are worth: each dies of age               (1)
    parent     = the best of S draws from it, with replacement                                                     (2)
    child      = the parent with one setting, evenly drawn, that has another value, evenly drawn                   (3)

The first P trials are drawn at random. The population is read from the study, and the draws are addressed by (seed,
trial's number), so there is nothing to keep: one worker's search is a function of the seed, and goes on where it was. A
trial is drawn whole, at its first setting, so trials that are begun together do not disturb each other.
"""

from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from ..engine.seeds import place
from .search_space import Choice, Range, Space


class Evolution(BaseSampler):
    """population: P. sample: S. What has a single value is not among the settings of (3). Of a range, another value is
    a draw from all of it. Raises ValueError if P or S is below 1."""

    def __init__(self, space: Space, *, population: int = 20, sample: int = 5, seed: int = 0):
        if min(population, sample) < 1:
            raise ValueError(f"Evolution: population={population}, sample={sample}, expected 1 at least.")
        self.population, self.sample, self.seed = population, sample, seed
        every = {name: distribution(dimension) for name, dimension in space.items()}
        self.open = {name: each for name, each in every.items() if not each.single()}

    def infer_relative_search_space(self, study, trial) -> dict[str, BaseDistribution]:
        return self.open

    def sample_relative(self, study, trial, search_space) -> dict[str, Any]:
        told = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        alive = sorted(told, key=lambda t: t.number)[-self.population :]                                  # (1)
        random = self._random(trial.number)
        draw = lambda name, among: random.sample_independent(study, trial, name, among)
        if len(alive) < self.population or not self.open:
            return {name: draw(name, among) for name, among in self.open.items()}
        g = np.random.default_rng(place(self.seed, "evolution's parent", trial.number))
        sign = 1.0 if study.direction.name == "MAXIMIZE" else -1.0
        drawn = [alive[i] for i in g.integers(len(alive), size=self.sample)]
        parent = max(drawn, key=lambda t: sign * t.value).params                                          # (2)
        name = [*self.open][g.integers(len(self.open))]
        among = self.open[name]
        if isinstance(among, CategoricalDistribution):
            among = CategoricalDistribution([choice for choice in among.choices if choice != parent[name]])
        return {each: parent[each] for each in self.open} | {name: draw(name, among)}                     # (3)

    def sample_independent(self, study: optuna.Study, trial, param_name, param_distribution) -> Any:
        """Of what is not in the space."""
        return self._random(trial.number, param_name).sample_independent(study, trial, param_name, param_distribution)

    def _random(self, number: int, name: str = "") -> RandomSampler:
        return RandomSampler(seed=place(self.seed, "evolution" + name, number) % 2**32)


def distribution(dimension: Choice | Range) -> BaseDistribution:
    """What Optuna calls it."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.labels)
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
