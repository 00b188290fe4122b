"""Makes metaloop/tasks/fonts: the characters that `glyphs` draws, and subsets of the typefaces that draw them.

    python tools/glyph_fonts.py [FOLDER]       FOLDER: into which (metaloop/tasks/fonts)

What is in the package was made with matplotlib 3.11.2, whose DejaVu 2.37 and STIX 1.0.0 typefaces these are, fonttools
4.68.0 and Pillow 13.0.0; anything newer may choose other classes, and published rows stay with what is there. Every
glyph of a subset is compared with the whole typeface's, pixel by pixel.
"""

import io
import lzma
import shutil
import sys
import tarfile
import unicodedata
from collections import defaultdict
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from fontTools import subset
from fontTools.ttLib import TTFont
from torch import Tensor

from metaloop.tasks.glyphs import FONTS, _part, render, typeface

FACES = 8  # a character must exist in at least this many typefaces
ALIKE = 0.1  # two characters this close (see `distinct`) are one class


def main(to: Path) -> None:
    source = Path(matplotlib.get_data_path(), "fonts", "ttf")
    paths = sorted(p for p in source.glob("*.ttf") if p.name.startswith(("DejaVu", "STIXGeneral")))
    paths = [p for p in paths if "Display" not in p.name]
    whole = [typeface(p) for p in paths]
    characters, drawn, exists = choose(paths, whole)
    to.mkdir(parents=True, exist_ok=True)
    bits = (exists.long() << torch.arange(len(paths))).sum(1).tolist()
    lines = [f"{ord(c):04x} {of:04x}\n" for c, of in zip(characters, bits, strict=True)]
    (to / "characters.txt").write_text("".join(lines))
    faces = [part_of(p, [c for c, e in zip(characters, exists[:, i], strict=True) if e]) for i, p in enumerate(paths)]
    if not render(characters, [typeface(io.BytesIO(face)) for face in faces], exists).equal(drawn):
        raise SystemExit("The subsets do not draw what the typefaces draw.")
    with tarfile.open(to / "faces.tar.xz", "w:xz", preset=9 | lzma.PRESET_EXTREME) as archive:
        for path, face in zip(paths, faces, strict=True):
            member = tarfile.TarInfo(path.name.replace("STIX", ""))  # STIX is a reserved name
            member.size = len(face)
            archive.addfile(member, io.BytesIO(face))
    for path in source.glob("LICENSE_*"):
        shutil.copy(path, to)
    print(f"{len(characters)} characters, {int(exists.sum())} glyphs, {(to / 'faces.tar.xz').stat().st_size} bytes")


def choose(paths: list[Path], fonts: list) -> tuple[list[str], Tensor, Tensor]:
    """The classes' characters, training scripts first; their glyphs; which of them exist."""
    faces = defaultdict(list)
    for face, path in enumerate(paths):
        for code in TTFont(path).getBestCmap():
            if wanted(chr(code)):
                faces[chr(code)].append(face)
    order = ["train", "val", "test"]
    characters = sorted((c for c in faces if len(faces[c]) >= FACES), key=lambda c: (order.index(_part(c)), c))
    has = torch.zeros(len(characters), len(paths), dtype=torch.bool)
    for n, character in enumerate(characters):
        has[n, faces[character]] = True
    drawn = render(characters, fonts, has)
    exists = drawn.flatten(2).amax(2) > 0
    enough = (exists.sum(1) >= FACES).nonzero()[:, 0]
    kept = enough[distinct(drawn[enough], exists[enough])]
    return [characters[n] for n in kept.tolist()], drawn[kept], exists[kept]


def wanted(character: str) -> bool:
    """Letters, numbers, symbols and punctuation; not the patterns of Braille, nor pieces of boxes and blocks."""
    if unicodedata.category(character)[0] not in "LNSP" or "\u2500" <= character <= "\u259f":
        return False
    return not unicodedata.name(character, "BRAILLE").startswith("BRAILLE")


def distinct(drawn: Tensor, exists: Tensor) -> Tensor:
    """The characters unlike all kept before them.

    The distance of a and b is |a - b|^2 / min(|a|^2, |b|^2), summed over the faces that have both.
    """
    x = torch.cat([F.avg_pool2d(part / 255, 4).flatten(2) for part in drawn.split(200)])
    norm = x.square().sum(2) @ exists.float().T  # [a, b]: |a|^2 over the faces that have b; |a| = 0 in others
    x = x.flatten(1)
    distance = (norm + norm.T - 2 * x @ x.T) / torch.minimum(norm, norm.T)
    distance = distance.nan_to_num(torch.inf)  # 0 / 0: no face in common
    kept = torch.zeros(len(x), dtype=torch.bool)
    for c in range(len(x)):
        kept[c] = not kept.any() or distance[c, kept].min() >= ALIKE
    return kept.nonzero()[:, 0]


def part_of(path: Path, characters: list[str]) -> bytes:
    """The typeface with these characters alone, without a name of its own.

    STIX has no instructions of its own: FreeType takes its stems and heights from all Greek and Cyrillic letters of
    the typeface, which therefore stay.
    """
    options = subset.Options(layout_features=[], name_IDs=[0], recalc_bounds=False)
    options.drop_tables += ["FFTM", "GDEF", "GPOS", "GSUB", "MATH", "gasp", "kern", "post"]
    font = subset.load_font(str(path), options)
    codes = {ord(c) for c in characters}
    if "fpgm" not in font:
        codes |= {code for code in font.getBestCmap() if 0x370 <= code < 0x530}
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=codes)
    subsetter.subset(font)
    wide = max(codes) > 0xFFFF
    font["cmap"].tables = [t for t in font["cmap"].tables if (t.platformID, t.format) == (3, 12 if wide else 4)]
    out = io.BytesIO()
    font.save(out)
    return out.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FONTS)
