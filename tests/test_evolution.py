"""Regularised evolution as a sampler: its population, its parents and its children, and where it stands by a table."""

import json
from itertools import pairwise, permutations

import architecture_table
import mlp_table
import numpy as np
import optuna
import pytest
from mutations import Bug
from told import below, median_rank

from metaloop.outer import chance_of_top, evaluate_table, read_table
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
    """No two choices of a rate are worth the same."""
    return choice["a"] + 1.5 * (choice["b"] == "y") + 0.7 * choice["c"] - abs(np.log10(choice["rate"]) + 1)


def test_a_child_differs_from_the_best_of_some_of_the_youngest_in_one_setting():
    """Of a population of one the parent is known: the trial before, though it may be worse than the one before it."""
    found, _ = trials(60, score, population=1)
    changed = [[name for name in SPACE if was[name] != now[name]] for was, now in pairwise(found)]
    assert {len(each) for each in changed} == {1}
    counts = {name: sum(each == [name] for each in changed) for name in SPACE}
    assert counts.pop("one") == 0  # it has one value alone
    assert all(6 <= n <= 25 for n in counts.values())  # 59 / 4 each, within three standard deviations


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


def test_trials_begun_together_are_drawn_as_one_by_one():
    """Their settings by turns: each is the child of one parent, as though the other were not there."""
    found = []
    for together in (False, True):
        _, study = trials(8, score)
        with quiet():
            if together:
                both = [study.ask(), study.ask()]
                for name, one in SPACE.items():
                    for trial in both:
                        suggest(trial, {name: one})
            else:
                both = [study.ask(), study.ask()]
                for trial in both:
                    suggest(trial, SPACE)
        found.append([trial.params for trial in both])
    assert found[0] == found[1]
    with quiet():  # by threads
        study = optuna.create_study(sampler=Evolution(SPACE, population=1, seed=0))
        study.optimize(lambda trial: -score(suggest(trial, SPACE)), n_trials=24, n_jobs=2)
    made = sorted(study.trials, key=lambda t: t.number)
    for i, trial in enumerate(made[3:], 3):
        assert any(sum(trial.params[n] != was.params[n] for n in SPACE) == 1 for was in made[:i])


def test_a_space_without_a_choice_and_numbers_out_of_range():
    space = read_space({"one": ["alone"], "two": [2]})
    with quiet():
        study = optuna.create_study(sampler=Evolution(space, population=1))
        for _ in range(3):
            trial = study.ask()
            assert suggest(trial, space) == {"one": "alone", "two": 2}
            study.tell(trial, 0.0)
    for wrong in ({"population": 0}, {"sample": 0}):
        with pytest.raises(ValueError, match="expected 1 at least"):
            Evolution(SPACE, **wrong)


def test_on_a_table_it_finds_more_than_random():
    """Of 64 cells, where two settings matter and one does not: of random the first 24 have all cells' mean."""
    scores = np.array([[a + b for a in range(4) for b in range(4) for _ in range(4)]], dtype=float)
    table = Table(read_space({name: [0, 1, 2, 3] for name in "abc"}), {"validation": scores}, True, {})
    found = [table.run("evolution", 24, seed) for seed in range(4)]
    assert all(len({*each}) == 24 for each in found)
    assert np.mean([table.means()[each] for each in found]) > table.means().mean() + 0.2
    settled = table.run("controller", 64, 0, asks=2, lr=0.3, hidden=8, layers=1)
    assert len({*settled}) == len(settled) < 64
    for sampler, draws, options, why in (
        ("grid", 65, {}, "draws=65, expected 1 to 64"), ("tpe", 0, {}, "draws=0, expected 1 to 64"),
        ("tpe", 3, {"nonsense": 3}, "'tpe' takes no options, and nonsense was given"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=why):
            table.run(sampler, draws, 0, **options)


def test_a_searcher_that_settles_early_has_a_rank_at_every_point(tmp_path, monkeypatch):
    monkeypatch.setattr(mlp_table, "FOLDER", tmp_path)
    monkeypatch.setattr(mlp_table, "SEARCHES", tmp_path / "search.json")
    evaluate_table(tmp_path / "t.json", {"a": [*range(20)]}, lambda some, seed: {"v": [c["a"] for c in some]})
    monkeypatch.setattr(Table, "run", lambda table, sampler, draws, seed, *, asks: [3, 18, 19, 7, 2, 1, 0])
    mlp_table.search("t", "tpe", 1, 15)
    assert json.loads((tmp_path / "search.json").read_text())["ranks"] == {"t": {"tpe": [[1, 1, 1]]}}


def test_ranks_of_random_search_have_an_even_p():
    """Of 4000 times so many ranks by the law of the best of x: p is below t in no more than a share t, nor far less."""
    g = np.random.default_rng(0)
    for draws, of, seeds in ((50, 1000, 200), (10, 512, 38)):
        law = [chance_of_top(draws, m, of) for m in range(1, of + 1)]
        m = median_rank(draws, of)
        assert law[m - 2] < 0.5 <= law[m - 1]
        ranks = np.searchsorted(law, g.random((4000, seeds))) + 1
        _, first, which = np.unique((ranks <= m).sum(1), return_index=True, return_inverse=True)
        p = np.array([below(ranks[i], draws, of) for i in first])[which]
        for t in (0.5, 0.05, 0.01):
            share, three = (p < t).mean(), 3 * (t * (1 - t) / len(p)) ** 0.5
            assert t / 2 - three < share < t + three
    assert below([1] * 20, 10, 512) < 1e-5
    assert below([512] * 20, 10, 512) == 1


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
    for seeds in (0, -1, 3):
        with pytest.raises(ValueError, match=f"has 2 seeds, and {seeds} are asked for"):
            read_table(path, seeds=seeds)
    for text, why in (
        ("{}", "does not say 'space'"), (about.replace("2,", '"2",') + "]}", "'seeds' is '2'|'seeds' is"),
        (about + batch % (0, "1,2,3") + "]}", "more than 2 choices"), (about + batch % (-1, "1,2") + "]}", "seed -1"),
        (about + '{"seed":0,"first":0}]}', r"batches\[0\].scores"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError, match=why) as refusal:
            read_table(path)
        assert "\n" not in str(refusal.value)


BUGS = [
    Bug("the oldest do not die", "outer/evolution.py",
        ("key=lambda t: t.number)[-self.population :]", "key=lambda t: -t.value)[: self.population]"),
        "test_a_child_differs_from_the_best_of_some_of_the_youngest_in_one_setting"),
    Bug("the parent is the worst where less is better", "outer/evolution.py",
        ("key=lambda t: sign * t.value).params", "key=lambda t: t.value).params"),
        "test_the_parent_is_the_best_of_those_that_live[minimize]"),
    Bug("what has one value is changed", "outer/evolution.py",
        ("if not each.single()}", "}"), "test_a_child_differs_from_the_best_of_some_of_the_youngest_in_one_setting"),
]  # fmt: skip
