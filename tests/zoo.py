"""Every learner, in every form that changes what it computes, as a case for the laws. A new learner adds a line."""

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import nn

from metaloop import (
    Data,
    Problem,
    Task,
    functional,
    lstm_optimizer,
    maml,
    margin,
    matching,
    meta_rnn,
    neural_statistician,
    objectives,
    oml,
    pretrain,
    protonet,
    reptile,
    snail,
)  # fmt: skip
from metaloop.nn import (
    POLICIES,
    Bernoulli,
    Gaussian,
    Recurrent,
    adam,
    conv4,
    conv_decoder,
    conv_encoder,
    mlp,
    sgd,
)  # fmt: skip
from metaloop.testing import Case

WAYS = 3


def labels(n: int, each: int, g: torch.Generator):
    """Support labels [n, WAYS * each]: every class at least once, otherwise as luck has it, in any order."""
    y = torch.cat([torch.arange(WAYS).expand(n, -1), torch.randint(WAYS, (n, WAYS * (each - 1)), generator=g)], 1)
    return y.gather(1, torch.rand(y.shape, generator=g).argsort(1))


def blobs(n: int, seed: int, *, same_classes: bool = False) -> Task:
    """Clouds of points: two coordinates tell the classes apart, two are loud noise.

    same_classes: the classes are those of every other task, for learners trained on a fixed list of classes.
    """
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(n, WAYS, 2, generator=torch.Generator().manual_seed(0) if same_classes else g) * 1.5
    if same_classes:
        means = means[:1].expand(n, -1, -1)

    def data(each: int) -> Data:
        y = labels(n, each, g)
        signal = means.gather(1, y[..., None].expand(-1, -1, 2)) + 0.3 * torch.randn(*y.shape, 2, generator=g)
        return Data(torch.cat([signal, 2 * torch.randn(*y.shape, 2, generator=g)], -1), y)

    return Task(data(3), data(4))


def known_blobs(n: int, seed: int) -> Task:
    return blobs(n, seed, same_classes=True)


def pictures(n: int, seed: int) -> Task:
    """Grey 16x16 images: each class of a task is a coarse pattern, shown through noise."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n * WAYS, 1, 4, 4, generator=g)
    patterns = F.interpolate(coarse, scale_factor=4).unflatten(0, (n, WAYS))

    def data(each: int) -> Data:
        y = labels(n, each, g)
        x = torch.stack([pattern[k] for pattern, k in zip(patterns, y, strict=True)])
        return Data(x + 1.5 * torch.randn(x.shape, generator=g), y)

    return Task(data(2), data(2))


def drawings(n: int, seed: int) -> Task:
    """The pictures with pixels in [0, 1]."""
    return Task(*(Data((2 * x).sigmoid(), y) for x, y in pictures(n, seed)))


def waves(n: int, seed: int) -> Task:
    """Sine curves of one frequency: x, y [n, points, 1]."""
    g = torch.Generator().manual_seed(seed)
    a, b = 1 + torch.rand(n, 1, 1, generator=g), 3 * torch.rand(n, 1, 1, generator=g)

    def data(points: int) -> Data:
        x = 6 * torch.rand(n, points, 1, generator=g) - 3
        return Data(x, a * torch.sin(x - b))

    return Task(data(5), data(8))


def started(deal, init, spread: float = 0.5):
    """The same tasks as problems: each brings a start for the parameters of a network."""

    def problems(n: int, seed: int) -> Task:
        (x, y), query = deal(n, seed)
        g = torch.Generator().manual_seed(seed)
        start = {name: spread * torch.randn(n, *p.shape, generator=g) for name, p in init(0).items()}
        return Task(Problem(x, y, start), query)

    return problems


def one(tasks: Task, i: int = 0) -> Task:
    """Task i of a batch, in float64."""
    return pytree.tree_map(lambda t: t[i].double() if t.is_floating_point() else t[i], tasks)


def batched(task: Task) -> Task:
    """The batch that holds one task."""
    return pytree.tree_map(lambda t: t[None], task)


class Smooth(nn.Sequential):
    """A small classifier whose derivatives are smooth."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, WAYS)


