"""metaloop: learn F, the function that turns a small data set into a predictor (f = F(S)).

    the contract          Data  Task  Learner  functional
    what is learned about one task  (metaloop.learners)
        an initialisation   maml (FOMAML, ANIL, Meta-SGD, MAML++ by option)  reptile
        a metric            protonet  margin (softmax, SphereFace, CosFace, ArcFace, triplets by option)
        the baseline        pretrain
    what makes theta good (metaloop.objectives)   query_loss
        losses of embeddings   softmax  normface  sphereface  cosface  arcface  triplet  from_pml
    where tasks come from (metaloop.tasks)        omniglot  glyphs  folder  mini_imagenet  lake_runs
                                                  sinusoid  gaussians
    many tasks at once    (metaloop.engine)       fit  evaluate  meta_gradient
    for your own few examples                     FewShotClassifier  open_run
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import learners, nn, objectives, recipes, tasks, testing
    from .core import Data, Learner, Task, predictor, static
    from .engine import NonFinite, Run, Score, evaluate, fit, meta_gradient
    from .estimator import FewShotClassifier
    from .learners.maml import maml
    from .learners.margin import margin
    from .learners.pretrain import pretrain
    from .learners.protonet import protonet
    from .learners.reptile import reptile
    from .nn.functional import functional
    from .recipes.stored import open_run

__version__ = "0.1.0"

__all__ = [
    "Data", "FewShotClassifier", "Learner", "NonFinite", "Run", "Score", "Task",
    "evaluate", "fit", "functional", "learners", "maml", "margin", "meta_gradient", "nn", "objectives", "open_run",
    "predictor", "pretrain", "protonet", "recipes", "reptile", "static", "tasks", "testing",
]

# Where each name lives. It is imported when first asked for, so that `metaloop --help` need not wait for torch.
_HOME = {
    **dict.fromkeys(("Data", "Learner", "Task", "predictor", "static"), "core"),
    **dict.fromkeys(("NonFinite", "Run", "Score", "evaluate", "fit", "meta_gradient"), "engine"),
    "FewShotClassifier": "estimator",
    "functional": "nn.functional",
    "maml": "learners.maml",
    "margin": "learners.margin",
    "open_run": "recipes.stored",
    "pretrain": "learners.pretrain",
    "protonet": "learners.protonet",
    "reptile": "learners.reptile",
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
