"""Two levels of symbols: what quantising does to gradients, what is learned by which term, and a density of symbols."""

import math

import pytest
import torch
from mutations import Bug
from torch.func import jacrev
from torch.testing import assert_close

import metaloop as ml
from metaloop import nn
from metaloop.engine.checkpoint import read
from metaloop.nn import quantize

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def levels(symbols=5, dim=3, width=4, seed=0, shape=(1, 9, 11)):
    torch.manual_seed(seed)
    return nn.TwoLevels(shape, symbols=symbols, dim=dim, width=width).double()


def test_the_nearest_symbol_is_told_and_its_derivative_is_that_of_h():
    book = nn.Codebook(6, 3).double()
    h = torch.randn(2, 3, 4, 5, generator=seeded(), dtype=DOUBLE)
    e, k, (moved, held, idle) = book(h)
    for n, i, j in ((0, 0, 0), (1, 3, 4), (1, 2, 1)):
        far = [(h[n, :, i, j] - c).square().sum() for c in book.vectors]
        assert k[n, i, j] == torch.stack(far).argmin()
        assert_close(e[n, :, i, j], book.vectors[k[n, i, j]])
    assert_close(book.of(k), e)
    assert_close(moved, (h - e).square().mean())
    assert_close(held, moved)
    nearest = [min((h[n, :, i, j] - c).square().sum() for n in range(2) for i in range(4) for j in range(5))
               for c in book.vectors]  # fmt: skip
    assert_close(idle, sum(nearest) / 18)
    few = h[:1, :, :1, :2]
    assert_close(jacrev(lambda h: book(h)[0].flatten())(few).flatten(1), torch.eye(6, dtype=DOUBLE))


def test_each_term_moves_what_it_is_for():
    """The second the symbols, the third and the picture's error the encoder, the error the decoder too."""
    book, h = nn.Codebook(6, 3).double(), torch.randn(2, 3, 4, 5, generator=seeded(), dtype=DOUBLE).requires_grad_()
    e, k, (moved, held, idle) = book(h)
    of = lambda term: torch.autograd.grad(term.sum(), (h, book.vectors), retain_graph=True, allow_unused=True)
    assert not of(moved)[0].any()
    c = book.of(k)
    want = torch.zeros_like(book.vectors)
    for n in range(2):
        for i in range(4):
            for j in range(5):
                want[k[n, i, j]] += 2 * (c - h)[n, :, i, j].detach() / 120
    assert_close(of(moved)[1], want)
    assert_close(of(held)[0], 2 * (h - c).detach() / 120)
    assert not of(held)[1].any()
    assert not of(idle)[0].any()
    assert of(idle)[1].any(1).all()  # each symbol is fetched
    assert not any(g is not None and g.any() for g in of(e)[1:])
    net = levels()
    x = torch.rand(3, 1, 9, 11, generator=seeded(), dtype=DOUBLE)
    drawn, loss = net(x)
    e_t, e_b, *_, (moved, held, idle) = net.seen(x)
    error = (drawn - x).square().mean() + (net.drawn(e_t, 0 * e_b) - x).square().mean() / 2
    assert_close(loss, error / x.var() + moved / 4 + 0.25 * held / 4 + idle / 8)
    grads = torch.autograd.grad(loss, list(net.parameters()))
    assert all(g.any() for g in grads)


def test_grids_are_of_a_fourth_and_an_eighth_and_either_level_says_something():
    net, x = levels(), torch.rand(2, 1, 9, 11, generator=seeded(), dtype=DOUBLE)
    e_t, e_b, t, b, _ = net.seen(x)
    assert (t.shape, b.shape) == ((2, 2, 2), (2, 3, 3))
    assert net.grids == ((2, 2), (3, 3))
    assert net.drawn(e_t, e_b).shape == x.shape
    assert (net.drawn(0 * e_t, e_b) - net.drawn(e_t, e_b)).abs().max() > 1e-3
    assert (net.drawn(e_t, 0 * e_b) - net.drawn(e_t, e_b)).abs().max() > 1e-3
    moved = x + torch.zeros_like(x)
    moved[0] = 1 - moved[0]
    assert torch.equal(net.seen(moved)[3][1], b[1])  # of each picture by itself


