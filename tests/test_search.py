"""Search: its law, its spaces, trials that survive their workers, and what a searcher is held to."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from optuna.trial import TrialState
from tiny import files

import metaloop as ml
from metaloop.cli import main
from metaloop.outer import (
    chance_of_top,
    draws_for_top,
    evaluate_table,
    expected_best,
    expected_rank,
    read_table,
)
from metaloop.outer import search_study as studies
from metaloop.outer.search import Shuffled, _read
from metaloop.outer.search_prune import blocks, worse
from metaloop.outer.search_space import Choice, Range, cell, cells, read_space, told, value
from metaloop.outer.search_subject import checked, subject_of

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("quick")


# The law of random search


def test_the_law_has_its_figures():
    assert chance_of_top(230, 10, 1000, replacement=True) == pytest.approx(0.9009, abs=5e-5)
    assert chance_of_top(229, 10, 1000, replacement=True) < 0.9
    assert chance_of_top(230, 10, 1000) == pytest.approx(0.9277, abs=5e-5)
    assert [draws_for_top(0.9, 10, 1000, replacement=r) for r in (True, False)] == [230, 205]
    assert [draws_for_top(0.9, 100, 1000, replacement=r) for r in (True, False)] == [22, 22]
    assert [draws_for_top(p, 5, 5) for p in (0.1, 0.999)] == [1, 1]
    assert expected_rank(50, 1000) == 1001 / 51
    assert expected_rank(1, 10) == expected_rank(1, 10, replacement=True) == 5.5


@pytest.mark.parametrize("replacement", [True, False])
def test_the_law_is_what_draws_do(replacement):
    """10 000 searches: within three standard errors of their mean."""
    N, K, x, runs = 60, 4, 7, 10_000
    g = np.random.default_rng(0)
    draws = g.integers(1, N + 1, (runs, x)) if replacement else g.random((runs, N)).argsort(1)[:, :x] + 1
    best = draws.min(1)
    for found, law in (
        (best <= K, chance_of_top(x, K, N, replacement=replacement)),
        (best, expected_rank(x, N, replacement=replacement)),
    ):
        assert abs(found.mean() - law) < 3 * found.std() / math.sqrt(runs)


@pytest.mark.parametrize("higher", [True, False])
def test_the_expected_best_is_the_mean_over_all_orders(higher):
    scores = [0.3, -1.0, 4.0, 1.5, 0.3]
    for x, found in enumerate(expected_best(scores, higher=higher), 1):
        each = [(max if higher else min)(some) for some in combinations(scores, x)]
        assert found == pytest.approx(sum(each) / len(each), abs=1e-12)


@pytest.mark.parametrize("call", [
    lambda: chance_of_top(11, 2, 10), lambda: chance_of_top(-1, 2, 10), lambda: chance_of_top(1, 11, 10),
    lambda: draws_for_top(1.0, 1, 10), lambda: expected_rank(0, 10), lambda: expected_best([]),
])  # fmt: skip
def test_the_law_refuses_what_it_does_not_say(call):
    with pytest.raises(ValueError, match=r"\d|no scores"):
        call()


# The space


def test_a_space_is_read_and_told():
    texts = ["inner_lr=1e-3..1:log", "inner_steps=1,2,5", "hidden=[64,64],[32]", "width=8..16", "norm=group,none"]
    texts += ["p=-1..0.5"]
    space = read_space(texts)
    assert space == {
        "inner_lr": Range(1e-3, 1.0, log=True), "inner_steps": Choice((1, 2, 5)), "hidden": Choice(((64, 64), (32,))),
        "width": Range(8, 16, whole=True), "norm": Choice(("group", None)), "p": Range(-1, 0.5),
    }  # fmt: skip
    assert read_space(told(space)) == space
    assert read_space({"width": [1, 2], "rate": "0..1", "norm": Choice(("a",))}) == {
        "width": Choice((1, 2)), "rate": Range(0, 1, whole=True), "norm": Choice(("a",))
    }  # fmt: skip


def test_values_are_of_the_kind_that_a_function_says():
    told = {"inner_lr": "0..1", "width": "1..4"}
    subject = subject_of(fine_tuned, POOL, "full", {}, {})
    assert checked(read_space(told), subject.read) == {"inner_lr": Range(0.0, 1.0), "width": Range(1, 4, whole=True)}
    assert not checked(read_space(told), subject.read)["inner_lr"].whole


def test_cells_are_all_choices_once():
    space = read_space(["hidden=[8],[8,8]", "width=3..5", "norm=group,none"])
    assert cells(space) == 12
    assert cells(read_space(["rate=0.0..1"])) is None
    found = [{n: value(space[n], label) for n, label in cell(space, i).items()} for i in range(12)]
    assert len({json.dumps(each) for each in found}) == 12
    assert found[0] == {"hidden": (8,), "width": 3, "norm": "group"}
    assert found[-1] == {"hidden": (8, 8), "width": 5, "norm": None}


@pytest.mark.parametrize(("text", "why"), [
    ("inner_lr", "expected NAME=VALUES"), ("inner_lr=", "expected NAME=VALUES"),
    ("a=1..0.1", "range is empty, 1 is not below"),
    ("a=2..2", "range is empty"), ("a=0..1:log", "wants a range above 0"), ("a=-1..1:log", "wants a range above 0"),
    ("a=1..b", "from a number to a number"), ("a=1..2:sqrt", "not in ':sqrt'"), ("a=1,,2", "a value is missing"),
    ("a=[1,2", "bracket is open"), ("a=1,1", "stands there twice"), ("a=1..1e999", "two ends"),
])  # fmt: skip
def test_what_is_no_space_is_refused_in_one_line(text, why):
    with pytest.raises(ValueError, match=why.replace("..", r"\.\.")) as refusal:
        read_space([text])
    assert "\n" not in str(refusal.value)


# Trials among workers


SPACE = ["rate=1e-3..1:log", "width=1..40", "norm=a,b,c"]


def share(path: Path, workers: int, sampler: str, space: list[str], trials: int) -> list[dict]:
    """What trials are tried, by number, when workers take turns as chance has it. Nothing is trained."""
    dimensions, chance = read_space(space), random.Random(workers)
    team = []
    for i in range(workers):  # each with a study object and a home of its own, as processes have
        store = studies.open_store(path / f"{workers}.journal")
        study = studies.open_study(store, "s", {"space": told(dimensions)}, higher=True)
        study.sampler = studies.make_sampler(sampler, dimensions, trials, seed=7)
        team.append((store, study, studies.Home(path / f"home-{workers}-{i}", {})))
    busy, tried = [], {}
    while team or busy:
        if busy and (not team or chance.random() < 0.5):
            study, trial, lock = busy.pop(chance.randrange(len(busy)))
            study.tell(trial, chance.random())
            lock.release()
            continue
        store, study, home = worker = chance.choice(team)
        taken = studies.next_trial(store, study, home, trials)
        if taken is None:
            team.remove(worker)
        else:
            tried[taken[0].number] = studies.suggest(taken[0], dimensions)
            busy.append((study, *taken))
    return [tried[i] for i in sorted(tried)]


def test_random_search_is_the_same_for_any_number_of_workers(tmp_path):
    with studies.quiet():
        one, two, eight = (share(tmp_path, workers, "random", SPACE, 24) for workers in (1, 2, 8))
    assert one == two == eight
    assert len({json.dumps(each) for each in one}) == 24


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_a_finite_space_is_covered_once_by_any_number_of_workers(sampler, tmp_path):
    space = ["width=1,2,3,4", "norm=a,b,c"]
    with studies.quiet():
        three = share(tmp_path, 3, sampler, space, 12)
    found = [json.dumps(each) for each in three]
    assert sorted(found) == sorted(json.dumps(cell(read_space(space), i)) for i in range(12))
    assert (found == [json.dumps(cell(read_space(space), i)) for i in range(12)]) == (sampler == "grid")


def test_workers_of_one_seed_do_not_draw_alike(tmp_path):
    """By TPE, whose first ten trials are drawn at random."""
    with studies.quiet():
        tried = share(tmp_path, 2, "tpe", SPACE, 16)
    assert len({json.dumps(each) for each in tried}) == 16


# Searches


POOL = ml.tasks.gaussians()
QUICK = {"steps": 3, "tasks": 2, "ways": 3, "shots": 2, "queries": 3, "device": "cpu", "progress": False}
QUICK |= {"validation_tasks": 30, "test_tasks": 10}


def fine_tuned(inner_lr: float, width: int = 4) -> ml.Learner:
    return ml.maml(*ml.functional(ml.nn.mlp((2, width, 3))), inner_lr=inner_lr)


def kept(found: ml.outer.Found) -> list[tuple]:
    return [(t.number, t.settings, t.state, t.score, t.per_task) for t in found.trials]


def test_the_best_on_validation_tasks_is_tested_once(tmp_path, monkeypatch):
    space = {"inner_lr": "0.01..3:log", "width": [2, 4]}
    found = ml.search(fine_tuned, space, POOL, trials=4, sampler="random", out=tmp_path / "s", **QUICK)
    assert found.complete
    assert found.best == max(found.trials, key=lambda t: t.score or 0)
    assert all(len(t.per_task) == 30 and t.score == pytest.approx(sum(t.per_task) / 30) for t in found.trials)
    assert found.run is not None
    (score,) = found.test.values()
    again = ml.evaluate(found.run.learner, found.run.theta, POOL, tasks=10, ways=3, shots=2, queries=3)
    assert score.per_task.tolist() == pytest.approx(again.per_task.tolist())
    how = {name: given for name, given in QUICK.items() if not name.endswith("_tasks")}
    alone = ml.fit(fine_tuned(**found.best.settings), POOL, **how)
    assert all(torch.equal(a, b) for a, b in zip(found.run.theta.values(), alone.theta.values(), strict=True))

    before = files(tmp_path / "s")
    monkeypatch.setattr("metaloop.recipes.plan.Row.score", None)  # nothing is evaluated again
    same = ml.search(fine_tuned, space, POOL, trials=4, sampler="random", out=tmp_path / "s", **QUICK)
    assert kept(same) == kept(found)
    assert [s.mean for s in same.test.values()] == pytest.approx([s.mean for s in found.test.values()])
    assert files(tmp_path / "s") == before


def test_what_diverges_is_told_and_is_no_score(tmp_path):
    how = {**QUICK, "sampler": "grid", "prune": True}
    found = ml.search(fine_tuned, {"inner_lr": [0.1, 1e30], "width": [4, -1]}, POOL, trials=4, out=tmp_path, **how)
    assert [t.state for t in found.trials] == ["done", "refused", "diverged", "refused"]
    assert [t.score is None for t in found.trials] == [False, True, True, True]
    assert found.best == found.trials[0]
    assert "not finite" in found.trials[2].why
    with pytest.raises(ValueError, match="no trial came to a score"):
        ml.search(fine_tuned, {"inner_lr": [1e30]}, POOL, trials=1, out=tmp_path / "other", **QUICK)


def test_the_same_settings_are_not_trained_twice(tmp_path):
    found = ml.search(fine_tuned, {"inner_lr": [0.1, 0.2]}, POOL, trials=5, out=tmp_path, **QUICK)
    runs = [path.name for path in tmp_path.glob("trial-*") if (path / "run.json").exists()]
    assert len(runs) == 2
    assert len({(t.settings["inner_lr"], t.score) for t in found.trials}) == 2
    assert found.best is not None
    assert f"trial-{found.best.number:04d}" in runs


WORKER = """
import os, signal, sys
from metaloop.engine.session import Session
sys.path.insert(0, {tests!r})
import test_search as t

