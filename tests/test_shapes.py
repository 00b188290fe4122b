"""The shapes in the annotations are true. They are types, checked in a process of its own: see conftest.py."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def run(*arguments: str):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    return subprocess.run([sys.executable, *arguments], cwd=TESTS.parent, env=env, capture_output=True, text=True)


def test_shapes_are_as_annotated():
    chosen = ["-k", "papers or keeps_the_contract or test_nn", "tests/papers", "tests/test_laws.py", "tests/test_nn.py"]
    done = run("-m", "pytest", "--shapes", "-p", "no:cacheprovider", "-p", "no:xdist", *chosen)
    assert done.returncode == 0, done.stdout


def test_a_wrong_shape_is_found():
    done = run("-c", """if True:
        from conftest import check_shapes
        check_shapes()
        import torch
        from metaloop.learners.protonet import prototypes
        prototypes(torch.zeros(5, 3), torch.zeros(4, dtype=torch.int64), 2)
    """)
    assert "TypeCheckError" in done.stderr, done.stderr