def test_perplexity_is_at_most_the_symbols_and_of_all_that_is_seen():
    assert quantize.perplexity(torch.arange(8), 8).item() == pytest.approx(8)
    assert quantize.perplexity(torch.zeros(2, 3, 4), 8).item() == 1
    k = torch.randint(5, (40,), generator=seeded())
    assert 1 < quantize.perplexity(k, 8) <= 5
    halves = torch.stack([quantize.perplexity(k[:5], 8), quantize.perplexity(k[5:10], 8)]).mean()
    assert halves < quantize.perplexity(k[:10], 8) + 1e-6


class Grid(nn.TwoLevels):
    """Symbols on a grid of two places above and two below, so that all of them can be counted."""

    def __init__(self):
        super().__init__((1, 8, 16), symbols=3, dim=3, width=4)
        self.grids = ((1, 2), (1, 2))


def density(top=None):
    torch.manual_seed(0)
    net = nn.CodeDensity(2, Grid(), width=4, depth=1)
    for part in (net.top, net.bottom):
        for p in part.parameters():
            p.data = 0.7 * torch.randn(p.shape, generator=seeded())
    return net.double()


def test_the_symbols_have_probability_one_together_and_each_sees_those_before():
    net, code = density(), torch.tensor([[0.4, -0.9]], dtype=DOUBLE)
    every = torch.cartesian_prod(*[torch.arange(3)] * 2).view(9, 1, 2)
    total = 0.0
    for t in every:
        e_t = net.levels.top.of(t[None])
        p_t = quantize.chances(net.top(code, e_t), t[None]).sum().exp()
        e_b = net.levels.bottom.of(every)
        under = net.under(code, e_t).expand(9, -1, -1, -1)
        total += p_t * quantize.chances(net.bottom(under, e_b), every).sum(1).exp().sum()
    assert_close(total, torch.tensor(1.0, dtype=DOUBLE))
    e = torch.randn(1, 3, 3, 4, generator=seeded(), dtype=DOUBLE)
    J = jacrev(lambda e: net.top(code, e)[0].flatten(1))(e)[:, :, 0].flatten(3).abs().sum((0, 2))
    assert torch.equal(J, J.tril(-1))
    assert (J[torch.ones(12, 12).tril(-1) > 0] > 0).all()  # attention reaches all before


def test_the_log_p_of_a_picture_is_that_of_its_symbols():
    net, x = density(), 5 * torch.randn(2, 1, 8, 16, generator=seeded(), dtype=DOUBLE)
    net.levels.grids = ((1, 2), (2, 4))
    code = torch.randn(2, 2, generator=seeded(1), dtype=DOUBLE)
    _, _, t, b, _ = net.levels.seen(x)
    assert len(t.unique()) > 1
    assert len(b.unique()) > 1
    e_t, e_b = net.levels.top.of(t), net.levels.bottom.of(b)
    told = torch.cat([code[:, :, None, None].expand(-1, -1, 2, 4), quantize.resized(e_t, (2, 4))], 1)
    each = torch.cat([net.top(code, e_t).log_softmax(1).flatten(2), net.bottom(told, e_b).log_softmax(1).flatten(2)], 2)
    k = torch.cat([t.flatten(1), b.flatten(1)], 1)
    log_p = net(torch.cat([code, x.flatten(1)], 1))
    assert log_p.shape == (2, 10)
    for n in range(2):
        assert_close(log_p[n], torch.stack([each[n, k[n, i], i] for i in range(10)]))


def test_drawing_draws_symbols_as_often_as_they_are_said_to_be():
    net, code = density(), torch.tensor([[0.4, -0.9]], dtype=DOUBLE)
    torch.manual_seed(0)
    k = net.chosen(net.top, net.levels.top, code.expand(4000, -1), (1, 2)).flatten(1)
    every = torch.cartesian_prod(*[torch.arange(3)] * 2)
    p = quantize.chances(net.top(code, net.levels.top.of(every.view(9, 1, 2))), every.view(9, 1, 2)).sum(1).exp()
    often = torch.bincount(3 * k[:, 0] + k[:, 1], minlength=9) / 4000
    assert_close(often.double(), p, atol=0.03, rtol=0)


