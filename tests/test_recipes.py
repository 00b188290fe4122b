"""Recipes are declared, found by themselves, told without torch; a run and a predictor hold their settings."""

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mutations import Bug
from tiny import make_run
from torch.testing import assert_close

import metaloop as ml
from metaloop.cli import main
from metaloop.engine.run import read_info
from metaloop.recipes import RECIPES, SYSTEMS, Outline, find
from metaloop.recipes.data import Protocol
from metaloop.recipes.plan import tuples
from metaloop.recipes.stored import load_predictor, open_run, save_predictor
from metaloop.report.results import Entry

ROOT = Path(__file__).resolve().parent.parent
BEFORE = ROOT / "tests" / "fixtures" / "made_before"  # by a version that did not keep settings yet
ANSWERS = json.loads((BEFORE / "answers.json").read_text())


# Runs and predictors hold their settings


def examples(shape, ways: int, shots: int, queries: int, kind: str) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(ways).repeat(shots)
    x = torch.rand(ways * shots, *shape, generator=g)
    query = torch.rand(ways * queries, *shape, generator=g)
    return x, (torch.rand(ways * shots, 1, generator=g) if kind == "regression" else y), query


def answers(run: ml.Run) -> torch.Tensor:
    row, pool = run.plan.rows[0], run.info["pool"]
    x, y, query = examples(pool["shape"], row.ways, 2, 1, pool["kind"])
    S: Any = ml.Problem(x, y, {"weight": torch.zeros(1, 10)}) if "optimizer" in run.info["recipe"] else ml.Data(x, y)
    with torch.no_grad():
        return run.learner.adapt(run.theta, S)(query).flatten()


@pytest.mark.parametrize("name", [name for name in ANSWERS if not name.endswith(".safetensors")])
def test_a_run_made_before_settings_were_kept_answers_the_same(name):
    run = open_run(BEFORE / name)
    assert "settings" not in run.info
    assert_close(answers(run), torch.tensor(ANSWERS[name]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in ANSWERS if name.endswith(".safetensors")])
def test_a_predictor_made_before_settings_were_kept_answers_the_same(name):
    f, about = load_predictor(BEFORE / name)
    assert about["classes"] == ["a", "b", "c"]
    *_, query = examples(about["pool"]["shape"], 3, 2, 2, "classification")
    with torch.no_grad():
        assert_close(f(query).flatten(), torch.tensor(ANSWERS[name]), rtol=1e-4, atol=1e-4)


def changed(monkeypatch, name: str, **settings) -> None:
    """The recipe as a later version might have it: other settings in each budget."""
    recipe = RECIPES[name]
    budgets = {budget: {**known, **settings} for budget, known in recipe.budgets.items()}
    monkeypatch.setitem(RECIPES, name, replace(recipe, budgets=budgets))


