"""theta is what is learned, and nothing else moves: buffers, frozen parameters, seeds, modes, foreign thetas."""

import warnings
from functools import partial
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.testing import assert_close
from zoo import ZOO

import metaloop as ml
from metaloop.engine import predictor
from metaloop.engine.methods import evolution
from metaloop.engine.simple import simple_fit
from metaloop.engine.theta import fixed_leaves, outline
from metaloop.engine.trial import trial
from metaloop.learners.maml import FineTuned
from metaloop.nn import adam, fixed, learned
from metaloop.nn.functional import at_meta_test, writes
from metaloop.testing import Case, check
from metaloop.torch_private import pytree

POOL = ml.tasks.gaussians(dim=4)
SMALL = {"ways": 3, "shots": 2, "queries": 2}
QUICK = {"steps": 3, "tasks": 4, **SMALL, "progress": False, "device": "cpu"}


class Told(nn.Module):
    """Everything that a module may hold and not learn: numbers, an order, a mask, a frozen body."""

    def __init__(self, out: int = 3, seed: int = 0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.register_buffer("mean", torch.randn(4, generator=g))
        self.register_buffer("order", torch.randperm(4, generator=g))
        self.register_buffer("shown", torch.tensor([True, True, seed == 0, seed > 0]), persistent=False)
        self.register_buffer("mask", torch.tensor([0.0, 0.0, 0.0, -torch.inf]))
        torch.manual_seed(seed)  # what is frozen, no init draws again
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, out)
        self.body.requires_grad_(False)

    def forward(self, x):
        x = (x - self.mean)[..., self.order].masked_fill(~self.shown, 0.0)
        return self.head(torch.tanh(self.body(x + self.mask.exp())))


KEPT = ("mean", "order", "shown", "mask", "body.weight", "body.bias")


def decayed(p):
    return torch.optim.AdamW(p, lr=0.1, weight_decay=0.5)


def moved(before, after) -> set[str]:
    return {n for n in before if not torch.equal(before[n], after[n])}


def support(ways: int = 3):
    task = POOL.sample(**SMALL, generator=torch.Generator().manual_seed(0))
    return ml.Data(task.support.x[0], task.support.y[0])


LEARNERS = {
    "maml": lambda net, init: ml.maml(net, init, inner_lr=0.5, inner_steps=2),
    "maml, decayed": lambda net, init: ml.maml(net, init, inner_lr=0.1, optimizer=adam(weight_decay=0.5)),
    "imaml": lambda net, init: ml.maml(net, init, inner_lr=0.1, inner_steps=3, proximal=1.0),
    "reptile": lambda net, init: ml.reptile(net, init),
    "protonet": lambda net, init: ml.protonet(net, init, ways=3),
}


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("how", [{}, {"method": "evolution", "pairs": 2}, {"method": "implicit"}], ids=str)
def test_what_a_module_does_not_learn_is_moved_by_nothing(name, how):
    if how.get("method") == "implicit" and name != "imaml":
        pytest.skip("for iMAML alone")
    net, init = ml.functional(Told())
    learner, theta = LEARNERS[name](net, init), init(0)
    run = ml.fit(learner, POOL, **QUICK, optimizer=decayed, **how)
    assert moved(theta, run.theta) == {"head.weight", "head.bias"}
    f = learner.adapt(theta, support())
    if name != "protonet":
        assert moved(theta, f.phi) == {"head.weight", "head.bias"}


def test_a_seed_draws_the_rest():
    module = Told()
    _, init = ml.functional(module)
    assert moved(init(0), init(3)) == {"head.weight", "head.bias"}
    assert all(torch.equal(init(3)[n].to(t.dtype), t) for n, t in {**module.state_dict(), "shown": module.shown}.items()
               if n in KEPT)  # fmt: skip


def test_the_simple_loop_and_fit_are_still_one():
    net, init = ml.functional(Told())
    learner = ml.maml(net, init, inner_lr=0.1)
    run = ml.fit(learner, POOL, **QUICK, optimizer=decayed, chunk=1)
    simple = simple_fit(learner, POOL, steps=3, tasks=4, optimizer=decayed, **SMALL)
    assert_close(run.theta, simple, rtol=0, atol=0)


