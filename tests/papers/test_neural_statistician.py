"""The Neural Statistician, restated with loops over sets and examples, densities from torch.distributions, and
expectations taken with the noise held still. The sets have unequal sizes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence
from torch.testing import assert_close
from zoo import WAYS, batched

import metaloop as ml
from metaloop import Data, Task, functional, meta_gradient, neural_statistician
from metaloop.learners import neural_statistician as module
from metaloop.nn import mlp

X, H, C, Z = 4, 6, 3, 2


def parts(out=2 * X):
    sizes = ((X, 8, H), (H + 1, 8, 2 * C), (H + C, 8, 2 * Z), (C, 8, 2 * Z), (Z + C, 8, out))
    return [functional(mlp(s)) for s in sizes]


@pytest.fixture
def task():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(13, X, generator=g).double()
    y = torch.tensor([0, 2, 2, 1, 2, 2, 0, 1, 2, 0, 0, 2, 1])
    return Task(Data(x[:8], y[:8]), Data(x[8:], y[8:]))
