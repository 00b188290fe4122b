"""Write a predictor for other programs: ONNX, torch.export, or a page for the browser."""

import json
from pathlib import Path

from .console import say, suggest
from .options import ONNXRUNTIME_WEB, option

OPTIONS = (
    option("file", metavar="FILE", help="a predictor, made by `metaloop adapt`"),
    option("--onnx", action="store_true", help="for onnxruntime and others: FILE.onnx"),
    option("--torch", action="store_true", help="for torch without metaloop: FILE.pt2"),
    option("--html", action="store_true", help="one page that classifies a picture in the browser: FILE.html"),
    option("-o", "--output", metavar="FILE", help="the file's name, where one is written"),
    ONNXRUNTIME_WEB,
)  # fmt: skip
USE = {
    "onnx": 'onnxruntime.InferenceSession({!r}).run(None, {{"images": images}})',
    "torch": "torch.export.load({!r}).module()(images)",
    "html": "open {} in a browser",
}
BEGINS = {"onnx": b"\x08", "torch": b"PK", "html": b"<!doctype html"}


def run(args) -> None:
    kinds = [kind for kind in ("onnx", "torch", "html") if getattr(args, kind)]
    if not kinds:
        raise ValueError("export: say what to write: --onnx, --torch or --html.")
    if args.output and len(kinds) > 1:
        raise ValueError(f"export: -o {args.output} is one name, for {len(kinds)} files. Leave it out.")
    from .. import exported
    from ..recipes.stored import any_predictor

    f, about = any_predictor(args.file)
    if "own" in about:
        if args.html:
            raise ValueError(f"export: --html is for predictors of a run, and {args.file} was made without one. "
                             "--onnx and --torch are for both.")  # fmt: skip
        about, takes = {"classes": f.classes}, "3, height, width"
    else:
        takes = ", ".join(map(str, about["pool"]["shape"]))
    web = exported.runtime(args.onnxruntime_web) if args.html else None
    use = []
    paths = [Path(args.output or Path(args.file).with_suffix("." + {"torch": "pt2"}.get(kind, kind))) for kind in kinds]
    for kind, path in zip(kinds, paths, strict=True):
        _keep_others(kind, path, Path(args.file))
    for kind, path in zip(kinds, paths, strict=True):
        if kind == "html":
            assert web is not None
            exported.to_html(path, f, about, web)
        else:
            {"onnx": exported.to_onnx, "torch": exported.to_torch}[kind](path, f, about)
        say(f"{path}: images, bytes [n, {takes}] -> probabilities "
            f"[n, {len(about['classes'])}], {path.stat().st_size / 1e6:.1f} MB")  # fmt: skip
        use.append(USE[kind].format(str(path)))
    say(f"classes: {json.dumps(about['classes'], ensure_ascii=False)}")
    suggest(*use)


def _keep_others(kind: str, path: Path, predictor: Path) -> None:
    """Raises ValueError, before anything takes long, if there is something else than an older export."""
    if not path.exists():
        return
    if path.resolve() == predictor.resolve():
        raise ValueError(f"export: {path} is the predictor itself. Choose another name.")
    begins = b""
    if path.is_file():
        with open(path, "rb") as file:
            begins = file.read(len(BEGINS[kind])).lower()
    if begins != BEGINS[kind].lower():
        raise ValueError(f"export: {path} is there and no earlier export, so it is kept. Choose another name.")
