#!/bin/sh
# skorch 1.4.0, scikit-learn 1.9.1, torch 2.13.0: a learner that was given a module, not its class, trains that very
# object. clone copies its weights, so cross-validation after fit begins where fit ended, with the held-out examples
# learnt. A second fit goes on from the first.
# guess (missed): clone makes an unfitted learner, so cross_val_score says the same before and after fit.
# seen: 5-fold accuracy on 100 coin flips before and after fit: of a class .48 and .44, of an instance .41 and 1.00
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 skorch==1.4.0
cd "$there"
env/bin/python - <<'END'
import numpy as np
import torch
from sklearn.model_selection import cross_val_score
from skorch import NeuralNetClassifier


class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(100, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))


torch.manual_seed(0)
r = np.random.RandomState(0)
x, y = r.randn(100, 100).astype("float32"), r.randint(2, size=100)  # labels that nothing predicts
told = {}
for name, module in (("class", Net), ("instance", Net())):
    torch.manual_seed(0)
    settings = {"criterion": torch.nn.CrossEntropyLoss, "lr": 0.3, "train_split": None, "verbose": 0}
    learner = NeuralNetClassifier(module, max_epochs=60, **settings)
    before = cross_val_score(learner, x, y, cv=5).mean()
    learner.fit(x, y)
    after = cross_val_score(learner, x, y, cv=5).mean()
    told[name] = round(float(before), 2), round(float(after), 2)
print("5-fold accuracy on coin flips, before and after fit:", told)
assert max(*told["class"], told["instance"][0]) < 0.65
assert told["instance"][1] > 0.85
END
