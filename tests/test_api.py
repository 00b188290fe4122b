"""docs/api.md holds every public name, as the code has it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("api", ROOT / "tools" / "api.py")
api = importlib.util.module_from_spec(spec)
spec.loader.exec_module(api)


def test_page_is_what_the_code_says(capsys):
    assert api.main(["--check"]) == 0, capsys.readouterr().out


def test_stale_page_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(api, "PAGE", tmp_path / "api.md")
    monkeypatch.setattr(api, "MODULES", ("metaloop.optim",))
    assert api.main(["--check"]) == 1
    assert "Run python tools/api.py" in capsys.readouterr().out
    assert api.main([]) == 0
    assert api.main(["--check"]) == 0


@pytest.fixture
def module(tmp_path):
    def make(text: str) -> ModuleType:
        (tmp_path / "made.py").write_text(text)
        made = ModuleType("made")
        made.__file__ = str(tmp_path / "made.py")
        exec(text, vars(made))
        return made

    return make


@pytest.mark.parametrize("text", ["def f(x): ...", "class C:\n    y: int", "K = (1, 2)"])
def test_name_without_a_docstring_is_told(module, text):
    made = module(text)
    with pytest.raises(ValueError, match=r"made\.\w has no docstring"):
        api.entry(made, api.public(made)[0])


def test_entry(module):
    made = module('''from dataclasses import dataclass, field
import torch
def f(x: "C", *rest: int, k: str = "a", **more) -> "C":
    """Of *all* the x [n],
    the `x_k`.

    Not this.
    """
@dataclass
class C:
    """A value."""
    y: list = field(default_factory=list)
    z: int | None = field(default=None, kw_only=True)
    def g(self, n: int) -> int:
        """A method."""
    def _h(self): ...
    def i(self): ...
# Some
# numbers.
K = (1, 2)
L: dict[str, int] = {}  # a table
_M = 1
''')
    assert api.public(made) == ["f", "C", "K", "L"]
    f, c, k, l = (api.entry(made, name) for name in api.public(made))
    assert "\nf(x: C, *rest: int, k: str = 'a', **more) -> C\n" in f
    assert f.endswith("Of \\*all\\* the x \\[n\\], the `x_k`.\n")
    assert "\nC(y: list = list(), *, z: int | None = None)\n.g(n: int) -> int\n```" in c
    assert "K = (1, 2)" in k
    assert "Some numbers." in k
    assert "L: dict[str, int]\n" in l
    assert "a table" in l
