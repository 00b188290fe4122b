"""Imaginary data, restated one example and one draw of noise at a time, before prototypes; the null test: at its start
the network imagines what it is shown, so that nothing changes."""

from dataclasses import replace

import pytest
import torch
from mutations import Bug, law
from torch import nn
from torch.func import grad, vmap
from torch.testing import assert_close
from zoo import WAYS, blobs, image_net, pictures, waived

from metaloop import Data, Task, functional, imaginary, matching, meta_gradient, protonet
from metaloop.engine.methods import estimated
from metaloop.nn import Hallucinator, mlp, norm
from metaloop.nn.imagination import Scale
from metaloop.testing import Case
from metaloop.torch_private import pytree

DIM, NOISE = 4, 3
nothing = functional(nn.Identity())
SMALL = functional(mlp((DIM + NOISE, 6, DIM)))


def theta_of(learner, seed=0):
    return pytree.tree_map(lambda t: t.double(), learner.init(seed))


@pytest.fixture
def task():
    """Positive features, as behind a ReLU."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(13, DIM, generator=g).double()
    y = torch.tensor([0, 2, 2, 1, 2, 2, 0, 1, 2, 0, 0, 2, 1])
    return Task(Data(x[:8], y[:8]), Data(x[8:], y[8:]))


def scores(theta, S, x, noise):
    """Minus the squared distance to each class's mean over its real and its imagined examples; noise[i, j] is for the
    j-th that is imagined from example i."""
    found = []
    for k in range(WAYS):
        members = []
        for i, (s, y) in enumerate(zip(*S, strict=True)):
            if y == k:
                members.append(s)
                members += [SMALL[0](theta["generator"], torch.cat([s, z])[None])[0] for z in noise[i]]   # (1)
        found.append(-((x - sum(members) / len(members)) ** 2).sum())                                     # (2)
    return torch.stack(found)


@pytest.mark.parametrize(("examples", "times"), [(6, 2), (8, 3), (1, 1)])
def test_f_is_the_metric_learner_of_real_and_imagined_examples(task, examples, times):
    """8 examples of 3 classes: of examples / (8/3), rounded down, there is at least one."""
    learner = imaginary(protonet(*nothing, ways=WAYS), SMALL, ways=WAYS, noise=NOISE, examples=examples)
    theta, (S, Q) = theta_of(learner), task
    assert theta["noise"].shape == (examples, NOISE)
    noise = theta["noise"][:times].expand(8, -1, -1)
    assert_close(learner.adapt(theta, S)(Q.x), torch.stack([scores(theta, S, x, noise) for x in Q.x]))


def test_the_objective_draws_noise_anew_and_is_the_loss_of_the_queries(task):
    learner = imaginary(protonet(*nothing, ways=WAYS), SMALL, ways=WAYS, noise=NOISE, examples=6)
    theta, (S, Q) = theta_of(learner), task
    parameters = {n: p.requires_grad_() for n, p in theta["generator"].items()}
    torch.manual_seed(7)
    loss, info = learner.objective(learner.adapt, theta, task)
    torch.manual_seed(7)
    noise = torch.randn(8, 2, NOISE, dtype=torch.float64)
    p = torch.stack([scores(theta, S, x, noise) for x in Q.x]).softmax(1)
    want = -sum(p_i[y].log() for p_i, y in zip(p, Q.y, strict=True)) / len(Q.y)                           # (3)
    assert_close(loss, want)
    assert_close(info["accuracy"], (p.argmax(1) == Q.y).double().mean(), check_dtype=False)
    ours, theirs = (torch.autograd.grad(value, list(parameters.values())) for value in (loss, want))
    assert_close(ours, theirs)


H = {
    "protonet": lambda: protonet(*nothing, ways=WAYS),
    "cosine": lambda: protonet(*nothing, ways=WAYS, metric="cosine"),
    "matching": lambda: matching(*nothing, ways=WAYS),
}


@pytest.mark.parametrize("h", ["protonet", "cosine"])
@pytest.mark.parametrize("shots", [1, 2, 5])
def test_at_its_start_nothing_changes(h, shots):
    """PN + G is PN at its published start, for every noise and number of shots: scores, loss and accuracy. What is
    left is the rounding of a mean."""
    x = torch.rand(WAYS * (shots + 4), DIM, generator=torch.Generator().manual_seed(1)).double()
    y = torch.arange(len(x)) % WAYS
    S, Q = Data(x[: WAYS * shots], y[: WAYS * shots]), Data(x[WAYS * shots :], y[WAYS * shots :])
    G, alone = functional(Hallucinator(DIM, NOISE)), H[h]()
    learner = imaginary(alone, G, ways=WAYS, noise=NOISE)
    for seed in (0, 1):
        theta = theta_of(learner, seed)
        z = 10 * torch.randn(len(x), NOISE, dtype=torch.float64)
        assert torch.equal(G[0](theta["generator"], torch.cat([x, z], 1)), x)
        assert_close(learner.adapt(theta, S)(Q.x), alone.adapt({}, S)(Q.x), rtol=0, atol=1e-13)
        ours, theirs = (some.objective(some.adapt, t, Task(S, Q)) for some, t in ((learner, theta), (alone, {})))
        assert_close(ours, theirs, rtol=0, atol=1e-13)


def test_at_its_start_it_still_learns_from_noise(task):
    """The gradient of what noise does is there, though its mean is zero to first order."""
    G = functional(Hallucinator(DIM, NOISE))
    learner = imaginary(protonet(*nothing, ways=WAYS), G, ways=WAYS, noise=NOISE)
    theta = theta_of(learner)

    def loss(G, _):
        return learner.objective(learner.adapt, {**theta, "generator": G}, task)[0]

    each = vmap(grad(loss), in_dims=(None, 0), randomness="different")(theta["generator"], torch.zeros(400))
    g = each["0.0.weight"][:, :, DIM:]
    assert (g.abs().mean(0) > 1e-3).all()
    assert (g.mean(0).abs() < 6 * g.std(0) / 20 + 0.01).all()


def test_no_feature_is_negative():
    net, init = functional(Hallucinator(DIM, NOISE))
    theta = {n: p + torch.randn(p.shape, generator=torch.Generator().manual_seed(0)) for n, p in init(0).items()}
    y = net(theta, torch.randn(50, DIM + NOISE, generator=torch.Generator().manual_seed(1)))
    assert y.min() == 0 < y.max()


def test_matching_networks_see_each_example_as_often_as_it_was_imagined(task):
    """The attention of a class is a sum over its examples: where all are copies, each counts 1 + m times."""
    S, Q = task
    G = functional(Hallucinator(DIM, NOISE))
    learner = imaginary(H["matching"](), G, ways=WAYS, noise=NOISE, examples=8)
    alone = H["matching"]()
    theta, plain = theta_of(learner), theta_of(alone)
    assert_close(learner.adapt(theta, S)(Q.x), alone.adapt(plain, S)(Q.x))


def test_without_imagination_it_is_the_metric_learner(task):
    S, Q = task
    how = {"ways": WAYS, "noise": NOISE}
    with_G, without = (imaginary(H["protonet"](), SMALL, **how, imagines=on) for on in (True, False))
    theta = theta_of(with_G)
    assert torch.equal(without.adapt(theta, S)(Q.x), H["protonet"]().adapt({}, S)(Q.x))
    assert not torch.allclose(with_G.adapt(theta, S)(Q.x), without.adapt(theta, S)(Q.x))


def embedded(policy: str, frozen: bool = False):
    module = image_net(policy, blocks=1)
    if frozen:
        module.eval().requires_grad_(False)
    G = functional(Hallucinator(module.dim, NOISE))
    return imaginary(protonet(*nothing, ways=WAYS), G, ways=WAYS, noise=NOISE, embed=functional(module)), module


def test_queries_go_through_the_embedding_as_the_support_set_does():
    """Also where norms take the support set's statistics."""
    task = pytree.tree_map(lambda t: t[0].double() if t.is_floating_point() else t[0], pictures(1, 0))
    for policy in ("support", "layer"):
        learner, module = embedded(policy)
        theta = theta_of(learner)
        want = protonet(*functional(module), ways=WAYS).adapt(theta["embed"], task.support)
        assert_close(learner.adapt(theta, task.support)(task.query.x), want(task.query.x))  # at its start
        loss, _ = learner.objective(learner.adapt, theta, task)
        assert_close(loss, torch.nn.functional.cross_entropy(want(task.query.x), task.query.y))


