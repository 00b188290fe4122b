#!/bin/sh
# torch 2.13.0: torch.func.hessian and jacfwd make their rules by torch.jit.script, which torch itself has deprecated:
# the first call in a process warns, and fails where warnings are errors, as in many test suites.
# Reverse over reverse, jacrev(grad), neither warns nor fails.
# guess (missed): torch's own functions do not call what it warns of.
# seen: hessian of logsumexp: DeprecationWarning "`torch.jit.script` is deprecated"; jacrev(grad): the same numbers, no word.
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6
cd "$there"
cat > told.py <<'END'
import sys
import warnings

import torch

warnings.simplefilter("error")
f = lambda x: x.logsumexp(0)
second = torch.func.jacrev(torch.func.grad(f)) if sys.argv[1] == "reverse" else torch.func.hessian(f)
try:
    print(sys.argv[1], [round(v, 3) for v in second(torch.arange(3.0)).diagonal().tolist()])
except DeprecationWarning as warning:
    print(sys.argv[1], "warns:", warning)
END
env/bin/python told.py reverse > told.txt
env/bin/python told.py forward >> told.txt
cat told.txt
grep -q "reverse \[0.082, 0.185, 0.223\]" told.txt
grep -q "forward warns: .torch.jit.script. is deprecated" told.txt
