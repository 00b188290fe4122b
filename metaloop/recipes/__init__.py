"""Complete runs, each named for the published row it reproduces. `RECIPES` is the list."""

from functools import partial
from math import pi

from .. import tasks
from .densities import distributions_plan, statistician_plan
from .few_shot import maml_plan, pretrain_plan, protonet_plan, reptile_plan
from .margins import margin_plan
from .online import follow_leader_plan, oml_omniglot_plan, oml_sines_plan
from .optimizers import mnist_plan, mnist_problems, quadratic_plan, quadratics
from .plan import Outline, Plan, Recipe, Row
from .recurrent import meta_rnn_plan
from .sequence import matching_plan, snail_plan
from .sinusoids import sinusoid_plan

__all__ = ["RECIPES", "Outline", "Plan", "Recipe", "Row", "find"]

RECIPES: dict[str, Recipe] = {}


def _add(name, paper, summary, data, build, *, quick: dict, smoke: dict, **full) -> None:
    RECIPES[name] = Recipe(name, paper, summary, data, build, {"smoke": smoke, "quick": quick, "full": full})


def find(name: str) -> Recipe:
    """The recipe of that name. Raises ValueError, suggesting the nearest, if there is none."""
    if name in RECIPES:
        return RECIPES[name]
    from difflib import get_close_matches

    near = get_close_matches(name, RECIPES, n=1, cutoff=0.0)
    raise ValueError(f"there is no recipe '{name}'. Did you mean '{near[0]}'? `metaloop recipes` lists all.")


# The data of each published protocol: ProtoNet's split is Vinyals', with rotations as classes and test classes
# rotated too; MAML draws a rotation per class and task, at test too; Reptile's test classes are not rotated. Lake's
# background set alone is for what is tested on his runs, which are of characters that the others train on.
_vinyals = partial(
    tasks.omniglot, split="vinyals", rotations="classes", rotations_at_test="classes", validation=False
)
_random = partial(tasks.omniglot, split="random", rotations="task", rotations_at_test="task")
_reptile = partial(tasks.omniglot, split="random", rotations="classes", rotations_at_test=None, validation=False)
_lake = partial(tasks.omniglot, split="background", rotations="classes")
_rotated = partial(tasks.omniglot, split="random", rotations="classes", rotations_at_test="classes", validation=False)
_sines = partial(tasks.sinusoid, amplitude=(0.1, 5.0), phase=(0.0, pi), frequency=(0.8, 1.2))

PROTO, MAML, REPTILE = "Snell et al. 2017", "Finn et al. 2017", "Nichol et al. 2018"
HOCHREITER, ANDRYCHOWICZ = "Hochreiter et al. 2001", "Andrychowicz et al. 2016"
NS = "Edwards & Storkey 2017"
CHEN, METASGD = "baseline, after Chen et al. 2019", "Li et al. 2017"
VINYALS, MISHRA = "Vinyals et al. 2016", "Mishra et al. 2018"
OML, FTML = "Javed & White 2019", "Finn et al. 2019"

# On the embedded glyphs: no download, minutes on two cores.
_add("protonet-glyphs", PROTO, "prototypical networks, 5-way 1-shot", tasks.glyphs,
     protonet_plan, shots=1, published={5: None}, ways=30, steps=450, quick={}, smoke={"ways": 5, "steps": 3})
_add("maml-glyphs", MAML, "MAML, 5-way 1-shot", tasks.glyphs,
     maml_plan, ways=5, shots=1, published=None, steps=1500, tasks=16, width=32, queries=5,
     quick={}, smoke={"steps": 3, "tasks": 2})
_add("reptile-glyphs", REPTILE, "Reptile, 5-way 1-shot", tasks.glyphs,
     reptile_plan, ways=5, published={1: (None, None)}, steps=3000,
     quick={}, smoke={"steps": 3, "test_steps": 5})
