"""Networks with a memory, and the sequences that they are asked to say again."""

import pytest
import torch
from mutations import Bug
from torch.func import grad, vmap
from torch.testing import assert_close

import metaloop as ml
from metaloop.cli import main
from metaloop.nn import LeastUsed, Memory, Tape, functional
from metaloop.tasks import associative_recall, copy, gaussians, presentations, sinusoid
from metaloop.torch_private import pytree

ACCESSES = {
    "least used": lambda: LeastUsed(4, slots=5, width=3, heads=2),
    "addressed first": lambda: LeastUsed(4, slots=5, width=3, heads=2, order="address", write="key"),
    "tape": lambda: Tape(4, slots=6, width=3),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=ACCESSES)
def network(request):
    net, init = functional(Memory(3, 4, 2, ACCESSES[request.param]()))
    return net, {n: p.double() for n, p in init(0).items()}


# ---- the network


def test_a_sequence_can_be_read_in_parts(network):
    net, theta = network
    x = torch.randn(6, 3, generator=seeded()).double()
    whole, end = net(theta, x)
    first, state = net(theta, x[:2])
    second, also = net(theta, x[2:], state)
    assert_close(torch.cat([first, second]), whole)
    assert_close(pytree.tree_leaves(also), pytree.tree_leaves(end))


def test_any_number_of_sequences_is_read_side_by_side(network):
    net, theta = network
    x = torch.randn(6, 4, 2, 3, generator=seeded()).double()
    y, state = net(theta, x)
    assert y.shape == (6, 4, 2, 2)
    alone, end = net(theta, x[:, 3, 1])
    assert_close(y[:, 3, 1], alone)
    assert_close([t[3, 1] for t in pytree.tree_leaves(state)], pytree.tree_leaves(end))


def test_memories_batch_and_differentiate_twice(network):
    net, theta = network

    def curved(theta, x):
        loss = lambda theta: net(theta, x)[0].square().sum()
        return sum(g.square().sum() for g in grad(loss)(theta).values())

    x = torch.randn(2, 5, 3, generator=seeded()).double()
    many = vmap(grad(curved), in_dims=(None, 0))(theta, x)
    for i in range(2):
        assert_close({n: g[i] for n, g in many.items()}, grad(curved)(theta, x[i]))
    name, h = "access.head.bias", 1e-6
    step = torch.zeros_like(theta[name])
    step[0] = h
    moved = [curved({**theta, name: theta[name] + s * step}, x[0]) for s in (1, -1)]
    assert_close(many[name][0, 0], (moved[0] - moved[1]) / (2 * h), rtol=1e-4, atol=1e-6)


def test_what_was_read_is_in_the_memory(network):
    """h and r held at zero, other inputs still give other answers later on: M and the weights remember."""
    net, theta = network
    x = torch.randn(2, 3, 3, generator=seeded()).double()
    (_, _, one), (_, _, two) = (net(theta, each)[1] for each in x)
    zero = torch.zeros(4, dtype=torch.double), torch.zeros(4, dtype=torch.double)
    r = torch.zeros(net.module.access.read, dtype=torch.double)
    blank = torch.zeros(2, 3, dtype=torch.double)
    a, b = (net(theta, blank, ((zero,), r, held))[0] for held in (one, two))
    assert (a - b).abs().max() > 1e-6


def test_weights_are_distributions(network):
    net, theta = network
    _, (_, _, (M, w, other)) = net(theta, torch.randn(6, 3, generator=seeded()).double())
    assert_close(w.sum(-1), torch.ones_like(w[..., 0]))
    assert (w >= 0).all()
    assert (other >= 0).all()
    assert M.isfinite().all()


# ---- sequences


def test_copy():
    S, Q = copy(bits=4).sample(tasks=50, ways=7, shots=6, queries=2, generator=seeded())
    assert S.x.shape == (50, 7, 5)
    assert torch.equal(S.x[:, :6, :4], Q.y)
    assert torch.equal(S.x[..., 4], torch.tensor([0.0] * 6 + [1.0]).expand(50, -1))
    assert not S.x[:, 6, :4].any()
    assert Q.x.shape == (50, 6, 5)
    assert not Q.x.any()
    assert not S.y.any()
    assert set(Q.y.unique().tolist()) == {0, 1}
    assert abs(Q.y.mean() - 0.5) < 0.05


def test_associative_recall():
    S, Q = associative_recall(bits=7, length=2).sample(tasks=300, shots=3, generator=seeded())
    assert S.x.shape == (300, 3 * 5 + 1, 9)
    assert not Q.x.any()
    item, ask = [0.0] * 7 + [1, 0], [0.0] * 7 + [0, 1]
    asked = []
    for x, y in zip(S.x.tolist(), Q.y.tolist(), strict=True):
        items = [x[3 * i : 3 * i + 3] for i in range(4)]
        assert all(each[0] == item for each in items)
        assert x[12] == x[15] == ask
        cue = x[13:15]
        assert all(row[7:] == [0, 0] for each in items for row in each[1:])
        found = [i for i, each in enumerate(items[:-1]) if each[1:] == cue]
        asked += found
        assert any([row[:7] for row in items[i + 1][1:]] == y for i in found)
    assert all(70 < asked.count(i) < 130 for i in range(3))  # 100, but for chance


