"""What a person is told of a predictor of their own examples."""

from collections import Counter

from .choose import WORDS, outlook
from .predictor import Own


def chosen(f: Own) -> str:
    """Features and head, as a sentence."""
    names = [f.features[n].name for n in f.choice.features]
    shares = [f"{name} ({100 * share:.0f} %)" for name, share in zip(names, f.choice.features.values(), strict=True)]
    blend = names[0] if len(names) == 1 else " and ".join(shares)
    if len(f.classes) == 1:
        return f"compares by {blend}; nothing was chosen, as there is one class"
    how = WORDS.get(f.choice.head, "logistic regression")
    if not f.choice.tried:
        return f"compares by {blend}, decides by {how}; a fixed choice, as no picture can be spared to try others on"
    return f"compares by {blend}, decides by {how}: the best of {f.choice.tried} ways on held-out pictures"


def expected(f: Own) -> str:
    """How often it will be right, with the 95 % interval."""
    if len(f.classes) == 1:
        return "how often it is right cannot be said of one class alone"
    c = f.choice
    right, n = sum(int(f.y[i]) == k for i, k in zip(c.held, c.answered, strict=True)), len(c.held)
    if not n:
        one = "from one picture of each class"
        return f"how often it will be right cannot be said {one}: a second one of each would tell"
    mid, low, high = outlook(c, f.y)
    return (
        f"expect {100 * mid:.0f} % right (95 % interval {100 * low:.0f} to {100 * high:.0f}): {right} of {n} "
        "pictures were, each held out"
    )


def confused(f: Own) -> list[tuple[str, str, int, int]]:
    """Pairs of classes of which held-out examples were taken for each other, most first: (one, other, how many, of how
    many)."""
    held = [(int(f.y[i]), k) for i, k in zip(f.choice.held, f.choice.answered, strict=True)]
    of = Counter(true for true, _ in held)
    wrong = Counter((min(pair), max(pair)) for pair in held if pair[0] != pair[1])
    return [(f.classes[a], f.classes[b], n, of[a] + of[b]) for (a, b), n in wrong.most_common()]


def helps(f: Own) -> list[str]:
    """What would make it better, the most useful first."""
    counts = f.Y.sum(0).long().tolist()
    told = []
    if single := [c for c, n in zip(f.classes, counts, strict=True) if n == 1]:
        told.append(f"a second picture of {listed(single)}: then it can be tried out")
    for one, other, n, of in [p for p in confused(f) if p[2] > 1 or p[3] <= 10][:3]:
        have = min(counts[f.classes.index(one)], counts[f.classes.index(other)])
        told.append(f"'{one}' and '{other}' are confused ({n} of {of} pictures): {max(3, min(have, 10))} more of each")
    return told


def listed(names: list[str], most: int = 5) -> str:
    """Names in a row, not too many."""
    shown = ", ".join(f"'{n}'" for n in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
