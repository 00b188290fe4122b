"""Write docs/api.md: every public name, its signature, and what it is in the first words of its docstring.

    python tools/api.py              write the page
    python tools/api.py --check      exit 1 if the page is not what the code says

Raises ValueError if a public name has no docstring. A constant or a type has the comment beside or above it for one.
"""

import ast
import inspect
import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"
KEPT = "\u00a0"  # a space at which no line breaks
MODULES = ("metaloop", "metaloop.tasks", "metaloop.nn", "metaloop.objectives", "metaloop.outer", "metaloop.optim",
           "metaloop.testing")  # fmt: skip


def public(module: ModuleType) -> list[str]:
    """What a module says is public; else what it defines itself, without an underscore, in its order."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
    return [name for node in syntax(module).body for name in defined(node) if not name.startswith("_")]


def syntax(module: ModuleType) -> ast.Module:
    return ast.parse(Path(str(module.__file__)).read_text())


def defined(node: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module defines, imports left out."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def entry(module: ModuleType, name: str) -> str:
    """A name's signature and first paragraph; of a class also its public methods'."""
    node, lines = source(module, name)
    if isinstance(node, ast.FunctionDef):
        return shown(f"{module.__name__}.{name}", [signature(node, name)], ast.get_docstring(node))
    if isinstance(node, ast.ClassDef):
        methods = [
            signature(part, f".{part.name}", bound=True) for part in node.body
            if isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and ast.get_docstring(part)
        ]  # fmt: skip
        return shown(f"{module.__name__}.{name}", [made(node), *methods], ast.get_docstring(node))
    told = f"{name}: {ast.unparse(node.annotation)}" if isinstance(node, ast.AnnAssign) else ast.unparse(node)
    return shown(f"{module.__name__}.{name}", [told], comment(node, lines))


def source(module: ModuleType, name: str) -> tuple[ast.stmt, list[str]]:
    """The statement that defines a name, and the lines of its file: in the module itself, or where it comes from."""
    for node in (tree := syntax(module)).body:
        if name in defined(node):
            return node, Path(str(module.__file__)).read_text().splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            package = module.__name__ if hasattr(module, "__path__") else module.__name__.rpartition(".")[0]
            home = import_module("." * node.level + (node.module or ""), package)
            return source(home, next(a.name for a in node.names if (a.asname or a.name) == name))
    home = import_module(getattr(module, name).__module__)
    if home is module:
        raise ValueError(f"{module.__name__}.{name}: no statement defines it.")
    return source(home, name)


def signature(node: ast.FunctionDef, name: str, *, bound: bool = False) -> str:
    back = f" -> {bare(ast.unparse(node.returns))}" if node.returns else ""
    if any(ast.unparse(d) == "property" for d in node.decorator_list):
        return f"{name}{back}"
    if bound and not any(ast.unparse(d) == "staticmethod" for d in node.decorator_list):
        (node.args.posonlyargs or node.args.args).pop(0)
    given = [ast.unparse(node.args)] if node.args.posonlyargs else arguments(node.args)
    return f"{name}({joined(given)}){back}"


def arguments(given: ast.arguments) -> list[str]:
    """Each argument as it is written, `*` among them."""
    before = [None] * (len(given.args) - len(given.defaults))
    told = [argument(a, value) for a, value in zip(given.args, [*before, *given.defaults], strict=True)]
    if given.vararg or given.kwonlyargs:
        told.append("*" + (ast.unparse(given.vararg) if given.vararg else ""))
    told += [argument(a, value) for a, value in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return [*told, *([f"**{ast.unparse(given.kwarg)}"] if given.kwarg else [])]


def argument(a: ast.arg, default: ast.expr | None) -> str:
    return bare(ast.unparse(a)) + ("" if default is None else f" = {ast.unparse(default)}")


def made(node: ast.ClassDef) -> str:
    """How a class is made: by its __init__, else from its fields."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return signature(part, node.name, bound=True).removesuffix(" -> None")
    told, by_name = [], []
    for part in node.body:
        if isinstance(part, ast.AnnAssign):
            options = {}
            if isinstance(part.value, ast.Call) and ast.unparse(part.value.func) == "field":
                options = {k.arg: k.value for k in part.value.keywords}
            default = options.get("default", options.get("default_factory", None if options else part.value))
            text = f"{ast.unparse(part.target)}: {bare(ast.unparse(part.annotation))}"
            text += "" if default is None else f" = {ast.unparse(default)}" + "()" * ("default_factory" in options)
            (by_name if "kw_only" in options else told).append(text)
    return f"{node.name}({joined([*told, *(['*'] if by_name else []), *by_name])})"


def bare(annotation: str) -> str:
    """An annotation without the quotes of names that are defined later."""
    return re.sub(r"(^|: )'(\w+)'", r"\1\2", annotation)


def joined(parts: list[str]) -> str:
    """With commas; a line may break between parts only."""
    return ", ".join(part.replace(" ", KEPT) for part in parts)


def comment(node: ast.stmt, lines: list[str]) -> str | None:
    """What a constant's line says after #, or the comment lines above it."""
    _, sharp, beside = lines[node.lineno - 1].partition("  # ")
    above, k = [], node.lineno - 2
    while k >= 0 and lines[k].startswith("# "):
        above.insert(0, lines[k][2:])
        k -= 1
    return beside if sharp else " ".join(above) or None


def shown(name: str, signatures: list[str], said: str | None) -> str:
    if not said:
        raise ValueError(f"{name} has no docstring. Say in one line what it is.")
    first = " ".join(said.split("\n\n")[0].split())
    wrapped = [textwrap.wrap(s, 100, subsequent_indent="    ", break_long_words=False) for s in signatures]
    code = "\n".join(line for lines in wrapped for line in lines).replace(KEPT, " ")
    return f"### {name.rpartition('.')[2]}\n\n```text\n{code}\n```\n\n{plain(first)}\n"


def plain(text: str) -> str:
    """As it stands, whatever Markdown would make of stars, brackets and underscores outside of `code`."""
    parts = text.split("`")
    return "`".join(part if i % 2 else re.sub(r"([\\*_\[\]<>|])", r"\\\1", part) for i, part in enumerate(parts))


def page() -> str:
    parts = [
        "# Every public name\n\n<!-- This page is written by tools/api.py. -->\nThe whole docstring, with shapes, what "
        "is raised and\nsources: `help(name)`. Lines that start with a dot are methods.\n"
    ]
    for name in MODULES:
        module = import_module(name)
        first = " ".join((module.__doc__ or "").split("\n\n")[0].split())
        if not first:
            raise ValueError(f"{name} has no docstring. Say in one line what it is.")
        parts += [f"## {name}\n\n{plain(first)}\n", *(entry(module, each) for each in public(module))]
    return "\n".join(parts)


def main(arguments: list[str]) -> int:
    text = page()
    if "--check" not in arguments:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        print("docs/api.md is not what the code says. Run python tools/api.py.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
