"""What is chosen for a person's examples, and by what: how likely the classes of held-out examples are.

Examples are held out one of each class at a time (`heads.folds_of`), so that the head that is tried has k' = k - 1
examples of every class instead of k - 1 of one and k of the others; where a class has many, a tenth or a fifth of it. A
head with features answers p(y | x) = softmax(s(x) / T). T is the one at which held-out classes are most likely, with a
prior that says how these heads are on other data; it belongs to k' examples, and becomes the T for k by the power of k
that it follows there (`usual`). A choice is left for another only if that one's held-out classes are more likely by
more than the standard error of the difference.

With one example of each class nothing can be held out: then it is a fixed blend of features, a fixed head and T.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .heads import HEADS, centred, closeness, folds_of, held_out, known, roughly, scores, training

# T of one example a class, in that of logistic 10; and the power of k that it grows with (benchmarks/own.py).
USUAL = {
    "nearest": (0.2, -0.25), "prototypes": (0.2, -0.45),
    "logistic 5": (0.8, 0.15), "logistic 10": (1.0, 0.15), "logistic 20": (1.2, 0.15),
}  # fmt: skip
RUN = "trained/"  # what the names of a run's features begin with
WITHOUT_LEARNING = ("edges", "pixels", "tf-idf", "numbers")
WIDTH = 0.5  # how far log T may be from what is usual
TEMPERATURES = torch.logspace(-2.5, 1.5, 161, dtype=torch.float64)
FIRST = "logistic 10"  # the head that others have to beat
WORDS = {"nearest": "the nearest picture", "prototypes": "the mean of each class"}
DRAWS = 500  # with which luck is told
FOLDS, MANY = 10, 100  # of more than MANY examples half as many
LEFT_OUT = 20  # of more classes several are left out at a time
SHARED, CLASSES = 0.35, 3  # rho of strangers' scores as it usually is, and how many classes that counts for


@dataclass
class Choice:
    """What was chosen, and what was seen of examples that were held out.

    features: the share of each in the blend. tried: how many ways were compared.
    held: the places of those held out; answered: the class that each was given; true: p of its true one; known: its
    largest score. strangers: of every example the largest score of the classes that it is none of, which had not seen
    its class. (Of one or two classes these are cosines: how near the nearest example is.) fewer: how many examples a
    class there were while some were held out, as a share of all. luck: see `luck`.
    """

    features: dict[str, float]
    head: str
    temperature: float
    held: list[int]
    answered: list[int]
    true: list[float]
    known: list[float]
    strangers: list[float]
    tried: int
    fewer: float = 1.0
    luck: float = 0.0

    def __post_init__(self):
        if self.head not in HEADS or not 0 < self.temperature < math.inf:
            raise ValueError(f"'choice' is of head '{self.head}' at temperature {self.temperature}")
        if not len(self.held) == len(self.answered) == len(self.true) == len(self.known):
            raise ValueError("'choice' differs in how many examples were held out")
        numbers = *self.features.values(), *self.true, *self.known, *self.strangers, self.fewer, self.luck
        if not all(map(math.isfinite, numbers)):
            raise ValueError("'choice' holds numbers that are not finite")
        if not 0 < self.fewer <= 1 or not -1 <= self.luck <= 1:
            raise ValueError(f"'choice' was held out with {self.fewer} of the examples, and lucky by {self.luck}")


def blends(names: list[str], alike: float) -> list[dict[str, float]]:
    """What is tried of features, the first choice first: blends in which the best counts most, and each alone; those of
    trained runs, of which nobody knows what they are good for, alone and beside the best."""
    runs = [n for n in names if n.startswith(RUN)]
    names = [n for n in names if n not in runs]
    if not names:
        return [{n: 1.0} for n in runs]
    more = [blend for n in runs for blend in ({n: 1.0}, {n: 0.65, names[0]: 0.35})]
    return [*_blends(names, alike), *more]


def _blends(names: list[str], alike: float) -> list[dict[str, float]]:
    one = [{n: 1.0} for n in names]
    more = [{n: s for n, s in zip(names, shares, strict=False)} for shares in ((0.65, 0.25, 0.1), (0.4, 0.5, 0.1))]
    more = [{n: s / sum(blend.values()) for n, s in blend.items()} for blend in more]
    return [fixed(names, alike), *(more if len(names) > 1 else []), *one] if len(names) > 1 else one


def fixed(names: list[str], alike: float) -> dict[str, float]:
    """The blend where nothing can be held out: the best features, and the more of the second the more `alike` examples
    of different classes are to the best, which then may never have learned of such things."""
    second = 0.2 if plain(names[0]) else min(max(alike - 0.3, 0.05), 0.3)
    return {names[0]: 1 - second, names[1]: second} if len(names) > 1 else {names[0]: 1.0}


def choose(G: dict[str, Tensor], y: Tensor) -> Choice:
    """G: of each feature, best first, the cosines [n, n] between examples, those of runs wherever they are; y int64 [n]
    in 0 .. K-1, all of them there."""
    G = {n: G[n].double() for n in sorted(G, key=lambda n: n.startswith(RUN))}
    names, Y = list(G), F.one_hot(y).double()
    n, K = Y.shape
    different = Y @ Y.T == 0
    alike = {f: float(g[different].mean()) if K > 1 else 0.0 for f, g in G.items()}
    k = float(y.bincount().double().log().mean().exp())
    folds = folds_of(y, FOLDS if n <= MANY else FOLDS // 2)
    held = (folds >= 0).nonzero()[:, 0]
    first = blends(names, alike[names[0]])[0]
    if K == 1:
        near = mixed(G, first).fill_diagonal_(-1).amax(1).tolist() if n > 1 else []
        everyone = list(range(len(near)))
        return Choice(first, FIRST, 1.0, everyone, [0] * len(near), [1.0] * len(near), near, [], 0)
    if not len(held):
        t = usual(first, FIRST, 1.0, alike)
        return Choice(first, FIRST, t, [], [], [], [], strangers(G, Y, first, FIRST), 0)
    train = training(folds).double()
    before = float((train @ Y).clamp_min(1).log().mean().exp())  # examples of a class, while some are held out
    parts = {f: centred(g, train) for f, g in G.items()}

    def tried(blend: dict[str, float], head: str) -> tuple[float, Tensor, Tensor]:
        s = held_out(head, mixed(parts, blend), Y, folds)[held]
        t = temperature(s, y[held], usual(blend, head, before, alike))
        return t, F.cross_entropy(s / t, y[held], reduction="none"), s

    everyone = torch.ones(1, len(held), dtype=torch.float64)
    ways = [(blend, FIRST) for blend in blends(names, alike[names[0]])]
    found = [tried(*way) for way in ways]
    best = int(left_for(torch.stack([loss for _, loss, _ in found]), everyone))
    heads = [best]  # the places of what is left to choose among
    for head in HEADS:
        if head != FIRST:
            heads.append(len(ways))
            ways.append((ways[best][0], head))
            found.append(tried(*ways[-1]))
    losses = torch.stack([loss for _, loss, _ in found])
    chosen = heads[int(left_for(losses[heads], everyone))]
    (blend, head), (t, _, s) = ways[chosen], found[chosen]
    p, raw = (s / t).softmax(1), mixed(G, blend)
    if K > 2:
        close = closeness(raw[None], raw, train[:, :, None] * Y)[folds.clamp_min(0), torch.arange(n)][held]
        like = known(head, s, close)
    else:
        like = raw.fill_diagonal_(-1).amax(1)[held]
    return Choice(
        features=blend, head=head, held=held.tolist(), answered=s.argmax(1).tolist(),
        temperature=t * usual(blend, head, k, alike) / usual(blend, head, before, alike),
        true=p[torch.arange(len(p)), y[held]].tolist(), known=like.tolist(), strangers=strangers(G, Y, blend, head),
        tried=len(ways), fewer=before / k,
        luck=luck(losses, torch.stack([s.argmax(1) == y[held] for _, _, s in found]).double(), heads, chosen),
    )  # fmt: skip


def left_for(losses: Tensor, times: Tensor) -> Tensor:
    """For each row of times [b, n], how often each of n held-out examples counts, the row of losses [c, n] that the
    first is left for: the least in sum of those that gain more than their gain's standard error; 0 where none does."""
    n, gain = times.sum(1, keepdim=True), losses[0] - losses
    total = times @ gain.T
    error = (times @ gain.square().T - total.square() / n).clamp_min(0).sqrt()
    return torch.where(total > error, total, 0.0).argmax(1)


