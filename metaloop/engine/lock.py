"""One writer for a folder: a lock that the system takes back when its holder dies, however it dies."""

import os
import time
import weakref
from contextlib import suppress
from pathlib import Path

from .checkpoint import lives

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_held: "weakref.WeakSet[Lock]" = weakref.WeakSet()


class Lock:
    """A lock on `folder`, which is made if need be: the file `name` in it, which holds the holder's process id.

    Where the system locks no files, the file is there as long as the lock is held, and remains if its holder is killed.
    wait: for another process to release it. Raises ValueError, naming the process, if another holds it; or if the
    folder cannot be made or written to.
    """

    def __init__(self, folder: Path, name: str = ".lock", *, wait: bool = False):
        self.folder, self.path = folder, folder / name
        self.file: int | None = None
        while self.file is None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(f"cannot make the run folder {folder}: {error.strerror}.") from None
            try:
                self.file = self._take()
            except BlockingIOError:
                if not wait:
                    raise ValueError(self._refusal()) from None
                time.sleep(0.02)
            except FileNotFoundError:  # another process has just taken it away
                continue
            except OSError as error:
                raise ValueError(f"cannot write to {folder}: {error.strerror}.") from None
        _held.add(self)

    def _take(self) -> int | None:
        """The locked file, or None if it must be tried again. Raises BlockingIOError if another holds it."""
        flags = os.O_RDWR | os.O_CREAT | (os.O_EXCL if fcntl is None else 0)
        try:
            file = os.open(self.path, flags, 0o666)
        except FileExistsError:
            raise BlockingIOError from None
        try:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise
                except OSError:  # a file system that locks nothing
                    pass
                if not os.path.exists(self.path) or os.fstat(file).st_ino != os.stat(self.path).st_ino:
                    os.close(file)  # its holder took it away
                    return None
            os.ftruncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())
        except BaseException:
            with suppress(OSError):
                os.close(file)
            raise
        return file

    def _refusal(self) -> str:
        process = "another process"
        for _ in range(50):  # its holder is about to write its own there
            with suppress(OSError, ValueError):
                if lives(pid := int(self.path.read_text())):
                    process = f"process {pid}"
                    break
            time.sleep(0.01)
        gone = "" if fcntl is not None else f" If there is none, delete {self.path}."
        why = f"{self.folder} is in use by {process}: two cannot write to one run"
        return f"{why}. Wait until it ends, or stop it.{gone}"

    def release(self) -> None:
        """Let others have it. Doing it twice does no harm."""
        if self.file is not None:
            file, self.file = self.file, None
            if fcntl is None:
                os.close(file)
            try:
                with suppress(OSError):
                    self.path.unlink(missing_ok=True)
            finally:
                if fcntl is not None:  # only now: another may have it as soon as it is closed
                    os.close(file)

    __del__ = release

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_) -> None:
        self.release()


def _forget() -> None:
    """A forked child holds nothing: it would keep the lock of a parent that has died."""
    for lock in [*_held]:
        if lock.file is not None:
            os.close(lock.file)
            lock.file = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
