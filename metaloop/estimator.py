"""Few-shot classification and regression, and embeddings, as scikit-learn's estimators."""

import copyreg
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .core import Learner, Theta
from .engine import Run, predictor
from .nn.functional import at_meta_test
from .recipes.stored import open_run
from .targets import CLASSES
from .tasks.divide import in_order
from .torch_private import pytree


class _Adapted(BaseEstimator):
    """What the estimators share: a run or learner with its theta, how X becomes tensors, copies and pickles."""

    def __init__(self, run_or_learner: Run | Learner | str | Path | None = None, theta: Theta = None):
        self.run_or_learner = run_or_learner
        leaves = pytree.tree_leaves(theta)
        held = all(not isinstance(t, Tensor) or t.is_leaf for t in leaves)  # what has a history cannot be copied
        self.theta = theta if held else pytree.tree_map(_held, theta)

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        """One line, however large theta is."""
        given = {name: _brief(value) for name, value in self.get_params(deep=False).items() if value is not None}
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in given.items())})"[:N_CHAR_MAX]

    def __getstate__(self) -> dict[str, Any]:
        return {"packed": cloudpickle.dumps(super().__getstate__())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(cloudpickle.loads(state["packed"]))

    def _source(self, numbers: bool) -> tuple[Learner | Run, Theta, tuple[int, ...] | None]:
        """The run, or the learner alone, its theta on the CPU, and the shape of its examples where known. numbers:
        whether it must be of a regression."""
        call, source = type(self).__name__, self.run_or_learner
        if not isinstance(source, Run | Learner | str | Path):
            raise ValueError(f"{call}: {type(source).__name__} is no run, folder of a run or learner.")
        if isinstance(source, Learner):
            if self.theta is None:
                raise ValueError(f"{call}: a learner alone knows nothing. Pass theta=run.theta.")
            return source, _on_cpu(self.theta), None
        run = source if isinstance(source, Run) else open_run(source)
        theta = _on_cpu(run.theta if self.theta is None else self.theta)
        if run.plan is None:
            return run.learner, theta, None
        pool = run.plan.pool
        if (not pool.target.numbers) if numbers else (pool.target is not CLASSES):
            wanted = "regression" if numbers else "classification"
            raise ValueError(f"{call}: the run is a {pool.kind}, not a {wanted}.")
        return run, theta, tuple(pool.shape)

    def _adapt(self, examples: Tensor, y: Tensor, ways: int, numbers: bool = False) -> None:
        """predictor_ = F_theta(S), of examples with classes 0 .. ways-1, or numbers [n, out]."""
        source, theta, shape = self._source(numbers)
        call = f"{type(self).__name__}.fit"
        learner = source.plan.at_test(ways=ways) if isinstance(source, Run) else source
        may_be_tokens = shape is None and examples.dtype in WHOLE
        for whole in (False, True) if may_be_tokens else (False,):  # a network that looks them up takes no floats
            x = self._tensor("fit", examples, shape, whole)
            try:
                f = predictor.adapt(learner, theta, x, y, ways=ways, call=call)
                self.predictor_, self.shape_, self.whole_ = f, tuple(x.shape[1:]), whole
                self.n_features_in_ = examples[0].numel()
                return
            except (RuntimeError, IndexError) as error:
                reason = str(error).partition("\n")[0]
            except ValueError as error:
                if whole == may_be_tokens or not isinstance(error.__cause__, RuntimeError | IndexError):
                    raise  # the last try, or not torch's refusal, told in one line
        raise ValueError(f"{call}: the network cannot take such X ({reason}).")

    def _width(self, examples: Tensor) -> str:
        """What scikit-learn says of X of another width than before."""
        name = type(self).__name__
        return f"X has {examples.shape[1]} features, but {name} is expecting {self.n_features_in_} features as input."

    def _asked(self, call: str, X) -> Tensor:
        """X to ask the fitted predictor about."""
        check_is_fitted(self)
        examples = _numbers(f"{type(self).__name__}.{call}", X)
        if examples.dim() == 2 and len(self.shape_) == 1 and examples.shape[1] != self.n_features_in_:
            raise ValueError(self._width(examples))
        x = self._tensor(call, examples, self.shape_, self.whole_)
        if len(x) == 1 and self.predictor_ and "transductive" in predictor.policies(self.predictor_):
            warnings.warn(
                f"{type(self).__name__}.{call}: this predictor normalises the examples of a call by each other, and "
                "has one alone. Give it many at once.",
                stacklevel=3,
            )
        return x

    def _answer(self, call: str, answer: Callable[[], Tensor]) -> np.ndarray:
        """What the predictor answers, in numpy; what torch refuses is one line."""
        try:
            return answer().numpy()
        except (RuntimeError, IndexError) as error:
            reason = str(error).partition("\n")[0]
        raise ValueError(f"{type(self).__name__}.{call}: the network cannot take such X ({reason}).")

    def _tensor(self, call: str, x: Tensor, shape: tuple[int, ...] | None, whole: bool) -> Tensor:
        """Examples as the network takes them, of the shape that it was trained on, where that is known."""
        call = f"{type(self).__name__}.{call}"
        x = x.long() if whole else x.float() / 255 if x.dtype == torch.uint8 else x.float()
        shape = tuple(x.shape[1:]) if shape is None else shape
        if tuple(x.shape[1:]) not in (shape, shape[1:] if shape[:1] == (1,) else shape, (int(np.prod(shape)),)):
            wanted, given = ("x".join(map(str, s)) for s in (shape, x.shape[1:]))
            raise ValueError(f"{call}: examples of {given}, the net was trained on {wanted}.")
        _finite(call, x)
        return x.reshape(-1, *shape)


class FewShotClassifier(ClassifierMixin, _Adapted):
    """f = F_theta(S), with S = (X, y): `fit` adapts a meta-trained learner to a few labelled examples.

    run_or_learner: a Run, the folder of a recipe's run, or a Learner with its theta. None: no run; the best features at
        hand with a head and a temperature that are chosen by held-out examples (metaloop.own). X may then also be a
        list of PIL images or of texts (or an array or a column of them), and predictor_ is a metaloop.own.Own.

    X: numpy array, torch tensor or what numpy makes an array of, [n, C, H, W], [n, H, W] where C = 1, or flat
    [n, C * H * W]; bytes are divided by 255, other numbers are taken as they are (images: ink 1 on paper 0, or colour,
    in [0, 1]). A bare Learner takes X of any one shape, and whole numbers as they are where its network wants those
    (tokens). y: one label per example, [n] or [n, 1], numbers or strings or both. After `fit`: classes_,
    n_features_in_, and predictor_, which is f.

    It can be pickled, with a run in memory or a bare learner too: functions travel as cloudpickle has them. As with any
    pickle, open none from strangers. Of a run's data only the outline travels.

    Raises ValueError on examples of another shape or not finite, sparse or none; without y, on a y of measurements
    instead of classes, on a single class, and on more classes than the learner can tell apart. TypeError on X of things
    that are no numbers at all. Warns where a single
    example is asked about of a predictor that normalises the examples of a call by each other.

    >>> import metaloop as ml
    >>> learner = ml.protonet(*ml.functional(ml.nn.mlp((2, 8, 4))), ways=2)
    >>> few = FewShotClassifier(learner, learner.init(0)).fit([[0.0, 0.0], [1.0, 1.0]], ["low", "high"])
    >>> few.predict([[0.9, 1.0]]).item()
    'high'
    """

    def fit(self, X, y=None) -> "FewShotClassifier":
        """Adapt to the examples X with labels y."""
        examples, (classes, labels) = _labelled("FewShotClassifier.fit", X, y, self._read)
        if len(classes) < 2:
            raise ValueError("FewShotClassifier.fit: y names one class. Give examples of two or more.")
        self._learn("fit", examples, labels, classes)
        self.classes_, self.support_ = classes, (examples, classes[labels.numpy()])
        return self

    @property
    def _read(self) -> Callable:
        return _examples if self.run_or_learner is None else _numbers

    def _learn(self, call: str, examples, labels: Tensor, classes: np.ndarray) -> None:
        """predictor_ of examples with labels 0 .. ways-1: of the run or learner, or of what is at hand."""
        if self.run_or_learner is not None:
            return self._adapt(examples, labels, len(classes))
        from .own import given

        if lacking := sorted({*range(len(classes))} - {*labels.tolist()}):
            raise ValueError(f"FewShotClassifier.{call}: without a run every class needs an example; "
                             f"{classes[lacking[0]]!r} has none.")  # fmt: skip
        if isinstance(examples, Tensor):
            _finite(f"FewShotClassifier.{call}", examples)
            self.n_features_in_ = examples[0].numel()
        self.predictor_: Any = given.fit(examples, labels, len(classes))

    def _given(self, call: str, X) -> np.ndarray:
        """What is made of what is at hand answers."""
        from .own import given

        examples = _examples(f"FewShotClassifier.{call}", X)
        if isinstance(examples, Tensor):
            _finite(f"FewShotClassifier.{call}", examples)
            if examples.dim() == 2 and getattr(self, "n_features_in_", None) not in (None, examples.shape[1]):
                raise ValueError(self._width(examples))
        return given.probabilities(self.predictor_, examples).numpy()

    def partial_fit(self, X, y=None, classes=None) -> "FewShotClassifier":
        """Adapt to X, y and all examples given before, which are kept: the same as `fit` on all of them together.

        classes: all that there will be, at the first call, as scikit-learn has it; those that y shows unless given. A
        class without an example is never answered.
        """
        call = "FewShotClassifier.partial_fit"
        examples, (shown, labels) = _labelled(call, X, y, self._read)
        told = shown[labels.numpy()]
        if hasattr(self, "support_"):
            before, known = self.support_
            if isinstance(before, Tensor) != isinstance(examples, Tensor):
                raise ValueError(f"{call}: X is of another kind than the examples before.")
            if isinstance(before, Tensor) and before.shape[1:] != examples.shape[1:]:
                raise ValueError(
                    f"{call}: X has {examples[0].numel()} features, but FewShotClassifier is expecting "
                    f"{before[0].numel()} features as input."
                )
            alike = isinstance(before, Tensor)
            examples = torch.cat([before, examples.to(before.dtype)]) if alike else [*before, *examples]
            told = np.concatenate([known, told])
        expected = getattr(self, "expected_", None) if classes is None else _classes(call, classes)[0]
        known, labels = _classes(call, told if expected is None else np.concatenate([told, expected]))
        if expected is not None and len(known) > len(expected):
            raise ValueError(f"{call}: y names a class that `classes` did not name.")
        if len(known) < 2:
            raise ValueError(f"{call}: y names one class. Give examples of two or more, or `classes`.")
        self._learn("partial_fit", examples, labels[: len(told)], known)
        self.classes_, self.support_, self.expected_ = known, (examples, told), expected
        return self

    def predict_proba(self, X) -> np.ndarray:
        """The probability of each of classes_: [n, classes]."""
        if self.run_or_learner is None:
            check_is_fitted(self)
            return self._given("predict", X)
        x = self._asked("predict", X)
        return self._answer("predict", lambda: predictor.probabilities(self.predictor_, x, ways=len(self.classes_)))

    def decision_function(self, X) -> np.ndarray:
        """log p(y | x) of each of classes_, [n, classes]; of two, log p_1 - log p_0, [n]. At least log 1e-38."""
        log_p = np.log(np.maximum(self.predict_proba(X), np.finfo(np.float32).tiny))
        return log_p[:, 1] - log_p[:, 0] if len(self.classes_) == 2 else log_p

    def predict(self, X) -> np.ndarray:
        """The most probable label of each example: [n]."""
        p = self.predict_proba(X)
        return self.classes_[p.argmax(1)]


class FewShotRegressor(RegressorMixin, _Adapted):
    """Numbers from a few examples: f = F_theta(S) of a run or learner that was meta-trained on regressions, such as
    MAML's; or, with none, a Gaussian process.

    run_or_learner, theta, X: as `FewShotClassifier` has them. y: numbers, [n] or [n, out].

    Without a run: X standardised, y normalised, covariance s^2 exp(-|x - x'|^2 / 2 l^2) + n^2 [x = x'], whose s, l and
    n maximise the marginal likelihood of S (scikit-learn's `GaussianProcessRegressor`). `predict` tells standard
    deviations too, [n]; and with a learner whose predictors have `deviation(x)`, as `gaussian_process`'s.

    Raises ValueError as `FewShotClassifier` does.

    >>> few = FewShotRegressor().fit([[0.0], [1.0], [2.0], [3.0]], [1.0, 3.0, 5.0, 7.0])
    >>> round(few.predict([[1.5]]).item(), 1)
    4.0
    """

    def fit(self, X, y=None) -> "FewShotRegressor":
        """Adapt to the examples X with numbers y."""
        call = "FewShotRegressor.fit"
        if y is None:
            raise ValueError(f"{call}: requires y to be passed, but the target y is None.")
        examples, told = _numbers(call, X), np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
        with suppress(TypeError, ValueError):
            told = told.astype(np.float64)
        if told.dtype.kind != "f" or told.ndim not in (1, 2) or not np.isfinite(told).all():
            raise ValueError(f"{call}: y holds something else than finite numbers [n] or [n, out]: inf, NaN or text.")
        if len(told) != len(examples):
            raise ValueError(f"{call}: {len(examples)} examples in X, y of shape {told.shape}; one row each.")
        if told.ndim == 2 and told.shape[1] == 1:
            warnings.warn(f"{COLUMN} ({call})", DataConversionWarning, stacklevel=2)
        self.single_ = told.ndim == 1
        if self.run_or_learner is not None:
            self._adapt(examples, torch.from_numpy(told).float().reshape(len(told), -1), 1, numbers=True)
            return self
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x = self._tensor("fit", examples, None, False).flatten(1).double().numpy()
        kernel = ConstantKernel() * RBF() + WhiteKernel(1e-2)
        process = make_pipeline(StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a scale at its bound, as for a constant y, is no news here
            self.process_ = process.fit(x, told)
        self.predictor_, self.shape_, self.whole_ = None, tuple(examples.shape[1:]), False
        self.n_features_in_ = x.shape[1]
        return self

    def predict(self, X, return_std: bool = False):
        """The number of each example, [n] or [n, out], as y was. return_std: beside it the standard deviations of y."""
        check_is_fitted(self)
        if hasattr(self, "process_"):
            x = self._asked("predict", X).flatten(1).double().numpy()
            return self.process_.predict(x, return_std=return_std)
        if return_std and not hasattr(self.predictor_, "deviation"):
            raise ValueError("FewShotRegressor.predict: this predictor tells no spread. Without a run there is one.")
        x, f = self._asked("predict", X), self.predictor_
        assert f is not None  # there is no process

        def answered(of: Callable[[Tensor], Tensor]) -> np.ndarray:
            with torch.no_grad(), at_meta_test():
                return self._answer("predict", lambda: of(x))

        y = answered(f)
        if not np.isfinite(y).all():
            raise ValueError("FewShotRegressor.predict: the predictor answers NaN or infinite numbers.")
        y = y[:, 0] if self.single_ else y
        return (y, answered(f.deviation)) if return_std else y

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class Embedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Adapted):
    """The features of a metric learner's run, for any method of scikit-learn: `transform` embeds.

    run_or_learner, theta, X: as `FewShotClassifier` has them; the learner is one whose predictors embed (`protonet`,
    `margin`, `matching`, `siamese`, `relation`, `pretrain`). `fit` learns nothing: it looks at the shape of X, and
    gives `support` norms the statistics of X.

    Raises ValueError as `FewShotClassifier` does, and where the learner has no embedding.
    """

    def fit(self, X, y=None) -> "Embedding":
        """Look at X."""
        examples = _numbers("Embedding.fit", X)
        self._adapt(examples, torch.arange(len(examples)) % 2, 2)
        if not hasattr(self.predictor_, "embed"):
            name = type(self.predictor_).__name__
            del self.predictor_
            raise ValueError(f"Embedding: {name} has no embedding. Give the run of a metric, such as protonet's.")
        self._n_features_out = self.transform(examples[:2]).shape[1]
        return self

    def transform(self, X) -> np.ndarray:
        """Features [n, d]."""
        x = self._asked("transform", X)

        def answer() -> Tensor:
            f = self.predictor_
            theta = getattr(f, "net", None) or f.theta
            with torch.no_grad(), at_meta_test():
                return f.embed(theta.get("embed", theta), x).flatten(1)

        return self._answer("transform", answer)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _brief(value: Any) -> str:
    """What a parameter is, in a few words."""
    if isinstance(value, Run):
        return f"<run {value.folder or 'in memory'} at step {value.step}>"
    if isinstance(value, Learner):
        return "<learner>"
    if isinstance(value, str | Path):
        return repr(str(value))
    leaves = [t for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]
    if not leaves:
        return repr(value)
    return f"<{len(leaves)} tensor{'s' * (len(leaves) > 1)}, {sum(t.numel() for t in leaves)} numbers>"


def _pack(made: Learner | Run) -> tuple[Callable, tuple]:
    """How a learner or a run is pickled: its functions as cloudpickle has them, of its pool the outline."""
    given = dict(vars(made))
    if isinstance(made, Run) and made.plan is not None:
        from .tasks.pool import Outline

        given["plan"] = replace(made.plan, pool=Outline(**made.plan.pool.outline()))
    return _unpack, (type(made), cloudpickle.dumps(given))


def _unpack(kind: type, given: bytes) -> Learner | Run:
    return kind(**cloudpickle.loads(given))


copyreg.pickle(Learner, _pack)  # type: ignore[arg-type]
copyreg.pickle(Run, _pack)  # type: ignore[arg-type]


def _labelled(call: str, X, y, read: Callable | None = None) -> tuple[Any, tuple[np.ndarray, Tensor]]:
    """Examples, their classes in order, and which of them each label is."""
    if y is None:
        raise ValueError(f"{call}: requires y to be passed, but the target y is None. Give a label for each example.")
    examples, (classes, labels) = (read or _numbers)(call, X), _classes(call, y)
    if len(labels) != len(examples):
        raise ValueError(f"{call}: {len(examples)} examples in X, y of shape ({len(labels)},); one label each.")
    return examples, (classes, labels)


COLUMN = "A column-vector y was passed when a 1d array was expected."
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _numbers(call: str, X) -> Tensor:
    """X as a tensor on the CPU, [n, ...]. Raises ValueError if it is no array of numbers with n >= 1; TypeError, as
    scikit-learn has it, if it holds other objects than numbers and words."""
    if hasattr(X, "toarray"):
        raise ValueError(f"{call}: X is sparse ({type(X).__name__}). Give a dense array: X.toarray().")
    if np.ma.is_masked(X):
        raise ValueError(f"{call}: X is masked in places. Fill them: X.filled(0), say.")
    if not isinstance(X, Tensor):
        try:
            array = np.asarray(X)
        except (ValueError, TypeError):  # rows of several lengths
            raise ValueError(f"{call}: X is no array: its rows differ in length, or are none.") from None
        if array.dtype.kind == "O":
            try:
                array = array.astype(np.float64)
            except TypeError as error:
                raise TypeError(f"{call}: X holds something else than numbers: {error}.") from None
            except ValueError:
                pass
        if array.dtype.kind == "c":
            raise ValueError(f"{call}: X holds complex numbers. Complex data not supported.")
        if array.dtype.kind not in "buif":
            raise ValueError(f"{call}: X holds something else than numbers.")
        kind, size = array.dtype.kind, array.dtype.itemsize  # torch has no long doubles, and few unsigned numbers
        known = np.float64 if kind == "f" and size > 8 else np.int64 if kind == "u" and size > 1 else array.dtype
        X = torch.from_numpy(np.array(array, dtype=np.dtype(known).newbyteorder("="), order="C"))
    x = X.detach().cpu()
    if x.dim() == 2 and len(x) and not x.shape[1]:
        raise ValueError(f"{call}: X has 0 feature(s) (shape={tuple(x.shape)}) while a minimum of 1 is required.")
    if x.dim() == 0 or x.numel() == 0:
        raise ValueError(f"{call}: there is no example in X, of shape {tuple(x.shape)}.")
    if x.dim() == 1:
        raise ValueError(
            f"{call}: X has one axis, of length {len(x)}. Reshape your data: X.reshape(1, -1) if it is one example, "
            "X.reshape(-1, 1) if each number is one."
        )
    if x.is_complex():
        raise ValueError(f"{call}: X holds complex numbers. Complex data not supported.")
    return x


def _examples(call: str, X: Any):
    """X as a list where it is one of PIL images or texts, or an array or a column of them, else as `_numbers`."""
    from PIL import Image

    from .own.given import is_list_of

    if hasattr(X, "__array__") and not isinstance(X, Tensor):
        array = np.asarray(X)
        X = array.tolist() if array.ndim == 1 and array.dtype.kind in "OU" else X
    if is_list_of(X, os.PathLike):
        raise TypeError(f"{call}: X holds paths. Give what is in the files: PIL.Image.open(path), path.read_text().")
    pictures: Any = X
    if is_list_of(X, Image.Image):
        for i, image in enumerate(pictures):
            try:
                image.load()
            except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for damaged files
                raise ValueError(f"{call}: picture {i} of X cannot be read ({error}).") from None
        return X
    return X if is_list_of(X, str) else _numbers(call, X)


def _classes(call: str, y) -> tuple[np.ndarray, Tensor]:
    """The classes, in their order, and which of them each label is: of labels of several kinds, kind by kind."""
    if isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    try:
        labels = np.asarray(y)
    except (ValueError, TypeError):
        raise ValueError(f"{call}: y is no array, expected one label for each example.") from None
    if labels.dtype.kind in "SU" and isinstance(y, list | tuple) and len({type(k) for k in y}) > 1:
        labels = np.array(y, dtype=object)  # numpy would make them all strings
    if labels.ndim == 2 and labels.shape[1] == 1:
        warnings.warn(f"{COLUMN} ({call})", DataConversionWarning, stacklevel=4)
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"{call}: y has shape {labels.shape}, expected one label for each example.")
    told = labels.tolist()
    if any(isinstance(k, list | dict | set) for k in told):
        raise ValueError(f"{call}: a label in y is a list, dict or set, expected one word or number for each example.")
    if any(k is None or k != k for k in told):
        raise ValueError(f"{call}: a label is missing (None or NaN).")
    if broken := [k for k in told if isinstance(k, float) and not k.is_integer()]:
        raise ValueError(f"{call}: y holds {broken[0]!r}, continuous targets, expected a class for each example.")
    if labels.dtype.kind != "O":
        classes, index = np.unique(labels, return_inverse=True)
        return classes, torch.from_numpy(index)
    kinds = {k: (isinstance(k, str), type(k).__name__ if not isinstance(k, int | float) else "", k) for k in told}
    order = in_order(kinds)
    classes = np.empty(len(order), dtype=object)
    classes[:] = order
    place = {k: i for i, k in enumerate(order)}
    return classes, torch.tensor([place[k] for k in told])


def _finite(call: str, x: Tensor) -> None:
    if not x.float().isfinite().all():
        raise ValueError(f"{call}: X holds values that are not finite (NaN or infinite), or too large for float32.")


def _held(t):
    return t.detach() if isinstance(t, Tensor) else t


def _on_cpu(theta: Theta) -> Theta:
    return pytree.tree_map(lambda t: t.detach().cpu(), theta)
