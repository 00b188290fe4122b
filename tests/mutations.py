"""Do the tests test? Each bug is planted in a copy of the package; the tests that it names must then fail.

    python tests/mutations.py                 all of them
    python tests/mutations.py NAME ...        some
    python tests/mutations.py control         none: the same tests must pass

A bug is a replacement of source text, which must occur exactly once. Bugs stand in the test file of the part they are
in: `BUGS`, a list. What should catch one runs in a process forked from one that has imported torch and nothing of ours;
what else of others a fork has imported, the next one finds there. The copy of the package is compiled once: a bug is
planted in it, and taken out again.
"""

import compileall
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import NoReturn

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
SECONDS = 600  # that a bug's tests may take, on a machine that is busy with other things
OTHERS = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})  # their code


@dataclass(frozen=True)
class Bug:
    """file: of the package. edits: (old, new), or several. caught_by: a test of the file that the bug stands in, or
    what pytest is given. of: the name of that file, which the runner fills in: test_<of>.py."""

    name: str
    file: str
    edits: tuple
    caught_by: str
    of: str = ""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [self.edits] if isinstance(self.edits[0], str) else list(self.edits)


def law(law: str, case: str) -> str:
    return f"tests/test_laws.py::test_law[{case}-{law}]"


def bugs() -> list[Bug]:
    """Those of all test files."""
    found = []
    sys.path.append(str(ROOT / "benchmarks"))  # whose scripts are tested, too
    for file in sorted(TESTS.rglob("test_*.py")):
        if "\nBUGS = [" in file.read_text():
            if str(file.parent) not in sys.path:
                sys.path.append(str(file.parent))
            here, of = file.relative_to(ROOT), file.stem.removeprefix("test_")
            for bug in import_module(file.stem).BUGS:
                by = bug.caught_by if "::" in bug.caught_by else f"{here}::{bug.caught_by}"
                found.append(replace(bug, caught_by=by, of=of))
    return found


def control(of: list[Bug]) -> Bug:
    """A change that is no bug: all tests must pass with it, or what they catch would mean nothing."""
    every = " ".join(sorted({bug.caught_by for bug in of}))
    return Bug("control", "core.py", ("The vocabulary:", "The words:"), every)


class Nursery:
    """A process that has imported what takes long, and nothing of ours: the children that it forks import the copy.

    shapes: it has imported the package too, with its shapes checked, and the tests of learners and networks."""

    def __init__(self, shapes: bool = False):
        self.place = tempfile.TemporaryDirectory()
        self.folder = Path(self.place.name)
        shutil.copytree(ROOT / "metaloop", self.folder / "metaloop")
        command = [sys.executable, __file__, "--nursery"]
        if shapes:
            command += [str(self.folder)]
        else:
            compileall.compile_dir(self.folder / "metaloop", quiet=2)
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def try_out(self, bug: Bug) -> str:
        """ "" if the tests caught the bug, otherwise what happened instead."""
        code, output = self.run(["-x", *re.split(r" (?![^\[]*\])", bug.caught_by)], bug)  # an id may hold spaces
        return "" if code == 1 else "SURVIVES" if code == 0 else f"the tests did not run (exit {code}):\n{output}"

    def run(self, arguments: list[str], bug: Bug | None = None) -> tuple[int, str]:
        """pytest on the copy of the package, with the bug in it: its exit code, and what it says."""
        with planted(bug, self.folder):
            return self._ask(arguments, None)

    def command(self, *words: str, strike: tuple[str, int, str] | None = None) -> tuple[int, str]:
        """`metaloop` with these words: its exit code, or minus the signal that ended it; and what it says.

        strike: ("os:replace", 3, "SIGKILL") is the signal that it gets as it calls that function the third time."""
        return self._ask(words, strike or ())

    def _ask(self, arguments, strike) -> tuple[int, str]:
        print(json.dumps([str(self.folder), arguments, strike]), file=self.process.stdin, flush=True)
        code = int(self.process.stdout.readline())
        return code, (self.folder / "output").read_text()

    def close(self) -> None:
        self.process.communicate()
        self.place.cleanup()


