"""A search's report: search.html, one self-contained file."""

import json
import math
import warnings
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..engine.checkpoint import write_bytes
from ..outer.search import BEGUN, DIVERGED, DONE, PRUNED, Found, Trial, in_words
from ..outer.search_law import expected_best
from ..outer.search_space import Choice, Range, shown
from ..targets import units
from .page import _facts, shell, table
from .svg import Line, chart, number

WIDTH, HEIGHT, EDGE, TOP, FOOT = 840, 320, 60, 34, 22
STYLE = """<style>
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .35rem .8rem; align-items: center;
  max-width: 44rem } .bars i { height: .7rem; background: var(--c0); border-radius: 3px; display: block }
.way { fill: none; stroke: var(--c0); stroke-width: 1.2 } .way.best { stroke: var(--c1); stroke-width: 2.6 }
.lost { fill: none; stroke: var(--soft); stroke-width: .8; stroke-dasharray: 3 3; opacity: .6 }
pre { background: var(--card); padding: .7rem .9rem; border-radius: 8px; white-space: pre-wrap;
  font-size: .85rem }
.scores td:first-child { white-space: nowrap }
</style>"""


def write_search(path: Path, found: Found, *, title: str, command: str | None) -> Path:
    """Write the page. command: the one that trains the winner."""
    done = [t for t in found.trials if t.state == DONE]
    scale, _, words = units(found.metric)
    count = {state: sum(t.state == state for t in found.trials) for state in (DONE, PRUNED, DIVERGED, "refused", BEGUN)}
    told = ", ".join(f"{n} {state}" for state, n in count.items() if n)
    about = {**found.about, **found.about.get("options", {})}
    judged = found.about["judged"]
    facts = [
        ("trials", f"{len(found.trials)} of {found.total}: {told}"),
        ("space", "; ".join(f"{name}={dimension}" for name, dimension in found.space.items())),
        ("sampler", f"{about['sampler']}, seed {about['seed']}"),
        ("judged on", f"{about['validation tasks']} validation tasks of {about['data'] or 'the data'}, the same for "
                      f"all: {judged['ways']} ways, {judged['shots']} shots, {judged['queries']} queries"),
        ("tasks scored", f"{sum(len(t.per_task) for t in found.trials):,}{', pruned in pairs' * about['prune']}"),
        ("time in trials", f"{sum(t.seconds for t in found.trials) / 60:.1f} min"),
    ]  # fmt: skip
    best = found.best
    body = [f"<h1>{escape(title)}</h1>", STYLE]
    if best is None:
        body.append('<p class="soft">No trial has a score yet.</p>')
    else:
        chosen = ", ".join(f"{name} = {shown(value)}" for name, value in best.settings.items())
        so_far = "Best" if found.complete else "Best so far"
        score = in_words(best.score, found.metric)
        body.append(f"<p><b>{so_far}: {escape(score)}</b>, trial {best.number}: {escape(chosen)}</p>")
        if found.test:
            tested = "; ".join(f"{label}: {score}" for label, score in found.test.items())
            body.append(f"<p>Tested once: {escape(tested)}</p>")
        if command:
            body.append(f'<p class="soft">The command that trains it:</p><pre>{escape(command)}</pre>')
    body += ["<h2>What was searched</h2>", _facts(facts)]
    if len(done) > 1:
        body += [
            "<h2>Best so far</h2>",
            f'<p class="soft">Over the {len(done)} trials that are done, in their order; dashed: what the same scores '
            "give in a random order, the mean over all orders.</p>",
            f'<div class="charts">{_best_so_far(done, found.higher, scale, words)}</div>',
            "<h2>Importance of each setting</h2>", _importance(found),
            "<h2>All trials, setting by setting</h2>", _parallel(found, scale, words),
        ]  # fmt: skip
    head = ["trial", f"{words}", *found.space, "tasks scored", "seconds", "state"]
    rows = [_row(t, found, scale) for t in _ordered(found)]
    body += ["<h2>Trials</h2>", table(head, rows)]
    write_bytes(path, shell(title, "\n".join(body)).encode())
    return path


def _ordered(found: Found) -> list[Trial]:
    """The best first; those without a score after them, by number."""
    last = math.inf
    sign = -1 if found.higher else 1
    return sorted(found.trials, key=lambda t: (last if t.score is None else sign * t.score, t.number))


