"""Write test tasks to a file, by which others score the very same ones (`metaloop evaluate --episodes FILE`)."""

import argparse
from pathlib import Path

from .console import quoted, say, suggest
from .data import find_pool
from .options import DATA_ROOT, POOLS, SEED, TASKS, count, option


def several(text: str) -> int | tuple[int, int]:
    """A number, or the least and the most: 1-5."""
    low, dash, high = text.partition("-")
    if not dash:
        return count(text)
    if count(low) > count(high):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: the smaller comes first")
    return count(low), count(high)


OPTIONS = (
    option("data", metavar="DATA", help=f"{', '.join(POOLS)}, or a path as --data takes it"), DATA_ROOT,
    option("-o", "--output", required=True, metavar="FILE", help="the tasks, e.g. episodes.json"),
    option("--ways", type=count, default=5, metavar="N", help="classes per task (5)"),
    option("--shots", type=several, default=1, metavar="K", help="support examples per class (1), or 1-5"),
    option("--queries", type=several, default=15, metavar="Q", help="query examples per class (15), or 5-15"),
    TASKS, SEED, option("--split", default="test", choices=("train", "val", "test"), help="of the data (test)"),
    option("--all-classes", action="store_true", help="of a path: its classes are not split"),
)  # fmt: skip


def run(args) -> None:
    from ..engine.episodes import write_episodes

    _keep_others(Path(args.output))
    pool = find_pool(None, args.data, split=None if args.all_classes else (0.6, 0.2, 0.2))
    how = {"ways": args.ways, "shots": args.shots, "queries": args.queries}
    write_episodes(args.output, pool, tasks=args.tasks, **how, seed=args.seed, split=args.split)
    say(f"{args.output}: {args.tasks} tasks of {getattr(pool, args.split).name}")
    suggest(f"metaloop evaluate RUN --data {quoted(args.data)} --episodes {quoted(args.output)}")


def _keep_others(output: Path) -> None:
    """Raises ValueError if there is something else than tasks."""
    from ..engine.schema import read_json

    if not output.exists():
        return
    try:
        ours = "episodes" in read_json(output)
    except (ValueError, TypeError):
        ours = False
    if not ours:
        raise ValueError(f"{output} is there and holds no episodes, so it is kept. Choose another name.")
