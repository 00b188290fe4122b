"""What networks with a memory attend to, and a run that says again what it has read (NTM)."""

from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import Data
from ..engine.run import Run
from ..learners.meta_rnn import Continued
from ..learners.ntm import Answering
from ..nn.functional import at_meta_test
from ..torch_private import pytree
from .asked import Asked, Given, png, since

WRITTEN = 1e-3  # a change of a slot that is none, measured by its norm
INK = 64  # of 255, from which a dot of a shrunk picture is one: a pen's line is thinner than a dot


def attended(f: Any, S: Data, q: Tensor) -> tuple[Tensor, bool] | None:
    """The weight [n, m] of each example of S, in the order in which f took them, as f answers each q, and whether it is
    counted by slots; None where f does not tell.

    Of a network with a memory, a slot is counted to the input that changed it most: what lacks to 1 is on slots that
    belong to q itself, or that nothing was written to. Of NTM the queries are one sequence, each behind the others.
    """
    if hasattr(f, "attends"):
        return f.attends(q), False
    if not isinstance(f, Continued | Answering) or not _has_memory(f.h):
        return None
    if isinstance(f, Answering):
        inputs = S.x.flatten(1)
    else:
        y = F.one_hot(S.y, len(f.y)).to(f.y)
        inputs = torch.cat([S.x.flatten(1), torch.cat([torch.zeros_like(y[:1]), y[:-1]])], -1)
    h, M, changes = None, 0.0, []
    for x in inputs:
        _, h = f.net(f.theta, x[None], h)
        changes.append((h[2][0] - M).norm(dim=-1))
        M = h[2][0]
    changed = torch.stack(changes)  # [m, slots]
    w, M = _read(f, q)
    most = changed.amax(0)
    w = torch.where(((M - f.h[2][0]).norm(dim=-1) <= most) & (most > WRITTEN), w, 0)
    return w @ F.one_hot(changed.argmax(0), len(inputs)).to(w), True


def _has_memory(h: Any) -> bool:
    """Whether it is a state of `nn.Memory`: of the LSTM, what was read, and (M, weights to read by, others)."""
    return isinstance(h, tuple) and len(h) == 3 and isinstance(h[2], tuple) and len(h[2]) == 3


def _read(f: Continued | Answering, q: Tensor) -> tuple[Tensor, Tensor]:
    """The weights [n, slots] by which f reads as it answers each q, of its heads in the mean; the memory it reads."""
    if isinstance(f, Continued):
        n = len(q)
        h = pytree.tree_map(lambda t: t.expand(n, *t.shape), f.h)
        before = h[2][0]
        _, (_, _, (M, w, _)) = f.net(f.theta, torch.cat([q.flatten(1), f.y.expand(n, -1)], -1)[None], h)
        return (w, before) if w.ndim == 2 else (w.mean(1), M)  # `Tape` reads before it writes, `LeastUsed` behind
    h, found = f.h, []
    for x in q.flatten(1):
        before = h[2][0]
        _, h = f.net(f.theta, x[None], h)
        found.append((h[2][1], before) if h[2][1].ndim == 1 else (h[2][1].mean(0), h[2][0]))
    w, M = zip(*found, strict=True)
    return torch.stack(w), torch.stack(M)


def says_again(run: Run) -> bool:
    """Whether it is a run of NTM that learned to say a sequence again."""
    return run.info["pool"]["name"] == "copy"


class Said:
    """A run that says again what it has read: it is shown the drawings of S as dots, column by column."""

    def __init__(self, folder: str, run: Run):
        self.run, self.name = run, Path(folder).name or str(folder)
        self.bits = run.plan.pool.shape[0] - 1

    def about(self) -> dict[str, Any]:
        told = {"name": self.name, "adapts": False, "kind": "sequence", "steps": []}
        return {**told, "recipe": self.run.info["recipe"], "trained": self.run.step}

    def answer(self, given: Given, asked: Asked) -> dict[str, Any]:
        """The dots that it read, those that it says, and what it attends to as it says each column. The drawings are as
        wide as makes a sequence no longer than those of its training, where that is possible.

        Raises ValueError where there are more columns than its memory has slots.
        """
        pictures, _, names, _ = given
        wide = min(self.bits, max(1, self.run.plan.shots // len(pictures)))
        dots = np.concatenate([one.fitted((1, self.bits, wide))[0] > INK for one in pictures], 1)
        read = torch.from_numpy(dots.T).float()  # [columns, bits]
        x = torch.cat([F.pad(read, (0, 1)), torch.eye(self.bits + 1)[-1:]])  # the last one says that it is over
        S, q = Data(x, torch.zeros(len(x), self.bits)), torch.zeros(len(read), self.bits + 1)
        began = perf_counter()
        with torch.no_grad(), at_meta_test():
            f = self.run.plan.at_test().adapt(self.run.theta, S)
            ms, p = since(began), f(q)
            found = attended(f, S, q)
        picture = lambda of: png((255 * of).round().clamp(0, 255).to(torch.uint8).numpy()[None])
        said = {"read": picture(read.T), "says": picture(p.T), "columns": len(read),
                "right": round(((p > 0.5) == (read > 0.5)).float().mean().item(), 4)}  # fmt: skip
        if found is not None:
            said["looks"] = picture(found[0])
        return {"classes": names, "p": [], "ms": ms, "said": said}
