#!/bin/sh
# joblib 1.6.0 with torch 2.13.0: joblib.hash of a tensor differs from that of its copy, and of the same numbers made
# again, so that Memory never finds an answer again and scikit-learn's check says an estimator changed its parameters.
# guess (missed): equal tensors have equal hashes, as equal arrays have.
# seen: arrays equal; a tensor and its deepcopy unequal; a cached function of a tensor is computed twice.
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6 joblib==1.6.0
cd "$there"
env/bin/python - <<'END'
import copy

import joblib
import numpy as np
import torch

x = torch.arange(3.0)
told = {
    "array": joblib.hash(x.numpy()) == joblib.hash(x.numpy().copy()),
    "tensor": joblib.hash(x) == joblib.hash(copy.deepcopy(x)),
}
calls = []
memory = joblib.Memory("cache", verbose=0)


def total(t):
    open("calls", "a").write("x")
    return float(t.sum())


cached = memory.cache(total)
cached(x), cached(torch.arange(3.0))
told["calls of a tensor"] = len(open("calls").read())
open("calls", "w").close()
cached(x.numpy()), cached(np.arange(3, dtype=np.float32))
told["calls of an array"] = len(open("calls").read())
print(told)
assert told == {"array": True, "tensor": False, "calls of a tensor": 2, "calls of an array": 1}
END
