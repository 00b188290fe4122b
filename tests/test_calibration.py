"""How sure predictors are: measures beside their definitions, ensembles, and what a run's files and pages say of it."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug
from sklearn.metrics import roc_auc_score
from tiny import make_run
from torch.testing import assert_close
from zoo import WAYS, blobs, features

from metaloop import Learner, evaluate, meta_gradient, predictor, protonet, tasks
from metaloop.engine.batch import predict
from metaloop.nn import class_mean
from metaloop.report import write_report
from metaloop.report.calibration import (
    Seen,
    auroc,
    brier,
    ece,
    ece_null,
    ensemble,
    nll,
    reliability,
    saying,
    stack,
    temperature,
    top,
)
from metaloop.report.findings import strangers
from metaloop.report.results import keep, kept, measure


def some(n: int, sharp: float = 1.0, seed: int = 0):
    """Scores, and y drawn from their softmax at 1 / sharp: at sharp = 1 they are calibrated."""
    g = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(n, 4, generator=g).double()
    return sharp * scores, scores.softmax(1).multinomial(1, generator=g)[:, 0]


def test_measures_by_loops():
    scores, y = some(200)
    p = scores.exp() / scores.exp().sum(1, keepdim=True)
    assert nll(scores, y) == pytest.approx(-sum(math.log(row[k]) for row, k in zip(p, y, strict=True)) / 200)
    squares = sum(sum((row[j] - float(j == k)) ** 2 for j in range(4)) for row, k in zip(p, y, strict=True))
    assert brier(scores, y) == pytest.approx(float(squares) / 200)
    bins = [[] for _ in range(15)]
    for row, k in zip(p.tolist(), y.tolist(), strict=True):
        bins[min(int(max(row) * 15), 14)].append((max(row), row.index(max(row)) == k))
    gaps = [abs(sum(s for s, _ in b) - sum(r for _, r in b)) for b in bins]
    assert ece(*top(scores, y)) == pytest.approx(sum(gaps) / 200)
    told = reliability(*top(scores, y))
    assert_close(sum(n for _, _, n in told), 200.0)
    assert len(told) == sum(map(bool, bins))
    known, unknown = scores[:, 0], (2 * scores[:90, 1]).round() / 2
    labels = [1] * 200 + [0] * 90
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(labels, torch.cat([known, unknown])))


def test_the_error_of_a_calibrated_predictor_is_what_chance_makes_it():
    """Thirty data sets, calibrated by their making: their errors are draws of the null, none of which is 0."""
    found = []
    for seed in range(30):
        sure, right = top(*some(300, seed=seed))
        mean, high = ece_null(sure, draws=60)
        found.append((ece(sure, right) - mean, ece(sure, right) <= high))
        assert 0 < mean < high
    gap = torch.tensor([g for g, _ in found])
    assert abs(gap.mean()) < 3 * gap.std() / 30**0.5
    assert sum(inside for _, inside in found) >= 26
    sure, right = top(*some(300, sharp=4.0))
    assert ece(sure, right) > 2 * ece_null(sure)[1]


def test_a_temperature_is_the_likeliest():
    for sharp in (0.5, 4.0):
        scores, y = some(4000, sharp)
        t = temperature(scores, y)
        assert t == pytest.approx(sharp, rel=0.1)
        assert all(nll(scores / t, y) <= nll(scores / other, y) for other in (0.98 * t, 1.02 * t))


def members(n: int = 3):
    learner = protonet(*features, ways=WAYS)
    return learner, [learner.init(seed) for seed in range(n)]


def test_an_ensemble_is_never_worse_than_its_members_are_in_the_mean():
    """On every batch, exactly: ln and the square are convex. And it is the mean of their probabilities."""
    learner, thetas = members()
    many = ensemble(learner, 3)
    for seed in range(20):
        batch = blobs(1, seed)
        each = [predict(learner, theta, batch)[0].double() for theta in thetas]
        answer, y = predict(many, stack(thetas), batch)[0].double(), batch.query.y[0]
        assert_close(answer.exp(), sum(s.softmax(1) for s in each) / 3, atol=1e-6, rtol=1e-5)
        for measure_of in (nll, brier):
            assert measure_of(answer, y) <= sum(measure_of(s, y) for s in each) / 3 + 1e-7
    first = stack([thetas[0]] * 3)
    assert_close(predict(many, first, batch), predict(learner, thetas[0], batch).log_softmax(-1))


def test_members_are_trained_by_their_own_losses():
    learner, _ = members()
    many, batch = ensemble(learner, 2), blobs(4, 0)
    theta = many.init(3)
    grads, loss, _ = meta_gradient(many)(theta, batch)
    apart = [meta_gradient(learner)(learner.init(seed), batch) for seed in (6, 7)]
    assert_close(loss, (apart[0][1] + apart[1][1]) / 2)
    assert_close({n: g[1] for n, g in grads.items()}, {n: g / 2 for n, g in apart[1][0].items()})
    with pytest.raises(ValueError, match="ensemble: members is 0"):
        ensemble(learner, 0)


@predictor
class Ranked:
    """Ranks by one thing, and knows probabilities by another."""

    w: torch.Tensor

    def __call__(self, x):
        return self.w * F.one_hot(torch.zeros(len(x), dtype=torch.long), 3)

    def probabilities(self, x):
        return torch.tensor([2.0, 1.0, 1.0]).expand(len(x), 3) / 4


def test_probabilities_are_asked_where_f_offers_them():
    learner = Learner(lambda seed: {"w": torch.ones(1)}, lambda theta, S: Ranked(theta["w"]), lambda *_: None)
    seen, plain = Seen(), Seen()
    pool, episode = tasks.gaussians(), {"ways": 3, "queries": 4, "tasks": 5}
    for one, told in ((saying(learner), seen), (learner, plain)):
        evaluate(one, learner.init(0), pool, **episode, answers=told)
    assert seen.told().nll == pytest.approx((math.log(2) + 2 * math.log(4)) / 3)
    assert seen.told().information == pytest.approx(math.log(3) - seen.told().nll)
    assert plain.told().nll != pytest.approx(seen.told().nll)
    assert len(seen.flat()[1]) == 60


def test_a_run_says_how_sure_it_is(tmp_path):
    run, pool = make_run(tmp_path / "run", "protonet-glyphs", budget="smoke"), tasks.glyphs()
    entry = measure(run, run.plan.rows[0], pool, tasks=4, seed=0, split="test", data=None)
    c = entry.calibration
    assert c.information == pytest.approx(math.log(entry.ways) - c.nll, abs=1e-5)
    assert 0 < c.ece_null <= c.ece_null_high + 1e-9
    keep(run.folder, [entry])
    assert kept(run.folder) == [entry]
    told = json.loads((run.folder / "evaluation.json").read_text())
    del told[0]["calibration"]  # as older versions wrote it
    (run.folder / "evaluation.json").write_text(json.dumps(told))
    assert kept(run.folder)[0].calibration is None
    html = write_report(run, lambda: pool, tasks=3).read_text()
    found = json.loads((run.folder / "report.json").read_text())["sure"]
    assert "Is it as sure as it should be?" in html
    assert f"AUROC {found['auroc']:.3f}" in html
    assert f"T = {found['temperature']:.3g}" in html
    assert found["fitted_on"] == "val"
    assert found["cooled_nll"] <= found["nll"] + 1e-6
    assert sum(n for _, _, n in found["bins"]) == 3 * 5 * 5


def test_a_stranger_is_a_query_whose_class_is_not_shown():
    """A learner that knows what it does not know, one that says the same of all, on classes that lie apart."""

    def near(theta, S):
        c = class_mean(S.x, S.y, 3)[0]
        return lambda x: 5.0 * (theta["sure"] > 0) * ((x[:, None] - c).abs().amax(-1) < 1)

    X, y = torch.arange(8.0).repeat_interleave(4)[:, None] * 10, torch.arange(8).repeat_interleave(4)
    pool = tasks.arrays(X, y, split=None)
    row = SimpleNamespace(ways=3, shots=1)
    learner = Learner(lambda seed: {}, near, lambda adapt, theta, task: (torch.zeros(()), {}))
    for sure, want in ((1.0, 1.0), (0.0, 0.5)):
        run = SimpleNamespace(theta={"sure": torch.tensor(sure)}, plan=SimpleNamespace(options={}))
        assert strangers(learner, run, row, pool, 4, 2) == want
    assert strangers(learner, run, SimpleNamespace(ways=8, shots=1), pool, 4, 2) is None  # no class is left


def test_what_no_temperature_helps_is_said():
    scores = torch.tensor([[0.0, -torch.inf], [1.0, 0.0]])
    with pytest.raises(ValueError, match="a true class has probability 0"):
        temperature(scores, torch.tensor([1, 0]))


BUGS = [
    Bug("the shown are the strangers", "report/findings.py",
        ("auroc(sure[~stranger], sure[stranger])", "auroc(sure[stranger], sure[~stranger])"),
        "test_a_stranger_is_a_query_whose_class_is_not_shown"),
    Bug("an ensemble averages logarithms", "report/calibration.py",
        ("log_p.logsumexp(0) - math.log(len(log_p))", "log_p.mean(0)"),
        "test_an_ensemble_is_never_worse_than_its_members_are_in_the_mean"),
    Bug("the null of the calibration error takes every class for right", "report/calibration.py",
        ("dtype=torch.float64) < sure).double()", "dtype=torch.float64) < 1).double()"),
        "test_the_error_of_a_calibrated_predictor_is_what_chance_makes_it"),
    Bug("a temperature multiplies", "report/calibration.py",
        ("nll(scores / math.exp(log_t), y)", "nll(scores * math.exp(log_t), y)"),
        "test_a_temperature_is_the_likeliest"),
]  # fmt: skip
