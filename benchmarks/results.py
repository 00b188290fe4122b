"""Collect what `metaloop train` and `metaloop evaluate` wrote, and rebuild the tables of the documentation.

    python benchmarks/results.py RUN ...     copy the runs' figures to results/, then rebuild the tables
    python benchmarks/results.py             rebuild the tables from results/
    python benchmarks/results.py --check     exit 1 if the tables are not those of results/

A results file holds run.json and evaluation.json of one run, as the commands wrote them. Rows of the same recipe and
label with several seeds are averaged; their spread over seeds stands beside the interval over tasks.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

from metaloop.recipes import RECIPES, Row, find

ROOT = Path(__file__).resolve().parent.parent
# Where a recipe's system is, by how its name starts.
FILES = {
    "maml": "learners/maml.py", "fomaml": "learners/maml.py", "metasgd": "learners/maml.py",
    "reptile": "learners/reptile.py", "protonet": "learners/protonet.py", "pretrain": "learners/pretrain.py",
    "matching": "learners/matching.py", "snail": "learners/snail.py", "margin": "learners/margin.py",
    "meta-rnn": "learners/meta_rnn.py", "lstm-optimizer": "learners/lstm_optimizer.py",
    "statistician": "learners/neural_statistician.py", "oml": "learners/oml.py",
    "follow-leader": "outer/follow_leader.py", "everything": "outer/follow_leader.py",
    "scratch": "outer/follow_leader.py",
}  # fmt: skip
SHOWN = 6  # rows of a recipe in the README
RESULTS = ROOT / "results"


def collect(folder: Path) -> None:
    run = json.loads((folder / "run.json").read_text())
    rows = json.loads((folder / "evaluation.json").read_text())
    name = f"{run['recipe']}-seed{run['seed']}.json"
    (RESULTS / name).write_text(json.dumps({"run": run, "evaluation": rows}, indent=2) + "\n")


def figure(value: float, metric: str) -> str:
    return f"{value:.2f}" if metric.endswith("(%)") else f"{value:.3g}"


def rows() -> list[dict]:
    """One row per recipe and label, over its seeds."""
    groups: dict[tuple[str, str], list[tuple[dict, dict]]] = defaultdict(list)
    for path in sorted(RESULTS.glob("*-seed*.json")):
        file = json.loads(path.read_text())
        for row in file["evaluation"]:
            if row.get("split") == "test" and row.get("whole", row["tasks"] >= 1000):
                groups[file["run"]["recipe"], row["label"]].append((file["run"], row))
    table = []
    for (recipe, label), found in groups.items():
        metric, values = found[0][1]["metric"], [row["mean"] for _, row in found]
        ours = f"{figure(mean(values), metric)} ± {figure(mean(row['ci95'] for _, row in found), metric)}"
        run, row = found[0]
        published = row["published"]
        table.append({
            "recipe": recipe, "label": label, "metric": metric, "ours": ours, "published": published,
            "mean": mean(values), "seeds": [run["seed"] for run, _ in found], "row": row, "run": run,
            "spread": f"{figure(stdev(values), metric)}" if len(values) > 1 else "–",
        })  # fmt: skip
    return table


def title(recipe: str, label: str) -> str:
    """A row's name; the ways and shots of its recipe are in its label."""
    return f"{re.sub(r'-([0-9]+w[0-9]+s|[0-9]+shot)$', '', recipe)}, {label}"


def verdict(row: dict) -> str:
    """How far from the paper: nothing where it is reached, else the shortfall."""
    if row["published"] is None:
        return ""
    short = row["mean"] - row["published"] if not row["metric"].endswith("(%)") else row["published"] - row["mean"]
    return "reached" if short <= 0 else f"short by {figure(short, row['metric'])}"


def commands(run: dict, row: dict) -> str:
    """What led to a row: the command that wrote it, after the training if that was another."""
    wrote = f"`{row['command'].replace(' --resume', '')}`"
    if "metaloop train " in row["command"]:
        return wrote
    seed = f" --seed {run['seed']}" if run["seed"] else ""
    return f"`metaloop train {run['recipe']} --budget {run['budget']} --steps {row['step']}{seed}`, then {wrote}"


