"""The command line: choose a recipe and run it; give examples, get f; call f.

One file a command: its docstring is its summary, OPTIONS are its arguments, `run(args)` does it. What takes long to
import is imported where it is used, so that `metaloop --help` answers at once.
"""

import argparse
import os
import shlex
import sys
import warnings
from importlib import import_module
from pathlib import Path

from .console import launcher, note

COMMANDS = ("recipes", "train", "evaluate", "compare", "adapt", "predict")


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status. Bad input is one line on stderr and status 2."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", category=UserWarning, module="metaloop")
            warnings.showwarning = lambda message, *_: note(f"metaloop: {message}")
            args = parser().parse_args(argv)
            args.command = launcher() + "metaloop " + shlex.join(sys.argv[1:] if argv is None else argv)
            if getattr(args, "data_root", None):
                if not Path(args.data_root).is_dir():
                    raise ValueError(f"--data-root {args.data_root}: no such folder.")
                os.environ["METALOOP_DATA"] = args.data_root
            args.run_command(args)
    except KeyboardInterrupt as stop:
        note(f"metaloop: stopped{stop}")
        return 130
    except BrokenPipeError:  # `metaloop recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        note(f"metaloop: {' '.join(str(error).split())}", heir=getattr(error, "heir", False))
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of all commands."""
    from .. import __version__

    top = _Parser(prog="metaloop", description="Meta-learning: learn F, which turns a small data set into a predictor.")
    top.add_argument("--version", action="version", version=f"metaloop {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    for name in COMMANDS:
        command = import_module(f".{name}", __name__)
        summary = (command.__doc__ or "").strip()
        each = commands.add_parser(name, help=summary, description=summary)
        for flags, settings in command.OPTIONS:
            each.add_argument(*flags, **settings)
        each.set_defaults(run_command=command.run)
    return top


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(f"{message} (see `{self.prog} --help`)")
