"""Every example runs as it stands, downloads nothing, and learns what it says it learns."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "examples"
EXAMPLES = [*sorted(ROOT.glob("*.py")), *sorted(ROOT.glob("notebooks/*.py"))]


@pytest.fixture
def say(monkeypatch, tmp_path, capsys):
    """Run an example in an empty folder, without data sets; what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METALOOP_DATA", raising=False)

    def run(path: Path, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+\.?\d*(?= ±)", text)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT).with_suffix("")))
def test_runs_and_learns(path, say):
    """The first score it prints is from random weights, the last from learned ones; pictures are told apart."""
    text = say(path)
    if found := re.search(r"right: (\d+) of (\d+)", text):
        assert int(found[1]) >= 0.7 * int(found[2])
    else:
        first, *_, last = numbers(text)
        assert (last < 0.5 * first) if "error" in text else (last > first + 4), text


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.py")), ids=lambda path: path.stem)
def test_a_notebook_is_cells(path):
    """Of text and of code, in turns, and it begins with what it is about."""
    cells = re.split(r"^# %%", path.read_text(), flags=re.M)
    kinds = [cell.startswith(" [markdown]") for cell in cells[1:]]
    assert cells[0] == ""
    assert len(kinds) >= 5
    assert kinds[0]
    for cell in (cell for cell, text in zip(cells[1:], kinds, strict=True) if text):
        assert all(line.startswith("# ") for line in cell.strip().splitlines()[1:]), cell


def test_pictures_of_ones_own(say, tmp_path, monkeypatch):
    """`own_pictures.py FOLDER PICTURE` reads that folder; two steps of training do for that."""
    from PIL import Image, ImageDraw

    import metaloop as ml

    fit = ml.fit
    monkeypatch.setattr(ml, "fit", lambda *args, **options: fit(*args, **{**options, "steps": 2}))
    for name, ends in (("dash", (20, 50, 80, 50)), ("bar", (50, 20, 50, 80))):
        (tmp_path / "mine" / name).mkdir(parents=True)
        picture = Image.new("L", (100, 100), 255)
        ImageDraw.Draw(picture).line(ends, fill=0, width=8)
        picture.save(tmp_path / "mine" / name / "1.png")
        picture.save(tmp_path / f"{name}.png")
    path = next(path for path in EXAMPLES if path.stem == "own_pictures")
    assert say(path, "mine", "bar.png", "dash.png").split("\n")[:2] == ["bar.png: bar", "dash.png: dash"]