def test_it_travels_with_run_and_predictor(tmp_path):
    """Opened by a module that holds other numbers, a run still answers as it did."""
    make = lambda seed: ml.protonet(*ml.functional(Told(seed=seed)), ways=3)
    run = ml.fit(make(0), POOL, **QUICK, out=tmp_path / "run")
    x, S = torch.randn(5, 4), support()
    answer = run.learner.adapt(run.theta, S)(x)
    again = ml.Run.open(tmp_path / "run", make(1))
    assert torch.equal(again.learner.adapt(again.theta, S)(x), answer)
    predictor.save(tmp_path / "f", run.learner.adapt(run.theta, S), {})
    f, _ = predictor.load(tmp_path / "f", lambda about: make(1).adapt(make(1).init(0), S))
    assert torch.equal(f(x), answer)


def test_a_checkpoint_from_before_whole_numbers_were_kept_opens(tmp_path):
    learner = ml.protonet(*ml.functional(Told()), ways=3)
    ml.fit(learner, POOL, **QUICK, out=tmp_path)
    path = max(tmp_path.glob("*.safetensors"))
    tensors, meta = ml.engine.checkpoint.read(path)
    old = {n: t.clone() for n, t in tensors.items() if n not in ("theta/order", "theta/shown")}
    ml.engine.checkpoint.write(path, old, meta)
    assert torch.equal(ml.Run.open(tmp_path, learner).theta["order"], learner.init(0)["order"])
    ml.fit(learner, POOL, **{**QUICK, "steps": 4}, out=tmp_path, resume=True)
    path = max(tmp_path.glob("*.safetensors"))
    tensors, meta = ml.engine.checkpoint.read(path)
    ml.engine.checkpoint.write(path, {n: t for n, t in tensors.items() if n != "theta/mean"}, meta)
    with pytest.raises(ValueError, match="holds no 'theta/mean'"):
        ml.Run.open(tmp_path, learner)


def test_the_module_gets_its_buffers_in_their_own_dtype_whatever_theta_is_cast_to():
    net, init = ml.functional(Told())
    x = torch.randn(5, 4)
    assert_close(net({n: p.double() for n, p in init(0).items()}, x.double()).float(), net(init(0), x))


def test_large_whole_numbers_are_kept_exactly():
    class Hashed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("salt", torch.tensor([2**24 + 1, 2**40 + 1]))
            self.out = nn.Linear(2, 2)

        def forward(self, x):
            return self.out(x) + (self.salt % 7)

    module = Hashed()
    net, init = ml.functional(module, reset=False)
    assert torch.equal(net(init(0), torch.ones(1, 2)), module(torch.ones(1, 2)))


