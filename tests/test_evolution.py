"""Regularised evolution as a sampler: its population, its parents and its children, and where it stands by a table."""

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
    changed = [[name for name in SPACE if was[name] != now[name]] for was, now in zip(found, found[1:], strict=False)]
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


def test_it_and_the_controller_find_more_than_random_on_a_table(tmp_path):
    """Of 64 cells the best, after at most 24, where two settings matter and one does not."""
    space = read_space({name: [0, 1, 2, 3] for name in "abc"})
    number = np.arange(64)
    scores = (number // 16) + 1.0 * (number // 4 % 4)
    table = Table(space, {"validation": scores[None]}, True, {})
    best = lambda sampler, seed, **options: table.means()[table.run(sampler, 24, seed, **options)].mean()
    mean = {name: np.mean([best(name, seed) for seed in range(5)]) for name in ("random", "evolution")}
    mean["controller"] = np.mean([best("controller", seed, lr=0.05) for seed in range(3)])
    assert mean["evolution"] > mean["random"] + 0.5
    assert mean["controller"] > mean["random"] + 0.2


def test_a_table_of_which_the_last_seed_is_not_whole(tmp_path):
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
        ("sign = 1.0 if study.direction", "sign = 1.0 or study.direction"),
        "test_the_parent_is_the_best_of_those_that_live[minimize]"),
]  # fmt: skip
