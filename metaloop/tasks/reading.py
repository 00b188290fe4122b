"""Images out of users' files: a single one, those that are given, folders with one sub-folder per class."""

import os
import warnings
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .decode import opaque, picture, why

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
    return torch.from_numpy(picture(path, shape, invert=invert))


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
    inside = images_in(path, nested=True) if path.is_dir() else [path]
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
                skipped.append((file, why(file, error)))
        if label not in y[-1:]:
            raise none_readable(f"folder({str(path)!r})", name, files, skipped)
    return torch.stack(images), torch.tensor(y), list(classes), skipped


def none_readable(call: str, name: str, files: list[Path], skipped: Skipped) -> ValueError:
    """The error that says that a class has no readable image."""
    reason = f"{len(files)} files, the last: {skipped[-1][1]}" if files else f"no image: {KINDS}"
    return ValueError(f"{call}: class {name!r} has no readable image ({reason}). Add images or remove it.")


def class_files(path: Path, *, nested: bool = False) -> dict[str, list[Path]]:
    """The image files of each class, sorted; nested: those in its folders' folders too."""
    call = f"folder({str(path)!r})"
    if not path.is_dir():
        raise ValueError(f"{call}: {'not a folder' if path.exists() else 'no such folder'}.")
    names = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        found = f"one class, {names[0]!r}" if names else "no sub-folders"
        raise ValueError(f"{call}: {found}. Make one sub-folder of images per class, at least two.")
    return {name: images_in(path / name, nested) for name in names}


def images_in(folder: Path, nested: bool) -> list[Path]:
    """The images in a folder, sorted; nested: at any depth. Hidden files and folders do not count."""
    found = []
    for place, inside, files in os.walk(folder, followlinks=True):
        inside[:] = [name for name in inside if nested and not name.startswith(".")]
        found += [os.path.join(place, name) for name in files if not name.startswith(".")]
    return [Path(path) for path in sorted(found) if is_image(Path(path))]


def is_image(path: Path) -> bool:
    """Whether it is a file that is named like an image, or begins like one."""
    if not path.is_file():
        return False
    if path.suffix.lower() in suffixes():
        return True
    if not path.stat().st_size:  # as have files that a system makes up, which may be waited for: /proc/kmsg
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return image.format not in UNREADABLE
    except Exception:  # what Pillow raises for what is no image has no common base
        return False


def has_colour(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            if image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I"):
                return False
            x = np.asarray(opaque(image).convert("RGB")).astype(np.int16)
        return bool((x.max(-1) - x.min(-1)).max() > 32)  # more than the tints of compression
    except Exception:  # an unreadable file, skipped in due time
        return False