class Turned(nn.Module):
    """Features turned by fixed angles, which are kept as complex numbers."""

    def __init__(self, seed: int = 0):
        super().__init__()
        angles = torch.rand(3, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("turn", torch.polar(torch.ones(3), angles).conj())
        self.into, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        z = torch.view_as_complex(self.into(x).unflatten(-1, (3, 2)).contiguous()) * self.turn
        return self.out(torch.view_as_real(z).flatten(-2))


def test_complex_buffers_travel_too(tmp_path):
    make = lambda seed: ml.maml(*ml.functional(Turned(seed)), inner_lr=0.1)
    learner = make(0)
    net, init = ml.functional(Turned(), reset=False)
    assert_close(net(init(0), torch.ones(2, 4)), net.module(torch.ones(2, 4)))
    run = ml.fit(learner, POOL, **QUICK, optimizer=decayed, out=tmp_path)
    assert moved(learner.init(0), run.theta) == {f"{n}.{k}" for n in ("into", "out") for k in ("weight", "bias")}
    again = ml.Run.open(tmp_path, make(1))
    x, S = torch.randn(5, 4), support()
    assert torch.equal(again.learner.adapt(again.theta, S)(x), learner.adapt(run.theta, S)(x))


def test_a_theta_of_several_networks_and_a_learner_of_ones_own():
    """Nested thetas, a constant by `fixed`, an inner loop by torch.func over all of a network's tensors."""
    net, init = ml.functional(Told())

    def adapt(theta, S):
        g = torch.func.grad(lambda w: F.cross_entropy(theta["scale"] * net(w, S.x), S.y))(theta["net"])
        return FineTuned({n: p - g[n] for n, p in theta["net"].items()}, net)

    start = lambda seed: {"net": {n: p.float() for n, p in init(seed).items()}, "scale": fixed(torch.tensor(2.0))}
    learner = ml.Learner(start, adapt, ml.objectives.query_loss(F.cross_entropy))
    assert [n for n, kind in outline(learner).items() if not kind] == ["theta/net/head.weight", "theta/net/head.bias"]
    before = learner.init(0)
    assert moved(before["net"], learner.adapt(before, support()).phi) == {"head.weight", "head.bias"}
    run = ml.fit(learner, POOL, **QUICK, optimizer=decayed)
    assert moved(before["net"], run.theta["net"]) == {"head.weight", "head.bias"}
    assert run.theta["scale"] == 2
    grads, *_ = ml.meta_gradient(learner)(before, POOL.sample(4, **SMALL))
    assert not grads["scale"].any()


def test_the_optimizers_scale_is_a_constant():
    net, init = ml.functional(Told())
    learner = ml.lstm_optimizer(net, inner_steps=4)
    pool = ml.tasks.problems(POOL, init, spread=0.3)
    task = pytree.tree_map(lambda t: t[0], pool.sample(1, **SMALL))
    assert moved(init(0), task.support.start) == {"head.weight", "head.bias"}
    run = ml.fit(learner, pool, **QUICK, optimizer=decayed)
    assert run.theta["scale"] == learner.init(0)["scale"]
    assert moved(task.support.start, learner.adapt(run.theta, task.support).phi) == {"head.weight", "head.bias"}


def test_a_stream_moves_what_a_head_learns():
    head = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    head[0].requires_grad_(False)
    net, init = ml.functional(head)
    learner = ml.oml(*ml.functional(nn.Linear(4, 6)), net, init, inner_lr=0.1, optimizer=adam(weight_decay=0.5))
    theta = learner.init(0)
    assert moved(theta["prediction"], learner.adapt(theta, support()).W) == {"2.weight", "2.bias"}


def test_laws_hold_with_what_is_fixed():
    def tasks(n, seed):
        return POOL.sample(n, ways=3, shots=2, queries=2, generator=torch.Generator().manual_seed(seed))

    check(ml.maml(*ml.functional(Told()), inner_lr=0.1), tasks)


def test_networks_that_hold_nothing_fixed_are_as_they_were():
    for name in ("maml", "protonet"):
        case: Case = ZOO[name]
        assert not any(fixed_leaves(case.learner, case.theta()))


def test_evolution_draws_the_same_for_the_rest():
    theta = {"a": torch.zeros(3), "b": torch.zeros(3)}
    loss = lambda theta: theta["a"].sum() + theta["b"].sum()
    torch.manual_seed(0)
    all_of_it = evolution(loss, theta, {}, lambda e: e, pairs=3, sigma=0.1)
    torch.manual_seed(0)
    held = evolution(loss, theta, {}, lambda e: {**e, "b": torch.zeros(3)}, pairs=3, sigma=0.1)
    assert not held["b"].any()
    assert all_of_it["b"].any()
    assert held["a"].any()


def test_a_frozen_network_is_refused():
    learner = ml.protonet(*ml.functional(nn.Linear(4, 3).requires_grad_(False)), ways=3)
    with pytest.raises(ValueError, match="nothing in theta is learned"):
        ml.fit(learner, POOL, **QUICK)


# Seeds


class Token(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.shift = nn.Parameter(torch.randn(1, 40)), nn.Parameter(torch.zeros(3))
        self.out = nn.Linear(40, 3)

    def forward(self, x):
        return self.out(x + self.token) + self.shift


def test_parametrised_weights_are_drawn():
    module = nn.Sequential(weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    net, init = ml.functional(module)
    before = {n: p.clone() for n, p in module.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {n.split(".")[0] for n in moved(init(0), init(1))} == {"0", "2"}
    x = torch.randn(3, 4)
    plain, of_plain = ml.functional(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    assert_close(net(init(4), x), plain(of_plain(4), x))  # the parametrisation changes no weights
    assert_close(module.state_dict(), before)


def test_a_parametrisation_that_keeps_its_own_base_is_drawn_and_named():
    net, init = ml.functional(orthogonal(nn.Linear(4, 4)))
    with pytest.warns(UserWarning, match="draws parametrizations.weight.original;"):
        (a, b) = (net(init(seed), torch.eye(4)) - init(seed)["bias"] for seed in (0, 1))
    assert not torch.allclose(a, b)
    assert_close(a @ a.mT, torch.eye(4))


class Symmetric(nn.Module):
    """A parametrisation that torch cannot turn back."""

    def forward(self, w):
        return w.triu() + w.triu(1).mT


def test_a_parametrisation_without_inverse_is_drawn_and_named():
    layer = nn.Linear(4, 4)
    net, init = ml.functional(parametrize.register_parametrization(layer, "weight", Symmetric()))
    with pytest.warns(UserWarning, match="draws parametrizations.weight.original;"):
        assert len(moved(init(0), init(1))) == 2
    w = net(init(0), torch.eye(4)) - init(0)["bias"]
    assert_close(w, w.mT)


def test_what_no_layer_draws_is_drawn_and_named():
    module = Token()
    _, init = ml.functional(module)
    with pytest.warns(UserWarning, match=r"no reset_parameters\(\) draws token;"):
        first = init(0)
    assert moved(first, init(1)) == {"token", "out.weight", "out.bias"}
    assert_close(first, init(0), rtol=0, atol=0)
    assert_close(first["token"].std(), module.token.detach().std(), rtol=0.5, atol=0)
    assert torch.equal(ml.functional(module, reset=False)[1](0)["token"], module.token.detach())


# Modes


def test_the_modules_mode_counts_layer_by_layer():
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))
    x = torch.ones(50, 4)
    loud, init = ml.functional(module)
    still, _ = ml.functional(module.eval())
    assert not torch.equal(loud(init(0), x), loud(init(0), x)), "the mode was the module's when it was handed over"
    assert torch.equal(still(init(0), x), still(init(0), x))
    module.train()[0].eval()
    mixed, _ = ml.functional(module)
    assert torch.equal(mixed(init(0), x), mixed(init(0), x))


OF_A_NETWORK = {  # whose predictors call it as it is, or as conditioned on the support set
    "protonet": lambda net, init: ml.protonet(net, init, ways=3),
    "oml": lambda net, init: ml.oml(net, init, *ml.functional(nn.Linear(8, 3)), inner_lr=0.1),
}


@pytest.mark.parametrize("name", OF_A_NETWORK)
def test_a_run_makes_no_noise_at_meta_test(name):
    net, init = ml.functional(nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 8)))
    learner = OF_A_NETWORK[name](net, init)
    run = ml.fit(learner, POOL, **QUICK)
    S, x = support(), torch.randn(6, 4)
    few = ml.FewShotClassifier(run).fit(S.x, S.y)
    assert (few.predict_proba(x) == few.predict_proba(x)).all()
    still = OF_A_NETWORK[name](net.eval(), init)
    episode = {"tasks": 20, "ways": 3, "shots": 2, "queries": 5}
    a, b = (ml.evaluate(each, run.theta, POOL, **episode).per_task for each in (learner, still))
    assert torch.equal(a, b)


@pytest.mark.parametrize("policy", ["transductive", "support", "running"])
def test_without_noise_norms_are_as_they_were(policy):
    net, init = ml.functional(ml.nn.mlp((4, 8, 3), norm_policy=policy))
    theta, x = init(0), torch.randn(9, 4)
    loud = net(theta, x)
    with at_meta_test():
        assert torch.equal(net(theta, x), loud)
        assert net.condition(theta, x)[0] == net.quiet().condition(theta, x)[0]


def test_population_statistics_of_a_module_in_eval_mode_stay():
    module = ml.nn.mlp((4, 8, 3), norm_policy="running").eval()
    name = next(n for n, _ in module.named_buffers() if n.endswith("running_mean"))
    module.get_buffer(name).fill_(0.5)
    net, init = ml.functional(module)
    learner = ml.protonet(net, init, ways=3)
    assert learner.statistics is None
    assert (ml.fit(learner, POOL, **QUICK, optimizer=decayed).theta[name] == 0.5).all()


def test_a_stock_batch_norm_in_eval_mode_is_its_constants():
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    module(torch.randn(20, 4) * 3 + 1)
    net, init = ml.functional(module.eval(), reset=False)
    assert_close(net(init(0), torch.ones(2, 4)), module(torch.ones(2, 4)))
    learner = ml.maml(net, init, inner_lr=0.1)
    theta = {n: p.double() for n, p in init(0).items()}
    tasks = ml.Task(*(ml.Data(d.x.double(), d.y) for d in POOL.sample(3, **SMALL)))
    both = [ml.meta_gradient(learner, chunk=n)(theta, tasks)[0] for n in (1, 3)]
    assert_close(*both)


# Layers that write, or look across tasks


@pytest.mark.parametrize(
    ("layer", "instead"),
    [
        (lambda: spectral_norm(nn.Linear(4, 5)), "it in eval mode"),
        (lambda: nn.utils.spectral_norm(nn.Linear(4, 5)), "it in eval mode"),
        (lambda: nn.Embedding(7, 5, max_norm=1.0), "without max_norm"),
        (lambda: nn.Embedding(7, 5, scale_grad_by_freq=True), "without scale_grad_by_freq"),
        (lambda: nn.Embedding(7, 5, sparse=True), "without sparse"),
    ],
)
def test_a_layer_that_writes_or_pools_tasks_is_refused(layer, instead):
    with pytest.raises(ValueError, match=f"which is not safe here. Use .*{instead}"):
        ml.functional(nn.Sequential(layer()))


def pruned():
    layer = nn.Linear(4, 5)
    prune.l1_unstructured(layer, "weight", 4)
    return layer


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.phase = nn.Parameter(torch.ones(3, dtype=torch.cfloat))


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 5))), "layer '0' .* without 'weight', which was comp"),
        (lambda: nn.Sequential(pruned()), "without 'weight', .*prune.remove"),
        (Complex, "parameter 'phase' is complex"),
        (lambda: nn.Linear(4, 5, device="meta"), "'weight' is on the meta device"),
        (lambda: nn.Linear, "type is no torch module"), (lambda: abs, "is no torch module"),
    ],
)  # fmt: skip
def test_what_no_theta_can_be_made_of_is_refused(module, message):
    with pytest.raises(ValueError, match=f"^functional: .*{message}"):
        ml.functional(module())