_add("pretrain-glyphs", CHEN, "softmax pretraining, nearest prototypes", tasks.glyphs,
     pretrain_plan, steps=2000, quick={}, smoke={"steps": 3})

for shots, figures in ((1, {5: 98.8, 20: 96.0}), (5, {5: 99.7, 20: 98.9})):
    _add(f"protonet-omniglot-{shots}shot", PROTO, f"prototypical networks, {shots}-shot, 60-way training",
         _vinyals, protonet_plan, shots=shots, published=figures, steps=20_000,
         quick={"ways": 20, "steps": 1000}, smoke={"ways": 5, "steps": 3})

for ways, shots, figure, ci, first, first_ci in (
    (5, 1, 98.7, 0.4, 98.3, 0.5), (5, 5, 99.9, 0.1, 99.2, 0.2),
    (20, 1, 95.8, 0.3, 89.4, 0.5), (20, 5, 98.9, 0.2, 97.9, 0.1),
):  # fmt: skip
    budgets = {"quick": {"steps": 1000}, "smoke": {"steps": 3, "tasks": 2}}
    many = {"steps": 60_000, "tasks": 32} if ways == 5 else {
        "steps": 60_000, "tasks": 16, "inner_steps": 5, "test_steps": 5}  # fmt: skip
    _add(f"maml-omniglot-{ways}w{shots}s", MAML, f"MAML, {ways}-way {shots}-shot", _random, maml_plan,
         ways=ways, shots=shots, published=figure, published_ci=ci, **many, **budgets)
    _add(f"fomaml-omniglot-{ways}w{shots}s", MAML, f"first-order MAML, {ways}-way {shots}-shot", _random,
         maml_plan, ways=ways, shots=shots, published=first, published_ci=first_ci, first_order=True,
         inner_lr=0.4, **many, **budgets)

for ways, figures in (
    (5, {1: (95.39, 97.68), 5: (98.90, 99.48)}), (20, {1: (88.14, 89.43), 5: (96.65, 97.12)}),
):  # fmt: skip
    _add(f"reptile-omniglot-{ways}w", REPTILE, f"Reptile, {ways}-way, one run for 1 and 5 shots", _reptile,
         reptile_plan, ways=ways, published=figures, steps=100_000 if ways == 5 else 200_000,
         quick={"steps": 5000}, smoke={"steps": 3, "test_steps": 5})

_add("pretrain-omniglot", CHEN, "softmax pretraining, nearest prototypes", _vinyals, pretrain_plan, steps=10_000,
     quick={"steps": 2000}, smoke={"steps": 3})

for name, paper, summary, settings in (
    ("softmax", CHEN, "softmax over all classes, the baseline of the margins", {"loss": "softmax"}),
    ("sphereface", "Liu et al. 2017", "SphereFace, with its annealing", {"loss": "sphereface"}),
    ("cosface", "Wang et al. 2018", "CosFace, that is AM-Softmax", {"loss": "cosface"}),
    ("arcface", "Deng et al. 2019", "ArcFace", {"loss": "arcface"}),
    ("triplet", "Schroff et al. 2015", "triplets, all of a batch", {"loss": "triplet"}),
    ("semihard", "Schroff et al. 2015", "FaceNet: semi-hard triplets", {"loss": "triplet", "mining": "semihard"}),
):
    _add(f"margin-omniglot-{name}", paper, f"{summary}; nearest neighbour on the sphere", _lake, margin_plan,
         **settings, steps=20_000, quick={"steps": 8000, "downsample": "stride"}, smoke={"steps": 3, "batch": 32})

