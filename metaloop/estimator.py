"""Few-shot classification as a scikit-learn estimator."""

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from .core import Learner, Theta
from .engine import Run, predictor
from .recipes.stored import open_run
from .targets import CLASSES
from .torch_private import pytree


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """f = F_theta(S), with S = (X, y): `fit` adapts a meta-trained learner to a few labelled examples.

    run_or_learner: a Run, the folder of a recipe's run, or a Learner with its theta. None: no run; the best features at
        hand with a head and a temperature that are chosen by held-out examples (metaloop.own). X may then also be a
        list of PIL images or of texts, and predictor_ is a metaloop.own.Own.

    X: numpy array, torch tensor or what numpy makes an array of, [n, C, H, W], [n, H, W] where C = 1, or flat
    [n, C * H * W]; bytes are divided by 255, other numbers are taken as they are (images: ink 1 on paper 0, or colour,
    in [0, 1]). A bare Learner takes X of any one shape, and whole numbers as they are where its network wants those
    (tokens). y: one label per example, [n] or [n, 1], numbers or strings or both. After `fit`: classes_, and
    predictor_, which is f.

    One made from the folder of a run can be pickled.

    Raises ValueError on examples of another shape or not finite, sparse or none; without y, on a y of measurements
    instead of classes, on a single class, and on more classes than the learner can tell apart. Warns where a single
    example is asked about of a predictor that normalises the examples of a call by each other.

    >>> import metaloop as ml
    >>> learner = ml.protonet(*ml.functional(ml.nn.mlp((2, 8, 4))), ways=2)
    >>> few = FewShotClassifier(learner, learner.init(0)).fit([[0.0, 0.0], [1.0, 1.0]], ["low", "high"])
    >>> few.predict([[0.9, 1.0]]).item()
    'high'
    """

    def __init__(self, run_or_learner: Run | Learner | str | Path | None = None, theta: Theta = None):
        self.run_or_learner = run_or_learner
        leaves = pytree.tree_leaves(theta)
        held = all(not isinstance(t, Tensor) or t.is_leaf for t in leaves)  # what has a history cannot be copied
        self.theta = theta if held else pytree.tree_map(_held, theta)

    def fit(self, X, y=None) -> "FewShotClassifier":
        """Adapt to the examples X with labels y."""
        if y is None:
            raise ValueError("FewShotClassifier.fit: requires y to be passed, a label for each example; it is None.")
        alone = self.run_or_learner is None
        examples, (classes, labels) = _examples("fit", X) if alone else _numbers("fit", X), _classes(y)
        if len(labels) != len(examples):
            raise ValueError(
                f"FewShotClassifier.fit: {len(examples)} examples in X, y of shape ({len(labels)},); one label each."
            )
        ways = len(classes)
        if ways < 2:
            raise ValueError("FewShotClassifier.fit: y names one class. Give examples of two or more.")
        if alone:
            from .own import given

            self.predictor_: Any = given.fit(_finite("fit", examples), labels, ways)
            self.classes_ = classes
            return self
        learner, theta, shape = self._resolve(ways)
        may_be_tokens = shape is None and examples.dtype in WHOLE
        for whole in (False, True) if may_be_tokens else (False,):  # a network that looks them up takes no floats
            x = self._tensor("fit", examples, shape, whole)
            try:
                f = predictor.adapt(learner, theta, x, labels, ways=ways, call="FewShotClassifier.fit")
                self.predictor_, self.classes_, self.shape_, self.whole_ = f, classes, tuple(x.shape[1:]), whole
                return self
            except (RuntimeError, IndexError) as error:
                reason = str(error).partition("\n")[0]
            except ValueError as error:
                if whole == may_be_tokens or not isinstance(error.__cause__, RuntimeError | IndexError):
                    raise  # the last try, or not torch's refusal, told in one line
        raise ValueError(f"FewShotClassifier.fit: the network cannot take such X ({reason}).")

    def predict_proba(self, X) -> np.ndarray:
        """The probability of each of classes_: [n, classes]."""
        check_is_fitted(self)
        if self.run_or_learner is None:
            from .own import given

            return given.probabilities(self.predictor_, _finite("predict", _examples("predict", X))).numpy()
        x = self._tensor("predict", _numbers("predict", X), self.shape_, self.whole_)
        if len(x) == 1 and "transductive" in predictor.policies(self.predictor_):
            warnings.warn(
                "FewShotClassifier.predict: this predictor normalises the examples of a call by each other, and has "
                "one alone. Give it many at once.",
                stacklevel=2,
            )
        try:
            return predictor.probabilities(self.predictor_, x, ways=len(self.classes_)).numpy()
        except (RuntimeError, IndexError) as error:
            reason = str(error).partition("\n")[0]
        raise ValueError(f"FewShotClassifier.predict: the network cannot take such X ({reason}).")

    def predict(self, X) -> np.ndarray:
        """The most probable label of each example: [n]."""
        p = self.predict_proba(X)
        return self.classes_[p.argmax(1)]

    def _resolve(self, ways: int) -> tuple[Learner, Theta, tuple[int, ...] | None]:
        """The learner for that many classes, its theta on the CPU, and the shape of its examples where known."""
        source = self.run_or_learner
        if not isinstance(source, Run | Learner | str | Path):
            raise ValueError(f"FewShotClassifier: {type(source).__name__} is no run, folder of a run or learner.")
        if isinstance(source, Learner):
            if self.theta is None:
                raise ValueError("FewShotClassifier: a learner alone knows nothing. Pass theta=run.theta.")
            return source, _on_cpu(self.theta), None
        run = source if isinstance(source, Run) else open_run(source)
        theta = _on_cpu(run.theta if self.theta is None else self.theta)
        if run.plan is None:
            return run.learner, theta, None
        pool = run.plan.pool
        if pool.target is not CLASSES:
            raise ValueError(f"FewShotClassifier: the run is a {pool.kind}, not a classification.")
        return run.plan.at_test(ways=ways), theta, tuple(pool.shape)

    def _tensor(self, call: str, x: Tensor, shape: tuple[int, ...] | None, whole: bool) -> Tensor:
        """Examples as the network takes them, of the shape that it was trained on, where that is known."""
        x = x.long() if whole else x.float() / 255 if x.dtype == torch.uint8 else x.float()
        shape = tuple(x.shape[1:]) if shape is None else shape
        if tuple(x.shape[1:]) not in (shape, shape[1:] if shape[:1] == (1,) else shape, (int(np.prod(shape)),)):
            wanted, given = ("x".join(map(str, s)) for s in (shape, x.shape[1:]))
            raise ValueError(f"FewShotClassifier.{call}: examples of {given}, the net was trained on {wanted}.")
        if not x.isfinite().all():
            raise ValueError(f"FewShotClassifier.{call}: X holds values that are not finite (NaN or infinite).")
        return x.reshape(-1, *shape)


WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _numbers(call: str, X) -> Tensor:
    """X as a tensor on the CPU, [n, ...]. Raises ValueError if it is no array of numbers with n >= 1."""
    call = f"FewShotClassifier.{call}"
    if hasattr(X, "toarray"):
        raise ValueError(f"{call}: X is sparse ({type(X).__name__}). Give a dense array: X.toarray().")
    if not isinstance(X, Tensor):
        try:
            array = np.asarray(X)
        except (ValueError, TypeError):  # rows of several lengths
            raise ValueError(f"{call}: X is no array: its rows differ in length, or are none.") from None
        if array.dtype.kind == "O":
            with suppress(TypeError, ValueError):
                array = array.astype(np.float64)
        if array.dtype.kind not in "buif":
            raise ValueError(f"{call}: X holds something else than numbers.")
        kind, size = array.dtype.kind, array.dtype.itemsize  # torch has no long doubles, and few unsigned numbers
        known = np.float64 if kind == "f" and size > 8 else np.int64 if kind == "u" and size > 1 else array.dtype
        X = torch.from_numpy(np.array(array, dtype=np.dtype(known).newbyteorder("="), order="C"))
    x = X.detach().cpu()
    if x.dim() == 0 or x.numel() == 0:
        raise ValueError(f"{call}: there is no example in X, of shape {tuple(x.shape)}.")
    if x.dim() == 1:
        raise ValueError(
            f"{call}: X has one axis, of length {len(x)}. Reshape your data: X.reshape(1, -1) if it is one example, "
            "X.reshape(-1, 1) if each number is one."
        )
    if x.is_complex():
        raise ValueError(f"{call}: X holds complex numbers, which are none of a network's.")
    return x


def _examples(call: str, X):
    """X as it is where it is a list of PIL images or texts, else as `_numbers`."""
    from PIL import Image

    from .own.given import is_list_of

    return X if is_list_of(X, Image.Image) or is_list_of(X, str) else _numbers(call, X)


def _finite(call: str, examples):
    if isinstance(examples, Tensor) and not examples.isfinite().all():
        raise ValueError(f"FewShotClassifier.{call}: X holds values that are not finite (NaN or infinite).")
    return examples


def _classes(y) -> tuple[np.ndarray, Tensor]:
    """The classes, in their order, and which of them each label is: of labels of several kinds, kind by kind."""
    call = "FewShotClassifier.fit"
    if isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    try:
        labels = np.asarray(y)
    except (ValueError, TypeError):
        raise ValueError(f"{call}: y is no array, expected one label for each example.") from None
    if labels.dtype.kind in "SU" and isinstance(y, list | tuple) and len({type(k) for k in y}) > 1:
        labels = np.array(y, dtype=object)  # numpy would make them all strings
    if labels.ndim == 2 and labels.shape[1] == 1:
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
    order = sorted(kinds, key=lambda k: kinds[k])
    classes = np.empty(len(order), dtype=object)
    classes[:] = order
    place = {k: i for i, k in enumerate(order)}
    return classes, torch.tensor([place[k] for k in told])


def _held(t):
    return t.detach() if isinstance(t, Tensor) else t


def _on_cpu(theta: Theta) -> Theta:
    return pytree.tree_map(lambda t: t.detach().cpu(), theta)