def test_a_frozen_embedding_stays_and_the_network_learns():
    learner, _ = embedded("running", frozen=True)
    theta = pytree.tree_map(lambda t: t.double(), learner.init(0))
    tasks = pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, pictures(3, 0))
    grads, _, _ = meta_gradient(learner)(theta, tasks)
    assert not any(g.any() for g in grads["embed"].values())
    assert not grads["noise"].any()
    assert all(g.any() for g in grads["generator"].values())
    assert learner.statistics is None


def test_population_statistics_are_gathered_from_the_embedding_and_from_the_metric_learner():
    learner, module = embedded("running")
    theta = theta_of(learner)
    task = pytree.tree_map(lambda t: t[0].double() if t.is_floating_point() else t[0], pictures(1, 0))
    got = estimated(learner, theta, task)
    want = functional(module)[0].statistics(theta["embed"], task.support.x)
    assert got.keys() == {"embed"}
    assert_close(got["embed"], want)

    h = H["protonet"]()
    of_pairs = replace(h, statistics=lambda theta, task: {"seen": task.query.x.sum()}, statistics_of_task=True)
    of_support = replace(h, statistics=lambda theta, S: {"seen": S.x.sum()})
    (S, Q), G = some_points(), functional(Hallucinator(DIM, NOISE))
    for metric, seen in ((of_pairs, Q.x.sum()), (of_support, 3 * S.x.sum())):  # at its start, each imagined twice
        learner = imaginary(metric, G, ways=WAYS, noise=NOISE, examples=6)
        assert_close(estimated(learner, theta_of(learner), Task(S, Q)), {"metric": {"seen": seen}})


