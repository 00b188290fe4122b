"""The shapes in the annotations are true. They are types, checked as each paper's tests and each contract run again, in
a process of their own: what is checked cannot be traced by torch.compile (see conftest.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from zoo import PAPERS

TESTS = Path(__file__).resolve().parent
ONCE_MORE = ["-k", "papers or keeps_the_contract or test_nn"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="shapes are checked in forks")


@pytest.mark.parametrize("name", [path.stem.removeprefix("test_") for path in sorted(PAPERS.glob("test_*.py"))])
def test_shapes_are_as_annotated(name, checked_nursery):
    files = [f"tests/papers/test_{name}.py", "tests/test_laws.py"]
    code, output = checked_nursery.run(["--shapes", "--learner", name, *ONCE_MORE, *files])
    assert code == 0, output


def test_shapes_of_networks_are_as_annotated(checked_nursery):
    code, output = checked_nursery.run(["--shapes", *ONCE_MORE, "tests/test_nn.py"])
    assert code == 0, output


def test_a_wrong_shape_is_found():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    code = """if True:
        from conftest import check_shapes
        check_shapes()
        import torch
        from metaloop.nn import class_mean
        class_mean(torch.zeros(5, 3), torch.zeros(4, dtype=torch.int64), 2)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent, env=env, capture_output=True, text=True)
    assert "TypeCheckError" in done.stderr, done.stderr
