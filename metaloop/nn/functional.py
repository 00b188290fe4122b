"""A torch module as a pure function of its parameters."""

import copy
import threading
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..core import Params
from ..torch_private import pytree
from .norms import BatchNorm, of_several

STATISTICS = MEAN, VAR = ("running_mean", "running_var")

# Torch's norms, which may be given one number to take the mean of.
NORMS = (
    nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
)  # fmt: skip

# Layers that torch.func cannot batch over tasks, or differentiate twice, and what to use instead.
UNSAFE: dict[type[nn.Module], str] = {
    nn.SyncBatchNorm: 'metaloop.nn.norm(channels, "transductive")',
    nn.RNNBase: "a cell written out with nn.Linear (torch's fused cells have no second derivative)",
    nn.RNNCellBase: "a cell written out with nn.Linear (torch's fused cells have no batching rule)",
    nn.MultiheadAttention: "softmax(q @ k.mT) @ v written out (fused attention has no second derivative)",
    nn.Transformer: "attention written out (fused attention has no second derivative)",
    nn.TransformerEncoderLayer: "attention written out (fused attention has no second derivative)",
    nn.TransformerDecoderLayer: "attention written out (fused attention has no second derivative)",
    nn.EmbeddingBag: "nn.Embedding followed by a sum or a mean",
}


class Net:
    """`net(params, x, ...)`: the module's forward as a pure function. Made by `functional`."""

    def __init__(self, module: nn.Module, training: bool = True, conditioned: bool = False):
        self.module = _skeleton(module).train(training)
        self.training, self.conditioned = training, conditioned
        self._recorder = _skeleton(self.module)
        for layer in _norms(self._recorder):
            layer.record, layer.stored = True, False
        for layer in _norms(self.module):
            layer.stored = {"support": conditioned, "running": not training}.get(layer.policy, False)
        self._variants: dict[tuple[bool, bool], Net] = {(training, conditioned): self}
        self._copies: dict[tuple[int, bool], nn.Module] = {}
        self.policies = frozenset(layer.policy for layer in _norms(self.module))
        self._needed = [n for p in self.policies if p != "transductive" for n in self._statistics(p, stored=True)]

    def __call__(self, params: Params, x: Tensor, *more: Any) -> Any:
        if missing := [n for n in self._needed if n not in params]:
            raise ValueError(f"net: theta has no '{missing[0]}', which its norm policy needs: it is another network's.")
        return functional_call(self._own(), params, (x, *more))

    def _own(self, recorder: bool = False) -> nn.Module:
        """This thread's copy of the module, or of the recorder: a call puts parameters into it while it lasts."""
        module = self._recorder if recorder else self.module
        if torch.compiler.is_compiling() or threading.current_thread() is threading.main_thread():
            return module
        key = (threading.get_ident(), recorder)
        if key not in self._copies:
            self._copies[key] = _skeleton(module)
        return self._copies[key]

    def _variant(self, training: bool, conditioned: bool) -> "Net":
        """The same network in another mode: one object per mode, so that predictors compare equal."""
        key = (training, conditioned)
        if key not in self._variants:
            self._variants[key] = Net(self.module, training, conditioned)
            self._variants[key]._variants = self._variants
        return self._variants[key]

    def eval(self) -> "Net":
        """As at meta-test: no dropout, `running` norms use the population's statistics."""
        return self._variant(False, self.conditioned)

    def condition(self, params: Params, x: Tensor) -> tuple["Net", Params]:
        """The network for queries, given the support inputs x: `support` norms take x's statistics."""
        if "support" not in self.policies:
            return self, params
        return self._variant(self.training, True), {**params, **self._record(params, "support", x)}

    def statistics(self, params: Params, x: Tensor, *more: Any) -> Params:
        """Mean and variance of each `running` norm's input on the batch x, keyed as in params. more: as in a call."""
        return self._record(params, "running", x, *more)

    def _record(self, params: Params, policy: str, x: Tensor, *more: Any) -> Params:
        recorder = self._own(recorder=True)
        seen = {**dict(recorder.named_buffers()), **params}
        functional_call(recorder, seen, (x, *more))  # leaves what each norm saw in `seen`
        return {n: seen[n] for n in self._statistics(policy)}

    def _statistics(self, policy: str, stored: bool = False) -> list[str]:
        """The names of the statistics of a policy's norms: of all, or of those that use stored ones."""
        norms = [(n, m) for n, m in self.module.named_modules() if isinstance(m, BatchNorm) and m.policy == policy]
        return [f"{n}.{s}".lstrip(".") for n, m in norms if m.stored or not stored for s in STATISTICS]


