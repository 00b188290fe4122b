#!/bin/sh
# torchmetrics 1.9.0, torch 2.13.0: BootStrapper(sampling_strategy="multinomial") resamples within each update. Given
# the accuracy of one task at a time there is nothing to draw from: all bootstraps are the same, and the deviation is
# 0. What differs between updates never counts. "poisson" weighs each example by itself and does not mind.
# guess (missed): the bootstrap is over all that was given, however it was cut.
# seen: 200 tasks, deviation over standard error: multinomial, one by one 0.00, sorted tens .05, at once 1.00; poisson
# 1.02, .88, 1.01
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
cd "$there"
env/bin/python - <<'END'
import torch
from torchmetrics import MeanMetric
from torchmetrics.wrappers import BootStrapper

torch.manual_seed(0)
accuracies = torch.rand(200) * 0.4 + 0.5  # of 200 tasks
honest, told = (accuracies.std() / 200**0.5).item(), {}
for strategy in ("poisson", "multinomial"):
    one, all_, tens = (BootStrapper(MeanMetric(), num_bootstraps=100, sampling_strategy=strategy) for _ in range(3))
    for accuracy in accuracies:
        one.update(accuracy[None])
    for batch in accuracies.sort().values.view(20, 10):
        tens.update(batch)
    all_.update(accuracies)
    told[strategy] = [b.compute()["std"].item() / honest for b in (one, tens, all_)]
    print(f"{strategy}: deviation over standard error one by one, in sorted tens, at once:")
    print(*[f"{s:.2f}" for s in told[strategy]])
assert told["multinomial"][0] < 1e-3 and told["multinomial"][1] < 0.1
assert 0.7 < told["multinomial"][2] < 1.3
assert all(0.7 < s < 1.3 for s in told["poisson"])
END
