"""How theta improves, where that is not meta-gradient descent on tasks dealt at random."""

from .follow_leader import follow_leader

__all__ = ["follow_leader"]
