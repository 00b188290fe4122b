"""Additive attention, pointers, key-value memory, sequences from sequences: each by loops, or by what it must equal."""

import pytest
import torch
from mutations import Bug
from torch.testing import assert_close
from zoo import WAYS, blobs, features, one

from metaloop import matching
from metaloop.nn import Additive, KeyValue, Pointer, Seq2Seq, attend, membership, unit


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def drawn(net: torch.nn.Module) -> torch.nn.Module:
    """With weights that count, those that start at zero too."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.7)
    return net.double()


def test_additive_attention_is_its_equation():
    score, q, k, v = drawn(Additive(3, 4, 5)), *(torch.randn(2, n, d).double() for n, d in ((6, 3), (7, 4), (7, 2)))
    u = score(q, k)
    for b, i, j in ((0, 0, 0), (1, 5, 6), (1, 2, 3)):
        inside = score.query.weight @ q[b, i] + score.key.weight @ k[b, j] + score.key.bias
        assert_close(u[b, i, j], score.weigh.weight[0] @ inside.tanh())
    mask = torch.rand(6, 7) > 0.5
    mask[:, 0] = True
    read = attend(q, k, v, mask, score=score)
    weights = torch.stack([u[1, 2, j].exp() * mask[2, j] for j in range(7)])
    assert_close(read[1, 2], sum(w * v_j for w, v_j in zip(weights / weights.sum(), v[1], strict=True)))


def steps_of(net: Pointer, x, chosen, ends: bool):
    """Its scores of one sequence [m, input], step by step."""
    e, state = net.encoder(x)
    places = [*e, *([net.end] if ends else [])]
    now, taken, rows = net.first, set(), []
    for c in chosen.tolist():
        d, state = net.decoder.step(now, state)
        u = [net.score(d[None], place[None])[0, 0] for place in places]
        rows.append(torch.stack([torch.tensor(-torch.inf).double() if j in taken else u_j for j, u_j in enumerate(u)]))
        taken |= {c} if net.once and c < len(x) else set()
        now = x[min(c, len(x) - 1)]
    return torch.stack(rows)


@pytest.mark.parametrize(("ends", "once"), [(False, True), (True, True), (True, False)])
def test_a_pointer_network_is_its_equations(ends, once):
    net, x = drawn(Pointer(2, 4, ends=ends, once=once)), torch.randn(5, 3, 2).double()
    chosen = torch.stack([torch.randperm(5) for _ in range(3)], 1)
    if ends:
        chosen[3:, 0] = 5  # over after three
    scores = net(x, chosen)
    assert_close(scores, torch.stack([steps_of(net, x[:, b], chosen[:, b], ends) for b in range(3)], 1))
    own = net.point(x, 5)
    assert torch.equal(net(x, own).argmax(-1), own)
    if once and not ends:
        assert torch.equal(own.sort(0).values, torch.arange(5)[:, None].expand(-1, 3))


def test_one_hop_of_key_value_memory_is_a_matching_network():
    """Keys are embeddings of S, values its labels: p(y | x)."""
    embed, init = features
    theta, (S, Q) = {n: p.double() for n, p in init(0).items()}, one(blobs(1, 0))
    f = matching(embed, init, ways=WAYS, temperature=10.0).adapt({"embed": theta}, S)
    q, k = 10.0 * unit(embed(theta, Q.x)), unit(embed(theta, S.x))
    assert_close(KeyValue(6)(q, k, membership(S.y, WAYS).double()), f(Q.x).exp())


def test_a_sharp_key_value_memory_finds_the_nearest():
    x, q = unit(torch.randn(9, 4)), unit(torch.randn(5, 4))
    nearest = torch.cdist(q, x).argmin(1)
    assert_close(KeyValue(4)(1e4 * q, x, x), x[nearest])


def test_hops_of_key_value_memory_are_its_equations():
    memory, (q, k, v) = drawn(KeyValue(3, hops=3)), (torch.randn(n, 3).double() for n in (2, 5, 5))
    got = memory(q, k, v)
    for q_j, want in zip(q, got, strict=True):
        for hop in range(3):
            p = torch.stack([(q_j @ k_i).exp() for k_i in k])
            o = sum(p_i * v_i for p_i, v_i in zip(p / p.sum(), v, strict=True))
            q_j = memory.turn[hop].weight @ (q_j + o) if hop < 2 else q_j
        assert_close(want, o)


@pytest.mark.parametrize("attention", [True, False])
def test_a_sequence_is_said_symbol_by_symbol(attention):
    net, x = drawn(Seq2Seq(5, 4, attention=attention)), torch.randint(5, (6, 3))
    said = net.answer(x, 7)
    assert torch.equal(net(x, said).argmax(-1), said)
    y = torch.randint(5, (2, 3))
    e, state = net.encoder(net.symbols(x[:, :1]))
    rows = []
    for before in (5, int(y[0, 0])):
        d, state = net.decoder.step(net.symbols(torch.tensor([before])), state)
        if attention:
            p = torch.stack([net.score(d, e_i)[0, 0] for e_i in e]).softmax(0)
            d = torch.cat([d, sum(p_i * e_i for p_i, e_i in zip(p, e, strict=True))], -1)
        rows.append(net.head(d))
    assert_close(net(x, y)[:, :1], torch.stack(rows))


def test_convex_hulls_are_those_of_scipy():
    from parts import hull
    from scipy.spatial import ConvexHull

    x, answer = hull(6, 40, torch.Generator().manual_seed(0))
    for b in range(40):
        want = ConvexHull(x[:, b].numpy()).vertices.tolist()
        first = want.index(min(want))
        want = want[first:] + want[:first]
        assert answer[:, b].tolist() == want + [6] * (7 - len(want))


BUGS = [
    Bug("a pointer network chooses a place twice", "nn/pointer.py",
        ("taken = taken | self._same", "taken = taken & self._same"),
        "test_a_pointer_network_is_its_equations"),
    Bug("a pointer network points at what it was told to", "nn/pointer.py",
        ("(now.cumsum(0) - now.long()) > 0", "now.cumsum(0) > 0"), "test_a_pointer_network_is_its_equations"),
    Bug("a hop forgets what was asked", "nn/sequence.py",
        ("q = turn(q + o)", "q = turn(o)"), "test_hops_of_key_value_memory_are_its_equations"),
]  # fmt: skip
