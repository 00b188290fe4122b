#!/bin/sh
# scikit-learn 1.9.1: predict of NearestCentroid takes the nearest centroid; predict_proba and decision_function first
# divide each feature by its deviation within classes. They name different classes, and of one example a class, where
# predict works, predict_proba raises.
# guess (missed): the class predicted is the most probable one.
# seen: digits, 5-way: different for 19 % of the queries at 2 shots, 7 % at 5; right at 2 shots: .83 and .74
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1
cd "$there"
env/bin/python - <<'END'
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid

warnings.simplefilter("ignore")
x, y = load_digits(return_X_y=True)
told = {}
for shots in (2, 5, 20):
    differ, by_class, by_probability, r = [], [], [], np.random.RandomState(0)
    for _ in range(100):
        rows = [r.permutation(np.flatnonzero(y == k))[: shots + 10] for k in r.choice(10, 5, replace=False)]
        shown, asked = np.concatenate([i[:shots] for i in rows]), np.concatenate([i[shots:] for i in rows])
        model = NearestCentroid().fit(x[shown], y[shown])
        first, second = model.predict(x[asked]), model.classes_[model.predict_proba(x[asked]).argmax(1)]
        differ.append((first != second).mean())
        by_class.append((first == y[asked]).mean())
        by_probability.append((second == y[asked]).mean())
    told[shots] = [round(float(np.mean(values)), 3) for values in (differ, by_class, by_probability)]
    print(shots, "shots: differ, right by predict, right by predict_proba:", told[shots])
assert told[2][0] > 0.1 and told[5][0] > 0.03
assert told[2][1] > told[2][2] + 0.05
one = NearestCentroid().fit(x[:5], y[:5])  # the digits 0 to 4, once each
assert set(one.predict(x[:20])) <= set(range(5))
try:
    one.predict_proba(x[:20])
except ValueError as error:
    print("1 shot, predict_proba:", str(error).splitlines()[0])
else:
    raise AssertionError("one example of a class has probabilities now")
END
