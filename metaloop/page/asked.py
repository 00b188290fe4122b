"""What the page's server may be asked: a task in JSON, and its pictures."""

import base64
import binascii
import warnings
from collections import OrderedDict
from hashlib import blake2b
from io import BytesIO
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..tasks.decode import fitted, opaque

BODY = 8 * 2**20  # bytes of a request
PIXELS = 16_000_000  # of all pictures of a request, told by their headers before any is decoded
CLASSES, EXAMPLES, QUERIES = 20, 50, 100  # examples of each class
SIDE = 512  # pixels: what is larger is shrunk as it is read
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
LEARNERS = 100  # of which a request may name those that are to answer
KEPT, MANY = 3 * PIXELS, CLASSES * EXAMPLES + QUERIES  # bytes of pictures, and pictures, kept for the next request


class Picture:
    """A picture, upright in L or RGB, dark on light where it is drawn."""

    def __init__(self, image: Image.Image, pixels: int = 0):
        self.image, self.pixels = image, pixels  # pixels: as many as its file had
        self.size = image.width * image.height * len(image.getbands())  # bytes, with those of `fitted`
        self._fitted: dict[tuple[int, ...], np.ndarray] = {}

    def fitted(self, shape: tuple[int, ...]) -> np.ndarray:
        """uint8 [C, H, W] as `metaloop adapt` reads files; made once."""
        if shape not in self._fitted:
            self._fitted[shape] = fitted(self.image, shape)
            self.size += self._fitted[shape].nbytes
        return self._fitted[shape]


Given = tuple[list[Picture], list[int], list[str], list[Picture]]  # S, its classes, their names; Q

Number = Annotated[float, Field(ge=0, le=1)]
Grid = Annotated[list[Annotated[list[Number], Field(max_length=SIDE)]], Field(max_length=SIDE)]
File = str | Grid  # base64 of a file, as in a data: URL or alone; or grey rows from 0 to 1, ink = 1


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Class(_Strict):
    """A class of the support set."""

    name: Annotated[str, Field(min_length=1, max_length=80)]
    pictures: Annotated[list[File], Field(max_length=EXAMPLES)]


class Asked(_Strict):
    """A task: classes with their examples, and queries. Boxes without a picture count for nothing.

    coverage: how often a conformal set should hold the right class; false_accept: how often, at most, a stranger
    should be taken for one of the classes. learners: the numbers of those that are to answer; all unless given.
    """

    classes: Annotated[list[Class], Field(max_length=CLASSES)]
    queries: Annotated[list[File], Field(max_length=QUERIES)] = []
    coverage: Annotated[float, Field(gt=0, lt=1)] = 0.9
    false_accept: Annotated[float, Field(gt=0, lt=1)] = 0.1
    learners: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=LEARNERS)] | None = None


NAMES = {"classes", "name", "pictures", "queries", "coverage", "false_accept", "learners"}
LARGE = f"{{}} is too large: a task may have {PIXELS:,} pixels in all."
PICTURE = f"expected a picture, as base64 of a file or as at most {SIDE} rows of at most {SIDE} numbers from 0 to 1."


def parse(body: bytes) -> Asked:
    """What is asked. Raises ValueError, in one sentence, on anything else."""
    try:
        return Asked.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        parts = [part for part in first["loc"] if isinstance(part, int) or part in NAMES]
        what = PICTURE if {"pictures", "queries"} & {*parts} and isinstance(parts[-1], int) else f"{first['msg']}."
        raise ValueError(f"{'.'.join(map(str, parts))}: {what}" if parts else what) from None


class Kept:
    """The pictures that were asked about last: from one stroke to the next one picture changes, and the others need not
    be decoded and resized again. `few` leaves at most KEPT bytes of them, with what they were resized to so far. For
    one thread."""

    def __init__(self) -> None:
        self._of: OrderedDict[bytes, Picture] = OrderedDict()

    @property
    def size(self) -> int:
        return sum(picture.size for picture in self._of.values())

    def get(self, key: bytes) -> Picture | None:
        if key in self._of:
            self._of.move_to_end(key)
        return self._of.get(key)

    def put(self, key: bytes, picture: Picture) -> None:
        self._of[key] = picture

    def few(self) -> None:
        """Let the oldest go while they are too many."""
        size = self.size
        while size > KEPT or len(self._of) > MANY:
            size -= self._of.popitem(last=False)[1].size


