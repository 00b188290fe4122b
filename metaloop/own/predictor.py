"""f for a person's own examples: what it answers, and how it is kept in a file."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine import checkpoint
from ..engine.predictor import read
from ..engine.schema import conform
from ..features import Features, Spec, build
from .choose import Choice, choose, enough, independent, limit, mixed, quantile
from .heads import closeness, coefficients, known, scores

MOST = 4000  # examples; what is computed of n is n x n
KEPT = 0.9  # of one class alone, the share of its own pictures that should be taken for it


class Answers(NamedTuple):
    """Of each of q examples: p [q, K], the probability of each class; known [q], how much it is like one of the
    classes, the largest score; alike [q, n], how near the examples of S are, cosines."""

    p: Tensor
    known: Tensor
    alike: Tensor


@dataclass(kw_only=True)
class Told:
    """What a file says of itself."""

    form: int
    kind: str
    classes: list[str]
    features: list[dict[str, Any]]
    choice: Choice
    sources: list[str]
    digests: list[str]
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        names = [(f.get("features"), f.get("name")) for f in self.features]
        if self.form != 1:
            raise ValueError(f"'form' is {self.form}; a newer metaloop wrote it")
        if not self.classes or len({*self.classes}) < len(self.classes):
            raise ValueError("'classes' are none, or two are alike")
        if not names or len({*map(str, names)}) < len(names):
            raise ValueError("'features' are none, or two are alike")
        if len(self.sources) != len(self.digests):
            raise ValueError("'sources' and 'digests' differ in number")


class Own:
    """F of heads and features: f(x) = softmax(s(x) / T), and what is known of how far to trust it.

    z: of each feature the vectors of S, [n, d], of length 1; y [n], the class of each. The features that the choice
    leaves out are kept, so that it can be made anew when there are more examples. Nothing here changes when it is
    asked.
    """

    def __init__(
        self, kind: str, classes: list[str], features: Sequence[Features], z: Mapping[str, Tensor], y: Tensor,
        sources: list[str], digests: list[str], choice: Choice | None = None, A: Tensor | None = None,
    ):  # fmt: skip
        self.kind, self.classes, self.features, self.y = kind, classes, {key(f): f for f in features}, y
        self.z = dict(z)
        self.sources, self.digests = sources, digests
        if choice is None:
            choice = choose({n: u.double() @ u.double().T for n, u in self.z.items()}, y)
        self.choice = choice
        self.Y = F.one_hot(y, len(classes)).double()
        self.used = {n: self.z[n].double() for n in choice.features}
        self.means = {n: u.mean(0) if len(classes) > 1 else torch.zeros_like(u[0]) for n, u in self.used.items()}
        self.u = {n: F.normalize(u - self.means[n], dim=1) for n, u in self.used.items()}
        self.G = mixed({n: u @ u.T for n, u in self.u.items()}, choice.features)
        self.alike = mixed({n: u @ u.T for n, u in self.used.items()}, choice.features)
        everyone = torch.ones(1, len(y), dtype=torch.float64)
        self.A = coefficients(choice.head, self.G[None], self.Y, everyone)[0] if A is None else A

    def answers(self, examples: Any) -> Answers:
        """What f says of examples of its kind."""
        return self.of({n: F.normalize(self.vectors(n, examples).double(), dim=1) for n in self.used})

    def vectors(self, name: str, examples: Any) -> Tensor:
        """What the features of that name make of examples, [q, d]. Raises ValueError unless they are such as S has."""
        z, d = self.features[name](examples), self.z[name].shape[1]
        if z.shape[1] != d:
            raise ValueError(f"its features '{name}' have {z.shape[1]} numbers, its own examples {d}: it is damaged.")
        return z

    def of(self, z: Mapping[str, Tensor]) -> Answers:
        """The same of their features [q, d], of length 1."""
        g = mixed({n: F.normalize(z[n] - self.means[n], dim=1) @ self.u[n].T for n in self.used}, self.choice.features)
        raw = mixed({n: z[n] @ self.used[n].T for n in self.used}, self.choice.features)
        s = scores(self.choice.head, g[None], self.A[None], self.G[None])[0]
        if len(self.classes) > 2:
            close = closeness(raw[None], self.alike, self.Y[None])[0]
            like = known(self.choice.head, s, close)
        else:
            like = raw.amax(1)
        return Answers((s / self.choice.temperature).softmax(1), like, raw)

    def threshold(self, rate: float) -> float:
        """The `known` above which an example is taken for one of the classes. The share of others that is, too, is
        meant to be `rate`, or less.

        No bound: a rate is refused where too few scores seem independent, which is told by how alike those of a class
        are, and so by the same few scores (`choose.limit`); docs/own-pictures.md has what was let in.

        Raises ValueError if the rate is out of range, or if there are too few examples to say.
        """
        if not 0 < rate < 1:
            raise ValueError(f"a false-accept rate of {rate:g} is out of range: give one between 0 and 1, 0.05 say.")
        if len(self.classes) == 1:
            raise ValueError("one class alone says nothing of what others look like: there is no rate to choose.")
        strange = torch.tensor(self.choice.strangers, dtype=torch.float64)
        found = limit(strange, self.y, rate)
        if found is None:
            have, n, K = independent(strange, self.y), len(self.y), len(self.classes)
            least = math.ceil(200 / (have + 1)) / 100
            ask = f"Ask for at least {least:g}, or add" if least < 1 else "Add"
            raise ValueError(
                f"a false-accept rate of {rate:g} needs {math.ceil(2 / rate - 1 - 1e-9)} independent examples, and the "
                f"{n} of {K} classes count as {math.floor(have)}, as those of a class are alike. {ask} classes."
            )
        return found

    def lost(self, threshold: float) -> float | None:
        """The share of held-out examples of S that would be called none of these; None where none could be held out."""
        kept = [v > threshold for v in self.choice.known]
        return 1 - sum(kept) / len(kept) if kept else None

    def alone(self) -> float:
        """The threshold of one class alone: about a tenth of its own examples, each left out, lie below it.

        Raises ValueError if there is a single one.
        """
        n = len(self.choice.known)
        found = quantile([-v for v in self.choice.known], min(KEPT, n / (n + 1)))
        if found is None:
            raise ValueError("of one class alone two examples are needed: one does not say how far they differ.")
        return -found

    def sets(self, p: Tensor, coverage: float) -> list[list[int]]:
        """For each row of p [q, K] the classes, most probable first, that hold the true one with probability
        `coverage`: all with p_k >= 1 - q, q the quantile of 1 - p of the true class over the examples that were held
        out. Never none.

        Raises ValueError if coverage is out of range, or asks for more held-out examples than there are.
        """
        if not 0 < coverage < 1:
            raise ValueError(f"a coverage of {coverage:g} is out of range: give one between 0 and 1, 0.9 say.")
        found = quantile([1 - v for v in self.choice.true], coverage)
        if found is None:
            have = len(self.choice.true)
            why = "with one example of each class none can be held out" if not have else f"{have} could be held out"
            ask = f"Ask for at most {math.floor(100 * have / (have + 1)) / 100:g}, or add" if have else "Add"
            raise ValueError(
                f"a coverage of {coverage:g} needs {enough(coverage)} held-out examples, and {why}: such a set could "
                f"only hold every class. {ask} examples."
            )
        order = p.sort(dim=1, descending=True)
        inside = (order.values >= 1 - found - 1e-12).sum(1).clamp_min(1)
        return [ks[:n] for ks, n in zip(order.indices.tolist(), inside.tolist(), strict=True)]


def key(features: Features) -> str:
    """What features are called in a file."""
    return "/".join(str(v) for v in features.spec().values() if not isinstance(v, dict))


def make(
    features: Sequence[Features],
    examples: Any,
    y: Sequence[int] | Tensor,
    classes: list[str],
    sources: list[str],
    digests: list[str],
) -> Own:
    """f of examples with classes y, whose order does not matter.

    Raises ValueError if there are too many.
    """
    z = {key(f): F.normalize(f(examples).float(), dim=1) for f in features}
    return remade(features[0].kind, classes, features, z, torch.as_tensor(y), sources, digests)


def remade(kind, classes, features, z: Mapping[str, Tensor], y: Tensor, sources, digests) -> Own:
    """f of their vectors. In an order that is the same whatever order they come in: by class and what they are."""
    if len(y) > MOST:
        raise ValueError(
            f"{len(y)} examples are more than the {MOST} that can be compared with each other. Give some of them."
        )
    names = sorted(classes)
    told = [names.index(classes[k]) for k in y.tolist()]
    order = sorted(range(len(told)), key=lambda i: (told[i], digests[i], sources[i]))
    pick = torch.tensor(order)
    return Own(
        kind, names, features, {n: t[pick] for n, t in z.items()}, torch.tensor([told[i] for i in order]),
        [sources[i] for i in order], [digests[i] for i in order],
    )  # fmt: skip


def more(f: Own, examples: Any, y: Sequence[int], classes: list[str], sources: list[str], digests: list[str]) -> Own:
    """f of the examples that it knows and further ones, of its classes or new ones: as if made of all at once."""
    names = [*f.classes, *(c for c in classes if c not in f.classes)]
    told = torch.tensor([*f.y.tolist(), *(names.index(classes[k]) for k in y)])
    z = {n: torch.cat([f.z[n], F.normalize(f.vectors(n, examples).float(), dim=1)]) for n in f.features}
    return remade(
        f.kind, names, list(f.features.values()), z, told, [*f.sources, *sources], [*f.digests, *digests]
    )  # fmt: skip


def digest(data: bytes) -> str:
    """What tells examples apart."""
    return hashlib.sha256(data).hexdigest()[:32]


def save(path: str | Path, f: Own, versions: dict[str, str]) -> None:
    """Keep it in a file. Raises ValueError on a full disk, or if it holds numbers that are not finite."""
    tensors = {"y": f.y, "A": f.A, **{f"z/{i}": t for i, t in enumerate(f.z.values())}}
    for i, feature in enumerate(f.features.values()):
        tensors |= {f"features/{i}/{n}": t for n, t in feature.tensors().items()}
    if bad := [n for n, t in tensors.items() if not t.isfinite().all()]:
        raise ValueError(f"{path}: '{bad[0]}' is not finite; nothing is kept. Are the examples?")
    about = Told(
        form=1, kind=f.kind, classes=f.classes, features=[x.spec() for x in f.features.values()], choice=f.choice,
        sources=f.sources, digests=f.digests, versions=versions,
    )  # fmt: skip
    checkpoint.write(Path(path), tensors, {"predictor": {"own": asdict(about)}})


def open_predictor(path: str | Path) -> Own:
    """f as saved. Raises ValueError if the file holds none of this kind."""
    tensors, about = read(path)
    if "own" not in about:
        raise ValueError(
            f"{path} was made from a run, and knows its images no more. Adapt the run to all of them anew."
        )
    return load(tensors, about["own"], str(path))


def load(tensors: Mapping[str, Tensor], told: Any, source: str) -> Own:
    """f as saved, of what its file holds.

    Raises ValueError if that is damaged, or if its features need an extra that is not installed.
    """
    about = conform(told, Told, source)
    n, K, choice = len(about.sources), len(about.classes), about.choice
    damaged = lambda what: ValueError(f"{source} is damaged: {what}.")
    wanted = ["y", "A", *(f"z/{i}" for i in range(len(about.features)))]
    if lacking := [name for name in wanted if name not in tensors]:
        raise damaged(f"it holds no '{lacking[0]}'")
    if any(not t.isfinite().all() for t in tensors.values()):
        raise damaged("it holds numbers that are not finite")
    labels, A, z = tensors["y"], tensors["A"], [tensors[f"z/{i}"] for i in range(len(about.features))]
    if labels.dtype != torch.int64 or labels.shape != (n,) or n == 0 or {*labels.tolist()} != {*range(K)}:
        raise damaged("'y' is not one class for each example")
    if A.shape != (n, K) or any(t.dim() != 2 or len(t) != n or not t.is_floating_point() for t in z):
        raise damaged("its tensors differ in how many examples they are of")
    if len(choice.strangers) != (n if K > 1 else 0):
        raise damaged("'choice.strangers' are not one for each example")
    features = []
    for i, spec in enumerate(about.features):
        own = {k.removeprefix(f"features/{i}/"): t for k, t in tensors.items() if k.startswith(f"features/{i}/")}
        conform(spec, Spec, source, f"features[{i}]")
        features.append(build(spec, own))
        if getattr(features[-1], "kind", None) != about.kind:
            raise damaged(f"its features '{spec['features']}' are not of {about.kind}")
    named = {key(f): t for f, t in zip(features, z, strict=True)}
    if not choice.features or not {*choice.features} <= {*named}:
        raise damaged("'choice.features' are not among its features")
    return Own(about.kind, about.classes, features, named, labels, about.sources, about.digests, choice, A.double())
