"""What all tests share.

    pytest --learner NAME     what is about one learner: its paper test, laws, planted bugs, shapes and page
    pytest --shapes           checks the shapes in the library's annotations at every call
"""

import gc
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))  # its scripts are tested, too
torch.set_num_threads(1)  # the tests are small, and run side by side


def check_shapes():
    """From here on, whatever is imported of the packages with annotated shapes is checked."""
    from jaxtyping import install_import_hook

    install_import_hook(["metaloop.learners", "metaloop.nn", "metaloop.objectives"], f"{__name__}.checked")


def checked(annotated):
    """An integer will do for a float, as PEP 484 has it."""
    from beartype import BeartypeConf, beartype

    return beartype(annotated, conf=BeartypeConf(is_pep484_tower=True))


def pytest_addoption(parser):
    parser.addoption("--learner", metavar="NAME", help="only what is about this learner")
    parser.addoption("--shapes", action="store_true", help="check annotated shapes; leaves compile and slow tests out")


def pytest_configure(config):
    name = config.getoption("--learner")
    if name and not (Path(__file__).parent / "papers" / f"test_{name}.py").exists():
        raise pytest.UsageError(f"--learner {name}: there is no tests/papers/test_{name}.py. Write it first.")
    if config.getoption("--shapes"):
        check_shapes()


def pytest_collection_modifyitems(config, items):
    if name := config.getoption("--learner"):
        others = [item for item in items if not is_about(item, name)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if is_about(item, name)]
    if config.getoption("--shapes"):
        for item in items:
            if item.get_closest_marker("compile"):
                item.add_marker(pytest.mark.skip(reason="the shape checker cannot be traced"))
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="it repeats calls whose shapes others check"))


def pytest_collection_finish():
    """What is here stays: no garbage collection need look through it again. Nor is any needed so often: what the tests
    leave is little, and a compiler makes a great many objects that stay for a while."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def nursery():
    """Runs pytest on copies of the package: one for each of the processes that share the tests."""
    from mutations import Nursery

    children = Nursery()
    yield children
    children.close()


@pytest.fixture(scope="session")
def checked_nursery():
    """The same with shapes checked: what is imported is imported once."""
    from mutations import Nursery

    children = Nursery(shapes=True)
    yield children
    children.close()


@pytest.fixture
def quick(monkeypatch):
    """A run is short where nobody asks how good it is: few tasks to validate on, and to take norms' statistics from."""
    from metaloop.engine.session import calibrate
    from metaloop.recipes import plan

    monkeypatch.setattr(plan, "VALIDATION_TASKS", 2)
    monkeypatch.setitem(calibrate.__kwdefaults__, "tasks", 2)


def is_about(item, learner: str) -> bool:
    """The test is in the learner's own file, or one of its parameters is the learner, a case, a bug or a file of it."""
    from zoo import ZOO

    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = {getattr(value, "of", value.stem if isinstance(value, Path) else value) for value in values
             if isinstance(value, str | Path) or hasattr(value, "of")}  # fmt: skip
    return item.path.stem == f"test_{learner}" or learner in names | {ZOO.home.get(name) for name in names}


@pytest.fixture
def call(place, capsys, monkeypatch):
    """Run a command where the folders of a file's fixture `place` are; its status, output and error lines."""
    from metaloop.cli import main

    monkeypatch.chdir(place)

    def call(*words: str) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        status = main(list(words))
        told = capsys.readouterr()
        return status, told.out, told.err.splitlines()

    return call
