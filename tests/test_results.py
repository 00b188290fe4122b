"""What the tables of results say is computed from figures, and nothing about a system is listed beside it."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from metaloop.recipes import RECIPES, SYSTEMS

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(results)


def row(mean, published=None, ci95=0.5, metric="accuracy (%)", budget="full", label="5-way", recipe="protonet-glyphs"):
    return {"mean": mean, "published": published, "ci95": ci95, "metric": metric, "label": label, "recipe": recipe,
            "row": {"budget": budget}}  # fmt: skip


@pytest.mark.parametrize(("given", "said"), [
    (row(98.0, 97.0), "reached"),
    (row(97.0, 97.0), "reached"),
    (row(96.6, 97.0), "reached (±)"),
    (row(96.0, 97.0), "short by 1.00"),
    (row(96.0), "no published figure"),
    (row(0.3, 0.4, 0.05, "mse"), "reached"),
    (row(0.44, 0.4, 0.05, "mse"), "reached (±)"),
    (row(0.5, 0.4, 0.05, "mse"), "short by 0.1"),
    ({"mean": None, "published": 97.0}, ""),
    ({**row(98.0, 97.0), "baseline": True}, "the paper's baseline"),
])  # fmt: skip
def test_verdict(given, said):
    assert results.verdict(given) == said


def test_a_row_of_more_steps_stays(tmp_path, monkeypatch, capsys):
    """Several seeds of a short training, made for another table, are no seeds of a long one."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "evaluation.json").write_text("[]")
    for seed, steps, files in ((0, 20, 1), (1, 10, 1), (0, 10, 1), (1, 20, 2), (0, 30, 2)):
        (folder / "run.json").write_text(json.dumps({"recipe": "x", "seed": seed, "steps": steps}))
        results.collect(folder)
        assert len([*tmp_path.glob("x-seed*.json")]) == files
    assert capsys.readouterr().out.count("the row stays") == 2
    assert json.loads((tmp_path / "x-seed0.json").read_text())["run"]["steps"] == 30


def test_share_counts_what_was_not_run():
    table = [row(98.0, 97.0), row(96.6, 97.0), row(90.0, 97.0), row(90.0), {"mean": None, "published": 97.0}]
    assert results.share(table) == "2 of 4 published rows reached"


def test_best_row():
    """The one farthest above its figure in proportion, accuracy or error; without figures, full budgets go first."""
    short, shorter, above = row(90.0, 97.0), row(96.0, 97.0), row(0.2, 0.4, metric="mse")
    assert results.best([short, shorter]) is shorter
    assert results.best([short, above, shorter, row(99.9)]) is above
    quick, full, better = row(99.0, budget="quick"), row(80.0), row(81.0)
    assert results.best([quick, full, better, row(85.0, label="20-way")]) is better


def test_families_are_those_of_the_table_of_contents():
    of = results.families("""
    # What is learned about one task: an initialisation
    from .learners.maml import maml as maml  # ANIL, known as another
    from .learners.reptile import reptile as reptile

    # How theta improves
    from .engine import fit as fit, meta_gradient as meta_gradient
    """)
    assert of == {**dict.fromkeys(("maml", "reptile"), "an initialisation"),
                  **dict.fromkeys(("fit", "meta_gradient"), "How theta improves")}  # fmt: skip


def test_every_system_has_a_family_a_page_and_a_file():
    of = results.families(results.CONTENTS.read_text())
    for system in {results.system(name) for name in RECIPES}:
        assert of[system]
        assert results.about(system).exists()
        assert results.code(system).exists()


def test_a_system_in_no_family_is_told(monkeypatch):
    monkeypatch.setattr(results, "system", lambda recipe: "hopfield")
    with pytest.raises(ValueError, match=r"hopfield: in no family\. Name it in metaloop/__init__"):
        results.by_family([row(90.0)])


def test_one_line_per_system():
    """Every system is one line of the README, with a row or none yet, and every row is on its family's page."""
    table = [r for r in results.rows() if r["mean"] is not None]
    lines = results.short_table(table, ROOT / "README.md").splitlines()[2:]
    assert len(lines) == len(SYSTEMS)
    run = {results.system(r["recipe"]) for r in table}
    assert sum("not run yet" in line for line in lines) == len(SYSTEMS) - len(run)
    pages = "\n".join(path.read_text() for path in (ROOT / "docs" / "results").glob("*.md"))
    for r in table:
        assert f"| {results.title(r['recipe'], r['label'])} | {results.ours(r)} |" in pages


def test_pages_that_are_stale_or_of_no_family_are_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "DOCS", tmp_path / "docs")
    (tmp_path / "docs" / "results").mkdir(parents=True)
    here = tmp_path / "docs" / "results" / "metric.md"
    monkeypatch.setattr(results, "written", lambda: {here: "new"})
    here.write_text("old")
    (here.parent / "left.md").write_text("of a family that is gone")
    assert results.main(["--check"]) == 1
    assert re.search(r"docs/results/metric.md, docs/results/left.md: not what results/ says", capsys.readouterr().out)
    assert results.main([]) == 0
    assert (here.read_text(), (here.parent / "left.md").exists()) == ("new", False)
    assert results.main(["--check"]) == 0
