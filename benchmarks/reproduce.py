"""Work through the rows that are short of their papers for want of steps, one run at a time, in the background.

    python benchmarks/reproduce.py                      what is left of benchmarks/queue.json, in its order
    python benchmarks/reproduce.py RECIPE ...           these of it
    python benchmarks/reproduce.py --list               what is left, and how far it is

Each row of the queue names a recipe, how many meta-steps it gets, its seed, why it is there, and its budget if not the
full one. Its run lies in runs/reproduce and goes on where it was stopped, by Ctrl-C or otherwise. It has one thread and
the lowest priority. When it is done, its figures go to results/ and the tables of the documentation are rebuilt.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from metaloop.engine.lock import Lock
from metaloop.engine.run import checkpoints
from metaloop.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent
QUEUE, RUNS = ROOT / "benchmarks" / "queue.json", Path("runs") / "reproduce"


@dataclass(frozen=True)
class Item:
    """A row of the queue: what to train, for how long, under which budget, and why."""

    recipe: str
    steps: int
    seed: int
    why: str
    budget: str = "full"

    @property
    def folder(self) -> Path:
        return RUNS / f"{self.recipe}{'' if self.budget == 'full' else '-' + self.budget}-seed{self.seed}"

    @property
    def step(self) -> int:
        """How far its newest checkpoint is."""
        return max((int(path.stem.rpartition("-")[2]) for path in checkpoints(self.folder)), default=0)

    @property
    def done(self) -> bool:
        """Trained to its end, and tested on every row of its paper."""
        path = self.folder / "evaluation.json"
        return (
            self.step >= self.steps
            and path.exists()
            and len(json.loads(path.read_text())) >= len(RECIPES[self.recipe].published)
        )

    @property
    def words(self) -> list[str]:
        """Of `metaloop`: begin it, or go on."""
        words = ["train", self.recipe, "--seed", str(self.seed), "--steps", str(self.steps), "--out", str(self.folder)]
        words += [] if self.budget == "full" else ["--budget", self.budget]
        return [*words, "--resume"] if (self.folder / "run.json").exists() else words


def queue(path: Path = QUEUE) -> list[Item]:
    """The rows of a queue's file. Raises ValueError on one that is not as it should be."""
    try:
        items = [Item(**row) for row in json.loads(path.read_text())]
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected a list of recipe, steps, seed, why and perhaps budget ({error}).") from None
    if unknown := [item.recipe for item in items if item.recipe not in RECIPES]:
        raise ValueError(f"{path}: there is no recipe {unknown[0]!r}.")
    return items


def chosen(items: list[Item], names: list[str]) -> list[Item]:
    """Those of these recipes, of all if none is named, that are not done. Raises ValueError on one not in the queue."""
    if strange := [name for name in names if name not in {item.recipe for item in items}]:
        raise ValueError(f"{strange[0]} is not in {QUEUE.name}. There are: {', '.join(item.recipe for item in items)}.")
    return [item for item in items if not item.done and (not names or item.recipe in names)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="of the queue; all unless given")
    parser.add_argument("--list", action="store_true", help="tell what is left, and stop")
    args = parser.parse_args(argv)
    try:
        left = chosen(queue(), args.recipes)
        if args.list:
            for item in left:
                print(f"{item.folder.name}: step {item.step} of {item.steps}. {item.why}")
            return 0
        RUNS.mkdir(parents=True, exist_ok=True)
        with Lock(RUNS):
            return work(left)
    except ValueError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2


def work(left: list[Item]) -> int:
    """One after the other; stops at the first that ends otherwise than well."""
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    lowest = ["nice", "-n", "19"] if os.name == "posix" else []
    for item in left:
        print(f"{item.folder.name}: {item.why}", flush=True)
        done = subprocess.run([*lowest, sys.executable, "-m", "metaloop", *item.words], env=quiet)
        if done.returncode:
            return done.returncode
        subprocess.run([sys.executable, ROOT / "benchmarks" / "results.py", item.folder], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
