"""metaloop: learn F, the function that turns a small data set into a predictor (f = F(S)).

    the contract          Data  Task  Learner  functional
    what is learned about one task  (metaloop.learners)
        an initialisation   maml (FOMAML, ANIL, Meta-SGD, MAML++ by option)  reptile
        a metric            protonet  matching  margin (softmax, SphereFace, CosFace, ArcFace, triplets by option)
        an update rule      lstm_optimizer
        a memory            snail  meta_rnn
        an inference net    neural_statistician
        a stream            oml
        the baseline        pretrain
    what makes theta good (metaloop.objectives)   query_loss
        losses of embeddings   softmax  normface  sphereface  cosface  arcface  triplet  from_pml
    how theta improves    (metaloop.outer)        follow_leader; by the meta-gradient, fit
    where tasks come from (metaloop.tasks)
        images                 omniglot  mnist  glyphs  folder  mini_imagenet  lake_runs
        functions              sinusoid  gaussians  boolean  semilinear  quadratic  distributions
        problems, streams      least_squares  problems  sine_stream  class_stream  omniglot_stream  rainbow_mnist
    many tasks at once    (metaloop.engine)       fit  evaluate  meta_gradient
    for your own few examples                     FewShotClassifier  open_run
    for your own training loop                    optim.Learned
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import learners, nn, objectives, optim, outer, recipes, tasks, testing
    from .core import Data, Learner, Problem, Task, fold, predictor, static
    from .engine import NonFinite, Run, Score, evaluate, fit, meta_gradient
    from .estimator import FewShotClassifier
    from .learners.lstm_optimizer import lstm_optimizer
    from .learners.maml import maml
    from .learners.margin import margin
    from .learners.matching import matching
    from .learners.meta_rnn import meta_rnn
    from .learners.neural_statistician import neural_statistician
    from .learners.oml import oml
    from .learners.pretrain import pretrain
    from .learners.protonet import protonet
    from .learners.reptile import reptile
    from .learners.snail import snail
    from .nn.functional import functional
    from .outer.follow_leader import follow_leader
    from .recipes.stored import open_run

__version__ = "0.1.0"

__all__ = [
    "Data", "FewShotClassifier", "Learner", "NonFinite", "Problem", "Run", "Score", "Task",
    "evaluate", "fit", "fold", "follow_leader", "functional", "learners", "lstm_optimizer", "maml", "margin",
    "matching", "meta_gradient", "meta_rnn", "neural_statistician", "nn", "objectives", "oml", "open_run", "optim",
    "outer", "predictor", "pretrain", "protonet", "recipes", "reptile", "snail", "static", "tasks", "testing",
]

# Where each name lives. It is imported when first asked for, so that `metaloop --help` need not wait for torch.
_HOME = {
    **dict.fromkeys(("Data", "Learner", "Problem", "Task", "fold", "predictor", "static"), "core"),
    **dict.fromkeys(("NonFinite", "Run", "Score", "evaluate", "fit", "meta_gradient"), "engine"),
    "FewShotClassifier": "estimator",
    "follow_leader": "outer.follow_leader",
    "functional": "nn.functional",
    "lstm_optimizer": "learners.lstm_optimizer",
    "maml": "learners.maml",
    "margin": "learners.margin",
    "matching": "learners.matching",
    "meta_rnn": "learners.meta_rnn",
    "oml": "learners.oml",
    "open_run": "recipes.stored",
    "neural_statistician": "learners.neural_statistician",
    "pretrain": "learners.pretrain",
    "protonet": "learners.protonet",
    "reptile": "learners.reptile",
    "snail": "learners.snail",
}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'metaloop' has no attribute '{name}'")
    if name not in _HOME:
        return import_module(f".{name}", __name__)
    globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return globals()[name]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
