"""PixelCNN++'s parts: a discrete distribution that sums to one, a network that looks back alone, pictures drawn as
often as they are said to be."""

import math
from itertools import product

import pytest
import torch
from mutations import Bug
from torch.func import jacrev
from torch.testing import assert_close

import metaloop as ml
from metaloop import nn

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_the_levels_have_probability_one_together(levels):
    """In float32, of a thousand mixtures from sharp to flat; means beyond the ends too."""
    kind = nn.grey(levels, 10)
    out = torch.stack([2 * torch.randn(1000, 10, generator=seeded()), 1.2 * torch.randn(1000, 10, generator=seeded(1)),
                       9 * torch.rand(1000, 10, generator=seeded(2)) - 8], 1)  # fmt: skip
    p = kind.of(out.flatten(1))
    x = torch.arange(levels).float() / (levels - 1)
    each = kind(*(t[:, :, None].expand(-1, levels, -1) if t.ndim == 2 else t.expand(-1, levels, -1) for t in p)).each(x)
    assert each.dtype == torch.float32
    assert (each.double().exp().sum(1) - 1).abs().max() < 5e-6


def test_a_level_has_the_mass_of_its_bin():
    """By sigmoids in float64, where they can be subtracted; the ends are open."""
    out = torch.randn(7, 3 * 15, generator=seeded(), dtype=DOUBLE)
    x = torch.tensor([0.0, 0.4, 1.0], dtype=DOUBLE)
    p = nn.MixtureOfLogistics.of(out)
    for i, j in product(range(7), range(3)):
        weight, mean, log_scale = out[i].view(3, 3, 5)[j]
        k, mass = round(x[j].item() * 255), 0.0
        for w, m, ls in zip(weight.softmax(0), mean, log_scale, strict=True):
            edges = ((k * 2 + sign) / 255 - 1 for sign in (-1, 1))
            low, high = (torch.sigmoid((edge - m) / ls.exp()) for edge in edges)
            mass += w * ((1 if k == 255 else high) - (0 if k == 0 else low))
        assert_close(p.each(x)[i, j].exp(), mass)
    assert_close(p.log_prob(x), p.each(x).sum(-1))


def test_derivatives_are_finite_and_right_where_bins_are_far():
    out = torch.tensor([[0.0, 0.7, -9.0], [0.0, -4.0, -7.0], [0.0, 3.0, 2.0], [0.0, 0.7, 90.0], [0.0, 0.7, 105.0]],
                       requires_grad=True)  # fmt: skip
    kind = nn.grey(256, 1)
    for x in (0.0, 0.5, 1.0):
        (g,) = torch.autograd.grad(kind.of(out).log_prob(torch.full((5, 1), x)).sum(), out)
        assert kind.of(out).log_prob(torch.full((5, 1), x)).isfinite().all()
        assert g.isfinite().all()
    spread = torch.randn(4, 6, generator=seeded(), dtype=DOUBLE, requires_grad=True)
    x = torch.tensor([[0.0], [0.2], [0.8], [1.0]], dtype=DOUBLE)
    assert torch.autograd.gradcheck(lambda out: nn.grey(256, 2).of(out).log_prob(x), spread)


def test_levels_are_drawn_as_often_as_they_are_said_to_be():
    kind, levels = nn.grey(8, 2), torch.arange(8) / 7
    p = kind.of(torch.tensor([0.3, -0.4, -1.1, 0.6, -1.0, -2.0]))
    torch.manual_seed(0)
    drawn = kind(*(t.expand(20_000, -1, -1) for t in p)).draw()
    often = torch.stack([(drawn - level).abs().lt(1e-6).float().mean() for level in levels])
    assert_close(often, kind(*(t.expand(8, -1, -1) for t in p)).each(levels[:, None])[:, 0].exp(), atol=0.012, rtol=0)


def image(shape=(1, 3, 4), *, levels=4, attends=False, seed=0, depth=2):
    net = nn.CausalImage(2, shape, levels=levels, components=2, width=3, depth=depth, attends=attends).double()
    for p in net.parameters():
        p.data = 0.6 * torch.randn(p.shape, generator=seeded(seed), dtype=DOUBLE)
    return net


