"""A controller learned by REINFORCE: its gradient against enumeration, and one search for any number of workers."""

from itertools import product
from threading import Thread

import numpy as np
import optuna
import pytest
import torch
from mutations import Bug
from optuna.trial import TrialState
from tokens import ALL, REWARDS, SIZES, policy
from torch.testing import assert_close

from metaloop.outer import Controller, reinforce, search_by
from metaloop.outer.search_space import read_space
from metaloop.outer.search_study import open_store, quiet
from metaloop.outer.search_table import Table

SPACE = read_space({"a": [0, 1], "b": [0, 1, 2], "c": ["x", "y"]})


def test_probabilities_are_of_all_choices_and_draws_follow_them():
    found = policy()
    p = found.log_p(ALL).exp().detach()
    assert_close(p.sum(), torch.tensor(1.0).double())
    assert p.max() / p.min() > 1.5
    after = p.view(SIZES) / p.view(SIZES).sum(1, keepdim=True)
    assert (after[0] - after[1]).abs().max() > 0.01  # the second token depends on the first
    n = 20_000
    drawn = found.sample(n, torch.Generator().manual_seed(0))
    counts = torch.stack([(drawn == each).all(1).sum() for each in ALL]).double()
    chi_square = ((counts - n * p).square() / (n * p)).sum()
    assert chi_square < 20.5  # five degrees of freedom: p = .001


@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_the_gradient_is_the_exact_expected_rewards(baseline):
    """On a space of two tokens: over all choices with their probabilities, the gradient of (2) is that of
    J = sum p(a) R(a), whatever the baseline; and so is a batch's that has each choice as often as it is likely."""
    found = policy()
    log_p = found.log_p(ALL)
    J = (log_p.exp() * REWARDS).sum()
    want = torch.autograd.grad(J, [*found.parameters()], retain_graph=True)
    weighted = sum(
        p.detach() * reinforce(each[None], R[None], baseline)
        for p, each, R in zip(log_p.exp(), log_p, REWARDS, strict=True)
    )
    got = torch.autograd.grad(weighted, [*found.parameters()])
    assert max(float(g.abs().max()) for g in want) > 1e-3
    assert_close([-g for g in got], [*want], rtol=0, atol=1e-12)


def test_a_batch_is_a_mean():
    found = policy()
    together = reinforce(found.log_p(ALL), REWARDS, 0.2)
    each = [-(R - 0.2) * found.log_p(a[None])[0] for a, R in zip(ALL, REWARDS, strict=True)]
    assert_close(together, sum(each) / len(ALL))


def score(choice):
    if choice["a"] == 1 and choice["b"] == 2:
        raise ValueError("no such network")
    return 0.5 * choice["a"] + 0.2 * choice["b"] + 0.1 * (choice["c"] == "y")


def history(study):
    return [(t.number, t.params, t.value) for t in study.get_trials(deepcopy=False)]


