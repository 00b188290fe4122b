"""The Neural Turing Machine, restated one slot at a time, and each step of its addressing by itself."""

import math

import pytest
import torch
from mutations import Bug, law
from torch.testing import assert_close
from zoo import ORDER, QUERIES, batched

from metaloop import Data, Task, functional, meta_gradient, ntm
from metaloop.nn import Memory, Recurrent, Tape
from metaloop.nn.memory import address
from metaloop.tasks import associative_recall
from metaloop.testing import Case

HIDDEN, SLOTS, WIDTH = 5, 9, 3
net, init = functional(Memory(4, HIDDEN, 2, Tape(HIDDEN, SLOTS, WIDTH)))


@pytest.fixture
def theta():
    return {n: 2 * p.double().requires_grad_() for n, p in init(0).items()}


@pytest.fixture
def task():
    g = torch.Generator().manual_seed(0)
    tasks = associative_recall(bits=2, length=1).sample(tasks=1, shots=2, generator=g)
    return Task(*(Data(part.x[0].double(), part.y[0].double()) for part in tasks))


# Addressing (4), step by step


def content(k, beta, M):
    raw = [beta * (k @ m) / (k @ k * (m @ m) + 1e-6).sqrt() for m in M]
    total = sum(r.exp() for r in raw)
    return [r.exp() / total for r in raw]


def interpolated(g, w, before):
    return [g * w[i] + (1 - g) * before[i] for i in range(len(w))]


def shifted(w, s):
    n = len(w)
    return [sum(w[(i - j) % n] * s[j + 1] for j in (-1, 0, 1)) for i in range(n)]


def sharpened(w, gamma):
    total = sum(w_i**gamma for w_i in w)
    return [w_i**gamma / total for w_i in w]


def softplus(a):
    return torch.log(1 + torch.exp(a))


@pytest.fixture
def head():
    """A head that does nothing: k, beta, g, s, gamma, with the gate shut, the shift 0, the power 1."""
    return torch.tensor([0.3, -0.8, 0.5, 0.0, -100.0, -100.0, 100.0, -100.0, -100.0], dtype=torch.double)


@pytest.fixture
def memory():
    M = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    return M, torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.double)


def test_a_head_that_does_nothing(head, memory):
    M, before = memory
    assert_close(address(M, before, head), before)


def test_content(head, memory):
    M, before = memory
    head[3:5] = torch.tensor([2.0, 100.0])
    want = torch.stack(content(head[:3], softplus(head[3]), M))
    assert_close(address(M, before, head), want)
    assert want.std() > 0.1
    head[3] = 100.0  # a large beta finds the slot that is most alike
    assert address(M, before, head).argmax() == torch.nn.functional.cosine_similarity(M, head[:3]).argmax()


def test_interpolation(head, memory):
    M, before = memory
    head[3:5] = torch.tensor([2.0, -0.7])
    w = content(head[:3], softplus(head[3]), M)
    assert_close(address(M, before, head), torch.stack(interpolated(torch.sigmoid(head[4]), w, before)))


@pytest.mark.parametrize(("shift", "want"), [(5, [0.2, 0.3, 0.4, 0.1]), (7, [0.4, 0.1, 0.2, 0.3])])
def test_shift(head, memory, shift, want):
    """By one slot back and one slot on, in a circle; and a blurred one."""
    M, before = memory
    head[5:8] = -100.0
    head[shift] = 100.0
    assert_close(address(M, before, head), torch.tensor(want, dtype=torch.double))
    head[5:8] = torch.tensor([0.3, -0.2, 1.0])
    assert_close(address(M, before, head), torch.stack(shifted(before, head[5:8].softmax(0))))


def test_sharpening(head, memory):
    M, before = memory
    head[8] = 1.5
    assert_close(address(M, before, head), torch.stack(sharpened(before, 1 + softplus(head[8]))))
    head[8] = 5000.0  # no sum of powers vanishes
    assert_close(address(M, before, head), torch.tensor([0.0, 0, 0, 1], dtype=torch.double))


def test_derivatives_are_finite_where_weights_are_zero(head, memory):
    M, _ = memory
    head[4:8] = torch.tensor([-1000.0, -1000, 1000, -1000])  # nothing of other slots
    before = torch.eye(4, dtype=torch.double)[0]
    grads = torch.func.grad(lambda M, head: address(M, before, head)[1], argnums=(0, 1))(0 * M, head)
    assert all(g.isfinite().all() for g in grads)


# The whole


def step(theta, u, state):
    h, c, r, M, w_r, w_w = state
    z = theta["lstm.cells.0.weight"] @ torch.cat([u, r, h]) + theta["lstm.cells.0.bias"]
    i, f, o, g = (z[k * HIDDEN : (k + 1) * HIDDEN] for k in range(4))
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    numbers = theta["access.head.weight"] @ h + theta["access.head.bias"]
    read, write = numbers[: WIDTH + 6], numbers[WIDTH + 6 : 2 * WIDTH + 12]
    erase, add = torch.sigmoid(numbers[-2 * WIDTH : -WIDTH]), numbers[-WIDTH:]

    def addressed(head, before):
        w = content(head[:WIDTH], softplus(head[WIDTH]), M)
        w = interpolated(torch.sigmoid(head[WIDTH + 1]), w, before)
        return sharpened(shifted(w, head[WIDTH + 2 : WIDTH + 5].softmax(0)), 1 + softplus(head[WIDTH + 5]))

    w_r, w_w = addressed(read, w_r), addressed(write, w_w)
    r = sum(w_r[i] * M[i] for i in range(SLOTS))
    M = [M[i] * (1 - w_w[i] * erase) + w_w[i] * add for i in range(SLOTS)]
    return theta["head.weight"] @ torch.cat([h, r]) + theta["head.bias"], (h, c, r, M, w_r, w_w)


