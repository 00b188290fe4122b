"""Collect what `metaloop train` and `metaloop evaluate` wrote, and rebuild the tables of the documentation.

    python benchmarks/results.py RUN ...     copy the runs' figures to results/, then rebuild the tables
    python benchmarks/results.py             rebuild the tables from results/
    python benchmarks/results.py --check     exit 1 if the tables are not those of results/

A results file holds run.json and evaluation.json of one run, as the commands wrote them. Rows of the same recipe and
label with several seeds are averaged; their spread over seeds stands beside the interval over tasks.

Nothing here names a system: a recipe's system is the module it trains, a system's family is where the table of contents
in metaloop/__init__.py has it, and a verdict is computed from the figures.
"""

import json
import re
import sys
from collections import defaultdict
from os.path import relpath
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from told import filled

from metaloop.recipes import RECIPES, find

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCS, CONTENTS = ROOT / "results", ROOT / "docs", ROOT / "metaloop" / "__init__.py"
Table = list[dict[str, Any]]  # a line for each recipe and label


def system(recipe: str) -> str:
    return find(recipe).system


def families(contents: str) -> dict[str, str]:
    """Each name's family, in the order of the table of contents: imports `as` a name, below a comment that says it."""
    family, found = "", {}
    for line in contents.splitlines():
        text = line.strip()
        if text.startswith("# "):
            family = text[2:].split(": ")[-1]
        elif text.startswith("from "):
            found |= dict.fromkeys(re.findall(r" as (\w+)", text.partition("#")[0]), family)
    return found


def page(family: str) -> Path:
    """The file of a family's results: `an update rule` has docs/results/update-rule.md."""
    return DOCS / "results" / f"{re.sub('^(an?|the) ', '', family.lower()).replace(' ', '-')}.md"


def about(name: str) -> Path:
    """A system's own page: wherever it lies in docs, but for the results."""
    return next(path for path in sorted(DOCS.rglob(f"{name}.md")) if path.parent.name != "results")


def code(name: str) -> Path:
    """A system's file, where F or the outer loop is written."""
    return next(path for path in sorted((ROOT / "metaloop").glob(f"*/{name}.py")) if path.parent.name != "recipes")


def link(text: str, to: Path, start: Path, section: str = "") -> str:
    return f"[{text}]({relpath(to, start.parent)}{section and '#' + section})"


def collect(folder: Path) -> None:
    """Keep a run's figures for its recipe's row, unless the row has seeds that were trained for more steps."""
    run = json.loads((folder / "run.json").read_text())
    rows = json.loads((folder / "evaluation.json").read_text())
    kept = [json.loads(path.read_text())["run"]["steps"] for path in RESULTS.glob(f"{run['recipe']}-seed[0-9]*.json")]
    if run["steps"] < max(kept, default=0):
        print(f"{folder}: {run['recipe']}'s row has {max(kept)} meta-steps, this run {run['steps']}: the row stays.")
        return
    name = f"{run['recipe']}-seed{run['seed']}.json"
    (RESULTS / name).write_text(json.dumps({"run": run, "evaluation": rows}, indent=2) + "\n")


def rows() -> Table:
    """One row per recipe and label, over its seeds; then the published rows that were not run."""
    groups: dict[tuple[str, str], list[tuple[dict, dict]]] = defaultdict(list)
    for path in sorted(RESULTS.glob("*-seed[0-9]*.json")):
        file = json.loads(path.read_text())
        for row in file["evaluation"]:
            if row.get("split") == "test" and row.get("whole", row["tasks"] >= 1000):
                groups[file["run"]["recipe"], row["label"]].append((file["run"], row))
    table = []
    for (recipe, label), found in groups.items():
        run, row = found[0]
        values = [row["mean"] for _, row in found]
        table.append({
            "recipe": recipe, "label": label, "metric": row["metric"], "published": row["published"],
            "mean": mean(values), "ci95": mean(row["ci95"] for _, row in found),
            "spread": stdev(values) if len(values) > 1 else None, "seeds": [run["seed"] for run, _ in found],
            "row": row, "run": run, "baseline": recipe in RECIPES and RECIPES[recipe].baseline,
        })  # fmt: skip
    for recipe in RECIPES.values():
        for row in recipe.rows():
            if row.published is not None and (recipe.name, row.label) not in groups:
                told = {"published": row.published, "baseline": recipe.baseline}
                table.append({"recipe": recipe.name, "label": row.label, "mean": None, **told})
    return table


