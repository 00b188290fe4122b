#!/bin/sh
# pytest 9.2.0 and torch 2.13.0: `monkeypatch.setattr` on a setting of torch's compiler deletes the setting when the test
# is over, for all tests after it. Such settings live in a module whose attributes are made by `__getattr__`; pytest puts
# back what it finds in the object's own `__dict__`, and where nothing stands there it deletes. What fails is whichever
# test reads the setting next, as one that compiles does. `torch._dynamo.config.patch(...)` puts it back.
# guess (missed): monkeypatch leaves everything as it was (so it did in pytest 9.1.1).
# seen: before 8, after monkeypatch: AttributeError: torch._dynamo.config.recompile_limit does not exist; after patch 8
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6 pytest==9.2.0
cd "$there"
cat > try.py <<'END'
import torch._dynamo
from pytest import MonkeyPatch

settings = torch._dynamo.config


def limit():
    try:
        return str(settings.recompile_limit)
    except AttributeError as error:
        return f"AttributeError: {error}"


before = limit()
with settings.patch(recompile_limit=2):
    inside = limit()
by_torch = limit()
with MonkeyPatch.context() as patch:
    patch.setattr("torch._dynamo.config.recompile_limit", 2)
    assert limit() == inside == "2"
by_pytest = limit()
print(f"before {before}, after torch's patch {by_torch}, after pytest's {by_pytest}")
assert before == by_torch == "8"
END
env/bin/python try.py > new.txt
cat new.txt
grep -q "after pytest's AttributeError: torch._dynamo.config.recompile_limit does not exist" new.txt
"$there/env/bin/pip" install -qq pytest==9.1.1
env/bin/python try.py > old.txt
cat old.txt
grep -q "after pytest's 8" old.txt
