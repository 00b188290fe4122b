"""A person's picture files: read as they are, upright, in colour."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from ..tasks.decode import opaque, why
from ..tasks.own import TABLES
from ..tasks.reading import KINDS, Skipped, image_files, images_in, suffixes
from .predictor import digest

KIND = "pictures"
OTHERWISE = "It takes pictures; of sentences and tables metaloop.FewShotClassifier() makes a predictor, in Python."
LARGEST_SIDE = 512  # pixels: of a larger JPEG no more is decoded than this needs


class Pictures(NamedTuple):
    """images: upright, in colour; files: what they were read from; digests: what tells them apart; skipped: (file,
    why)."""

    images: list[Image.Image]
    files: list[Path]
    digests: list[str]
    skipped: Skipped


def read(paths: Iterable[Path]) -> Pictures:
    """The picture files. What cannot be read is skipped."""
    found = Pictures([], [], [], [])
    for path in paths:
        try:
            if not path.is_file():
                raise ValueError("there is no such file" if not path.exists() else "it is no file")
            with Image.open(path) as file:
                file.draft("RGB", (LARGEST_SIDE, LARGEST_SIDE))
                image = opaque(ImageOps.exif_transpose(file)).convert("RGB")
            found.digests.append(digest(path.read_bytes()))
        except Exception as error:  # what Pillow raises for damaged files has no common base
            found.skipped.append((path, why(path, error)))
            continue
        found.images.append(image)
        found.files.append(path)
    return found


def read_classes(folder: Path, *, nested: bool = False) -> tuple[Pictures, list[int], list[str]]:
    """A folder with one sub-folder of pictures per class: the pictures, the class of each, the classes' names.

    Pictures are known by their names' endings, or by how they begin; nested: those in a class's folders' folders, too.
    The same file twice in a class counts once. Raises ValueError for a missing folder, one without sub-folders, and a
    class without a readable picture.
    """
    if not folder.is_dir():
        table = f" {OTHERWISE}" if folder.suffix.lower() in TABLES else ""
        raise ValueError(f"{folder} is {f'not a folder.{table}' if folder.exists() else 'not there.'}")
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not inside:
        loose = any(p.suffix.lower() in suffixes() for p in folder.iterdir())
        raise ValueError(
            f"{folder} holds {'pictures, and ' if loose else ''}no sub-folders. Make one sub-folder for each class; "
            "its name is the class."
        )
    all_of, y = Pictures([], [], [], []), list[int]()
    for k, sub in enumerate(inside):
        found = read(images_in(sub, nested))
        if not found.images:
            last = found.skipped[-1] if found.skipped else None
            deeper = not nested and any(p.is_dir() for p in sub.iterdir())
            none = "there are folders in it, which --nested reads" if deeper else f"there is none: {KINDS}"
            reason = f"the last, {last[0].name}: {last[1]}" if last else none
            texts = f" {OTHERWISE}" if any(p.suffix.lower() == ".txt" for p in sub.iterdir()) else ""
            raise ValueError(
                f"{folder}: class '{sub.name}' has no readable picture ({reason}). Add some or remove it.{texts}"
            )
        seen: set[str] = set()
        for image, file, mark in zip(found.images, found.files, found.digests, strict=True):
            if mark in seen:
                found.skipped.append((file, f"is a copy of another picture of '{sub.name}'"))
                continue
            seen.add(mark)
            all_of.images.append(image)
            all_of.files.append(file)
            all_of.digests.append(mark)
            y.append(k)
        all_of.skipped.extend(found.skipped)
    return all_of, y, [p.name for p in inside]


def read_given(paths: Iterable[Path]) -> Pictures:
    """Picture files, and those in folders among them, at any depth. Raises ValueError for a folder without a
    picture."""
    return read(file for path in paths for file in image_files(path))