def statistician(encoder: nn.Module, decoder: nn.Module, likelihood: type, **options):
    """A Neural Statistician with 6 features, statistics of size 3 and latents of size 2."""

    def smooth(*sizes):
        return nn.Sequential(nn.Linear(sizes[0], 8), nn.Tanh(), nn.Linear(8, sizes[1]))

    parts = (encoder, smooth(7, 6), smooth(9, 4), smooth(3, 4), decoder)
    return neural_statistician(*map(functional, parts), ways=WAYS, likelihood=likelihood, **options)


classifier = functional(Smooth())
features = functional(mlp((4, 12, 6)))
curve = functional(mlp((1, 16, 16, 1)))
recurrent = functional(Recurrent(2, 8, 1))
linear = functional(nn.Linear(6, WAYS))

DERIVATIVE, QUERIES, ORDER, HELPS, LEARNS, READS = (
    "meta_gradient_is_the_derivative", "queries_do_not_see_each_other", "support_order_is_irrelevant",
    "meta_training_helps", "all_of_theta_learns", "reads_no_values",
)  # fmt: skip
TOGETHER = {QUERIES: "a batch of queries is normalised by its own statistics"}
CONSTANT = {
    DERIVATIVE: "gradients of the network that is trained are held constant",
    LEARNS: "the scale of m's output is a constant that theta keeps",
}
STREAM = {ORDER: "the support set is a stream"}
HELD = "the solution phi is held constant in the meta-gradient"

