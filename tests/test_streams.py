"""Streams: what comes in which order, with which labels, and what must not be seen twice."""

import math
import os

import pytest
import torch
from mutations import Bug
from torch.testing import assert_close

from metaloop.core import Data, fold
from metaloop.tasks import ClassPool, class_stream, omniglot_stream, rainbow_mnist, sine_stream, sinusoid
from metaloop.tasks.pool import Splits
from metaloop.tasks.rainbow_mnist import COLOURS, LOOKS, RainbowMNIST


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def coded(classes: int, each: int, first: int = 0, split: str = "") -> ClassPool:
    """Images that say what they are: class in the first pixel, number within the class in the second."""
    k = torch.arange(classes).repeat_interleave(each) + first
    images = torch.stack([k, torch.arange(each).repeat(classes)], -1).byte().view(-1, 1, 1, 2)
    return ClassPool(images, torch.full((classes,), each), [str(c) for c in range(classes)], name="coded", split=split)


def codes(x):
    return (x * 255).round().long().flatten(2).unbind(-1)


def test_a_fold_takes_the_examples_in_order():
    stream = Data(torch.arange(5.0), torch.arange(5))
    taken = fold(lambda f, example: [*f, (example.x.tolist(), example.y.tolist())], batch=2)([], stream)
    assert taken == [([0, 1], [0, 1]), ([2, 3], [2, 3]), ([4], [4])]


def test_sines_come_one_after_another():
    S, Q = sine_stream(slots=4).sample(tasks=6, ways=3, shots=7, queries=2, generator=seeded())
    assert S.x.shape == (6, 21, 5)
    assert S.y.shape == (6, 21, 1)
    for data, each in ((S, 7), (Q, 2)):
        assert_close(data.x[..., 1:].argmax(-1), torch.arange(3).repeat_interleave(each).expand(6, -1))
        assert_close(data.x[..., 1:].sum(-1), torch.ones(6, 3 * each))
        assert data.x[..., 0].abs().max() <= 5
    for task in range(6):  # one sine each, the same for support and query: y is a sin x + b cos x
        for k in range(3):
            x, y = S.x[task, 7 * k : 7 * k + 7, 0], S.y[task, 7 * k : 7 * k + 7]
            basis = torch.stack([x.sin(), x.cos()], -1)
            solution = torch.linalg.lstsq(basis, y).solution
            assert_close(basis @ solution, y, atol=1e-3, rtol=0)
            assert 0.1 <= solution.norm() <= 5
            assert solution[1] > -1e-3  # A sin(b), with b in [0, pi]
            x = Q.x[task, 2 * k : 2 * k + 2, 0]
            there = torch.stack([x.sin(), x.cos()], -1) @ solution
            assert_close(there, Q.y[task, 2 * k : 2 * k + 2], atol=1e-2, rtol=0)
    assert math.isclose(S.y.square().mean(), (5**3 - 0.1**3) / 3 / 4.9 / 2, rel_tol=0.5)


def test_too_many_sines():
    with pytest.raises(ValueError, match=r"there are 10 slots. Take sine_stream\(slots=11\)"):
        sine_stream().sample(ways=11)


def test_a_training_stream_has_the_labels_of_the_whole_list_and_remembers():
    pool = class_stream(Splits(coded(30, 6), coded(5, 6), coded(5, 6)), remember=50)
    S, Q = pool.train.sample(tasks=8, ways=3, shots=4, queries=2, generator=seeded())
    k, number = codes(S.x)
    assert_close(S.y, k)
    assert_close(k.view(8, 3, 4), k.view(8, 3, 4)[..., :1].expand(-1, -1, 4))
    assert all(len(set(classes[::4].tolist())) == 3 for classes in k)
    kq, number_q = codes(Q.x)
    assert Q.x.shape[1] == 3 * 2 + 50
    assert_close(Q.y, kq)
    assert_close(kq[:, :6].view(8, 3, 2)[..., 0], k.view(8, 3, 4)[..., 0])
    for task in range(8):
        stream = set(zip(k[task].tolist(), number[task].tolist(), strict=True))
        held = set(zip(kq[task, :6].tolist(), number_q[task, :6].tolist(), strict=True))
        assert len(stream) == 12
        assert not stream & held
    assert len(kq[:, 6:].unique()) == 30


@pytest.mark.parametrize("again", [False, True])
def test_a_test_stream_numbers_new_classes_as_they_come(again):
    pool = class_stream(Splits(coded(5, 6), coded(5, 6), coded(20, 6, first=100)), again=again)
    S, Q = pool.test.sample(tasks=4, ways=7, shots=4, queries=2, generator=seeded())
    assert_close(S.y, torch.arange(7).repeat_interleave(4).expand(4, -1))
    (k, number), (kq, number_q) = codes(S.x), codes(Q.x)
    assert k.min() >= 100
    assert_close(kq, k.view(4, 7, 4)[torch.arange(4)[:, None], :, 0].squeeze(1).gather(1, Q.y))
    if again:
        assert_close((Q.x, Q.y), (S.x, S.y))
    else:
        assert Q.y.shape == (4, 14)
        pairs = [set(zip(a[0].tolist(), b[0].tolist(), strict=True)) for a, b in ((k, number), (kq, number_q))]
        assert not pairs[0] & pairs[1]


