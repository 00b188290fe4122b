"""Charts as inline SVG whose colours follow the page, in light and in dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

W, H = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 20, 14, 42


@dataclass(frozen=True)
class Line:
    """One series: `points` are [x, y] or [x, y, half-width of its interval]."""

    name: str
    points: Sequence[Sequence[float]]
    colour: int = 0  # c0, c1, c2 of the page's style
    dots: bool = False
    joined: bool = True


def chart(
    lines: Sequence[Line], *, x: str, y: str, even: bool = False, within: tuple[float, float] = (-math.inf, math.inf)
) -> str:
    """Lines over x. even: x values are labels, equally spaced. Points that no axis holds are left out. within: where y
    can be, beyond which no interval is drawn."""
    lines = [replace(line, points=[p for p in line.points if all(map(_fits, p))]) for line in lines]
    if not any(line.points for line in lines):
        return f"<figure><figcaption><b>{escape(y)}</b><span>nothing to show</span></figcaption></figure>"
    values = sorted({p[0] for line in lines for p in line.points})
    place = {v: i for i, v in enumerate(values)} if even else {v: v for v in values}
    low_x, high_x = min(place.values()), max(place.values())
    if even:
        low_x, high_x = low_x - 0.4, high_x + 0.4
    ends = [end for line in lines for p in line.points for end in _ends(p, within)]
    ticks_y = _ticks(min(ends), max(ends))
    low_y, high_y = ticks_y[0], ticks_y[-1]

    def px(v: float) -> float:
        return LEFT + (v - low_x) / ((high_x - low_x) or 1) * (W - LEFT - RIGHT)

    def py(v: float) -> float:
        return H - BOTTOM - (v - low_y) / ((high_y - low_y) or 1) * (H - TOP - BOTTOM)

    parts = []
    for t in ticks_y:
        parts.append(f'<path class="grid" d="M{LEFT} {py(t):.1f}H{W - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{py(t) + 4:.1f}" text-anchor="end">{number(t)}</text>')
    ticks_x = [(v, place[v]) for v in values] if even else [(t, t) for t in _ticks(low_x, high_x, 5, inside=True)]
    for t, where in ticks_x:
        parts.append(f'<text x="{px(where):.1f}" y="{H - BOTTOM + 17}" text-anchor="middle">{number(t)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {H - BOTTOM}H{W - RIGHT}"/>')
    parts.append(f'<text x="{(LEFT + W - RIGHT) / 2}" y="{H - 6}" text-anchor="middle">{escape(x)}</text>')
    for line in lines:
        at = [(px(place[p[0]]), p[1], *_ends(p, within)) for p in line.points]
        c = f"c{line.colour}"
        if any(low < high for _, _, low, high in at) and line.joined:
            edge = [f"{a:.1f} {py(high):.1f}" for a, _, _, high in at]
            edge += [f"{a:.1f} {py(low):.1f}" for a, _, low, _ in at[::-1]]
            parts.append(f'<path class="band {c}" d="M{"L".join(edge)}Z"/>')
        if line.joined:
            parts.append(f'<path class="line {c}" d="M{"L".join(f"{a:.1f} {py(v):.1f}" for a, v, *_ in at)}"/>')
        if line.dots:
            parts += [f'<circle class="dot {c}" cx="{a:.1f}" cy="{py(v):.1f}" r="3.5"/>' for a, v, *_ in at]
    picture = f'<svg viewBox="0 0 {W} {H}" role="img" aria-label="{escape(y)} by {escape(x)}">{"".join(parts)}</svg>'
    keys = "".join(
        f'<span><i class="key c{line.colour}{"" if line.joined else " round"}"></i>{escape(line.name)}</span>'
        for line in lines if line.name
    )  # fmt: skip
    return f'<figure><figcaption><b>{escape(y)}</b>{keys}</figcaption>{picture}</figure>'


def _fits(v: float) -> bool:
    return math.isfinite(v) and abs(v) < 1e100


def _ends(point: Sequence[float], within: tuple[float, float]) -> tuple[float, float]:
    spread = point[2] if len(point) > 2 else 0.0
    return max(point[1] - spread, within[0]), min(point[1] + spread, within[1])


def number(v: float) -> str:
    if abs(v) >= 10_000 and v % 100 == 0:
        return f"{v / 1000:g}k"
    return f"{v:.6g}"


def _ticks(low: float, high: float, most: int = 6, inside: bool = False) -> list[float]:
    """Round numbers that cover low .. high, or lie inside it."""
    if low == high:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / (most - 1)
    unit = 10 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
    first, last = (math.ceil, math.floor) if inside else (math.floor, math.ceil)
    return [round(i * step, 10) for i in range(first(low / step), last(high / step) + 1)]
