"""Every learner that takes a network, with every norm, in every mode of the engine: one meta-gradient, to 1e-10.

The reference is plain: the tasks one after the other, `torch.autograd` for the outer gradient. Reference and engine
are also held against central differences along a random direction. (Compiled, to 1e-10 as well: the laws.)
"""

from functools import partial

import pytest
import torch
from mutations import Bug
from test_neural_statistician import statistician
from torch import nn
from zoo import WAYS, one, pictures

from metaloop import (
    functional,
    maml,
    margin,
    matching,
    meta_gradient,
    objectives,
    oml,
    pretrain,
    protonet,
    reptile,
    siamese,
    snail,
)  # fmt: skip
from metaloop.nn import POLICIES, Gaussian, Shaped, adam, norm
from metaloop.testing import _StillNoise
from metaloop.torch_private import pytree

DIM = 64


def body(policy: str) -> list[nn.Module]:
    """A convolution, a norm, something smooth: 16x16 images to DIM features. A bias is left out where the norm would
    take it out again: its gradient is rounding, which Adam would divide by itself."""
    layer = nn.Identity() if policy == "none" else norm(4, policy, groups=2)
    bias = policy in ("group", "layer", "none")
    return [nn.Conv2d(1, 4, 4, 4, bias=bias), layer, nn.Softplus(), nn.Flatten()]


def classifier(policy: str):
    return functional(nn.Sequential(*body(policy), nn.Linear(DIM, WAYS)))


def features(policy: str):
    return functional(nn.Sequential(*body(policy)))


LEARNERS = {
    "maml": lambda p: maml(*classifier(p), inner_lr=0.4, inner_steps=2),
    "fomaml": lambda p: maml(*classifier(p), inner_lr=0.4, first_order=True),
    "anil": lambda p: maml(*classifier(p), inner_lr=0.4, adapts="4"),
    "meta-sgd": lambda p: maml(*classifier(p), inner_lr=0.4, learn_lr="parameter"),
    "maml++": lambda p: maml(
        *classifier(p), inner_lr=0.4, inner_steps=2, learn_lr="layer-step", step_weights=(0.4, 0.6)
    ),
    "maml-adam": lambda p: maml(*classifier(p), inner_lr=0.05, inner_steps=2, optimizer=adam()),
    "reptile": lambda p: reptile(*classifier(p), inner_lr=0.05, inner_steps=3, batch=2),
    "reptile-carried": lambda p: reptile(*classifier(p), inner_lr=0.05, inner_steps=2, carry_moments=True),
    "protonet": lambda p: protonet(*features(p), ways=WAYS),
    "protonet-cosine": lambda p: protonet(*features(p), ways=WAYS, metric="cosine"),
    "matching": lambda p: matching(*features(p), ways=WAYS),
    "matching-fce": lambda p: matching(*features(p), ways=WAYS, context=DIM, steps=2),
    "snail": lambda p: snail(*features(p), ways=WAYS, dim=DIM, shots=2, filters=4, keys=(4, 4), values=(4, 4)),
    "margin": lambda p: margin(*features(p), ways=WAYS, loss=objectives.cosface(classes=WAYS, dim=DIM)),
    "siamese": lambda p: siamese(*features(p), ways=WAYS, dim=DIM),
    "pretrain": lambda p: pretrain(*features(p), classes=WAYS, dim=DIM, ways=WAYS),
    "oml": lambda p: oml(*features(p), *functional(nn.Linear(DIM, WAYS)), inner_lr=0.1),
    "neural-statistician": lambda p: statistician(
        nn.Sequential(*body(p), nn.Linear(DIM, 6)), nn.Sequential(nn.Linear(5, 512), Shaped(1, 16, 32)), Gaussian
    ),
}  # fmt: skip
HELD = ("fomaml", "reptile", "reptile-carried")  # gradients held constant: not a derivative
NORMS = (*POLICIES, "none")


def case(name: str, policy: str):
    learner = LEARNERS[name](policy)
    double = partial(pytree.tree_map, lambda t: t.double() if t.is_floating_point() else t)
    return learner, double(learner.init(0)), double(pictures(3, 0))


