"""Adapted predictors made into pages, by processes of their own: a graph takes seconds, and others are answered
meanwhile."""

import asyncio
import logging
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

WAITING, PATIENCE = 8, 300.0  # pages that are made or wait, at most; seconds for one
log = logging.getLogger("metaloop.page")


class Busy(ValueError):
    """Too many wait already."""


def command(predictor: Path, page: Path, web: Path) -> list[str]:
    """What makes a predictor's file into a page."""
    export = [sys.executable, "-m", "metaloop", "export", str(predictor), "--html", "-o", str(page)]
    return [*export, "--onnxruntime-web", str(web)]


class Pages:
    """Makes one at a time. web: onnxruntime-web's folder."""

    def __init__(self, web: Path):
        self.web, self.held, self._turn = web, 0, asyncio.Semaphore(1)

    async def made(self, predictor: bytes) -> bytes:
        """A predictor's file as a page. Raises Busy if too many wait, ValueError, in a line, if it cannot be one."""
        if self.held >= WAITING:
            raise Busy(f"{self.held} pages are being made for others. Ask again in a minute.")
        self.held += 1
        try:
            async with self._turn:
                with tempfile.TemporaryDirectory() as folder:
                    file, page = Path(folder) / "predictor.safetensors", Path(folder) / "predictor.html"
                    await asyncio.to_thread(file.write_bytes, predictor)
                    await _run(command(file, page, self.web))
                    return await asyncio.to_thread(page.read_bytes)
        finally:
            self.held -= 1


async def _run(call: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(*call, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    try:
        _, told = await asyncio.wait_for(process.communicate(), PATIENCE)
    except TimeoutError:
        raise ValueError(f"the page was not made within {PATIENCE:g} seconds.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = told.decode(errors="replace").strip().splitlines() or [""]
        if process.returncode == 2:  # a sentence that is meant for whoever asked
            raise ValueError(lines[-1].removeprefix("metaloop: "))
        log.error("%s ended with %s: %s", call[3], process.returncode, "\n".join(lines))
        raise ValueError("the page could not be made; the server has logged why.")
