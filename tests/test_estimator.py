"""FewShotClassifier: a scikit-learn estimator over any run or learner."""

import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from mutations import Bug
from PIL import Image
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from tiny import image_folder, make_run

from metaloop import (
    Data,
    Embedding,
    FewShotClassifier,
    FewShotRegressor,
    Learner,
    functional,
    maml,
    nn,
    open_run,
    predictor,
    protonet,
    tasks,
)

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
        (lambda x, y: (np.array([["a"]] * 20, dtype=object), y), "X holds something else than numbers"),
        (lambda x, y: (np.zeros(20), y), r"X has one axis, of length 20\. Reshape your data: X\.reshape\(1, -1\)"),
        (lambda x, y: (x[:0], y[:0]), r"there is no example in X, of shape \(0, 1, 28, 28\)"),
        (lambda x, y: (x, None), "requires y to be passed, but the target y is None. Give a label"),
        (lambda x, y: (x, np.linspace(0, 1, 20)), r"y holds 0\.05\d+, continuous targets, expected a class"),
        (lambda x, y: (x, [0.5, "a"] * 10), r"y holds 0\.5, continuous targets"),
        (lambda x, y: (csr_matrix(x.flatten(1).numpy()), y), r"X is sparse \(csr_matrix\)\. Give a dense array"),
        (lambda x, y: (x.numpy() * 1j, y), r"X holds complex numbers\. Complex data not supported"),
        (lambda x, y: (x * 1j, y), "X holds complex numbers"),
        (lambda x, y: (x, np.ones((20, 2))), r"y has shape \(20, 2\), expected one label for each example"),
    ],
)
def test_bad_examples_are_refused_in_one_line(runs, images, change, message):
    x, y = change(*images)
    with pytest.raises(ValueError, match=f"FewShotClassifier.fit: {message}"):
        FewShotClassifier(runs["protonet"]).fit(x, y)


