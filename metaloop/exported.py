"""An adapted predictor, with what is done to pictures before it, as a file that other programs run.

The graph takes `images`, bytes [n, C, H, W] as they are read and resized, and answers `probabilities` [n, classes], for
any n: it inverts a grey picture whose border is mostly light, divides by 255 and asks f, as `metaloop predict` does.
What is not in it is decoding a file and resizing (Lanczos).

Of a predictor that was made without a run the graph takes bytes [n, 3, H, W] of any one size, as they are decoded, and
resizes them, too: see `Pictures`.
"""

import base64
import json
import logging
import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .engine.checkpoint import write_bytes
from .features.resized import resized
from .nn.functional import at_meta_test
from .own.heads import scores
from .own.pictures import KIND
from .own.predictor import Own
from .torch_private import pytree

EXTRA = "onnx, which writes the file, is not installed: pip install 'metaloop[onnx]'."
PIXELS = Path(__file__).parent / "pixels.js"  # pictures as bytes [C, H, W], in a browser
WEB = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


class Graph(nn.Module):
    """`images` -> `probabilities`: f and its preprocessing as one module, with f's tensors as buffers."""

    def __init__(self, f: Callable, *, ways: int, grey: bool):
        super().__init__()
        leaves, self._spec = pytree.tree_flatten(f)
        self._ways, self._grey, self._n = ways, grey, len(leaves)
        for i, leaf in enumerate(leaves):
            self.register_buffer(f"f{i}", leaf.detach())

    def forward(self, images: Tensor) -> Tensor:
        x = inked(images, grey=self._grey)
        f = pytree.tree_unflatten([getattr(self, f"f{i}") for i in range(self._n)], self._spec)
        own = getattr(f, "probabilities", None)
        if own is None:
            return f(x)[:, : self._ways].softmax(-1)
        p = own(x)[:, : self._ways]
        return p / p.sum(-1, keepdim=True)


def inked(images: Tensor, *, grey: bool) -> Tensor:
    """Bytes [n, C, H, W] as numbers from 0 to 1; grey pictures light on dark, as `metaloop adapt` has them."""
    x = images.float()
    if grey:
        border = torch.cat([x[:, 0, 0], x[:, 0, -1], x[:, 0, :, 0], x[:, 0, :, -1]], -1).mean(-1)
        x = torch.where((border > 127)[:, None, None, None], 255 - x, x)
    return x / 255


class Pictures(nn.Module):
    """`images` -> `probabilities` of a `metaloop.own.Own`: pictures resized as Pillow does, their features, the head.

    Raises ValueError if its features are not made of pictures by arithmetic alone.
    """

    A: Tensor
    G: Tensor

    def __init__(self, f: Own):
        super().__init__()
        self._features: list[Any] = [f.features[name] for name in f.used]
        self._choice = f.choice
        for i, (feature, name) in enumerate(zip(self._features, f.used, strict=True)):
            if not hasattr(feature, "seen"):
                raise ValueError(f"export: {feature.name} cannot be in a graph; ask `metaloop predict`.")
            setattr(self, f"seen{i}", feature.seen())
            self.register_buffer(f"mean{i}", f.means[name])
            self.register_buffer(f"u{i}", f.u[name])
        self.register_buffer("A", f.A)
        self.register_buffer("G", f.G if f.choice.head == "prototypes" else torch.zeros(1, 1))

    def forward(self, images: Tensor) -> Tensor:
        g: Any = 0.0
        for i, (feature, share) in enumerate(zip(self._features, self._choice.features.values(), strict=True)):
            seen: Any = getattr(self, f"seen{i}")
            z = seen(resized(images, feature.shown)).double()
            u = F.normalize(F.normalize(z, dim=1) - getattr(self, f"mean{i}"), dim=1)
            g = g + share * (u @ getattr(self, f"u{i}").T)
        s = scores(self._choice.head, g[None], self.A[None], self.G[None])[0]
        return (s / self._choice.temperature).softmax(1).float()


def graph(f: Callable | Own, about: dict[str, Any]) -> tuple[nn.Module, Tensor, dict[int, Any]]:
    """The module of a predictor that `any_predictor` read, a batch of pictures to trace it with,
    and which of its axes may be of another length.

    Raises ValueError if it is not for pictures.
    """
    if isinstance(f, Own):
        if f.kind != KIND or len(f.classes) < 2:
            what = "one class alone" if f.kind == KIND else f.kind
            raise ValueError(f"export: the predictor is for {what}, not for pictures of two classes or more.")
        return Pictures(f).eval(), _noise(3, 3, 93, 117), dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    shape = tuple(about["pool"]["shape"])
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"export: the predictor is for examples of {'x'.join(map(str, shape))}, not for pictures.")
    made = Graph(f, ways=len(about["classes"]), grey=shape[0] == 1).eval()
    return made, _noise(3, *shape), {0: torch.export.Dim.DYNAMIC}


