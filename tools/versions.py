"""What holds on every supported Python and torch, in a minute or two; warnings are errors.

    python tools/versions.py

Imports everything, tries the laws on five learners, trains a recipe, breaks it off and resumes it to the very weights,
adapts and predicts by the command line. It needs the package alone, none of its extras.
"""

import platform
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import torch
from PIL import Image

import metaloop as ml
from metaloop.cli import main
from metaloop.engine.checkpoint import read
from metaloop.engine.run import checkpoints
from metaloop.testing import LAWS, check

WAYS = 3
DERIVATIVE, ORDER = "meta_gradient_is_the_derivative", "support_order_is_irrelevant"


def tasks(n: int, seed: int) -> ml.Task:
    """Clouds of points in four dimensions."""
    random = torch.Generator().manual_seed(seed)
    return ml.tasks.gaussians(dim=4).sample(n, ways=WAYS, shots=3, queries=4, generator=random)


def laws() -> None:
    torch.manual_seed(0)
    features, net = (ml.functional(ml.nn.mlp((4, 8, out))) for out in (6, WAYS))
    minibatches = {DERIVATIVE: "inner gradients are held constant", ORDER: "inner steps take minibatches of S"}
    learners = {
        "protonet": (ml.protonet(*features, ways=WAYS), {}),
        "matching": (ml.matching(*features, ways=WAYS), {}),
        "maml": (ml.maml(*net, inner_lr=0.5), {}),
        "reptile": (ml.reptile(*net, inner_lr=0.05, inner_steps=5, batch=4), minibatches),
        "snail": (
            ml.snail(*features, ways=WAYS, dim=6, shots=3, filters=4, keys=(4, 4), values=(4, 4)),
            {ORDER: "the support set is a sequence"},
        ),
    }
    compiles = {"compiles_whole_and_once"}
    for name, (learner, waive) in learners.items():
        with_compiler = name == "protonet" and shutil.which("g++")
        check(learner, tasks, waive=waive, laws=[law for law in LAWS if with_compiler or law not in compiles])


def call(*words: object) -> None:
    if status := main([str(word) for word in words]):
        raise SystemExit(f"metaloop {' '.join(map(str, words))}: status {status}")


def use(folder: Path) -> None:
    train = ["train", "protonet-glyphs", "--budget", "smoke", "--checkpoint-every", 1, "--tasks", 20, "--out"]
    call(*train, folder / "run")
    *_, newest = checkpoints(folder / "run")
    whole, _ = read(newest)
    newest.unlink()  # as if killed after the step before
    call(*train, folder / "run", "--resume")
    again, _ = read(newest)
    assert whole.keys() == again.keys()
    assert all(whole[name].equal(again[name]) for name in whole), "a resumed run has other weights"

    task = ml.tasks.glyphs().test.sample(ways=3, shots=2, queries=1)
    for i, (x, y) in enumerate(zip(task.support.x[0], task.support.y[0], strict=True)):
        (folder / "pictures" / str(int(y))).mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * x[0]).byte().numpy()).save(folder / "pictures" / str(int(y)) / f"{i}.png")
    call("adapt", folder / "run", folder / "pictures", "-o", folder / "mine.safetensors")
    call("predict", folder / "mine.safetensors", folder / "pictures" / "0")


def all_names() -> None:
    for name in ml.__all__:
        getattr(ml, name)


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "Guards may run slower on Python 3.13.0")  # torch's word on that Python alone
    began = time.monotonic()
    print(f"Python {platform.python_version()}, torch {torch.__version__}")
    all_names()
    print("every public name is imported", flush=True)
    laws()
    print(f"five learners keep the laws ({time.monotonic() - began:.0f} s)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        use(Path(folder))
    print(f"trained, resumed to the same weights, adapted, predicted ({time.monotonic() - began:.0f} s)")
