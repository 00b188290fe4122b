"""What is chosen for a person's examples, and by what: how likely the classes of held-out examples are.

Examples are held out one of each class at a time (`heads.folds_of`), so that the head that is tried has k' = k - 1 examples of
every class instead of k - 1 of one and k of the others; where a class has many, a tenth or a fifth of it. A head with features
answers p(y | x) = softmax(s(x) / T). T is the one at which held-out classes are most likely, with a prior that says how
these heads are on other data; it belongs to k' examples, and becomes the T for k by the power of k that it follows there
(`prior`). A choice is left for another only if that one's held-out classes are more likely by more than the standard
error of the difference.

With one example of each class nothing can be held out: then it is a fixed blend of features, a fixed head and T.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .heads import HEADS, centred, coefficients, folds_of, held_out, scores, training

# (T of one example a class, the power of k that it grows with), as measured on other data (benchmarks/own.py): of features
# that say what a picture looks like, and of those that were learned from many, by whose measure classes lie far apart.
PLAIN = {
    "nearest": (0.19, -0.40), "prototypes": (0.19, -0.55),
    "logistic 5": (0.70, 0.10), "logistic 10": (0.90, 0.05), "logistic 20": (1.10, 0.0),
}  # fmt: skip
LEARNED = {
    "nearest": (0.054, -0.10), "prototypes": (0.054, -0.30),
    "logistic 5": (0.215, 0.33), "logistic 10": (0.27, 0.32), "logistic 20": (0.33, 0.27),
}  # fmt: skip
WITHOUT_LEARNING = ("edges", "pixels", "tf-idf", "numbers")
WIDTH = 0.5  # how far log T may be from that
TEMPERATURES = torch.logspace(-2.5, 1.5, 161, dtype=torch.float64)
FIRST = "logistic 10"  # the head that others have to beat
WORDS = {"nearest": "the nearest picture", "prototypes": "the mean of each class"}
FOLDS, MANY = 10, 100  # of more than MANY examples half as many


@dataclass
class Choice:
    """What was chosen, and what was seen of examples that were held out.

    features: the share of each in the blend. tried: how many ways were compared.
    held: the places of those held out; answered: the class that each was given; true: p of its true one; known: its
    largest score. strangers: of every example the largest score of the classes that it is none of, which had not seen
    its class. (Of one or two classes these are cosines: how near the nearest example is.)
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

    def __post_init__(self):
        if self.head not in HEADS or not 0 < self.temperature < math.inf:
            raise ValueError(f"'choice' is of head '{self.head}' at temperature {self.temperature}")
        if not len(self.held) == len(self.answered) == len(self.true) == len(self.known):
            raise ValueError("'choice' differs in how many examples were held out")


def blends(names: list[str]) -> list[dict[str, float]]:
    """What is tried of features, the first choice first: all together, the best counting most; each alone."""
    return [fixed(names), *({n: 1.0} for n in names)] if len(names) > 1 else [{n: 1.0} for n in names]


def fixed(names: list[str]) -> dict[str, float]:
    """The blend that is used where nothing can be held out."""
    shares = [1.0, 0.3, 0.1][: len(names)]
    return {n: s / sum(shares) for n, s in zip(names, shares, strict=False)}


