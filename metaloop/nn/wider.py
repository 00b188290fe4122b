"""A wider recurrent network that computes the same: Net2Wider for LSTMs."""

import re

import torch
from torch import Tensor

from ..core import Params


def wider(theta: Params, hidden: int, *, seed: int = 0, even: bool = False) -> tuple[Params, tuple[Tensor, ...]]:
    """theta of a `Recurrent` with more hidden units, which computes what it did (Chen, Goodfellow & Shlens 2016,
    arXiv:1511.05641; for recurrent networks Sodhani, Chandar & Bengio 2020, arXiv:1811.07017):

        unit u of the wider layer copies unit j(u) of the narrow one, j(u) = u for those there were, drawn for others
        W'[u, :] = W[j(u), :]       what comes into it, all four gates and their biases
        W'[:, u] = s_u W[:, j(u)]   what goes out of it, into the state as well,    sum of s_u over u with j(u) = j is 1

    Whatever it reads, from a state (h, c) that is copied alike, its outputs are equal up to rounding. With
    s_u = 1 / number of copies (even) copies have equal gradients for ever; so s_u is drawn, for each row of W anew.
    Gives the wider theta, and j of each layer: the state goes on as h[..., j], c[..., j].
    Raises ValueError if theta is of another network, or not narrower than `hidden`.
    """
    cells = [n for n in theta if re.fullmatch(r"lstm\.cells\.\d+\.weight", n)]
    names = sorted(cells, key=lambda n: int(n.split(".")[2]))
    wanted = {*names, *(n.replace("weight", "bias") for n in names), "head.weight", "head.bias"}
    if not names or {*theta} != wanted:
        raise ValueError(f"wider: theta holds {', '.join(theta)}, expected that of a metaloop.nn.Recurrent.")
    narrow = theta["head.weight"].shape[1]
    if hidden <= narrow:
        raise ValueError(f"wider: hidden is {hidden}, expected more than the {narrow} units that there are.")
    g, wide, maps = torch.Generator().manual_seed(seed), dict(theta), []

    def outgoing(W: Tensor, j: Tensor) -> Tensor:
        """The columns of the wider layer's units."""
        weight = torch.rand(len(W), hidden, generator=g, dtype=torch.float64) * (not even) + 0.5
        whole = weight.new_zeros(len(W), narrow).index_add(1, j, weight)
        return W[:, j] * (weight / whole[:, j]).to(W)

    for layer, name in enumerate(names):
        j = torch.cat([torch.arange(narrow), torch.randint(narrow, (hidden - narrow,), generator=g)])
        rows = (torch.arange(4)[:, None] * narrow + j).flatten()  # of each gate
        W, b = theta[name][rows], theta[name.replace("weight", "bias")][rows]
        below, own = W.split((W.shape[1] - narrow, narrow), 1)
        below = outgoing(below, maps[-1]) if layer else below
        wide[name], wide[name.replace("weight", "bias")] = torch.cat([below, outgoing(own, j)], 1), b
        maps.append(j)
    wide["head.weight"] = outgoing(theta["head.weight"], maps[-1])
    return wide, tuple(maps)
