"""Causal sequence parts: the later has no influence, memory is all one needs to go on, derivatives of second order."""

import pytest
import torch
from mutations import Bug, law
from torch import nn
from torch.func import grad, vmap
from torch.testing import assert_close

from metaloop import functional
from metaloop.nn.causal import AttentionBlock, DenseBlock, Reader, tc_block
from metaloop.nn.context import QueryContext, SupportContext

C = 4
PARTS = {
    "dense-1": lambda: DenseBlock(C, 3, 1),
    "dense-4": lambda: DenseBlock(C, 3, 4),
    "attention": lambda: AttentionBlock(C, 3, 5),
    "tc": lambda: tc_block(C, 3, 6),
    "reader": lambda: Reader(C, 3, length=6, filters=2, keys=(3, 2), values=(2, 3)),
}


def sequence(length: int, seed: int = 0):
    return torch.randn(length, C, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("length", [1, 3, 6, 9])
def test_memory_is_what_one_must_know_to_go_on(name, length):
    """The last of a whole sequence is what the part says of that element given the memory of those before."""
    part, x, other = PARTS[name]().double(), sequence(length + 1), sequence(2, seed=1)
    _, memory = part(x[:-1])
    whole, _ = part(x)
    together = part(torch.cat([other[:1], x[-1:], other[1:]]), memory)
    assert_close(together[1], whole[-1])
    for alternative, said in zip(other, (together[0], together[2]), strict=True):
        assert_close(part(torch.cat([x[:-1], alternative[None]]))[0][-1], said)


@pytest.mark.parametrize("name", PARTS)
def test_what_comes_later_has_no_influence(name):
    part, x = PARTS[name]().double(), sequence(8)
    y, _ = part(x)
    for t in range(8):
        other = x.clone()
        other[t] += 1
        changed = (part(other)[0] != y).any(1).nonzero().flatten()
        assert changed[0] == t


@pytest.mark.parametrize("length", [2, 3, 4, 5, 8, 9, 26])
def test_a_tc_block_reaches_back_over_its_length_and_is_no_deeper_than_it_must(length):
    part, x = tc_block(C, 3, length).double(), sequence(length).requires_grad_()
    (seen,) = torch.autograd.grad(part(x)[0][-1].sum(), x)
    assert (seen.abs().sum(1) > 0).all()
    assert 2 ** (len(part) - 1) < length <= 2 ** len(part)
    assert part(x)[0].shape == (length, part.out)


@pytest.mark.parametrize("build", [*PARTS.values(), lambda: SupportContext(C), lambda: QueryContext(C, 2)])
def test_second_derivatives_under_vmap_are_those_of_a_loop(build):
    net, init = functional(build())
    params = {n: p.double() for n, p in init(0).items()}
    xs = torch.stack([sequence(5, seed=i) for i in range(3)])
    more = (sequence(3, seed=9),) if isinstance(net.module, QueryContext) else ()

    def loss(p, x):
        y = net(p, x, *more)
        return (y[0] if isinstance(y, tuple) else y).square().sum()

    def slope(p, x):
        return sum(g.square().sum() for g in grad(loss)(p, x).values())

    many = vmap(grad(slope), in_dims=(None, 0))(params, xs)
    for i, x in enumerate(xs):
        leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
        first = torch.autograd.grad(loss(leaves, x), list(leaves.values()), create_graph=True, allow_unused=True)
        squares = sum(g.square().sum() for g in first if g is not None)
        want = torch.autograd.grad(squares, list(leaves.values()), allow_unused=True, materialize_grads=True)
        assert_close([g[i] for g in many.values()], list(want))


def test_contexts_are_residual():
    """With silent LSTMs an embedding is what it was."""
    for build, more in ((SupportContext(C), ()), (QueryContext(C, 3), (sequence(2),))):
        for p in build.double().parameters():
            nn.init.zeros_(p)
        assert_close(build(sequence(5), *more), sequence(5))


def test_keys_start_as_queries_and_are_learned_apart():
    """In theta too, whatever the seed."""
    net, init = functional(AttentionBlock(C, 3, 5))
    for seed in (0, 1):
        params = init(seed)
        assert_close(params["key.weight"], params["query.weight"], rtol=0, atol=0)
        assert_close(params["key.bias"], params["query.bias"], rtol=0, atol=0)
    g = grad(lambda p: net(p, torch.randn(4, C))[0].square().sum())(params)
    assert not torch.allclose(g["key.weight"], g["query.weight"])


BUGS = [
    Bug("snail's queries attend to each other", "nn/causal.py",
        ("a[:, :-1] @ before_v + a[:, -1:] * v", "a[:, :-1] @ before_v + a[:, -1:] * v.mean(0)"),
        law("queries_do_not_see_each_other", "snail")),
    Bug("attention sees what comes later", "nn/causal.py", (".tril()", ""), "test_what_comes_later_has_no_influence"),
    Bug("a causal convolution remembers one step too few", "nn/causal.py",
        ("padded[len(x)]", "padded[len(x) - 1]"), "test_memory_is_what_one_must_know_to_go_on"),
    Bug("dilations do not grow", "nn/causal.py",
        ("2**i))", "1))"), "test_a_tc_block_reaches_back_over_its_length_and_is_no_deeper_than_it_must"),
    Bug("keys start anywhere", "nn/causal.py",
        ("ours.copy_(theirs)", "ours.normal_()"), "test_keys_start_as_queries_and_are_learned_apart"),
]  # fmt: skip
