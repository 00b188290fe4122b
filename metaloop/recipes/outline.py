"""What a plan asks of a pool, without its examples."""

from ..tasks.pool import Pool


class Outline(Pool):
    """A pool's shape, training classes, kind and name: enough to rebuild the networks of a run."""

    def __init__(self, shape: tuple[int, ...], classes: int | None, kind: str = "classification", name: str = ""):
        self.shape, self.classes, self.kind, self.name = tuple(shape), classes, kind, name

    @classmethod
    def of(cls, pool: Pool) -> "Outline":
        return cls(pool.shape, pool.train.classes, pool.kind, pool.name)

    def flat(self, batch: int = 64) -> "Outline":
        return self

    def any_shots(self) -> "Outline":
        return self