def searched(path, workers, trials):
    """Each worker with a storage, a study and a controller of its own, on one journal."""

    def work():
        store = open_store(path)
        study = optuna.load_study(storage=store.storage, study_name="s", sampler=optuna.samplers.RandomSampler(seed=0))
        controller = Controller(SPACE, batch=4, lr=0.1, seed=3)
        search_by(controller, study, score, trials=trials, alone=store.alone, pause=0.01)

    with quiet():
        if not path.exists():
            optuna.create_study(storage=open_store(path).storage, study_name="s", direction="maximize")
        threads = [Thread(target=work) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return history(optuna.load_study(storage=open_store(path).storage, study_name="s"))


def test_the_search_does_not_depend_on_the_number_of_workers_and_goes_on(tmp_path):
    one = searched(tmp_path / "one.journal", 1, 12)
    two = searched(tmp_path / "two.journal", 2, 12)
    searched(tmp_path / "parts.journal", 1, 4)
    assert one == two == searched(tmp_path / "parts.journal", 1, 12)
    assert len(one) == 12
    assert len({tuple(params.values()) for _, params, _ in one}) > 4


def test_it_learns_what_is_rewarded():
    """The exact expected reward, over all twelve choices, goes up from that of a policy that has learned nothing."""
    every = torch.tensor([*product(range(2), range(3), range(2))])
    reward = lambda a, b, c: 0.0 if (a, b) == (1, 2) else 0.5 * a + 0.2 * b + 0.1 * c
    R = torch.tensor([reward(*each) for each in every.tolist()], dtype=torch.double)
    expected = lambda controller: float((controller.policy.log_p(every).detach().exp() * R).sum())
    controller = Controller(SPACE, batch=8, lr=0.05, seed=0)
    before = expected(controller)
    with quiet():
        study = optuna.create_study(direction="maximize")
        search_by(controller, study, score, trials=320)
    assert expected(controller) > before + 0.15


def test_rewards_of_a_study_that_minimises_are_minus_its_values():
    with quiet():
        up, down = (optuna.create_study(direction=d) for d in ("maximize", "minimize"))
        search_by(Controller(SPACE, batch=4, lr=0.1), up, score, trials=16)
        search_by(Controller(SPACE, batch=4, lr=0.1), down, lambda choice: -score(choice), trials=16)
    assert [t.params for t in up.trials] == [t.params for t in down.trials]


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_trial_without_a_value_is_as_bad_as_the_worst_so_far(direction):
    """Losses are above 0, and no failure is better than one; before there is a worst nothing is learned."""
    sign = -1.0 if direction == "maximize" else 1.0
    with quiet():
        study, controller = optuna.create_study(direction=direction), Controller(SPACE, batch=3, decay=0.5)
        controller.propose(study)
        for losses, baseline in (
            ([None, None, None], None), ([None, 4.0, 1.0], -3.0), ([2.0, None, 3.0], -3.0), ([6.0, None, 0.0], -3.5)
        ):  # fmt: skip
            for loss in losses:
                study.tell(study.ask(), *([None, TrialState.FAIL] if loss is None else [sign * loss]))
            assert controller.propose(study)
            assert controller.baseline == baseline


def test_on_a_table_what_diverged_is_as_bad_as_the_worst():
    """So a controller that is told losses leaves the cells that diverge, as it leaves those of the greatest loss."""
    losses = np.array([[3.0, 2.0, 1.0, 4.0] * 3])
    some = [Table(SPACE, {"loss": each}, False, {}) for each in (losses, np.where(losses == 4, np.nan, losses))]
    some[0].scores["loss"][losses == 4] = 3.0
    one, other = (table.run("controller", 12, 0, asks=3, lr=0.1, batch=4) for table in some)
    assert one == other


def test_what_it_cannot_do_is_said_in_one_line():
    with pytest.raises(ValueError, match=r"rate=0\.1\.\.1 is a range"):
        Controller(read_space({"rate": "0.1..1"}))
    with pytest.raises(ValueError, match="batch=0"):
        Controller(SPACE, batch=0)
    with quiet():
        study = optuna.create_study(direction="maximize")
        search_by(Controller(SPACE, batch=4, seed=0), study, score, trials=4)
        with pytest.raises(ValueError, match="is another controller's"):
            search_by(Controller(SPACE, batch=4, seed=1), study, score, trials=8)

        def broken(choice):
            raise RuntimeError("out of memory")

        with pytest.raises(RuntimeError, match="out of memory"):
            search_by(Controller(SPACE, batch=4), other := optuna.create_study(), broken, trials=4)
        assert other.trials[0].state == optuna.trial.TrialState.FAIL


BUGS = [
    Bug("a failure is better than any loss", "outer/controller.py",
        ("self.worst if self.failed is None else self.failed", "self.failed or 0.0"),
        "test_a_trial_without_a_value_is_as_bad_as_the_worst_so_far[minimize]"),
    Bug("reinforce climbs down", "outer/controller.py",
        ("return -((rewards - baseline) * log_p).mean()", "return ((rewards - baseline) * log_p).mean()"),
        "test_the_gradient_is_the_exact_expected_rewards[0.0]"),
    Bug("the baseline is divided by the probability", "outer/controller.py",
        ("return -((rewards - baseline) * log_p).mean()", "return -(rewards * log_p - baseline * log_p.exp()).mean()"),
        "test_the_gradient_is_the_exact_expected_rewards[0.4]"),
    Bug("a batch is learned in another order", "outer/controller.py",
        ("key=lambda t: t.number)", "key=lambda t: -t.number)"),
        "test_the_search_does_not_depend_on_the_number_of_workers_and_goes_on"),
    Bug("the policy does not see its last token", "outer/controller.py",
        ("x = self.embeddings[t](tokens[-1])", "x = self.embeddings[t](tokens[-1] * 0)"),
        "test_probabilities_are_of_all_choices_and_draws_follow_them"),
]  # fmt: skip