def test_spectral_norm_in_eval_mode_passes():
    module = spectral_norm(nn.Linear(4, 5)).eval()
    net, init = ml.functional(module, reset=False)
    assert_close(net(init(0), torch.ones(2, 4)), module(torch.ones(2, 4)))


class Smoothed(nn.Module):
    """Subtracts a moving average of its inputs. rebinds: instead of writing in place."""

    def __init__(self, rebinds: bool):
        super().__init__()
        self.register_buffer("average", torch.zeros(4))
        self.out, self.rebinds = nn.Linear(4, 3), rebinds

    def forward(self, x):
        mean = x.detach().mean(0)
        if self.training and self.rebinds:
            self.average = 0.9 * self.average + 0.1 * mean
        elif self.training:
            self.average.mul_(0.9).add_(0.1 * mean)
        return self.out(x - self.average)


@pytest.mark.parametrize("rebinds", [False, True])
def test_what_a_module_writes_into_a_buffer_never_reaches_theta(rebinds):
    net, init = ml.functional(Smoothed(rebinds))
    theta = init(0)
    before = dict(theta)
    with writes() as written:
        ml.protonet(net, init, ways=3).adapt(theta, support())(torch.randn(2, 4))
    assert not theta["average"].any()
    assert theta.keys() == before.keys()
    assert theta["average"] is before["average"]
    assert written == {"average"}
    with pytest.raises(ValueError, match=r"writes into its buffer 'average'|writes into a tensor in place"):
        ml.fit(ml.protonet(net, init, ways=3), POOL, **QUICK)


