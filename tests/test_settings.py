"""A recipe's settings: told, read from text, kept; what every table says in JSON too."""

import json
import re

import pytest
import torch
from mutations import Bug

from metaloop.cli import main
from metaloop.engine.run import read_info
from metaloop.recipes import RECIPES, find, settings
from metaloop.recipes.keywords import read

pytestmark = pytest.mark.usefixtures("quick")


def as_text(value) -> str:
    """A value as a person would type it."""
    if isinstance(value, tuple) and value and not isinstance(value[0], tuple):
        return ",".join(map(as_text, value))
    return value if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize("name", RECIPES)
def test_every_setting_of_every_recipe_is_read_from_text(name):
    """Typing a budget's settings gives that budget's settings."""
    recipe = find(name)
    for budget in recipe.budgets:
        known = recipe.settings(budget)
        assert {n: s.values[budget] for n, s in settings(recipe).items()} == known
        assert read(recipe, [f"{n}={as_text(value)}" for n, value in known.items()]) == known


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("maml-glyphs", "inner_lr=1", 1.0), ("maml-glyphs", "inner-lr= 4e-1 ", 0.4),
        ("maml-glyphs", "queries=none", None), ("maml-glyphs", "queries=3", 3),
        ("maml-glyphs", "first_order=True", True),
        ("maml-sinusoid-5shot", "learn_lr=parameter", "parameter"), ("maml-sinusoid-5shot", "learn_lr=null", None),
        ("protonet-glyphs", "test_ways=7", (7,)), ("protonet-glyphs", "test_ways=[5, 7]", (5, 7)),
        ("oml-omniglot", "test_lr=[[1,1e-4],[9,2]]", ((1, 1e-4), (9, 2.0))), ("ntm-copy", "words=3", "3"),
    ],
)  # fmt: skip
def test_a_value_is_of_the_settings_kind(name, text, value):
    (found,) = read(find(name), [text]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("width=x", "width='x', expected a whole number."), ("width=2.5", "width='2.5', expected a whole number."),
        ("width=-1", "width='-1', expected a whole number."), ("width=true", "width='true', expected a whole"),
        ("inner_lr=fast", "inner_lr='fast', expected a number."), ("inner_lr=nan", "inner_lr='nan', expected"),
        ("inner_lr=1e999", "expected a number."), ("first_order=1", "expected true or false."),
        ("queries=x", "expected a whole number or none."), ("inner_lrr=1", "has no setting 'inner_lrr'. Did you mean "
         "'inner_lr'? `metaloop recipes maml-glyphs` lists them."), ("steps=3", "but an option: --steps N."),
        ("width", "--set width: expected NAME=VALUE"), ("=3", "--set =3: expected NAME=VALUE"),
    ],
)  # fmt: skip
def test_what_is_no_setting_is_refused(text, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        read(find("maml-glyphs"), [text])


def test_a_choice_is_told_and_no_other_is_taken():
    known = settings(find("mann-omniglot"))["network"]
    assert known.words == "memory or lstm"
    with pytest.raises(ValueError, match="network='lstn', expected memory or lstm"):
        known.check("lstn")


def train(run, *more: str) -> int:
    words = ["train", "meta-rnn-boolean", "--budget", "smoke", "--steps", "2", "--tasks", "2", "--json"]
    return main([*words, "--out", str(run), *more])


def test_settings_are_kept_and_asked_for_again(tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run, "--set", "hidden=3", "--set", "test_shots=2,4", "--set", "hidden=5") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert read_info(run)["settings"] == {"hidden": 5, "test_shots": [2, 4], "shots": 20, "lr": 0.005, "tasks": 2}
    assert [row["label"] for row in told["scores"]] == ["after 2 examples", "after 4 examples"]
    assert told["scores"] == json.loads((run / "evaluation.json").read_text())
    assert told["recipe"] == "meta-rnn-boolean"
    assert "report: " in err
    words = ["train", "meta-rnn-boolean", "--resume", "--tasks", "2", "--out", str(run), "--set"]
    assert main([*words, "hidden=5"]) == 0
    assert main([*words, "hidden=6"]) == 2
    assert "settings.hidden=5, now it is 6" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "told"),
    [("hidden=0", "--set hidden=0: it cannot be trained so (ZeroDivisionError"), ("lr=-1", "Invalid learning rate")],
)
def test_settings_that_cannot_be_trained_are_one_line(tmp_path, capsys, setting, told):
    assert train(tmp_path / "run", "--set", setting) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert told in err
    assert not (tmp_path / "run").exists()


def test_more_classes_than_there_are_are_not_cut_down_in_silence(tmp_path, capsys):
    words = ["train", "protonet-glyphs", "--budget", "smoke", "--tasks", "2", "--out", str(tmp_path / "run")]
    assert main([*words, "--set", "ways=1000000"]) == 2
    assert "--set ways=1000000: the data has " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_figure_published_of_other_settings_is_not_left_alone(tmp_path, capsys):
    words = ["train", "maml-sinusoid-5shot", "--steps", "1", "--tasks", "2", "--out", str(tmp_path / "run")]
    assert main([*words, "--set", "inner_lr=0.02"]) == 0
    assert "note: published with inner_lr=0.01 (here 0.02)\n" in capsys.readouterr().err


def test_recipes_tell_their_settings(capsys):
    assert main(["recipes", "oml-omniglot", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["steps"] == {b: find("oml-omniglot").budgets[b]["steps"] for b in ("full", "quick", "smoke")}
    assert {"name": "width", "kind": "a whole number", "full": 256, "quick": 128, "smoke": 4} in told["settings"]
    assert main(["recipes", "oml-omniglot"]) == 0
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert table["norm_policy"].split() == ["norm_policy", "text", "or", "none", "none", "group", "none"]
    assert main(["recipes", "--json"]) == 0
    assert [recipe["recipe"] for recipe in json.loads(capsys.readouterr().out)] == list(RECIPES)
    assert main(["recipes", "oml-omniglott"]) == 2


def test_compare_and_evaluate_tell_json(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert train(run) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--tasks", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["scores"]
    assert main(["compare", str(run), str(run), "--tasks", "3", "--json"]) == 0
    told_too = json.loads(capsys.readouterr().out)
    first, second = told_too["runs"]
    assert told_too["versions"]["torch"] == torch.__version__
    assert told_too["machine"]["cores"] > 0
    assert first["mean"] == second["mean"] == told[0]["mean"]
    assert (first["difference"], second["difference"]["mean"]) == (None, 0.0)


BUGS = [
    Bug("a setting of the command line is not kept", "cli/train.py",
        ('recipe.settings(options["budget"])), **changed}', 'recipe.settings(options["budget"]))}'),
        "test_settings_are_kept_and_asked_for_again"),
    Bug("whole numbers serve as true and false", "recipes/keywords.py",
        ("and type(value) is kind and", "and isinstance(value, kind) and"), "test_what_is_no_setting_is_refused"),
]  # fmt: skip