def full_table(table: list[dict]) -> str:
    lines = [
        "| row | ours ± 95 % | paper | | over seeds | norm | meta-steps | training | tasks/s | command, its file |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    machines = set()
    for r in table:
        published = "–" if r["published"] is None else f"{r['published']:g}"
        e = r["row"]
        machines.add(f"{describe(e['machine'])}; {listed(e['versions'])}")
        files = ", ".join(f"[seed {s}](../results/{r['recipe']}-seed{s}.json)" for s in r["seeds"])
        cells = [
            title(r["recipe"], r["label"]), r["ours"], published, verdict(r), r["spread"], e["norm"],
            f"{e['step']} ({e.get('budget', 'full')})", f"{e['training_seconds'] / 60:.0f} min",
            f"{e['training_tasks_per_second']:.0f}",
            f"{commands(r['run'], e)} {files}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    done = {(r["recipe"], r["label"]) for r in table}
    for recipe, row in published_rows():
        if (recipe, row.label) not in done:
            lines.append(f"| {title(recipe, row.label)} | not run yet | {row.published:g} | | | | | | | `{recipe}` |")
    return "\n".join([*lines, "", *(f"Machine and versions: {m}." for m in sorted(machines))]) + "\n"


def published_rows() -> Iterator[tuple[str, Row]]:
    """Every row of every recipe that a paper's figure stands beside."""
    for recipe in RECIPES.values():
        for row in recipe.rows():
            if row.published is not None:
                yield recipe.name, row


def describe(machine: dict) -> str:
    many = f"{n} processes, " if (n := machine.get("processes", 1)) > 1 else ""
    cores = f"{machine['threads']} of {machine['cores']} cores"
    return f"{machine['cpu']}, {many}{cores}, GPUs: {machine['gpus'] or 'none'}"


def listed(versions: dict[str, str | None]) -> str:
    """The versions of what is installed."""
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def short_table(table: list[dict]) -> str:
    """One line per recipe, with its first rows; the full table has the others."""
    lines = ["| paper | file | run | ours ± 95 %, and the paper's in brackets |", "| --- | --- | --- | --- |"]
    recipes: dict[str, list[dict]] = defaultdict(list)
    for r in table:
        recipes[r["recipe"]].append(r)
    for name, found in recipes.items():
        file = next(file for start, file in FILES.items() if name.startswith(start))
        figures = [
            f"{r['label']}: {r['ours']}" + ("" if r["published"] is None else f" ({r['published']:g})")
            for r in found[:SHOWN]
        ]
        if len(found) > SHOWN:
            figures.append(f"[{len(found) - SHOWN} more](docs/results.md)")
        run = f"{name}, {found[0]['row'].get('budget', 'full')}, {found[0]['row']['step']} steps"
        lines.append(f"| {find(name).paper} | [`{Path(file).name}`](metaloop/{file}) | {run} | {'; '.join(figures)} |")
    return "\n".join(lines) + "\n"


def raced(bench: dict) -> str:
    """The command of a race, its machine and versions."""
    about = f"{bench['machine']['cpu']}, {bench['machine']['threads']} threads; {listed(bench['versions'])}"
    return f"`{bench['command']}`; {about}"


def speed_table(bench: dict) -> str:
    lines = []
    for case in bench["cases"]:
        lines += [f"**{case['case']}**", "", "| | ms, median (quartiles) | best other / this | of sgemm |"]
        lines += ["| --- | --- | --- | --- |"]
        for name, row in sorted(case["rows"].items(), key=lambda item: item[1]["median_ms"]):
            low, high = row["quartiles_ms"]
            share = f"{row['gflops'] / bench['sgemm_gflops']:.0%}" if "gflops" in row else ""
            times = f"{row['median_ms']:.1f} ({low:.1f} to {high:.1f})"
            lines.append(f"| {name} | {times} | {row['times_faster_than_the_best_other']:.2f} | {share} |")
        reasons = {n: "not installed" if why.startswith("No module") else why for n, why in case["left_out"].items()}
        lines += ["", *(f"Left out: {name} ({why})." for name, why in reasons.items()), ""]
    return "\n".join([*lines, f"{raced(bench)}; sgemm {bench['sgemm_gflops']:.0f} GFLOP/s."]) + "\n"


def queries_table(bench: dict) -> str:
    """The same race for several numbers of queries: a column for each."""
    cases = [case["case"].split(", ")[1].split()[0] for case in bench["cases"]]
    lines = [f"| ms, median; queries per class | {' | '.join(cases)} |", "| --- |" + " --- |" * len(cases)]
    for name in bench["cases"][0]["rows"]:
        times = [f"{case['rows'][name]['median_ms']:.0f}" for case in bench["cases"]]
        lines.append(f"| {name} | {' | '.join(times)} |")
    for name in ("metaloop", "metaloop, compiled"):
        ratios = [case["rows"][name]["times_faster_than_the_best_other"] for case in bench["cases"]]
        lines.append(f"| best other / {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return "\n".join([*lines, "", f"{raced(bench)}."]) + "\n"


def speed_line(bench: dict) -> str:
    """Our best time in each case, beside the fastest other's."""
    ratios = []
    for case in bench["cases"]:
        ours = [row["times_faster_than_the_best_other"] for name, row in case["rows"].items() if "metaloop" in name]
        ratios.append(f"{case['case']}, {max(ours):.1f}")
    others = sorted({name for case in bench["cases"] for name in case["rows"] if "metaloop" not in name})
    return (
        f"A meta-gradient on {bench['machine']['threads']} cores, as many times as fast as the fastest of "
        f"{', '.join(others)}: {'; '.join(ratios)}. How it was measured, and memory: "
        "[performance](docs/performance.md).\n"
    )


def memory_table(told: dict) -> str:
    """What 64 inner steps take beside one, for each way back and number of queries; whether budgets held."""
    lines = ["| 5-way 1-shot | way back | MB: 1 step, 64 steps | ms: 1 step, 64 steps | memory, 64 steps / 1 step | "
             "time, this / exact at 64 steps |", "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for varied, queries in (("inner steps", "15 queries"), ("inner steps, 1 query per class", "1 query")):
        exact = told["curves"][varied]["exact"]
        for name, points in told["curves"][varied].items():
            one, many = points["1"], points["64"]
            name = name.replace("checkpoint", "recompute")  # as it was called when it was measured
            cells = [
                queries, f"`{name}`", f"{one['bytes'] / 1e6:.1f}, {many['bytes'] / 1e6:.1f}",
                f"{one['ms']:.0f}, {many['ms']:.0f}",
                f"{many['bytes'] / one['bytes']:.2f} ({many['bytes'] / exact['1']['bytes']:.2f} of one exact step)",
                f"{many['ms'] / exact['64']['ms']:.2f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| given to a process of 64 tasks | threads | held before, held at most |", "| --- | --- | --- |"]
    for held in told["budgets"]:
        sizes = f"{held['before'] / 1e6:.0f} MB, {held['most'] / 1e6:.0f} MB"
        lines.append(f'| `memory="{held["memory"]}"` | {held["threads"]} | {sizes} |')
    about = f"`{told['command']}`; {describe(told['machine'])}; {listed(told['versions'])}."
    return "\n".join([*lines, "", about]) + "\n"


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    for folder in arguments:
        if folder != "--check":
            collect(Path(folder))
    table, stale = rows(), []
    bench, queries, memory = (
        json.loads((RESULTS / f"{name}-cpu.json").read_text()) for name in ("bench", "bench-queries", "memory")
    )
    for path, mark, text in (
        (ROOT / "README.md", "results", short_table(table)),
        (ROOT / "README.md", "speed", speed_line(bench)),
        (ROOT / "docs" / "results.md", "results", full_table(table)),
        (ROOT / "docs" / "performance.md", "results", speed_table(bench)),
        (ROOT / "docs" / "performance.md", "queries", queries_table(queries)),
        (ROOT / "docs" / "performance.md", "memory", memory_table(memory)),
    ):
        old = path.read_text()
        place = re.compile(rf"(<!-- {mark} -->\n).*(<!-- /{mark} -->)", re.S)
        new = place.sub(lambda m: m[1] + text + m[2], old)  # noqa: B023
        if new != old:
            stale.append(path.name)
            if not check:
                path.write_text(new)
    if check and stale:
        print(f"the tables of {', '.join(stale)} are not those of results/. Run python benchmarks/results.py.")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
