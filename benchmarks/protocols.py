"""What a protocol is worth: one network on turned and on upright test classes; which characters splits share.

    python benchmarks/protocols.py       writes results/protocols.json, in some minutes on one core; needs Omniglot

docs/protocols.md shows the figures; benchmarks/results.py puts them there.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

import metaloop as ml
from metaloop.engine.run import machine, versions

ROOT = Path(__file__).resolve().parent.parent
STEPS, TASKS, QUERIES = 1000, 1000, 5


def turned_and_upright() -> dict[str, Any]:
    """The same theta on the test classes as they are, and with their quarter turns as classes of their own."""
    pools = {
        name: ml.tasks.omniglot(split="vinyals", rotations="classes", rotations_at_test=turns, validation=False)
        for name, turns in (("upright", None), ("turned", "classes"))
    }
    train = pools["upright"]
    net, init = ml.functional(ml.nn.conv4(train.shape, norm_policy="running", downsample="stride"))
    run = ml.fit(
        ml.protonet(net, init, ways=20), train, steps=STEPS, tasks=1, ways=20, shots=1, queries=QUERIES,
        at_test=ml.protonet(net.eval(), init, ways=5), progress=False,
    )  # fmt: skip
    rows = []
    for ways in (5, 20):
        for name, pool in pools.items():
            f = ml.protonet(net.eval(), init, ways=ways)
            score = ml.evaluate(f, run.theta, pool, ways=ways, shots=1, queries=QUERIES, tasks=TASKS)
            rows.append({
                "ways": ways, "test classes": name, "classes": pool.test.classes,
                "mean": 100 * score.mean, "ci95": 100 * score.ci95,
            })  # fmt: skip
    return {"steps": STEPS, "tasks": TASKS, "shots": 1, "queries": QUERIES, "rows": rows}


def shared() -> dict[str, Any]:
    """How many test characters of one split another may train on (validation counted in); the same for Lake's runs."""
    names = {
        split: {part: set(getattr(pool, part).names) for part in ("train", "val", "test")}
        for split in ("vinyals", "random", "background")
        for pool in [ml.tasks.omniglot(split=split, rotations=None)]
    }
    seen = {split: parts["train"] | parts["val"] for split, parts in names.items()}
    between = [
        {"test of": a, "training of": b, "test characters": len(names[a]["test"]),
         "shared": len(names[a]["test"] & seen[b])}
        for a in names for b in names if a != b
    ]  # fmt: skip
    pools = ml.tasks.omniglot(split="vinyals", rotations=None)
    known: dict[bytes, str] = {}
    for part in (pools.train, pools.val, pools.test):
        for picture, name in zip(part.images.view(-1, 20, 28 * 28), part.names, strict=True):
            known |= {one.numpy().tobytes(): name for one in picture}
    task = ml.tasks.lake_runs().sample(tasks=20, ways=20, shots=1, queries=1)
    pictures = (255 * task.support.x).round().to(torch.uint8).flatten(2)
    runs = [[known[one.numpy().tobytes()] for one in run] for run in pictures]
    lake = {split: [sum(c in seen[split] for c in run) for run in runs] for split in names}
    return {"between": between, "lake": lake}


def main() -> int:
    torch.set_num_threads(1)
    told = {
        "command": "python benchmarks/protocols.py", "shared": shared(), "turned": turned_and_upright(),
        "machine": machine(), "versions": versions(),
    }  # fmt: skip
    (ROOT / "results" / "protocols.json").write_text(json.dumps(told, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
