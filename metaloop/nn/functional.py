"""A torch module as a pure function of its parameters."""

import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm as OldSpectralNorm

from ..core import Params, Theta
from ..torch_private import SpectralNorm, pytree
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

# Ways of a thread to compute: set by the contexts below.
_mode = threading.local()
_written: set[str] | None = None


@contextmanager
def at_meta_test() -> Iterator[None]:
    """Within this, networks make no noise: their modules are in eval mode, but for whose statistics normalise."""
    before, _mode.quiet = getattr(_mode, "quiet", False), True
    try:
        yield
    finally:
        _mode.quiet = before


@contextmanager
def writes() -> Iterator[set[str]]:
    """Within this, the buffers that modules write into are gathered by name. What is written is forgotten."""
    global _written
    before, _written = _written, set()
    try:
        yield _written
    finally:
        _written = before


class Net:
    """`net(params, x, ...)`: the module's forward as a pure function. Made by `functional`.

    fixed: the names of what descent does not move: buffers, and parameters with requires_grad=False. The function is
    constant in them, and what a module writes into a buffer lasts as long as the call.
    """

    def __init__(self, module: nn.Module, training: bool = True, conditioned: bool = False, quiet: bool = False):
        self.module, self._given = _skeleton(module), module
        stored = {n: not (training and m.training) for n, m in module.named_modules() if isinstance(m, BatchNorm)}
        if quiet or not training:
            self.module.eval()
        self.training, self.conditioned, self._quiet = training, conditioned, quiet or not training
        self._recorder = _skeleton(self.module)
        for layer in _norms(self._recorder):
            layer.record, layer.stored = True, False
        for name, layer in self.module.named_modules():
            if isinstance(layer, BatchNorm):
                layer.stored = {"support": conditioned, "running": stored[name]}.get(layer.policy, False)
        self._variants: dict[tuple[bool, bool, bool], Net] = {(training, conditioned, self._quiet): self}
        self._copies: dict[tuple[int, bool], nn.Module] = {}
        self.policies = frozenset(layer.policy for layer in _norms(self.module))
        norms = [(n, m) for n, m in module.named_modules() if isinstance(m, BatchNorm)]
        taken = [n for n, m in norms if m.training or m.policy == "support"]  # whose statistics are a batch's
        estimated = {f"{n}.{s}".lstrip(".") for n in taken for s in STATISTICS}
        buffers = [n for n in _tensors(module, nn.Module.named_buffers) if n not in estimated]
        frozen = [n for n, p in module.named_parameters() if not p.requires_grad]
        self._buffers, self.fixed = tuple(buffers), frozenset([*buffers, *frozen])
        self._whole = {n: b.dtype for n, b in module.named_buffers() if n in buffers and not b.is_floating_point()}
        needed = [n for p in self.policies if p != "transductive" for n in self._statistics(p, stored=True)]
        self._needed = [*(n for n, _ in module.named_parameters()), *buffers, *needed]

    def __call__(self, params: Params, x: Tensor, *more: Any) -> Any:
        if self._loud():
            return self.quiet()(params, x, *more)
        if missing := [n for n in self._needed if n not in params]:
            wants = "its norm policy needs" if missing[0].endswith(STATISTICS) else "this one has"
            raise ValueError(f"net: theta has no '{missing[0]}', which {wants}: it is another network's.")
        module = self._own()
        if not self.fixed:
            return functional_call(module, params, (x, *more))
        held = self._held(params)
        mine = {n: held[n] for n in self._buffers}
        if torch.compiler.is_compiling() or _written is None:
            return functional_call(module, held, (x, *more))
        before = {n: t._version for n, t in mine.items()}
        try:
            return functional_call(module, held, (x, *more))
        finally:
            _written.update(n for n, t in mine.items() if held[n] is not t or t._version != before[n])

    def _held(self, params: Params) -> Params:
        """params with what is fixed held constant, and copies of what a module could write into."""
        held = {**params, **{n: params[n].detach() for n in self.fixed}}
        return held | {n: _as_given(held[n], self._whole.get(n, held[n].dtype)) for n in self._buffers}

    def _loud(self) -> bool:
        """Whether it would make noise where none is wanted."""
        return not self._quiet and not torch.compiler.is_compiling() and getattr(_mode, "quiet", False)

    def _own(self, recorder: bool = False) -> nn.Module:
        """This thread's copy of the module, or of the recorder: a call puts parameters into it while it lasts."""
        module = self._recorder if recorder else self.module
        if torch.compiler.is_compiling() or threading.current_thread() is threading.main_thread():
            return module
        key = (threading.get_ident(), recorder)
        if key not in self._copies:
            self._copies[key] = _skeleton(module)
        return self._copies[key]

    def _variant(self, training: bool, conditioned: bool, quiet: bool) -> "Net":
        """The same network in another mode: one object per mode, so that predictors compare equal."""
        key = (training, conditioned, quiet or not training)
        if key not in self._variants:
            self._variants[key] = Net(self._given, *key)
            self._variants[key]._variants = self._variants
        return self._variants[key]

    def eval(self) -> "Net":
        """As at meta-test: no dropout, `running` norms use the population's statistics."""
        return self._variant(False, self.conditioned, True)

    def quiet(self) -> "Net":
        """With its module in eval mode (no dropout), but for whose statistics normalise."""
        return self._variant(self.training, self.conditioned, True)

    def condition(self, params: Params, x: Tensor) -> tuple["Net", Params]:
        """The network for queries, given the support inputs x: `support` norms take x's statistics."""
        if self._loud():
            return self.quiet().condition(params, x)
        if "support" not in self.policies:
            return self, params
        return self._variant(self.training, True, self._quiet), {**params, **self._record(params, "support", x)}

    def statistics(self, params: Params, x: Tensor, *more: Any) -> Params:
        """Mean and variance of each `running` norm's input on the batch x, keyed as in params. more: as in a call."""
        return self._record(params, "running", x, *more)

    def _record(self, params: Params, policy: str, x: Tensor, *more: Any) -> Params:
        recorder = self._own(recorder=True)
        seen = {**dict(recorder.named_buffers()), **self._held(params)}
        functional_call(recorder, seen, (x, *more))  # leaves what each norm saw in `seen`
        return {n: seen[n] for n in self._statistics(policy)}

    def _statistics(self, policy: str, stored: bool = False) -> list[str]:
        """The names of the statistics of a policy's norms: of all, or of those that use stored ones."""
        norms = [(n, m) for n, m in self.module.named_modules() if isinstance(m, BatchNorm) and m.policy == policy]
        return [f"{n}.{s}".lstrip(".") for n, m in norms if m.stored or not stored for s in STATISTICS]