for shots, (ours, ci), (sgd, sgd_ci) in (
    (5, (1.13, 0.18), (0.90, 0.16)), (10, (0.77, 0.11), (0.53, 0.09)), (20, (0.48, 0.08), (0.31, 0.05)),
):  # fmt: skip
    _add(f"maml-sinusoid-{shots}shot", MAML, f"MAML on sine curves, {shots} points", _sines,
         sinusoid_plan, shots=shots, published=ours, published_ci=ci,
         quick={"steps": 10_000}, smoke={"steps": 3})
    _add(f"metasgd-sinusoid-{shots}shot", METASGD, f"Meta-SGD on sine curves, {shots} points", _sines,
         sinusoid_plan, shots=shots, published=sgd, published_ci=sgd_ci, learn_lr="parameter",
         quick={"steps": 10_000}, smoke={"steps": 3})

for shots, ways, figures in ((1, 60, {5: 98.1, 20: 93.8}), (5, 20, {5: 98.9, 20: 98.5})):
    _add(f"matching-omniglot-{shots}shot", VINYALS, f"matching networks, {shots}-shot, {ways}-way training", _vinyals,
         matching_plan, shots=shots, published=figures, ways=ways, steps=20_000,
         quick={"ways": 20, "steps": 1000}, smoke={"ways": 5, "steps": 3})
_add("matching-fce-omniglot-1shot", VINYALS, "matching networks with full context embeddings, 1-shot", _vinyals,
     matching_plan, shots=1, published={5: None, 20: None}, ways=20, steps=20_000, full_context=True,
     quick={"steps": 1000}, smoke={"ways": 5, "steps": 3})

# quick and smoke: strided convolutions, a narrow sequence model, a larger rate that falls to zero.
_narrow = {
    "downsample": "stride", "filters": 32, "keys": (32, 32, 32), "values": (32, 32, 32), "lr": 2e-3, "falling": True
}  # fmt: skip
for ways, figures, quick in (
    (5, {1: (99.07, 0.16), 5: (99.78, 0.09)}, {"steps": 2500, "tasks": 8, "queries": 3}),
    (20, {1: (97.64, 0.30), 5: (99.36, 0.18)}, {"steps": 6000, "tasks": 2}),
):
    _add(f"snail-omniglot-{ways}w", MISHRA, f"SNAIL, {ways}-way, one model for 1 to 5 shots", _rotated,
         snail_plan, ways=ways, published=figures, steps=100_000,
         quick={**quick, **_narrow}, smoke={"steps": 3, "tasks": 2, **_narrow})

# Archives differ in how many images they hold, so no published figure stands beside these.
_add("maml-mini-imagenet-5w1s", MAML, "MAML, 5-way 1-shot, mini-ImageNet", tasks.mini_imagenet,
     maml_plan, ways=5, shots=1, published=None, steps=60_000, tasks=4, inner_lr=0.05,
     inner_steps=5, test_steps=10, width=32, downsample="max", queries=15,
     quick={"steps": 300}, smoke={"steps": 2, "tasks": 1, "queries": 1})
_add("protonet-mini-imagenet-1shot", PROTO, "prototypical networks, 1-shot, mini-ImageNet", tasks.mini_imagenet,
     protonet_plan, shots=1, published={5: None}, ways=30, steps=20_000,
     quick={"ways": 10, "steps": 500}, smoke={"ways": 5, "steps": 2})

# These papers print curves, not figures.
for pool, summary, shots, test_shots, hidden in (
    (tasks.boolean, "Boolean functions of two bits", 20, (10, 20), 16),
    (tasks.semilinear, "soft half-planes", 40, (10, 35), 32),
    (tasks.quadratic, "quadratic functions of the plane", 40, (35, 30), 64),
):
    _add(f"meta-rnn-{pool.__name__}", HOCHREITER, f"a recurrent network that learns {summary}", pool, meta_rnn_plan,
         shots=shots, test_shots=test_shots, hidden=hidden, steps=60_000,
         quick={"steps": 10_000}, smoke={"steps": 3, "tasks": 2, "hidden": 4})

