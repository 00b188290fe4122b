"""The episodic objective of most meta-learners: the loss of f = F_theta(S) on the task's query set.

    L(theta; S, Q) = (1/|Q|) sum over (x, y) in Q of criterion(f(x), y),    f = F_theta(S)
"""

from collections.abc import Callable

from torch import Tensor

from ..core import Info, Scalar, Task
from ..targets import target_of


def scalars(predicted: Tensor, y: Tensor) -> Info:
    """What is worth logging of a prediction: accuracy where y are classes."""
    return target_of(y).scalars(predicted, y)


def query_loss(criterion: Callable[[Tensor, Tensor], Scalar]):
    """The objective that applies criterion(f(x), y) -> scalar to the query set."""

    def objective(adapt, theta, task: Task) -> tuple[Scalar, Info]:
        f = adapt(theta, task.support)
        predicted = f(task.query.x)
        return criterion(predicted, task.query.y), scalars(predicted, task.query.y)

    return objective