ZOO: dict[str, Case] = {
    "maml": Case(maml(*classifier, inner_lr=0.5), blobs),
    "maml-3-steps": Case(maml(*classifier, inner_lr=0.3, inner_steps=3), blobs),
    "fomaml": Case(
        maml(*classifier, inner_lr=0.3, inner_steps=2, first_order=True), blobs,
        {DERIVATIVE: "inner gradients are held constant"},
    ),
    "anil": Case(maml(*classifier, inner_lr=0.5, inner_steps=2, adapts="head"), blobs),
    "meta-sgd": Case(maml(*classifier, inner_lr=0.3, learn_lr="parameter"), blobs),
    "maml++": Case(
        maml(*classifier, inner_lr=0.3, inner_steps=2, learn_lr="layer-step", step_weights=(0.3, 0.7)), blobs
    ),
    "maml-adam": Case(maml(*classifier, inner_lr=0.05, inner_steps=3, optimizer=adam()), blobs),
    "maml-regression": Case(maml(*curve, inner_lr=0.05, inner_steps=2, loss=F.mse_loss), waves),
    "reptile": Case(
        reptile(*classifier, inner_lr=0.05, inner_steps=5, batch=4), blobs,
        {DERIVATIVE: HELD, ORDER: "inner steps take consecutive minibatches of S"},
    ),
    "reptile-carried": Case(
        reptile(*classifier, inner_lr=0.05, inner_steps=3, batch=None, carry_moments=True), blobs,
        {DERIVATIVE: HELD, HELPS: "moments that Adam has moved are no moments; its meta-training is plain SGD"},
    ),
    "reptile-sgd": Case(
        reptile(*classifier, inner_lr=0.3, inner_steps=4, batch=None, optimizer=sgd()), blobs, {DERIVATIVE: HELD}
    ),
    "lstm_optimizer": Case(
        lstm_optimizer(classifier[0], inner_steps=6, unroll=4, hidden=4), started(blobs, classifier[1]),
        CONSTANT,
    ),
    "lstm_optimizer-raw-minibatches": Case(
        lstm_optimizer(curve[0], inner_steps=3, batch=2, preprocessed=False, hidden=4, layers=1, loss=F.mse_loss),
        started(waves, curve[1], 0.2), {**CONSTANT, ORDER: "steps take consecutive minibatches of S"},
    ),
    "meta_rnn": Case(meta_rnn(*recurrent), waves, {ORDER: "the network reads S one example after another"}),
    "protonet": Case(protonet(*features, ways=WAYS), blobs),
    "protonet-cosine": Case(protonet(*features, ways=WAYS, metric="cosine"), blobs),
    "neural_statistician": Case(
        statistician(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6)), nn.Linear(5, 8), Gaussian), blobs
    ),
    "neural_statistician-pixels": Case(
        statistician(
            conv_encoder((1, 16, 16), 6, widths=(3, 4), depth=2, norm_policy="layer"),
            conv_decoder(5, (1, 16, 16), widths=(3, 4), depth=2), Bernoulli, sample_dropout=False,
        ), drawings, {"meta_training_helps": "forty steps teach the mean drawing, and no statistic yet"},
    ),
    "matching": Case(matching(*features, ways=WAYS), blobs),
    "matching-euclidean": Case(matching(*features, ways=WAYS, metric="euclidean"), blobs),
    "matching-fce": Case(
        matching(*features, ways=WAYS, context=6, steps=2), blobs,
        {ORDER: "two LSTMs read the support set in its order"},
    ),
    "snail": Case(
        snail(*features, ways=WAYS, dim=6, shots=3, filters=4, keys=(4, 4), values=(4, 4)), blobs,
        {ORDER: "the support set is a sequence, which temporal convolutions read in its order"},
    ),
    "oml": Case(oml(*features, *linear, inner_lr=0.1), blobs, STREAM),
    "oml-classes": Case(
        oml(*features, *functional(nn.Linear(6, WAYS + 2)), inner_lr=0.1, anew="classes"), blobs, STREAM
    ),
    "oml-new-head": Case(
        oml(*features, *linear, inner_lr=0.1, batch=2, anew=WAYS), blobs,
        {**STREAM, LEARNS: "the whole head starts anew, whatever theta holds for it"},
    ),
    "oml-regression": Case(
        oml(*functional(mlp((1, 16, 16))), *functional(nn.Linear(16, 1)), inner_lr=0.05, loss=F.mse_loss), waves, STREAM
    ),
    "pretrain": Case(pretrain(*features, classes=WAYS, dim=6, ways=WAYS), known_blobs),
    "pretrain-linear": Case(
        pretrain(*features, classes=WAYS, dim=6, ways=WAYS, head="linear", inner_lr=0.1, inner_steps=10), known_blobs
    ),
}  # fmt: skip

for loss in ("softmax", "normface", "sphereface", "cosface", "arcface"):
    made = getattr(objectives, loss)(classes=WAYS, dim=6)
    ZOO[f"margin-{loss}"] = Case(margin(*features, ways=WAYS, loss=made), known_blobs)
for mining in ("all", "semihard"):
    ZOO[f"margin-triplet-{mining}"] = Case(
        margin(*features, ways=WAYS, loss=objectives.triplet(mining=mining)), blobs,
        dict.fromkeys(("compiles_whole_and_once", READS), "which triplets are mined depends on the data"),
    )  # fmt: skip

for policy in POLICIES:
    waived = TOGETHER if policy in ("transductive", "running") else {}
    width = 10 if policy == "group" else 4  # five groups of two channels
    net = functional(conv4((1, 16, 16), width=width, norm_policy=policy, out=WAYS))
    embed = functional(conv4((1, 16, 16), width=width, norm_policy=policy))
    ZOO[f"maml-conv4-{policy}"] = Case(maml(*net, inner_lr=0.5), pictures, waived)
    ZOO[f"protonet-conv4-{policy}"] = Case(protonet(*embed, ways=WAYS), pictures, waived)
    if policy == "running":
        ZOO["protonet-conv4-running-at-test"] = Case(
            protonet(embed[0].eval(), embed[1], ways=WAYS), pictures,
            {DERIVATIVE: "population statistics are estimated, not learned by gradient"},
        )  # fmt: skip
