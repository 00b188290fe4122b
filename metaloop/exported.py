"""An adapted predictor, with what is done to pictures before it, as a file that other programs run.

The graph takes `images`, bytes [n, C, H, W] as they are read and resized, and answers `probabilities` [n, classes], for
any n: it inverts a grey picture whose border is mostly light, divides by 255 and asks f, as `metaloop predict` does.
What is not in it is decoding a file and resizing (Lanczos).
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
from torch import Tensor, nn

from .engine.checkpoint import write_bytes
from .nn.functional import at_meta_test
from .torch_private import pytree

EXTRA = "onnx, which writes the file, is not installed: pip install 'metaloop[onnx]'."
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
        x = images.float()
        if self._grey:
            border = torch.cat([x[:, 0, 0], x[:, 0, -1], x[:, 0, :, 0], x[:, 0, :, -1]], -1).mean(-1)
            x = torch.where((border > 127)[:, None, None, None], 255 - x, x)
        f = pytree.tree_unflatten([getattr(self, f"f{i}") for i in range(self._n)], self._spec)
        own = getattr(f, "probabilities", None)
        if own is None:
            return f(x / 255)[:, : self._ways].softmax(-1)
        p = own(x / 255)[:, : self._ways]
        return p / p.sum(-1, keepdim=True)


def graph(f: Callable, about: dict[str, Any]) -> tuple[Graph, Tensor]:
    """The module of a predictor that `load_predictor` read, and a batch of pictures to trace it with.

    Raises ValueError if it is not for pictures.
    """
    shape = tuple(about["pool"]["shape"])
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"export: the predictor is for examples of {'x'.join(map(str, shape))}, not for pictures.")
    made = Graph(f, ways=len(about["classes"]), grey=shape[0] == 1).eval()
    return made, torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def program(f: Callable, about: dict[str, Any]) -> torch.export.ExportedProgram:
    """The graph by `torch.export`, for any number of pictures. Raises ValueError, in a line, where torch cannot."""
    made, images = graph(f, about)
    try:
        with torch.no_grad(), at_meta_test():
            return torch.export.export(made, (images,), dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC}})
    except Exception as error:  # what a graph cannot hold has no common base
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"export: torch cannot make a graph of {type(f).__name__} ({reason}).") from None


def to_torch(path: str | Path, f: Callable, about: dict[str, Any]) -> None:
    """Write the graph as torch's own file: `torch.export.load(path).module()(images)`, without metaloop."""
    made, temporary = program(f, about), Path(f"{path}.{os.getpid()}.pt2")
    try:
        torch.export.save(made, temporary, extra_files={"classes.json": json.dumps(about["classes"])})
        write_bytes(Path(path), temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)


def onnx_bytes(f: Callable, about: dict[str, Any]) -> bytes:
    """The graph in ONNX; its metadata name the classes. Raises ValueError where the extra is absent, too."""
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise ValueError(f"export: {EXTRA}")
    made = program(f, about)
    quiet = logging.getLogger("torch.onnx")
    before, quiet.level = quiet.level, logging.ERROR
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch to itself
            written = torch.onnx.export(
                made, dynamo=True, input_names=["images"], output_names=["probabilities"], verbose=False
            )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"export: {type(f).__name__} cannot be written in ONNX ({reason}).") from None
    finally:
        quiet.level = before
    assert written is not None
    model = written.model_proto
    model.metadata_props.add(key="classes", value=json.dumps(about["classes"]))
    return model.SerializeToString()


def to_onnx(path: str | Path, f: Callable, about: dict[str, Any]) -> None:
    write_bytes(Path(path), onnx_bytes(f, about))


def runtime(given: str | None) -> Path:
    """The folder of onnxruntime-web's files: given, or node_modules/onnxruntime-web/dist here or above.

    Raises ValueError, saying how to get them, if they are not there.
    """
    above = [folder / "node_modules/onnxruntime-web" for folder in (Path.cwd(), *Path.cwd().parents)]
    for place in [Path(given)] if given is not None else above:
        for folder in (place, place / "dist"):
            if all((folder / name).is_file() for name in WEB):
                return folder
    raise ValueError(
        f"export: --html needs onnxruntime-web{f', which is not in {given}' if given else ''}: npm install "
        "onnxruntime-web, here, or name its folder: --onnxruntime-web FOLDER."
    )


def to_html(path: str | Path, f: Callable, about: dict[str, Any], web: Path) -> None:
    """Write one page that classifies a picture in the browser: the graph, and onnxruntime-web out of the folder `web`,
    are in it, so that it works from a disk and without a network."""
    text = lambda data: base64.b64encode(data).decode()
    script, glue, wasm = ((web / name).read_bytes() for name in WEB)
    page = Template((Path(__file__).parent / "exported.html").read_text(encoding="utf-8")).substitute(
        classes=json.dumps(about["classes"]).replace("<", "\\u003c"), shape=json.dumps(list(about["pool"]["shape"])),
        model=text(onnx_bytes(f, about)), script=text(script), glue=text(glue), wasm=text(wasm),
    )  # fmt: skip
    write_bytes(Path(path), page.encode())
