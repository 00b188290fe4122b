"""What a search costs, and what pruning by tasks saves.

    python benchmarks/search.py overhead      CPU seconds of the searcher for a trial, as the journal grows to 1000
    python benchmarks/search.py scores        24 trials of a recipe, each scored on all validation tasks: a table
    python benchmarks/search.py pruning       the same trials with pruning, in 20 orders of trials and tasks

Results are in results/search-overhead.json and results/search-pruning.json.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from metaloop.engine.run import machine, versions
from metaloop.outer.search_prune import blocks, worse

ROOT = Path(__file__).resolve().parent.parent
OVERHEAD, PRUNING = (ROOT / "results" / f"search-{name}.json" for name in ("overhead", "pruning"))
RECIPE, SPACE, STEPS, TASKS = "maml-sinusoid-5shot", {"inner_lr": "1e-4..0.3:log", "tasks": "2..20"}, 150, 200


def overhead(trials: int = 1000) -> None:
    """Everything that `search` does for a trial but training and scoring: choose it, keep 200 scores, look at all."""
    from metaloop.outer import search_study as studies
    from metaloop.outer.search import _look
    from metaloop.outer.search_space import read_space, told
    from metaloop.recipes import find

    space, figures = read_space(["inner_lr=1e-3..1:log", "width=8..64", "norm=group,layer,instance"]), {}
    base = find("maml-sinusoid-5shot").plan(budget="smoke")
    for sampler in ("random", "tpe"):
        chance, taken = np.random.default_rng(0), []
        with TemporaryDirectory() as folder, studies.quiet():
            store, home = studies.open_store(Path(folder) / "j"), studies.Home(Path(folder), {})
            study = studies.open_study(store, "s", {"space": told(space)}, higher=False)
            study.sampler = studies.make_sampler(sampler, space, trials, 0)
            for _ in range(trials):
                began = time.process_time()
                found = studies.next_trial(store, study, home, trials)
                assert found is not None
                trial, lock = found
                chosen = studies.suggest(trial, space)
                _look(study, space, trials, base, False, {})
                scores = chance.normal(np.log(chosen["inner_lr"]) ** 2, 1, 200).round(7).tolist()
                trial.set_user_attr("per_task", scores)
                trial.set_user_attr("seconds", 1.0)
                study.tell(trial, float(np.mean(scores)))
                lock.release()
                _look(study, space, trials, base, False, {})
                taken.append(time.process_time() - began)
            size = (Path(folder) / "j").stat().st_size
            began = time.process_time()
            store = studies.open_store(Path(folder) / "j")
            again = studies.open_study(store, "s", {"space": told(space)}, higher=False)
            assert len(again.get_trials(deepcopy=False)) == trials
            opened = time.process_time() - began
        figures[sampler] = {
            "ms of CPU per trial, first 100": round(1e3 * float(np.mean(taken[:100])), 2),
            "ms of CPU per trial, last 100": round(1e3 * float(np.mean(taken[-100:])), 2),
            "s of CPU to open the journal": round(opened, 2), "bytes of the journal": size,
        }  # fmt: skip
    keep(OVERHEAD, {"trials": trials, "samplers": figures})


def scores() -> None:
    import metaloop as ml

    with TemporaryDirectory() as folder:
        how = {"steps": STEPS, "validation_tasks": TASKS, "test_tasks": 0, "device": "cpu"}
        found = ml.search(RECIPE, SPACE, trials=24, sampler="random", out=folder, **how)
    table = [[float(f"{s:.4g}") for s in t.per_task] for t in found.trials if t.state == "done"]
    settings = [t.settings for t in found.trials if t.state == "done"]
    about = {"recipe": RECIPE, "space": SPACE, "steps": STEPS, "metric": found.metric, "higher": found.higher}
    keep(PRUNING, {**about, "settings": settings, "per_task": table})


def replay(table: np.ndarray, higher: bool) -> tuple[int, int]:
    """Which trial a search with pruning chooses, and how many tasks it scores, in the order of the table."""
    best, count = 0, 0
    mean = lambda i: (1 if higher else -1) * table[i].mean()
    for i, row in enumerate(table):
        pruned = False
        for part in blocks(len(row)):
            count += len(part)
            if i and part.stop < len(row) and worse(row[: part.stop].tolist(), table[best].tolist(), higher=higher):
                pruned = True
                break
        if not pruned and mean(i) > mean(best):
            best = i
    return best, count


def orders(table: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An order of trials and one of tasks."""
    chance = np.random.default_rng(seed)
    return chance.permutation(table.shape[0]), chance.permutation(table.shape[1])


def prunings(kept: dict, seeds: int = 20) -> list[tuple[bool, float]]:
    """For each seed: the same choice as without pruning?, and the share of tasks that were scored."""
    table, found = np.array(kept["per_task"]), []
    means = table.mean(1)
    choice = int(means.argmax() if kept["higher"] else means.argmin())
    for seed in range(seeds):
        trials, tasks = orders(table, seed)
        best, count = replay(table[trials][:, tasks], kept["higher"])
        found.append((int(trials[best]) == choice, count / table.size))
    return found


def pruning() -> None:
    kept = json.loads(PRUNING.read_text())
    found = prunings(kept)
    kept["same choice"] = sum(same for same, _ in found)
    kept["share of tasks scored"] = [round(share, 4) for _, share in found]
    print(f"the same choice in {kept['same choice']} of {len(found)}, mean share {np.mean([s for _, s in found]):.3f}, "
          f"largest {max(s for _, s in found):.3f}")  # fmt: skip
    keep(PRUNING, kept)


def keep(path: Path, told: dict) -> None:
    told = {**told, "machine": machine(), "versions": versions(), "command": " ".join(["python", *sys.argv])}
    path.write_text(json.dumps(told, separators=(",", ":")) + "\n")
    print({name: value for name, value in told.items() if name not in ("per_task", "settings")})


def main(words: Sequence[str]) -> None:
    {"overhead": overhead, "scores": scores, "pruning": pruning}[words[0]]()


if __name__ == "__main__":
    main(sys.argv[1:])