@contextmanager
def planted(bug: Bug | None, folder: Path) -> Iterator[None]:
    """The bug is in the copy of the package in folder, which then is as it was."""
    if bug is None:
        yield
        return
    file = folder / "metaloop" / bug.file
    compiled = list((file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"))
    kept = [(path, path.with_name(f"{path.name}.kept")) for path in (file, *compiled)]
    source = file.read_text()
    for old, new in bug.pairs:
        if source.count(old) != 1:
            raise ValueError(f"{bug.name}: {bug.file} has {old!r} {source.count(old)} times, expected once.")
        source = source.replace(old, new)
    for path, aside in kept:
        path.rename(aside)
    file.write_text(source)
    try:
        yield
    finally:
        for path, aside in kept:
            aside.replace(path)


def nursery(shapes: str | None) -> None:
    """For each line [folder, arguments, None] that comes in, the exit code of pytest on the copy of the package there;
    for [folder, words, strike] that of the command line. shapes: the folder whose package is imported at once."""
    import torch

    torch.set_num_threads(1)
    torch.func.vmap(torch.sin)(torch.zeros(2))  # what is imported by the first
    wanted = ["pytest"]
    if shapes:
        _import_checked(shapes)
    for line in sys.stdin:
        _import(wanted)
        assert shapes or "metaloop" not in sys.modules
        gc.collect()
        gc.freeze()  # what is here is no child's to look through
        folder, arguments, strike = json.loads(line)
        child = os.fork()
        if child == 0:
            if strike is None:
                _end(Path(folder), lambda: _run_tests(Path(folder), arguments))  # noqa: B023
            _end(Path(folder), lambda: _run_command(arguments, strike))  # noqa: B023
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))  # noqa: B023
        signal.alarm(SECONDS)
        _, status = os.waitpid(child, 0)
        signal.alarm(0)
        imported = Path(folder) / "imported"
        wanted = imported.read_text().split() if imported.exists() else []
        print(os.waitstatus_to_exitcode(status), flush=True)


def _import_checked(folder: str) -> None:
    """The package, its shapes checked, and the tests that run again for it."""
    sys.path[:0] = [folder, str(TESTS)]
    import conftest

    conftest.check_shapes()
    import test_laws
    import test_nn  # noqa: F401

    assert test_laws.ZOO.home  # all papers' tests


def _import(modules: list[str]) -> None:
    for module in modules:
        with suppress(Exception):  # which its test asked for, and knows
            import_module(module)


def _is_of_others(module) -> bool:
    return (getattr(module, "__file__", None) or "").startswith(OTHERS)


def _end(folder: Path, work: Callable[[], int]) -> NoReturn:
    """In the child: its work, with what it says in a file, and no more."""
    code = 70
    try:
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(ROOT)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_tests(folder: Path, arguments: list[str]) -> int:
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "FUZZ_SAME": "50"}
    import metaloop

    assert Path(metaloop.__file__).is_relative_to(folder), metaloop.__file__
    import pytest

    plain = ["--tb=line", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist"]
    code = int(pytest.main([*plain, *arguments]))
    new = [name for name in sys.modules if name not in before and _is_of_others(sys.modules[name])]
    (folder / "imported").write_text("\n".join(new))
    return code


def _run_command(words: list[str], strike: list) -> int:
    sys.path.insert(0, str(ROOT))
    from metaloop.cli import main

    if strike:
        _plan(*strike)
    return main(words)


def _plan(function: str, nth: int, name: str) -> None:
    """The nth call of a function, "module:name", begins with a signal to this process."""
    module, _, called = function.partition(":")
    owner, count = import_module(module), iter(range(1, 1_000_000))
    real = getattr(owner, called)

    def call(*given, **options):
        if next(count) == nth:
            os.kill(os.getpid(), signal.Signals[name])
        return real(*given, **options)

    setattr(owner, called, call)


def main(names: list[str]) -> int:
    every = bugs()
    chosen = [bug for bug in (*every, control(every)) if bug.name in names] or every
    children, wrong = Nursery(), 0
    for bug in chosen:
        began = time.monotonic()
        outcome = children.try_out(bug)
        wrong += bool(outcome)
        print(f"{time.monotonic() - began:5.1f} s  {bug.name}: {outcome or 'caught'}", flush=True)
    children.close()
    print(f"{len(chosen) - wrong} of {len(chosen)} caught")
    return int(wrong > 0)


if __name__ == "__main__":
    nursery(*sys.argv[2:] or [None]) if sys.argv[1:2] == ["--nursery"] else sys.exit(main(sys.argv[1:]))