def luck(losses: Tensor, right: Tensor, heads: list[int], chosen: int) -> float:
    """How much larger the share of held-out examples that are right is for their having been chosen by, too: from
    losses and right [c, n] of all that was tried, blends by the first head, then the best blend by others; `heads`
    are the places of the best blend, by the first head and those others.

    The choice is made again by examples drawn with replacement, and is asked of those that were not drawn; what it
    loses there to what was chosen is the mean over DRAWS (Tsamardinos, Greasidou & Borboudakis, Bootstrapping the
    out-of-sample predictions for efficient and accurate cross-validation, Machine Learning 107, 2018). Other heads are
    tried for the best blend alone, as `choose` does; where a draw likes another blend, its luck with heads is missing.
    """
    n, blends = losses.shape[1], len(losses) - len(heads) + 1
    drawn = torch.randint(n, (DRAWS, n), generator=torch.Generator().manual_seed(0))
    times = torch.stack([d.bincount(minlength=n) for d in drawn]).double()
    way = left_for(losses[:blends], times)
    way = torch.where(way == heads[0], torch.tensor(heads)[left_for(losses[heads], times)], way)
    out = (times == 0).double()
    lost = ((right[chosen] - right[way]) * out).sum(1) / out.sum(1)
    return float(lost[out.sum(1) > 0].mean())


