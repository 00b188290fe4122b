"""What keeps the library easy to live in: imports one way, short learners, four files for each, words for each name."""

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from zoo import ZOO

import metaloop

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "metaloop"
FILES = sorted(p for p in PACKAGE.rglob("*.py"))
LEARNERS = sorted(p.stem for p in (PACKAGE / "learners").glob("*.py") if p.stem != "__init__")

# Which parts of the package a part may import, besides itself. What is not listed may import everything.
MAY = {
    "torch_private": set(),  # which everything may import
    "core": set(),
    "nn": {"core", "targets"},
    "targets": {"core"},
    "objectives": {"core", "nn", "targets"},
    "learners": {"core", "nn", "objectives", "targets"},
    "tasks": {"core", "targets"},
    "engine": {"core", "nn", "targets"},  # of nn, only how gradients come back through inner loops
    "testing": {"core", "engine", "targets"},
}
# What may import the command line and what it shows.
TOP = {"cli", "__main__", "report", "page"}
HEAVY = ("matplotlib", "sklearn", "tensorboard", "pandas", "rich", "scipy", "torch._dynamo")


def part(path: Path) -> str:
    """The part of the package a file is in: "core", "learners", ..., or "" for the package itself."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def is_for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST):
    """All nodes that run."""
    yield node
    if not is_for_types_alone(node):
        for child in ast.iter_child_nodes(node):
            yield from walk(child)


def imports(path: Path) -> set[str]:
    """The full names of the modules a file imports; of `from a import b`, both a and a.b."""
    here = ["metaloop", *path.relative_to(PACKAGE).with_suffix("").parts]
    names = set()
    for node in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return names


def of_ours(path: Path) -> set[str]:
    parts = {name.split(".")[1] for name in imports(path) if name.startswith("metaloop.")}
    return {p for p in parts if (PACKAGE / p).is_dir() or (PACKAGE / f"{p}.py").exists()}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    where, used = part(path), of_ours(path)
    if where in MAY:
        more = used - {where, "torch_private"} - MAY[where]
        assert not more, f"{where} imports {more}"
    if where not in TOP:
        assert not used & TOP, f"{path.name} imports {used & TOP}"


# The one file of mathematics that asks another library.
BORROWS = {PACKAGE / "objectives" / "mined.py": {"pytorch_metric_learning"}}
MATHEMATICS = [p for p in FILES if part(p) in ("core", "learners", "nn", "objectives", "targets")]


@pytest.mark.parametrize("path", MATHEMATICS, ids=lambda p: p.stem)
def test_mathematics_needs_torch_alone(path):
    others = {name.split(".")[0] for name in imports(path)} - {"metaloop", "torch", "jaxtyping"}
    assert not others - set(sys.stdlib_module_names) - BORROWS.get(path, set())


OURS = [p for folder in (PACKAGE, ROOT / "tests", ROOT / "benchmarks") for p in sorted(folder.rglob("*.py"))]


@pytest.mark.parametrize("path", OURS, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_torch_keeps_private_is_asked_for_in_one_place(path):
    if path == PACKAGE / "torch_private.py":
        return
    asked = re.findall(r"^ *(?:from|import) (torch[\w.]*\._[\w.]+)", path.read_text(), re.M)
    assert not asked, f"{path.name} imports {', '.join(asked)}. Import it from metaloop.torch_private."
    if path in FILES:
        assert not re.findall(r"\btorch\.(?:\w+\.)*_(?!_)\w+", path.read_text())


def test_nothing_on_the_loading_path_can_run_code():
    torch_s = r"torch\.load\((?!.*weights_only=True)|torch\.save\("
    code = re.compile(r"\bpickle\.|import pickle|allow_pickle=True|\beval\(|\bexec\(|" + torch_s)
    assert not [path.name for path in FILES if code.search(re.sub(r"(\.|def )eval\(", "", path.read_text()))]


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_is_a_short_file_with_its_paper(name):
    source = (PACKAGE / "learners" / f"{name}.py").read_text()
    assert source.count("\n") <= 120, f"learners/{name}.py: longer than 120 lines."
    where = r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4}/|https?://\S+\.pdf\b"  # some workshops give no identifier
    where += r"|https://openreview\.net/\w+\?id=\S+"  # nor does ICLR, beside its own
    cited = re.search(where, ast.get_docstring(ast.parse(source)) or "")
    assert cited, f"learners/{name}.py: its docstring has no arXiv:, doi:10., .pdf or openreview address. Add one."
    assert f"def {name}(" in source, f"learners/{name}.py: there is no function {name}."


# What goes through all systems; none of it names one.
SHARED = (
    "metaloop/learners/__init__.py", "metaloop/recipes/__init__.py", "tests/conftest.py", "tests/mutations.py",
    "tests/zoo.py", "tests/test_mutations.py", "benchmarks/results.py",
)  # fmt: skip


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_is_four_files_and_a_name(name):
    """The learner, its paper test with cases for the laws, its recipe module, its page; and its line in __init__."""
    for file in ("metaloop/recipes/{}.py", "tests/papers/test_{}.py", "docs/learners/{}.md"):
        assert (ROOT / file.format(name)).exists(), file
    assert name in ZOO.home.values(), f"tests/papers/test_{name}.py has no CASES."
    assert name in metaloop.__all__, f"metaloop/__init__.py does not import {name}."
    naming = [file for file in SHARED if re.search(rf"\b(test_)?{name}(\b|_plan)", (ROOT / file).read_text())]
    assert not naming, f"{', '.join(naming)} name {name}; what goes through all systems names none."


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_is_composed_not_inherited(name):
    """No base classes, no state on self, no super: functions of values."""
    for node in walk(ast.parse((PACKAGE / "learners" / f"{name}.py").read_text())):
        if isinstance(node, ast.ClassDef):
            assert not node.bases
            assert [ast.unparse(d) for d in node.decorator_list] == ["predictor"]


@pytest.mark.parametrize("name", metaloop.__all__)
def test_every_public_name_says_what_it_is(name):
    assert len(inspect.getdoc(getattr(metaloop, name)) or "") > 30


def test_all_is_what_is_there():
    assert set(metaloop.__all__) <= set(dir(metaloop))
    with pytest.raises(AttributeError, match="has no attribute 'mamal'"):
        metaloop.mamal  # noqa: B018


def test_a_public_name_stands_in_one_place_as_itself():
    source = (PACKAGE / "__init__.py").read_text()
    assert [name for name in metaloop.__all__ if len(re.findall(rf"import.*\b{name} as {name}\b", source)) != 1] == []


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter holds after running some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_import_is_light():
    assert "torch" not in loaded("import metaloop")
    names = [name for name in metaloop.__all__ if name not in ("Embedding", "FewShotClassifier", "FewShotRegressor")]
    heavy = loaded(f"import metaloop\nfor name in {names}: getattr(metaloop, name)") & set(HEAVY)
    assert not heavy


def module(path: Path) -> str:
    return ".".join(["metaloop", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


@pytest.mark.parametrize("name", [module(p) for p in FILES if ">>>" in p.read_text()])
def test_examples_in_docstrings_run(name):
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted
    assert not done.failed
