"""Where theta starts: other draws than those of a network's own layers.

    glorot        U(-a, a),  a = sqrt(6 / (fan_in + fan_out))              Glorot & Bengio 2010
    he            N(0, 2 / fan_in)                                         He et al. 2015, arXiv:1502.01852
    lecun         N(0, 1 / fan_in)                                         LeCun et al. 1998
    orthogonal    W W^T = I, or W^T W = I, whichever side is shorter       Saxe et al. 2014, arXiv:1312.6120
    small         N(0, 0.02^2), cut off at two deviations                  Transformers' usual one
    zero          0: a head that knows no class, a residual branch that adds nothing (Goyal et al. 2017,
                  arXiv:1706.02677, by the scale of its last norm)

A weight [out, in, ...] counts as a matrix [out, in ...]: fan_in is in times the positions of a kernel, fan_out is out
times them.
"""

import math
from collections.abc import Callable
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from ..core import Params
from .functional import learned

STARTS: dict[str, Callable[[Tensor, torch.Generator], Any]] = {
    "glorot": lambda w, g: nn.init.xavier_uniform_(w, generator=g),
    "he": lambda w, g: nn.init.normal_(w, 0.0, math.sqrt(2 / w[0].numel()), generator=g),
    "lecun": lambda w, g: nn.init.normal_(w, 0.0, math.sqrt(1 / w[0].numel()), generator=g),
    "orthogonal": lambda w, g: nn.init.orthogonal_(w, generator=g),
    "small": lambda w, g: nn.init.trunc_normal_(w, 0.0, 0.02, -0.04, 0.04, generator=g),
    "zero": lambda w, g: nn.init.zeros_(w),
}


def drawn(
    init: Callable[[int], Params], start: str, *, only: str | Callable[[str], bool] = "", scale: float = 1.0
) -> Callable[[int], Params]:
    """init with other draws: those weights that `only` names, times scale, are drawn as `start` says.

    start: "glorot", "he", "lecun", "orthogonal", "small" or "zero" (the module's page). only: which, as a prefix of
    their names or a test of the name. Of these, what is no weight of two axes or more (biases, scales of norms, places)
    is left as it is; but "zero" takes every tensor named. What is fixed stays. A tensor's numbers are by seed and its
    name, whatever else is drawn. It may be used upon itself:

    >>> import metaloop as ml
    >>> net, init = ml.functional(ml.nn.mlp((2, 8, 3)))
    >>> init = drawn(drawn(init, "orthogonal"), "zero", only="head")
    >>> init(0)["head.weight"].any()
    tensor(False)

    init(seed) raises ValueError if nothing is named so; drawn itself on an unknown start.
    """
    if start not in STARTS:
        raise ValueError(f"drawn: start is {start!r}, expected one of {', '.join(STARTS)}.")
    fixed = getattr(init, "fixed", frozenset())

    def anew(seed: int) -> Params:
        theta = init(seed)
        named = only if callable(only) else lambda name: name.startswith(only)
        weighs = lambda n: start == "zero" or (n.endswith("weight") and theta[n].dim() > 1)
        names = [n for n in learned(theta) if named(n) and n not in fixed and weighs(n)]
        if not names:
            raise ValueError(f"drawn: only={only!r} names nothing that {start!r} draws. There are: {', '.join(theta)}.")
        own = lambda n: torch.Generator().manual_seed(crc32(f"{seed} {n}".encode()))
        new = {n: STARTS[start](torch.empty_like(theta[n], device="cpu"), own(n)) * scale for n in names}
        return {**theta, **{n: p.to(theta[n].device) for n, p in new.items()}}

    anew.fixed = fixed  # type: ignore[attr-defined]
    return anew
