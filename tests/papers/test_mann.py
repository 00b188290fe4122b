"""MANN, restated one presentation, one head and one slot at a time, for both orders of writing and addressing."""

from collections import Counter, defaultdict
from itertools import permutations

import pytest
import torch
from mutations import Bug, law
from torch.testing import assert_close
from zoo import ORDER, WAYS, batched, blobs, known_blobs, one

from metaloop import Data, functional, mann, meta_gradient
from metaloop.nn import LeastUsed, Memory, Recurrent
from metaloop.nn.memory import least_used
from metaloop.recipes.mann import counting
from metaloop.testing import Case

HIDDEN, SLOTS, WIDTH, HEADS, DECAY = 5, 6, 3, 2, 0.95  # nine presentations: slots are used again
FORMS = [(order, write) for order in ("write", "address") for write in ("add", "key")]


def network(order: str, write: str):
    access = LeastUsed(HIDDEN, SLOTS, WIDTH, HEADS, order=order, write=write)
    return functional(Memory(4 + WAYS, HIDDEN, WAYS, access))


def start(init):
    return {n: 2 * p.double().requires_grad_() for n, p in init(0).items()}


@pytest.fixture
def task():
    return one(blobs(1, 0))


def cosine(k, m):
    return (k @ m) / (k @ k * (m @ m) + 1e-6).sqrt()


def begin():
    zero = torch.zeros(HIDDEN, dtype=torch.double)
    first = torch.eye(SLOTS, dtype=torch.double)[0]
    memory = [torch.full((WIDTH,), 1e-6, dtype=torch.double) for _ in range(SLOTS)]
    return zero, zero, torch.zeros(HEADS * WIDTH, dtype=torch.double), memory, [first] * HEADS, first


def step(theta, order, write, u, state):
    """One presentation: what is said, and the state after it."""
    h, c, r, M, w_r, w_u = state
    z = theta["lstm.cells.0.weight"] @ torch.cat([u, r, h]) + theta["lstm.cells.0.bias"]
    i, f, o, g = (z[k * HIDDEN : (k + 1) * HIDDEN] for k in range(4))
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)

    numbers = theta["access.head.weight"] @ h + theta["access.head.bias"]
    gates = [torch.sigmoid(numbers[j]) for j in range(HEADS)]
    keys, adds = [], []
    for j in range(HEADS):
        low = HEADS + j * WIDTH
        keys.append(torch.tanh(numbers[low : low + WIDTH]))
        adds.append(torch.tanh(numbers[low + HEADS * WIDTH :][:WIDTH]) if write == "add" else keys[-1])

    by_usage = sorted(range(SLOTS), key=lambda i: w_u[i].item() + 1e-6 * i)
    w_w = []
    for j in range(HEADS):
        least = torch.eye(SLOTS, dtype=torch.double)[by_usage[j]]
        w_w.append(gates[j] * w_r[j] + (1 - gates[j]) * least)

    def look(M):
        return [torch.stack([cosine(k, m) for m in M]).softmax(0) for k in keys]

    if order == "address":
        w_r = look(M)
    M = [m * 0 if i == by_usage[0] else m for i, m in enumerate(M)]
    M = [m + sum(w_w[j][i] * adds[j] for j in range(HEADS)) for i, m in enumerate(M)]
    if order == "write":
        w_r = look(M)
    w_u = DECAY * w_u + sum(w_r) + sum(w_w)
    r = torch.cat([sum(w[i] * M[i] for i in range(SLOTS)) for w in w_r])
    said = theta["head.weight"] @ torch.cat([h, r]) + theta["head.bias"]
    return said, (h, c, r, M, w_r, w_u)


def code(y):
    return torch.eye(WAYS, dtype=torch.double)[y]


def read(theta, form, S: Data):
    """(1): what is said of each example before its label is seen, and the state after them."""
    state, before, said = begin(), torch.zeros(WAYS, dtype=torch.double), []
    for x, y in zip(*S, strict=True):
        p, state = step(theta, *form, torch.cat([x, before]), state)
        said.append(p)
        before = code(y)
    return said, state


