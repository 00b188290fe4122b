"""What a meta-gradient costs, counted in operations rather than seconds: more than these is a regression."""

import threading
import time
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import WAYS, pictures

from metaloop import Data, Task, functional, maml, meta_gradient, protonet
from metaloop.engine.batch import chunk_size
from metaloop.engine.threads import Compiled
from metaloop.nn import conv4

net, init = functional(conv4((1, 16, 16), width=4, out=WAYS))
embed, start = functional(conv4((1, 16, 16), width=4))
LEARNERS = {
    # the operations other than views, and the convolutions (with their derivatives), of one meta-gradient
    "maml, 1 step": (maml(net, init, inner_lr=0.1), 950, 40),
    "maml, 3 steps": (maml(net, init, inner_lr=0.1, inner_steps=3), 2450, 92),
    "first-order maml": (maml(net, init, inner_lr=0.1, first_order=True), 350, 19),
    "protonet": (protonet(embed, start, ways=WAYS), 250, 16),
}


VIEWS = {
    "_unsafe_view", "alias", "detach", "expand", "permute", "select", "slice", "split", "squeeze", "t", "transpose",
    "unsqueeze", "view",
}  # fmt: skip


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def operations(learner, tasks: int) -> Counter:
    gradient, theta, batch = meta_gradient(learner, chunk=tasks), learner.init(0), pictures(tasks, 0)
    with Count() as count:
        gradient(theta, batch)
    return count.seen


@pytest.mark.parametrize("name", LEARNERS)
def test_a_batch_of_tasks_takes_as_many_operations_whatever_its_size(name):
    learner, most, convolutions = LEARNERS[name]
    few, many = operations(learner, 2), operations(learner, 7)
    assert few == many
    assert many.total() <= most, many.most_common(10)
    assert sum(n for op, n in many.items() if "convolution" in op) <= convolutions


def test_without_an_inner_gradient_shared_weights_have_one_gradient():
    """The pooled form convolves all tasks at once, with as many convolutions as one task needs."""
    learner = LEARNERS["protonet"][0]
    convolutions = lambda seen: sum(n for op, n in seen.items() if "convolution" in op)
    assert convolutions(operations(learner, 6)) == convolutions(operations(learner, 1))


@pytest.mark.parametrize(("queries", "threads", "size"), [(1, 1, 32), (1, 2, 16), (15, 1, 4), (15, 2, 4)])
def test_chunks_of_tasks_fit_the_cache_and_the_threads(queries, threads, size):
    numbers = lambda n: torch.empty(32, n, 1, 28, 28)
    tasks = Task(Data(numbers(5), torch.empty(32, 5)), Data(numbers(5 * queries), torch.empty(32, 5 * queries)))
    assert chunk_size(LEARNERS["maml, 1 step"][0], tasks, threads) == size


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda work, **_: work)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_parts_are_computed_side_by_side_and_come_back_in_order(two_threads):
    meeting, seen = threading.Barrier(2, timeout=10), set()

    def work(theta, part):
        if part > 0:  # the first is computed alone
            meeting.wait()
        seen.add(threading.get_ident())
        assert torch.get_num_threads() == 1
        time.sleep(0.01 * (5 - part))
        return theta * part

    assert list(Compiled(work)(2, range(5), spread=True)) == [0, 2, 4, 6, 8]
    assert len(seen) == 2
    assert torch.get_num_threads() == 2


def test_work_that_draws_random_numbers_stays_in_order(two_threads):
    def work(theta, part):
        time.sleep(0.01 * (4 - part))
        return torch.rand(())

    compiled, draws = Compiled(work), []
    for _ in range(2):
        torch.manual_seed(0)
        draws.append(torch.stack(list(compiled(None, range(4), spread=True))))
    torch.manual_seed(0)
    torch.testing.assert_close(draws[0], torch.stack([torch.rand(()) for _ in range(4)]))
    torch.testing.assert_close(draws[0], draws[1])


def test_an_error_in_a_part_is_raised(two_threads):
    def work(theta, part):
        if part == 2:
            raise ValueError("part 2")

    with pytest.raises(ValueError, match="part 2"):
        list(Compiled(work)(None, range(4), spread=True))
