#!/bin/sh
# torchmetrics 1.9.0 with torch 2.13.0: its calibration error has one bin more than asked for, which holds the
# confidences of exactly 1, as float32's softmax answers them once a score leads by some twenty.
# guess (missed): 15 bins cut [0, 1] into fifteen, the last with its upper end, as scikit-learn's and Guo et al.'s do.
# seen: nine of ten right at confidence 1, ten of ten at .95: error .075; the first moved to 1 - 1e-6: .025.
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
cd "$there"
env/bin/python - <<'END'
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

right = torch.zeros(20, dtype=torch.long)
right[0] = 1  # nine of the first ten, all of the others
told = {}
for confidence in (1.0, 1 - 1e-6):
    top = torch.tensor([confidence] * 10 + [0.95] * 10)
    p = torch.stack([top, 1 - top], 1)
    told[confidence] = round(multiclass_calibration_error(p, right, num_classes=2, n_bins=15, norm="l1").item(), 3)
print(told, "one bin of [14/15, 1]:", round(abs((1 + 0.95) / 2 - 19 / 20), 3))
assert told == {1.0: 0.075, 1 - 1e-6: 0.025}
assert torch.tensor([20.0, 0.0]).softmax(0)[0] == 1
END