def by_family(table: Table) -> dict[str, dict[str, Table]]:
    """family -> system -> rows, both in the order of the table of contents."""
    of = families(CONTENTS.read_text())
    if unknown := {system(r["recipe"]) for r in table} - set(of):
        names = ", ".join(sorted(unknown))
        raise ValueError(f"{names}: in no family. Name it in metaloop/__init__.py.")
    groups: dict[str, dict[str, Table]] = defaultdict(lambda: defaultdict(list))
    for r in sorted(table, key=lambda r: [*of].index(system(r["recipe"]))):
        groups[of[system(r["recipe"])]][system(r["recipe"])].append(r)
    return groups


def percent(r: dict) -> bool:
    """Whether more is better: accuracies are in per cent, all else is an error."""
    return r["metric"].endswith("(%)")


def figure(value: float, r: dict) -> str:
    return f"{value:.2f}" if percent(r) else f"{value:.3g}"


def ours(r: dict) -> str:
    return "not run yet" if r["mean"] is None else f"{figure(r['mean'], r)} ± {figure(r['ci95'], r)}"


def paper(r: dict) -> str:
    return "" if r["published"] is None else f"{r['published']:g}"


def shortfall(r: dict) -> float:
    """By how much the published figure is better than ours."""
    return r["published"] - r["mean"] if percent(r) else r["mean"] - r["published"]


def goal(r: dict) -> bool:
    """Whether a published figure is one to reach."""
    return r["published"] is not None and not r.get("baseline")


def reached(r: dict) -> bool:
    return r["mean"] is not None and goal(r) and shortfall(r) <= r["ci95"]


def verdict(r: dict) -> str:
    """Whether ours is as good as the published figure: at least, within our interval, or short of it by so much."""
    if r["published"] is None:
        return "no published figure"
    if not goal(r):
        return "the paper's baseline"
    if r["mean"] is None:
        return ""
    if reached(r):
        return "reached" if shortfall(r) <= 0 else "reached (±)"
    return f"short by {figure(shortfall(r), r)}"


def share(table: Table) -> str:
    """How many of the published rows are reached."""
    held = [r for r in table if goal(r)]
    return f"{sum(map(reached, held))} of {len(held)} published rows reached" if held else "no published row"


def best(table: Table) -> dict:
    """The row that stands for a system: of those beside a published figure the one that is farthest above it or least
    short of it, in proportion; where none is, the best of those that are like the first, of the fullest budget."""
    run = [r for r in table if r["mean"] is not None]
    if held := [r for r in run if goal(r)]:
        return min(held, key=lambda r: shortfall(r) / r["published"])
    full = [r for r in run if budget(r) == "full"] or run
    like = [r for r in full if (r["label"], r["metric"]) == (full[0]["label"], full[0]["metric"])]
    return min(like, key=lambda r: -r["mean"] if percent(r) else r["mean"])


def budget(r: dict) -> str:
    return r["row"].get("budget", "full")


def title(recipe: str, label: str) -> str:
    """A row's name; the ways and shots of its recipe are in its label."""
    return f"{re.sub(r'-([0-9]+w[0-9]+s|[0-9]+shot)$', '', recipe)}, {label}"


def command(r: dict) -> str:
    """What led to a row: the command that wrote it, after the training if that was another."""
    run, row = r["run"], r["row"]
    wrote = f"`{row['command'].replace(' --resume', '')}`"
    if "metaloop train " in row["command"]:
        return wrote
    seed = f" --seed {run['seed']}" if run["seed"] else ""
    return f"`metaloop train {run['recipe']} --budget {run['budget']} --steps {run['steps']}{seed}`, then {wrote}"


