"""Nothing of the CPU meets what is on another device."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration
from zoo import ZOO


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"), reason="torch has no such devices"
)
def test_on_another_device_all_is_as_on_a_cpu():
    script = Path(__file__).with_name("elsewhere.py")
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    found = dict(line.split(": ", 1) for line in ran.stdout.splitlines() if ": " in line)
    assert found == dict.fromkeys([*ZOO, "fit, evaluate"], "as on a CPU")
