"""Pictures larger than memory allows: 100 000 of 84x84 decoded and dealt in 5-way tasks, with what it takes.

    python benchmarks/pools.py [--pictures 100000] [--out docs/performance/pools.json]

Pictures are made, as JPEG, in a temporary folder. Decoding is compared with one picture after another into memory, as
`read_folder` does, on a part of them; both on the cores of this process. What else the machine does meanwhile counts:
CPU seconds stand beside seconds. Resident memory is the kernel's VmHWM, the most that this process ever held.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, CLASSES, TASKS = 84, 100, 32


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["METALOOP_CACHE"] = str(Path(folder) / "cache")
        paths = make(Path(folder) / "pictures", args.pictures)
        told = measured(Path(folder) / "pictures", paths, args.batches)
    print(json.dumps(told, indent=2))
    if args.out:
        args.out.write_text(json.dumps(told, indent=2) + "\n")


def make(folder: Path, n: int) -> list[Path]:
    """Pictures of soft blobs under some noise; their files are of the size of mini-ImageNet's, 3 kB."""
    random, paths = np.random.default_rng(0), []
    for k in range(CLASSES):
        (folder / f"class{k:03}").mkdir(parents=True)
        for i in range(n // CLASSES):
            coarse = Image.fromarray(random.integers(0, 255, (12, 12, 3), np.uint8)).resize((SIDE, SIDE))
            x = np.asarray(coarse) + random.normal(0, 6, (SIDE, SIDE, 3))
            paths.append(folder / f"class{k:03}" / f"{i}.jpg")
            Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=85)
    return paths


def spent(work) -> dict[str, float]:
    """Seconds, and CPU seconds of this process and of those it started."""
    used = lambda: sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    began, cpu = time.perf_counter(), used()
    work()
    return {"seconds": round(time.perf_counter() - began, 2), "cpu_seconds": round(used() - cpu, 2)}


def most_resident() -> float | None:
    """MB, where the kernel tells."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024, 1)


def measured(folder: Path, paths: list[Path], batches: int) -> dict:
    import torch

    import metaloop as ml

    torch.set_num_threads(1)
    pools, imported = [], most_resident()
    decoding = spent(lambda: pools.append(ml.tasks.folder(folder, channels=3, size=SIDE)))
    again = spent(lambda: pools.append(ml.tasks.folder(folder, channels=3, size=SIDE)))
    (pool, _), generator = pools, torch.Generator().manual_seed(0)

    def deal() -> None:
        for _ in range(batches):
            pool.train.sample(tasks=TASKS, ways=5, shots=1, queries=15, generator=generator)

    dealing, most = spent(deal), most_resident()
    some = paths[:: max(1, len(paths) // 5000)]
    one_by_one(some[:200])
    alone = min((spent(lambda: one_by_one(some)) for _ in range(2)), key=lambda b: b["cpu_seconds"])
    of_one = {key: value / len(some) * len(paths) for key, value in alone.items()}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "pictures": len(paths), "shape": list(pool.shape), "bytes": len(paths) * 3 * SIDE * SIDE,
        "one_by_one": {**{key: round(value, 2) for key, value in of_one.items()}, "measured_on": len(some)},
        "decoding": decoding, "times_as_fast": round(of_one["seconds"] / decoding["seconds"], 2),
        "cpu_of_one_by_one": round(of_one["cpu_seconds"] / decoding["cpu_seconds"], 2),
        "opening_again": again, "dealing": {**dealing, "batches": batches, "tasks_each": TASKS},
        "most_resident_mb": most, "of_which_before_mb": imported,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": load, "python": platform.python_version(), "torch": torch.__version__, "system": sys.platform,
    }  # fmt: skip


def one_by_one(paths: list[Path]) -> None:
    """As pictures were decoded before there was a file for them: by one core, into memory. Kept as it was."""
    import torch
    from PIL import ImageOps

    images = []
    for path in paths:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
        image = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        images.append(torch.from_numpy(np.array(image)).view(SIDE, SIDE, 3).permute(2, 0, 1).contiguous())
    torch.stack(images).numpy()


if __name__ == "__main__":
    main()
