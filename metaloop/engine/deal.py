"""The tasks of a meta-step, dealt by generators that are seeded by (seed, step)."""

from typing import TYPE_CHECKING

import torch

from ..core import Task
from ..torch_private import pytree
from .seeds import place

if TYPE_CHECKING:
    from ..tasks.pool import Pool

BLOCK = 64  # tasks drawn from one generator: of many tasks, a process draws those blocks alone that it needs


class Deal:
    """Deals the `tasks` tasks of each step, or a share of them. On a GPU they are drawn there, and are others."""

    def __init__(self, pool: "Pool", tasks: int, seed: int, device: torch.device | str = "cpu", **episode: int):
        self.pool, self.tasks, self.seed, self.episode = pool, tasks, seed, episode
        where = device if torch.device(device).type == "cuda" else "cpu"
        self.generators = [torch.Generator(where) for _ in range(0, tasks, BLOCK)]

    def at(self, step: int) -> "Deal":
        """The same, about to deal the tasks of that step."""
        for block, generator in enumerate(self.generators):
            generator.manual_seed(place(self.seed, f"train block {block}" if block else "train", step))
        return self

    def __call__(self, share: range | None = None) -> Task:
        """Tasks [share], all unless given: once after each `at`. The blocks of the others are not drawn."""
        share = share or range(self.tasks)
        parts, first = [], share.start // BLOCK
        for block in range(first, (share.stop - 1) // BLOCK + 1):
            size = min(BLOCK, self.tasks - block * BLOCK)
            parts.append(self.pool.sample(tasks=size, **self.episode, generator=self.generators[block]))
        part = slice(share.start - first * BLOCK, share.stop - first * BLOCK)
        return pytree.tree_map(lambda *t: (t[0] if len(t) == 1 else torch.cat(t))[part], *parts)