def test_a_scale_starts_at_one_and_decides_nothing(task):
    net, init = functional(Scale())
    S, Q = task
    assert torch.equal(net(init(0), S.x), S.x)
    plain, scaled = (protonet(*part, ways=WAYS).adapt(t, S)(Q.x) for part, t in ((nothing, {}), ((net, init), LOUD)))
    assert_close(scaled, plain * torch.tensor(1.4, dtype=torch.float64).exp())


LOUD = {"t": torch.tensor(0.7, dtype=torch.float64)}


def some_points() -> Task:
    x = torch.rand(18, DIM, generator=torch.Generator().manual_seed(3)).double()
    y = torch.arange(18) % WAYS
    return Task(Data(x[:9], y[:9]), Data(x[9:], y[9:]))


def test_what_makes_no_sense_is_refused():
    for wrong in ({"noise": 0}, {"examples": 0}):
        with pytest.raises(ValueError, match="expected at least 1 of each"):
            imaginary(H["protonet"](), SMALL, ways=WAYS, **{"noise": 3, "examples": 10, **wrong})


def test_a_schedule_of_the_metric_learner_is_kept():
    h = replace(H["protonet"](), scheduled=lambda step: {"warmth": torch.tensor(float(step))})
    learner = imaginary(h, SMALL, ways=WAYS, noise=NOISE)
    assert learner.scheduled(3) == {"metric": {"warmth": torch.tensor(3.0)}}
    assert imaginary(H["protonet"](), SMALL, ways=WAYS, noise=NOISE).scheduled is None


def on_points() -> Case:
    embed = functional(nn.Sequential(nn.Linear(4, 8), norm(8, "running"), nn.Tanh(), nn.Linear(8, DIM), nn.Softplus()))
    G = functional(nn.Sequential(nn.Linear(DIM + NOISE, 8), nn.Tanh(), nn.Linear(8, DIM)))
    learner = imaginary(protonet(*nothing, ways=WAYS), G, ways=WAYS, noise=NOISE, embed=embed)
    return Case(learner, blobs, waived("running"))


CASES = {"imaginary": on_points}

HERE = "learners/imaginary.py"
BUGS = [
    Bug("what is imagined is of the next class", HERE, ("S.y.repeat_interleave(m)", "S.y.repeat(m)"),
        "test_f_is_the_metric_learner_of_real_and_imagined_examples"),
    Bug("real examples are forgotten", HERE,
        ("Data(torch.cat([S.x, x]), torch.cat([S.y, S.y.repeat_interleave(m)]))", "Data(x, S.y.repeat_interleave(m))"),
        "test_f_is_the_metric_learner_of_real_and_imagined_examples"),
    Bug("each example is imagined as often as its class", HERE, ("examples * ways // len(S.x)", "examples"),
        "test_f_is_the_metric_learner_of_real_and_imagined_examples"),
    Bug("training draws no noise", HERE, ("imagined(theta, S, anew=True)", "imagined(theta, S, anew=False)"),
        "test_the_objective_draws_noise_anew_and_is_the_loss_of_the_queries"),
    Bug("f draws noise anew", HERE, ("seen, anew=False", "seen, anew=True"), law("adapt_is_pure", "imaginary")),
    Bug("the loss is of real examples alone", HERE, ("Task(imagined(theta, S, anew=True), ", "Task(S, "),
        "test_the_objective_draws_noise_anew_and_is_the_loss_of_the_queries"),
    Bug("noise is learned", HERE, ('"noise": fixed(z)', '"noise": z'), law("all_of_theta_learns", "imaginary")),
    Bug("the network starts anywhere", "nn/imagination.py",
        ("nn.init.zeros_(self.weight)", "super().reset_parameters()"),
        "test_at_its_start_nothing_changes"),
    Bug("noise comes first", "nn/imagination.py",
        ("[x[:, None].expand(*z.shape[:-1], -1), z]", "[z, x[:, None].expand(*z.shape[:-1], -1)]"),
        "test_f_is_the_metric_learner_of_real_and_imagined_examples"),
    Bug("the last layer lets negative features through", "nn/imagination.py",
        ("super().__init__(*each)", "super().__init__(*each[:-1], each[-1][0])"), "test_no_feature_is_negative"),
    Bug("imagined features hold the gradient back", HERE, ("S.x, x]), torch", "S.x, x.detach()]), torch"),
        law("meta_gradient_is_the_derivative", "imaginary")),
    Bug("queries are not conditioned", HERE,
        ("Data(net(params, task.query.x)", "Data(embed[0](theta['embed'], task.query.x)"),
        "test_queries_go_through_the_embedding_as_the_support_set_does"),
    Bug("statistics are of real examples alone", HERE, ("else made.support", "else task.support"),
        "test_population_statistics_are_gathered_from_the_embedding_and_from_the_metric_learner"),
]  # fmt: skip
