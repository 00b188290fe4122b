#!/bin/sh
# scikit-learn 1.9.1: CalibratedClassifierCV(method="temperature") on a classifier that has predict_proba alone takes
# log(p + 1e-12) for its logits. An overconfident network, which is what one calibrates, has many p below that, so all
# its far classes look equally far, and the temperature is another one: here 11.5 where 20 is true. With the same
# classifier's logits as decision_function it is right.
# guess (missed): log p is the logits up to a constant, so either gives the same temperature.
# seen: by predict_proba T = 11.5, log loss .653; by decision_function T = 20.2, log loss .607 (that of the truth: .607)
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
cd "$there"
env/bin/python - <<'END'
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss

TRUE = 20.0
softmax = lambda z: np.exp(z - z.max(1, keepdims=True)) / np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)


class Probabilities(ClassifierMixin, BaseEstimator):
    """Logits 20 times too large."""

    classes_ = np.arange(3)

    def fit(self, X, y):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict_proba(self, X):
        return softmax(TRUE * X)

    def predict(self, X):
        return X.argmax(1)


class Logits(Probabilities):
    def decision_function(self, X):
        return TRUE * X


random = np.random.RandomState(0)
z = 2 * random.randn(2000, 3)
y = np.array([random.choice(3, p=p) for p in softmax(z)])
found = {}
for model in (Probabilities, Logits):
    calibrated = CalibratedClassifierCV(FrozenEstimator(model()), method="temperature").fit(z, y)
    found[model.__name__] = 1 / calibrated.calibrated_classifiers_[0].calibrators[0].beta_
    print(f"{model.__name__}: T = {found[model.__name__]:.1f}, log loss {log_loss(y, calibrated.predict_proba(z)):.3f}")
print(f"the truth: T = {TRUE}, log loss {log_loss(y, softmax(z)):.3f}")
assert abs(found["Logits"] - TRUE) < 1.5
assert found["Probabilities"] < 15
END
