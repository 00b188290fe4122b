"""Every learner, in every form that changes what it computes, as a case for the laws; and the tasks they are tried on.

The cases of a system stand in its paper test, as functions that make them: `CASES`, name -> () -> Case.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from metaloop import Data, Problem, Task, functional
from metaloop.nn import Backbone, conv4, mlp
from metaloop.testing import Case
from metaloop.torch_private import pytree

PAPERS = Path(__file__).parent / "papers"

WAYS = 3


def labels(n: int, each: int, g: torch.Generator):
    """Support labels [n, WAYS * each]: every class at least once, otherwise as luck has it, in any order."""
    y = torch.cat([torch.arange(WAYS).expand(n, -1), torch.randint(WAYS, (n, WAYS * (each - 1)), generator=g)], 1)
    return y.gather(1, torch.rand(y.shape, generator=g).argsort(1))


def blobs(n: int, seed: int, *, same_classes: bool = False) -> Task:
    """Clouds of points: two coordinates tell the classes apart, two are loud noise.

    same_classes: the classes are those of every other task, for learners trained on a fixed list of classes.
    """
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(n, WAYS, 2, generator=torch.Generator().manual_seed(0) if same_classes else g) * 1.5
    if same_classes:
        means = means[:1].expand(n, -1, -1)

    def data(each: int) -> Data:
        y = labels(n, each, g)
        signal = means.gather(1, y[..., None].expand(-1, -1, 2)) + 0.3 * torch.randn(*y.shape, 2, generator=g)
        return Data(torch.cat([signal, 2 * torch.randn(*y.shape, 2, generator=g)], -1), y)

    return Task(data(3), data(4))


def known_blobs(n: int, seed: int) -> Task:
    return blobs(n, seed, same_classes=True)


def pictures(n: int, seed: int) -> Task:
    """Grey 16x16 images: each class of a task is a coarse pattern, shown through noise."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n * WAYS, 1, 4, 4, generator=g)
    patterns = F.interpolate(coarse, scale_factor=4).unflatten(0, (n, WAYS))

    def data(each: int) -> Data:
        y = labels(n, each, g)
        x = torch.stack([pattern[k] for pattern, k in zip(patterns, y, strict=True)])
        return Data(x + 1.5 * torch.randn(x.shape, generator=g), y)

    return Task(data(2), data(2))


def drawings(n: int, seed: int) -> Task:
    """The pictures with pixels in [0, 1]."""
    return Task(*(Data((2 * x).sigmoid(), y) for x, y in pictures(n, seed)))


def waves(n: int, seed: int) -> Task:
    """Sine curves of one frequency: x, y [n, points, 1]."""
    g = torch.Generator().manual_seed(seed)
    a, b = 1 + torch.rand(n, 1, 1, generator=g), 3 * torch.rand(n, 1, 1, generator=g)

    def data(points: int) -> Data:
        x = 6 * torch.rand(n, points, 1, generator=g) - 3
        return Data(x, a * torch.sin(x - b))

    return Task(data(5), data(8))


def started(deal, init, spread: float = 0.5):
    """The same tasks as problems: each brings a start for the parameters of a network."""

    def problems(n: int, seed: int) -> Task:
        (x, y), query = deal(n, seed)
        g = torch.Generator().manual_seed(seed)
        start = {name: spread * torch.randn(n, *p.shape, generator=g) for name, p in init(0).items()}
        return Task(Problem(x, y, start), query)

    return problems


def one(tasks: Task, i: int = 0) -> Task:
    """Task i of a batch, in float64."""
    return pytree.tree_map(lambda t: t[i].double() if t.is_floating_point() else t[i], tasks)


def batched(task: Task) -> Task:
    """The batch that holds one task."""
    return pytree.tree_map(lambda t: t[None], task)


class Smooth(nn.Sequential):
    """A small classifier whose derivatives are smooth."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, WAYS)


def image_net(policy: str, *, blocks: int = 4, out: int | None = None) -> nn.Module:
    """The four blocks for 16x16 images, or the first of them; where channels are grouped, five groups of two."""
    width = 10 if policy == "group" else 4
    net = conv4((1, 16, 16), width=width, norm_policy=policy, out=out)
    if blocks == 4:
        return net
    dim = width * (16 >> blocks) ** 2
    body = nn.Sequential(*list(net.body)[:blocks], nn.Flatten())
    return Backbone(body, dim, None if out is None else nn.Linear(dim, out))


classifier = functional(Smooth())
features = functional(mlp((4, 12, 6)))

# The laws that are waived most often.
DERIVATIVE, QUERIES, ORDER, HELPS, LEARNS, READS = (
    "meta_gradient_is_the_derivative", "queries_do_not_see_each_other", "support_order_is_irrelevant",
    "meta_training_helps", "all_of_theta_learns", "reads_no_values",
)  # fmt: skip


def waived(policy: str) -> dict[str, str]:
    """What a network with these norms cannot keep."""
    together = {QUERIES: "a batch of queries is normalised by its own statistics"}
    return together if policy in ("transductive", "running") else {}


class Zoo(Mapping[str, Case]):
    """All cases by name. A case is made when it is asked for, once; names make none."""

    def __init__(self):
        self.made: dict[str, Case] = {}

    @cached_property
    def home(self) -> dict[str, str]:
        """The system that each case is of."""
        return {name: system for system, cases in self._cases.items() for name in cases}

    @cached_property
    def _cases(self) -> dict[str, dict[str, Callable[..., Case]]]:
        if str(PAPERS) not in sys.path:
            sys.path.append(str(PAPERS))
        tests = {path.stem: import_module(path.stem) for path in sorted(PAPERS.glob("test_*.py"))}
        cases = {stem.removeprefix("test_"): getattr(test, "CASES", {}) for stem, test in tests.items()}
        names = [name for each in cases.values() for name in each]
        assert len(set(names)) == len(names), f"two cases have one name: {sorted(names)}"
        return cases

    def make(self, name: str, **options) -> Case:
        return self._cases[self.home[name]][name](**options)

    def __getitem__(self, name: str) -> Case:
        if name not in self.made:
            self.made[name] = self.make(name)
        return self.made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.home)

    def __len__(self) -> int:
        return len(self.home)


ZOO = Zoo()
