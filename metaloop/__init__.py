"""metaloop: learn F, the function that turns a small data set into a predictor (f = F(S)).

The imports below are the table of contents. `metaloop.tasks`, `metaloop.nn` and `metaloop.objectives` have more: where
tasks come from, parts of networks, losses.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# A public name stands here and nowhere else; `as` itself, which says that it is public. Nothing of this runs: a name is
# imported when it is first asked for, so that `metaloop --help` need not wait for torch.
# ruff: isort: off
if TYPE_CHECKING:
    # The contract
    from .core import Data as Data, Learner as Learner, Problem as Problem, Task as Task
    from .core import fold as fold, predictor as predictor, static as static
    from .nn.frozen import frozen as frozen
    from .nn.functional import functional as functional

    # What is learned about one task: an initialisation
    from .learners.maml import maml as maml  # FOMAML, ANIL, BOIL, Meta-SGD, MAML++ by option
    from .learners.meta_translation import meta_translation as meta_translation
    from .learners.proto_maml import proto_maml as proto_maml
    from .learners.reptile import reptile as reptile

    # a metric
    from .learners.imaginary import imaginary as imaginary
    from .learners.margin import margin as margin  # softmax, SphereFace, CosFace, ArcFace, triplets by option
    from .learners.matching import matching as matching
    from .learners.protonet import protonet as protonet
    from .learners.relation import relation as relation
    from .learners.siamese import siamese as siamese
    from .learners.transport import transport as transport

    # an update rule
    from .learners.lstm_optimizer import lstm_optimizer as lstm_optimizer
    from .learners.meta_lstm import meta_lstm as meta_lstm

    # a solution
    from .learners.convex_head import convex_head as convex_head
    from .learners.gaussian_process import gaussian_process as gaussian_process

    # a memory
    from .learners.mann import mann as mann
    from .learners.meta_rnn import meta_rnn as meta_rnn
    from .learners.ntm import ntm as ntm
    from .learners.prior_fitted import prior_fitted as prior_fitted
    from .learners.snail import snail as snail

    # an inference network
    from .learners.homoencoder import homoencoder as homoencoder
    from .learners.inference import inference as inference  # of Gaussians: exact, for each set, amortised
    from .learners.metavae import metavae as metavae
    from .learners.neural_statistician import neural_statistician as neural_statistician

    # a stream
    from .learners.oml import oml as oml

    # the baseline
    from .learners.contrastive import contrastive as contrastive  # pairs of a class, or views of a picture
    from .learners.pretrain import pretrain as pretrain

    # How theta improves
    from .engine import fit as fit, meta_gradient as meta_gradient
    from .outer.episodic_memory import episodic_memory as episodic_memory
    from .outer.follow_leader import follow_leader as follow_leader
    from .outer.search import search as search

    # How well it does
    from .engine import NonFinite as NonFinite, Run as Run, Score as Score, evaluate as evaluate
    from .recipes.stored import open_run as open_run

    # For your own few examples
    from .estimator import Embedding as Embedding
    from .estimator import FewShotClassifier as FewShotClassifier, FewShotRegressor as FewShotRegressor

    # Parts of the library
    from . import learners as learners, nn as nn, objectives as objectives, optim as optim, outer as outer
    from . import recipes as recipes, tasks as tasks, testing as testing
# ruff: isort: on


def _contents() -> dict[str, str]:
    """Where each name is imported from: ".core", or "" for a part of the library, by the imports above."""
    tree = ast.parse(Path(__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    return {name.name: f".{node.module}" if node.module else "" for node in imports for name in node.names}


_HOME = _contents()
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'metaloop' has no attribute '{name}'")
    if not _HOME[name]:
        return import_module(f".{name}", __name__)
    globals()[name] = getattr(import_module(_HOME[name], __name__), name)
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
