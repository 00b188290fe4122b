"""Parts that are safe under task batching and second derivatives."""

from .backbones import Backbone, Mean, conv4, mlp, resnet12
from .descent import Descent, adam, rmsprop, sgd
from .functional import Net, condition, functional, learned, population
from .norms import POLICIES, BatchNorm, norm
from .sequence import LSTM, Recurrent, attend

__all__ = [
    "LSTM", "POLICIES", "Backbone", "BatchNorm", "Descent", "Mean", "Net", "Recurrent", "adam", "attend", "condition",
    "conv4", "functional", "learned", "mlp", "norm", "population", "resnet12", "rmsprop", "sgd",
]
