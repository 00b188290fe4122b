#!/bin/sh
# torchmetrics 1.9.0 with torch 2.13.0: whether scores are probabilities is guessed at each update, by whether all of
# them lie in [0, 1]. Cosines of features behind a ReLU always do, so a metric learner's scores are never softmaxed;
# one negative score among a task's queries, and that task's are.
# guess (missed): logits are softmaxed, or an argument says what is given.
# seen: cosines .9 .8 .1: confidence .9; of the same less .2, whose softmax is the same, confidence .42.
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
cd "$there"
env/bin/python - <<'END'
import torch
from torchmetrics.classification import MulticlassCalibrationError

cosines, y = torch.tensor([[0.9, 0.8, 0.1], [0.7, 0.95, 0.2]]), torch.tensor([0, 1])
assert torch.allclose(cosines.softmax(1), (cosines - 0.2).softmax(1))
metric = MulticlassCalibrationError(3)
metric.update(cosines, y)
metric.update(cosines - 0.2, y)
told = [[round(c, 2) for c in update.tolist()] for update in metric.confidences]
print(told)
assert told == [[0.9, 0.95], [0.42, 0.44]]
END
