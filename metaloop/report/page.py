"""The report as one HTML file: no script, nothing loaded from elsewhere."""

from collections.abc import Sequence
from html import escape
from typing import Any

from .svg import Line, chart

Findings = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #676c74; --rule: #dcdfe4; --paper: #fff; --card: #f6f7f9;
  --c0: #2563c4; --c1: #c2410c; --c2: #1a1d21; --good: #15803d; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa1ab; --rule: #363b43; --paper: #15181c;
  --card: #1e2227; --c0: #7cb0ff; --c1: #ff9d5c; --c2: #e6e8eb; --good: #5fd38a; --bad: #ff8a80; } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin: 2.75rem 0 .75rem }
p { margin: .4rem 0; max-width: 44rem } .soft, figcaption, th { color: var(--soft) }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 400 } th, td { padding: .4rem 1rem .4rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top } .scores td { white-space: nowrap }
.scores td:last-child { white-space: normal; min-width: 14rem } .scores td:nth-child(2) { font-weight: 650 }
.facts { align-self: start } .facts th { width: 11rem; white-space: nowrap }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1.5rem }
svg text { font-size: 12px; fill: var(--soft) } .three svg text { font-size: 16px }
.three { grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)) }
figure { margin: 0 } figcaption { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .85rem }
figcaption b { color: var(--ink); font-weight: 600 } svg { display: block; width: 100%; height: auto }
.grid { stroke: var(--rule); stroke-width: .7 }
.axis { stroke: var(--soft); stroke-width: 1 }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round } .band { opacity: .16 }
.line.c0 { stroke: var(--c0) } .line.c1 { stroke: var(--c1) } .line.c2 { stroke: var(--c2); stroke-dasharray: 5 4 }
.band.c0, .dot.c0 { fill: var(--c0) } .band.c1, .dot.c1 { fill: var(--c1) } .dot.c2 { fill: var(--c2) }
.key { display: inline-block; width: 1.1em; height: 3px; margin-right: .4em; vertical-align: middle }
.key.round { width: 8px; height: 8px; border-radius: 50% } .key.c0 { background: var(--c0) }
.key.c1 { background: var(--c1) } .key.c2 { background: var(--c2) }
.task { margin: 1rem 0 1.5rem } .classes { display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); margin-top: .4rem }
.class { background: var(--card); border-radius: 8px; padding: .5rem }
.class h3 { font-size: .85rem; margin: 0 0 .3rem }
.row { display: flex; flex-wrap: wrap; gap: .35rem } .row + .row { margin-top: .5rem; padding-top: .5rem;
  border-top: 1px solid var(--rule) } .row img { width: 44px; height: 44px; object-fit: contain; border-radius: 4px;
  image-rendering: pixelated; display: block; background: #000 }
.photo img { image-rendering: auto; width: 52px; height: 52px }
.wide { grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)) }
.query { font-size: .75rem; text-align: center; line-height: 1.5 } .query img { border: 2px solid var(--good) }
.query.wrong img { border: 2px dashed var(--bad) } .query span { color: var(--good) }
.query.wrong span { color: var(--bad); font-weight: 650 }
"""


def page(
    title: str,
    summary: str,
    *,
    scores: Sequence[Sequence[str]],
    facts: Sequence[tuple[str, str]],
    curves: Sequence[str],
    findings: Findings,
    each: str,
    published: Sequence[Sequence[float]],
    metric: str,
    costs: Sequence[tuple[str, str]],
) -> str:
    head = ["tasks", f"ours, {metric}", "paper", "difference", "measured on"]
    shots = [Line("ours" if published else "", findings["shots"], dots=True)]
    shots += [Line("paper", published, 1, dots=True, joined=False)] if published else []
    more = [chart(shots, x="shots", y=f"{metric} by number of shots", even=True)] if findings["shots"] else []
    if findings["inner_steps"]:
        steps = Line("", findings["inner_steps"], dots=True)
        more.append(chart([steps], x="inner steps", y=f"{metric} by inner steps", even=True))
    points = f"Each point: {findings['tasks']} test tasks, band: 95 % interval over tasks"
    at_test = f"""<h2>{escape(metric[0].upper() + metric[1:])} at meta-test</h2>
<p class="soft">{points}, {escape(each)}. {escape(findings["label"])} unless the axis says otherwise.</p>
<div class="charts">{"".join(more)}</div>"""
    return shell(title, f"""
