"""Each law on each line of the zoo."""

from dataclasses import replace

import pytest
import torch
from zoo import WAYS, ZOO, Zoo, blobs, features

from metaloop import Learner, protonet
from metaloop.testing import LAWS, check, judge

QUICK = [law for law in LAWS if law != "compiles_whole_and_once"]
LONG = ("meta_training_helps", "compiles_whole_and_once")  # of four blocks, four times as long as of one


def case(name: str, law: str):
    """With each norm, what takes long is tried on one block of conv4: four are the same four times."""
    return ZOO.make(name, blocks=1) if law in LONG and "-conv4-" in name else ZOO[name]


@pytest.mark.parametrize("law", QUICK)
@pytest.mark.parametrize("name", ZOO)
def test_law(name, law):
    judge(law, case(name, law))


def test_names_make_no_case_and_a_case_is_made_once():
    zoo = Zoo()
    assert len(zoo) == len(list(zoo)) > 40
    assert not zoo.made
    assert zoo["protonet"] is zoo["protonet"]
    assert list(zoo.made) == ["protonet"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("law", ["keeps_the_contract", "many_tasks_are_each_task", "predictor_survives_saving"])
def test_law_on_cuda(law):
    for case in ZOO.values():
        judge(law, replace(case, device="cuda"))


def compiled() -> list[str]:
    """What a norm adds to a graph does not depend on the learner, but on how its gradient is taken: of conv4 with each
    norm, the cases of maml, whose tasks have gradients of their own, and of protonet, whose tasks are pooled."""
    return [name for name in ZOO if "-conv4-" not in name or ZOO.home[name] in ("maml", "protonet")]


@pytest.mark.compile
@pytest.mark.parametrize("name", compiled())
def test_compiles_whole_and_once(name):
    judge("compiles_whole_and_once", case(name, "compiles_whole_and_once"))


# The law suite itself, as users have it


def blurred():
    """A learner that breaks laws: its predictor compares queries with each other, and its gradient is cut."""
    embed, init = features

    def adapt(theta, S):
        f = protonet(embed, init, ways=WAYS).adapt(theta, S)
        return lambda x: f(x - x.mean(0))

    def objective(adapt, theta, task):
        theta = {n: p.detach() if n == "body.1.bias" else p for n, p in theta.items()}
        return protonet(embed, init, ways=WAYS).objective(adapt, theta, task)

    return Learner(init, adapt, objective)


def test_check_reports_every_broken_law():
    laws = ["queries_do_not_see_each_other", "meta_gradient_is_the_derivative", "support_order_is_irrelevant"]
    with pytest.raises(AssertionError) as error:
        check(blurred(), blobs, laws=laws)
    paragraphs = str(error.value).split("\n\n")
    assert any(p.startswith("queries_do_not_see_each_other: ") for p in paragraphs)
    assert any(p.startswith("meta_gradient_is_the_derivative: along theta/body.1.bias") for p in paragraphs)
    assert "support_order" not in str(error.value)


def test_check_heeds_waivers_and_reports_those_that_are_not_needed():
    waive = dict.fromkeys(("queries_do_not_see_each_other", "support_order_is_irrelevant"), "we know")
    check(blurred(), blobs, waive=waive, laws=["queries_do_not_see_each_other"])
    with pytest.raises(AssertionError, match=r"support_order_is_irrelevant: holds, though waived \('we know'\)"):
        check(blurred(), blobs, waive=waive, laws=["support_order_is_irrelevant"])


def test_check_refuses_laws_that_are_none():
    for wrong in ({"laws": ["gravity"]}, {"waive": {"gravity": "heavy"}}):
        with pytest.raises(ValueError, match=r"there is no law 'gravity'. There are: keeps_the_contract, answers_mean"):
            check(blurred(), blobs, **wrong)


@pytest.mark.compile
def test_a_learner_of_ones_own_can_be_checked_whole():
    case = ZOO["protonet"]
    check(case.learner, case.tasks)
