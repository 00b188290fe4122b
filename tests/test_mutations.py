"""Every planted bug is caught by the test that is named for it: see mutations.py."""

import os

import pytest
from mutations import Nursery, bugs, control

BUGS_BY_NAME = {bug.name: bug for bug in bugs()}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="bugs are tried out in forks")


@pytest.fixture(scope="module")
def nursery():
    children = Nursery()
    yield children
    children.close()


@pytest.mark.parametrize("bug", BUGS_BY_NAME)
def test_planted_bug_is_caught(bug, nursery):
    assert nursery.try_out(BUGS_BY_NAME[bug]) == ""


@pytest.mark.slow
def test_what_is_no_bug_is_not_caught(nursery):
    """The control of the experiment: the same tests on a copy without a bug."""
    assert nursery.try_out(control(bugs())) == "SURVIVES"


def test_there_are_plenty_under_names_of_their_own():
    assert len(BUGS_BY_NAME) == len(bugs()) > 20
