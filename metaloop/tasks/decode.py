"""Picture files as bytes [C, H, W], and many of them at once, by several processes that may be stopped and go on.

It needs Pillow and numpy alone, and is run as a script by the processes: `python -P decode.py JOB NUMBER OF`.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

BLOCK = 256  # pictures between two notes of how far it is


def picture(path: str | os.PathLike | BytesIO, shape: tuple[int, ...], *, invert: bool | str = "auto") -> np.ndarray:
    """One picture as uint8 [C, H, W]; `reading.read_image` says how. Raises what Pillow raises."""
    if not isinstance(path, BytesIO) and os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is no file")  # a pipe would be waited for
    with Image.open(path) as file:
        file.load()
        upright = file.getexif().get(0x0112, 1) == 1
        return fitted(opaque(file if upright else ImageOps.exif_transpose(file)), shape, invert=invert)


def fitted(image: Image.Image, shape: tuple[int, ...], *, invert: bool | str = "auto") -> np.ndarray:
    """The same of a picture that is decoded, upright and opaque."""
    c, h, w = shape
    image = image if image.mode == ("L" if c == 1 else "RGB") else image.convert("L" if c == 1 else "RGB")
    image = image if image.size == (w, h) else image.resize((w, h), Image.Resampling.LANCZOS)
    x = np.array(np.asarray(image).reshape(h, w, c).transpose(2, 0, 1), order="C")
    if c == 1 and (invert is True or (invert == "auto" and _border(x[0]).mean(dtype=np.float64) > 127)):
        x = 255 - x
    return x


def opaque(image: Image.Image) -> Image.Image:
    """The picture in 8 bits, grey or in colour, laid on white where it is transparent."""
    if image.mode.startswith("I"):
        x = np.asarray(image).clip(0)
        return Image.fromarray((x // 257 if x.max() <= 65535 else x / x.max() * 255).astype(np.uint8))
    if image.mode == "F":
        x = np.nan_to_num(np.asarray(image)).clip(0)
        most = next((bound for bound in (1, 255, 65535) if x.max() <= bound), x.max())
        return Image.fromarray((x / most * 255).round().astype(np.uint8))
    if image.mode == "LAB":
        profiles = (ImageCms.createProfile(space) for space in ("LAB", "sRGB"))
        return ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))  # type: ignore[return-value]
    if image.mode in ("La", "RGBa"):  # with colours multiplied by how opaque they are
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _border(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x[0], x[-1], x[:, 0], x[:, -1]])


def read_blocks(folder: Path, blocks: Iterable[int], log: str) -> None:
    """Decode those blocks of the pictures that FOLDER/job.json tells of into FOLDER/x, and note each in
    FOLDER/done-LOG, with what could not be read."""
    job = json.loads((folder / "job.json").read_text("utf-8"))
    files, shape = job["files"], tuple(job["shape"])
    size = int(np.prod(shape))
    with open(folder / "x", "r+b") as out, open(folder / f"done-{log}", "a", encoding="utf-8") as done:
        for block in blocks:
            skipped = []
            for i in range(block * BLOCK, min((block + 1) * BLOCK, len(files))):
                try:
                    x = picture(source(files[i]), shape, invert=job["invert"])
                except Exception as error:  # what Pillow raises for damaged files has no common base
                    skipped.append([i, why(files[i], error)])
                    continue
                x = x[::-1] if job["flip"] else x
                out.seek(i * size)
                out.write(x.tobytes())
            out.flush()
            os.fsync(out.fileno())
            done.write(json.dumps({"block": block, "skipped": skipped}) + "\n")
            done.flush()


def source(file: str | list[Any]) -> str | BytesIO:
    """A file, or the part of one that begins somewhere and has some size."""
    if isinstance(file, str):
        return file
    path, start, size = file
    with open(path, "rb") as whole:
        whole.seek(start)
        return BytesIO(whole.read(size))


def why(path: Any | os.PathLike, error: Exception) -> str:
    """Why a file was skipped, in a line."""
    try:
        empty = os.stat(path).st_size == 0
    except (OSError, TypeError):
        empty = False
    return "is empty" if empty else str(error).partition("\n")[0]


def noted(folder: Path) -> Iterator[dict[str, Any]]:
    """The blocks that are done. A note that was cut short counts for nothing."""
    for path in sorted(folder.glob("done-*")):
        for line in path.read_text("utf-8", errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


if __name__ == "__main__":
    here, number, of = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    left = json.loads((here / "left.json").read_text("utf-8"))
    read_blocks(here, left[number::of], f"{os.getpid()}")
