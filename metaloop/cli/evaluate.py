"""Test a run under its paper's protocol, or another."""

from pathlib import Path

from .console import note, quoted, say, suggest
from .data import check_seen, measured, move, pool_of, rows_asked
from .options import ALLOW_SEEN, DATA, DATA_ROOT, DEVICE, JSON, QUERIES, RUN, SEED, SHOTS, TASKS, WAYS, option

OPTIONS = (
    RUN, DATA, DATA_ROOT, DEVICE, WAYS, SHOTS, QUERIES, TASKS, SEED,
    option("--split", default="test", choices=("train", "val", "test"), help="of the data (test)"),
    option("--episodes", metavar="FILE", help="the tasks that `metaloop episodes` wrote there"),
    option("--newest", action="store_true", help="at the newest checkpoint, not at the best in validation"),
    ALLOW_SEEN, JSON,
)


def run(args) -> None:
    from ..recipes.stored import open_run
    from ..report import check_readable, write_report
    from ..report.results import check

    run = open_run(args.run, newest=args.newest)
    folder, own = Path(args.run), run.info.get("data")
    check_readable(folder)
    data, pool = pool_of(run, args.data)
    dealt, tested_as = pool, data
    if args.episodes:
        dealt, tested_as = fixed_tasks(args, pool, data)
    move(run, args.device)
    rows = rows_asked(run, args)
    for row in rows:
        check(run, row, dealt, args.split)
    asked = args.allow_seen or (data == own and args.split == "train")  # these have been, and are asked for by name
    how = {"tasks": args.tasks, "seed": args.seed, "split": args.split, "data": tested_as, "command": args.command}
    line = note if args.json else say
    seen = check_seen([run], pool, args.split, asked, line)[0]
    measured(run, rows, dealt, folder, **how, seen=seen, as_json=args.json)
    home = lambda: pool if data == own else pool_of(run, None)[1]
    line(f"report: {write_report(run, home, tasks=args.tasks)}")
    suggest(*(pool.uses(args.run) or [f"metaloop compare {quoted(args.run)} RUN"]))


def fixed_tasks(args, pool, data: str | None):
    """The pool of the tasks in --episodes, whose ways, shots and queries count; and what it is called."""
    from hashlib import sha256

    from ..engine.episodes import read_episodes

    if any(n is not None for n in (args.ways, args.shots, args.queries)):
        raise ValueError("--episodes: the file says how many ways, shots and queries there are. Leave these options.")
    dealt = read_episodes(args.episodes, pool, split=args.split)
    args.ways, args.shots, args.queries = (dealt.episode[name] for name in ("ways", "shots", "queries"))
    digest = sha256(Path(args.episodes).read_bytes()).hexdigest()[:8]
    return dealt, f"{data or pool.name}, {Path(args.episodes).name} {digest}"
