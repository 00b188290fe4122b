"""Small things to run the command line on: folders of images, runs of a step or two."""

import numpy as np
from PIL import Image

from metaloop.engine import fit
from metaloop.recipes import find


def image_folder(path, classes: int, each: int, *, size: int = 28, seed: int = 0):
    """One sub-folder per class: a coarse pattern of its own, shown through noise, dark on light."""
    random = np.random.default_rng(seed)
    for k in range(classes):
        pattern = np.kron(random.integers(0, 2, (7, 7)), np.ones((size // 7, size // 7)))
        pattern[[0, -1]] = pattern[:, [0, -1]] = 0
        (path / f"class{k:02d}").mkdir(parents=True)
        for i in range(each):
            noisy = 255 - 200 * pattern + random.normal(0, 20, pattern.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path / f"class{k:02d}" / f"{i}.png")
    return path


def make_run(
    folder, recipe: str, pool=None, *, steps: int = 1, data: str | None = None, seed: int = 0, budget: str = "full"
):
    """A run as `metaloop train` leaves it, without validation and scores."""
    plan, settings = find(recipe).plan(pool, steps=steps, budget=budget), find(recipe).settings(budget)
    info = {"recipe": recipe, "data": data, "budget": budget, "settings": settings, "steps": steps, "compile": False}
    info["pool"] = (plan.pool if pool is None else pool).outline()
    options = {**plan.training(), "validate_every": None, "progress": False, "device": "cpu"}
    run = fit(plan.learner, plan.pool, **options, out=folder, info=info, seed=seed)
    run.plan = plan
    return run


def files(folder) -> dict[str, bytes]:
    """What a folder holds."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