@pytest.mark.parametrize("form", FORMS, ids="-".join)
def test_scores_loss_and_gradient(form, task):
    net, init = network(*form)
    theta, (S, Q) = start(init), task
    said, state = read(theta, form, S)
    scores = [step(theta, *form, torch.cat([x, code(S.y[-1])]), state)[0] for x in Q.x]               # (2)
    learner = mann(net, init, ways=WAYS)
    assert_close(learner.adapt(theta, S)(Q.x), torch.stack(scores))
    assert_close(mann(net, init, ways=WAYS, along=True).adapt(theta, S)(S.x), torch.stack(said))

    losses = [-p.log_softmax(0)[y] for p, y in zip(said, S.y, strict=True)]
    losses.append(sum(-p.log_softmax(0)[y] for p, y in zip(scores, Q.y, strict=True)) / len(Q.y))
    loss = sum(losses) / len(losses)                                                                  # (3)
    want = dict(zip(theta, torch.autograd.grad(loss, theta.values()), strict=True))
    grads, got, _ = meta_gradient(learner)({n: p.detach() for n, p in theta.items()}, batched(task))
    assert_close(got, loss.detach())
    assert_close(grads, want)


def test_the_orders_are_not_the_same(task):
    answers = []
    for form in FORMS[:3:2]:
        net, init = network(*form)
        answers.append(mann(net, init, ways=WAYS).adapt(start(init), task.support)(task.query.x))
    assert (answers[0] - answers[1]).abs().max() > 1e-6


def test_the_curve_over_presentations(task):
    net, init = network("write", "add")
    learner, theta = mann(net, init, ways=WAYS), start(init)
    said, _ = read(theta, FORMS[0], task.support)
    met, right = Counter(), defaultdict(list)
    for p, y in zip(said, task.support.y.tolist(), strict=True):
        met[y] += 1
        right[met[y]].append(float(p.argmax() == y))
    _, info = learner.objective(learner.adapt, theta, task)
    scored = torch.stack(said)[None], task.support.y[None]
    assert set(info) == {"accuracy", "presentation 1", "presentation 2"}
    for k in (1, 2):
        share = sum(right[k]) / len(right[k])
        assert_close(info[f"presentation {k}"].item(), share)
        assert_close(counting(k, WAYS)(*scored), torch.tensor([share]))


def best(ways: int, classes: list[int]) -> list[float]:
    """How often the best of all functions of what a network is shown is right, at each of these presentations.

    Every labelling of the classes is read by a network that notes its inputs; who has seen the same inputs can say one
    thing only. Classes are told apart at a glance.
    """
    seen: list[torch.Tensor] = []

    def noting(theta, u, state=None):
        seen.append(u)
        return u.new_zeros(len(u), ways), u.new_zeros(1)

    learner = mann(noting, lambda seed: {}, ways=ways, along=True)
    told = [defaultdict(Counter) for _ in classes]
    for labelling in permutations(range(ways)):
        y = torch.tensor([labelling[k] for k in classes])
        learner.adapt({}, Data(torch.eye(ways)[classes], y))
        for t, y_t in enumerate(y.tolist()):
            told[t][tuple(seen[-1][: t + 1].flatten().tolist())][y_t] += 1
    every = sum(told[0][next(iter(told[0]))].values())
    return [sum(max(counts.values()) for counts in at.values()) / every for at in told]


@pytest.mark.parametrize("seed", range(3))
def test_nothing_can_know_more_of_a_class_at_first_than_which_labels_are_left(seed):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    classes = (order % 5).tolist()
    right = best(5, classes)
    first = [r for t, r in enumerate(right) if classes[t] not in classes[:t]]
    assert_close(first, [1 / 5, 1 / 4, 1 / 3, 1 / 2, 1.0])
    assert_close(sum(first) / 5, 137 / 300)  # 45.7 %
    assert [r for t, r in enumerate(right) if classes[t] in classes[:t]] == [1.0] * 5


def test_slots_used_alike_are_taken_in_their_order():
    usage = torch.tensor([[1.0, 0, 0, 0, 0, 0], [0.2, 0.1, 0.1, 0.3, 0.1, 5.0]])
    chosen = least_used(usage, 3).argmax(-1).tolist()
    assert chosen == [[1, 2, 3], [1, 2, 4]]
    assert torch.func.vmap(lambda u: least_used(u, 3))(usage).argmax(-1).tolist() == chosen
    assert not least_used(usage.requires_grad_(), 3).requires_grad


