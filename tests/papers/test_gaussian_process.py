"""Networks of infinite width against wide ones, with and without shared weights; the posterior in a slow form, its
probabilities by Bayes' rule, its numbers by scikit-learn's process."""

from itertools import product
from math import pi

import numpy as np
import pytest
import torch
from mutations import Bug, law
from torch.func import grad
from torch.testing import assert_close
from zoo import WAYS, blobs, one, waves

from metaloop import Data, FewShotRegressor, Task, gaussian_process
from metaloop.nn.infinite import _both as both
from metaloop.nn.infinite import infinite, relu
from metaloop.testing import Case

W, B = torch.tensor(1.7).double(), torch.tensor(0.3).double()
PARAMS = {"w": W, "b": B}


def some(*shape: int, seed: int = 0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Kernels


def dense_nets(x, width: int, draws: int, depth: int = 2):
    """The covariance of finite networks' answers, given their last hidden layer: [draws, n, n]."""
    g = torch.Generator().manual_seed(width)
    z = x.expand(draws, -1, -1)
    for _ in range(depth):
        a = torch.randn(draws, z.shape[2], width, generator=g, dtype=z.dtype) * (W / z.shape[2]).sqrt()
        z = (z @ a + torch.randn(draws, 1, width, generator=g, dtype=z.dtype) * B.sqrt()).relu()
    return B + W * z @ z.mT / width


def test_an_infinite_network_is_the_limit_and_four_times_the_width_halves_the_error():
    x = some(3, 6)
    K = infinite("dense", depth=2).between(PARAMS, x, x)
    drawn = {width: dense_nets(x, width, 1500) for width in (16, 64)}
    for found in drawn.values():
        assert ((found.mean(0) - K).abs() < 4.5 * found.std(0) / 1500**0.5 + 0.02 * K).all()
    ratio = drawn[16].std(0) / drawn[64].std(0)
    assert ((ratio > 1.7) & (ratio < 2.4)).all(), ratio


def picture_nets(x, width: int, draws: int, shared: bool):
    """Two layers of 3x3 windows, of one set of weights or of one for each position: its units [draws, n, c, p]."""
    g = torch.Generator().manual_seed(7)
    side = x.shape[-1]
    z = x.expand(draws, *x.shape)
    for _ in range(2):
        windows = torch.nn.functional.unfold(z.flatten(0, 1), 3, padding=1).unflatten(0, z.shape[:2])  # [d, n, c 9, p]
        own = 1 if shared else side**2
        a = torch.randn(draws, width, windows.shape[2], own, generator=g, dtype=z.dtype).expand(-1, -1, -1, side**2)
        b = torch.randn(draws, 1, width, own, generator=g, dtype=z.dtype) * B.sqrt()
        z = (torch.einsum("dnip,doip->dnop", windows, a) * (W / windows.shape[2]).sqrt() + b).relu()
        z = z.unflatten(-1, (side, side))
    return z.flatten(-2)


def test_sharing_weights_is_seen_where_positions_are_pooled_and_nowhere_else():
    x, draws, width = some(2, 2, 3, 3), 250, 20
    local, pooled = (infinite(kind, depth=2).between(PARAMS, x, x) for kind in ("local", "pooled"))
    assert ((local - pooled).abs() > 0.2 * local.diagonal().mean()).any()
    for shared in (True, False):
        z = picture_nets(x, width, draws, shared)
        all_weights = B + W * torch.einsum("dncp,dmcp->dnm", z, z) / (width * 9)
        of_mean = B + W * z.mean(-1) @ z.mean(-1).mT / width
        near = lambda found, K: (found.mean(0) - K).abs() < 4.5 * found.std(0) / draws**0.5 + 0.02 * K
        assert near(all_weights, local).all()
        assert near(of_mean, pooled).all() == shared


def test_both_positions_move_together():
    """(2)'s mean, one window at a time."""
    K = some(2, 3, 2, 3, 2)
    got = both(K, 3)
    for h, w, i, j in product(range(3), range(2), range(3), range(2)):
        moved = [K[:, h + a, w + b, i + a, j + b] for a, b in product((-1, 0, 1), repeat=2)
                 if 0 <= min(h + a, i + a) <= max(h + a, i + a) < 3 and 0 <= min(w + b, j + b) <= max(w + b, j + b) < 2]
        assert_close(got[:, h, w, i, j], sum(moved, torch.zeros(2).double()) / 9)


def test_relu_is_the_integral_also_where_two_inputs_are_one():
    """E relu(u) relu(v) on a grid; and its derivative along the diagonal."""
    u = torch.linspace(-8, 8, 401).double()
    density = (-u.square() / 2).exp() / (2 * pi) ** 0.5 * 0.04
    for K in (-0.9, 0.0, 0.5, 1.1):
        k, k_ = torch.tensor(1.0).double(), torch.tensor(1.44).double()
        v = K * u[:, None] + (k_ - K**2).sqrt() * u
        want = (density[:, None] * density * u[:, None].relu() * v.relu()).sum()
        assert_close(relu(torch.tensor(K).double(), k, k_), want, rtol=1e-3, atol=1e-4)
    same = lambda k: relu(k, k, k)
    assert_close(same(k_), k_ / 2)
    assert_close(grad(same)(k_), torch.tensor(0.5).double(), rtol=1e-6, atol=0)


def test_alone_is_the_diagonal_and_one_position_is_dense():
    x = some(3, 2, 4, 4)
    for kind in ("dense", "local", "pooled"):
        kernel = infinite(kind, depth=3)
        K = kernel.between(PARAMS, x, x)
        assert_close(kernel.alone(PARAMS, x), K.diagonal())
        assert_close(K, K.mT)
        assert torch.linalg.eigvalsh(K).min() > 0
    x = x[..., :1, :1]
    dense, local, pooled = (infinite(kind, window=1).between(PARAMS, x, x) for kind in ("dense", "local", "pooled"))
    assert_close(dense, local)
    assert_close(dense, pooled)


def test_pooled_kernels_do_not_see_where_a_picture_is():
    """But for the margin: a dot in the middle and the same dot one to the side have one kernel with all else."""
    x, other = torch.zeros(2, 1, 9, 9).double(), some(1, 1, 9, 9)
    x[0, 0, 4, 4] = x[1, 0, 4, 5] = 1
    K = infinite("pooled", depth=2).between(PARAMS, x, torch.cat([x, other]))
    assert_close(K[0, 0], K[0, 1])
    unpooled = infinite("local", depth=2).between(PARAMS, x, x)
    assert unpooled[0, 1] < unpooled[0, 0] - 0.01


# The posterior

DENSE = infinite("dense", depth=1)


def test_the_posterior_of_classes():
    S, Q = one(blobs(1, 0))
    learner = gaussian_process(DENSE, ways=WAYS, noise=0.1)
    theta = {n: p.double() for n, p in learner.init(0).items()}
    f = learner.adapt(theta, S)
    params = {"w": theta["weight"].exp(), "b": theta["bias"].exp()}
    K = lambda x, z: DENSE.between(params, x, z)
    h = 0.1 * K(S.x, S.x).diagonal().mean()
    A = torch.linalg.inv(K(S.x, S.x) + h * torch.eye(len(S.x)).double())                                  # (1)
    Y = torch.eye(WAYS).double()[S.y] - 1 / WAYS
    m = K(Q.x, S.x) @ A @ Y                                                                               # (2)
    v = torch.stack([K(x, x)[0, 0] + h - K(x, S.x)[0] @ A @ K(S.x, x)[:, 0] for x in Q.x[:, None]])           # (3)
    s2 = sum(Y[:, k] @ A @ Y[:, k] for k in range(WAYS)) / (len(S.x) * (WAYS - 1))                         # (4)
    mean, deviation = f.moments(Q.x)
    assert_close(mean, m + 1 / WAYS, rtol=1e-5, atol=1e-6)
    assert_close(deviation, (s2 * v).sqrt(), rtol=1e-5, atol=1e-6)

    density = torch.distributions.Normal(mean[:, None], deviation[:, None, None])
    rows = density.log_prob(torch.eye(WAYS).double()).sum(-1).exp()  # of each one-hot row that y may be
    assert_close(f(Q.x).softmax(1), rows / rows.sum(1, keepdim=True))                                     # (5)


def test_scale_is_where_the_labels_are_most_likely():
    """(4) against the density of Y under s^2 A, at scales around it."""
    S, _ = one(waves(1, 0))
    learner = gaussian_process(DENSE)
    f = learner.adapt({n: p.double() for n, p in learner.init(0).items()}, S)
    y = (S.y - S.y.mean(0))[:, 0]
    L = f.L * f.scale.sqrt()
    density = lambda c: torch.distributions.MultivariateNormal(torch.zeros_like(y), scale_tril=L * c**0.5).log_prob(y)
    assert density(1) > max(density(0.9), density(1.1))


def test_numbers_are_those_of_a_gaussian_process():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import PairwiseKernel

    S, Q = one(waves(1, 0))
    learner = gaussian_process(DENSE, noise=0.05)
    theta = learner.init(0)
    f = learner.adapt(theta, S)
    between = lambda a, b: DENSE.between(f.params, torch.tensor(a)[None], torch.tensor(b)[None])
    K = lambda a, b, gamma: f.scale.item() * between(a, b).item()
    theirs = GaussianProcessRegressor(
        PairwiseKernel(metric=K), alpha=(f.scale * f.h).item(), optimizer=None
    ).fit(S.x.numpy(), (S.y - S.y.mean(0))[:, 0].numpy())
    mean, deviation = theirs.predict(Q.x.numpy(), return_std=True)
    assert_close(f(Q.x)[:, 0], S.y.mean() + torch.from_numpy(mean))
    assert_close(f.deviation(Q.x).square(), torch.from_numpy(deviation) ** 2 + f.scale * f.h)

    loss, _ = learner.objective(learner.adapt, theta, Task(S, Q))
    normal = torch.distributions.Normal(f(Q.x), f.deviation(Q.x)[:, None])
    assert_close(loss, -normal.log_prob(Q.y).mean())


def test_the_scale_of_what_has_no_spread_is_the_kernels_own_and_any_other_is_the_numbers():
    S, Q = one(waves(1, 0))
    learner = gaussian_process(DENSE, noise=0.05)
    theta = learner.init(0)
    for n in (1, 3):
        few = Data(S.x[:n], torch.full_like(S.y[:n], 0.1))  # the mean of three is not 0.1 to the last digit
        f = learner.adapt(theta, few)
        assert f.scale == 1
        K = lambda a, b, f=f: DENSE.between(f.params, a, b)
        A = K(few.x, few.x) + f.h * torch.eye(n).double()
        v = (K(Q.x, Q.x) - K(Q.x, few.x) @ torch.linalg.inv(A) @ K(few.x, Q.x)).diagonal() + f.h
        assert_close(f.deviation(Q.x), v.sqrt())
        assert_close(f(Q.x), torch.full_like(Q.y, 0.1))
        assert learner.objective(learner.adapt, theta, Task(few, Q))[0] < 100
    want, f = learner.adapt(theta, S), learner.adapt(theta, Data(S.x, 1e-8 * S.y))
    assert_close(f.deviation(Q.x), 1e-8 * want.deviation(Q.x), rtol=1e-9, atol=0)


def test_it_serves_the_regressor_and_tells_spreads():
    S, Q = one(waves(1, 0))
    learner = gaussian_process(DENSE)
    few = FewShotRegressor(learner, learner.init(0)).fit(S.x.numpy(), S.y[:, 0].numpy())
    mean, deviation = few.predict(Q.x.numpy(), return_std=True)
    assert mean.shape == deviation.shape == (len(Q.x),)
    at_support = few.predict(S.x.numpy(), return_std=True)[1]
    assert (deviation > 0).all()
    assert at_support.mean() < np.mean(few.predict(S.x.numpy() + 10, return_std=True)[1])


def test_what_makes_no_sense_is_refused():
    wrongs = (({"kind": "round"}, "kind is 'round'"), ({"depth": 0}, "depth is 0"), ({"window": 2}, "window 2"))
    for wrong, words in wrongs:
        with pytest.raises(ValueError, match=words):
            infinite(**wrong)
    with pytest.raises(ValueError, match="expected all above 0"):
        gaussian_process(DENSE, bias=0.0)
    with pytest.raises(ValueError, match="expected pictures"):
        gaussian_process(infinite("pooled"), ways=2).adapt(
            gaussian_process(DENSE).init(0), Data(torch.zeros(2, 3), torch.tensor([0, 1]))
        )


CASES = {
    "gaussian_process": lambda: Case(gaussian_process(DENSE, ways=WAYS, noise=0.003), blobs),
    "gaussian_process-numbers": lambda: Case(gaussian_process(infinite("dense", depth=1), noise=0.3), waves),
}

HERE, THERE = "learners/gaussian_process.py", "nn/infinite.py"
BUGS = [
    Bug("labels have one free number too many", HERE, ("member is None else 1)", "member is None else 0)"),
        "test_the_posterior_of_classes"),
    Bug("pooled positions move by themselves", THERE, ("wide.narrow(axis, d, n).narrow(axis + 2, d, n)",
        "wide.narrow(axis, d, n).narrow(axis + 2, size - 1 - d, n)"),
        "test_both_positions_move_together"),
    Bug("equal numbers leave no doubt", HERE, ("torch.where(spread, (", "torch.where(~spread | spread, ("),
        "test_the_scale_of_what_has_no_spread_is_the_kernels_own_and_any_other_is_the_numbers"),
    Bug("a deviation has an absolute floor", HERE, ("(self.scale * v.clamp_min(1e-12 * self.h)).sqrt()",
        "(self.scale * v).clamp_min(1e-12).sqrt()"),
        "test_the_scale_of_what_has_no_spread_is_the_kernels_own_and_any_other_is_the_numbers"),
    Bug("noise holds back the gradient", HERE, ('theta["noise"].double()', 'theta["noise"].detach().double()'),
        law("all_of_theta_learns", "gaussian_process")),
]  # fmt: skip