def tries(y: Tensor) -> bool:
    """Whether `choose` tries more than its first choice: there are classes to tell apart, examples to hold out."""
    return len(y.unique()) > 1 and bool((folds_of(y, FOLDS) >= 0).any())


def mixed(G: dict[str, Tensor], blend: dict[str, float]) -> Tensor:
    """The cosines of a blend."""
    return sum((share * G[n] for n, share in blend.items()), torch.zeros((), dtype=torch.float64))


def strangers(G: dict[str, Tensor], Y: Tensor, blend: dict[str, float], head: str) -> list[float]:
    """See `Choice`: class by class, or of very many some at a time, the head learns without them and is asked of their
    examples."""
    n, K = Y.shape
    raw = mixed(G, blend)
    if K == 2:
        return raw.masked_fill(Y @ Y.T > 0, -1).amax(1).tolist()
    found, close = torch.empty(n, dtype=torch.float64), closeness(raw[None], raw, Y[None])[0]
    for one in range(min(K, LEFT_OUT)):
        others = torch.arange(K) % LEFT_OUT != one
        own = Y[:, ~others].sum(1) > 0
        w = (~own).double()[None]
        g = mixed({f: centred(G[f], w) for f in blend}, blend)
        s = scores(head, g, roughly(head, g, Y, w), g)[0]
        found[own] = known(head, s[own][:, others], close[own][:, others])
    return found.tolist()


def plain(name: str) -> bool:
    """Whether features are made without weights that were learned elsewhere."""
    return name.startswith(WITHOUT_LEARNING)


def usual(blend: dict[str, float], head: str, k: float, alike: dict[str, float]) -> float:
    """The T that is usual for k examples a class. Learned features tell those things well that they find unlike each
    other (a mean cosine of 0.3 between classes), and others worse; to pixels and edges such a mean says how much of a
    picture is the same in all."""
    name = max(blend, key=lambda n: blend[n])
    c = alike[name]
    if plain(name):
        first = min(max(0.65 * math.exp(7 * (c - 0.68)), 0.5), 2.0)
    else:
        first = 0.6 * math.exp(5.5 * min(0.0, c - 0.48))
    factor, power = USUAL[head]
    return max(first, 0.1) * factor * k**power


def temperature(s: Tensor, y: Tensor, usual: float) -> float:
    """The T at which the classes y [n] of scores s [n, K] are most likely, with log T normal around that of `usual`."""
    likely = torch.stack([F.cross_entropy(s / t, y, reduction="sum") for t in TEMPERATURES])
    far = (TEMPERATURES / usual).log() / WIDTH
    return float(TEMPERATURES[(likely + far.square() / 2).argmin()])


def outlook(chosen: Choice, y: Tensor) -> tuple[float, float, float]:
    """The share that will be right, and its 95 % interval, from those held out, less what the choice owes to luck.

    They are not independent, as each was among what the others were learned from. They count as n / (e - 1) of n, which
    is the spread p (1 - p) (e - 1) / n of the share that is right among the n / e that a draw leaves out (see `luck`).
    That is a widening, not a law of how they depend; it is held to measurements (docs/own-pictures.md).

    They were asked of fewer examples a class. What tells classes apart, d' (see `sensitivity`), has noise from the
    picture that is asked and from those that were learned from. If all of it is the former's, more examples help
    nothing; if the latter's, d' grows as their square root. The power in between is taken, 1/4, and the range from 0 to
    1/2 for its interval. Both intervals together: Zou & Donner, Construction of confidence limits about effect
    measures, Statistics in Medicine 27, 2008.

    Raises ValueError if none were held out.
    """
    n = len(chosen.held)
    if not n:
        raise ValueError("nothing was held out: there is one example of each class.")
    K = len(y.unique())
    right = sum(int(y[i]) == k for i, k in zip(chosen.held, chosen.answered, strict=True))
    share, worth = min(max(right / n - chosen.luck, 0.0), 1.0), n / (math.e - 1)
    low, high = wilson(share * worth, worth)
    mid, most = (grown(share, K, chosen.fewer**-power) for power in (0.25, 0.5))
    low, high = (grown(end, K, chosen.fewer**-0.25) for end in (low, high))
    return mid, max(mid - math.hypot(mid - low, mid - share), 0.0), min(mid + math.hypot(high - mid, most - mid), 1.0)


