"""Table C's script: a batch trains what torch's modules train alone, and its child is chosen by the rule it tells."""

import json
from dataclasses import asdict
from pathlib import Path

import activation_table as measured
import numpy as np
import pytest
import torch
from optimizer_table import CONVOLUTIONS, drawn
from torch import nn

from metaloop.engine.seeds import place
from metaloop.nn import Unit

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["max x relu", "gate square abs", "mix sin gauss", "add x beta"]


def parts(*shape):
    g = torch.Generator().manual_seed(0)
    some = lambda n: (torch.randn(n, *shape, generator=g), torch.randint(10, (n,), generator=g))
    return {"train": some(40), "validation": some(200), "test": some(60)}


@pytest.fixture
def small(monkeypatch):
    for name, value in {"TRAIN": 40, "BATCH": 8, "RATES": (3e-3, 1e-2)}.items():
        monkeypatch.setattr(measured, name, value)


@pytest.mark.parametrize("fades", [True, False])
@pytest.mark.parametrize("norm", ["before", "after", "none", "identity"])
def test_a_batch_of_functions_is_each_by_itself(norm, fades, small):
    """Validation accuracies on 200 pictures: one more or less by rounding."""
    child, data = measured.Child("mnist", 3, norm, 5, fades=fades), parts(49)
    together = measured.train(data, child, NAMES, 0)["validation"]
    assert together == pytest.approx([measured.alone(data, child, name, 0) for name in NAMES], abs=0.0051)
    assert len({*together}) > 1


def test_a_convolutional_network_is_each_by_itself(small):
    data = parts(1, 14, 14)
    found = measured.convolutional(data, NAMES, [(1e-3, 1e-2)] * len(NAMES), 3)["test"]
    for i, name in enumerate(NAMES):
        for j, rate in enumerate((1e-3, 1e-2)):
            g = torch.Generator().manual_seed(place(3, "activations held out", 0))
            start = drawn(CONVOLUTIONS, g)
            first, second = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)
            net = nn.Sequential(first, Unit(name), second, Unit(name), nn.Flatten(), nn.Linear(256, 10))
            with torch.no_grad():
                for layer, key in ((first, "K1"), (second, "K2")):
                    layer.weight.copy_(start[key])
                    layer.bias.zero_()
                net[5].weight.copy_(start["W"].T)
                net[5].bias.zero_()
            method = torch.optim.Adam(net.parameters(), lr=rate)
            for _ in range(40 // 8):
                rows = torch.randint(40, (8,), generator=g)
                method.zero_grad()
                nn.functional.cross_entropy(net(data["train"][0][rows]), data["train"][1][rows]).backward()
                method.step()
            right = (net(data["test"][0]).argmax(-1) == data["test"][1]).float().mean()
            assert float(found[i, j]) == pytest.approx(float(right), abs=0.018)  # one of 60
    assert found.unique().numel() > 2


def test_the_share_of_variance_is_that_of_the_two_way_table():
    """A function's part of variance 4, a seed's of 100, the rest of 1: 4 / (4 + 1), over 4000 functions."""
    g = np.random.default_rng(0)
    scores = 2 * g.standard_normal(4000) + 10 * g.standard_normal((3, 1)) + g.standard_normal((3, 4000))
    assert measured.correlation(scores) == pytest.approx(0.8, abs=0.02)
    assert measured.correlation(g.standard_normal((3, 4000))) == pytest.approx(0, abs=0.05)


def test_the_first_seed_chooses_and_the_others_measure():
    scores = np.array([[0.9, 0.8, 0.7, 0.6, np.nan, 0.5], [0.7, 0.6, 0.3, 0.2, np.nan, 0.4],
                       [0.8, 0.5, 0.2, 0.3, np.nan, 0.4]])  # fmt: skip
    found = measured.judged(scores)
    assert found["noise"] == pytest.approx((4 * 0.005 / 5) ** 0.5)
    assert found["linear below best"] == pytest.approx(0.35 / found["noise"])
    assert found["share"] == pytest.approx(measured.correlation(scores[1:, :2]))


def test_the_child_with_the_highest_share_of_those_that_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "CHOSEN", tmp_path / "child.json")
    with pytest.raises(SystemExit, match="choose the network first"):
        measured.chosen()
    figures = [(0.9, 1.0, 0.1), (0.5, 3.0, 0.1), (0.6, 3.0, 0.1), (0.8, 3.0, 9.0)]
    kept = [
        {**asdict(child), "share": share, "linear below best": below, "seconds a function": seconds}
        for child, (share, below, seconds) in zip(measured.CHILDREN, figures, strict=False)
    ]
    measured.CHOSEN.write_text(json.dumps({"children": kept}))
    assert measured.chosen()[0] == measured.CHILDREN[2]
    measured.CHOSEN.write_text(json.dumps({"children": kept[:1]}))
    with pytest.raises(SystemExit, match="no child does"):
        measured.chosen()


def test_the_page_has_the_figures_of_the_results_files():
    page = (ROOT / "docs" / "searched.md").read_text()
    assert page.split("<!-- table C -->\n")[1].split("<!-- /table C -->")[0] == measured.show()
