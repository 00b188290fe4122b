"""Regularised evolution as a sampler: its population, its parents and its children, and where it stands by a table."""

from itertools import pairwise, permutations

import architecture_table
import numpy as np
import optuna
import pytest
from mutations import Bug

from metaloop.outer import read_table
from metaloop.outer.evolution import Evolution
from metaloop.outer.search_space import read_space
from metaloop.outer.search_study import quiet, suggest
from metaloop.outer.search_table import Table

SPACE = read_space({"a": [0, 1, 2], "b": ["x", "y"], "c": [False, True], "rate": "0.01..1:log", "one": ["alone"]})


def trials(n, score, *, direction="maximize", seed=0, study=None, **options):
    with quiet():
        sampler = Evolution(SPACE, seed=seed, **{"population": 6, "sample": 3, **options})
        study = study or optuna.create_study(direction=direction)
        study.sampler = sampler
        while len(study.trials) < n:
            trial = study.ask()
            study.tell(trial, score(suggest(trial, SPACE)))
    return [t.params for t in study.trials], study


def score(choice):
    return choice["a"] + (choice["b"] == "y") + choice["c"] - abs(np.log10(choice["rate"]) + 1)


def test_a_child_differs_from_the_best_of_some_of_the_youngest_in_one_setting():
    """Of a population of one the parent is known: the trial before, though it may be worse than the one before it."""
    found, _ = trials(60, score, population=1)
    changed = [[name for name in SPACE if was[name] != now[name]] for was, now in pairwise(found)]
    assert {len(each) for each in changed} == {0, 1}  # none: what has one value alone was to change
    counts = {name: sum(each == [name] for each in changed) for name in SPACE}
    assert counts.pop("one") == 0
    assert all(4 <= n <= 24 for n in counts.values())  # 59 / 5 each


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_parent_is_the_best_of_those_that_live(direction):
    """With many draws it is the best of the population: of the last six, not of all."""
    sign = 1 if direction == "maximize" else -1
    found, study = trials(40, lambda choice: sign * score(choice), direction=direction, sample=200)
    for k in range(6, 40):
        best = max(found[k - 6 : k], key=score)
        assert sum(best[name] != found[k][name] for name in SPACE) <= 1
    assert np.mean([score(c) for c in found[-10:]]) > np.mean([score(c) for c in found[:6]]) + 1
    assert study.best_trial.number >= 6


def test_a_search_is_a_function_of_its_seed_and_goes_on():
    whole, _ = trials(20, score)
    _, part = trials(9, score)
    assert trials(20, score, study=part)[0] == whole != trials(20, score, seed=1)[0]


def test_on_a_table_it_finds_more_than_random():
    """Of 64 cells, where two settings matter and one does not: of random the first 24 have all cells' mean."""
    scores = np.array([[a + b for a in range(4) for b in range(4) for _ in range(4)]], dtype=float)
    table = Table(read_space({name: [0, 1, 2, 3] for name in "abc"}), {"validation": scores}, True, {})
    found = [table.run("evolution", 24, seed) for seed in range(4)]
    assert all(len({*each}) == 24 for each in found)
    assert np.mean([table.means()[each] for each in found]) > table.means().mean() + 0.2
    settled = table.run("controller", 64, 0, asks=2, lr=0.3, hidden=8, layers=1)
    assert len({*settled}) == len(settled) < 64


@pytest.mark.parametrize("draws", [1, 2, 4])
def test_what_random_search_finds_in_test_is_exact(draws):
    """The mean test score of the best by validation, over all orders of five cells, one of which diverged."""
    nan = float("nan")
    scores = {"validation": np.array([[0.1, 0.4, 0.3, nan, 0.2]]), "test": np.array([[0.5, 0.1, 0.7, 0.0, 0.3]])}
    table = Table(read_space({"a": [1, 2, 3, 4, 5]}), scores, True, {})
    best = lambda order: max(order, key=lambda i: np.nan_to_num(scores["validation"][0, i], nan=-1.0))
    want = np.mean([scores["test"][0, best(order[:draws])] for order in permutations(range(5))])
    assert architecture_table.of_random(table, draws) == pytest.approx(want, abs=1e-12)


def test_a_table_whose_last_seed_is_not_whole(tmp_path):
    path = tmp_path / "table.json"
    batch = '{"seed":%d,"first":0,"scores":{"validation":[%s]}}'
    about = '{"space":{"a":"1,2"},"seeds":2,"higher":true,"about":{},"batches":['
    path.write_text(about + batch % (0, "0.5,0.25") + "," + batch % (1, "0.5") + "]}")
    assert read_table(path, seeds=1).means().tolist() == [0.5, 0.25]
    with pytest.raises(ValueError, match="is not whole"):
        read_table(path)


BUGS = [
    Bug("the oldest do not die", "outer/evolution.py",
        ("key=lambda t: t.number)[-self.population :]", "key=lambda t: -t.value)[: self.population]"),
        "test_a_child_differs_from_the_best_of_some_of_the_youngest_in_one_setting"),
    Bug("the parent is the worst where less is better", "outer/evolution.py",
        ("key=lambda t: sign * t.value).params", "key=lambda t: t.value).params"),
        "test_the_parent_is_the_best_of_those_that_live[minimize]"),
]  # fmt: skip
