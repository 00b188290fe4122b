"""The data of published rows, each protocol once, with what is known of it before anything is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import pi
from typing import TYPE_CHECKING, Any

import metaloop as ml

if TYPE_CHECKING:
    from ..tasks.pool import Outline, Pool

OMNIGLOT, PHOTOGRAPH = (1, 28, 28), (3, 84, 84)


@dataclass(frozen=True)
class Protocol:
    """A pool of `metaloop.tasks` with the options of a paper. Called, it makes that pool.

    name: the pool's in `metaloop.tasks`, or a name for what `make` makes. shape, classes, kind: as the pool's training
    part has them.
    """

    name: str
    shape: tuple[int, ...]
    classes: int | None = None
    kind: str = "classification"
    options: dict[str, Any] = field(default_factory=dict)
    make: Callable[..., Pool] | None = None

    def __call__(self) -> Pool:
        return (self.make or getattr(ml.tasks, self.name))(**self.options)

    def outline(self) -> Outline:
        """The pool without its examples: no file is read."""
        from ..tasks.pool import Outline

        return Outline(self.shape, self.classes, self.kind, self.name)


def omniglot(classes: int, **options: Any) -> Protocol:
    return Protocol("omniglot", OMNIGLOT, classes, options=options)


def functions(name: str, size: int, **options: Any) -> Protocol:
    """Random functions of `size` numbers."""
    return Protocol(name, (size,), kind="regression", options=options)


# Omniglot. ProtoNet's split is Vinyals', with rotations as classes and test classes rotated too; MAML draws a rotation
# per class and task, at test too; Reptile's test classes are not rotated. Lake's background set alone is for what is
# tested on his runs, which are of characters that the others train on.
vinyals = omniglot(4800, split="vinyals", rotations="classes", rotations_at_test="classes", validation=False)
turned_by_task = omniglot(1100, split="random", rotations="task", rotations_at_test="task")
upright_at_test = omniglot(4800, split="random", rotations="classes", rotations_at_test=None, validation=False)
of_two_colours = omniglot(4800, **upright_at_test.options, binary=True)
rotated = omniglot(4800, split="random", rotations="classes", rotations_at_test="classes", validation=False)
background = omniglot(3272, split="background", rotations="classes")
small_characters = Protocol(
    "omniglot", (1, 20, 20), 4800, options={**vinyals.options, "size": 20},
)  # as ProtoNet's, of 20 x 20 pixels
tiny_characters = Protocol("omniglot", (1, 14, 14), 4800, options={**vinyals.options, "size": 14})
omniglot_stream = Protocol("omniglot_stream", OMNIGLOT, 964)

# Other pictures.
glyphs = Protocol("glyphs", OMNIGLOT, 1669)
mini_imagenet = Protocol("mini_imagenet", PHOTOGRAPH, 64)
rainbow_mnist = Protocol("rainbow_mnist", (3, 28, 28), 10)
rotated_mnist = Protocol("rotated_mnist", OMNIGLOT, 10)

# Functions, points, densities.
sinusoid = functions("sinusoid", 1, amplitude=(0.1, 5.0), phase=(0.0, pi), frequency=(0.8, 1.2))
boolean, semilinear, quadratic = (functions(name, 2) for name in ("boolean", "semilinear", "quadratic"))
sine_stream = functions("sine_stream", 11)
distributions, planar = functions("distributions", 1), functions("planar", 2)
gaussians = Protocol("gaussians", (2,))

# Random tables.
tables_prior = Protocol("tables_prior", (10,))

# Sequences of bits, with their marks.
copy, associative_recall = functions("copy", 9), functions("associative_recall", 8)
copy_levels, recall_levels = functions("copy_levels", 7), functions("recall_levels", 8)

# Sentences with their translations, in pieces: of the source and of the target.
captions = functions("multi30k", 88)

# The names of these pools: what `--data` takes, with the pools' own options.
POOLS = tuple(dict.fromkeys(known.name for known in list(vars().values()) if isinstance(known, Protocol)))