def in_a_loop(learner, theta, tasks):
    """(gradients, loss) by plain autograd, one task after the other."""
    leaves, spec = pytree.tree_flatten(theta)
    leaves = [p.clone().requires_grad_() for p in leaves]
    losses = [
        learner.objective(learner.adapt, pytree.tree_unflatten(leaves, spec), one(tasks, i))[0]
        for i in range(len(tasks.query.x))
    ]
    loss = sum(losses) / len(losses)
    grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return flat(grads), loss.item()


def flat(tree) -> torch.Tensor:
    return torch.cat([t.detach().flatten() for t in pytree.tree_leaves(tree)])


def agree(a: torch.Tensor, b: torch.Tensor) -> None:
    assert (a - b).norm() <= 1e-10 * b.norm(), ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("policy", NORMS)
@pytest.mark.parametrize("name", LEARNERS)
def test_batched_and_chunked_are_the_loop_and_the_derivative(name, policy):
    learner, theta, tasks = case(name, policy)
    with _StillNoise():
        want, loss = in_a_loop(learner, theta, tasks)
        for chunk in (3, 2, 1):
            grads, mean, _ = meta_gradient(learner, chunk=chunk)(theta, tasks)
            agree(flat(grads), want)
            assert mean.item() == pytest.approx(loss, rel=1e-10)
        if name in HELD:
            return
        leaves, spec = pytree.tree_flatten(theta)
        g = torch.Generator().manual_seed(1)
        v = [torch.randn(p.shape, generator=g, dtype=p.dtype) for p in leaves]

        def moved(h: float) -> float:
            there = pytree.tree_unflatten([p + h * d for p, d in zip(leaves, v, strict=True)], spec)
            each = [learner.objective(learner.adapt, there, one(tasks, i))[0].item() for i in range(3)]
            return sum(each) / 3

        slopes = [(moved(h) - moved(-h)) / (2 * h) for h in (1e-5, 1e-6, 1e-7)]  # the step that rounds and curves least
        assert any((want @ flat(v)).item() == pytest.approx(slope, rel=1e-4, abs=1e-7) for slope in slopes)


@pytest.mark.parametrize("i", range(len(LEARNERS)), ids=list(LEARNERS))
def test_side_by_side_is_one_by_one(i):
    """Chunks on two threads at once, which share no module, against the same chunks one after the other."""
    for policy in NORMS if i == 0 else [NORMS[i % len(NORMS)]]:
        learner, theta, tasks = case(list(LEARNERS)[i], policy)
        tasks = pytree.tree_map(lambda t: torch.cat([t] * 3), tasks)
        gradient, threads = meta_gradient(learner, chunk=1), torch.get_num_threads()
        torch.manual_seed(0)
        want = flat(gradient(theta, tasks)[0])
        torch.set_num_threads(2)
        try:
            for _ in range(4):  # the first call computes a chunk alone
                torch.manual_seed(0)
                agree(flat(gradient(theta, tasks)[0]), want)
        finally:
            torch.set_num_threads(threads)


@pytest.mark.compile
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about torch
def test_machine_code_on_two_threads_is_the_loop():
    """The law has graphs captured and interpreted; here torch compiles one, and two threads share its chunks."""
    learner = maml(*functional(nn.Sequential(nn.Flatten(), nn.Linear(256, WAYS))), inner_lr=0.01, inner_steps=2)
    _, _, tasks = case("maml", "none")
    tasks = pytree.tree_map(lambda t: torch.cat([t, t[:1]]), tasks)
    theta = {n: p.double() for n, p in learner.init(0).items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradient = meta_gradient(learner, compile=True, chunk=1)
        for _ in range(3):  # the first call computes a chunk alone
            agree(flat(gradient(theta, tasks)[0]), in_a_loop(learner, theta, tasks)[0])
    finally:
        torch.set_num_threads(threads)


BUGS = [
    Bug("threads share a module", "nn/functional.py",
        ("self._copies[key] = _skeleton(module)", "self._copies[key] = module"),
        "test_side_by_side_is_one_by_one[maml]"),
]  # fmt: skip
