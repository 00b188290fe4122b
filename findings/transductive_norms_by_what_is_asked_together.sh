#!/bin/sh
# torch 2.13.0, scikit-learn 1.9.1 (its digits): a network whose batch norms use the statistics of the pictures asked
# about (the protocol of many few-shot papers) answers by what is asked together. No error for a single picture: its own
# map gives the statistics. Worst is not one picture at a time but pictures of one class together: what they share is
# subtracted. (Maps of 1x1 do raise for a single picture; group norm of one number a group answers zeros instead.)
# guess (missed): one at a time is worst, and a batch of any 50 pictures is as good as a mixed one.
# seen: all 597 together 96.0 %, one at a time 93.5 %, each class together 87.9 %
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1
cd "$there"
env/bin/python - <<'END'
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

torch.manual_seed(0)
torch.set_num_threads(1)
x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
x = x.float().view(-1, 1, 8, 8) / 16
weights = [0.3 * torch.randn(32, 1, 3, 3), 0.1 * torch.randn(32, 32, 3, 3), 0.1 * torch.randn(10, 128)]
for w in weights:
    w.requires_grad_()


def net(x):
    for w in weights[:2]:
        x = F.batch_norm(F.conv2d(x, w, padding=1), None, None, training=True)
        x = F.max_pool2d(x.relu(), 2)
    return x.flatten(1) @ weights[2].T


adam = torch.optim.Adam(weights, 1e-3)
for _ in range(400):
    i = torch.randint(0, 1200, (64,))
    adam.zero_grad()
    F.cross_entropy(net(x[i]), y[i]).backward()
    adam.step()

x, y = x[1200:], y[1200:]
share = lambda groups: 100 * sum((net(x[g]).argmax(1) == y[g]).sum().item() for g in groups) / len(y)
with torch.no_grad():
    mixed, single = share([torch.arange(len(y))]), share([torch.tensor([i]) for i in range(len(y))])
    by_class = share([(y == k).nonzero()[:, 0] for k in range(10)])
print(f"all together {mixed:.1f} %, one at a time {single:.1f} %, each class together {by_class:.1f} %")
assert mixed - single > 0.8
assert single - by_class > 1.5
assert (F.group_norm(torch.randn(2, 4), 4) == 0).all()
for norm in (F.instance_norm, lambda x: F.batch_norm(x, None, None, training=True)):
    try:
        norm(torch.randn(1, 4, 1, 1))
    except ValueError:
        continue
    raise AssertionError("a single 1x1 map was normalised")
END
