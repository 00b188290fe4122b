"""Losses of labelled embeddings that look for their own examples, by pytorch-metric-learning

    L = the mean, over triplets of an anchor a, a positive p of its class and a negative n of another, all on the unit
        sphere, of those [|a - p|^2 - |a - n|^2 + m]_+ that are not zero                                       (1)

FaceNet (Schroff, Kalenichenko & Philbin, CVPR 2015, arXiv:1503.03832) takes the semi-hard triplets alone,

    |a - p|^2 < |a - n|^2 < |a - p|^2 + m                                                                       (2)

Which triplets these are depends on the data, so they cannot be indexed under vmap, nor traced by torch.compile.
`from_pml` computes such a loss task by task, outside of torch.func, and hands back its value and first derivative; to
ask for a second one is an error.
Departs: FaceNet sums over triplets, from batches of 1800 with one negative for each pair.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from ..core import Params
from ..nn.unit import SHORTEST
from .embedding import EmbeddingLoss


def triplet(*, margin: float = 0.2, mining: str = "all") -> EmbeddingLoss:
    """(1) over all triplets, or with mining="semihard" over those of (2)."""
    if mining not in ("all", "semihard"):
        raise ValueError(f"triplet: mining is {mining!r}, expected 'all' or 'semihard'.")
    try:
        from pytorch_metric_learning.distances import LpDistance
        from pytorch_metric_learning.losses import TripletMarginLoss
        from pytorch_metric_learning.miners import TripletMarginMiner
    except ModuleNotFoundError:
        raise ValueError(
            "triplet: needs pytorch-metric-learning, which is not installed: pip install 'metaloop[metric]'."
        ) from None

    squared = LpDistance(normalize_embeddings=True, p=2, power=2)
    miner = TripletMarginMiner(margin, mining, distance=squared) if mining != "all" else None                   # (2)
    return from_pml(lambda: TripletMarginLoss(margin, distance=squared), miner)                                 # (1)


def from_pml(make: Callable[[], nn.Module], miner: Callable[[Tensor, Tensor], tuple] | None = None) -> EmbeddingLoss:
    """Any loss of pytorch-metric-learning, and any of its miners, of which neither remembers earlier batches.

    make: () -> the loss, whose parameters are drawn anew for each seed, e.g. partial(ProxyAnchorLoss, classes, dim).
    `value` raises ValueError where finite embeddings have a loss or a gradient that is not finite, as ArcFaceLoss at an
    embedding in the direction of its class; and where its gradient is differentiated, as by MAML's inner steps. An
    embedding of zero, which has no direction, has none for the loss either, and a slope of zero, as `nn.unit` has it.

    >>> from pytorch_metric_learning.losses import ProxyAnchorLoss
    >>> loss = from_pml(lambda: ProxyAnchorLoss(num_classes=10, embedding_size=4))
    >>> params = loss.init(0)
    >>> params["proxies"].shape, loss.value(params, torch.ones(3, 4), torch.tensor([0, 1, 1])).shape
    (torch.Size([10, 4]), torch.Size([]))
    """
    module = make()
    names = [name for name, _ in module.named_parameters()]

    def init(seed: int) -> Params:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return {name: p.detach().clone() for name, p in make().named_parameters()}

    def loss(y: Tensor, z: Tensor, *params: Tensor) -> Tensor:
        mined = () if miner is None else (miner(z.detach(), y),)
        return functional_call(module, dict(zip(names, params, strict=True)), (z, y, *mined))

    def value(params: Params, z: Tensor, y: Tensor) -> Tensor:
        return _Alone.apply(type(module).__name__, loss, y, z, *(params[name] for name in names))[0]

    return EmbeddingLoss(init, value, classes=getattr(module, "num_classes", None))


class _Alone(torch.autograd.Function):
    """loss(y, *at) and its gradients at each of `at`, by ordinary autograd; many tasks are computed one by one."""

    @staticmethod
    def forward(name, loss, y, *at):
        with torch.enable_grad(), _Directions():
            at = [t.detach().clone().requires_grad_() for t in at]
            value = loss(y, *at)
            grads = torch.autograd.grad(value, at, allow_unused=True, materialize_grads=True)
        if _finite(at) and not _finite([value, *grads]):
            raise ValueError(
                f"from_pml: {name} has a loss of {value.item():.4g} and a gradient that is "
                f"{'' if _finite(grads) else 'not '}finite, at embeddings that are. Take another loss, or keep away "
                "from where it has none (a scale, a norm, some noise)."
            )
        return value.detach(), *grads

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx, g, *of_grads):
        if any(h is not None for h in of_grads):  # the gradients below have been differentiated
            raise ValueError(
                f"from_pml: {ctx.name} has a first derivative only, and its second is asked for. Take a loss of "
                "metaloop.objectives.embedding, or hold inner gradients constant (first_order=True)."
            )
        return None, None, None, *(None if g is None else g * saved for saved in ctx.saved_tensors)

    @staticmethod
    def vmap(info, in_dims, name, loss, *tensors):
        def of(i: int) -> list[Tensor]:
            pairs = zip(tensors, in_dims[2:], strict=True)
            return [t if axis is None else t.select(axis, i) for t, axis in pairs]

        outputs = [_Alone.apply(name, loss, *of(i)) for i in range(info.batch_size)]
        return tuple(torch.stack(each) for each in zip(*outputs, strict=True)), (0,) * len(outputs[0])


class _Directions(TorchFunctionMode):
    """Within this F.normalize has a slope of zero, not of 1 / eps, where what is normalised is zero."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.normalize:
            return func(*args, **kwargs)
        z, dim = args[0], kwargs.get("dim", 1)
        none = z.detach().abs().amax(dim, keepdim=True) <= SHORTEST
        return torch.where(none, 0.0, func(torch.where(none, 1.0, z), *args[1:], **kwargs))


def _finite(tensors: Sequence[Tensor]) -> bool:
    return all(t.isfinite().all() for t in tensors)
