"""Learners made to break a law, each in its own way, and what the law says of them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from mutations import Bug, law
from torch import Tensor
from zoo import WAYS, ZOO, blobs, features, waves

from metaloop import Learner, objectives, predictor, protonet, static
from metaloop.testing import Case, check, judge

PROTONET = protonet(*features, ways=WAYS)


@predictor
class Told:
    """f's scores, told in another way."""

    f: Callable
    tell: Callable[[Tensor], Tensor] = static()

    def __call__(self, x: Tensor) -> Tensor:
        return self.tell(self.f(x))


@predictor
class Sure(Told):
    """One that offers probabilities of its own."""

    sure: Callable[[Tensor], Tensor] = static()

    def probabilities(self, x: Tensor) -> Tensor:
        return self.sure(self.f(x))


def told(tell, sure=None, learner=PROTONET, loss=torch.nn.functional.cross_entropy):
    def adapt(theta, S):
        f = learner.adapt(theta, S)
        return Sure(f, tell, sure) if sure else Told(f, tell)

    return Learner(learner.init, adapt, objectives.query_loss(loss))


def breaks(law: str, learner: Learner, message: str, tasks=blobs) -> None:
    with pytest.raises(AssertionError, match=f"^{law}: {message}"):
        check(learner, tasks, laws=[law])


def test_whatever_a_learner_raises_is_told_with_its_law():
    """Also where the law is waived: a waiver is of what the law asks, not of mistakes."""

    def adapt(theta, S):
        return {}["prototypes"]

    lost = Learner(PROTONET.init, adapt, PROTONET.objective)
    breaks("adapt_is_pure", lost, "KeyError: 'prototypes'\n    The law: ")
    with pytest.raises(AssertionError, match="KeyError"):
        check(lost, blobs, laws=["adapt_is_pure"], waive={"adapt_is_pure": "it is not"})


# answers_mean_what_is_said

ANSWERS = "answers_mean_what_is_said"


def same(scores: Tensor) -> Tensor:
    return scores


def softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


@pytest.mark.parametrize(
    ("tell", "message"),
    [
        (softmax, "f answers probabilities, whose softmax is taken once more: answer their logarithm"),
        (lambda s: -s / 0, "scores are NaN or infinite"),
        (lambda s: s * torch.nan, "scores are NaN or infinite"),
        (lambda s: torch.where(s < s.amax(-1, keepdim=True), -torch.inf, s), "a class that is in S has the score -inf"),
        (lambda s: s[..., :2], "f scores 2 classes, S has label 2"),
    ],
)
def test_scores_have_a_softmax_that_is_meant(tell, message):
    breaks(ANSWERS, told(tell), message)


def test_a_class_that_is_not_there_has_no_score_of_nan():
    """Means over no example: fine on the tasks of training, and NaN for who shows fewer classes."""

    def adapt(theta, S):
        member = (S.y[:, None] == torch.arange(WAYS, device=S.y.device)).to(S.x)
        centres = member.mT @ S.x / member.sum(0)[:, None]
        return lambda x: -(x[:, None] - centres).square().sum(-1)

    breaks(ANSWERS, Learner(PROTONET.init, adapt, PROTONET.objective), "scores are NaN or infinite")


@pytest.mark.parametrize(
    ("sure", "message"),
    [
        (lambda s: s.exp(), "probabilities sum to one"),
        (lambda s: 2 * s.softmax(-1) - 1 / WAYS, "probabilities are negative or NaN"),
        (lambda s: s.neg().softmax(-1), "the most probable class has the highest score"),
        (lambda s: s.softmax(-1)[:, :2], "probabilities are .*, scores"),
    ],
)
def test_probabilities_of_ones_own_are_a_distribution_that_agrees(sure, message):
    breaks(ANSWERS, told(same, sure), message)


def test_scores_that_rank_may_be_anything_beside_probabilities():
    check(told(softmax, softmax), blobs, laws=[ANSWERS])


@pytest.mark.parametrize(
    ("tell", "message"),
    [(lambda y: y.flatten(), "f answers .* to targets"), (lambda y: y.log(), "f answers numbers that are not finite")],
)
def test_numbers_are_numbers(tell, message):
    learner = told(tell, learner=ZOO["maml-regression"].learner, loss=torch.nn.functional.mse_loss)
    breaks(ANSWERS, learner, message, waves)


