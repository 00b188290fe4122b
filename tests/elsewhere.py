"""A second device, `elsewhere`: the CPU's arithmetic, on tensors that refuse to meet those of the CPU, as a GPU's do.

Started by test_device.py, since torch has room for one such device, for good. It prints what went as on a CPU, and for
the rest what went wrong:

    NAME                each learner of the zoo: meta-gradient and predictions
    fit, evaluate       training with validation and a checkpoint, going on from it, and a test
"""

from functools import partial
from tempfile import TemporaryDirectory

import torch
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend
from zoo import ZOO

from metaloop import Learner, evaluate, fit, functional, maml, meta_gradient
from metaloop.engine import ranks, session
from metaloop.nn import mlp
from metaloop.tasks import gaussians
from metaloop.torch_private import pytree


class Module(_DummyBackendModule):
    """Random numbers are those of the CPU."""

    def get_rng_state(self, device=None):
        return torch.get_rng_state()

    def set_rng_state(self, state, device=None):
        pass


_setup_privateuseone_for_python_backend("elsewhere", backend_module=Module())
ELSEWHERE = torch.device("elsewhere", 0)


class There(torch.Tensor):
    """A tensor of this device; `inner` has its numbers."""

    @staticmethod
    def __new__(cls, inner):
        like = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), **like, device=ELSEWHERE)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return do(operation, args, kwargs or {})

    def __deepcopy__(self, memo):
        return There(self.inner.clone()).requires_grad_(self.requires_grad)

    def tolist(self):
        return self.inner.tolist()


def inner(t):
    return t.inner if isinstance(t, There) else t


def do(operation, args, kwargs):
    """An operation on this device, or between it and the CPU if it copies. Numbers ([]) may come from the CPU."""
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    there = [t for t in tensors if isinstance(t, There)]
    copies = operation._schema.name in ("aten::copy_", "aten::_to_copy")
    if there and not copies and any(t.dim() for t in tensors if not isinstance(t, There)):
        raise RuntimeError(f"{operation._schema.name}: tensors on two devices, {[t.device.type for t in tensors]}")
    to_there = bool(there)
    if kwargs.get("device") is not None:
        to_there = torch.device(kwargs["device"]).type == "elsewhere"
        kwargs = {**kwargs, "device": "cpu"}
    out = operation(*pytree.tree_map(inner, args), **pytree.tree_map(inner, kwargs))
    arguments = {id(inner(t)): t for t in tensors}  # those changed in place come back as themselves
    for t in there if operation._schema.is_mutable else ():
        if t.shape != t.inner.shape:  # squeeze_
            t.data = There(t.inner)
    place = lambda t: arguments[id(t)] if id(t) in arguments else There(t) if to_there else t
    return pytree.tree_map_only(torch.Tensor, place, out)


def fallback(operation, *args, **kwargs):
    return do(operation, args, kwargs)


LIBRARY = torch.library.Library("_", "IMPL")
LIBRARY.fallback(fallback, "PrivateUse1")  # for what makes tensors
as_on_a_cpu = torch.tensor, torch.as_tensor  # these two cannot make tensors of a device in Python


def tensor(data, *, dtype=None, device=None):
    made = as_on_a_cpu[0](data, dtype=dtype)
    return made if device is None else made.to(device)


def as_tensor(data, dtype=None, device=None):
    made = data if isinstance(data, torch.Tensor) else as_on_a_cpu[1](data)
    return made.to(device=made.device if device is None else device, dtype=dtype or made.dtype)


torch.tensor, torch.as_tensor = tensor, as_tensor


def here(tree):
    return pytree.tree_map(lambda t: t.detach().to("cpu"), tree)


def there(tree):
    return pytree.tree_map(lambda t: t.to(ELSEWHERE), tree)


def same(found, expected) -> None:
    assert {t.device for t in pytree.tree_leaves(found)} == {ELSEWHERE}, "not all results are there"
    for ours, theirs in zip(*map(pytree.tree_leaves, (here(found), expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def learns(learner: Learner, theta, tasks) -> None:
    """Meta-gradient and predictions are those of a CPU."""

    def results(theta, tasks):
        torch.manual_seed(0)
        task = pytree.tree_map(lambda t: t[0], tasks)
        grads = meta_gradient(learner)(theta, tasks)
        return grads, learner.adapt(theta, task.support)(task.query.x)

    same(results(there(theta), there(tasks)), results(theta, tasks))


def runs() -> None:
    """A run, resumed, is that of a CPU; so is its test."""
    learner, pool = maml(*functional(mlp((2, 8, 3))), inner_lr=0.1, inner_steps=2), gaussians()
    episode = {"tasks": 4, "ways": 3, "shots": 2, "queries": 3}

    def results(device: str, out: str):
        options = {"validate_every": 2, "validation": episode, "progress": False, "device": device, "out": out}
        fit(learner, pool, steps=2, **episode, **options)
        run = fit(learner, pool, steps=4, **episode, **options, resume=True)
        return run.theta, evaluate(learner, run.theta, pool, **episode)

    ranks.choose = session.choose = torch.device  # which knows it
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        (ours, our_score), (theirs, their_score) = results(str(ELSEWHERE), one), results("cpu", two)
    same(ours, theirs)
    assert our_score.mean == their_score.mean, f"scores {our_score} and {their_score}"


def main() -> None:
    checks = {name: partial(learns, c.learner, c.learner.init(0), c.tasks(2, 0)) for name, c in ZOO.items()}
    for name, check in {**checks, "fit, evaluate": runs}.items():
        try:
            check()
        except Exception as error:
            print(f"{name}: {type(error).__name__} {error}".splitlines()[0])
        else:
            print(f"{name}: as on a CPU")


if __name__ == "__main__":
    main()
