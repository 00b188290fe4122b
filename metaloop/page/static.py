"""The page of one run as files, whose learner adapts in the browser: `metaloop serve --static DIR RUN`.

F itself is the graph, from the support pictures, their labels and the queries to p(y | x), by `exported.py`. The page
is opened from a disk, and asks for nothing else.
"""

import base64
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import exported
from ..core import Data
from ..engine.checkpoint import write_bytes
from ..engine.predictor import embedding
from ..torch_private import pytree
from . import asked
from .shown import Trained, prototypes

UNSEEN, EACH = 40, 11  # classes that no training saw, and pictures of each, at most, from which tasks are dealt


class Whole(nn.Module):
    """F(S)(Q): (support [m, C, H, W], labels [m], queries [n, C, H, W]) -> p [n, 20], and places in the run's plane.

    Pictures are bytes as they are read. Classes without an example have probability 0.
    """

    mean: Tensor
    A: Tensor
    scale: Tensor

    def __init__(self, run: Trained):
        super().__init__()
        leaves, self._spec = pytree.tree_flatten(run.run.theta)
        for i, leaf in enumerate(leaves):
            self.register_buffer(f"theta{i}", leaf.detach())
        self._learner, self._n, self._grey = run.run.plan.at_test(ways=asked.CLASSES), len(leaves), run.shape[0] == 1
        assert run.in_plane is not None
        for name, t in zip(("mean", "A", "scale"), run.in_plane, strict=True):
            self.register_buffer(name, t)

    def forward(self, support: Tensor, labels: Tensor, queries: Tensor) -> tuple[Tensor, ...]:
        theta = pytree.tree_unflatten([getattr(self, f"theta{i}") for i in range(self._n)], self._spec)
        x, q = (exported.inked(images, grey=self._grey) for images in (support, queries))
        f = self._learner.adapt(theta, Data(x, labels))
        own = getattr(f, "probabilities", None)
        p = f(q).softmax(-1) if own is None else own(q)
        shown = [p / p.sum(-1, keepdim=True)]
        embed: Any = embedding(f)
        of = [embed(x), embed(q), *([] if (c := prototypes(f, len(self.mean))) is None else [c])]
        return (*shown, *(((z - self.mean) @ self.A) / self.scale for z in of))


def graph(run: Trained) -> bytes:
    """F in ONNX. Raises ValueError, in a line, if it is no metric learner or cannot be a graph."""
    exported.check_onnx()
    what = f"{run.name}, which adapts by {run.about()['recipe']}"
    if run.steps or run.in_plane is None:
        raise ValueError(f"serve: --static is for metric learners, which compare examples, and {run.name} is none.")
    g = torch.Generator().manual_seed(0)
    picture = lambda n: torch.randint(0, 256, (n, *run.shape), dtype=torch.uint8, generator=g)
    given = {"support": picture(7), "labels": torch.tensor([0, 0, 1, 2, 2, 3, 1]), "queries": picture(3)}
    rows = torch.export.Dim("m", min=2), torch.export.Dim("n", min=1)
    free = {"support": {0: rows[0]}, "labels": {0: rows[0]}, "queries": {0: rows[1]}}
    made = exported.traced(Whole(run).eval(), given, free, what)
    outputs = ["p", "of_support", "of_queries", "of_prototypes"][: len(made.graph_signature.user_outputs)]
    return exported.in_onnx(made, what, inputs=[*given], outputs=outputs)


def dealt(run: Trained) -> list[list[str]]:
    """Pictures of unseen classes, of each class as many; none where the data are not at hand."""
    try:
        classes = min(UNSEEN, run.pool.classes or UNSEEN)
        return [[*map(asked.png, x)] for x in run.deal(classes, EACH, 1, 0)["support"]]
    except (ValueError, OSError):
        return []


def build(run: Trained, folder: str | Path, web: Path) -> list[Path]:
    """Write the page into a folder, which is made; web: of onnxruntime-web's files. The files' paths.

    Raises ValueError if the folder holds something else, or the run's learner cannot be in a page.
    """
    folder, sent = Path(folder), files("metaloop.page")
    names = ("index.html", "page.css", "ort.js", "run.js", "static.js")
    if folder.exists() and (not folder.is_dir() or {p.name for p in folder.iterdir()} - {*names}):
        raise ValueError(f"serve: {folder} holds something else. Name a folder that is new.")
    text = lambda data: base64.b64encode(data).decode()
    script, glue, wasm = ((web / name).read_bytes() for name in exported.WEB)
    about = {**run.about(), "still": True}
    limits = {"classes": asked.CLASSES, "examples": asked.EXAMPLES, "queries": asked.QUERIES}
    told = {"about": about, "limits": limits, "shape": run.shape, "unseen": dealt(run), "model": text(graph(run)),
            "glue": text(glue), "wasm": text(wasm)}  # fmt: skip
    page = (sent / "page.html").read_text(encoding="utf-8").replace('"/page.css"', '"page.css"').replace(
        '<script src="/page.js" type="module"></script>',
        "".join(f'<script src="{name}"></script>\n' for name in ("ort.js", "run.js", "static.js"))
        + f'<script type="module">\n{(sent / "page.js").read_text(encoding="utf-8")}</script>',
    )  # fmt: skip  # a module in a file of its own is not read from a disk
    whole = {
        "index.html": page, "page.css": (sent / "page.css").read_text(encoding="utf-8"),
        "ort.js": script.decode(), "run.js": f"const RUN = {json.dumps(told)};\n",
        "static.js": exported.PIXELS.read_text(encoding="utf-8") + (sent / "static.js").read_text(encoding="utf-8"),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_bytes(folder / name, whole[name].encode())
    return [folder / name for name in names]
