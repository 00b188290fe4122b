"""All that is not an algorithm: many tasks at once, training that survives, scores with their uncertainty."""

from .batch import meta_gradient
from .evaluate import Score, evaluate
from .run import Run
from .session import NonFinite
from .train import fit

__all__ = ["NonFinite", "Run", "Score", "evaluate", "fit", "meta_gradient"]
