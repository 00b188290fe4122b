"""Few-shot classification as a scikit-learn estimator."""

from pathlib import Path

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

    run_or_learner: a Run, the folder of a recipe's run, or a Learner with its theta.

    X: numpy array or torch tensor, [n, C, H, W], [n, H, W] where C = 1, or flat [n, C * H * W]; bytes are divided by
    255, other numbers are taken as they are (images: ink 1 on paper 0, or colour, in [0, 1]). A bare Learner takes X
    of any one shape. y: one label per example, of any kind. After `fit`: classes_, and predictor_, which is f.

    One made from the folder of a run can be pickled.

    Raises ValueError on examples of another shape or not finite, on a single class, and on more classes than the
    learner can tell apart.

    >>> import metaloop as ml
    >>> learner = ml.protonet(*ml.functional(ml.nn.mlp((2, 8, 4))), ways=2)
    >>> few = FewShotClassifier(learner, learner.init(0)).fit([[0.0, 0.0], [1.0, 1.0]], ["low", "high"])
    >>> few.predict([[0.9, 1.0]]).item()
    'high'
    """

    def __init__(self, run_or_learner: Run | Learner | str | Path, theta: Theta = None):
        self.run_or_learner = run_or_learner
        self.theta = theta

    def fit(self, X, y) -> "FewShotClassifier":
        """Adapt to the examples X with labels y."""
        y = np.asarray(y)
        if len(y) == 0:
            raise ValueError("FewShotClassifier.fit: there is no example.")
        if any(label is None or label != label for label in y.ravel().tolist()):
            raise ValueError("FewShotClassifier.fit: a label is missing (None or NaN).")
        if y.shape != (len(X),):
            raise ValueError(f"FewShotClassifier.fit: {len(X)} examples in X, y of shape {y.shape}; one label each.")
        self.classes_, labels = np.unique(y, return_inverse=True)
        ways = len(self.classes_)
        if ways < 2:
            raise ValueError("FewShotClassifier.fit: y names one class. Give examples of two or more.")
        learner, theta, self.shape_ = self._resolve(ways)
        x = self._tensor("fit", X)
        self.shape_ = tuple(x.shape[1:])
        self.predictor_ = predictor.adapt(
            learner, theta, x, torch.from_numpy(labels), ways=ways, call="FewShotClassifier.fit"
        )
        return self

    def predict_proba(self, X) -> np.ndarray:
        """The probability of each of classes_: [n, classes]."""
        check_is_fitted(self)
        x = self._tensor("predict", X)
        return predictor.probabilities(self.predictor_, x, ways=len(self.classes_)).numpy()

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

    def _tensor(self, call: str, X) -> Tensor:
        if not isinstance(X, Tensor) and np.asarray(X).dtype.kind not in "buif":
            raise ValueError(f"FewShotClassifier.{call}: X holds something else than numbers.")
        x = X.detach().cpu() if isinstance(X, Tensor) else torch.from_numpy(np.asarray(X))
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        shape = self.shape_ or tuple(x.shape[1:])
        if tuple(x.shape[1:]) not in (shape, shape[1:] if shape[:1] == (1,) else shape, (int(np.prod(shape)),)):
            wanted, given = ("x".join(map(str, s)) for s in (shape, x.shape[1:]))
            raise ValueError(f"FewShotClassifier.{call}: examples of {given}, the net was trained on {wanted}.")
        if not x.isfinite().all():
            raise ValueError(f"FewShotClassifier.{call}: X holds values that are not finite (NaN or infinite).")
        return x.reshape(-1, *shape)


def _on_cpu(theta: Theta) -> Theta:
    return pytree.tree_map(lambda t: t.cpu(), theta)
