"""Each law on each line of the zoo."""

import pytest
from zoo import ZOO

from metaloop.testing import LAWS, judge

QUICK = [law for law in LAWS if law != "compiles_whole_and_once"]


@pytest.mark.parametrize("law", QUICK)
@pytest.mark.parametrize("name", ZOO)
def test_law(name, law):
    judge(law, ZOO[name])


@pytest.mark.compile
@pytest.mark.parametrize("name", ZOO)
def test_compiles_whole_and_once(name):
    judge("compiles_whole_and_once", ZOO[name])
