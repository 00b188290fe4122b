"""Backbones of other libraries by name: tiny or untrained ones, whose weights are written here."""

import importlib

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from metaloop import features
from metaloop.cli import main
from metaloop.own.predictor import open_predictor


@pytest.fixture
def pictures():
    return [Image.effect_noise((40, 30), 80), Image.new("RGB", (300, 200), "red")]


def library(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name} is not installed")
    except RuntimeError as error:
        pytest.skip(f"{name} cannot be imported here ({error})")


def test_what_is_asked_for_in_vain_is_one_line(tmp_path, monkeypatch):
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.ones(1)}, file)
    for name in ("resnet18", "keras:resnet18", "timm:"):
        with pytest.raises(ValueError, match="expected timm:MODEL, torchvision:MODEL, or hf: with a folder"):
            features.named(name, file)
    with pytest.raises(ValueError, match="no file of weights at"):
        features.named("timm:resnet18", tmp_path / "none.pth")
    with pytest.raises(ValueError, match="no folder of weights at"):
        features.named("hf:", file)
    for module, needs in (("timm", "timm"), ("torchvision", "torchvision")):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(ValueError, match=rf"backbone '{module}:resnet18' needs {needs}: pip install {needs}\."):
            features.named(f"{module}:resnet18", file)


def test_timm(tmp_path, pictures):
    timm = library("timm")
    torch.manual_seed(0)
    net = timm.create_model("tf_mobilenetv3_small_minimal_100", num_classes=10).eval()  # with a last layer
    torch.save(net.state_dict(), tmp_path / "w.pth")
    f = features.named("timm:tf_mobilenetv3_small_minimal_100", tmp_path / "w.pth")
    z = f(pictures)
    shown = timm.data.create_transform(**timm.data.resolve_data_config({}, model=net))
    with torch.no_grad():
        x = torch.stack([shown(p.convert("RGB")) for p in pictures])
        torch.testing.assert_close(net.get_classifier()(z), net(x))
    assert torch.equal(features.build(f.spec())(pictures), z)
    with pytest.raises(ValueError, match="holds another network's weights; it lacks"):
        features.named("timm:resnet10t", tmp_path / "w.pth")
    torch.save({**net.state_dict(), "conv_stem.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"weights of another size \(size mismatch"):
        features.named("timm:tf_mobilenetv3_small_minimal_100", tmp_path / "other.pth")
    with pytest.raises(ValueError, match="has no such model"):
        features.named("timm:resnet0", tmp_path / "w.pth")
    torch.save({n: t + 1 for n, t in net.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="holds other weights than it did"):
        features.build(f.spec())
    (tmp_path / "w.pth").write_bytes(b"PK\3\4")
    with pytest.raises(ValueError, match="cannot be read"):
        features.named("timm:tf_mobilenetv3_small_minimal_100", tmp_path / "w.pth")


def test_torchvision(tmp_path, pictures):
    models = library("torchvision").models
    torch.manual_seed(0)
    net = models.get_model("mobilenet_v3_small").eval()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    f = features.named("torchvision:mobilenet_v3_small:IMAGENET1K_V1", tmp_path / "w.pth")
    z = f(pictures)
    shown = models.MobileNet_V3_Small_Weights.IMAGENET1K_V1.transforms()
    with torch.no_grad():
        x = torch.stack([shown(p.convert("RGB")) for p in pictures])
        torch.testing.assert_close(net.classifier[-1](z), net(x))
    with pytest.raises(ValueError, match="there are weights IMAGENET1K_V1"):
        features.named("torchvision:mobilenet_v3_small:V9", tmp_path / "w.pth")


def test_hugging_face_pictures(tmp_path, pictures):
    transformers = library("transformers")
    torch.manual_seed(0)
    weights = tmp_path / "net"
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    net = transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, **sizes)).eval()
    net.save_pretrained(weights)
    make = getattr(transformers, "ViTImageProcessorPil", None) or transformers.ViTImageProcessor
    processor = make(size={"height": 16, "width": 16})
    processor.save_pretrained(weights)
    f = features.named("hf:", weights)
    z = f(pictures)
    with torch.no_grad():
        x = processor(images=[p.convert("RGB") for p in pictures], return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(z, net(pixel_values=x).pooler_output)
    assert torch.equal(features.build(f.spec())(pictures), z)
    adapts_to_a_folder(tmp_path, weights, pictures, z)
    (weights / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="backbone 'hf:': "):
        features.named("hf:", weights)


def adapts_to_a_folder(tmp_path, weights, pictures, z):
    """`metaloop adapt --backbone`: a predictor of one's own pictures by these features alone."""
    for i, picture in enumerate(pictures):
        for side in (30, 40):
            (tmp_path / "mine" / f"class-{i}").mkdir(parents=True, exist_ok=True)
            picture.resize((side, side)).save(tmp_path / "mine" / f"class-{i}" / f"{side}.png")
    file = tmp_path / "mine.safetensors"
    words = ["adapt", str(tmp_path / "mine"), "-o", str(file), "--backbone", "hf:", "--weights", str(weights)]
    assert main(words) == 0
    (only,) = open_predictor(file).features.values()
    torch.testing.assert_close(only(pictures), z)
