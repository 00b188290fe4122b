"""Where data lies, how it is fetched, and the cache of decoded arrays."""

import hashlib
import os
import sys
import time
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

import numpy as np

Arrays = dict[str, np.ndarray]


def cache_folder() -> Path:
    """METALOOP_CACHE, else the platform's cache folder."""
    if chosen := os.environ.get("METALOOP_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "metaloop"


def data_folders(name: str, root: str | os.PathLike | None) -> list[Path]:
    """Where a data set's files are looked for, in this order: root (else METALOOP_DATA), then the cache."""
    root = root or os.environ.get("METALOOP_DATA")
    given = [Path(root) / name, Path(root)] if root else []
    return [*given, cache_folder() / name]


def cached(name: str, sources: list[Path], settings: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `make` decodes from the source files, cached until a source or the settings change."""
    stamps = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in sources]
    key = hashlib.sha256(repr((stamps, settings)).encode()).hexdigest()[:16]
    path = cache_folder() / f"{name}-{key}.npz"
    if path.exists():
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                return dict(stored)
        except Exception:  # a bad disk, a foreign hand: decode anew
            pass
    arrays = make()
    try:
        _write(path, arrays)
    except OSError as error:
        warnings.warn(f"{name}: cannot keep the decoded data in {path.parent} ({error}).", stacklevel=2)
    return arrays


def _write(path: Path, arrays: Arrays) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Take away what processes that are no more left half written."""
    for part in folder.glob("*.npz.*.part") if os.name == "posix" else ():
        with suppress(ValueError, PermissionError):
            try:
                os.kill(int(part.name.split(".")[-2]), 0)
            except ProcessLookupError:
                part.unlink(missing_ok=True)


@contextmanager
def reading(name: str, path: Path, fix: str) -> Iterator[zipfile.ZipFile]:
    """An open archive; whatever is wrong with it becomes one line that ends with the fix."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except Exception as error:  # what zipfile, csv and Pillow raise for damaged files has no common base
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name}: {path} is damaged ({reason}). {fix}") from None


def download(name: str, url: str, path: Path, md5: str) -> None:
    """Fetch url to path with progress on stderr; an attempt cut short is continued; the checksum must agree.

    Raises ValueError, saying what to fetch and where to put it.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ValueError(
            f"{name}: cannot download {path.name} ({reason}). Fetch {url} and put it in {path.parent}."
        ) from None
    if (found := hashlib.md5(part.read_bytes(), usedforsecurity=False).hexdigest()) != md5:
        part.unlink()
        raise ValueError(f"{name}: {url} arrived with md5 {found}, expected {md5}. Try again.")
    os.replace(part, path)


def _fetch(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=30)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is left to send: the checksum decides
            return
        raise
    with answer, open(part, "ab" if answer.status == 206 else "wb") as file:
        have = file.tell()
        total = have + int(answer.headers.get("Content-Length") or 0)
        shown = 0.0
        while block := answer.read(1 << 18):
            file.write(block)
            have += len(block)
            if have >= total or time.monotonic() - shown > 1:
                shown = time.monotonic()
                line = f"{part.stem}: {have / 1e6:.1f} of {total / 1e6:.1f} MB"
                print(line, end="\r" if sys.stderr.isatty() and have < total else "\n", file=sys.stderr, flush=True)
    if have < total:
        raise OSError(f"the connection closed after {have} of {total} bytes")
