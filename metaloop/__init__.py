"""metaloop: learn F, the function that turns a small data set into a predictor (f = F(S)).

    the contract          Data  Task  Learner  functional
    what is learned about one task  (metaloop.learners)
        an initialisation   maml (FOMAML, ANIL, Meta-SGD, MAML++ by option)  reptile
        a metric            protonet
        the baseline        pretrain
    what makes theta good (metaloop.objectives)   query_loss
    where tasks come from (metaloop.tasks)        omniglot  glyphs  folder  mini_imagenet  sinusoid  gaussians
    many tasks at once    (metaloop.engine)       fit  evaluate  meta_gradient
    for your own few examples                     FewShotClassifier
"""

from . import nn, objectives, tasks
from .core import Data, Learner, Task, predictor, static
from .engine import NonFinite, Run, Score, evaluate, fit, meta_gradient
from .learners.maml import maml
from .learners.pretrain import pretrain
from .learners.protonet import protonet
from .learners.reptile import reptile
from .nn.functional import functional

__version__ = "0.1.0"

__all__ = [
    "Data", "Learner", "NonFinite", "Run", "Score", "Task",
    "evaluate", "fit", "functional", "maml", "meta_gradient", "nn", "objectives", "predictor", "pretrain",
    "protonet", "reptile", "static", "tasks",
]
