"""From scores of the next token to a sentence: the best word each time, or the best of some beginnings."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..torch_private import pytree
from .translator import END, PAD, START

Next = Callable[[Tensor, Any], Tensor]  # (prefixes [n, t], memory) -> scores [n, t, words]


def greedy(scores: Next, memory: Any, n: int, *, length: int, device: Any = None) -> Int[Tensor, "n length"]:
    """The most probable next token, again and again, from `START` to `END`; then `PAD`. memory: n on the first axis.

    What has no END by then is cut off there."""
    said = torch.full((n, 1), START, device=device)
    over = torch.zeros(n, dtype=torch.bool, device=device)
    for _ in range(length):
        word = _allowed(scores(said, memory)[:, -1]).argmax(-1)
        said = torch.cat([said, torch.where(over, PAD, word)[:, None]], 1)
        over = over | (word == END)
        if over.all():
            break
    return torch.nn.functional.pad(said[:, 1:], (0, length + 1 - said.shape[1]), value=PAD)


def beam(
    scores: Next, memory: Any, n: int, *, width: int, length: int, alpha: float = 1.0, device: Any = None
) -> Int[Tensor, "n length"]:
    """Of the `width` most probable beginnings after each token, the one with the highest log p(sentence) / words^alpha.

    A sentence that is over stays among them with its own probability. With alpha=0 and a width of all that can be said
    it is the most probable sentence; with width=1 it is `greedy`.
    """
    memory = pytree.tree_map(lambda t: t.repeat_interleave(width, 0), memory)
    said = torch.full((n, width, 1), START, device=device)
    total = torch.full((n, width), -torch.inf, device=device)
    total[:, 0] = 0.0  # all of a beam begin alike, so one of them is enough
    over = torch.zeros(n, width, dtype=torch.bool, device=device)
    for _ in range(length):
        log_p = _allowed(scores(said.flatten(0, 1), memory)[:, -1]).log_softmax(-1).unflatten(0, (n, width))
        stay = torch.full_like(log_p, -torch.inf)
        stay[..., PAD] = 0.0
        each = total[..., None] + torch.where(over[..., None], stay, log_p)
        total, at = each.flatten(1).topk(width)
        which, word = at // log_p.shape[-1], at % log_p.shape[-1]
        said = torch.cat([said.gather(1, which[..., None].expand(-1, -1, said.shape[-1])), word[..., None]], -1)
        over = over.gather(1, which) | (word == END)
        if over.all():
            break
    words = (said[..., 1:] != PAD).sum(-1)
    best = (total / words.clamp_min(1) ** alpha).argmax(1)
    chosen = said[torch.arange(n, device=device), best, 1:]
    return torch.nn.functional.pad(chosen, (0, length - chosen.shape[1]), value=PAD)


def _allowed(scores: Tensor) -> Tensor:
    """No sentence holds `PAD` or another `START`."""
    no = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
    no[[PAD, START]] = True
    return scores.masked_fill(no, -torch.inf)
