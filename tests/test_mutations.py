"""Every planted bug is caught by the test that is named for it: see mutations.py."""

import os

import pytest
from mutations import bugs, control

BUGS = bugs()

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="bugs are tried out in forks")


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_planted_bug_is_caught(bug, nursery):
    assert nursery.try_out(bug) == ""


@pytest.mark.slow
def test_what_is_no_bug_is_not_caught(nursery):
    """The control of the experiment: the same tests on a copy without a bug."""
    assert nursery.try_out(control(BUGS)) == "SURVIVES"


def test_there_are_plenty_under_names_of_their_own():
    assert len({bug.name for bug in BUGS}) == len(BUGS) > 20