def short_table(table: Table, start: Path) -> str:
    """One line per system."""
    lines = ["| system | paper | row | ours ± 95 % | paper's | verdict | all rows |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    of, groups = families(CONTENTS.read_text()), by_family(table)
    first = {recipe.system: recipe for recipe in reversed(RECIPES.values())}
    for name in (name for name in of if name in first):
        found, called = groups[of[name]].get(name, []), link(f"`{name}`", about(name), start)
        if all(r["mean"] is None for r in found):
            lines.append(f"| {called} | {first[name].paper} | {first[name].name} | not run yet |  |  |  |")
            continue
        r = best(found)
        quick = "" if budget(r) == "full" else f", {budget(r)}"
        lines.append(
            f"| {called} | {find(r['recipe']).paper} "
            f"| {title(r['recipe'], r['label'])}{quick} | {ours(r)} | {paper(r)} | {verdict(r)} "
            f"| {link(share(found), page(of[name]), start, name)} |"
        )
    return "\n".join(lines) + "\n"


def index(table: Table, start: Path) -> str:
    """One line per family."""
    lines = ["| family | systems | rows |", "| --- | --- | --- |"]
    for family, systems in by_family(table).items():
        names = ", ".join(link(f"`{name}`", about(name), start) for name in systems)
        every = [r for found in systems.values() for r in found]
        lines.append(f"| {link(family, page(family), start)} | {names} | {len(every)}: {share(every)} |")
    return "\n".join(lines) + "\n"


def family_page(family: str, systems: dict[str, Table]) -> str:
    """All rows of a family: a section for each system, with the commands that led to them."""
    here = page(family)
    lines = [f"# Results: {family}", "", "<!-- This page is written by benchmarks/results.py. -->"]
    lines += [f"How to read it: {link('results', DOCS / 'results.md', here)}; which rows can be compared: "
              f"{link('protocols', DOCS / 'protocols.md', here)}.", ""]  # fmt: skip
    machines = set()
    for name, found in systems.items():
        pages = f"{link('its page', about(name), here)}, {link(code(name).name, code(name), here)}"
        lines += [f"## {name}", "", f"{share(found)[0].upper()}{share(found)[1:]}. See {pages}.", ""]
        lines += ["| row | ours ± 95 % | paper's | verdict | over seeds | norm | test tasks | meta-steps | training |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
        files: dict[str, list[str]] = {}  # of each command
        for r in found:
            cells = [title(r["recipe"], r["label"]), ours(r), paper(r), verdict(r)]
            if r["mean"] is not None:
                e = r["row"]
                machines.add(f"{describe(e['machine'])}; {listed(e['versions'])}")
                pace = f"{e['training_seconds'] / 60:.0f} min, {e['training_tasks_per_second']:.0f} tasks/s"
                cells += ["" if r["spread"] is None else figure(r["spread"], r), e["norm"], str(e["tasks"])]
                cells += [f"{e['step']} ({budget(r)})", pace]
                paths = {f"seed {s}": RESULTS / f"{r['recipe']}-seed{s}.json" for s in r["seeds"]}
                files[command(r)] = [link(seed, path, here) for seed, path in paths.items()]
            lines.append(f"| {' | '.join([*cells, *[''] * (9 - len(cells))])} |")
        lines += ["", *(f"- {words}: {', '.join(links)}" for words, links in files.items()), ""]
    return "\n".join([*lines, *(f"Machine and versions: {m}." for m in sorted(machines))]) + "\n"


def describe(machine: dict) -> str:
    many = f"{n} processes, " if (n := machine.get("processes", 1)) > 1 else ""
    cores = f"{machine['threads']} of {machine['cores']} cores"
    return f"{machine['cpu']}, {many}{cores}, GPUs: {machine['gpus'] or 'none'}"


def listed(versions: dict[str, str | None]) -> str:
    """The versions of what is installed."""
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def turned_table(told: dict) -> str:
    """One network, its test classes upright and turned."""
    lines = ["| one theta, 1-shot | test classes upright | turned: each quarter turn a class |", "| --- | --- | --- |"]
    rows = {(r["ways"], r["test classes"]): r for r in told["turned"]["rows"]}
    for ways in sorted({ways for ways, _ in rows}):
        both = (rows[ways, how] for how in ("upright", "turned"))
        lines.append(f"| {ways}-way | {' | '.join('{mean:.2f} ± {ci95:.2f}'.format(**r) for r in both)} |")
    t, about = told["turned"], f"{told['machine']['cpu']}; {listed(told['versions'])}"
    lines += ["", f"{t['tasks']} test tasks, {t['queries']} queries per class, {t['steps']} meta-steps; "
              f"`{told['command']}`; {about}."]  # fmt: skip
    return "\n".join(lines) + "\n"


def shared_table(told: dict) -> str:
    """Which characters of one split's test classes another trains on."""
    between, lake = told["shared"]["between"], told["shared"]["lake"]
    names = list(lake)
    shared = {(r["test of"], r["training of"]): f"{r['shared']} of {r['test characters']}" for r in between}
    lines = [f"| test characters | {' | '.join(f'trained on: `{name}`' for name in names)} |"]
    lines += ["| --- |" + " --- |" * len(names)]
    for a in names:
        lines.append(f"| `{a}` | {' | '.join(shared.get((a, b), 'none') for b in names)} |")
    of = 20 * len(lake[names[0]])
    lines.append(f"| Lake's runs | {' | '.join(f'{sum(lake[name])} of {of}' for name in names)} |")
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
        f"On {bench['machine']['threads']} cores, as many times as fast as the fastest of {', '.join(others)}: "
        f"{'; '.join(ratios)}.\n"
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


def parts_table(path: Path) -> str:
    """What networks that are no learners reach: a line for each size that they were tested on."""
    if not path.exists():
        return "Not run yet.\n"
    told = json.loads(path.read_text())
    lines = ["| part | trained on | tested on | exact answers, % | command | CPU seconds |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for name, part in told["parts"].items():
        of = part["trained on"]
        sizes = str(of[0]) if len(of) == 1 else f"{of[0]} to {of[-1]}"
        for n, exact in part["exact (%)"].items():
            lines.append(f"| {name} | {sizes} | {n} | {exact:.2f} | `{part['command']}` | {part['cpu seconds']:.0f} |")
    return "\n".join([*lines, "", f"{describe(told['machine'])}; {listed(told['versions'])}."]) + "\n"


def changes_table(path: Path) -> str:
    """One stroke on the page, from the pen to the answers."""
    if not path.exists():
        return "Not run yet.\n"
    told = json.loads(path.read_text())
    lines = ["| recipes | ways, shots | stroke in a | server, CPU ms | page, CPU ms | ms to the first: median, 90 % "
             "| to all |", "| --- " * 7 + "|"]  # fmt: skip
    for row in told["changes"]:
        times = [", ".join(f"{ms:.0f}" for ms in row[name]) for name in ("first_ms", "all_ms")]
        spent = [f"{row[name]:.1f}" for name in ("server_cpu_ms", "page_cpu_ms")]
        size, recipes = f"{row['ways']}, {row['shots']}", ", ".join(row["recipes"])
        lines.append(f"| {' | '.join([recipes, size, row['stroke'], *spent, *times])} |")
    n = "; ".join(sorted({str(row["changes"]) for row in told["changes"]}))
    busy = f"{told['load_before']:.1f} other processes were at work when it began (load average)"
    return "\n".join([*lines, "", f"{n} strokes each, in Chromium; {describe(told['machine'])}; {busy}."]) + "\n"


def page_table(path: Path) -> str:
    """The page under load, by the number of clients; the last row of a recipe is 200 requests at once."""
    if not path.exists():
        return "Not run yet.\n"
    told = json.loads(path.read_text())
    lines = ["| recipe | clients | answers | refused | per second | ms: median | 99 % | CPU ms |", "| --- " * 8 + "|"]
    for one in told["measured"]:
        for row in one["rows"]:
            times = [f"{row[name]:.0f}" if name in row else "" for name in ("p50_ms", "p99_ms", "cpu_ms")]
            cells = [one["recipe"], row["clients"], row["answers"], row["refused"], f"{row['per_second']:.1f}", *times]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    peaks = "; ".join(f"{one['recipe']} {one['peak_mib'][0]:.0f} MiB, {one['peak_mib'][1]:.0f} MiB after 200 at once"
                      for one in told["measured"])  # fmt: skip
    about = (
        f"`{told['command']}`; {describe(told['machine'])}, which had {told['load_before']:.1f} other processes at "
        f"work when it began (load average); {listed(told['versions'])}. Most memory held: {peaks}."
    )
    return "\n".join([*lines, "", about]) + "\n"


def written() -> dict[Path, str]:
    """What every page with figures should hold: its marked places filled, or all of it."""
    table = rows()
    told = {name: json.loads((RESULTS / f"{name}.json").read_text())
            for name in ("bench-cpu", "bench-queries-cpu", "memory-cpu", "protocols")}  # fmt: skip
    readme, results, protocols = ROOT / "README.md", DOCS / "results.md", DOCS / "protocols.md"
    performance = DOCS / "performance.md"
    pages: dict[Path, str] = {}
    for path, mark, text in (
        (readme, "results", short_table(table, readme)),
        (results, "results", index(table, results)),
        (protocols, "turned", turned_table(told["protocols"])),
        (protocols, "shared", shared_table(told["protocols"])),
        (performance, "speed", speed_line(told["bench-cpu"])),
        (performance, "results", speed_table(told["bench-cpu"])),
        (performance, "queries", queries_table(told["bench-queries-cpu"])),
        (performance, "memory", memory_table(told["memory-cpu"])),
        (DOCS / "page.md", "page", page_table(RESULTS / "page.json")),
        (DOCS / "page.md", "changes", changes_table(RESULTS / "page.json")),
        (DOCS / "parts.md", "parts", parts_table(RESULTS / "parts.json")),
    ):
        pages[path] = filled(pages.get(path, path.read_text()), mark, text, path.name)
    return pages | {page(family): family_page(family, systems) for family, systems in by_family(table).items()}


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    for folder in arguments:
        if folder != "--check":
            collect(Path(folder))
    pages = written()
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    extra = [path for path in (DOCS / "results").glob("*.md") if path not in pages]
    if not check:
        for path in stale:
            path.parent.mkdir(exist_ok=True)
            path.write_text(pages[path])
        for path in extra:
            path.unlink()
    elif stale or extra:
        names = ", ".join(str(path.relative_to(ROOT)) for path in [*stale, *extra])
        print(f"{names}: not what results/ says. Run python benchmarks/results.py.")
    return int(check and bool(stale or extra))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
