#!/bin/sh
# torch 2.13.0: which weight decay an Adam has is no matter of its class, but of a setting in its groups, and that comes
# with a state. An `Adam` that loads the state of an `AdamW` decays as AdamW does from there on, and is still called Adam.
# An `AdamW` that loads an Adam's state stays an AdamW: the two ways are not alike.
# guess (missed): a state brings moments, rates and steps; what is done with them is the class's.
# seen: second step of Adam after Adam's state .8004, after AdamW's .7075; of AdamW after AdamW's .7075, after Adam's .7865
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6
cd "$there"
env/bin/python - <<'END'
from torch import full, nn, ones
from torch.optim import Adam, AdamW


def stepped(optimizer, p):
    p.grad = full((3,), 0.01)
    optimizer.step()
    return p.detach().clone()


def second_step(first, then):
    p = nn.Parameter(ones(3))
    one = first([p], lr=0.1, weight_decay=0.5)
    q = nn.Parameter(stepped(one, p))
    other = then([q], lr=0.1, weight_decay=0.5)
    other.load_state_dict(one.state_dict())
    return stepped(other, q)[0].item(), other.param_groups[0]["decoupled_weight_decay"]


seen = {(a, b): second_step(a, b) for a in (Adam, AdamW) for b in (Adam, AdamW)}
for (a, b), (value, decoupled) in seen.items():
    print(f"{b.__name__} after the state of {a.__name__}: {value:.4f}, decoupled: {decoupled}")
assert seen[AdamW, Adam] == seen[AdamW, AdamW]
assert seen[AdamW, Adam][0] != seen[Adam, Adam][0]
assert [decoupled for _, decoupled in seen.values()] == [False, True, True, True]
END
