"""Glyphs: letters and symbols rendered from typefaces that ship with the package. Nothing to download."""

import tarfile
import unicodedata
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFont
from torch import Tensor

from .files import Arrays, cached
from .pool import ClassPool, Splits

SIZE, EXAMPLES = 28, 20
CANVAS, SIDE = 2 * SIZE, 40  # glyphs are drawn at twice the size; the longer side of each measures SIDE pixels
BATCH = 2000  # examples bent at once
SCRIPTS = {"CYRILLIC": "val", "ARMENIAN": "test", "GEORGIAN": "test", "LAO": "test"}  # all others train
FONTS = Path(__file__).with_name("fonts")  # made by tools/glyph_fonts.py


def glyphs(*, seed: int = 0) -> Splits:
    """Characters of the DejaVu and STIX typefaces, 20 examples each, images [1, 28, 28] with ink = 1 on paper = 0.

    A class is a letter, digit, symbol or punctuation mark that exists in at least 8 of 16 faces. Its 20
    examples go through its faces in random order, again and again, each under a mild affine change of its own
    (rotation, scale, shear, shift), drawn by `seed`. Every glyph fills the same box, so size tells nothing.
    Characters that look the same in all their faces (A, Alpha and Cyrillic A) are one class.
    Train: Latin, Greek, digits and symbols; val: Cyrillic; test: Armenian, Georgian and Lao; a shape that two
    parts share belongs to the first.

    Rendered in seconds, then cached. The package holds the typefaces and the list of classes; Pillow's FreeType draws.

    >>> glyphs().test.sample(ways=20).support.x.shape
    torch.Size([1, 20, 1, 28, 28])
    """
    settings = f"{version('pillow')} {seed} 2"
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
    images = _bend(drawn, exists, torch.Generator().manual_seed(seed))
    return {
        "images": images.numpy(),
        "names": np.array([unicodedata.name(c) for c in characters]),
        "parts": np.array([_part(c) for c in characters]),
    }


def _part(character: str) -> str:
    return next((SCRIPTS[word] for word in unicodedata.name(character).split() if word in SCRIPTS), "train")


def _draw() -> tuple[list[str], Tensor, Tensor]:
    """The classes' characters, training scripts first; their glyphs, as `render`; which of them exist: [n, faces].

    A line of characters.txt is a character's code point and its faces, both in hexadecimal: bit i is for face i.
    """
    lines = [line.split() for line in (FONTS / "characters.txt").read_text().splitlines()]
    characters = [chr(int(code, 16)) for code, _ in lines]
    with tarfile.open(FONTS / "faces.tar.xz") as archive:
        fonts = [typeface(BytesIO(archive.extractfile(member).read())) for member in archive]  # type: ignore[union-attr]
    exists = torch.tensor([[int(bits, 16) >> face & 1 for face in range(len(fonts))] for _, bits in lines]) == 1
    return characters, render(characters, fonts, exists), exists


def typeface(file: BytesIO | Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, CANVAS, layout_engine=ImageFont.Layout.BASIC)


def render(characters: list[str], fonts: list[ImageFont.FreeTypeFont], exists: Tensor) -> Tensor:
    """The glyphs in the faces that have them, each filling the same box: uint8 [n, faces, CANVAS, CANVAS]."""
    drawn = np.zeros((*exists.shape, CANVAS, CANVAS), np.uint8)
    for n, face in exists.nonzero().tolist():
        mask = fonts[face].getmask(characters[n], "L")
        box = mask.getbbox()
        if box is not None:
            glyph = Image.frombytes("L", mask.size, bytes(mask)).crop(box)
            scale = SIDE / max(glyph.size)
            w, h = (max(1, round(side * scale)) for side in glyph.size)
            x, y = (CANVAS - w) // 2, (CANVAS - h) // 2
            drawn[n, face, y : y + h, x : x + w] = np.asarray(glyph.resize((w, h), Image.Resampling.LANCZOS))
    return torch.from_numpy(drawn)


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