def test_only_the_least_used_slot_is_emptied():
    """Gates shut: head j writes to the j-th least used slot alone, and nothing of the first one's past is left."""
    access = LeastUsed(1, slots=4, width=2, heads=2)
    with torch.no_grad():
        for p in access.parameters():
            p.zero_()
        access.head.bias[:2] = -100.0  # gates
        access.head.bias[-4:] = torch.tensor([1.0, 1.0, 2.0, 2.0]).atanh().nan_to_num(0.5)
    M, w_r = torch.ones(4, 2), torch.zeros(2, 4)
    _, (after, *_) = access(torch.zeros(1), (M, w_r, torch.tensor([3.0, 0.5, 2.0, 1.0])))
    a = access.head.bias[-4:].tanh().view(2, 2)
    assert_close(after, torch.stack([torch.ones(2), a[0], torch.ones(2), 1 + a[1]]))


def test_more_is_asked_than_was_presented(task):
    net, init = network("write", "add")
    f = mann(net, init, ways=WAYS, along=True).adapt(start(init), task.support)
    with pytest.raises(ValueError, match=r"mann: along=True answers for the 9 examples of S, it is asked about 12"):
        f(task.query.x)


@pytest.mark.parametrize("wrong", [{"order": "read"}, {"write": "keys"}, {"heads": 7}, {"heads": 0}])
def test_impossible_memories_are_refused(wrong):
    with pytest.raises(ValueError, match=r"LeastUsed\(order=.*expected order 'write' or 'address'"):
        LeastUsed(HIDDEN, **{"slots": 6, **wrong})


def case(net):
    """Classes are those of every task: forty steps are few to learn how to remember."""
    waived = {ORDER: "the network reads S one example after another"}
    return Case(mann(*functional(net), ways=WAYS), known_blobs, waived)


CASES = {
    "mann": lambda: case(Memory(4 + WAYS, 8, WAYS, LeastUsed(8, 7, 4, 2))),
    "mann-address-key": lambda: case(
        Memory(4 + WAYS, 8, WAYS, LeastUsed(8, 7, 4, 2, order="address", write="key"))
    ),
    "mann-lstm": lambda: case(Recurrent(4 + WAYS, 8, WAYS)),
}

SCORES = "test_scores_loss_and_gradient"
BUGS = [
    Bug("a class is known at its first presentation", "learners/meta_rnn.py",
        ("torch.cat([torch.zeros_like(S.y[:1]), S.y[:-1]])", "S.y"),
        "test_nothing_can_know_more_of_a_class_at_first_than_which_labels_are_left"),
    Bug("MANN's queries have forgotten the last label", "learners/mann.py",
        ("Presented(p) if along else Continued(theta, h, S.y[-1], net)",
         "Presented(p) if along else Continued(theta, h, 0 * S.y[-1], net)"), SCORES),
    Bug("MANN's loss is of the last example", "learners/mann.py",
        ('F.cross_entropy(p, S.y, reduction="sum")', "0"), SCORES),
    Bug("presentations are counted from the whole sequence", "learners/mann.py",
        ("(member.cumsum(-2) * member).sum(-1)", "(member.sum(-2, keepdim=True) * member).sum(-1)"),
        "test_the_curve_over_presentations"),
    Bug("the memory is addressed before it is written", "nn/memory.py",
        (('if self.order == "address":', "if True:"), ('if self.order == "write":', "if False:")),
        f"{SCORES}[write-add]"),
    Bug("the least used slot keeps its past", "nn/memory.py",
        ("M * (1 - least[..., 0, :, None])", "M"), "test_only_the_least_used_slot_is_emptied"),
    Bug("every head empties its slot", "nn/memory.py",
        ("least[..., 0, :, None]", "least.sum(-2)[..., None]"), "test_only_the_least_used_slot_is_emptied"),
    Bug("all heads write to one slot", "nn/memory.py",
        ("(1 - g) * least\n", "(1 - g) * least[..., :1, :]\n"), SCORES),
    Bug("writing is no use of a slot", "nn/memory.py", ("(w_r + w_w).sum(-2)", "w_r.sum(-2)"), SCORES),
    Bug("of slots used alike the last is taken", "nn/memory.py",
        ("+ 1e-6 * place.to(usage)", "- 1e-6 * place.to(usage)"), "test_slots_used_alike_are_taken_in_their_order"),
    Bug("keys learn nothing", "nn/memory.py",
        ("k, a = vectors[..., 0, :, :],", "k, a = vectors[..., 0, :, :].detach(),"),
        law("meta_gradient_is_the_derivative", "mann")),
]  # fmt: skip
