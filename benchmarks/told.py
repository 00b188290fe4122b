"""What the benchmarks' pages share: tables between marks, means with intervals."""

import re

import numpy as np


def filled(text: str, mark: str, table: str, page: str = "the page") -> str:
    """The text of a page with what stands between <!-- mark --> and <!-- /mark --> replaced. Raises ValueError unless
    there is one such place."""
    place = re.compile(rf"(<!-- {mark} -->\n).*(<!-- /{mark} -->)", re.S)
    text, found = place.subn(lambda m: m[1] + table + m[2], text)
    if found != 1:
        raise ValueError(f"{page} has no place marked {mark}")
    return text


def interval(values) -> list[float]:
    """Mean and half of Student's 95 % interval."""
    from scipy import stats

    v = np.array(values)
    return [float(v.mean()), float(stats.t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5)]
