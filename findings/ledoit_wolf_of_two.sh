#!/bin/sh
# scikit-learn 1.9.1: LedoitWolf shrinks the covariance of two examples by exactly 0, of three by about .3, of ten of
# white noise by .8: after centring both have the same outer product, so the covariance looks known without error. It
# is what LinearDiscriminantAnalysis(shrinkage="auto") takes for each class. OAS shrinks most where there are fewest.
# guess (missed): the fewer examples, the more it shrinks.
# seen: digits, 5-way 2-shot: shrinkage="auto" .53, .5 or OAS .85, as the nearest centroid; at 5 shots .90, .91, .92
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
cd "$there"
env/bin/python - <<'END'
import warnings

import numpy as np
from sklearn.covariance import OAS, LedoitWolf
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis as LDA
from sklearn.neighbors import NearestCentroid

warnings.simplefilter("ignore")
r = np.random.RandomState(0)
shrinkage = {n: LedoitWolf().fit(r.randn(n, 64)).shrinkage_ for n in (2, 3, 5, 10)}
print("shrinkage of white noise:", {n: round(float(s), 2) for n, s in shrinkage.items()})

x, y = load_digits(return_X_y=True)
learners = {
    "shrinkage='auto'": lambda: LDA(solver="lsqr", shrinkage="auto"),
    "shrinkage=.5": lambda: LDA(solver="lsqr", shrinkage=0.5),
    "OAS": lambda: LDA(solver="lsqr", covariance_estimator=OAS()),
    "nearest centroid": NearestCentroid,
}
told = {}
for shots in (2, 5):
    right, r = {name: [] for name in learners}, np.random.RandomState(0)
    for _ in range(50):
        rows = [r.permutation(np.flatnonzero(y == k))[: shots + 10] for k in r.choice(10, 5, replace=False)]
        shown, asked = np.concatenate([i[:shots] for i in rows]), np.concatenate([i[shots:] for i in rows])
        for name, make in learners.items():
            right[name].append(make().fit(x[shown], y[shown]).score(x[asked], y[asked]))
    told[shots] = {name: round(float(np.mean(values)), 3) for name, values in right.items()}
    print(shots, "shots:", told[shots])
assert shrinkage[2] == 0 and shrinkage[3] > 0.2 and shrinkage[10] > 0.7
assert told[2]["shrinkage='auto'"] < min(told[2]["shrinkage=.5"], told[2]["OAS"], told[2]["nearest centroid"]) - 0.2
assert told[5]["shrinkage='auto'"] > told[5]["shrinkage=.5"] - 0.05
END
