"""What makes theta good: objectives (adapt, theta, task) -> (loss, info)."""

from .query import accuracy, query_loss

__all__ = ["accuracy", "query_loss"]
