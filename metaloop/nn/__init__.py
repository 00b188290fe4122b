"""Parts that are safe under task batching and second derivatives."""

from types import ModuleType as _Module

from .activations import Unit as Unit
from .activations import Units as Units
from .activations import units as units
from .autoencoder import Shaped as Shaped
from .autoencoder import conv_decoder as conv_decoder
from .autoencoder import conv_encoder as conv_encoder
from .backbones import Backbone as Backbone
from .backbones import Mean as Mean
from .backbones import conv4 as conv4
from .backbones import mlp as mlp
from .backbones import resnet12 as resnet12
from .classes import class_mean as class_mean
from .classes import class_sum as class_sum
from .classes import cross_entropy as cross_entropy
from .classes import labels as labels
from .classes import membership as membership
from .decode import beam as beam
from .decode import greedy as greedy
from .descent import Descent as Descent
from .descent import adam as adam
from .descent import addsign as addsign
from .descent import powersign as powersign
from .descent import rmsprop as rmsprop
from .descent import sgd as sgd
from .descent import sign_decay as sign_decay
from .descent import signs as signs
from .distributions import Bernoulli as Bernoulli
from .distributions import CausalBernoulli as CausalBernoulli
from .distributions import Gaussian as Gaussian
from .frozen import Frozen as Frozen
from .frozen import frozen as frozen
from .functional import Net as Net
from .functional import condition as condition
from .functional import fixed as fixed
from .functional import functional as functional
from .functional import learned as learned
from .functional import population as population
from .imagination import Hallucinator as Hallucinator
from .in_context import InContext as InContext
from .masked import Masked as Masked
from .memory import LeastUsed as LeastUsed
from .memory import Memory as Memory
from .memory import Tape as Tape
from .norms import POLICIES as POLICIES
from .norms import BatchNorm as BatchNorm
from .norms import norm as norm
from .pointer import Additive as Additive
from .pointer import Pointer as Pointer
from .pointer import Seq2Seq as Seq2Seq
from .relation import Relation as Relation
from .sequence import LSTM as LSTM
from .sequence import KeyValue as KeyValue
from .sequence import Recurrent as Recurrent
from .sequence import attend as attend
from .transformer import Transformer as Transformer
from .transformer import Universal as Universal
from .unit import cosines as cosines
from .unit import unit as unit
from .unroll import descend as descend
from .unroll import unroll as unroll
from .wider import wider as wider

# Who is public stands above, in a line of its own, and nowhere else; `as` itself, which says so.
__all__ = sorted(  # pyright: ignore[reportUnsupportedDunderAll]
    name for name, it in globals().items() if not name.startswith("_") and not isinstance(it, _Module)
)
