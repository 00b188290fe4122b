"""Bayesian Deep Convolutional Networks with Many Channels are Gaussian Processes
Novak, Xiao, Lee, Bahri, Yang, Hron, Abolafia, Pennington & Sohl-Dickstein, ICLR 2019, arXiv:1810.05148

The posterior of a Gaussian process with an infinitely wide network's kernel K (`metaloop.nn.infinite`), given S:

    A            = K(S, S) + h I          h: noise, relative to the mean of K's diagonal                     (1)
    m(x)         = K(x, S) A^-1 Y         Y: one-hot rows less 1/ways; or numbers less their mean            (2)
    v(x)         = K(x, x) + h - K(x, S) A^-1 K(S, x)                                                        (3)
    s^2          = tr(Y' A^-1 Y) / (|S| (ways - 1)), of numbers with their number of columns: the scale of
                   s^2 K at which Y are most likely, so that K's own scale says nothing; 1, K's own,
                   where Y are all 0, of one example or of equal numbers, and say nothing of it              (4)
    f(x)_k       = m_k / (s^2 v),   so that p(y = k | x) = softmax_k f(x), which is Bayes' rule for the one-hot
                   rows that y may be, where a row is normal with means m and variances s^2 v                (5)
    theta        = the logarithms of K's w and b and of h:   argmin  E_task  -log p(y | x) over Q            (6)

Nothing need be trained: F is what the architecture knows before it has seen anything. All is computed in float64.
"""

from math import log, pi

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core import Data, Learner, Params, Task, predictor, static
from ..nn import cross_entropy, membership
from ..nn.infinite import Kernel
from ..objectives.query import query_loss, scalars


@predictor
class Posterior:
    """The process given S."""

    params: Params  # K's
    h: Float[Tensor, ""]
    x: Float[Tensor, "n ..."]
    L: Float[Tensor, "n n"]  # A = L L'
    alpha: Float[Tensor, "n out"]  # A^-1 Y
    scale: Float[Tensor, ""]  # s^2
    centre: Float[Tensor, " out"]
    present: Bool[Tensor, " out"]  # a class without examples is never chosen
    kernel: Kernel = static()
    classes: bool = static()

    def moments(self, x: Float[Tensor, "n ..."]) -> tuple[Float[Tensor, "n out"], Float[Tensor, " n"]]:
        """m(x), and the deviation s sqrt v(x) of y around it."""
        x = x.double()
        K = self.kernel.between(self.params, x, self.x)
        v = self.kernel.alone(self.params, x) + self.h - (K * torch.cholesky_solve(K.mT, self.L).mT).sum(-1)   # (3)
        return self.centre + K @ self.alpha, (self.scale * v.clamp_min(1e-12 * self.h)).sqrt()               # (2)

    def deviation(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
        return self.moments(x)[1].to(x)

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n out"]:
        m, deviation = self.moments(x)
        if not self.classes:
            return m.to(x)
        return torch.where(self.present, m / deviation.square()[:, None], -torch.inf).to(x)                  # (5)


def gaussian_process(
    kernel: Kernel, *, ways: int | None = None, weight: float = 2.0, bias: float = 1e-4, noise: float = 1e-4
) -> Learner[Params]:
    """A Gaussian process: theta = {"weight", "bias", "noise"}, the logarithms of w, b and h, which start as given.

    kernel: `metaloop.nn.infinite(...)`. ways: of classes; None for numbers y [n, out], whose f answers the mean, and
    f.deviation(x) [n] how far y is from it. Raises ValueError unless weight, bias and noise are above 0.
    """
    if not min(weight, bias, noise) > 0:
        raise ValueError(f"gaussian_process: weight is {weight}, bias {bias}, noise {noise}, expected all above 0.")

    def init(seed: int) -> Params:
        given = {"weight": weight, "bias": bias, "noise": noise}
        return {name: torch.tensor(value).log() for name, value in given.items()}

    def adapt(theta: Params, S: Data) -> Posterior:
        x, params = S.x.double(), {"w": theta["weight"].double().exp(), "b": theta["bias"].double().exp()}
        member = None if ways is None else membership(S.y, ways)
        y = S.y.double() if member is None else member.double()
        centre = y.mean(0) if member is None else torch.full_like(y[0], 1 / y.shape[1])
        K = kernel.between(params, x, x)
        h = theta["noise"].double().exp() * K.diagonal().mean()
        L = torch.linalg.cholesky_ex(K + h * torch.eye(len(x), device=x.device, dtype=x.dtype))[0]            # (1)
        L = L.contiguous()  # by rows, as a file will have it: products round by the order
        alpha = torch.cholesky_solve(y - centre, L).contiguous()
        free = len(x) * (y.shape[1] - (0 if member is None else 1))
        spread = (y - centre).abs().amax() > 1e-14 * y.abs().amax()  # more than the mean's own rounding
        scale = torch.where(spread, ((y - centre) * alpha).sum() / max(free, 1), 1.0)                        # (4)
        present = torch.ones_like(centre, dtype=torch.bool) if member is None else member.any(0)
        return Posterior(params, h, x, L, alpha, scale, centre, present, kernel, member is not None)

    def log_density(adapt, theta: Params, task: Task):
        """(6) for numbers: nats for each."""
        m, deviation = adapt(theta, task.support).moments(task.query.x)
        error = (task.query.y - m) / deviation[:, None]
        loss = (error.square() / 2 + deviation[:, None].log()).mean() + log(2 * pi) / 2
        return loss, scalars(m, task.query.y)

    objective = log_density if ways is None else query_loss(cross_entropy)
    return Learner(init, adapt, objective, differentiates=False)