def answers(theta, S, Q):
    zero = torch.zeros(HIDDEN, dtype=torch.double)
    first = list(torch.eye(SLOTS, dtype=torch.double)[0])
    empty = [torch.full((WIDTH,), 1e-6, dtype=torch.double)] * SLOTS
    state, said = (zero, zero, torch.zeros(WIDTH, dtype=torch.double), empty, first, first), []
    for u in S.x:
        _, state = step(theta, u, state)                                                          # (1)
    for u in Q.x:
        p, state = step(theta, u, state)                                                          # (2)
        said.append(torch.sigmoid(p))
    return torch.stack(said)


def test_answers_loss_and_gradient(theta, task):
    S, Q = task
    p = answers(theta, S, Q)
    learner = ntm(net, init)
    assert_close(learner.adapt(theta, S)(Q.x), p, rtol=1e-6, atol=1e-8)
    loss = -(Q.y * p.log() + (1 - Q.y) * (1 - p).log()).mean()                                    # (3)
    want = dict(zip(theta, torch.autograd.grad(loss, theta.values()), strict=True))
    grads, got, info = meta_gradient(learner)({n: t.detach() for n, t in theta.items()}, batched(task))
    assert_close(got, loss.detach(), rtol=1e-6, atol=1e-8)
    assert_close(info, {"bits": loss.detach() * Q.y.numel() / math.log(2)}, rtol=1e-6, atol=1e-8)
    assert_close(grads, want, rtol=1e-5, atol=1e-8)


def test_what_is_asked_is_not_in_what_is_read(theta, task):
    """Other y of the support set, and other y of the queries, change no answer."""
    S, Q = task
    learner = ntm(net, init)
    assert torch.equal(learner.adapt(theta, S)(Q.x), learner.adapt(theta, Data(S.x, S.y + 1))(Q.x))


def test_a_sequence_longer_than_the_memory_is_refused(theta):
    learner = ntm(net, init)
    longest = torch.zeros(SLOTS, 4, dtype=torch.double)
    f = learner.adapt(theta, Data(longest, longest))
    assert f(torch.zeros(2 * SLOTS, 4, dtype=torch.double)).shape == (2 * SLOTS, 2)  # answers may be longer
    longer = torch.zeros(SLOTS + 1, 4, dtype=torch.double)
    with pytest.raises(ValueError, match=r"Memory: a sequence of 10 inputs, the memory has 9 slots. Take at most 9"):
        learner.adapt(theta, Data(longer, longer))


def recited(n: int, seed: int) -> Task:
    """One vector of three bits, which is asked for four times."""
    y = (torch.rand(n, 1, 3, generator=torch.Generator().manual_seed(seed)) < 0.5).float()
    x = torch.nn.functional.pad(y, (0, 1))
    S = Data(torch.cat([0 * x, x, 0 * x + 1], 1), torch.zeros(n, 3, 3))
    return Task(S, Data(torch.zeros(n, 4, 4), y.expand(n, 4, 3)))


IN_ORDER = {ORDER: "S is read as a sequence", QUERIES: "the queries are a sequence, each after the one before"}


def case(net):
    return Case(ntm(*functional(net)), recited, IN_ORDER)


CASES = {
    "ntm": lambda: case(Memory(4, 8, 3, Tape(8, 5, 4))),
    "ntm-lstm": lambda: case(Recurrent(4, 8, 3)),
}

WHOLE = "test_answers_loss_and_gradient"
BUGS = [
    Bug("a key's strength is left out", "nn/memory.py", ("F.softplus(beta) * similarity", "1.0 * similarity"),
        "test_content"),
    Bug("content and place are interpolated the wrong way round", "nn/memory.py",
        ("g.sigmoid() * w + (1 - g.sigmoid()) * before", "(1 - g.sigmoid()) * w + g.sigmoid() * before"),
        "test_interpolation"),
    Bug("heads shift the wrong way", "nn/memory.py",
        ("back * w.roll(-1, -1) + stay * w + on * w.roll(1, -1)",
         "back * w.roll(1, -1) + stay * w + on * w.roll(-1, -1)"), "test_shift"),
    Bug("weights are blurred, not sharpened", "nn/memory.py",
        ("(1 + F.softplus(gamma))", "1 / (1 + F.softplus(gamma))"), "test_sharpening"),
    Bug("weights of zero have no logarithm", "nn/memory.py", ("(w + 1e-12).log()", "w.log()"),
        "test_derivatives_are_finite_where_weights_are_zero"),
    Bug("the tape is written before it is read", "nn/memory.py",
        ("return r, (M, w_r, w_w)", "return (w_r[..., None, :] @ M)[..., 0, :], (M, w_r, w_w)"), WHOLE),
    Bug("nothing is erased", "nn/memory.py", ("M * (1 - w_w[..., None] * e.sigmoid()[..., None, :])", "M"), WHOLE),
    Bug("NTM's queries begin with an empty memory", "learners/ntm.py",
        ("self.net(self.theta, x.flatten(1), self.h)", "self.net(self.theta, x.flatten(1))"), WHOLE),
    Bug("what is read leaves no gradient", "learners/ntm.py",
        ("adapt(theta, S).logits", "adapt({n: p.detach() for n, p in theta.items()}, S).logits"),
        law("meta_gradient_is_the_derivative", "ntm")),
]  # fmt: skip