class Drawing(nn.Module):
    """Multiplies by a number that is another at each call, and tells whoever draws it."""

    def __init__(self, draw):
        super().__init__()
        self.out, self.draw = nn.Linear(4, 3), draw

    def forward(self, x):
        return self.out(x * self.draw())


def test_noise_that_a_gpu_draws_is_noise(monkeypatch):
    """Two tasks at once draw other numbers than one after the other: no fault, if random numbers were drawn at all."""
    drawn, gpu = count(1), torch.Generator()
    net, init = ml.functional(Drawing(lambda: gpu.manual_seed(next(drawn)).initial_seed()))
    tasks = POOL.sample(tasks=2, **SMALL, generator=torch.Generator().manual_seed(0))
    tried = partial(trial, ml.protonet(net, init, ways=3), init(0), tasks, together=True, apart=True, seed=0)
    with pytest.raises(ValueError, match="two tasks in one chunk"):
        tried()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "default_generators", (gpu,))
    tried()


def test_numbers_that_are_no_tensors_are_named():
    net, init = ml.functional(nn.Linear(4, 3))
    learner = ml.protonet(net, lambda seed: {"net": init(seed), "scale": 1.0}, ways=3)
    laws = {"tasks": lambda n, seed: POOL.sample(n, **SMALL), "laws": ["adapt_is_pure"]}
    for attempt in (lambda: ml.fit(learner, POOL, **QUICK), lambda: check(learner, **laws)):
        with pytest.raises(ValueError, match=r"init: theta\['scale'\] is a float, expected a tensor"):
            attempt()


