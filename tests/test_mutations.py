"""Every planted bug is caught by the tests that are named for it: see mutations.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import MUTATIONS, ROOT

SHARDS = 4


def mutations(*arguments: str):
    script = Path(__file__).with_name("mutations.py")
    return subprocess.run([sys.executable, str(script), *arguments], cwd=ROOT, capture_output=True, text=True)


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="mutations fork")


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_planted_bugs_are_caught(shard):
    done = mutations("--shard", f"{shard}/{SHARDS}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_no_bug_is_not_caught():
    """The control of the experiment: the same tests on a copy without a bug."""
    done = mutations("control")
    assert "control: SURVIVES" in done.stdout, done.stdout + done.stderr


def test_there_are_plenty_under_names_of_their_own():
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS) > 20
