"""Evidence bounds of a latent variable z of one example x, in nats an example, and how smooth the encoder is made
Kingma & Welling, Auto-Encoding Variational Bayes, ICLR 2014, arXiv:1312.6114; Burda, Grosse & Salakhutdinov, Importance
Weighted Autoencoders, ICLR 2016, arXiv:1509.00519; Shu, Bui, Zhao, Kochenderfer & Ermon, Amortized Inference
Regularization, NeurIPS 2018, arXiv:1805.08913

    q(z|x) = N(encoder(x)),    p(x|z) = likelihood(decoder(z)),    p(z) = N(0, I)
    ELBO   = E_q ln p(x|z) - KL(q(z|x) | p(z))                      <=  ln p(x)                           (1)
    IWAE   = ln 1/S sum_s p(x|z_s) p(z_s) / q(z_s|x),  z_s ~ q      <=  ln p(x) in the mean, rising in S (2)
    DVAE   = E_e [ E_q ln p(x|z) - KL(q | p(z)) ],  q = q(z|x + e),  e ~ N(0, smooth^2 I)                 (3)

(3) shows the encoder x with noise and asks for x without it: the encoder comes out smooth, the model is the same. It is
a bound too, of which the encoder sees less.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..nn import Bernoulli, Gaussian

Map = Callable[[Tensor], Tensor]


def elbo(
    encoder: Map, decoder: Map, x: Float[Tensor, "n ..."], *, likelihood: type = Bernoulli, smooth: float = 0.0
) -> Float[Tensor, " n"]:
    """(1), or (3) with smooth, of each example; one draw of z, the divergence in closed form.

    encoder: x -> 2 |z| numbers (`nn.Gaussian`); decoder: z -> what likelihood.of takes. Pixels are summed over. Of
    `nn.Bernoulli`, grey x are means of pictures of ink and paper.
    """
    seen = x + smooth * torch.randn_like(x) if smooth else x
    q = Gaussian.of(encoder(seen))                                                        # (3)
    return likelihood.of(decoder(q.draw()).flatten(1)).log_prob(x.flatten(1)) - q.kl()      # (1)


def iwae(
    encoder: Map, decoder: Map, x: Float[Tensor, "n ..."], *, draws: int, likelihood: type = Bernoulli
) -> Float[Tensor, " n"]:
    """(2) of each example, of S = `draws`; parts as `elbo` takes them. Raises ValueError for less than one draw."""
    if draws < 1:
        raise ValueError(f"iwae: draws is {draws}, expected at least 1.")
    q = Gaussian.of(encoder(x)).expand(draws)
    z = q.draw()
    out = decoder(z.flatten(0, 1)).flatten(1).unflatten(0, (draws, len(x)))
    prior = Gaussian(torch.zeros_like(z), torch.zeros_like(z)).log_prob(z)
    log_w = likelihood.of(out).log_prob(x.flatten(1).expand(draws, -1, -1)) + prior - q.log_prob(z)
    return log_w.logsumexp(0) - math.log(draws)                                             # (2)