def functional(module: nn.Module, *, reset: bool = True) -> tuple[Net, Callable[[int], Params]]:
    """Turn a torch module into `net(params, x)` and `init(seed) -> params`.

    params is a flat dict from parameter (and norm-statistic) names to tensors. `init(seed)` draws them
    anew with each layer's own `reset_parameters`; with `reset=False` it returns the module's present
    values (pretrained weights, say), whatever the seed.

    Raises ValueError, naming the layer and what to use instead, if the module holds a layer that cannot be
    batched over tasks or differentiated twice.

    >>> net, init = functional(nn.Linear(3, 2))
    >>> net(init(0), torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """
    for name, layer in module.named_modules():
        _refuse(name or type(module).__name__, layer)
    skeleton = Net(module)
    if "support" in skeleton.policies:  # whose modes change while it computes, and a trace cannot copy modules
        for mode in product((True, False), repeat=2):
            skeleton._variant(*mode)

    def init(seed: int) -> Params:
        fresh = copy.deepcopy(module)
        if reset:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                for layer in fresh.modules():
                    if hasattr(layer, "reset_parameters"):
                        layer.reset_parameters()  # type: ignore[operator]
        state = dict(fresh.named_parameters()) | dict(fresh.named_buffers())
        return {n: p.detach().clone() for n, p in state.items() if p.is_floating_point()}

    return skeleton, init


def condition(net: Callable, params: Params, x: Tensor) -> tuple[Callable, Params]:
    """The function and parameters that queries go through once the support inputs x are known.

    This is where the `support` norm policy acts; for every other network it returns its arguments.
    """
    return net.condition(params, x) if isinstance(net, Net) else (net, params)


def learned(params: Params) -> Params:
    """What descent moves: the parameters without the norm statistics."""
    return {n: p for n, p in params.items() if not n.endswith(STATISTICS)}


def population(net: Callable, key: str | None = None) -> Callable | None:
    """`Learner.statistics` of a learner on net: what its `running` norms see of the support inputs, or None if it
    has no such norms. theta is net's parameters, or holds them at `key`. `pooled` makes the population's of it."""
    if not isinstance(net, Net) or "running" not in net.policies:
        return None
    if key is None:
        return lambda theta, S: net.statistics(theta, S.x)
    return lambda theta, S: {key: net.statistics(theta[key], S.x)}


def pooled(seen: Any) -> Any:
    """The population's statistics from those of many tasks, `Learner.statistics` stacked: [tasks, ...] -> [...].

    The mean over tasks; but a norm's variances, which are of each task by itself, v_t around means m_t, give

        sigma^2 = mean v_t + 1 / (T - 1) sum (m_t - mean m)^2

    which has no bias: what v_t, over n numbers, falls short of the variance within a task is what m_t vary for being
    over n numbers. One task alone shows nothing of how means vary.
    """
    if not isinstance(seen, dict):
        return pytree.tree_map(lambda t: t.mean(0), seen)
    means = {n: pooled(s) for n, s in seen.items()}
    of_norms = {n: seen.get(f"{n.removesuffix(VAR)}{MEAN}") for n in seen if isinstance(n, str) and n.endswith(VAR)}
    return means | {n: means[n] + m.var(0) for n, m in of_norms.items() if m is not None and len(m) > 1}


def _skeleton(module: nn.Module) -> nn.Module:
    """A copy of the module that shares its tensors, which a call replaces by those it is given."""
    skeleton = copy.deepcopy(module, {id(t): t for t in (*module.parameters(), *module.buffers())})
    for layer in skeleton.modules():
        if isinstance(layer, NORMS) and of_several not in layer._forward_pre_hooks.values():
            layer.register_forward_pre_hook(of_several)
        layer.of_functional = True  # type: ignore[assignment]
    return skeleton


def is_own(module: nn.Module) -> bool:
    """Whether the module is (part of) a network made by `functional`, which each thread has for itself."""
    return getattr(module, "of_functional", False)  # type: ignore[return-value]


def _norms(module: nn.Module) -> list[BatchNorm]:
    return [m for m in module.modules() if isinstance(m, BatchNorm)]


def _refuse(name: str, layer: nn.Module) -> None:
    instead = next((use for kind, use in UNSAFE.items() if isinstance(layer, kind)), None)
    kind = type(layer).__name__
    if instead is None and getattr(layer, "track_running_stats", False):
        instead = f'metaloop.nn.norm(channels, "running") or {kind}(..., track_running_stats=False)'
    if instead is None and any(True for _ in layer.parameters(recurse=False)):
        lazy = [n for n, p in layer.named_parameters(recurse=False) if nn.parameter.is_lazy(p)]
        if lazy:
            instead = f"{kind.removeprefix('Lazy')} with its sizes given"
    if instead is not None:
        raise ValueError(f"functional: layer '{name}' is {kind}, which is not safe here. Use {instead}.")
