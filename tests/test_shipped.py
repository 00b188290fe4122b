"""The theta that comes with metaloop, and the meta-gradient that it was trained by."""

import json

import pytest
import shipped_theta
import torch
import unrolled
from mutations import Bug
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import metaloop as ml
from metaloop import optim


@pytest.mark.parametrize(("steps", "unroll"), [(6, 4), (4, 4), (5, 2)])
def test_the_written_out_meta_gradient_is_the_learners(steps, unroll):
    net, init = ml.functional(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    learner = ml.lstm_optimizer(net, inner_steps=steps, batch=5, unroll=unroll, hidden=4, scale=0.3)
    theta, start = learner.init(0), init(1)
    torch.manual_seed(0)
    x, y = torch.randn(5 * steps + 7, 3), torch.randint(2, (5 * steps + 7,))
    stacked = ml.Problem(x[None, :-7], y[None, :-7], {name: p[None] for name, p in start.items()})
    want, loss, _ = ml.meta_gradient(learner)(theta, ml.Task(stacked, ml.Data(x[None, -7:], y[None, -7:])))

    def f(phi, t):
        phi, rows = phi.clone().requires_grad_(), slice(5 * t, 5 * t + 5) if t < steps else slice(-7, None)
        parts = phi.split([p.numel() for p in start.values()])
        named = {name: part.view(p.shape) for part, (name, p) in zip(parts, start.items(), strict=True)}
        value = cross_entropy(net(named, x[rows]), y[rows])
        return value.detach(), torch.autograd.grad(value, phi)[0]

    flat = torch.cat([p.flatten() for p in start.values()])
    for _ in range(2):  # the second in memory that the first has used
        found, losses = unrolled.meta_gradient(unrolled.packed(theta), theta["scale"], flat, f, steps, unroll)
        assert_close(found, unrolled.packed(want), rtol=1e-4, atol=1e-6)
        assert_close(torch.tensor(sum(losses[1:])), loss)
    few = [unrolled.sample([12, 4, 8, 2], 4, torch.Generator().manual_seed(seed)) for seed in range(3)]
    assert [len(rows) for rows, _ in few] == [14, 14, 14]
    assert_close(torch.stack([weights.sum() for _, weights in few]), torch.full((3,), 26.0))
    parts = unrolled.packed(theta), theta["scale"], flat, f, steps, unroll
    each = [unrolled.meta_gradient(*parts, (torch.arange(n, 26, 2), torch.ones(13)))[0] for n in range(2)]
    assert_close([a + b for a, b in zip(*each, strict=True)], unrolled.packed(want), rtol=1e-4, atol=1e-6)


def test_theta_is_packed_and_kept(tmp_path):
    theta = shipped_theta.learner(5).init(0)
    again = unrolled.unpacked(unrolled.packed(theta), theta["scale"])
    assert_close(again, theta, rtol=0, atol=0)
    shipped_theta.save(theta, tmp_path / "theta.safetensors", {})
    kept = shipped_theta.load(tmp_path / "theta.safetensors")
    assert_close(kept["m"], {name: p.half().float() for name, p in theta["m"].items()}, rtol=0, atol=0)


def test_an_optimizer_without_a_run_takes_what_came_along(tmp_path, monkeypatch):
    model = nn.Linear(3, 2)
    monkeypatch.setattr(optim, "SHIPPED", tmp_path / "theta.safetensors")
    with pytest.raises(ValueError, match=r"no trained theta comes with this copy. Give a run of lstm_optimizer"):
        optim.Learned(model.parameters())
    shipped_theta.save(shipped_theta.learner(5).init(0), tmp_path / "theta.safetensors", {})
    given, own = (optim.Learned(model.parameters(), theta).theta
                  for theta in (None, shipped_theta.load(tmp_path / "theta.safetensors")))  # fmt: skip
    assert_close(given, own, rtol=0, atol=0)


def test_what_is_tested_was_not_trained_on():
    seen = shipped_theta.TRAINED + shipped_theta.CHOSEN_BY
    assert not {p.data for p in seen} & {p.data for p in shipped_theta.HELD}
    assert not {(p.kind, p.sizes) for p in seen} & {(p.kind, p.sizes) for p in shipped_theta.HELD}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """One held-out problem, three steps, two rates, two initialisations; a theta."""
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    data = {"train": (x, y), "test": (x[:9], y[:9])}
    problem = shipped_theta.Problem("letter", 1, "perceptron", (4,), "ReLU")
    for name, value in {
        "HELD": [problem], "TESTED_ON": {"letter": lambda: data}, "STEPS": 2, "BATCH": 20, "CURVE": (0, 1, 2, 4),
        "RATES": {name: [0.01, 0.1] for name in shipped_theta.RATES}, "INITIALISATIONS": 2, "TUNED_ON": 2, "EVERY": {},
    }.items():  # fmt: skip
        monkeypatch.setattr(shipped_theta, name, value)
    shipped_theta.save(shipped_theta.learner(4).init(0), tmp_path / "theta.safetensors", {})
    return tmp_path, problem.label


def test_the_test_goes_on_where_it_stopped(small, capsys):
    folder, label = small
    shipped_theta.test_all(folder, 60, 1, ["learned", "Adam"], False)
    first = json.loads((folder / "test.json").read_text())
    assert set(first["ends"][label]) == {"Adam"}
    assert set(first["curves"][label]) == {"learned", "Adam"}
    assert not shipped_theta.compared(first)
    assert len(first["curves"][label]["learned"]) == 2
    shipped_theta.test_all(folder, 60, 1, ["learned", *shipped_theta.RATES], False)
    whole = json.loads((folder / "test.json").read_text())
    assert whole["ends"][label]["Adam"] == first["ends"][label]["Adam"]
    (row,) = shipped_theta.compared(whole).values()
    best = min(sum(losses) / 2 for losses in whole["ends"][label]["Adam"].values())
    assert row["Adam"]["loss"][0] == pytest.approx(best)
    assert row["learned"]["loss"][0] == pytest.approx(sum(c["2"] for c in whole["curves"][label]["learned"]) / 2)
    assert row["Adam"]["at_edge"]
    assert "better than Adam on" in capsys.readouterr().out


@pytest.mark.parametrize(("ours", "good"), [(0.9, True), (1.1, False)])
def test_only_what_is_better_than_adam_is_shipped(small, monkeypatch, capsys, ours, good):
    folder, label = small
    root = folder / "root"
    for part in ("metaloop", "results", "docs/learners"):
        (root / part).mkdir(parents=True)
    (root / "pyproject.toml").write_text('metaloop = ["py.typed", "pixels.js"]\n')
    page = root / "docs" / "learners" / "lstm_optimizer.md"
    page.write_text("<!-- shipped -->\nNot yet.\n<!-- /shipped -->\n")
    monkeypatch.setattr(shipped_theta, "ROOT", root)
    curves = {
        m: [{"2": 1.0 + 0.01 * i, "20": 1.0, "50": 1.0, "200": 1.0} for i in range(2)] for m in shipped_theta.RATES
    }
    curves["learned"] = [{**c, "2": ours} for c in curves["Adam"]]
    ends = {m: {"0.01": [1.0, 1.0], "0.1": [2.0, float("inf")]} for m in shipped_theta.RATES}
    choice = {"chosen": "a", "candidates": {"a": {"meta_steps": 7}}}
    test = {"ends": {label: ends}, "curves": {label: {"Adam": curves["Adam"]}}}
    (folder / "choice.json").write_text(json.dumps(choice))
    (folder / "test.json").write_text(json.dumps(test))
    with pytest.raises(SystemExit, match=f"not tested to the end: {label}"):
        shipped_theta.ship(folder)
    (folder / "test.json").write_text(json.dumps({**test, "curves": {label: curves}}))
    shipped_theta.ship(folder)
    assert (root / "metaloop" / "optim.safetensors").is_file() == good
    assert ('"optim.safetensors"' in (root / "pyproject.toml").read_text()) == good
    said = page.read_text()
    assert f"better than Adam at Adam's best rate on {int(good)} of 1" in said
    assert f"| {label} | {ours:.3f} ± 0.000 | 1.005" in said
    stored = json.loads((root / "results" / "shipped-theta.json").read_text())
    assert stored["shipped"] == good
    assert stored["ends"][label]["Adam"]["0.1"] == [2.0, None]


def test_the_choice_is_made_on_problems_that_all_were_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped_theta, "CHOSEN_BY", [shipped_theta.Problem("a", 1, "perceptron", (n,), "ReLU")
                                                     for n in (1, 2)])  # fmt: skip
    for name in ("lr1", "lr2"):
        shipped_theta.save(shipped_theta.learner(4).init(int(name[-1])), tmp_path / f"{name}.safetensors", {})
        (tmp_path / f"{name}.json").write_text('{"steps": 3}')
    monkeypatch.setattr(shipped_theta, "FACTORS", (0.5,))
    losses = {
        ("lr1 x 0.5", 1): 2.0,
        ("lr2 x 0.5", 1): 1.0,
        ("lr1 x 0.5", 2): 0.1,
    }  # the second problem of lr2 was not done in time
    monkeypatch.setattr(shipped_theta, "finished", lambda jobs, *_: (
        (job[0], [{100: losses[job[0][0], job[1].sizes[0]]}]) for job in jobs
        if (job[0][0], job[1].sizes[0]) in losses))  # fmt: skip
    shipped_theta.choose(tmp_path, 0.0, 1)
    assert json.loads((tmp_path / "choice.json").read_text())["chosen"] == "lr2 x 0.5"
    chosen, whole = (shipped_theta.load(tmp_path / f"{name}.safetensors") for name in ("theta", "lr2"))
    assert_close(chosen, {**whole, "scale": 0.5 * whole["scale"]})


BUGS = [
    Bug("an optimizer without a run takes the stored numbers as they are", "optim.py",
        ("{name: t.float() for", "{name: t for"), "test_an_optimizer_without_a_run_takes_what_came_along"),
]  # fmt: skip
