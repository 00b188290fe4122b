"""Normalisation, with the statistics it uses said aloud.

    y = (x - mean) / sqrt(var + eps) * weight + bias

Which mean and variance is the norm policy:

    transductive   of the batch at hand, at meta-test too (Ioffe & Szegedy 2015 as MAML's code uses it):
                   the queries of a task are normalised together, so they see each other
    support        of the task's support set, for queries also: inductive, and f stays a pure value
    running        of the batch in meta-training, of the meta-training population at meta-test
    group          of groups of channels of one example (Wu & He 2018, arXiv:1803.08494)
    layer          of one example (Ba et al. 2016, arXiv:1607.06450)
    instance       of one channel of one example (Ulyanov et al. 2016, arXiv:1607.08022)

A mean of one number leaves y = bias whatever x is: each refuses to take one.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Whose statistics normalise: what `norm` and the backbones take as a policy.
POLICIES = ("transductive", "support", "running", "group", "layer", "instance")


def norm(channels: int, policy: str = "transductive", *, groups: int = 8, eps: float = 1e-5) -> nn.Module:
    """The norm layer of a policy, for inputs [n, channels, ...]. `groups` counts for "group" alone.

    The layer raises ValueError where each of its means is of one number.
    """
    if policy in ("transductive", "support", "running"):
        return BatchNorm(channels, policy, eps=eps)
    if policy not in POLICIES:
        raise ValueError(f"norm: policy is {policy!r}, expected one of {', '.join(POLICIES)}.")
    most = {"group": min(groups, channels), "layer": 1, "instance": channels}[policy]
    groups = next(g for g in range(most, 0, -1) if channels % g == 0)
    layer = nn.GroupNorm(groups, channels, eps=eps)
    layer.register_forward_pre_hook(of_several)
    return layer


def of_several(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raise ValueError if a norm layer's means of these inputs are each of a single number: torch calls it before the
    forward of a layer that it is registered with."""
    x = inputs[0]
    if not layer.training and getattr(layer, "running_mean", None) is not None:
        return  # the means are a population's
    if isinstance(layer, nn.GroupNorm):
        numbers = x.numel() // (x.shape[0] * layer.num_groups)
    elif isinstance(layer, nn.LayerNorm):
        numbers = math.prod(layer.normalized_shape)
    elif isinstance(layer, nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d):
        numbers = math.prod(x.shape[2:])
    else:
        numbers = x.numel() // x.shape[1]
    refuse_one(numbers, type(layer).__name__, x)


def refuse_one(numbers: int, kind: str, x: Tensor) -> None:
    """Raise ValueError if a layer of that kind has one number to take each mean of, for inputs x."""
    if numbers == 1:
        raise ValueError(
            f"norm: {kind} on inputs of shape {tuple(x.shape)} takes each mean of one number, which leaves zeros. "
            "Take fewer groups, larger maps or more examples, or no norm there."
        )


class BatchNorm(nn.Module):
    """Batch normalisation of [n, channels, ...] under a policy (see the module's page).

    `stored` says that the statistics come from `running_mean` and `running_var` (the population's or the
    support set's) instead of the batch; `record` leaves the batch's own in them. Both are set by
    `metaloop.nn.functional`, which passes the statistics in and out as parameters: nothing is kept here.
    The variance is the biased one.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, policy: str = "transductive", *, eps: float = 1e-5):
        super().__init__()
        self.policy, self.eps = policy, eps
        self.stored = self.record = False
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        if policy != "transductive":
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.stored and self.policy != "support":
            return F.batch_norm(x, *self._kept(), self.weight, self.bias, eps=self.eps)
        if not (self.stored or self.record):
            refuse_one(x.numel() // x.shape[1], "BatchNorm", x)
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        scale, shift = self.affine(lambda: moments(x))  # torch's kernel takes no statistics but x's, or constant ones
        shape = (-1, *[1] * (x.ndim - 2))
        return x * scale.view(shape) + shift.view(shape)

    def affine(self, batch: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """scale and shift, [channels] each, with y = x * scale + shift; batch() gives the mean and variance of x."""
        if self.record and self.policy != "transductive":
            self.running_mean, self.running_var = mean, var = batch()
        elif self.stored:
            mean, var = self._kept()
        else:
            mean, var = batch()
        scale = self.weight * (var + self.eps).rsqrt()
        return scale, self.bias - mean * scale

    def _kept(self) -> tuple[Tensor, Tensor]:
        """The stored statistics: constants, unless they are the support set's."""
        mean, var = self.running_mean, self.running_var
        return (mean, var) if self.policy == "support" else (mean.detach(), var.detach())


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the biased variance of each channel of [n, channels, ...]."""
    refuse_one(x.numel() // x.shape[1], "BatchNorm", x)
    over = [d for d in range(x.ndim) if d != 1]
    return x.mean(over), x.var(over, correction=0)
