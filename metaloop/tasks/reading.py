"""Images out of users' files: a single one, those that are given, folders with one sub-folder per class."""

import os
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

UNREADABLE = ("BUFR", "GRIB", "HDF5", "MPEG")  # formats that Pillow knows and cannot decode
KINDS = ".png .jpg .gif .tif .webp .bmp, or another that Pillow reads"
Skipped = list[tuple[Path, str]]


def read_image(path: str | os.PathLike | BytesIO, shape: tuple[int, ...], *, invert: bool | str = "auto") -> Tensor:
    """One image file as uint8 [C, H, W], for shape = (C, H, W) with C = 1 or 3.

    It is turned upright as its EXIF data say, laid on white where transparent, stretched to H x W by Lanczos. Of an
    animation it is the first picture. Pixels of more than 8 bits are taken to run from 0 to 65535, floats to 1, 255
    or 65535, whichever holds them; to the largest where none does.
    invert: in grey (C = 1), True inverts an image and "auto" one whose border is mostly light, so that dark
        ink on light paper becomes ink = 255 on paper = 0 as in Omniglot; False leaves it.
    Raises what Pillow raises for a file it cannot read.
    """
    c, h, w = shape
    if not isinstance(path, BytesIO) and Path(path).exists() and not Path(path).is_file():
        raise ValueError("it is no file")  # a pipe would be waited for
    with Image.open(path) as file:
        image = _opaque(ImageOps.exif_transpose(file))
    image = image.convert("L" if c == 1 else "RGB").resize((w, h), Image.Resampling.LANCZOS)
    x = torch.from_numpy(np.array(image)).view(h, w, c).permute(2, 0, 1).contiguous()
    if c == 1 and (invert is True or (invert == "auto" and _border(x[0]).float().mean() > 127)):
        x = 255 - x
    return x


def _opaque(image: Image.Image) -> Image.Image:
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


@cache
def suffixes() -> frozenset[str]:
    """The endings of the files that Pillow reads."""
    known = Image.registered_extensions().items()
    return frozenset(ending for ending, kind in known if kind in Image.OPEN and kind not in UNREADABLE)


def read_images(paths: Iterable[str | os.PathLike], shape: tuple[int, ...]) -> tuple[Tensor, list[Path], Skipped]:
    """The image files, and those in the folders among them, at any depth: x uint8 [n, C, H, W], the files they are of,
    and the files that could not be read: [(path, reason)].

    Raises ValueError for a folder without an image, or if no file can be read.
    """
    x, good, skipped = [], [], []
    for path in [file for given in paths for file in image_files(Path(given))]:
        try:
            x.append(read_image(path, shape))
            good.append(path)
        except Exception as error:  # what Pillow raises for damaged files has no common base
            skipped.append((path, f"cannot be read as an image ({str(error).partition(chr(10))[0]})"))
    if not x:
        raise unread(skipped)
    return torch.stack(x), good, skipped


def unread(skipped: Skipped) -> ValueError:
    """The error that says which files could not be read, and why."""
    return ValueError(". ".join(f"{path} {reason}" for path, reason in skipped) + ".")


def image_files(path: Path) -> list[Path]:
    """The file itself; the images in a folder, at any depth. Raises ValueError if it holds none."""
    inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes()) if path.is_dir() else [path]
    if not inside:
        raise ValueError(f"{path} holds no image ({KINDS}).")
    return inside


def read_folder(
    path: str | os.PathLike, shape: tuple[int, ...], *, invert: bool | str = "auto"
) -> tuple[Tensor, Tensor, list[str], Skipped]:
    """Labelled images: x uint8 [n, C, H, W], y int64 [n], the class names, and the files skipped: [(path, reason)].

    One class per sub-folder, in order of name. `invert`: see `read_image`.
    Raises ValueError for a missing folder, fewer than two classes, or a class without a readable image.
    """
    images, y, skipped = [], [], []
    classes = class_files(Path(path))
    for label, (name, files) in enumerate(classes.items()):
        for file in files:
            try:
                images.append(read_image(file, shape, invert=invert))
                y.append(label)
            except Exception as error:  # what Pillow raises for damaged files has no common base
                reason = "is empty" if file.stat().st_size == 0 else str(error).partition("\n")[0]
                skipped.append((file, reason))
        if label not in y[-1:]:
            why = f"{len(files)} files, the last: {skipped[-1][1]}" if files else f"no image: {KINDS}"
            raise ValueError(
                f"folder({str(path)!r}): class {name!r} has no readable image ({why}). Add images or remove it."
            )
    return torch.stack(images), torch.tensor(y), list(classes), skipped


def class_files(path: Path) -> dict[str, list[Path]]:
    """The image files of each class, sorted."""
    call = f"folder({str(path)!r})"
    if not path.is_dir():
        raise ValueError(f"{call}: {'not a folder' if path.exists() else 'no such folder'}.")
    names = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        found = f"one class, {names[0]!r}" if names else "no sub-folders"
        raise ValueError(f"{call}: {found}. Make one sub-folder of images per class, at least two.")
    return {
        name: sorted(
            p for p in (path / name).iterdir()
            if p.suffix.lower() in suffixes() and p.is_file() and not p.name.startswith(".")
        )
        for name in names
    }


def has_colour(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            if image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I"):
                return False
            x = np.asarray(_opaque(image).convert("RGB")).astype(np.int16)
        return bool((x.max(-1) - x.min(-1)).max() > 32)  # more than the tints of compression
    except Exception:  # an unreadable file, skipped in due time
        return False


def _border(x: Tensor) -> Tensor:
    return torch.cat([x[0], x[-1], x[:, 0], x[:, -1]])
