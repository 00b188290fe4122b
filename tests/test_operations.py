"""What a meta-gradient costs, counted in operations rather than seconds: more than these is a regression."""

import platform
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mutations import Bug
from torch.func import functional_call
from zoo import WAYS, pictures

import metaloop
from metaloop import Data, Task, functional, maml, meta_gradient, protonet
from metaloop.engine.batch import chunk_size
from metaloop.engine.theta import outline
from metaloop.engine.threads import Compiled, SideBySide
from metaloop.nn import conv4
from metaloop.torch_private import TorchDispatchMode

net, init = functional(conv4((1, 16, 16), width=10, out=WAYS))
embed, start = functional(conv4((1, 16, 16), width=10))
LEARNERS = {
    # the operations other than views, and the convolutions (with their derivatives), of one meta-gradient
    "maml, 1 step": (maml(net, init, inner_lr=0.1), 960, 33),
    "maml, 3 steps": (maml(net, init, inner_lr=0.1, inner_steps=3), 2400, 75),
    "first-order maml": (maml(net, init, inner_lr=0.1, first_order=True), 410, 15),
    "protonet": (protonet(embed, start, ways=WAYS), 335, 12),
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
    outline(learner)  # asks init: once for a learner, not once a step
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


@pytest.mark.parametrize(
    ("queries", "threads", "eager", "compiled"),
    [(1, 1, 16, 1), (1, 2, 16, 1), (1, 4, 8, 1), (1, 32, 1, 1), (15, 1, 1, 1), (15, 2, 1, 1)],
)
def test_chunks_of_tasks_fit_the_cache_and_the_threads(queries, threads, eager, compiled):
    numbers = lambda n: torch.empty(32, n, 1, 28, 28)
    tasks = Task(Data(numbers(5), torch.empty(32, 5)), Data(numbers(5 * queries), torch.empty(32, 5 * queries)))
    assert [chunk_size(tasks, threads, compiled=c) for c in (False, True)] == [eager, compiled]


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc's way to free memory")
def test_memory_comes_from_what_is_kept():
    """A block of 20 MB lies in the heap, which glibc keeps once it is freed, and not in a mapping of its own."""
    script = """
import re, torch, metaloop as ml
ml.meta_gradient(ml.protonet(*ml.functional(torch.nn.Linear(2, 2)), ways=2))
block = torch.ones(20 << 20, dtype=torch.uint8)
low, high = re.search(r"(\\w+)-(\\w+) .*\\[heap\\]", open("/proc/self/maps").read()).groups()
print(int(low, 16) < block.data_ptr() < int(high, 16))
"""
    here = Path(metaloop.__file__).parent.parent
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=here).stdout
    assert told == "True\n"


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda work, **_: work)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


SPREAD = pytest.mark.parametrize("Spread", [SideBySide, Compiled])


@SPREAD
def test_parts_are_computed_side_by_side_and_come_back_in_order(two_threads, Spread):
    """Two by two, and of two the later one is done first."""
    meeting, seen, done = threading.Barrier(2, timeout=60), set(), [threading.Event() for _ in range(5)]

    def work(theta, part):
        if part > 0:  # the first is computed alone
            meeting.wait()
        seen.add(threading.get_ident())
        assert torch.get_num_threads() == 1
        if part % 2:
            assert done[part + 1].wait(60)
        done[part].set()
        return theta * part

    assert list(Spread(work)(2, range(5), spread=True)) == [0, 2, 4, 6, 8]
    assert len(seen) == 2
    assert torch.get_num_threads() == 2


@SPREAD
def test_work_that_draws_random_numbers_stays_in_order(two_threads, Spread):
    def work(theta, part):
        threads.append(threading.current_thread())
        return torch.rand(())

    spread, draws, threads = Spread(work), [], []
    for _ in range(2):
        torch.manual_seed(0)
        draws.append(torch.stack(list(spread(None, range(4), spread=True))))
    torch.manual_seed(0)
    torch.testing.assert_close(draws[0], torch.stack([torch.rand(()) for _ in range(4)]))
    torch.testing.assert_close(draws[0], draws[1])
    assert threads[1:] == 8 * [threading.main_thread()]  # the first was a trial


@SPREAD
def test_an_error_in_a_part_is_raised(two_threads, Spread):
    def work(theta, part):
        if part == 2:
            raise ValueError("part 2")

    with pytest.raises(ValueError, match="part 2"):
        list(Spread(work)(None, range(4), spread=True))


def where(learner, theta, batch, **around) -> set[str]:
    """The threads in which the learner's objective is computed, when two are there."""
    seen = set()

    def objective(*given):
        seen.add(threading.current_thread().name)
        return learner.objective(*given)

    gradient = meta_gradient(replace(learner, objective=objective), chunk=1, **around)
    gradient(theta, batch)
    seen.clear()  # the first call tries the first task alone
    gradient(theta, batch)
    return {"main" if name == "MainThread" else "worker" for name in seen}


def test_what_threads_would_share_stays_in_order(two_threads):
    """A module that is called by other means than `functional`, numbers that are drawn, modes of one thread."""
    maml_here = LEARNERS["maml, 1 step"][0]
    theta, batch = init(0), pictures(4, 0)
    assert where(maml_here, theta, batch) == {"worker"}
    assert where(maml_here, theta, batch, recompute=True) == {"main"}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert where(maml_here, theta, batch) == {"main"}
    module = conv4((1, 16, 16), width=10, out=WAYS)
    by_hand = maml(lambda params, x: functional_call(module, params, (x,)), init, inner_lr=0.1)
    assert where(by_hand, theta, batch) == {"main"}
    noisy = maml(lambda params, x: net(params, x + torch.randn_like(x)), init, inner_lr=0.1)
    assert where(noisy, theta, batch) == {"main"}


def test_where_torch_tells_nothing_of_modes_work_stays_in_order(two_threads, monkeypatch):
    monkeypatch.delattr(torch._C, "_len_torch_function_stack")
    assert where(LEARNERS["maml, 1 step"][0], init(0), pictures(4, 0)) == {"main"}


BUGS = [
    Bug("freed memory goes back to the system", "engine/threads.py",
        ("31 << 20", "1 << 10"), "test_memory_comes_from_what_is_kept"),
    Bug("threads share modules that are called by hand", "engine/threads.py",
        ("bool(foreign) or not", "not"), "test_what_threads_would_share_stays_in_order"),
    Bug("threads draw in any order", "engine/threads.py",
        ("bool(foreign) or not torch.equal(", "bool(foreign) or False and ("),
        "test_work_that_draws_random_numbers_stays_in_order[SideBySide]"),
    Bug("threads forget autocast", "engine/threads.py",
        (" and not modes()", ""), "test_what_threads_would_share_stays_in_order"),
    Bug("steps computed again share their random numbers", "engine/batch.py",
        (' == "cpu" and not recompute', ' == "cpu"'), "test_what_threads_would_share_stays_in_order"),
]  # fmt: skip