def test_a_set_is_explained_by_its_symbols():
    from test_homoencoder import smooth
    from torch.nn import Linear, Sequential, Tanh

    nothing, whole = nn.Nothing(), levels(shape=(1, 16, 16), symbols=3, dim=3).float()
    parts = (Sequential(nn.Shaped(256), Linear(256, 6), Tanh()), smooth(7, 8), nothing, nothing)
    decoder = nn.CodeDensity(4, whole, width=3, depth=1)
    learner = ml.homoencoder(*map(ml.functional, (*parts, decoder)), ways=2, class_size=20, likelihood=nn.Density)
    x, theta = torch.rand(8, 1, 16, 16, generator=seeded()), learner.init(0)
    f = learner.adapt(theta, ml.Data(x[:4], torch.arange(4) % 2))
    assert f.sample(3).shape == (3, 2, 1, 16, 16)
    log_p = f.log_prob(x[4:], draws=2)
    assert log_p.shape == (4, 2)
    assert (log_p < 0).all()  # of symbols: probabilities
    task = ml.Task(*(ml.Data(x[None, i : i + 4], torch.arange(4)[None] % 2) for i in (0, 4)))
    grads, _, info = ml.meta_gradient(learner)(theta, task)
    assert 0 < -info["log_p"] < 2 * 20 * math.log(3)
    assert_close(info["kl_z"], torch.tensor(0.0))
    for name, g in grads["decoder"].items():
        assert g is None or bool(g.abs().sum() > 0) != name.startswith("levels."), name


def test_the_recipe_trains_the_levels_first_and_leaves_them(tmp_path):
    plan = ml.recipes.find("homoencoder-omniglot-codes").plan(ml.tasks.glyphs(), budget="smoke")
    how = {**plan.training(), "validate_every": None, "progress": False, "device": "cpu"}
    run = plan.outer(plan.learner, plan.pool, out=tmp_path / "run", seed=3, **how)
    (newest,) = sorted((tmp_path / "run" / "codes").glob("checkpoint-*.safetensors"))[-1:]
    levels, _ = read(newest)
    kept, drawn = run.theta["decoder"], plan.learner.init(3)["decoder"]
    for name in (name for name in drawn if name.startswith("levels.")):
        assert_close(kept[name], levels[f"theta/{name.removeprefix('levels.')}"], rtol=0, atol=0)
    for moved in ("levels.top.vectors", "top.head.weight"):
        assert not torch.equal(kept[moved], drawn[moved])


def test_what_makes_no_sense_is_refused():
    for shape, symbols in (((1, 4, 8), 5), ((8, 8), 5), ((1, 8, 8), 1)):
        with pytest.raises(ValueError, match=r"TwoLevels: shape .*, expected|TwoLevels: shape .*; expected"):
            nn.TwoLevels(shape, symbols=symbols)
    with pytest.raises(ValueError, match="dim is 2, expected 3 or more"):
        nn.TwoLevels((1, 8, 8), dim=2)


HERE = "nn/quantize.py"
BUGS = [
    Bug("symbols take no gradient on to the encoder", HERE, ("h + (c - h).detach()", "c"),
        "test_the_nearest_symbol_is_told_and_its_derivative_is_that_of_h"),
    Bug("the encoder is held by what should move the symbols", HERE, ("((h.detach(), c)", "((h, c)"),
        "test_each_term_moves_what_it_is_for"),
    Bug("the bottom's prior is told what comes", HERE,
        ("self.bottom(self.under(code, e_t), e_b)", "self.bottom(self.under(code, e_t), e_b.roll(-1, 3))"),
        "test_the_log_p_of_a_picture_is_that_of_its_symbols"),
]  # fmt: skip