<h1>{escape(title)}</h1>
<p class="soft">{escape(summary)}</p>
<h2>Our number and the paper's</h2>
{table(head, scores)}
<h2>What was trained</h2>
{_facts(facts)}
<h2>Learning curve</h2>
<div class="charts">{"".join(curves)}</div>
{at_test if more else ""}
{_sure(findings.get("sure"))}
{_examples(findings["examples"])}
{_drawn(findings.get("drawn", []))}
<h2>Time, memory, machine</h2>
{_facts(costs)}
""")


def shell(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head>
<body>{body}</body></html>
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table class="scores"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f'<table class="facts">{body}</table>'


def _sure(found: dict[str, Any] | None) -> str:
    """How sure f is beside how often it is right; and what that is worth in numbers."""
    if not found:
        return ""
    low = [share for _, share, _ in found["bins"]] + [sure for sure, _, _ in found["bins"]]
    ends = [min(low), max(low)] if min(low) < max(low) else [0.0, 1.0]
    span = [ends[0] + (ends[1] - ends[0]) * i / 8 for i in range(9)]
    lines = [
        Line("calibrated", [[100 * p, 100 * p] for p in span], 2),
        Line(
            "ours, and how far chance goes",
            [[100 * p, 100 * share, 196 * (p * (1 - p) / n) ** 0.5] for p, share, n in found["bins"]], dots=True,
        ),
    ]  # fmt: skip
    facts = [
        ("NLL", f"{found['nll']:.3f} nats a query"),
        ("calibration error", f"{100 * found['ece']:.2f} %; by chance up to {100 * found['ece_null_high']:.2f} %"),
    ]
    if found["temperature"] is not None:
        then = f"NLL {found['cooled_nll']:.3f}, calibration error {100 * found['cooled_ece']:.2f} %"
        facts.append((f"at T = {found['temperature']:.3g}", f"{then}; T is found on {found['fitted_on']} tasks"))
    if found["auroc"] is not None:
        facts.append(("strangers", f"AUROC {found['auroc']:.3f}, of queries whose class is in S over others'"))
    return f"""<h2>Is it as sure as it should be?</h2>
<p class="soft">Queries in bins of the largest p(y | x): its mean, and the share of them that are right.</p>
<div class="charts">{chart(lines, x="largest p, %", y="right, %", within=(0, 100))}{_facts(facts)}</div>"""


def _examples(tasks: Sequence[dict[str, Any]]) -> str:
    if not tasks:
        return ""
    title = "<h2>Three test tasks</h2>"
    if "classes" not in tasks[0]:
        return title + f'<div class="charts three">{"".join(map(_curve, tasks))}</div>'
    legend = (
        "In each class: the support examples, then up to three queries. ✓ predicted rightly; "
        "✗ and a dashed frame: wrongly, with the class that was predicted."
    )
    return title + f'<p class="soft">{legend}</p>' + "".join(_classes(i, task) for i, task in enumerate(tasks, 1))


def _curve(task: dict[str, Any]) -> str:
    truth = Line("truth", [[x, y] for x, y, _ in task["query"]], 2)
    answer = Line("prediction", [[x, p] for x, _, p in task["query"]], 0)
    support = Line("support", task["support"], 1, dots=True, joined=False)
    return chart([truth, answer, support], x="x", y="y")


def _classes(number: int, task: dict[str, Any]) -> str:
    cards = []
    for k, content in enumerate(task["classes"]):
        support = "".join(_picture(image, f"support of class {k + 1}") for image in content["support"])
        queries = "".join(_query(image, k, guess) for image, guess in content["queries"])
        rows = f'<div class="row">{support}</div><div class="row">{queries}</div>'
        cards.append(f'<div class="class"><h3>class {k + 1}</h3>{rows}</div>')
    pictures = [image for content in task["classes"] for image in content["support"]]
    photo = " photo" if pictures and pictures[0].startswith("data:image/jpeg") else ""
    share = f"{task['right']} of {task['of']} queries right"
    return f'<div class="task{photo}"><b>Task {number}</b> <span class="soft">{share}</span>' + (
        f'<div class="classes">{"".join(cards)}</div></div>'
    )


def _drawn(sets: Sequence[dict[str, Any]]) -> str:
    """For each class the pictures that were given, and draws from the density made of them."""
    if not sets:
        return ""
    cards = []
    for k, content in enumerate(sets, 1):
        rows = (("given", f"of class {k}, given"), ("drawn", f"drawn for class {k}"))
        images = ["".join(_picture(image, told) for image in content[name]) for name, told in rows]
        cards.append(f'<div class="class">{"".join(f"""<div class="row">{row}</div>""" for row in images)}</div>')
    given = len(sets[0]["given"])
    return f"""<h2>What f draws</h2>
<p class="soft">Of each class, new to the learner, f was given {given} pictures (above the line). It is a density: below
are draws from it.</p>
<div class="classes wide">{"".join(cards)}</div>"""


def _query(image: str, k: int, guess: int) -> str:
    right = guess == k
    mark = "✓" if right else f"✗ {guess + 1}"
    told = f"query of class {k + 1}, predicted {guess + 1}"
    return f'<div class="query{"" if right else " wrong"}">{_picture(image, told)}<span>{mark}</span></div>'


def _picture(address: str, told: str) -> str:
    return f'<img src="{escape(address)}" alt="{escape(told)}">'
