"""Learning to learn by gradient descent by gradient descent
Andrychowicz, Denil, Gomez, Hoffman, Pfau, Schaul, Shillingford & de Freitas, NeurIPS 2016, arXiv:1606.04474

Descent whose steps are the outputs of a recurrent network m, run on each coordinate of phi by itself: the weights are
shared by all coordinates, the state is each one's own.

    phi_{t+1}    = phi_t + g_t                                     phi_0: the start that the task gives      (1)
    g_t, h_{t+1} = m(pre(grad f_t(phi_t)), h_t; theta)             f_t: the loss on minibatch t of S         (2)
    pre(d)       = (log|d| / p, sgn d) if |d| >= e^-p, else (-1, e^p d)                                      (3)
    f(x)         = net(phi_T, x)                                                                             (4)
    theta        = argmin  E_task  sum_{t=1..T} w_t f_t(phi_t),    w_t = 1,  f_T: the loss on Q              (5)

The gradients in (2) are held constant in (5): no second derivatives. Every `unroll` steps phi and h are held constant
too, which truncates back-propagation through time.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad_and_value

from ..core import Data, Learner, Params, Problem, Task, Theta
from ..nn import Recurrent, cross_entropy, fixed, functional, learned
from ..nn.sequence import State
from ..objectives.query import scalars
from ..torch_private import pytree
from .maml import FineTuned

P = 10.0  # p


def preprocess(d: Float[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    size, small = d.abs(), d.abs() < torch.e**-P
    log = torch.where(small, -P, torch.where(small, 1.0, size).log()) / P
    return torch.stack([log, torch.where(small, torch.e**P * d, d.sign())], -1)              # (3)


def step(m: Callable, theta: Theta, d: Float[Tensor, " n"], h: State | None) -> tuple[Float[Tensor, " n"], State]:
    """Equation (2) for n coordinates with gradient d. m: the network that theta["m"] is of. h: None at the start."""
    hidden, gates = theta["m"]["head.weight"].shape[1], theta["m"]["lstm.cells.0.weight"]
    seen = preprocess(d) if gates.shape[1] == hidden + 2 else d[:, None]
    g, after = m(theta["m"], seen[None], h)
    return theta["scale"].detach() * g[0, :, 0], after                                       # (2)


def flat(phi: Params) -> Float[Tensor, " n"]:
    return torch.cat([p.flatten() for p in phi.values()])


def shaped(v: Float[Tensor, " n"], like: Params) -> Params:
    parts = v.split([p.numel() for p in like.values()])
    return {name: part.view(p.shape) for part, (name, p) in zip(parts, like.items(), strict=True)}


def lstm_optimizer(
    net: Callable[[Params, Tensor], Tensor],
    *,
    inner_steps: int = 100,
    batch: int | None = None,
    unroll: int = 20,
    hidden: int = 20,
    layers: int = 2,
    scale: float = 0.1,
    preprocessed: bool = True,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Learner:
    """A learned optimizer: theta is m's weights, f is net after inner_steps of m's steps on the support loss.

    The support set is a `Problem`, which brings the start phi_0 along: `metaloop.tasks.problems` deals such.
    A trained theta serves any network, in any training loop: `metaloop.optim.Learned`.
    batch: examples per step, taken in order and cyclically from S; None takes all. scale: of m's output, constant.
    preprocessed: whether m sees pre(d), or d itself. Raises ValueError if the support set has no start.
    """
    m, init_m = functional(Recurrent(2 if preprocessed else 1, hidden, 1, layers))

    def init(seed: int) -> Theta:
        return {"m": init_m(seed), "scale": fixed(torch.tensor(scale))}

    def train(theta: Theta, S: Data | Problem) -> tuple[list[Tensor], Params]:
        """f_0(phi_0) .. f_{T-1}(phi_{T-1}), each as a constant with its gradient; phi_T."""
        if not isinstance(S, Problem):
            raise ValueError("lstm_optimizer: the support set has no start. Deal it with tasks.problems(pool, init), "
                             "or descend in a loop of your own: optim.Learned(parameters, run).")
        start, h, losses, n = learned(S.start, net), None, [], len(S.x)
        phi = flat(start)
        for t in range(inner_steps):
            B = slice(None)
            if batch and batch < n:
                B = torch.arange(t * batch, (t + 1) * batch, device=S.x.device) % n
            f_t = lambda phi: loss(net({**S.start, **shaped(phi, start)}, S.x[B]), S.y[B])  # noqa: B023
            d, value = grad_and_value(f_t)(phi.detach())
            d = d.detach()
            losses.append(value.detach() + d @ (phi - phi.detach()))
            if t % unroll == 0 and h is not None:
                phi, h = pytree.tree_map(torch.detach, (phi, h))
            g, h = step(m, theta, d, h)
            phi = phi + g                                                                    # (1)
        return losses, {**S.start, **shaped(phi, start)}

    def adapt(theta: Theta, S: Data | Problem) -> FineTuned:
        return FineTuned(train(theta, S)[1], net)                                            # (4)

    def objective(adapt, theta: Theta, task: Task):
        losses, phi = train(theta, task.support)
        predicted = net(phi, task.query.x)
        last = loss(predicted, task.query.y)
        info = {"last": last, **scalars(predicted, task.query.y)}
        return torch.stack([*losses[1:], last]).sum(), info                                  # (5)

    return Learner(init, adapt, objective, differentiates=False)