def _row(t: Trial, found: Found, scale: float) -> list[str]:
    score = "–" if t.score is None else f"{scale * t.score:.4g}"
    state = f"{t.state}: {t.why}" if t.why else t.state
    settings = [shown(_short(t.settings[name])) if name in t.settings else "–" for name in found.space]
    return [str(t.number), score, *settings, str(len(t.per_task)), f"{t.seconds:.1f}", state]


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _best_so_far(done: Sequence[Trial], higher: bool, scale: float, words: str) -> str:
    best, ours = None, []
    for i, t in enumerate(done, 1):
        assert t.score is not None
        best = t.score if best is None else max(best, t.score) if higher else min(best, t.score)
        ours.append([i, scale * best])
    law = expected_best([t.score for t in done if t.score is not None], higher=higher)
    random = [[i, scale * v] for i, v in enumerate(law, 1)]
    return chart([Line("this search", ours), Line("random order", random, 2)], x="trials", y=words)


def _importance(found: Found) -> str:
    """Optuna's: how much of the scores' variance among the better trials each setting explains (PED-ANOVA)."""
    import optuna

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = optuna.importance.get_param_importances(found.study)
    except (ValueError, RuntimeError, ZeroDivisionError):
        shares = {}
    if not shares:
        return '<p class="soft">Too few trials to tell.</p>'
    bars = "".join(
        f'<span>{escape(name)}</span><i style="width:{100 * share:.1f}%"></i><span class="soft">{share:.2f}</span>'
        for name, share in shares.items() if name in found.space
    )
    return f'<p class="soft">By PED-ANOVA; the shares add up to 1.</p><div class="bars">{bars}</div>'


def _parallel(found: Found, scale: float, words: str) -> str:
    """A line for each trial through its settings to its score; the best in another colour, dashed: without a score."""
    scores = [scale * t.score for t in found.trials if t.score is not None]
    low, high = min(scores), max(scores)
    names = [*found.space, words]
    step = (WIDTH - 2 * EDGE) / max(1, len(names) - 1)
    at = [EDGE + i * step for i in range(len(names))]
    y = lambda share: HEIGHT - FOOT - share * (HEIGHT - TOP - FOOT)
    parts = []
    for x, name in zip(at, names, strict=True):
        parts.append(f'<path class="axis" d="M{x:.1f} {TOP}V{HEIGHT - FOOT}"/>')
        parts.append(f'<text x="{x:.1f}" y="14" text-anchor="middle">{escape(name)}</text>')
        ticks = [(0.0, number(float(f"{low:.4g}"))), (1.0, number(float(f"{high:.4g}")))]
        if name in found.space:
            ticks = _ticks(found.space[name])
        parts += [
            f'<text x="{x + 6:.1f}" y="{y(share) + 4:.1f}">{escape(text)}</text>' for share, text in ticks
        ]  # fmt: skip
    ways = []
    for t in found.trials:
        if set(t.settings) != set(found.space):
            continue
        points = [(x, _share(found.space[n], t.settings[n])) for x, n in zip(at, found.space, strict=False)]
        kind, shade = "lost", ""
        if t.score is not None:
            share = (scale * t.score - low) / ((high - low) or 1)
            points.append((at[-1], share))
            good = share if found.higher else 1 - share
            kind, shade = "way", f' style="opacity:{0.12 + 0.6 * good:.2f}"'
            if found.best is not None and t.number == found.best.number:
                kind, shade = "way best", ""
        d = "L".join(f"{x:.1f} {y(share):.1f}" for x, share in points)
        ways.append((kind == "way best", f'<path class="{kind}"{shade} d="M{d}"/>'))
    drawn = "".join(path for _, path in sorted(ways, key=lambda way: way[0]))
    label = f"settings and {escape(words)} of each trial"
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{drawn}{"".join(parts)}</svg>'
    return f'<div class="scroll"><figure style="min-width:{max(20, 7 * len(names))}rem">{picture}</figure></div>'


def _share(dimension: Choice | Range, value: Any) -> float:
    """Where a value is on its axis, from 0 to 1."""
    if isinstance(dimension, Choice):
        texts = [*map(json.dumps, dimension.values)]
        return (texts.index(json.dumps(value)) + 0.5) / len(texts)
    f = math.log if dimension.log else float
    return (f(value) - f(dimension.low)) / (f(dimension.high) - f(dimension.low))


def _ticks(dimension: Choice | Range) -> list[tuple[float, str]]:
    if isinstance(dimension, Choice):
        return [(_share(dimension, value), shown(value)) for value in dimension.values]
    middle = math.sqrt(dimension.low * dimension.high) if dimension.log else (dimension.low + dimension.high) / 2
    return [(share, number(float(f"{v:.3g}"))) for share, v in ((0, dimension.low), (0.5, middle), (1, dimension.high))]