def test_a_run_and_its_predictor_open_after_the_budget_has_changed(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", "maml-glyphs", Outlined(), budget="smoke", steps=1)
    x, y, query = examples((1, 28, 28), 3, 2, 2, "classification")
    kept = save_predictor(tmp_path / "f.safetensors", run, x, y, ["a", "b", "c"])
    changed(monkeypatch, "maml-glyphs", width=8, test_steps=1)
    opened, (f, about) = open_run(tmp_path / "run"), load_predictor(tmp_path / "f.safetensors")
    assert about["settings"]["width"] == opened.info["settings"]["width"] == 32
    with torch.no_grad():
        assert_close(f(query), kept(query))
    assert_close(answers(opened), answers(run))
    fresh = find("maml-glyphs").plan(Outline((1, 28, 28), 20), budget="smoke")
    assert max(p.shape[0] for p in fresh.learner.init(0).values()) == 8  # the change does count for new runs


class Outlined(ml.tasks.Pool):
    """Noise of twenty classes, without a file."""

    name, shape, classes, device = "noise", (1, 28, 28), 20, torch.device("cpu")

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> ml.Task:
        def data(n: int) -> ml.Data:
            y = torch.arange(ways).repeat_interleave(n).expand(tasks, -1)
            return ml.Data(torch.rand(*y.shape, *self.shape, generator=generator), y)

        return ml.Task(data(shots), data(queries))

    def to(self, device) -> "Outlined":
        return self


def test_a_run_is_resumed_with_its_settings_and_refused_with_others(tmp_path, monkeypatch, capsys):
    def train(*more: str) -> int:
        words = ["train", "meta-rnn-boolean", "--out", str(tmp_path / "run"), "--tasks", "2", "--steps", "2"]
        return main([*words, *more])

    assert train("--budget", "smoke") == 0
    assert read_info(tmp_path / "run")["settings"]["hidden"] == 4
    changed(monkeypatch, "meta-rnn-boolean", hidden=5)
    assert train("--resume") == 0
    assert read_info(tmp_path / "run")["settings"]["hidden"] == 4
    capsys.readouterr()
    assert train("--resume", "--budget", "smoke") == 2
    told = capsys.readouterr().err
    assert "was started with settings.hidden=4, now it is 5" in told


def test_a_run_of_other_settings_than_a_recipe_takes_is_refused(tmp_path):
    make_run(tmp_path / "run", "meta-rnn-boolean")
    info = read_info(tmp_path / "run")
    for settings, told in (
        ({**info["settings"], "depth": 2}, "meta-rnn-boolean was made with other settings.*depth"),
        ({**info["settings"], "hidden": "x"}, "run.json: "),
        (3, "is damaged: 'settings' is '3'"),
    ):
        (tmp_path / "run" / "run.json").write_text(json.dumps({**info, "settings": settings}))
        with pytest.raises(ValueError, match=told):
            open_run(tmp_path / "run")


@pytest.mark.parametrize("name", RECIPES)
def test_settings_survive_json(name):
    for budget in ("smoke", "quick", "full"):
        settings = find(name).settings(budget)
        assert not {"steps", "published"} & set(settings)
        assert {key: tuples(value) for key, value in json.loads(json.dumps(settings)).items()} == settings


# Recipes are declared


@pytest.mark.parametrize("name", RECIPES)
def test_published_figures_stand_beside_the_rows_they_are_about(name):
    recipe = find(name)
    plan = recipe.plan(recipe.data.outline())
    beside = [(row.label, row.published, row.published_ci) for row in plan.rows if row.published is not None]
    assert beside == [(figure.label, figure.published, figure.published_ci) for figure in recipe.rows()]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_module_of_recipes_is_named_like_its_learner_or_outer_loop(system):
    folders = [folder for folder in ("learners", "outer") if (ROOT / "metaloop" / folder / f"{system}.py").exists()]
    assert len(folders) == 1
    assert system in {recipe.system for recipe in RECIPES.values()}
    source = (ROOT / "metaloop" / "recipes" / f"{system}.py").read_text()
    assert re.search(rf"\bml\.{system}\(|outer=ml\.{system}\b", source)


def test_names_are_given_once():
    listed = [
        recipe for system in SYSTEMS for recipe in vars(sys.modules[f"metaloop.recipes.{system}"])["RECIPES"]
    ]
    assert len(listed) == len(RECIPES)


DATA = {repr(recipe.data): recipe.data for recipe in RECIPES.values()}


@pytest.mark.parametrize("data", DATA.values(), ids=lambda data: data.name)
def test_what_is_declared_of_data_is_what_they_are(data: Protocol):
    real = re.search("omniglot|mnist|imagenet", data.name)
    if real and not os.environ.get("METALOOP_DATA"):
        pytest.skip("needs the real data sets: METALOOP_DATA")
    if data.name == "mini_imagenet" and not list(Path(os.environ["METALOOP_DATA"], "mini_imagenet").glob("*.zip")):
        pytest.skip("METALOOP_DATA holds no mini_imagenet")
    if data.name == "multi30k":
        pytest.skip("tests/test_translation.py has it, at a size that takes no time")
    pool, outline = data(), data.outline()
    assert (pool.shape, pool.train.classes, pool.kind) == (outline.shape, outline.classes, outline.kind)


# They are told without torch


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_recipes_are_told_without_torch():
    """So that it takes little: the modules are counted, since a clock would tell of the machine."""
    code = (
        "import sys, metaloop.cli\nassert metaloop.cli.main(['recipes']) == 0\nprint(*sys.modules)\n"
        "if sys.platform == 'linux': print(*[line for line in open('/proc/self/status') if 'VmHWM' in line])"
    )  # fmt: skip
    *_, modules, peak = fresh(code).strip().splitlines() + ["VmHWM: 0 kB"] * (sys.platform != "linux")
    loaded = modules.split()
    assert "metaloop.recipes.maml" in loaded
    assert not {name.split(".")[0] for name in loaded} & {"torch", "numpy", "PIL", "rich", "sklearn", "jaxtyping"}
    assert len(loaded) < 250  # Python's own and ours; torch alone brings over a thousand
    assert int(peak.split()[1]) < 60_000  # kB


def test_a_new_module_is_found_without_a_list(tmp_path):
    """A second folder of the package stands for a file put into it."""
    source = (ROOT / "metaloop" / "recipes" / "meta_rnn.py").read_text()
    (tmp_path / "mine.py").write_text(source.replace("meta-rnn-", "mine-"))
    code = (
        "import importlib.util, sys, metaloop\n"
        "spec = importlib.util.find_spec('metaloop.recipes')\n"
        f"spec.submodule_search_locations.append({str(tmp_path)!r})\n"
        "package = importlib.util.module_from_spec(spec)\n"
        "sys.modules['metaloop.recipes'] = package\nspec.loader.exec_module(package)\n"
        "print(package.find('mine-boolean').system, len(package.SYSTEMS))"
    )  # fmt: skip
    assert fresh(code).split() == ["mine", str(len(SYSTEMS) + 1)]


def test_no_recipe_imports_torch_at_its_top():
    for system in SYSTEMS:
        tree = ast.parse((ROOT / "metaloop" / "recipes" / f"{system}.py").read_text())
        top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
        top |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        assert not [name for name in top if name and name.split(".")[0] == "torch"], system


# What is kept of scores


def test_entries_of_results_keep_the_form_of_their_files():
    paths = sorted((ROOT / "results").glob("*-seed[0-9]*.json"))
    assert paths
    forms = set()
    for path in paths:
        for told in json.loads(path.read_text())["evaluation"]:
            kept = Entry(**told).to_json()
            assert list(kept.items()) == list(told.items()), path.name
            forms.add(tuple(told))
    assert len(forms) > 1  # older ones lack keys


OPENS = "test_a_run_and_its_predictor_open_after_the_budget_has_changed"
BUGS = [
    Bug("a run is opened by its budget as it is today", "recipes/stored.py",
        ("if made.settings is not None else", "if False else"), OPENS),
    Bug("a predictor does not keep its settings", "recipes/stored.py",
        ('names = ("recipe", "settings", ', 'names = ("recipe", '), OPENS),
    Bug("lists of settings stay lists", "recipes/plan.py",
        ("return tuple(map(tuples, value)) if", "return value if"), "test_settings_survive_json[oml-omniglot]"),
    Bug("a run is resumed with whatever settings", "engine/run.py",
        ("in differences(recorded, given):", "in ():"),
        "test_a_run_is_resumed_with_its_settings_and_refused_with_others"),
    Bug("a figure stands beside each row", "recipes/plan.py",
        ("figures.get(row.label)", "self.published[0] if self.published else None"),
        "test_published_figures_stand_beside_the_rows_they_are_about[snail-omniglot-5w]"),
]  # fmt: skip
