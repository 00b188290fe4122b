"""Options that several commands share."""

import argparse
from typing import Any

from ..recipes.data import POOLS

LARGEST = 2**31 - 1


def option(*flags: str, **settings: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The arguments of `add_argument`."""
    return flags, settings


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number of at least 1")
    if int(text) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is more than any machine holds")
    return int(text)


def seed(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number") from None
    if not -(2**63) <= number < 2**63:  # torch's generators take no more
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is out of range: give one of at most 18 digits")
    return number


RUN = option("run", metavar="RUN", help="a run's folder")
SEED = option("--seed", type=seed, default=0, help="of the test tasks (0)")
TASKS = option("--tasks", type=count, default=1000, metavar="N", help="test tasks (1000)")
WAYS = option("--ways", type=count, metavar="N", help="classes per task")
SHOTS = option("--shots", type=count, metavar="K", help="support examples per class")
QUERIES = option("--queries", type=count, metavar="Q", help="query examples per class")
DATA = option(
    "--data", metavar="NAME|PATH",
    help=f"{', '.join(POOLS)}, or your own: a folder with one sub-folder per class, a CSV or Parquet file, a pickle",
)  # fmt: skip
DATA_ROOT = option("--data-root", metavar="DIR", help="where data sets lie (METALOOP_DATA)")
ALLOW_SEEN = option(
    "--allow-seen", action="store_true", help="test on classes that the run was trained on, too; the output says so"
)
DEVICE = option("--device", default="auto", metavar="auto|cpu|cuda|mps", help="what computes (auto)")
ONNXRUNTIME_WEB = option(
    "--onnxruntime-web", metavar="FOLDER", help="of the npm package, for a page (node_modules/onnxruntime-web)"
)
JSON = option("--json", action="store_true", help="print JSON")