_add("lstm-optimizer-quadratic", ANDRYCHOWICZ, "an optimizer, learned on 10-d quadratic functions", quadratics,
     quadratic_plan, steps=10_000, tasks=128, lr=3e-3,
     quick={"steps": 1500, "tasks": 64, "lr": 1e-2}, smoke={"steps": 2, "tasks": 2})
_add("lstm-optimizer-mnist", ANDRYCHOWICZ, "an optimizer, learned on small networks for MNIST", mnist_problems,
     mnist_plan, steps=10_000, tasks=1, lr=3e-3,
     quick={"steps": 500, "lr": 1e-2, "units": 8, "transfer": False},
     smoke={"steps": 1, "units": 1, "transfer": False})
_small = {"c": 64, "layers": 1, "widths": (32, 64, 128), "depth": 1, "decoder": "perceptron"}
_add("statistician-omniglot", NS, "Neural Statistician, sets of 5, without labels", _reptile, statistician_plan,
     published={(5, 1): 98.1, (5, 5): 99.5, (20, 1): 93.2, (20, 5): 98.1}, transfer={1: 78.6, 5: 93.2}, steps=360_000,
     quick={"steps": 6000, "lr": 2e-3, "decay": True, **_small},
     smoke={"steps": 3, **_small, "widths": (4, 4, 4), "pens": False})
_add("statistician-distributions", NS, "Neural Statistician, densities from 200 points", tasks.distributions,
     distributions_plan, steps=31_250, quick={"steps": 5000, "z": 4, "hidden": 64}, smoke={"steps": 3, "tasks": 2})

# Streams. The quick and smoke networks of OML have norms of single examples, which the published ones have not.
_add("oml-sines", OML, "OML, ten sine waves in turn", tasks.sine_stream, oml_sines_plan,
     published=0.35, steps=300_000, tasks=1, shots=40, width=300, depth=6, norm_policy=None, inner_lr=0.003, lr=1e-4,
     quick={"steps": 1000, "tasks": 8, "width": 100, "depth": 5, "norm_policy": "layer", "inner_lr": 0.01, "lr": 1e-3,
            "queries": 16},
     smoke={"steps": 2, "tasks": 2, "shots": 8, "width": 10, "depth": 1})
_add("oml-omniglot", OML, "OML, a stream of up to 200 new characters", tasks.omniglot_stream, oml_omniglot_plan,
     published={10: (93, 100), 50: (82, 97), 75: (81, 96), 100: (78, 96.5), 150: (66, 91.5), 200: (60, 89)},
     steps=700_000,
     quick={"steps": 3500, "width": 128, "strides": (2, 2, 2, 2), "norm_policy": "group", "inner_lr": 0.01,
            "lr": 1e-3, "streams": 50},
     smoke={"steps": 2, "width": 4, "strides": (2, 2, 2, 2), "classes": (2, 3), "streams": 2})

# Rainbow-MNIST: the leader and what it is held against. The figures of the paper are drawings, so none stands beside.
for method, name, summary in (
    ("leader", "follow-leader", "MAML follows the meta-leader through 56 tasks"),
    ("everything", "everything", "ordinary training on all data of 56 tasks so far"),
    ("fine-tuned", "everything-fine-tuned", "the same, fine-tuned on each task"),
    ("scratch", "scratch", "each of 56 tasks learned from scratch"),
):  # fmt: skip
    descent = {"leader": 5, "everything": 0, "fine-tuned": 200, "scratch": 200}[method]
    _add(f"{name}-rainbow-mnist", FTML, summary, tasks.rainbow_mnist, follow_leader_plan,
         method=method, arrivals=range(20, 901, 20), steps=56 * 45, updates=50, test_steps=descent,
         quick={"arrivals": (20, 50, 100, 200, 400, 900), "steps": 56 * 6, "updates": 20, "width": 16, "tasks": 10,
                "inner_steps": 1},
         smoke={"arrivals": (20, 40), "steps": 5, "updates": 1, "width": 4, "tasks": 2, "inner_steps": 1,
                "test_steps": 1})