# Foreign thetas


def foreign(theta):
    return {
        "of a wrapper": {f"module.{n}": t for n, t in theta.items()},
        "a name short": dict(list(theta.items())[1:]),
        "another's": ml.functional(nn.Linear(2, 2))[1](0),
        "a larger one's": {**theta, "9.weight": torch.zeros(2)},
        "nested": {"net": theta},
    }


@pytest.mark.parametrize("which", foreign({}))
def test_a_theta_that_is_anothers_is_refused_by_name(which):
    net, init = ml.functional(ml.nn.mlp((4, 6, 3)))
    learner = ml.protonet(net, init, ways=3)
    theta, S = foreign(init(0))[which], support()
    tries = {
        "evaluate": lambda: ml.evaluate(learner, theta, POOL, tasks=2, ways=3),
        "meta_gradient": lambda: ml.meta_gradient(learner)(theta, POOL.sample(2, **SMALL)),
        "FewShotClassifier.fit": lambda: ml.FewShotClassifier(learner, theta).fit(S.x, S.y),
    }
    for call, attempt in tries.items():
        with pytest.raises(ValueError, match=f"^{call}: theta holds (no )?'theta/.*another learner or architecture"):
            attempt()
    if which != "a larger one's":  # a network of a larger theta may look at its own part
        with pytest.raises(ValueError, match="net: theta has no 'body"):
            net(theta, S.x)


def test_statistics_of_another_norm_policy_may_stand_in_theta():
    """One theta, tested under `running` norms and under `transductive` ones, which keep no statistics."""
    shape, theta = (1, 16, 16), None
    for policy in ("running", "transductive"):
        net, init = ml.functional(ml.nn.conv4(shape, width=4, norm_policy=policy))
        theta = init(0) if theta is None else theta
        learner, x = ml.protonet(net, init, ways=3), torch.rand(2, 6, *shape)
        tasks = ml.Task(*[ml.Data(x, torch.arange(3).repeat(2, 2))] * 2)
        assert ml.meta_gradient(learner)(theta, tasks)[1].isfinite()
    assert len(outline(learner)) < len(theta)


def test_learned_is_without_what_is_fixed():
    net, init = ml.functional(Told())
    assert set(learned(init(0), net)) == {"head.weight", "head.bias"}


def test_only_what_is_learned_must_be_finite():
    learner = ml.protonet(*ml.functional(Told()), ways=3)
    theta = learner.init(0)
    ml.evaluate(learner, theta, POOL, tasks=2, ways=3)
    theta["head.bias"][0] = torch.nan
    with pytest.raises(ValueError, match="theta holds numbers that are not finite"):
        ml.evaluate(learner, theta, POOL, tasks=2, ways=3)


BUGS = [
    Bug("what is fixed is asked to learn", "testing.py",
        ("names.keys() - still - fixed if", "names.keys() - still if"), "test_laws_hold_with_what_is_fixed"),
    Bug("optimizer-moves-buffers", "engine/steady.py", ("leaf.grad = None if still else g", "leaf.grad = g"),
        "test_what_a_module_does_not_learn_is_moved_by_nothing[{}-protonet]"),
    Bug("frozen-have-gradients", "nn/functional.py", ("params[n].detach() for n in", "params[n] for n in"),
        "test_a_theta_of_several_networks_and_a_learner_of_ones_own"),
    Bug("buffers-are-lent", "nn/functional.py", (", copy=True)", ")"),
        "test_what_a_module_writes_into_a_buffer_never_reaches_theta"),
    Bug("evolution-moves-buffers", "engine/methods.py", ("e = held(pytree.tree_map(torch.randn_like, theta))",
        "e = pytree.tree_map(torch.randn_like, theta)"), "test_evolution_draws_the_same_for_the_rest"),
    Bug("noise-at-test", "engine/predictor.py", ("at_meta_test(), float32(x.device):\n        parts",
        "float32(x.device):\n        parts"), "test_a_run_makes_no_noise_at_meta_test[oml]"),
    Bug("superset-thetas-pass", "engine/theta.py", ("n not in ours and not", "n is None and not"),
        "test_a_theta_that_is_anothers_is_refused_by_name"),
    Bug("frozen-drawn-anew", "nn/functional.py", ("if n in params and n not in skeleton.fixed}", "if n in params}"),
        "test_a_seed_draws_the_rest"),
]  # fmt: skip