def _noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def program(f: Callable, about: dict[str, Any]) -> torch.export.ExportedProgram:
    """The graph by `torch.export`, for any number of pictures. Raises ValueError, in a line, where torch cannot."""
    made, images, free = graph(f, about)
    return traced(made, {"images": images}, {"images": free}, type(f).__name__)


def traced(made: nn.Module, given: dict[str, Tensor], free: dict[str, Any], what: str) -> torch.export.ExportedProgram:
    """A module's graph, of arguments such as those given, whose free axes may be of any length. Raises ValueError."""
    try:
        with torch.no_grad(), at_meta_test():
            return torch.export.export(made, tuple(given.values()), dynamic_shapes=free)
    except Exception as error:  # what a graph cannot hold has no common base
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"export: torch cannot make a graph of {what} ({reason}).") from None


def to_torch(path: str | Path, f: Callable, about: dict[str, Any]) -> None:
    """Write the graph as torch's own file: `torch.export.load(path).module()(images)`, without metaloop."""
    if not Path(path).absolute().parent.is_dir():
        raise ValueError(f"export: cannot write {path}: there is no folder {Path(path).parent}.")
    made, temporary = program(f, about), Path(f"{path}.{os.getpid()}.pt2")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch to itself
            torch.export.save(made, temporary, extra_files={"classes.json": json.dumps(about["classes"])})
        write_bytes(Path(path), temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)


def onnx_bytes(f: Callable, about: dict[str, Any]) -> bytes:
    """The graph in ONNX; its metadata name the classes. Raises ValueError where the extra is absent, too."""
    check_onnx()
    names = {"inputs": ["images"], "outputs": ["probabilities"]}
    return in_onnx(program(f, about), type(f).__name__, **names, classes=about["classes"])


def check_onnx() -> None:
    """Raises ValueError where the extra is absent."""
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise ValueError(f"export: {EXTRA}")


def in_onnx(
    made: torch.export.ExportedProgram, what: str, *, inputs: list[str], outputs: list[str], **metadata: Any
) -> bytes:
    """A graph in ONNX. Raises ValueError, in a line, where torch cannot write it."""
    quiet = logging.getLogger("torch.onnx")
    before, quiet.level = quiet.level, logging.ERROR
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch to itself
            written = torch.onnx.export(made, dynamo=True, input_names=inputs, output_names=outputs, verbose=False)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"export: {what} cannot be written in ONNX ({reason}).") from None
    finally:
        quiet.level = before
    assert written is not None
    model = written.model_proto
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    return model.SerializeToString()


def to_onnx(path: str | Path, f: Callable, about: dict[str, Any]) -> None:
    write_bytes(Path(path), onnx_bytes(f, about))


def runtime(given: str | None, call: str = "export: --html") -> Path:
    """The folder of onnxruntime-web's files: given, or node_modules/onnxruntime-web/dist here or above.

    Raises ValueError, saying how to get them, if they are not there.
    """
    above = [folder / "node_modules/onnxruntime-web" for folder in (Path.cwd(), *Path.cwd().parents)]
    for place in [Path(given)] if given is not None else above:
        for folder in (place, place / "dist"):
            if all((folder / name).is_file() for name in WEB):
                return folder
    raise ValueError(
        f"{call} needs onnxruntime-web{f', which is not in {given}' if given else ''}: npm install "
        "onnxruntime-web, here, or name its folder: --onnxruntime-web FOLDER."
    )


def to_html(path: str | Path, f: Callable, about: dict[str, Any], web: Path) -> None:
    """Write one page that classifies a picture in the browser: the graph, and onnxruntime-web out of the folder `web`,
    are in it, so that it works from a disk and without a network."""
    text = lambda data: base64.b64encode(data).decode()
    script, glue, wasm = ((web / name).read_bytes() for name in WEB)
    page = Template((Path(__file__).parent / "exported.html").read_text(encoding="utf-8")).substitute(
        pixels=PIXELS.read_text(encoding="utf-8"), classes=json.dumps(about["classes"]).replace("<", "\\u003c"),
        shape=json.dumps(list(about["pool"]["shape"])), model=text(onnx_bytes(f, about)),
        script=text(script), glue=text(glue), wasm=text(wasm),
    )  # fmt: skip
    write_bytes(Path(path), page.encode())