def functional(module: nn.Module, *, reset: bool = True) -> tuple[Net, Callable[[int], Params]]:
    """Turn a torch module into `net(params, x)` and `init(seed) -> params`.

    params is a flat dict from parameter and buffer names to tensors. What the module does not learn, buffers and
    parameters with requires_grad=False, has the module's present values whatever the seed, and stays so: nothing that
    moves theta moves it (`net.fixed`; see `fixed`). Buffers of whole numbers or bools are floats in params, and complex
    ones pairs of floats, so that all can be differentiated; the module gets its own dtype. Its mode, train or eval,
    counts, layer by layer.

    `init(seed)` draws the rest anew with each layer's own `reset_parameters`. Parameters that none reaches are drawn
    from a normal distribution of their present mean and deviation, with a warning that names them; constant ones stay.
    With `reset=False` it returns the module's present values (pretrained weights, say), whatever the seed. Batch norms
    of a pretrained network are taken in eval mode, `functional(module.eval(), reset=False)`: then they are

        y = (x - running_mean) / sqrt(running_var + eps) * weight + bias

    whose statistics stay what they are and whose weight and bias are learned.

    Raises ValueError, naming the layer and what to use instead, if the module holds a layer that cannot be
    batched over tasks or differentiated twice, that writes into its tensors, or that holds a tensor computed from
    others; and on parameters that are complex or have no numbers. net(params, x) raises ValueError if params are
    another network's: if a name is missing.

    >>> net, init = functional(nn.Linear(3, 2))
    >>> net(init(0), torch.ones(5, 3)).shape
    torch.Size([5, 2])
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"functional: {type(module).__name__} is no torch module.")
    for name, layer in module.named_modules():
        _refuse(name or type(module).__name__, layer)
    for name, t in (*module.named_parameters(), *module.named_buffers()):
        if t.is_meta:
            raise ValueError(f"functional: '{name}' is on the meta device, without numbers. Build the module on a CPU.")
        if t.is_complex() and isinstance(t, nn.Parameter):
            raise ValueError(f"functional: parameter '{name}' is complex. Hold its real and imaginary parts as one of "
                             "floats, and take torch.view_as_complex in forward.")  # fmt: skip
    skeleton = Net(_skeleton(module))
    skeleton.quiet()  # a trace cannot copy modules
    if "support" in skeleton.policies:  # whose modes change while it computes
        for mode in product((True, False), repeat=3):
            skeleton._variant(*mode)
    by_none: list[list[str]] = []  # one list, once known: the parameters that no layer draws

    def init(seed: int) -> Params:
        params = {n: t.detach().clone() for n, t in _tensors(module).items()}
        if reset:
            drawn = _reset(module, seed)
            if not by_none:
                by_none.append(_drawn_by_none(module, drawn, _reset(module, seed + 1)))
            params |= {n: drawn[n] for n in drawn if n in params and n not in skeleton.fixed}
            params |= _like({n: drawn[n] for n in by_none[0]}, seed)
        return {n: fixed(t, whole=n in skeleton._whole) if n in skeleton.fixed else t for n, t in params.items()}

    init.fixed = skeleton.fixed  # type: ignore[attr-defined]
    return skeleton, init


class _Fixed(Tensor):
    """A fixed tensor, while `stays` looks. What is computed from it is one too."""


class _Whole(_Fixed):
    """The same, of whole numbers or bools."""


def fixed(t: Tensor, *, whole: bool = False) -> Tensor:
    """t, in a theta that `init` makes: a part of theta that is not learned.

    It travels with theta, and no optimizer, decay or perturbation of the engine moves it; `adapt` leaves it alone by
    itself. `functional` makes buffers and frozen parameters so. whole: of whole numbers, though t is of floats.
    """
    return t.as_subclass(_Whole if whole else _Fixed) if getattr(_mode, "looking", False) else t


def stays(init: Callable[[int], Theta], named: Callable[[Theta], dict[str, Tensor]]) -> dict[str, str]:
    """For each tensor of init's theta, by the names that `named` gives them: "fixed", "whole" if it is fixed whole
    numbers, or "" if it is learned."""
    _mode.looking = True
    try:
        tensors = named(init(0))
    finally:
        _mode.looking = False
    kind = lambda t: "whole" if isinstance(t, _Whole) else "fixed" if isinstance(t, _Fixed) else ""
    return {n: kind(t) for n, t in tensors.items()}


def condition(net: Callable, params: Params, x: Tensor) -> tuple[Callable, Params]:
    """The function and parameters that queries go through once the support inputs x are known.

    This is where the `support` norm policy acts; for every other network it returns its arguments.
    """
    return net.condition(params, x) if isinstance(net, Net) else (net, params)


def learned(params: Params, net: Callable | None = None) -> Params:
    """What descent moves of net's params: those without the norm statistics and without what is fixed in net."""
    still = net.fixed if isinstance(net, Net) else ()
    return {n: p for n, p in params.items() if not n.endswith(STATISTICS) and n not in still}


