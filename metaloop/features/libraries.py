"""Backbones of other libraries by name, with weights that lie on this machine: timm, torchvision, Hugging Face.

How a picture is resized and normalised is the weights' own, as the library has it. Nothing is fetched.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .efficientnet import images

BATCH = 32  # pictures at a time
HEADS = ("head", "fc", "classifier", "heads")  # what the last layer of a classifier is called


class Backbone:
    """Pictures as float32 [n, d]: what a network answers before its last layer."""

    kind = "pictures"

    def __init__(self, name: str, net: nn.Module, shown: Callable[[Any], Tensor], spec: dict[str, Any]):
        self.name, self.net, self.shown, self._spec = name, net.eval(), shown, spec

    def __call__(self, examples: Any) -> Tensor:
        pictures = [picture.convert("RGB") for picture in images(examples)]
        with torch.no_grad():
            z = [self.net(torch.stack([self.shown(p) for p in pictures[i : i + BATCH]]))
                 for i in range(0, len(pictures), BATCH)]  # fmt: skip
        return torch.cat(z).flatten(1).float() if z else torch.zeros(0, 0)

    def spec(self) -> dict[str, Any]:
        return self._spec

    def tensors(self) -> dict[str, Tensor]:
        return {}


def named(name: str, weights: str | Path) -> Any:
    """The features of a backbone: "timm:resnet18"; "torchvision:resnet18", or "torchvision:resnet18:IMAGENET1K_V1" for
    the preprocessing of these weights; "hf:" for a folder that transformers or sentence-transformers has saved.

    weights: a file of a state dict, .safetensors or what torch.load(weights_only=True) reads; for hf, the folder.
    The spec keeps the path and a checksum: a predictor asks for the very weights that it was made with.

    Raises ValueError for a name of no library, a library that is not installed, and weights that are missing or are
    another network's.
    """
    library, _, model = name.partition(":")
    if library not in LIBRARIES or not (model or library == "hf"):
        raise ValueError(f"backbone {name!r}: expected timm:MODEL, torchvision:MODEL, or hf: with a folder of weights.")
    path = Path(weights)
    if not (path.is_dir() if library == "hf" else path.is_file()):
        raise ValueError(f"backbone {name!r}: no {'folder' if library == 'hf' else 'file'} of weights at {path}.")
    needs, make = LIBRARIES[library]
    try:
        import_module(needs)
    except ModuleNotFoundError as error:
        raise ValueError(f"backbone {name!r} needs {error.name}: pip install {needs.replace('_', '-')}.") from None
    except Exception as error:  # a library that was built for another torch
        told = str(error).partition("\n")[0]
        raise ValueError(f"backbone {name!r}: {needs} cannot be imported here ({told}).") from None
    spec = {"features": "named", "name": name, "weights": str(path.resolve()), "sha256": checksum(path)}
    return make(name, model, path, spec)


def checksum(path: Path) -> str:
    """Of a file; of a folder, of its weights' files."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".safetensors", ".json"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as f:
            digest.update(hashlib.file_digest(f, "sha256").digest())
    return digest.hexdigest()


def build(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    if lacking := [n for n in ("name", "weights", "sha256") if n not in spec]:
        raise ValueError(f"a backbone without its '{lacking[0]}': the predictor's file is damaged.")
    features = named(spec["name"], spec["weights"])
    if features.spec()["sha256"] != spec["sha256"]:
        raise ValueError(f"backbone {spec['name']!r}: {spec['weights']} holds other weights than it did.")
    return features


def _timm(name: str, model: str, path: Path, spec: dict[str, Any]) -> Backbone:
    timm, data = import_module("timm"), import_module("timm.data")
    if model not in timm.list_models():
        raise ValueError(f"backbone {name!r}: timm {timm.__version__} has no such model.")
    net = timm.create_model(model, pretrained=False, num_classes=0)
    _load(name, net, path)
    return Backbone(name, net, data.create_transform(**data.resolve_data_config({}, model=net)), spec)


def _torchvision(name: str, model: str, path: Path, spec: dict[str, Any]) -> Backbone:
    models = import_module("torchvision.models")
    model, _, which = model.partition(":")
    if model not in models.list_models(module=models):
        raise ValueError(f"backbone {name!r}: torchvision has no such classifier.")
    kinds = models.get_model_weights(model)
    if which and which not in kinds.__members__:
        raise ValueError(f"backbone {name!r}: there are weights {', '.join(kinds.__members__)}.")
    net = models.get_model(model, weights=None)
    last = [n for n, layer in net.named_modules() if isinstance(layer, nn.Linear)][-1]
    net.set_submodule(last, nn.Identity())
    _load(name, net, path)
    shown = (kinds[which] if which else kinds.DEFAULT).transforms()
    return Backbone(name, net, shown, spec)


class _Pooled(nn.Module):
    """A network of transformers as a tensor: what it pools, or the mean of its last layer."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        answer = self.net(pixel_values=x)
        pooled = getattr(answer, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        last = answer.last_hidden_state  # [n, tokens, d], or maps [n, d, h, w]
        return last.mean(1) if last.dim() == 3 else last.mean((2, 3))


def _hugging_face(name: str, model: str, path: Path, spec: dict[str, Any]) -> Any:
    told = f"hf:{model or path.name}"
    if not (path / "preprocessor_config.json").exists():
        from .minilm import Sentences

        return Sentences(path, told, spec)
    from transformers import AutoImageProcessor, AutoModel

    try:
        net = AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"backbone {name!r}: {str(error).strip().partition(chr(10))[0]}") from None
    return Backbone(told, _Pooled(net), partial(_processed, processor), spec)


def _processed(processor: Any, picture: Any) -> Tensor:
    return processor(images=picture, return_tensors="pt")["pixel_values"][0]


def _load(name: str, net: nn.Module, path: Path) -> None:
    """The weights in a file, which may hold a last layer that the network lacks."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            kept: Any = load_file(path)
        else:
            kept = torch.load(path, map_location="cpu", weights_only=True)
            kept = kept.get("state_dict", kept)
        names, own = set(kept), set(net.state_dict())
    except Exception as error:  # of a damaged file
        raise ValueError(f"backbone {name!r}: {path} cannot be read ({str(error).partition(chr(10))[0]})") from None
    lacks = sorted(own - names)
    has = sorted(n for n in names - own if n.partition(".")[0] not in HEADS)
    if wrong := [*(f"lacks '{n}'" for n in lacks), *(f"has '{n}'" for n in has)]:
        raise ValueError(f"backbone {name!r}: {path} holds another network's weights; it {wrong[0]}.")
    try:
        net.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        told = str(error).strip().rpartition("\n")[2].strip()
        raise ValueError(f"backbone {name!r}: {path} holds weights of another size ({told})") from None


# What each library imports as, and how its backbones are made.
LIBRARIES: dict[str, tuple[str, Callable[..., Any]]] = {
    "timm": ("timm", _timm),
    "torchvision": ("torchvision", _torchvision),
    "hf": ("sentence_transformers", _hugging_face),
}
