"""The command line: choose a recipe and run it; give examples, get f; call f.

One file a command: its docstring is its summary, OPTIONS are its arguments, `run(args)` does it. What takes long to
import is imported where it is used, so that `metaloop --help` answers at once.
"""

import argparse
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from .console import launcher, note, streams
from .cores import settle

COMMANDS = (
    "recipes", "train", "search", "evaluate", "compare", "episodes", "adapt", "predict", "export", "serve", "doctor",
    "completion",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status. Bad input is one line on stderr and status 2."""
    try:
        streams()
        if "torch" not in sys.modules:
            settle(os.environ)
        with warnings.catch_warnings(), terminable():
            warnings.filterwarnings("always", category=UserWarning, module="metaloop")
            warnings.showwarning = lambda message, *_: note(f"metaloop: {message}")
            args = parser().parse_args(argv)
            args.command = launcher() + "metaloop " + shlex.join(sys.argv[1:] if argv is None else argv)
            if getattr(args, "data_root", None):
                if not Path(args.data_root).is_dir():
                    raise ValueError(f"--data-root {args.data_root}: no such folder.")
                os.environ["METALOOP_DATA"] = args.data_root
            args.run_command(args)
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        note(f"metaloop: stopped{stop}")
        return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
    except BrokenPipeError:  # `metaloop recipes | head`
        _close_stdout()
    except (ValueError, OSError, MemoryError, OverflowError) as error:
        note(f"metaloop: {' '.join(str(error).split())}", heir=getattr(error, "heir", False))
        return _ended()
    except RuntimeError as error:  # torch has no other for a lack of memory
        if not any(word in str(error) for word in ("allocate memory", "out of memory", "Storage size", "overflow")):
            raise
        note(f"metaloop: that takes more memory than there is ({str(error).partition(chr(10))[0]})")
        return _ended()
    return 0


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which batch systems end a job."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within this a first SIGTERM ends a command as Ctrl-C does: what was measured is printed and kept."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number, frame) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _ended() -> int:
    """The status after an error, with what was printed before it on its way."""
    try:
        sys.stdout.flush()
    except OSError:
        _close_stdout()
    return 2


def _close_stdout() -> None:
    """Nothing more is written there, when Python ends included."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