save = Session.save

def save_and_die(session):
    save(session)
    if session.run.step == 3:
        os.kill(os.getpid(), signal.SIGKILL)

Session.save = save_and_die
t.survivor(sys.argv[1])
"""


def survivor(out) -> ml.outer.Found:
    how = {**QUICK, "steps": 6, "checkpoint_every": 1}
    return ml.search(fine_tuned, {"inner_lr": [0.1, 0.2]}, POOL, trials=2, sampler="grid", out=out, **how)


def test_a_killed_worker_leaves_a_trial_that_the_next_takes_up_to_the_same_weights(tmp_path):
    """kill -9 in the midst of training; the next worker goes on where it was, and it is no further trial."""
    code, trial = WORKER.format(tests=str(ROOT / "tests")), tmp_path / "s" / "trial-0000"
    worker = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], cwd=ROOT, capture_output=True)
    assert worker.returncode == -signal.SIGKILL, worker.stderr
    assert [path.name[-13] for path in sorted(trial.glob("checkpoint-*"))] == ["2", "3"]
    before = (trial / "run.json").read_bytes()
    found, whole = survivor(tmp_path / "s"), survivor(tmp_path / "w")
    assert (trial / "run.json").read_bytes() == before  # gone on with, not begun anew
    assert len((trial / "metrics.jsonl").read_text().splitlines()) == 6
    assert [t.state for t in found.trials] == ["done", "done"]
    assert kept(found) == kept(whole)
    ours, theirs = (ml.Run.open(tmp_path / each / "trial-0000", fine_tuned(0.1)) for each in ("s", "w"))
    assert ours.step == theirs.step == 6
    assert all(torch.equal(a, b) for a, b in zip(ours.theta.values(), theirs.theta.values(), strict=True))


def test_a_worker_that_dies_as_it_chooses_leaves_its_number(tmp_path):
    dimensions = read_space(SPACE)
    with studies.quiet():
        store = studies.open_store(tmp_path / "j")
        study = studies.open_study(store, "s", {}, higher=True)
        study.sampler = studies.make_sampler("random", dimensions, 2, 0)
        study.ask()  # and no more: it has neither a place nor settings
        home = studies.Home(tmp_path / "home", {})
        (first, lock), other = studies.next_trial(store, study, home, 2), studies.next_trial(store, study, home, 2)
        assert first.number == 0
        assert other is not None
        assert other[0].number == 1
        assert studies.suggest(first, dimensions) != studies.suggest(other[0], dimensions)
        elsewhere = studies.Home(tmp_path / "elsewhere", {})
        lock.release()
        assert studies.next_trial(store, study, elsewhere, 2) is None  # it is of another disk
        adopted = studies.next_trial(store, study, elsewhere, 2, adopt=True)
    assert adopted is not None
    assert adopted[0].number == 0
    other[1].release()
    adopted[1].release()


def test_a_journal_whose_last_line_is_cut_goes_on(tmp_path):
    """What a kill in the midst of a line leaves: the rest is there, the end is put aside."""
    how = {**QUICK, "trials": 2, "sampler": "grid", "out": tmp_path}
    found = ml.search(fine_tuned, {"inner_lr": [0.1, 0.2]}, POOL, **how)
    journal = tmp_path / "search.journal"
    data = journal.read_bytes()
    middle = len(data) // 2
    while data[middle - 1 : middle] == b"\n":
        middle += 1
    journal.write_bytes(data[:middle])
    with pytest.warns(UserWarning, match=r"search\.journal was cut short in its last line, .*search\.journal\.cut"):
        again = ml.search(fine_tuned, {"inner_lr": [0.1, 0.2]}, POOL, **how)
    assert [t[1:] for t in kept(again)] == [t[1:] for t in kept(found)]
    assert data[:middle].endswith((tmp_path / "search.journal.cut").read_bytes())


@pytest.mark.parametrize(("attributes", "params", "values", "why"), [
    ({"per_task": "all"}, {}, [1.0], "'per_task' is 'all', expected a list"),
    ({"why": 3}, {}, [1.0], "'why' is 3|'why' is '3', expected text"),
    ({}, {"lr": "0.3"}, [1.0], "its settings or score are none"),
    ({}, {"lr": "0.1"}, ["much"], "its settings or score are none"),
])  # fmt: skip
def test_a_trial_of_another_form_is_one_line(attributes, params, values, why):
    space = read_space({"lr": [0.1, 0.2]}, known=["lr"])
    trial = SimpleNamespace(number=3, user_attrs=attributes, params=params, value=values[0], state=TrialState.COMPLETE)
    with pytest.raises(ValueError, match=rf"search: trial 3 of a.journal is damaged: ({why})"):
        _read(trial, space, "a.journal")


# PostgreSQL


@pytest.fixture(scope="module")
def server():
    """A real PostgreSQL of this machine's packages, on a socket of its own; as another user where this one is root."""
    import tempfile

    pytest.importorskip("psycopg")
    found = [shutil.which("initdb"), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
    binaries = next((Path(path).resolve().parent for path in reversed(found) if path), None)
    if binaries is None:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, "nobody", "nogroup")

    def do(*words: str) -> None:
        subprocess.run([binaries / words[0], *words[1:]], check=True, cwd=folder, stdout=subprocess.DEVNULL, **user)

    data = str(folder / "data")
    try:
        do("initdb", "-D", data, "-U", "me", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c shared_buffers=1MB -c max_connections=20"
        do("pg_ctl", "-D", data, "-o", options, "-w", "-l", str(folder / "log"), "start")
        yield f"postgresql://me@/postgres?host={folder}"
        do("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_workers_share_a_server(server, tmp_path):
    """Two workers without a common disk: the second does what the first has not, and the study is one."""
    how = {**QUICK, "sampler": "random", "storage": server, "name": "two"}
    space = {"inner_lr": [0.1, 0.2, 0.3]}
    ml.search(fine_tuned, space, POOL, trials=2, out=tmp_path / "a", **how)
    found = ml.search(fine_tuned, space, POOL, trials=3, out=tmp_path / "b", **how)
    assert found.complete
    assert [(tmp_path / "a" / f"trial-000{i}").exists() for i in range(3)] == [True, True, False]
    assert [(tmp_path / "b" / f"trial-000{i}").exists() for i in range(3)] == [False, False, True]
    alone = ml.search(fine_tuned, space, POOL, trials=3, sampler="random", out=tmp_path / "c", **QUICK)
    assert kept(found) == kept(alone)
    with pytest.raises(ValueError, match=r"study 'two' in postgresql://.* was begun with space inner_lr=0.1,0.2,0.3"):
        ml.search(fine_tuned, {"inner_lr": [0.1, 0.2, 0.4]}, POOL, trials=3, out=tmp_path / "d", **how)


def test_a_server_that_is_not_there_is_told(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(ValueError, match=r"the storage postgresql://me:\*\*\*@127\.0\.0\.1:9/x cannot be reached"):
        studies.open_store("postgresql://me:secret@127.0.0.1:9/x")


# Tasks in pairs


def test_the_tasks_of_a_search_are_the_same_however_they_are_asked_for():
    whole = Shuffled(POOL, range(20), 3).sample(20, 3, 2, 4)
    part = Shuffled(POOL, range(7, 12), 3).sample(5, 3, 2, 4)
    assert torch.equal(part.query.x, whole.query.x[7:12])
    assert [(part.start, part.stop) for part in blocks(130)] == [(0, 10), (10, 20), (20, 40), (40, 80), (80, 130)]
    fixed = ml.tasks.FixedPool(whole, ways=3, shots=2, queries=4, name="fixed")
    mixed = Shuffled(fixed, range(20), 0).sample(20, 3, 2, 4).query.x
    assert not torch.equal(mixed, whole.query.x)
    assert torch.equal(mixed.flatten(1).sort(0).values, whole.query.x.flatten(1).sort(0).values)


def test_easy_tasks_do_not_mislead_pairs():
    """Easy tasks first: the new trial's mean so far is above the best's over all, and it is worse on every task."""
    best = [0.9] * 10 + [0.5] * 30
    assert worse([0.85] * 10, best, higher=True)
    assert not worse([0.95] * 10, best, higher=True)
    assert not worse(best[:10], best, higher=True)
    assert worse([0.95] * 10, best, higher=False)


def test_pruning_chooses_the_same_for_half_the_tasks(monkeypatch):
    """On stored scores of a recipe, in 20 orders of trials and tasks; four of them are gone through again."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "search", raising=False)
    import search as measured

    kept = json.loads((ROOT / "results" / "search-pruning.json").read_text())
    found, shares = measured.prunings(kept, seeds=4), kept["share of tasks scored"]
    assert [round(share, 4) for _, share in found] == shares[:4]
    assert all(same for same, _ in found)
    assert kept["same choice"] == len(shares) == 20
    assert sum(shares) / 20 <= 0.5


# Tables


def test_a_table_is_evaluated_once_and_searched(tmp_path):
    calls = []

    def score(choices, seed):
        calls.append((len(choices), seed))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"validation": [c["a"] - abs(c["b"] - 2) + 0.01 * seed for c in choices[:-1]] + [float("nan")]}

    space, path = {"a": [1, 2, 3, 4], "b": [0, 1, 2, 3, 4]}, tmp_path / "t.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate_table(path, space, score, seeds=2, batch=10)
    with pytest.raises(ValueError, match="not whole"):
        read_table(path)
    table = evaluate_table(path, space, score, seeds=2, batch=10)
    assert calls == [(10, 0), (10, 0), (10, 1), (10, 1), (10, 1)]
    assert table.ranks()[17] == 1
    assert table.settings(17) == {"a": 4, "b": 2}
    assert sorted(table.ranks()) == list(range(1, 21))
    assert set(table.ranks()[[9, 19]]) == {19, 20}  # they diverged
    assert table.noise()["over seeds"] == pytest.approx(0.01 / math.sqrt(2))
    assert table.noise()["tau"] == pytest.approx(1.0)
    assert table.run("grid", 20, 0) == list(range(20))
    assert sorted(table.run("random", 20, 0)) == list(range(20))
    assert len(set(table.run("tpe", 12, 0))) == 12
    assert table.run("tpe", 12, 0) == table.run("tpe", 12, 0) != table.run("tpe", 12, 1)
    with pytest.raises(ValueError, match="another table: its seeds is 2, now it is 3"):
        evaluate_table(path, space, score, seeds=3)


def test_the_page_has_the_figures_of_the_results_files(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import mlp_table

    page = (ROOT / "docs" / "search.md").read_text()
    assert page.split("<!-- table A -->\n")[1].split("<!-- /table A -->")[0] == mlp_table.show()


# The command line


RECIPE = "maml-sinusoid-5shot"
COMMON = ["--budget", "smoke", "--validation-tasks", "10", "--device", "cpu"]


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        status = main(["search", *words])
        told = capsys.readouterr()
        return status, told.out, told.err.splitlines()

    return call


def test_a_search_ends_in_a_report_and_a_command(call, tmp_path):
    space = ["--space", "inner_lr=1e-4..10:log", "--space", "tasks=2,3"]
    words = [RECIPE, *COMMON, *space, "--trials", "5", "--prune", "--tasks", "4", "--out", "s"]
    status, told, lines = call(*words)
    assert status == 0, lines
    assert told.startswith("best: mean squared error")
    assert any(line.startswith("trial 5/5  best so far") for line in lines)
    (command,) = [line.removeprefix("next: ") for line in lines if line.startswith("next: ")]
    page = (tmp_path / "s" / "search.html").read_text()
    for what in ("Best so far", "random order", "Importance of each setting", "inner_lr=0.0001..10:log", "way best",
                 command, "prefers-color-scheme: dark"):  # fmt: skip
        assert what in page, what
    assert "<script" not in page
    assert page.count('<path class="way') + page.count('<path class="lost') == 5
    status, _, _ = call(*words)
    assert status == 0

    from metaloop.recipes.stored import open_run

    best = told.split("trial ")[1].split(":")[0]
    ours = open_run(tmp_path / "s" / f"trial-{int(best):04d}")
    assert main([*command.split()[1:], "--tasks", "2", "--device", "cpu", "--out", "alone"]) == 0
    alone = open_run(tmp_path / "alone").theta
    assert all(torch.equal(a, b) for a, b in zip(ours.theta.values(), alone.values(), strict=True))


@pytest.mark.parametrize(("words", "why"), [
    ([], "say what may be chosen"),
    (["--space", "inner_rl=1,2"], "there is no setting 'inner_rl'. Did you mean 'inner_lr'?"),
    (["--space", "inner_lr=1..0.1"], "the range is empty"),
    (["--space", "inner_lr=0..1:log"], "a logarithm wants a range above 0"),
    (["--space", "inner_lr=a,b"], "expected a number"),
    (["--space", "tasks=1,2,3", "--sampler", "grid", "--trials", "2"], "has 3 cells, more than 2 trials. Ask for 3"),
    (["--space", "tasks=1,2", "--sampler", "grid"], "there are 2 choices in all, fewer than 20 trials"),
    (["--space", "inner_lr=0.1..1", "--sampler", "grid"], "a grid wants values"),
    (["--space", "tasks=1,2", "--storage", "mysql://a@b/c"], "expected a journal file or postgresql://"),
    (["--space", "tasks=1,2", "--storage", "."], "is a folder"),
    (["--space", "tasks=1,2", "--storage", "damaged"], "damaged is damaged, or no journal: line 2"),
    (["--space", "tasks=1,2", "--storage", "mine.txt"], "mine.txt is damaged, or no journal: its last line is none"),
    (["--space", "inner_lr=0.1..1", "--device", "quantum"], "device 'quantum' is unknown"),
    (["--space", "inner_lr=0.1..1", "--seed", "9" * 30], "is out of range: give one of at most 18 digits"),
    (["--space", "tasks=1,2", "--storage", "other"], "other is damaged: Optuna cannot read its lines ('op_code')"),
])  # fmt: skip
def test_bad_input_is_one_line(words, why, call, tmp_path):
    (tmp_path / "damaged").write_text('{"op_code":0}\nno json\n{}\n')
    (tmp_path / "other").write_text('{"x": [1]}\n')
    (tmp_path / "mine.txt").write_text("what I know")
    status, told, lines = call(RECIPE, *COMMON, *words)
    assert (status, told) == (2, "")
    assert len(lines) == 1, lines
    assert why in lines[0]
    assert not (tmp_path / "runs").exists()
    assert (tmp_path / "mine.txt").read_text() == "what I know"


def test_another_search_of_the_same_name_is_refused(call, tmp_path):
    words = [RECIPE, *COMMON, "--trials", "1", "--tasks", "2", "--storage", "one.journal"]
    assert call(*words, "--space", "tasks=2,3")[0] == 0
    before = files(tmp_path)
    status, told, (line,) = call(*words, "--space", "tasks=2,4", "--out", "other")
    assert (status, told) == (2, "")
    assert line == (
        f"metaloop: search: the study '{RECIPE}' in one.journal was begun with space tasks=2,3, now it is tasks=2,4. "
        "Choose another name."
    )
    status, told, (line,) = call(*words, "--space", "tasks=2,3", "--seed", "1")
    assert "was begun with seed 0, now it is 1" in line
    assert {n: v for n, v in files(tmp_path).items() if not n.startswith("other")} == before


def test_a_missing_optuna_is_told_in_one_line(call, monkeypatch):
    monkeypatch.delitem(sys.modules, "metaloop.outer.search_study")
    monkeypatch.delattr(ml.outer, "search_study", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    _, _, lines = call(RECIPE, *COMMON, "--space", "tasks=1,2")
    assert lines == ["metaloop: search: Optuna is not installed: pip install 'metaloop[search]'."]
