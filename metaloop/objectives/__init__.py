"""What makes theta good: objectives (adapt, theta, task) -> (loss, info), and losses of labelled embeddings."""

from ..targets import accuracy
from .embedding import EmbeddingLoss, arcface, cosface, normface, softmax, sphereface
from .mined import from_pml, triplet
from .query import query_loss

__all__ = [
    "EmbeddingLoss", "accuracy", "arcface", "cosface", "from_pml", "normface", "query_loss", "softmax", "sphereface",
    "triplet",
]
