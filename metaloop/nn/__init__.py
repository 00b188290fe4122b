"""Parts that are safe under task batching and second derivatives."""

from .autoencoder import conv_decoder, conv_encoder
from .backbones import Backbone, Mean, conv4, mlp, resnet12
from .descent import Descent, adam, rmsprop, sgd
from .functional import Net, condition, functional, learned, population
from .distributions import Bernoulli, Gaussian
from .norms import POLICIES, BatchNorm, norm
from .sequence import LSTM, attend

__all__ = [
    "LSTM", "POLICIES", "Backbone", "BatchNorm", "Bernoulli", "Descent", "Gaussian", "Mean", "Net", "adam", "attend", "condition",
    "conv4", "conv_decoder", "conv_encoder", "functional", "learned", "mlp", "norm", "population", "resnet12",
    "rmsprop", "sgd",
]