def test_lengths_are_drawn_and_queries_follow():
    pool = copy(bits=2).any_shots().train
    sizes = {tuple(pool.sample(shots=3, queries=9, generator=seeded(i)).query.y.shape) for i in range(20)}
    assert sizes == {(1, n, 2) for n in (1, 2, 3)}


@pytest.mark.parametrize("make", [lambda: copy(bits=0), lambda: associative_recall(length=0)])
def test_impossible_sequences_are_refused(make):
    with pytest.raises(ValueError, match=r"(copy\(bits=0\)|associative_recall\(length=0\)): expected at least 1"):
        make()


def test_presentations():
    pool = gaussians(dim=3)
    S, Q = presentations(pool).sample(tasks=400, ways=3, shots=4, queries=9, generator=seeded())
    assert torch.equal(S.x, Q.x)
    assert torch.equal(S.y, Q.y)
    same = pool.sample(tasks=400, ways=3, shots=4, queries=1, generator=seeded()).support
    assert torch.equal(S.y, same.y)
    assert_close(S.y.sort(1).values, torch.arange(3).repeat_interleave(4).expand(400, -1))


def test_the_label_of_a_new_class_tells_nothing_but_which_are_left():
    pool = ml.tasks.glyphs().test
    y = presentations(pool).sample(tasks=2000, ways=4, shots=2, generator=seeded()).support.y
    orders = torch.stack([(row[:, None] == torch.arange(4)).float().argmax(0).argsort() for row in y])
    counts = (orders * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_counts=True)[1]
    assert len(counts) == 24
    assert (counts.float() - 2000 / 24).abs().max() < 5 * (2000 / 24) ** 0.5


def test_presentations_are_of_classes():
    with pytest.raises(ValueError, match=r"presentations: sinusoid does not deal new classes. Take omniglot"):
        presentations(sinusoid())


# ---- runs


def smoke(*words: str) -> int:
    return main([*words, "--tasks", "4"])


def test_ntm_is_trained_and_refuses_what_is_too_long(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert smoke("train", "ntm-copy", "--budget", "smoke", "--out", out) == 0
    assert "3 vectors  bits" in capsys.readouterr().out
    assert smoke("evaluate", out, "--shots", "200") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].endswith("a sequence of 201 inputs, the memory has 128 slots. Take at most 128, or slots=201.")
    assert smoke("train", "ntm-copy", "--budget", "smoke", "--data", "gaussians", "--out", str(tmp_path / "no")) == 2
    assert "this recipe says sequences of bits again; gaussians is for classification" in capsys.readouterr().err


def test_recall_is_trained_without_a_memory_too(tmp_path):
    for name in ("ntm-recall", "ntm-recall-lstm"):
        assert smoke("train", name, "--budget", "smoke", "--out", str(tmp_path / name)) == 0


def test_mann_is_trained_on_any_pictures(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert smoke("train", "mann-omniglot", "--budget", "smoke", "--data", "glyphs", "--out", out) == 0
    assert "5-way 1-shot  accuracy (%)" in capsys.readouterr().out
    assert smoke("evaluate", out, "--shots", "3") == 0
    assert smoke("evaluate", out, "--ways", "7") == 2
    assert "the learner tells 5 classes apart, the tasks have 7" in capsys.readouterr().err
    assert smoke("train", "mann-omniglot", "--budget", "smoke", "--data", "sinusoid", "--out", out) == 2
    assert "this recipe tells pictures apart; sinusoid is for regression" in capsys.readouterr().err


BUGS = [
    Bug("the answer of a recall is what was asked", "tasks/sequences.py",
        ("items[row, which + 1]", "items[row, which]"), "test_associative_recall"),
    Bug("the last item is asked for too", "tasks/sequences.py",
        ("(shots * rand(tasks)).long()", "((shots + 1) * rand(tasks)).long().clamp(max=shots - 1)"),
        "test_associative_recall"),
    Bug("queries of a copy show it", "tasks/sequences.py",
        ("blank = said.new_zeros(*answer.shape[:2], said.shape[2])", "blank = said[:, : answer.shape[1]]"),
        "test_copy"),
    Bug("a memory is begun anew with each part", "nn/memory.py",
        ("lstm, r, held = state\n", "lstm, r, held = (*state[:2], self.access.start(x[0]))\n"),
        "test_a_sequence_can_be_read_in_parts"),
    Bug("labels of presentations are in order", "tasks/pool.py",
        ("rand(tasks, ways * shots).argsort(1)", "torch.arange(ways * shots).expand(tasks, -1)"),
        "test_the_label_of_a_new_class_tells_nothing_but_which_are_left"),
]  # fmt: skip
