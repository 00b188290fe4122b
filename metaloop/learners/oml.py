"""Meta-Learning Representations for Continual Learning (OML)
Javed & White, NeurIPS 2019, arXiv:1905.12588

Learn a representation on which plain online updates, one example after another, neither forget nor interfere:

    z_j = phi_theta(x_j)                                        the representation network (RLN), held still     (1)
    W_j = W_{j-1} - alpha * grad_W l(g_W(z_j), y_j)             j = 1 .. k, the stream in its order              (2)
    f(x) = g_{W_k}(phi_theta(x))                                g: the prediction network (PLN)                  (3)
    theta, W_0 = argmin  E_stream  l(f; Q)                      Q: what the stream taught, and all before it     (4)

(4) scores where the whole trajectory (2) ends, so its gradient runs back through every step to theta and W_0.

Departs: rows of the PLN that are to be learned anew start at zero, where the authors draw them at random.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad

from ..core import Data, Learner, Params, fold, predictor, static
from ..nn import Descent, cross_entropy, learned, membership, sgd
from ..objectives.query import query_loss


@predictor
class Represented:
    """g_W(phi_theta(.)): a head that has learned online, on a representation that stayed as it was."""

    theta: Params
    W: Params
    phi: Callable[[Params, Tensor], Tensor] = static()
    g: Callable[[Params, Tensor], Tensor] = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        return self.g(self.W, self.phi(self.theta, x))


def oml(
    embed: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    head: Callable[[Params, Tensor], Tensor],
    init_head: Callable[[int], Params],
    *,
    inner_lr: float,
    batch: int = 1,
    optimizer: Descent | None = None,
    anew: str | int | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Learner[dict[str, Params]]:
    """OML: theta = {"representation": of embed, "prediction": of head}; a stream moves the head alone.

    The support set is a stream: its order counts. batch: consecutive examples per update (2).
    optimizer: the descent method of (2), plain steps unless given; the authors test with Adam.
    anew: which rows of a linear head, one per class, start at zero: None; the "classes" of the stream, as in
        meta-training with a fixed list of classes, where rows that know their class already would leave nothing to
        be learned online; or a number of classes, for a new head with so many rows, at meta-test.
    To learn on from an f, adapt from {"representation": f.theta, "prediction": f.W}.
    Raises ValueError on an unknown anew, or for rows anew if the head is more than one linear layer.
    """
    if anew not in (None, "classes") and not (isinstance(anew, int) and anew > 0):
        raise ValueError(f'oml: anew is {anew!r}, expected None, "classes" or a number of classes.')

    method = optimizer or sgd()

    def start(seed: int):
        W = init_head(seed)
        if anew and sum(w.ndim > 1 for w in W.values()) != 1:
            raise ValueError(f"oml: anew={anew!r} needs a head of one linear layer, its parameters are {', '.join(W)}.")
        return {"representation": init(seed), "prediction": W}

    def forget(W: Params, y: Tensor) -> Params:
        if anew is None:
            return W
        rows = learned(W, head).items()
        if isinstance(anew, int):
            return {**W, **{n: w.new_zeros(anew, *w.shape[1:]) for n, w in rows}}
        met = {n: membership(y, len(w)).any(0).view(-1, *[1] * (w.ndim - 1)) for n, w in rows}
        return {**W, **{n: torch.where(met[n], torch.zeros_like(w), w) for n, w in rows}}

    def update(state, example: Data):
        (W, moments), (z, y) = state, example
        g = grad(lambda moved: loss(head({**W, **moved}, z), y))(learned(W, head))
        moved, moments = method.update(inner_lr, g, learned(W, head), moments)           # (2)
        return {**W, **moved}, moments

    def adapt(theta, S: Data) -> Represented:
        z = embed(theta["representation"], S.x)                                          # (1)
        W_0 = forget(theta["prediction"], S.y)
        W, _ = fold(update, batch=batch)((W_0, method.init(learned(W_0, head))), Data(z, S.y))
        return Represented(theta["representation"], W, embed, head)                      # (3)

    return Learner(start, adapt, query_loss(loss))                                       # (4)
