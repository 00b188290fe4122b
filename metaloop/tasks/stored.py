"""Pictures decoded once, by all cores, into a file in the cache that pools read from without holding it in memory."""

import hashlib
import json
import mmap
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import decode
from .arrays import let_go
from .files import cache_folder

Skipped = list[tuple[int, str]]  # the number of a file, and why
ALONE = 1000  # as many pictures are decoded sooner than other processes have started


def pictures(
    name: str, files: list[Any], shape: tuple[int, ...], *, invert: bool | str, flip: bool = False
) -> tuple[Tensor, Skipped, Callable[[], Any] | None]:
    """The picture files, or parts of files (path, start, size), as uint8 [n, C, H, W], on disk; those that could not be
    read, whose rows mean nothing; and how to give back the memory of what was read. flip: the channels the other way.

    They are decoded into the cache, once, until a file or the settings change. A decoding that was stopped goes on
    where it was. Where the cache cannot be written to they are decoded into memory, with a warning.
    """
    if any(isinstance(file, BytesIO) for file in files):
        return _in_memory(files, shape, invert, flip)
    whole = {p: None for p in (file[0] if isinstance(file, tuple) else file for file in files)}
    stamps = [(str(p), s.st_size, s.st_mtime_ns) for p, s in ((p, p.stat()) for p in whole)]
    key = hashlib.sha256(repr((stamps, len(files), shape, invert, flip, 1)).encode()).hexdigest()[:16]
    place = cache_folder() / f"{name}-{key}"
    if (found := _opened(place, len(files), shape)) is None:
        try:
            _decode(place, files, shape, invert, flip)
            found = _opened(place, len(files), shape)
        except OSError as error:
            warnings.warn(f"{name}: cannot keep the decoded data in {place.parent} ({error}).", stacklevel=3)
    return found or _in_memory(files, shape, invert, flip)


def _opened(
    place: Path, n: int, shape: tuple[int, ...]
) -> tuple[Tensor, Skipped, Callable[[], Any]] | None:  # fmt: skip
    try:
        skipped = [(int(i), str(reason)) for i, reason in json.loads((place / "skipped.json").read_text("utf-8"))]
        with open(place / "x", "rb") as file:
            if os.fstat(file.fileno()).st_size != n * int(np.prod(shape)):
                return None
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError):  # none yet; a bad disk, a foreign hand: decode anew
        return None
    x = torch.from_numpy(np.frombuffer(pages, np.uint8)).view(n, *shape)
    return x, skipped, lambda: let_go(pages)


def _in_memory(
    files: list[Any], shape: tuple[int, ...], invert: bool | str, flip: bool
) -> tuple[Tensor, Skipped, None]:  # fmt: skip
    x, skipped = np.zeros((len(files), *shape), np.uint8), []
    for i, file in enumerate(files):
        try:
            found = decode.picture(decode.source([*file]) if isinstance(file, tuple) else file, shape, invert=invert)
            x[i] = found[::-1] if flip else found
        except Exception as error:  # what Pillow raises for damaged files has no common base
            skipped.append((i, decode.why(file, error)))
    return torch.from_numpy(x), skipped, None


def _decode(place: Path, files: list[Any], shape: tuple[int, ...], invert: bool | str, flip: bool) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    part = _taken_over(place)
    if part is None:
        part = place.with_name(f"{place.name}.{os.getpid()}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        told = [[str(f[0].absolute()), *f[1:]] if isinstance(f, tuple) else str(f.absolute()) for f in files]
        job = {"files": told, "shape": shape, "invert": invert, "flip": flip}
        with open(part / "x", "wb") as out:
            out.truncate(len(files) * int(np.prod(shape)))
        (part / "job.json").write_text(json.dumps(job), "utf-8")
    blocks = -(-len(files) // decode.BLOCK)
    left = sorted({*range(blocks)} - {note["block"] for note in decode.noted(part)})
    if len(left) * decode.BLOCK > ALONE and cores() > 1:
        _by_processes(part, left, len(files))
        left = sorted({*range(blocks)} - {note["block"] for note in decode.noted(part)})
    decode.read_blocks(part, left, "here")
    skipped = sorted(s for note in decode.noted(part) for s in note["skipped"])
    (part / "skipped.json").write_text(json.dumps([*dict(skipped).items()]), "utf-8")
    for name in ("job.json", "left.json", *(p.name for p in part.glob("done-*"))):
        (part / name).unlink(missing_ok=True)
    if place.exists():  # damaged, or another process was faster
        shutil.rmtree(place, ignore_errors=True)
    os.replace(part, place)


def _taken_over(place: Path) -> Path | None:
    """The part that a process which is no more has left, if there is one, as this process's own."""
    mine = place.with_name(f"{place.name}.{os.getpid()}.part")
    for part in sorted(place.parent.glob(f"{place.name}.*.part")) if os.name == "posix" else ():
        with suppress(ValueError, PermissionError, FileNotFoundError):  # another process has just taken it
            if part == mine or not _lives(int(part.name.split(".")[-2])):
                os.rename(part, mine)
                if (mine / "job.json").exists() and (mine / "x").exists():
                    return mine
                shutil.rmtree(mine, ignore_errors=True)
    return None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _by_processes(part: Path, left: list[int], files: int) -> None:
    """Let a process for each core decode its share of the blocks. What they leave undone, whatever stopped them, is
    left to who called."""
    (part / "left.json").write_text(json.dumps(left), "utf-8")
    n = min(cores(), len(left))
    script = str(Path(decode.__file__))
    workers = []
    try:
        for i in range(n):
            call = [sys.executable, "-P", script, str(part), str(i), str(n)]
            workers.append(subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        while any(worker.poll() is None for worker in workers):
            time.sleep(0.05)
            _shown(part, files)
    except OSError:  # no Python to start
        pass
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.terminate()
            worker.wait()


_last = 0.0


def _shown(part: Path, files: int) -> None:
    """How far it is, once a second, where somebody sees it."""
    global _last
    if not sys.stderr.isatty() or time.monotonic() - _last < 1:
        return
    _last = time.monotonic()
    done = min(files, decode.BLOCK * sum(1 for _ in decode.noted(part)))
    end = "\n" if done == files else "\r"
    print(f"decoded {done} of {files} pictures", end=end, file=sys.stderr, flush=True)
