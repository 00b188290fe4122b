"""Siamese networks, restated one pair at a time; and what is counted as right."""

from functools import partial
from itertools import combinations, product

import pytest
import torch
from mutations import Bug, law
from torch.testing import assert_close
from zoo import WAYS, batched, blobs, features, image_net, pictures, waived

from metaloop import Data, Task, evaluate, functional, meta_gradient, siamese
from metaloop.nn import POLICIES, mlp
from metaloop.objectives import accuracy
from metaloop.recipes import find
from metaloop.targets import alone, verified
from metaloop.tasks import glyphs
from metaloop.testing import Case
from metaloop.torch_private import pytree

DIM = 5
embed, init = functional(mlp((4, 8, DIM)))
learner = partial(siamese, embed, init, dim=DIM)


@pytest.fixture
def theta():
    theta = pytree.tree_map(torch.Tensor.double, learner(ways=WAYS).init(0))
    theta["head"]["b"] += 0.3
    return theta


@pytest.fixture
def task():
    """Some classes are in the support set alone, some in the queries alone; one has a single example."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(13, 4, generator=g).double()
    y = torch.tensor([0, 2, 2, 1, 0, 2, 1, 4, 4, 0, 2, 3, 4])
    return Task(Data(x[:7], y[:7]), Data(x[7:], y[7:]))


def h(theta, x):
    return 1 / (1 + (-embed(theta["net"], x[None])[0]).exp())                                      # (1)


def logit(theta, a, b):
    w = theta["head"]["w"]
    return sum(w[j] * (h(theta, a)[j] - h(theta, b)[j]).abs() for j in range(DIM)) + theta["head"]["b"]  # (2)


def test_loss_and_gradient(theta, task):
    leaves, spec = pytree.tree_flatten(theta)
    leaves = [t.clone().requires_grad_() for t in leaves]
    live = pytree.tree_unflatten(leaves, spec)
    examples = [pair for part in task for pair in zip(*part, strict=True)]                          # S and Q together
    same, different, right = [], [], {True: [], False: []}
    for (a, y), (b, k) in combinations(examples, 2):
        p = 1 / (1 + (-logit(live, a, b)).exp())
        (same if y == k else different).append(-(p if y == k else 1 - p).log())
        right[bool(y == k)].append(float((p > 0.5) == (y == k)))
    assert len(same) < len(different)
    loss = sum(same) / len(same) / 2 + sum(different) / len(different) / 2                          # (3)
    want = pytree.tree_unflatten(torch.autograd.grad(loss, leaves), spec)
    grads, got, info = meta_gradient(learner(ways=WAYS))(theta, batched(task))
    assert_close(got, loss.detach())
    assert_close(grads, want)
    assert_close(info["accuracy"].item(), sum(sum(r) / len(r) for r in right.values()) / 2)


def test_the_likest_example_decides(theta, task):
    S, Q = Data(task.support.x, task.support.y), task.query
    scores = learner(ways=WAYS + 1).adapt(theta, S)(Q.x)
    for x, row in zip(Q.x, scores, strict=True):
        for k in range(WAYS):
            assert_close(row[k], max(logit(theta, x, s) for s, y in zip(*S, strict=True) if y == k))  # (4)
        assert row[WAYS] == -torch.inf


def test_the_softmax_of_scores_is_the_probability_given_that_one_pair_is_of_one_class(theta, task):
    S, x = Data(task.support.x[:3], torch.arange(3)), task.query.x[0]
    p = [1 / (1 + (-logit(theta, x, s)).exp()) for s in S.x]
    each = torch.zeros(3).double()
    for yes in product((True, False), repeat=3):
        if sum(yes) == 1:
            q = [p_k if y else 1 - p_k for p_k, y in zip(p, yes, strict=True)]
            each[yes.index(True)] += q[0] * q[1] * q[2]
    assert_close(learner(ways=3).adapt(theta, S)(x[None])[0].softmax(-1), each / each.sum())


@pytest.mark.parametrize("y", [torch.arange(13), torch.zeros(13, dtype=torch.long)], ids=["none", "only"])
def test_a_batch_without_pairs_of_one_kind_has_the_loss_of_the_other(theta, task, y):
    x = torch.cat([task.support.x, task.query.x])
    cut = Task(Data(x[:7], y[:7]), Data(x[7:], y[7:]))
    sign = 1 if (y == 0).all() else -1
    terms = [torch.nn.functional.softplus(-sign * logit(theta, a, b)) for a, b in combinations(x, 2)]
    grads, loss, _ = meta_gradient(learner(ways=13))(theta, batched(cut))
    assert_close(loss, sum(terms) / len(terms) / 2)
    assert all(g.isfinite().all() for g in pytree.tree_leaves(grads))


def test_equal_examples_are_told_by_the_threshold(theta, task):
    f = learner(ways=7).adapt(theta, Data(task.support.x, torch.arange(7)))
    assert_close(f(task.support.x).diagonal(), theta["head"]["b"].expand(7))


# What is counted as right


def test_scores_alone_at_the_top_are_right():
    scores = torch.tensor([[[2.0, 1, 0], [1, 1, 0], [0, 1, 1], [-torch.inf, 0, -torch.inf], [torch.nan, 1, 0]]])
    assert_close(alone(scores, torch.tensor([[0, 0, 0, 1, 0]])), torch.tensor([2 / 5]))
    assert_close(alone(scores, torch.tensor([[1, 1, 1, 0, 0]])), torch.tensor([0.0]))


def test_pairs_are_told_by_the_sign():
    scores = torch.tensor([[[2.0, -1], [3, 1]], [[0, 0], [-1, 1]], [[-1, 1], [torch.nan, -torch.inf]]])
    assert_close(verified(scores, torch.tensor([[0, 1]] * 3)), torch.tensor([3 / 4, 1 / 2, 0.0]))


def test_a_network_with_one_answer_for_all_is_wrong_throughout():
    """Where the first of equal scores is taken, a benchmark whose first class is the true one counts it all right."""
    plan = find("siamese-glyphs").plan(glyphs(), budget="smoke")
    theta = plan.learner.init(0)
    theta["head"] = {name: torch.zeros_like(t) for name, t in theta["head"].items()}
    for row in plan.rows:
        score = evaluate(row.learner, theta, plan.pool, tasks=2, ways=row.ways, shots=1, queries=1, metric=row.metric)
        assert score.mean == 0
    y = torch.zeros(4, dtype=torch.long)
    assert accuracy(torch.zeros(4, 20), y) == 1
    assert alone(torch.zeros(1, 4, 20), y[None]) == 0


def test_scores_in_per_cent_and_their_names():
    plan = find("siamese-glyphs").plan(glyphs(), budget="smoke")
    told = []
    for row in plan.rows:
        episode = {"ways": row.ways, "shots": 1, "queries": 1, "metric": row.metric}
        told.append(str(evaluate(row.learner, plan.learner.init(0), plan.pool, tasks=2, **episode)))
    assert all(text.endswith(" %") for text in told), told


def test_verification_is_of_ten_thousand_pairs_half_of_one_class():
    row = next(row for row in find("siamese-glyphs").plan(glyphs(), budget="smoke").rows if row.label == "verification")
    task = glyphs().test.sample(tasks=1, ways=row.ways, shots=row.shots, queries=row.queries)
    pairs = task.query.y[0][:, None] == task.support.y[0]
    assert row.tested(1000) * pairs.numel() == 10_000
    assert pairs.float().mean() == 0.5


def test_training_drawings_are_distorted_and_test_drawings_are_not():
    plain, bent = (find(f"siamese-omniglot{name}").settings()["distorted"] for name in ("-plain", ""))
    assert (plain, bent) == (False, True)
    pool = glyphs()
    plan = find("siamese-glyphs").plan(pool, budget="smoke")
    episode = {"tasks": 1, "ways": 4, "shots": 1, "queries": 1}
    g = lambda: torch.Generator().manual_seed(0)
    for part in ("train", "val", "test"):
        ours, theirs = (getattr(p, part).sample(**episode, generator=g()) for p in (plan.pool, pool))
        assert torch.equal(ours.query.y, theirs.query.y)
        assert torch.equal(ours.query.x, theirs.query.x) == (part != "train")


def images(policy: str, blocks: int = 4) -> Case:
    net = image_net(policy, blocks=blocks)
    return Case(siamese(*functional(net), ways=WAYS, dim=net.dim), pictures, waived(policy))


CASES = {
    "siamese": lambda: Case(siamese(*features, ways=WAYS, dim=6), blobs),
    **{f"siamese-conv4-{policy}": partial(images, policy) for policy in POLICIES},
}

BUGS = [
    Bug("siamese counts a pair as often as any other", "learners/siamese.py",
        ("of.sum().clamp_min(1) / 2", "pairs.sum()"), "test_loss_and_gradient"),
    Bug("siamese compares an example with itself", "learners/siamese.py",
        ("(same & pairs, 1)", "(same, 1)"), "test_loss_and_gradient"),
    Bug("siamese's distance is squared", "learners/siamese.py",
        ("(h[:, None] - g).abs()", "(h[:, None] - g).square()"), "test_loss_and_gradient"),
    Bug("siamese forgets its threshold", "learners/siamese.py",
        (' + head["b"]', ' + 0 * head["b"]'), "test_equal_examples_are_told_by_the_threshold"),
    Bug("siamese's support examples have no sigmoid", "learners/siamese.py",
        ('h = embed(theta["net"], S.x).sigmoid()', 'h = embed(theta["net"], S.x)'), "test_the_likest_example_decides"),
    Bug("siamese's least like example decides", "learners/siamese.py",
        ("l[:, None], -torch.inf).amax(-1)", "l[:, None], torch.inf).amin(-1)"), "test_the_likest_example_decides"),
    Bug("siamese learns from queries alone", "learners/siamese.py",
        ("(torch.cat(part) for part in zip(*task, strict=True))", "task.query"), "test_loss_and_gradient"),
    Bug("siamese's second twin learns nothing", "learners/siamese.py",
        ('likeness(theta["head"], h, h)', 'likeness(theta["head"], h, h.detach())'),
        law("meta_gradient_is_the_derivative", "siamese")),
    Bug("siamese has no finite loss without a pair of one class", "learners/siamese.py",
        (".clamp_min(1)", ""), "test_a_batch_without_pairs_of_one_kind_has_the_loss_of_the_other"),
    Bug("ties are right", "targets.py",
        (".sum(-1) == 1)", ".sum(-1) >= 1)"), "test_a_network_with_one_answer_for_all_is_wrong_throughout"),
    Bug("an undecided pair is told to be of two classes", "targets.py",
        ("scores < 0)", "scores <= 0)"), "test_a_network_with_one_answer_for_all_is_wrong_throughout"),
    Bug("siamese's accuracy is told as an error", "targets.py",
        ("if metric in IN_PER_CENT:", "if False:"), "test_scores_in_per_cent_and_their_names"),
    Bug("siamese is tested on distorted drawings", "tasks/varied.py",
        ("self.over(self.pool.test) if self.everywhere else self.pool.test", "self.over(self.pool.test)"),
        "test_training_drawings_are_distorted_and_test_drawings_are_not"),
]  # fmt: skip
