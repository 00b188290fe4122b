"""What torch should know of the processor before it is loaded: how its threads wait, and how many there may be."""

from collections.abc import MutableMapping
from math import ceil
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def settle(environ: MutableMapping[str, str], root: Path = Path("/")) -> None:
    """Set what the user has not: threads that wait sleep, and there are no more than the cgroup's quota allows.

    By itself OpenMP's threads spin after each small operation until their partner is done, which takes long where
    another process has the partner's core. Affinity and OMP_NUM_THREADS are heeded by torch itself.
    """
    if not any(name in environ for name in WAITING):
        environ["OMP_WAIT_POLICY"] = "PASSIVE"
    allowed = quota(root)
    if allowed is not None and "OMP_NUM_THREADS" not in environ:
        environ["OMP_NUM_THREADS"] = str(max(1, ceil(allowed)))


def quota(root: Path = Path("/")) -> float | None:
    """How many processors' time this process's cgroup, and those that hold it, may take; None: no less than all."""
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return None
    found = []
    for _, controllers, path in (group for group in groups if len(group) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        inner = top / path.lstrip("/")
        for folder in (inner, *inner.parents):
            found.append(_of(folder))
            if folder == top:
                break
    return min((share for share in found if share), default=None)


def _of(folder: Path) -> float | None:
    """A cgroup's own quota, of version 2 or 1."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            most, period = " ".join((folder / name).read_text() for name in names).split()
            return int(most) / int(period) if most not in ("max", "-1") else None
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None