def choose(G: dict[str, Tensor], y: Tensor) -> Choice:
    """G: of each feature, best first, the cosines [n, n] between examples; y int64 [n] in 0 .. K-1, all of them there."""
    names = list(G)
    Y = F.one_hot(y).to(torch.float64)
    k = float(y.bincount().double().log().mean().exp())
    folds = folds_of(y, FOLDS if len(y) <= MANY else FOLDS // 2)
    held = (folds >= 0).nonzero()[:, 0]
    if not len(held) or Y.shape[1] < 2:
        blend = fixed(names)
        alike = mixed(G, blend).fill_diagonal_(-1).amax(1).tolist() if Y.shape[1] < 2 and len(y) > 1 else []
        own = list(range(len(alike)))
        return Choice(
            blend, FIRST, prior(blend, FIRST, k), own, [0] * len(own), [1.0] * len(own), alike,
            strangers(G, Y, blend, FIRST), 0,
        )  # fmt: skip
    train = training(folds)
    before = float((train.double() @ Y).clamp_min(1).log().mean().exp())  # examples of a class, while some are held out
    parts = {n: centred(g.double(), train.double()) for n, g in G.items()}

    def tried(blend: dict[str, float], head: str) -> tuple[float, Tensor, Tensor]:
        s = held_out(head, sum(share * parts[n] for n, share in blend.items()), Y, folds)[held]  # type: ignore[arg-type]
        t = temperature(s, y[held], prior(blend, head, before))
        return t, F.cross_entropy(s / t, y[held], reduction="none"), s / t

    best, answers = (blends(names)[0], FIRST), tried(blends(names)[0], FIRST)
    others = [(blend, FIRST) for blend in blends(names)[1:]]
    for stage in (others, None):
        for one in stage if stage is not None else [(best[0], h) for h in HEADS if h != FIRST]:
            found = tried(*one)
            gain = answers[1] - found[1]
            if gain.sum() > gain.std(correction=0) * math.sqrt(len(gain)):
                best, answers = one, found
    (blend, head), (t, _, s) = best, answers
    p = s.softmax(1)
    known = t * s.amax(1) if Y.shape[1] > 2 else mixed(G, blend).fill_diagonal_(-1).amax(1)[held]
    return Choice(
        features=blend, head=head, temperature=t * prior(blend, head, k) / prior(blend, head, before), held=held.tolist(),
        answered=s.argmax(1).tolist(), true=p[torch.arange(len(p)), y[held]].tolist(),
        known=known.tolist(), strangers=strangers(G, Y, blend, head),
        tried=len(blends(names)) + len(HEADS) - 1,
    )  # fmt: skip


def mixed(G: dict[str, Tensor], blend: dict[str, float]) -> Tensor:
    """The cosines of a blend, [n, n]."""
    return sum((share * G[n].double() for n, share in blend.items()), torch.zeros(()))


def strangers(G: dict[str, Tensor], Y: Tensor, blend: dict[str, float], head: str) -> list[float]:
    """See `Choice`: class by class, the head learns without it and is asked of its examples."""
    n, K = Y.shape
    if K == 1:
        return []
    if K == 2:
        return mixed(G, blend).masked_fill(Y @ Y.T > 0, -1).amax(1).tolist()
    found = torch.empty(n, dtype=torch.float64)
    for k in range(K):
        without = Y[:, k] == 0
        w, others = without.double()[None], torch.arange(K) != k
        g = sum((share * centred(G[name].double(), w) for name, share in blend.items()), torch.zeros(()))
        s = scores(head, g, coefficients(head, g, Y, w, 1e-4), g)[0]
        found[~without] = s[~without][:, others].amax(1)
    return found.tolist()


def prior(blend: dict[str, float], head: str, k: float) -> float:
    """The T that is usual for k examples a class."""
    most = max(blend, key=lambda n: blend[n])
    first, power = (PLAIN if most.startswith(WITHOUT_LEARNING) else LEARNED)[head]
    return first * k**power


def temperature(s: Tensor, y: Tensor, usual: float) -> float:
    """The T at which the classes y [n] of scores s [n, K] are most likely, with log T normal around that of `usual`."""
    likely = torch.stack([F.cross_entropy(s / t, y, reduction="sum") for t in TEMPERATURES])
    far = (TEMPERATURES / usual).log() / WIDTH
    return float(TEMPERATURES[(likely + far.square() / 2).argmin()])


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of which n tries are known (Wilson, Probable inference, JASA 22, 1927)."""
    z = 1.959964
    mid, half = right + z * z / 2, z * math.sqrt(right * (n - right) / n + z * z / 4)
    return (mid - half) / (n + z * z), (mid + half) / (n + z * z)


def quantile(scores: list[float], level: float) -> float | None:
    """The ceil((n + 1) level)-th smallest of n scores: a further one is at most that with probability `level`, if all come
    from one place. None if there are too few to say."""
    at = math.ceil((len(scores) + 1) * level - 1e-9)
    return sorted(scores)[at - 1] if at <= len(scores) else None


def enough(level: float) -> int:
    """How many scores `quantile` needs."""
    return math.ceil(level / (1 - level) - 1e-9)
