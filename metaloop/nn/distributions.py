"""Distributions as networks answer them: coordinates are independent, and on the last axis; other axes are a batch."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Gaussian(NamedTuple):
    """N(mean, exp(logvar)) in each coordinate."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def of(cls, out: Tensor) -> "Gaussian":
        """From a network's output [..., 2 d]: d means, then d log-variances."""
        return cls(*out.chunk(2, -1))

    def expand(self, *sizes: int) -> "Gaussian":
        """The same for every entry of further axes, in front."""
        return Gaussian(*(t.expand(*sizes, *t.shape) for t in self))

    def draw(self) -> Tensor:
        """One draw for each entry of the batch, differentiable in mean and logvar; the noise is torch's own."""
        return self.mean + (self.logvar / 2).exp() * torch.randn_like(self.mean)

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x): [..., d] -> [...]."""
        square = (x - self.mean).square() * (-self.logvar).exp()
        return -(square + self.logvar + math.log(2 * math.pi)).sum(-1) / 2

    def kl(self, q: "Gaussian | None" = None) -> Tensor:
        """KL(self | q), [...]; q is the standard normal unless given.

        >>> Gaussian(torch.tensor([1.0, 2.0]), torch.zeros(2)).kl()
        tensor(2.5000)
        """
        if q is None:
            return (self.logvar.exp() + self.mean.square() - 1 - self.logvar).sum(-1) / 2
        square = (self.logvar - q.logvar).exp() + (self.mean - q.mean).square() * (-q.logvar).exp()
        return (square - 1 + q.logvar - self.logvar).sum(-1) / 2


class Bernoulli(NamedTuple):
    """Ink or paper in each pixel, from the logits of ink."""

    logits: Tensor

    @classmethod
    def of(cls, out: Tensor) -> "Bernoulli":
        return cls(out)

    def draw(self) -> Tensor:
        """The probabilities of ink: a picture in [0, 1], like those that pools deal."""
        return self.logits.sigmoid()

    def log_prob(self, x: Tensor) -> Tensor:
        """[..., d] -> [...]. Where x in [0, 1] is grey, the mean over pictures that have ink there with probability x.

        >>> Bernoulli(torch.zeros(2)).log_prob(torch.tensor([1.0, 0.5])).exp()
        tensor(0.2500)
        """
        return -F.binary_cross_entropy_with_logits(self.logits, x, reduction="none").sum(-1)


class CausalBernoulli(Bernoulli):
    """Ink or paper in each pixel, given those before it: logits of a network that is told x (`Masked`).

    log_prob is log p(x) for x of 0 and 1; of grey x it is a number without that meaning.
    """

    causal = True


class Density(NamedTuple):
    """What a network answers that is a density by itself (`ResidualFlow`, `CausalImage`), which is told x.

    Told codes and x, side by side, it answers terms [..., k] whose sum is log p(x | code); told codes alone, draws.
    """

    out: Tensor
    causal = True

    @classmethod
    def of(cls, out: Tensor) -> "Density":
        return cls(out)

    def draw(self) -> Tensor:
        return self.out

    def log_prob(self, x: Tensor) -> Tensor:
        """[..., k] -> [...], of the x that the network was told."""
        return self.out.sum(-1)