def grown(share: float, K: int, factor: float) -> float:
    """The share of K classes' pictures that are right when d' has grown by a factor."""
    d = sensitivity(share, K)
    return correct(d * factor, K) if d else share


def correct(d: float, K: int) -> float:
    """How often a normal score with mean d is above K - 1 others with mean 0, all of variance 1."""
    t = torch.linspace(-8, 8, 641, dtype=torch.float64)
    above = torch.special.ndtr(t + d) ** (K - 1) * (-t.square() / 2).exp() / math.sqrt(2 * math.pi)
    return min(float(torch.trapezoid(above, t)), 1.0)


def sensitivity(share: float, K: int) -> float:
    """The d of which `correct` makes that share; 0 of chance or less (d' of K alternatives: Hacker & Ratcliff, A
    revised table of d' for M-alternative forced choice, Perception & Psychophysics 26, 1979)."""
    low, high = 0.0, 12.0
    for _ in range(40 if share > 1 / K else 0):
        mid = (low + high) / 2
        low, high = (mid, high) if correct(mid, K) < share else (low, mid)
    return low


def wilson(right: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share of which n tries are known (Wilson, Probable inference, JASA 22, 1927)."""
    z = 1.959964
    mid, half = right + z * z / 2, z * math.sqrt(right * (n - right) / n + z * z / 4)
    return (mid - half) / (n + z * z), (mid + half) / (n + z * z)


def quantile(scores: list[float], level: float) -> float | None:
    """The ceil((n + 1) level)-th smallest of n scores: a further one is at most that with probability `level`, if all
    come from one place. None if there are too few to say."""
    at = math.ceil((len(scores) + 1) * level - 1e-9)
    return sorted(scores)[at - 1] if at <= len(scores) else None


def enough(level: float) -> int:
    """How many scores `quantile` needs."""
    return math.ceil(level / (1 - level) - 1e-9)


def independent(scores: Tensor, y: Tensor) -> float:
    """How many independent scores those of n examples with classes y [n] in 0 .. K-1 are worth, each class weighing
    the same: K^2 / sum_k (rho + (1 - rho) / n_k).

    rho, the share of their variance that lies between classes, is that of an analysis of variance (Kish, Survey
    Sampling, 1965, section 5.4), drawn towards what is usual by as much as a few classes say.
    """
    counts, n = y.bincount().double(), len(y)
    K = len(counts)
    mean = torch.zeros(K, dtype=torch.float64).index_add(0, y, scores) / counts
    size = (n - counts.square().sum() / n) / (K - 1)  # n_k where all are equal
    between = (counts * (mean - scores.mean()).square()).sum() / (K - 1)
    within = (scores - mean[y]).square().sum() / max(n - K, 1)
    rho = float(((between - within) / (between + (size - 1) * within).clamp_min(1e-30)).clamp(0, 1))
    rho = (K * rho + CLASSES * SHARED) / (K + CLASSES)
    return float(K**2 / (rho + (1 - rho) / counts).sum())


def limit(scores: Tensor, y: Tensor, rate: float) -> float | None:
    """The score that an example of a further class is meant to exceed with probability `rate` or less, by those of
    examples of K classes [n], each asked of the other K - 1. None if they are too few to say.

    Of m = `independent` scores and the new one as many as rate (m + 1) may lie above. Two of these places are taken: by
    the new one, and by that of the class it is most like, whose score would be as large if it had been asked of the
    new class, too. m is an estimate from these scores: where those of a class differ by chance as much as those of
    different ones, it is too large, and the limit too low.
    """
    m = independent(scores, y)
    order, counts = scores.argsort(), y.bincount()
    below = (1 / (len(counts) * counts[y[order]].double())).cumsum(0)
    at = (below >= 1 - (rate * (m + 1) - 2) / m - 1e-9).nonzero()
    return float(scores[order[at[0, 0]]]) if len(at) else None
