"""What makes theta good: objectives (adapt, theta, task) -> (loss, info), and losses of labelled embeddings."""

from .embedding import EmbeddingLoss, arcface, cosface, normface, softmax, sphereface
from .mined import from_pml, triplet
from .query import accuracy, query_loss

__all__ = [
    "EmbeddingLoss", "accuracy", "arcface", "cosface", "from_pml", "normface", "query_loss", "softmax", "sphereface",
    "triplet",
]
