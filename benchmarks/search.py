"""What a search costs, and what pruning by tasks saves.

    python benchmarks/search.py overhead      CPU seconds of the searcher for a trial, as the journal grows to 1000
    python benchmarks/search.py scores        24 trials of a recipe, each scored on all validation tasks
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
RECIPE, SPACE, STEPS, TASKS = "maml-sinusoid-5shot", {"inner_lr": "1e-4..0.3:log", "tasks": "2..20"}, 100, 200


def overhead(trials: int = 1000, measured: int = 30) -> None:
    """Everything that `search` does for a trial but training and scoring: choose it, keep 200 scores, look at all."""
    import optuna

    from metaloop.outer import search_study as studies
    from metaloop.outer.search import _look
    from metaloop.outer.search_space import read_space, told
    from metaloop.recipes import find

    space, figures = read_space(["inner_lr=1e-3..1:log", "width=8..64", "norm=group,layer,instance"]), {}
    base, chance = find("maml-sinusoid-5shot").plan(budget="smoke"), np.random.default_rng(0)

    def scores(settings: dict) -> list[float]:
        return chance.normal(np.log(settings["inner_lr"]) ** 2, 1, 200).round(7).tolist()

    def spread() -> tuple[dict, dict]:
        distributions = {
            "inner_lr": optuna.distributions.FloatDistribution(1e-3, 1, log=True),
            "width": optuna.distributions.IntDistribution(8, 64),
            "norm": optuna.distributions.CategoricalDistribution(("group", "layer", "instance")),
        }
        return {"inner_lr": float(10 ** chance.uniform(-3, 0)), "width": 9, "norm": "layer"}, distributions

    with TemporaryDirectory() as folder, studies.quiet():
        journal = Path(folder) / "j"
        store, home = studies.open_store(journal), studies.Home(Path(folder), {})
        study = studies.open_study(store, "s", {"space": told(space)}, higher=False)
        for _ in range(trials - 3 * measured):
            params, distributions = spread()
            told_of = scores(params)
            study.add_trial(optuna.trial.create_trial(
                params=params, distributions=distributions, value=float(np.mean(told_of)),
                user_attrs={"per_task": told_of, "seconds": 1.0, "place": home.place},
            ))  # fmt: skip
        began = time.process_time()
        study = studies.open_study(studies.open_store(journal), "s", {"space": told(space)}, higher=False)
        known = len(study.get_trials(deepcopy=False))
        figures["opening"] = {"s of CPU": round(time.process_time() - began, 3), "trials": known,
                              "bytes": journal.stat().st_size}  # fmt: skip
        for sampler in ("random", "tpe"):
            study.sampler, taken, ended = studies.make_sampler(sampler, space, trials, 0), [], {}
            for _ in range(measured):
                began = time.process_time()
                found = studies.next_trial(store, study, home, trials)
                assert found is not None
                trial, lock = found
                chosen = studies.suggest(trial, space)
                _look(study, space, trials, base, False, {}, ended)
                trial.set_user_attr("per_task", scores(chosen))
                trial.set_user_attr("seconds", 1.0)
                study.tell(trial, 1.0)
                lock.release()
                _look(study, space, trials, base, False, {}, ended)
                taken.append(1e3 * (time.process_time() - began))
            middle, count = float(np.median(taken)), len(study.get_trials(deepcopy=False))
            told_of = {"ms of CPU per trial": round(middle, 2), "largest": round(max(taken), 2)}
            figures[sampler] = {**told_of, "trials": count}
    keep(OVERHEAD, figures)


def scores() -> None:
    import metaloop as ml

    how = {"steps": STEPS, "validation_tasks": TASKS, "test_tasks": 0, "device": "cpu"}
    found = ml.search(RECIPE, SPACE, trials=24, sampler="random", out="runs/search-pruning", **how)
    if not found.complete:  # another worker is at the rest
        return
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