def population(net: Callable, key: str | None = None) -> Callable | None:
    """`Learner.statistics` of a learner on net: what its `running` norms see of the support inputs, or None if it
    has no such norms. theta is net's parameters, or holds them at `key`. `pooled` makes the population's of it."""
    if not isinstance(net, Net) or not set(net._statistics("running")) - net.fixed:
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


def _tensors(module: nn.Module, *kinds: Callable) -> dict[str, Tensor]:
    """The module's parameters and buffers, of those kinds, as real numbers."""
    named = {n: t for kind in kinds or (nn.Module.named_parameters, nn.Module.named_buffers) for n, t in kind(module)}
    return {n: t if t.is_floating_point() else _as_floats(t) for n, t in named.items()}


def _as_floats(t: Tensor) -> Tensor:
    """Whole numbers or bools as floats that are exactly they; complex numbers as pairs."""
    if t.is_complex():
        return torch.view_as_real(t.resolve_conj())
    return next(f for f in (t.float(), t.double()) if torch.equal(f.to(t.dtype), t) or f.dtype == torch.float64)


def _as_given(t: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of what `_as_floats` made, as it was."""
    return torch.complex(t[..., 0], t[..., 1]).to(dtype) if dtype.is_complex else t.to(dtype, copy=True)


def _drawn_by_none(module: nn.Module, one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """The learned parameters that are the same in two draws, and no constants; says so."""
    names = [n for n, p in module.named_parameters() if p.requires_grad and p.numel()]
    left = [n for n in names if torch.equal(one[n], other[n]) and (one[n] != one[n].flatten()[0]).any()]
    if left:
        warnings.warn(
            f"functional: no reset_parameters() draws {', '.join(left)}; init(seed) takes a normal distribution of its "
            "present mean and deviation. Give the layer that holds it a reset_parameters().", stacklevel=4,
        )  # fmt: skip
    return left


def _like(params: Params, seed: int) -> Params:
    """Normal numbers with the mean and deviation of each tensor."""
    generator = torch.Generator().manual_seed(seed)
    noise = {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in params.items()}
    return {n: (p.double().cpu().mean() + p.double().cpu().std() * noise[n]).to(p) for n, p in params.items()}


def _reset(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """The module's parameters after each layer's reset_parameters."""
    fresh = copy.deepcopy(module)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in fresh.modules():
            if hasattr(layer, "reset_parameters"):
                _reset_layer(layer)
    return {n: t.detach() for n, t in fresh.named_parameters()}


def _reset_layer(layer: Any) -> None:
    """reset_parameters, and where weights are parametrised, of the layer as it is without."""
    if not parametrize.is_parametrized(layer):
        return layer.reset_parameters()
    names, base = list(layer.parametrizations), type(layer).__bases__[0]
    plain: Any = object.__new__(base)
    plain.__dict__ = {**layer.__dict__, "_parameters": {**layer._parameters}, "_modules": {}}
    for name in names:
        plain._parameters[name] = nn.Parameter(getattr(layer, name).detach().clone())
    plain.reset_parameters()
    for name in names:
        with suppress(RuntimeError, ValueError), torch.no_grad():  # a parametrisation without inverse
            setattr(layer, name, plain._parameters[name].detach())


def _refuse(name: str, layer: nn.Module) -> None:
    instead = next((use for kind, use in UNSAFE.items() if isinstance(layer, kind)), None)
    kind = type(layer).__name__
    hooks = layer._forward_pre_hooks.values()
    if (isinstance(layer, SpectralNorm) or any(isinstance(h, OldSpectralNorm) for h in hooks)) and layer.training:
        instead = "it in eval mode, or metaloop.nn.norm; in training, spectral norm writes into its vectors"
    if computed := [n for n, t in vars(layer).items() if isinstance(t, Tensor) and not t.is_leaf]:
        instead = (f"it without '{computed[0]}', which was computed from other tensors: a parametrization of "
                   "torch.nn.utils.parametrize, or, where it was pruned, torch.nn.utils.prune.remove")  # fmt: skip
    if isinstance(layer, nn.Embedding):
        bad = [n for n in ("max_norm", "scale_grad_by_freq", "sparse") if getattr(layer, n)]
        instead = f"{kind}(...) without {bad[0]}" if bad else None
    if instead is None and layer.training and getattr(layer, "track_running_stats", False):
        instead = f'metaloop.nn.norm(channels, "running") or {kind}(..., track_running_stats=False)'
    if instead is None and any(True for _ in layer.parameters(recurse=False)):
        lazy = [n for n, p in layer.named_parameters(recurse=False) if nn.parameter.is_lazy(p)]
        if lazy:
            instead = f"{kind.removeprefix('Lazy')} with its sizes given"
    if instead is not None:
        raise ValueError(f"functional: layer '{name}' is {kind}, which is not safe here. Use {instead}.")
