"""Glyphs: letters and symbols rendered from the typefaces that ship with matplotlib. Nothing to download."""

import unicodedata
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFont
from torch import Tensor

from .files import Arrays, cached
from .pool import ClassPool, Splits

SIZE, EXAMPLES = 28, 20
FACES = 8  # a character must exist in at least this many typefaces
CANVAS, SIDE = 2 * SIZE, 40  # glyphs are drawn at twice the size; the longer side of each measures SIDE pixels
ALIKE = 0.1  # two characters this close (see `_distinct`) are one class
BATCH = 2000  # examples bent at once
SCRIPTS = {"CYRILLIC": "val", "ARMENIAN": "test", "GEORGIAN": "test", "LAO": "test"}  # all others train


def glyphs(*, seed: int = 0) -> Splits:
    """Characters of the DejaVu and STIX typefaces, 20 examples each, images [1, 28, 28] with ink = 1 on paper = 0.

    A class is a letter, digit, symbol or punctuation mark that exists in at least 8 of the 16 faces. Its 20
    examples go through its faces in random order, again and again, each under a mild affine change of its own
    (rotation, scale, shear, shift), drawn by `seed`. Every glyph fills the same box, so size tells nothing.
    Characters that look the same in all their faces (A, Alpha and Cyrillic A) are one class.
    Train: Latin, Greek, digits and symbols; val: Cyrillic; test: Armenian, Georgian and Lao; a shape that two
    parts share belongs to the first.

    Rendered in seconds, then cached. The classes depend a little on the version of matplotlib.

    >>> glyphs().test.sample(ways=20).support.x.shape
    torch.Size([1, 20, 1, 28, 28])
    """
    settings = f"{version('matplotlib')} {version('pillow')} {seed} 1"
    stored = cached("glyphs", [], settings, lambda: _make(seed))
    names, of, images = stored["names"], stored["parts"], torch.from_numpy(stored["images"])
    return Splits(*(
        ClassPool(
            images[torch.from_numpy(of == part)].flatten(0, 1),
            torch.full((int((of == part).sum()),), EXAMPLES),
            names[of == part].tolist(),
            name="glyphs",
            split=part,
        )
        for part in ("train", "val", "test")
    ))


def _make(seed: int) -> Arrays:
    """images: uint8 [classes, 20, 1, 28, 28]; names: the characters' Unicode names; parts: train, val or test."""
    characters, drawn, exists = _draw()
    kept = _distinct(drawn, exists)
    random = torch.Generator().manual_seed(seed)
    images = _bend(drawn[kept], exists[kept], random)
    return {
        "images": images.numpy(),
        "names": np.array([unicodedata.name(characters[c]) for c in kept]),
        "parts": np.array([_part(characters[c]) for c in kept]),
    }


def _part(character: str) -> str:
    return next((SCRIPTS[word] for word in unicodedata.name(character).split() if word in SCRIPTS), "train")


def _wanted(character: str) -> bool:
    """Letters, numbers, symbols and punctuation; not the patterns of Braille, nor pieces of boxes and blocks."""
    if unicodedata.category(character)[0] not in "LNSP" or "\u2500" <= character <= "\u259f":
        return False
    return not unicodedata.name(character, "BRAILLE").startswith("BRAILLE")


def _draw() -> tuple[list[str], Tensor, Tensor]:
    """The characters, training scripts first; their glyphs uint8 [n, faces, CANVAS, CANVAS]; which of them exist."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    paths = sorted(p for p in folder.glob("*.ttf") if p.name.startswith(("DejaVu", "STIXGeneral")))
    paths = [p for p in paths if "Display" not in p.name]
    faces = defaultdict(list)
    for face, path in enumerate(paths):
        for code in FT2Font(path).get_charmap():
            if _wanted(chr(code)):
                faces[chr(code)].append(face)

    order = ["train", "val", "test"]
    characters = sorted((c for c in faces if len(faces[c]) >= FACES), key=lambda c: (order.index(_part(c)), c))
    fonts = [ImageFont.truetype(p, CANVAS, layout_engine=ImageFont.Layout.BASIC) for p in paths]
    drawn = np.zeros((len(characters), len(paths), CANVAS, CANVAS), np.uint8)
    for n, character in enumerate(characters):
        for face in faces[character]:
            mask = fonts[face].getmask(character, "L")
            box = mask.getbbox()
            if box is not None:
                glyph = Image.frombytes("L", mask.size, bytes(mask)).crop(box)
                scale = SIDE / max(glyph.size)
                w, h = (max(1, round(side * scale)) for side in glyph.size)
                x, y = (CANVAS - w) // 2, (CANVAS - h) // 2
                drawn[n, face, y : y + h, x : x + w] = np.asarray(glyph.resize((w, h), Image.Resampling.LANCZOS))
    exists = drawn.reshape(*drawn.shape[:2], -1).max(axis=-1) > 0
    whole = exists.sum(1) >= FACES
    characters = [c for c, keep in zip(characters, whole, strict=True) if keep]
    return characters, torch.from_numpy(drawn[whole]), torch.from_numpy(exists[whole])


def _distinct(drawn: Tensor, exists: Tensor) -> list[int]:
    """The characters unlike all kept before them.

    The distance of a and b is |a - b|^2 / min(|a|^2, |b|^2), summed over the faces that have both.
    """
    x = torch.cat([F.avg_pool2d(part / 255, 4).flatten(2) for part in drawn.split(BATCH // 10)])
    norm = x.square().sum(2) @ exists.float().T  # [a, b]: |a|^2 over the faces that have b; |a| = 0 in others
    x = x.flatten(1)
    distance = (norm + norm.T - 2 * x @ x.T) / torch.minimum(norm, norm.T)
    distance = distance.nan_to_num(torch.inf)  # 0 / 0: no face in common
    kept = torch.zeros(len(x), dtype=torch.bool)
    for c in range(len(x)):
        kept[c] = not kept.any() or distance[c, kept].min() >= ALIKE
    return kept.nonzero()[:, 0].tolist()


def _bend(drawn: Tensor, exists: Tensor, random: torch.Generator) -> Tensor:
    """Each class's examples: its faces in random order, repeated, under mild affine changes. [n, 20, 1, 28, 28]"""
    n, faces = exists.shape
    lot = torch.rand(n, faces, generator=random).masked_fill(~exists, -1.0).argsort(1, descending=True)
    face = lot.gather(1, torch.arange(EXAMPLES) % exists.sum(1, keepdim=True))

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n * EXAMPLES, generator=random)

    angle, shear, zoom = between(-0.15, 0.15), between(-0.15, 0.15), between(1.0, 1.25)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    rows = [cos, cos * shear - sin, between(-0.1, 0.1), sin, sin * shear + cos, between(-0.1, 0.1)]
    maps = torch.stack(rows, 1).view(-1, 2, 3)  # from the example's coordinates to the glyph's, in [-1, 1]

    images = torch.empty(n * EXAMPLES, 1, SIZE, SIZE, dtype=torch.uint8)
    which = torch.arange(n).repeat_interleave(EXAMPLES)
    for part in torch.arange(n * EXAMPLES).split(BATCH):
        x = drawn[which[part], face.flatten()[part]][:, None].float()
        grid = F.affine_grid(maps[part], [len(part), 1, SIZE, SIZE], align_corners=False)
        images[part] = F.grid_sample(x, grid, align_corners=False).round().to(torch.uint8)
    return images.view(n, EXAMPLES, 1, SIZE, SIZE)