# all_of_theta_learns

LEARNS = "all_of_theta_learns"


def test_a_learner_that_forgot_its_statistics_is_found():
    case = ZOO["protonet-conv4-running"]
    judge(LEARNS, case)
    forgetful = replace(case, learner=replace(case.learner, statistics=None))
    with pytest.raises(AssertionError, match=r"^all_of_theta_learns: theta/body.0.norm.running_mean, .* never has"):
        judge(LEARNS, forgetful)


def test_what_is_scheduled_need_not_learn_and_what_is_not_must():
    case = ZOO["margin-sphereface"]
    judge(LEARNS, case)
    with pytest.raises(AssertionError, match=r"^all_of_theta_learns: theta/loss/lambda never has a gradient"):
        judge(LEARNS, replace(case, learner=replace(case.learner, scheduled=None, objective=still(case.learner))))


def still(learner: Learner) -> Callable:
    """Its objective, with lambda held constant."""

    def objective(adapt, theta, task):
        held = {**theta["loss"], "lambda": theta["loss"]["lambda"].detach()}
        return learner.objective(adapt, {**theta, "loss": held}, task)

    return objective


def test_theta_that_is_never_read_is_found():
    def init(seed):
        return {"net": PROTONET.init(seed), "spare": torch.zeros(2)}

    def inner(theta):
        return theta["net"]

    learner = Learner(
        init, lambda theta, S: PROTONET.adapt(inner(theta), S),
        lambda adapt, theta, task: PROTONET.objective(PROTONET.adapt, inner(theta), task),
    )  # fmt: skip
    breaks(LEARNS, learner, "theta/spare never has a gradient, and is neither in statistics nor scheduled")
    check(replace(learner, scheduled=lambda step: {"spare": torch.zeros(2)}), blobs, laws=[LEARNS])
    unknown = replace(learner, statistics=lambda theta, S: {"spar": S.x[0, :2]})
    breaks(LEARNS, unknown, "statistics or scheduled give theta/spar, which theta does not hold")


def test_a_gradient_in_a_later_batch_is_enough():
    """A weight that only the tasks of some batches move."""

    def objective(adapt, theta, task):
        loss, info = PROTONET.objective(PROTONET.adapt, theta["net"], task)
        return loss + torch.where(task.query.x[0, 0] < limit, theta["rare"], 0.0), info

    def init(seed):
        return {"net": PROTONET.init(seed), "rare": torch.zeros(())}

    firsts = [blobs(2, seed).query.x[:, 0, 0].min() for seed in range(3)]
    learner = Learner(init, lambda theta, S: PROTONET.adapt(theta["net"], S), objective)
    limit = firsts[0]
    assert min(firsts) < limit
    check(learner, blobs, laws=[LEARNS])
    limit = min(firsts)
    breaks(LEARNS, learner, "theta/rare never has a gradient")


# reads_no_values

READS = "reads_no_values"
READERS = {
    "item": lambda x: x * x.sum().item(),
    "float": lambda x: x * float(x.sum()),
    "int": lambda x: x[: int(x.abs().amax() + 10)],
    "bool": lambda x: x if x.sum() > 0 else -x,
    "nonzero": lambda x: x.index_select(0, (x[:, 0] == x[:, 0]).nonzero()[:, 0]),
    "mask": lambda x: x[x[:, 0] == x[:, 0]],
    "unique": lambda x: x + 0 * x.unique().sum(),
    "list": lambda x: x * sum(x[0].tolist()),
    "numpy": lambda x: x * x.detach().numpy().max(),
    "indices": lambda x: x[[*range(len(x))]],
    "made elsewhere": lambda x: x + torch.arange(len(x))[:, None],
    "brought along": lambda x: x * torch.ones(x.shape).to(x.device),
}