class Wrapped:
    """What numpy makes an array of, and no more."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.x, dtype=dtype)


FORMS = {
    "views read backwards": lambda x: np.array(x[::-1, ::-1])[::-1, ::-1], "objects": lambda x: x.astype(object),
    "an array by __array__": Wrapped, "lists": lambda x: x.tolist(), "columns first": np.asfortranarray,
    "the other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "long doubles": lambda x: x.astype(np.longdouble), "read only": lambda x: np.broadcast_to(x, x.shape),
    "with a gradient": lambda x: torch.tensor(x).requires_grad_(), "every other": lambda x: np.repeat(x, 2, 0)[::2],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_arrays_as_people_have_them(form):
    learner = protonet(*functional(nn.mlp((2, 8, 4))), ways=2)
    x, y = np.random.default_rng(0).normal(size=(6, 2)), [0, 1, 0, 1, 0, 1]
    want = FewShotClassifier(learner, learner.init(0)).fit(x, y).predict_proba(x)
    given = FORMS[form](x)
    few = FewShotClassifier(learner, learner.init(0))
    assert np.allclose(few.fit(given, y).predict_proba(given), want, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16, np.uint8])
def test_tokens_are_looked_up(dtype):
    class Words(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(50, 8)

        def forward(self, x):
            return self.words(x).mean(1)

    learner = protonet(*functional(Words()), ways=2)
    x, theta = np.array([[1, 2, 3], [40, 41, 42]], dtype=dtype), learner.init(0)
    few = FewShotClassifier(learner, theta).fit(x, ["a", "b"])
    assert few.predict(x).tolist() == ["a", "b"]
    assert torch.allclose(few.predictor_.c[0], theta["words.weight"][[1, 2, 3]].mean(0))
    with pytest.raises(ValueError, match=r"predict: the network cannot take such X \(index out of range"):
        few.predict(x + dtype(60))
    with pytest.raises(ValueError, match=r"fit: layer 'words' \(Embedding\): .*: Expected tensor"):
        FewShotClassifier(learner, theta).fit(x / 2, ["a", "b"])
    with pytest.raises(ValueError, match=r"fit: layer 'words' \(Embedding\): .*: index out of range"):
        FewShotClassifier(learner, theta).fit(x + dtype(60), ["a", "b"])


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        ([[1], [2], [1]], [1, 2]), (["b", 1, "b"], [1, "b"]), (["b", 2.0, "a"], [2.0, "a", "b"]),
        (np.array(["b", 3, 10], dtype=object), [3, 10, "b"]), (torch.tensor([5, 4, 5]), [4, 5]),
        ([2.0, 1.0, 2.0], [1.0, 2.0]), ([True, False, True], [False, True]), (["1", 1, "1"], [1, "1"]),
        ((b"x", "y", b"x"), [b"x", "y"]),
    ],
)  # fmt: skip
def test_labels_of_any_kind_come_back(y, classes):
    learner, x = protonet(*functional(nn.mlp((2, 8, 4))), ways=3), np.eye(3, 2)
    column = isinstance(y, list) and isinstance(y[0], list)
    with pytest.warns(DataConversionWarning, match="A column-vector y") if column else nullcontext():
        few = FewShotClassifier(learner, learner.init(0)).fit(x, y)
    assert few.classes_.tolist() == classes
    assert [type(k) for k in few.classes_.tolist()] == [type(k) for k in classes]
    told = y.tolist() if isinstance(y, torch.Tensor) else np.array(y, dtype=object).ravel().tolist()
    assert few.predict(x[:2]).tolist() == told[:2]


def test_a_theta_with_a_history_serves_and_is_copied():
    learner = protonet(*functional(nn.mlp((2, 8, 4))), ways=2)
    theta = {n: p.requires_grad_() * 1 for n, p in learner.init(0).items()}
    few = FewShotClassifier(learner, theta).fit(np.eye(2), [0, 1])
    assert clone(few).fit(np.eye(2), [0, 1]).predict(np.eye(2)).tolist() == few.predict(np.eye(2)).tolist() == [0, 1]
    leaf = learner.init(0)
    assert FewShotClassifier(learner, leaf).theta is leaf


def test_one_example_alone_is_told_of_under_norms_of_a_call(images):
    x, y = images[0][:4].float() / 255, [0, 1, 0, 1]
    learner = protonet(*functional(nn.conv4((1, 28, 28), width=4)), ways=2)
    few = FewShotClassifier(learner, learner.init(0)).fit(x, y)
    few.predict(x)
    with pytest.warns(UserWarning, match="normalises the examples of a call by each other, and has one alone"):
        few.predict(x[:1])


def test_an_adaptation_that_diverges_names_no_class():
    learner = maml(*functional(nn.mlp((2, 8, 2))), inner_lr=1e20, inner_steps=5)
    few = FewShotClassifier(learner, learner.init(0)).fit(np.eye(2), [0, 1])
    with pytest.raises(ValueError, match="NaN or infinite numbers to 2 of 2 examples"):
        few.predict(np.eye(2))


def test_what_is_refused_after_fit(runs, images):
    x, y = images
    few = FewShotClassifier(runs["protonet"]).fit(x, y)
    with pytest.raises(ValueError, match=r"FewShotClassifier.predict: examples of 3x28x28"):
        few.predict(x.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match=r"predict: X has one axis, of length 784"):
        few.predict(x[0].flatten())
    with pytest.raises(ValueError, match="predict: there is no example in X"):
        few.predict(x[:0])
    with pytest.raises(ValueError, match="predict: X holds values that are not finite"):
        few.predict(x * torch.nan)


def test_runs_that_cannot(runs, images):
    x, y = images
    with pytest.raises(ValueError, match="the run is a regression"):
        FewShotClassifier(runs["curve"]).fit(x, y)
    with pytest.raises(ValueError, match="the learner tells 5 classes apart, the tasks have 6"):
        FewShotClassifier(runs["maml"]).fit(x, np.arange(20) % 6)


# scikit-learn's own checks, and its tools


class Stretch(torch.nn.Module):
    """Features of any number, as the checks want it."""

    def __init__(self):
        super().__init__()
        self.s = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.s * x


STRETCH = protonet(*functional(Stretch(), reset=False), ways=20)
# joblib tells whether theta has changed by torch.save's bytes, which differ for equal tensors.
BY_BYTES = {"check_estimators_overwrite_params": "joblib.hash differs for equal tensors"}


@pytest.mark.parametrize("kind", [FewShotClassifier, FewShotRegressor, Embedding], ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks(kind):
    theta = STRETCH.init(0)
    few = FewShotRegressor() if kind is FewShotRegressor else kind(STRETCH, theta)
    expected = {} if kind is FewShotRegressor else BY_BYTES
    found = check_estimator(few, expected_failed_checks=expected, on_fail=None, on_skip=None)
    failed = {one["check_name"]: str(one["exception"]) for one in found if one["status"] == "failed"}
    assert not failed
    assert len(found) > 40
    assert theta["s"] == 1


def clouds(n: int = 12, ways: int = 3):
    """Examples of classes that are far apart."""
    y = np.arange(n) % ways
    return np.random.default_rng(0).normal(size=(n, 2)) + 8 * np.eye(ways, 2)[y], y


def test_scikit_learns_tools_take_it():
    x, y = clouds(24)
    few = FewShotClassifier(STRETCH, STRETCH.init(0))
    assert make_pipeline(StandardScaler(), few).fit(x, y).score(x, y) > 0.9
    thetas = [{"s": torch.tensor(0.0)}, {"s": torch.tensor(1.0)}]
    found = GridSearchCV(few, {"theta": thetas}, cv=2).fit(x, y)
    assert found.best_params_["theta"]["s"] == 1
    assert CalibratedClassifierCV(few, cv=2).fit(x, y).score(x, y) > 0.9
    assert BaggingClassifier(few, n_estimators=3, random_state=0).fit(x, y).score(x, y) > 0.9


@pytest.mark.parametrize("ways", [2, 3])
def test_decisions_are_log_probabilities(ways):
    x, y = clouds(ways=ways)
    few = FewShotClassifier(STRETCH, {"s": torch.tensor(0.3)}).fit(x, y)
    p, d = few.predict_proba(x), few.decision_function(x)
    assert np.allclose(d, np.log(p) if ways > 2 else np.log(p[:, 1] / p[:, 0]), atol=1e-3)
    assert few.n_features_in_ == 2
    far = few.decision_function(1e4 * x)
    assert np.isfinite(far).all()


def test_more_examples_are_as_if_given_at_once():
    x, y = clouds()
    few, parts = FewShotClassifier(STRETCH, STRETCH.init(0)), FewShotClassifier(STRETCH, STRETCH.init(0))
    whole = few.fit(x, y).predict_proba(x)
    for part in (slice(0, 1), slice(1, 5), slice(5, 12)):
        parts.partial_fit(x[part], y[part], classes=[2, 1, 0] if part.start == 0 else None)
    assert parts.classes_.tolist() == [0, 1, 2]
    assert np.allclose(parts.predict_proba(x), whole, atol=1e-6)
    one = FewShotClassifier(STRETCH, STRETCH.init(0)).partial_fit(x[:1], y[:1], classes=[0, 1])
    assert one.predict_proba(x).tolist() == [[1.0, 0.0]] * 12
    with pytest.raises(ValueError, match="y names a class that `classes` did not name"):
        one.partial_fit(x[:3], y[:3])
    with pytest.raises(ValueError, match="partial_fit: y names one class"):
        FewShotClassifier(STRETCH, STRETCH.init(0)).partial_fit(x[:1], y[:1])
    new = FewShotClassifier(STRETCH, STRETCH.init(0)).partial_fit(x[:2], y[:2]).partial_fit(x[2:], y[2:])  # a new class
    assert np.allclose(new.predict_proba(x), whole, atol=1e-6)


@pytest.mark.parametrize("name", ["protonet", "maml", "pretrain"])
def test_runs_in_memory_and_bare_learners_are_pickled(runs, images, name):
    x, y = images
    run = runs[name]
    ways = {"ways": 4} if name != "maml" else {}
    sources = [(run, None), (open_run(run.folder), None), (run.plan.at_test(**ways), run.theta)]
    for source, theta in sources:
        few = FewShotClassifier(source, theta)
        again = pickle.loads(pickle.dumps(few))
        want = few.fit(x, y).predict_proba(x)
        assert np.allclose(again.fit(x, y).predict_proba(x), want, atol=1e-6)
        assert np.allclose(pickle.loads(pickle.dumps(few)).predict_proba(x), want, atol=1e-6)


def test_texts_and_pictures_come_as_arrays_too(monkeypatch):
    monkeypatch.setattr("metaloop.features.present", lambda module: module == "sklearn")  # without extras
    said, y = ["good morning", "good day", "see you soon", "see you later"], [0, 0, 1, 1]
    grey = [Image.new("L", (9, 9), 60 * k) for k in range(4)]
    for X in (said, grey):
        held = np.empty(4, dtype=object)
        held[:] = X
        want = FewShotClassifier().fit(X, y).predict_proba(X)
        assert np.array_equal(FewShotClassifier().fit(held, y).predict_proba(held), want)
    words = np.array(said)
    assert np.array_equal(FewShotClassifier().fit(words, y).predict(words), y)


def test_what_own_examples_cannot_be_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("metaloop.features.present", lambda module: module == "sklearn")
    Image.effect_noise((64, 64), 90).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:999])
    whole = [Image.new("L", (9, 9), 60 * k) for k in range(3)]
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(ValueError, match="fit: picture 3 of X cannot be read"):
        FewShotClassifier().fit([*whole, cut], [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"fit: X holds values .* too large for float32"):
        FewShotClassifier().fit([[1e300], [2e300]], [0, 1])


def test_a_pickled_run_does_not_carry_its_data(runs):
    run = runs["protonet"]
    packed = pickle.dumps(run)
    assert run.plan.pool.train.images[0].numpy().tobytes() not in packed
    assert pickle.loads(packed).plan.pool.shape == run.plan.pool.shape


def test_a_large_theta_is_told_in_a_line(runs):
    learner = protonet(*functional(nn.mlp((2, 64, 64))), ways=2)
    few = FewShotClassifier(learner, learner.init(0))
    assert repr(few) == "FewShotClassifier(run_or_learner=<learner>, theta=<4 tensors, 4352 numbers>)"
    run = runs["protonet"]
    assert repr(FewShotClassifier(run)) == f"FewShotClassifier(run_or_learner=<run {run.folder} at step 1>)"
    assert repr(FewShotClassifier(run.folder)) == f"FewShotClassifier(run_or_learner={str(run.folder)!r})"


# Numbers, and features


def test_a_meta_trained_regressor(runs):
    run = runs["curve"]
    x, y = np.linspace(-5, 5, 5)[:, None], np.sin(np.linspace(-5, 5, 5))
    few = FewShotRegressor(run.folder).fit(x, y)
    f = run.plan.at_test().adapt(run.theta, Data(torch.tensor(x).float(), torch.tensor(y)[:, None].float()))
    assert np.allclose(few.predict(x), f(torch.tensor(x).float()).detach()[:, 0], atol=1e-5)
    assert few.predict(x).shape == (5,)
    with pytest.warns(DataConversionWarning, match="A column-vector y"):
        assert few.fit(x, y[:, None]).predict(x).shape == (5, 1)
    assert np.allclose(pickle.loads(pickle.dumps(few)).predict(x), few.predict(x))
    with pytest.raises(ValueError, match="the run is a classification, not a regression"):
        FewShotRegressor(runs["protonet"]).fit(np.zeros((2, 784)), [0.0, 1.0])
    with pytest.raises(ValueError, match="tells no spread"):
        few.predict(x, return_std=True)


def test_a_gaussian_process_without_a_run():
    """Between points that it has seen it is near the curve and sure; far from all, at y's mean, and not."""
    x = np.linspace(0, 6, 12)[:, None]
    few = FewShotRegressor().fit(x, np.sin(x[:, 0]))
    y, spread = few.predict(x + 0.2, return_std=True)
    assert np.abs(y - np.sin(x[:, 0] + 0.2))[:-1].max() < 0.1
    far, unsure = few.predict([[60.0]], return_std=True)
    assert unsure[0] > 5 * spread[:-1].max()
    assert abs(far[0] - np.sin(x).mean()) < 0.2
    with pytest.raises(ValueError, match=r"FewShotRegressor.fit: y holds something else than finite numbers"):
        FewShotRegressor().fit(x, ["a"] * 12)


