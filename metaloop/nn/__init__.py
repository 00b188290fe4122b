"""Parts that are safe under task batching and second derivatives."""

from .autoencoder import Shaped, conv_decoder, conv_encoder
from .backbones import Backbone, Mean, conv4, mlp, resnet12
from .classes import class_mean, class_sum, cross_entropy, labels, membership
from .descent import Descent, adam, rmsprop, sgd
from .distributions import Bernoulli, Gaussian
from .frozen import Frozen, frozen
from .functional import Net, condition, fixed, functional, learned, population
from .memory import LeastUsed, Memory, Tape
from .norms import POLICIES, BatchNorm, norm
from .relation import Relation
from .sequence import LSTM, Recurrent, attend
from .unit import cosines, unit
from .unroll import descend, unroll

__all__ = [
    "LSTM",
    "POLICIES",
    "Backbone",
    "BatchNorm",
    "Bernoulli",
    "Descent",
    "Frozen",
    "Gaussian",
    "LeastUsed",
    "Mean",
    "Memory",
    "Net",
    "Recurrent",
    "Relation",
    "Shaped",
    "Tape",
    "adam",
    "attend",
    "class_mean",
    "class_sum",
    "condition",
    "conv4",
    "conv_decoder",
    "conv_encoder",
    "cosines",
    "cross_entropy",
    "descend",
    "fixed",
    "frozen",
    "functional",
    "labels",
    "learned",
    "membership",
    "mlp",
    "norm",
    "population",
    "resnet12",
    "rmsprop",
    "sgd",
    "unit",
    "unroll",
]