def pictures(asked: Asked, kept: Kept | None = None) -> Given:
    """The support pictures, the class of each, the classes' names, the queries. kept: of former requests.

    Raises ValueError, in one sentence, if there are fewer than two classes, two are called alike, or a picture is
    damaged or too large.
    """
    filled = [c for c in asked.classes if c.pictures]
    names = [c.name for c in filled]
    if len(names) < 2:
        raise ValueError(f"{len(names)} classes have a picture, and two are the fewest that can be told apart.")
    if twice := [n for i, n in enumerate(names) if n in names[:i]]:
        raise ValueError(f"two classes are called {twice[0]!r}.")
    budget = Budget(kept)
    try:
        support = [(budget.read(p, f"picture {i + 1} of {c.name!r}"), k) for k, c in enumerate(filled)
                   for i, p in enumerate(c.pictures)]  # fmt: skip
        queries = [budget.read(p, f"query {i + 1}") for i, p in enumerate(asked.queries)]
    finally:
        budget.kept.few()
    return [p for p, _ in support], [k for _, k in support], names, queries


class Budget:
    """Reads pictures until their pixels are too many."""

    def __init__(self, kept: Kept | None = None):
        self.left, self.kept = PIXELS, Kept() if kept is None else kept

    def read(self, given: Any, which: str) -> Picture:
        """Raises ValueError, in one sentence, if it is damaged or too large."""
        if not isinstance(given, str):
            return Picture(drawn(given, which))
        key = blake2b(given.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if (found := self.kept.get(key)) is None:
            found = self.decoded(given, which)
            self.kept.put(key, found)
        elif (left := self.left - found.pixels) < 0:
            raise ValueError(LARGE.format(which))
        else:
            self.left = left
        return found

    def decoded(self, given: str, which: str) -> Picture:
        try:
            data = base64.b64decode(given.partition(",")[2] if given.startswith("data:") else given, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"{which} is no base64.") from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is odd in a file that can be read
                with Image.open(BytesIO(data), formats=FORMATS) as file:
                    pixels = file.width * file.height
                    self.left -= pixels
                    if self.left < 0:
                        raise _Large
                    file.draft("RGB", (SIDE, SIDE))
                    image = opaque(ImageOps.exif_transpose(file))
        except (_Large, Image.DecompressionBombError):
            raise ValueError(LARGE.format(which)) from None
        except Exception as error:  # what Pillow raises for damaged files has no common base
            told = f"none of {', '.join(FORMATS)}" if isinstance(error, Image.UnidentifiedImageError) else "damaged"
            raise ValueError(f"{which} cannot be read as a picture: it is {told}.") from None
        image = image if image.mode == "L" else image.convert("RGB")
        image.thumbnail((SIDE, SIDE))
        return Picture(image, pixels)


class _Large(Exception):
    pass


def drawn(grid: list[list[float]], which: str) -> Image.Image:
    """Rows of numbers, ink = 1 on paper = 0, as a picture: dark on light, as what is drawn by hand."""
    if not grid or not grid[0] or len({len(row) for row in grid}) > 1:
        raise ValueError(f"{which} has rows of different lengths, or none.")
    return Image.fromarray((255 - np.asarray(grid) * 255).round().astype(np.uint8))


def png(x: np.ndarray) -> str:
    """Bytes [C, H, W] as a data: URL; grey ones, where ink is light, dark on light."""
    image = Image.fromarray(255 - x[0] if len(x) == 1 else x.transpose(1, 2, 0))
    out = BytesIO()
    image.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def since(began: float) -> float:
    """Milliseconds since a `perf_counter`."""
    return round(1000 * (perf_counter() - began), 1)


async def limited(stream: Any) -> bytes:
    """A request's body, of at most BODY bytes. Raises ValueError."""
    body = bytearray()
    async for part in stream:
        body += part
        if len(body) > BODY:
            raise TooMuch(f"the request is larger than {BODY // 2**20} MiB.")
    return bytes(body)


class TooMuch(ValueError):
    """A request that is too large."""