def test_only_stored_classes_can_be_streamed():
    with pytest.raises(ValueError, match="class_stream: sinusoid has no fixed list of classes"):
        class_stream(sinusoid())


def toy() -> RainbowMNIST:
    """Three rounds of 40 digits whose ink says which they are."""
    y = torch.arange(10).repeat(4).expand(3, -1)
    ink = (torch.arange(3)[:, None] * 40 + torch.arange(40)).byte().view(3, 40, 1, 1)
    return RainbowMNIST(ink, y, ink[:, :20] + 120, y[:, :20], torch.zeros(3, 3))


def test_rainbow_tasks_are_of_one_round_with_every_digit():
    S, Q = toy().sample(tasks=50, ways=10, shots=3, queries=2, generator=seeded())
    assert S.x.shape == (50, 30, 3, 1, 1)
    code = (S.x[:, :, 0, 0, 0] * 255).round().long()
    assert_close(code // 40, (code // 40)[:, :1].expand(-1, 30))
    assert_close(code % 40 % 10, S.y)
    assert all(len(set(task.tolist())) == 30 for task in code)
    assert_close(S.y.sort(1).values, torch.arange(10).repeat_interleave(3).expand(50, -1))
    held = (Q.x[:, :, 0, 0, 0] * 255).round().long() - 120
    assert_close(held // 40, (code // 40)[:, :1].expand(-1, 20))
    assert_close(held % 40 % 10, Q.y)
    assert len((code // 40).unique()) == 3


def test_rainbow_tasks_have_ten_digits():
    with pytest.raises(ValueError, match="Take ways=10"):
        toy().sample(ways=5)
    with pytest.raises(ValueError, match="has rounds with 4 of a digit"):
        toy().sample(ways=10, shots=5)


def test_digits_are_white_on_their_paper():
    pool = toy()
    pool.paper = torch.tensor([[1, 0, 0.5]]).repeat(3, 1)
    x, _ = pool.deal(torch.tensor([2]), torch.tensor([[0, 30]]))
    for i, ink in enumerate((80 / 255, 110 / 255)):
        assert_close(x[0, i].flatten(), torch.tensor([1, ink, 0.5 + 0.5 * ink]))


real = pytest.mark.skipif("METALOOP_DATA" not in os.environ, reason="needs METALOOP_DATA")


@real
@pytest.mark.data
def test_split_omniglot():
    pool = omniglot_stream(remember=8)
    assert (pool.train.classes, pool.test.classes) == (964, 659)
    assert not set(pool.train.names) & set(pool.test.names)
    S, Q = pool.train.sample(ways=3, shots=5, queries=1, generator=seeded())
    assert S.x.shape == (1, 15, 1, 28, 28)
    assert Q.y.shape == (1, 11)


@real
@pytest.mark.data
def test_rainbow_mnist():
    pool = rainbow_mnist(points=90, held_out=40)
    assert (pool.rounds, pool.points, len(LOOKS), len(COLOURS)) == (56, 90, 56, 7)
    assert len({pool.look(k) for k in range(56)}) == 56
    upright, turned, half = (LOOKS.index(look) for look in (("red", "full", 0), ("red", "full", 1), ("red", "half", 0)))
    for k in range(56):
        corner = pool.held_out(k).x[:, :, 0, 0]
        assert_close(corner, torch.tensor(COLOURS[LOOKS[k][0]]).expand(40, 3) / 255)
    ink = pool.ink.float()
    outside = torch.ones(28, 28, dtype=torch.bool)
    outside[7:21, 7:21] = False
    assert ink[half][:, outside].max() == 0
    assert ink[upright][:, outside].max() > 0
    # Digits are taller than wide: the mean picture's spread along rows and columns changes places with a turn.
    tall = [ink[k].mean(0).sum(d).gt(5).sum() for k in (upright, turned) for d in (1, 0)]
    assert tall[0] > tall[1]
    assert tall[2] < tall[3]
    assert len({picture.numpy().tobytes() for picture in pool.ink[::8].flatten(0, 1)}) == 7 * 90


BUGS = [
    Bug("a stream's queries are taken from it", "tasks/streams.py",
        ("index[..., shots:].flatten(1)", "index[..., :queries].flatten(1)"),
        "test_a_training_stream_has_the_labels_of_the_whole_list_and_remembers"),
    Bug("waves are recoded for the queries", "tasks/streams.py",
        ("[:ways, None]", "[:ways].roll(n, 0)[:, None]"), "test_sines_come_one_after_another"),
    Bug("rainbow digits lose their labels", "tasks/rainbow_mnist.py",
        ("y[k[:, None], index])", "y[k[:, None], index.sort(1).values])"),
        "test_rainbow_tasks_are_of_one_round_with_every_digit"),
]  # fmt: skip
