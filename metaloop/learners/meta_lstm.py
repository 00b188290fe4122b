"""Optimization as a Model for Few-Shot Learning
Ravi & Larochelle, ICLR 2017, https://openreview.net/forum?id=rJY0-Kcll

Gradient descent is the update of an LSTM's cell, c_t = f c_{t-1} + i c~_t, with c = phi, c~ = -g, f = 1 and a constant
i. Here both gates are learned, for each coordinate of phi by itself; their weights are shared by all coordinates.

    g_t   = grad L_t(phi_{t-1}) / B               L_t: the mean loss on S, of B examples; again over B          (1)
    h_t   = LSTM([pre(L_t), pre(g_t)], h_{t-1})   pre: log and sign of a number, as in `lstm_optimizer`         (2)
    a^f_t = w_F . [h_t, phi_{t-1}, a^f_{t-1}] + b_F,    a^i_t = w_I . [h_t, phi_{t-1}, a^i_{t-1}] + b_I         (3)
    phi_t = sigmoid(a^f_t) phi_{t-1} - sigmoid(a^i_t) g_t       h_0 = a_0 = 0                                   (4)
    f(x)  = net(phi_T, x)                                                                                       (5)
    theta = argmin  E_task  L(phi_T; Q)           of phi_0, the LSTM, w and b                                   (6)

L_t and g_t are held constant in (6): no second derivatives; phi_0 learns through the product of the forget gates.

Departs: (3) feeds the numbers before the sigmoid back, and (1) divides twice, as the authors' code does; in the paper
it is the gates, and the mean gradient.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad_and_value

from ..core import Data, Learner, Params
from ..nn import LSTM, condition, cross_entropy, functional, learned, population
from ..objectives.query import query_loss
from .lstm_optimizer import flat, preprocess, shaped
from .maml import FineTuned

Meta = dict[str, Params]  # "net": phi_0; "lstm"; "forget", "input": w and b of a gate


def meta_lstm(
    net: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    inner_steps: int = 12,
    hidden: int = 20,
    gates: str = "learned",
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Learner[Meta]:
    """Meta-LSTM: theta is net's initialisation and the gates of its descent, f is net after inner_steps steps on S.

    gates: "learned" as published; "constant", sigmoid(b_F) and sigmoid(b_I) for all coordinates and steps; "descent",
        f = 1 too, which is gradient descent of rate sigmoid(b_I) / B.
    A step keeps about 10 * hidden numbers for each of phi's in meta-training. Raises ValueError on other gates.
    """
    if gates not in ("learned", "constant", "descent"):
        raise ValueError(f"meta_lstm: gates is {gates!r}, expected 'learned', 'constant' or 'descent'.")
    lstm, init_lstm = functional(LSTM(4, hidden))

    def start(seed: int) -> Meta:
        g = torch.Generator().manual_seed(seed)
        biases = {"forget": torch.empty(()).uniform_(4, 5, generator=g),
                  "input": torch.empty(()).uniform_(-5, -4, generator=g)}  # fmt: skip
        small = lambda p: torch.empty_like(p).uniform_(-0.01, 0.01, generator=g)
        theta = {"net": init(seed)} | {name: {"bias": b} for name, b in biases.items()}
        if gates == "learned":
            theta["lstm"] = {n: small(p) for n, p in init_lstm(seed).items()}
            for name in biases:
                theta[name]["weight"] = small(torch.empty(hidden + 2))
        return {n: part for n, part in theta.items() if n != "forget" or gates != "descent"}

    def path(theta: Meta, S: Data) -> Params:
        """phi_T."""
        first = learned(theta["net"], net)
        phi, h = flat(first), None
        a = {"forget": torch.zeros_like(phi), "input": torch.zeros_like(phi)}

        def L(phi: Float[Tensor, " n"]) -> Tensor:
            return loss(net({**theta["net"], **shaped(phi, first)}, S.x), S.y)

        for _ in range(inner_steps):
            with torch.no_grad():
                d, L_t = grad_and_value(L)(phi.detach())
                g = d / len(S.x)                                                             # (1)
                seen = torch.cat([preprocess(L_t[None]).expand(len(g), 2), preprocess(g)], -1)
            if gates == "learned":
                (h_t,), h = lstm(theta["lstm"], seen[None], h)                               # (2)
                for name, before in a.items():
                    w, b = theta[name]["weight"], theta[name]["bias"]
                    a[name] = torch.cat([h_t, torch.stack([phi, before], -1)], -1) @ w + b   # (3)
            else:
                a = {name: theta[name]["bias"] for name in a if name in theta}
            kept = a["forget"].sigmoid() * phi if "forget" in a else phi
            phi = kept - a["input"].sigmoid() * g                                            # (4)
        return {**theta["net"], **shaped(phi, first)}

    def adapt(theta: Meta, S: Data) -> FineTuned:
        query_net, phi = condition(net, path(theta, S), S.x)
        return FineTuned(phi, query_net)                                                     # (5)

    return Learner(
        start, adapt, query_loss(loss), differentiates=False, statistics=population(net, "net"),  # (6)
    )
