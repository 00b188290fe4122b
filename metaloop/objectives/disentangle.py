"""What is added to -ELBO so that each latent coordinate should hold one factor of x, in nats, of a batch of codes
as Locatello et al. compare them, Challenging Common Assumptions in the Unsupervised Learning of Disentangled
Representations, ICML 2019, arXiv:1811.12359

    beta-VAE      (beta - 1) KL(q(z|x) | p(z))                                                          (1)
    AnnealedVAE   gamma |KL - C| - KL,                    C grows while it is trained                   (2)
    FactorVAE     gamma TC, by a critic psi of z against z with its columns shuffled, told (1) of `alignment` (3)
    beta-TCVAE    (beta - 1) TC of the batch                                                            (4)
    DIP-VAE-I     l_off sum_{i /= j} Cov_ij^2 + l_on sum_i (Cov_ii - 1)^2,  Cov of q's means            (5)
    DIP-VAE-II    the same of Cov(z) = Cov of means + mean of variances                                 (6)
    TC(z)         KL(q(z) | prod_l q(z_l)),               q(z) the mean of q(z|x) over the batch        (7)

Higgins et al. 2017; Burgess et al. 2018, arXiv:1804.03599; Kim & Mnih 2018, arXiv:1802.05983; Chen et al. 2018,
arXiv:1802.04942; Kumar et al. 2018, arXiv:1711.00848. q: `nn.Gaussian`, [n, L]. All give a scalar.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..core import Scalar
from ..nn import Gaussian
from .alignment import reverse


def beta_vae(q: Gaussian, beta: float) -> Scalar:
    """(1), the divergence in the mean over the batch."""
    return (beta - 1) * q.kl().mean()


def annealed(q: Gaussian, gamma: float, capacity: float) -> Scalar:
    """(2): the divergence, in the mean, is held at `capacity` nats in the place of weighing it."""
    kl = q.kl().mean()
    return gamma * (kl - capacity).abs() - kl


def factor_vae(q: Gaussian, critic: Callable[[Tensor], Tensor], gamma: float) -> Scalar:
    """(3), as one loss for two players: the critic, [n, L] -> [n, 1] logits, learns to tell draws from the batch's q(z)
    from the same with each column shuffled for itself, and the gradient that reaches q is reversed and times gamma.

    At the critic's best the encoder so goes down 2 gamma times their Jensen-Shannon divergence, where the paper's goes
    down gamma times an estimate of TC: both are 0 for independent coordinates, and for nothing else.
    """
    z = reverse(q.draw(), gamma)
    order = torch.rand_like(z).argsort(0)
    logit = torch.cat([critic(z), critic(z.gather(0, order))])[:, 0]
    joint = (torch.arange(2 * len(z), device=z.device) < len(z)).to(logit)
    return 2 * F.binary_cross_entropy_with_logits(logit, joint)


def tc_vae(q: Gaussian, beta: float) -> Scalar:
    """(4), TC of a draw from each q of the batch."""
    return (beta - 1) * total_correlation(q, q.draw())


def total_correlation(q: Gaussian, z: Float[Tensor, "m L"]) -> Scalar:
    """(7): z are draws of q(z), one from each of its n parts or as many from each. Told the q of all x that there are,
    it is the TC of the whole data, but for chance in z; of a batch, that of the batch, which is not the data's (0 for
    one x).

    The authors' formula adds (L - 1) ln(n N), of N examples in all, in the place of (L - 1) ln n: a constant.
    """
    n, L = q.mean.shape
    each = -((z[:, None] - q.mean).square() * (-q.logvar).exp() + q.logvar + math.log(2 * math.pi)) / 2
    joint, apart = each.sum(2).logsumexp(1), each.logsumexp(1).sum(1)
    return (joint - apart).mean() + (L - 1) * math.log(n)


def dip_vae(q: Gaussian, off: float, on: float, *, second: bool = False) -> Scalar:
    """(5), or (6) with second=True; Cov is over the batch, divided by n."""
    centred = q.mean - q.mean.mean(0)
    cov = centred.mT @ centred / len(centred)
    if second:
        cov = cov + q.logvar.exp().mean(0).diag()
    own = cov.diagonal()
    return off * (cov.square().sum() - own.square().sum()) + on * (own - 1).square().sum()


def gaussian_tc(z: Float[Tensor, "n L"]) -> Scalar:
    """TC of the normal distribution with the correlations of z: -1/2 ln det R, in nats; of what is normal, and 0 for
    what is uncorrelated. Coordinates that do not vary are left out."""
    c, varies = z - z.mean(0), z.amax(0) > z.amin(0)
    c = c / torch.where(varies, c.square().sum(0), 1.0).sqrt()
    return -torch.linalg.slogdet(c.mT @ c + (~varies).to(c).diag()).logabsdet / 2