@pytest.mark.parametrize("attends", [False, True])
def test_a_pixel_sees_the_code_and_the_pixels_before_it(attends):
    net = image((1, 5, 6), attends=attends)
    code, x = torch.randn(1, 2, generator=seeded(), dtype=DOUBLE), torch.rand(30, generator=seeded(1), dtype=DOUBLE)
    answer = lambda code, x: net.answers(code, x.view(1, 1, 5, 6))[0].flatten(1)
    of_code, J = jacrev(answer, (0, 1))(code, x)
    assert (of_code.abs().sum((0, 2)) > 0).all()
    J = J.abs().sum(0)
    assert torch.equal(J, J.tril(-1))  # exact zeros
    near = [(n, m) for n in range(30) for m in range(n) if n // 6 - m // 6 <= 1 and abs(n % 6 - m % 6) <= 1]
    assert all(J[pair] > 0 for pair in near)
    assert not attends or bool((J[torch.ones(30, 30).tril(-1) > 0] > 0).all())


def test_its_pictures_have_probability_one_together_and_are_drawn_as_often():
    net, code = image((1, 2, 2), attends=True), torch.tensor([[0.5, -1.0]], dtype=DOUBLE)
    x = torch.tensor(list(product(range(4), repeat=4)), dtype=DOUBLE) / 3
    log_p = net(torch.cat([code.expand(256, -1), x], 1)).sum(1)
    assert_close(log_p.exp().sum(), torch.tensor(1.0, dtype=DOUBLE))
    torch.manual_seed(0)
    drawn = net(code.expand(4000, -1))
    assert drawn.shape == (4000, 1, 2, 2)
    which = ((3 * drawn.flatten(1)).round() @ torch.tensor([64.0, 16, 4, 1], dtype=DOUBLE)).long()
    often = torch.bincount(which, minlength=256) / 4000
    assert_close(often.double(), log_p.exp(), atol=0.03, rtol=0)
    own = -log_p[which]
    entropy = -(log_p.exp() * log_p).sum()
    assert abs(own.mean() - entropy) < 3 * own.std() / 4000**0.5


def test_of_greys_between_levels_the_nearest_is_judged_and_told():
    net, code = image(attends=True), torch.randn(6, 2, generator=seeded(1), dtype=DOUBLE)
    x = 2 * torch.rand(6, 12, generator=seeded(), dtype=DOUBLE) - 0.5  # beyond the ends too
    near = (3 * x.clamp(0, 1)).round() / 3
    log_p = net(torch.cat([code, x], 1))
    assert_close(log_p, net(torch.cat([code, near], 1)), rtol=0, atol=0)
    assert ((net(torch.cat([code, 1 - near], 1)) - log_p).abs().sum(1) > 1e-3).all()
    p = nn.grey(4, 2).of(torch.randn(6, 12 * 6, generator=seeded(2), dtype=DOUBLE))
    assert_close(p.each(x), p.each(near), rtol=0, atol=0)


def test_drawing_looks_at_no_more_rows_than_tell_a_pixel():
    net, code = image((1, 7, 2), depth=1), torch.tensor([[0.5, -1.0]], dtype=DOUBLE)
    assert net.reach == 5
    torch.manual_seed(0)
    drawn = net(code.expand(20, -1))
    net.reach = 7
    torch.manual_seed(0)
    assert torch.equal(net(code.expand(20, -1)), drawn)


def test_a_set_is_explained_pixel_by_pixel():
    from test_homoencoder import smooth
    from torch.nn import Linear, Sequential, Tanh

    parts = (Sequential(nn.Shaped(4), Linear(4, 6), Tanh()), smooth(7, 6), smooth(9, 4), smooth(3, 4))
    decoder = nn.CausalImage(5, (1, 2, 2), levels=2, components=1, width=2, depth=1)
    nets = map(ml.functional, (*parts, decoder))
    learner = ml.homoencoder(*nets, ways=2, class_size=20, likelihood=nn.Density)
    x = torch.tensor(list(product((0.0, 1.0), repeat=4))).view(16, 1, 2, 2)
    f = learner.adapt(learner.init(0), ml.Data(x[:6], torch.arange(6) % 2))
    torch.manual_seed(0)
    total = f.log_prob(x, draws=300).exp().sum(0)
    assert_close(total, torch.ones(2), atol=0.03, rtol=0)
    assert f.sample(3).shape == (3, 2, 1, 2, 2)
    task = ml.Task(*(ml.Data(x[None, i : i + 4], torch.arange(4)[None] % 2) for i in (0, 8)))
    grads, loss, _ = ml.meta_gradient(learner)(learner.init(0), task)
    assert loss.isfinite()
    assert all(g.abs().sum() > 0 for g in grads["decoder"].values())


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"CausalImage: pictures have shape \(3, 8, 8\), expected one channel"):
        nn.CausalImage(4, (3, 8, 8))
    with pytest.raises(ValueError, match="levels is 1, components 5, expected at least 2 and 1"):
        nn.grey(1)
    assert nn.grey(16) is nn.grey(16)  # so that two predictors with it have one structure
    for pixels in (11, 24):
        with pytest.raises(ValueError, match=f"told pictures of {pixels} pixels, expected 3 x 4"):
            image()(torch.zeros(2, 2 + pixels, dtype=DOUBLE))
    assert math.isclose(nn.grey(2, 1).of(torch.zeros(3)).log_prob(torch.ones(1)).exp().item(), 0.5)


HERE = "nn/autoregressive.py"
BUGS = [
    Bug("a mixture's end is closed", HERE, ("torch.where(k == top, 0.0, -F", "torch.where(k < 0, 0.0, -F"),
        "test_the_levels_have_probability_one_together[256]"),
    Bug("a pixel sees itself in attention", HERE, (".tril()  # column 0", ".tril(1)  # column 0"),
        "test_a_pixel_sees_the_code_and_the_pixels_before_it[True]"),
    Bug("a pixel sees what is to the right of it", HERE, ("(int(right), 0, int(down), 0)", "(int(right), 0, 0, 0)"),
        "test_a_pixel_sees_the_code_and_the_pixels_before_it[False]"),
    Bug("later pixels are told a grey that is not judged", HERE, ("x = (x * top).round().clamp(0, top) / top", "x = x"),
        "test_of_greys_between_levels_the_nearest_is_judged_and_told"),
]  # fmt: skip