@pytest.mark.parametrize("name", ["protonet", "pretrain"])
def test_an_embedding_is_the_networks(runs, images, name):
    x, y = images
    run = runs[name]
    z = Embedding(run.folder).fit(x).transform(x)
    theta = run.theta["embed"] if name == "pretrain" else run.theta
    f = run.plan.at_test(ways=2).adapt(run.theta, Data(x.float() / 255, torch.arange(20) % 2))
    assert np.allclose(z, f.embed(theta, x.float() / 255).detach(), atol=1e-5)
    flat = x.flatten(1).numpy()
    assert make_pipeline(Embedding(run.folder), LogisticRegression(max_iter=500)).fit(flat, y).score(flat, y) > 0.9
    assert len(Embedding(run.folder).fit(x).get_feature_names_out()) == z.shape[1]
    with pytest.raises(ValueError, match=r"Embedding: FineTuned has no embedding\. Give the run of a metric"):
        Embedding(runs["maml"]).fit(x)


BUGS = [
    Bug("a pickled run carries its data", "estimator.py",
        ("replace(made.plan, pool=Outline(**made.plan.pool.outline()))", "made.plan"),
        "test_a_pickled_run_does_not_carry_its_data"),
    Bug("more examples replace those before", "estimator.py",
        ("torch.cat([before, examples.to(before.dtype)]) if alike", "examples if alike"),
        "test_more_examples_are_as_if_given_at_once"),
    Bug("probabilities of its own are passed over", "engine/predictor.py",
        ("if own is None:", "if True:"), "test_probabilities_of_ones_own_are_asked_for"),
    Bug("probabilities of its own are not cut to the classes", "engine/predictor.py",
        ("p = p / p.sum(-1, keepdim=True)", "p = p * 1"), "test_probabilities_of_ones_own_are_asked_for"),
    Bug("tokens are not tried where floats are refused", "estimator.py",
        ("if whole == may_be_tokens or", "if True or"), "test_tokens_are_looked_up[int64]"),
]  # fmt: skip
