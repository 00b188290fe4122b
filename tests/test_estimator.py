"""FewShotClassifier: a scikit-learn estimator over any run or learner."""

import numpy as np
import pytest
import torch
from mutations import Bug
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from tiny import image_folder, make_run

from metaloop import FewShotClassifier, Learner, functional, maml, nn, predictor, protonet, tasks

FOUR = ["ab", "cd", "ef", "gh"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """x uint8 [20, 1, 28, 28] of four classes, five each, and their names."""
    folder = image_folder(tmp_path_factory.mktemp("images") / "images", 4, 5)
    x, y, _, _ = tasks.read_folder(folder, (1, 28, 28))
    return x, np.array(FOUR)[y]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    pool = tasks.folder(image_folder(place / "images", 25, 6))
    return {name: make_run(place / name, f"{name}-glyphs", pool) for name in ("protonet", "maml", "pretrain")} | {
        "curve": make_run(place / "curve", "maml-sinusoid-5shot")
    }


@pytest.mark.parametrize("name", ["protonet", "maml", "pretrain"])
def test_it_learns_from_a_few_images(runs, images, name):
    x, y = images
    few = FewShotClassifier(runs[name].folder).fit(x[::5], y[::5])
    assert few.classes_.tolist() == FOUR
    p = few.predict_proba(x)
    assert p.shape == (20, 4)
    assert np.allclose(p.sum(1), 1, atol=1e-5)
    assert (few.predict(x) == few.classes_[p.argmax(1)]).all()
    assert few.score(x, y) > 0.6


def test_every_form_of_the_same_images_gives_the_same(runs, images):
    x, y = images
    run = runs["protonet"]
    want = FewShotClassifier(run).fit(x, y).predict_proba(x)
    forms = [x.numpy(), x[:, 0], x.flatten(1).numpy(), x.float() / 255, (x.double() / 255).numpy()]
    for form in forms:
        assert np.allclose(FewShotClassifier(str(run.folder)).fit(form, list(y)).predict_proba(form), want, atol=1e-6)


def test_it_is_an_estimator(runs, images):
    x, y = images
    few = clone(FewShotClassifier(str(runs["protonet"].folder)))
    assert cross_val_score(few, x.flatten(1).numpy(), y, cv=2).mean() > 0.6
    with pytest.raises(NotFittedError):
        few.predict(x)
    assert set(few.get_params()) == {"run_or_learner", "theta"}


def test_any_learner_with_its_theta():
    learner = protonet(*functional(nn.mlp((2, 8, 4))), ways=2)
    x, y = [[0.0, 0.0], [0.1, 0.0], [2.0, 2.0]], [7, 7, 9]
    few = FewShotClassifier(learner, learner.init(0)).fit(x, y)
    assert few.predict([[0.0, 0.1], [2.0, 1.9]]).tolist() == [7, 9]
    with pytest.raises(ValueError, match=r"a learner alone knows nothing. Pass theta=run.theta"):
        FewShotClassifier(learner).fit(x, y)
    with pytest.raises(ValueError, match=r"FewShotClassifier.fit: the learner tells 2 classes apart, the tasks have 3"):
        FewShotClassifier(learner, learner.init(0)).fit(x, [1, 2, 3])


def test_probabilities_of_ones_own_are_asked_for():
    """An f that offers probabilities(x) is not read through a softmax, and is cut to the classes there are as well."""

    @predictor
    class Votes:
        y: torch.Tensor

        def __call__(self, x):
            return self.probabilities(x) / 10

        def probabilities(self, x):
            return torch.tensor([[0.6, 0.2, 0.2]]).roll(int(self.y[0]), 1).expand(len(x), -1)

    learner = Learner(lambda seed: {"w": torch.zeros(1)}, lambda theta, S: Votes(S.y.sort().values), None)
    few = FewShotClassifier(learner, learner.init(0)).fit(torch.eye(2), ["a", "b"])
    assert np.allclose(few.predict_proba(torch.eye(2)), [[0.75, 0.25]] * 2)


def test_a_head_for_more_classes_is_cut_to_those_there_are():
    learner = maml(*functional(nn.mlp((2, 8, 5))), inner_lr=0.1)
    few = FewShotClassifier(learner, learner.init(0)).fit(torch.eye(2), ["a", "b"])
    assert few.predict_proba(torch.eye(2)).shape == (2, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:, :, :20], y), r"examples of 1x20x28, the net was trained on 1x28x28"),
        (lambda x, y: (x.expand(-1, 3, -1, -1), y), r"examples of 3x28x28, the net was trained on 1x28x28"),
        (lambda x, y: (x, ["a"] * 20), "y names one class"),
        (lambda x, y: (x, y[:3]), r"20 examples in X, y of shape \(3,\)"),
        (lambda x, y: (x / torch.zeros(1), y), "X holds values that are not finite"),
        (lambda x, y: (x, [None] * 20), r"a label is missing \(None or NaN\)"),
        (lambda x, y: (x, [float("nan")] * 20), r"a label is missing \(None or NaN\)"),
        (lambda x, y: ([], []), "there is no example"),
        (lambda x, y: ([["a"]] * 20, y), "X holds something else than numbers"),
    ],
)
def test_bad_examples_are_refused_in_one_line(runs, images, change, message):
    x, y = change(*images)
    with pytest.raises(ValueError, match=f"FewShotClassifier.fit: {message}"):
        FewShotClassifier(runs["protonet"]).fit(x, y)


def test_what_is_refused_after_fit(runs, images):
    x, y = images
    few = FewShotClassifier(runs["protonet"]).fit(x, y)
    with pytest.raises(ValueError, match=r"FewShotClassifier.predict: examples of 3x28x28"):
        few.predict(x.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match="predict: X holds values that are not finite"):
        few.predict(x * torch.nan)


def test_runs_that_cannot(runs, images):
    x, y = images
    with pytest.raises(ValueError, match="the run is a regression"):
        FewShotClassifier(runs["curve"]).fit(x, y)
    with pytest.raises(ValueError, match="the learner tells 5 classes apart, the tasks have 6"):
        FewShotClassifier(runs["maml"]).fit(x, np.arange(20) % 6)


BUGS = [
    Bug("probabilities of its own are passed over", "engine/predictor.py",
        ("if own is None:", "if True:"), "test_probabilities_of_ones_own_are_asked_for"),
    Bug("probabilities of its own are not cut to the classes", "engine/predictor.py",
        ("return p / p.sum(-1, keepdim=True)", "return p"), "test_probabilities_of_ones_own_are_asked_for"),
]  # fmt: skip