@pytest.mark.parametrize("reader", READERS)
def test_who_reads_a_number_is_found(reader):
    """In f, in adapt and in the objective."""
    read = READERS[reader]

    def adapt(theta, S):
        return PROTONET.adapt(theta, S._replace(x=read(S.x)))

    def objective(adapt, theta, task):
        return PROTONET.objective(adapt, theta, task._replace(query=task.query._replace(x=read(task.query.x))))

    breaks(READS, told(read), "")
    breaks(READS, replace(PROTONET, adapt=adapt), "")
    breaks(READS, replace(PROTONET, objective=objective), "")


def test_f_too_must_not_read_where_the_objective_goes_without_it():
    def adapt(theta, S):
        return Told(PROTONET.adapt(theta, S), READERS["item"])

    def objective(adapt, theta, task):
        return PROTONET.objective(PROTONET.adapt, theta, task)

    breaks(READS, Learner(PROTONET.init, adapt, objective), "")


def test_results_lie_where_the_data_are():
    def adapt(theta, S):
        return lambda x: torch.zeros(len(x), WAYS)

    breaks(READS, replace(PROTONET, adapt=adapt, objective=lambda _, theta, task: PROTONET.objective(
        PROTONET.adapt, theta, task)), "results lie on cpu instead of where the data are")  # fmt: skip


# meta_training_helps


def test_an_f_that_knows_no_class_is_called_so():
    learner = told(lambda s: s.mean(-1, keepdim=True).expand_as(s))
    breaks("meta_training_helps", learner, r"the query loss .* from (\S+) to \1: f answers the same for every class")


def test_an_f_that_does_not_learn_is_not():
    learner = replace(PROTONET, objective=lambda *given: (0 * PROTONET.objective(*given)[0], {}))
    with pytest.raises(AssertionError, match="the query loss on unseen tasks went from") as error:
        judge("meta_training_helps", Case(learner, blobs))
    assert "same for every class" not in str(error.value)


BUGS = [
    Bug("who softens twice is not found", "testing.py",
        ("assert not like,", "assert True,"), "test_scores_have_a_softmax_that_is_meant"),
    Bug("only tasks with every class are asked", "testing.py",
        ("for y in (S.y, torch.zeros_like(S.y)):", "for y in (S.y,):"),
        "test_a_class_that_is_not_there_has_no_score_of_nan"),
    Bug("probabilities may choose another class", "testing.py",
        ("assert_close(chosen, scores.amax(-1),", "assert_close(chosen, chosen,"),
        "test_probabilities_of_ones_own_are_a_distribution_that_agrees"),
    Bug("protonet forgets its statistics", "learners/protonet.py",
        ("statistics=population(embed)", "statistics=None"), law("all_of_theta_learns", "protonet-conv4-running")),
    Bug("what never has a gradient is forgiven", "testing.py",
        ("if g.any()}", "}"), "test_theta_that_is_never_read_is_found"),
    Bug("running norms are forgiven as support norms are", "testing.py",
        ("not (kept and n.endswith", "not (n.endswith"), "test_a_learner_that_forgot_its_statistics_is_found"),
    Bug("maml answers through a softmax", "learners/maml.py",
        ("return self.net(self.phi, x)", "return self.net(self.phi, x).softmax(-1)"),
        law("answers_mean_what_is_said", "maml")),
    Bug("the prototypes wait for a number", "learners/protonet.py",
        ("score = -(z[:, None]", "score = (-1 if self.present.all() else -2) * (z[:, None]"),
        law("reads_no_values", "protonet")),
    Bug("f may read what the objective does not", "testing.py",
        (", learner.adapt(theta, S)(Q.x)\n", ", ()\n"),
        "test_f_too_must_not_read_where_the_objective_goes_without_it"),
    Bug("indices may come from the host", "testing.py",
        ("with _NoHost(), _NoLists():", "with _NoHost():"), "test_who_reads_a_number_is_found[indices]"),
    Bug("tensors may come from the host", "testing.py",
        ("with _NoHost(), _NoLists():", "with _NoLists():"), "test_who_reads_a_number_is_found"),
    Bug("an f that knows no class goes unnamed", "testing.py",
        ("if not target_of(unseen.query.y).numbers and", "if False and"),
        "test_an_f_that_knows_no_class_is_called_so"),
]  # fmt: skip
