"""A learned optimizer in ordinary training loops of PyTorch."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug
from torch import nn
from torch.testing import assert_close

import metaloop as ml
from metaloop.learners.lstm_optimizer import step
from metaloop.optim import Learned
from metaloop.torch_private import TorchDispatchMode, pytree


def xor():
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.double)
    return x, torch.tensor([0, 1, 1, 0])


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def learner(steps=6, **options):
    return ml.lstm_optimizer(ml.functional(model())[0], inner_steps=steps, hidden=4, **options)


@pytest.fixture(params=[True, False], ids=["preprocessed", "raw"])
def theta(request):
    theta = learner(preprocessed=request.param, layers=2 if request.param else 1).init(1)
    return pytree.tree_map(torch.Tensor.double, theta)


def train(net, optimizer, steps):
    """The loop that everybody writes."""
    x, y = xor()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return {n: p.detach().clone() for n, p in net.named_parameters()}


def test_a_loop_gives_what_the_learner_gives(theta):
    net = model()
    start = {n: p.detach().clone() for n, p in net.named_parameters()}
    raw = "raw" if theta["m"]["lstm.cells.0.weight"].shape[1] == 5 else ""
    F_theta = learner(preprocessed=not raw, layers=1 if raw else 2)
    f = F_theta.adapt(theta, ml.Problem(*xor(), start))
    assert_close(train(net, Learned(net.parameters(), theta), 6), f.phi)
    assert not torch.equal(f.phi["0.weight"], start["0.weight"])


def test_state_is_kept_and_restored(theta):
    net = model()
    whole = train(net, Learned(net.parameters(), theta), 6)
    net = model()
    optimizer = Learned(net.parameters(), theta)
    train(net, optimizer, 4)
    file = io.BytesIO()
    torch.save([net.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file)
    resumed = model(seed=1)
    resumed.load_state_dict(weights)
    again = Learned(resumed.parameters(), theta)
    again.load_state_dict(state)
    assert_close(train(resumed, again, 2), whole, rtol=0, atol=0)
    forgetful = copy.deepcopy(net)
    assert not torch.equal(train(forgetful, Learned(forgetful.parameters(), theta), 2)["0.weight"], whole["0.weight"])


def test_groups_have_their_own_factor(theta):
    net, alone = model(), model()
    optimizer = Learned([{"params": net[0].parameters(), "lr": 0.0}, {"params": net[2].parameters()}], theta, lr=0.5)
    moved = train(net, optimizer, 1)
    whole = train(alone, Learned(alone.parameters(), theta), 1)
    start = dict(model().named_parameters())
    assert torch.equal(moved["0.weight"], start["0.weight"])
    assert_close(moved["2.weight"], start["2.weight"].detach().lerp(whole["2.weight"], 0.5))
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))]})
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.5, 0.5]


def test_a_schedule_scales_the_step(theta):
    net, alone = model(), model()
    optimizer = Learned(net.parameters(), theta)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.25 if t == 0 else 0.0)
    moved, whole = train(net, optimizer, 1), train(alone, Learned(alone.parameters(), theta), 1)
    start = dict(model().named_parameters())
    assert_close(moved["0.bias"], start["0.bias"].detach().lerp(whole["0.bias"], 0.25))
    schedule.step()
    assert_close(train(net, optimizer, 1), moved, rtol=0, atol=0)


def test_a_closure_is_called_once_with_gradients(theta):
    x, y = xor()
    net, alone = model(), model()
    optimizer, calls = Learned(net.parameters(), theta), []

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        calls.append(loss)
        return loss

    assert optimizer.step(closure) is calls[0]
    assert len(calls) == 1
    moved = {n: p.detach() for n, p in net.named_parameters()}
    assert_close(moved, train(alone, Learned(alone.parameters(), theta), 1))


def test_parameters_without_a_gradient_stay(theta):
    net = model()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    optimizer = Learned(net.parameters(), theta)
    train(net, optimizer, 2)
    assert torch.equal(net[0].weight, before)
    assert len(optimizer.state) == 2


def test_a_theta_in_float32_serves_parameters_of_any_dtype(theta):
    single = pytree.tree_map(torch.Tensor.float, theta)
    exact = model()
    want = train(exact, Learned(exact.parameters(), theta), 3)
    for dtype, tolerance in ((torch.double, 1e-5), (torch.bfloat16, 0.05)):
        net = model().to(dtype)
        optimizer = Learned(net.parameters(), single)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(net(xor()[0].to(dtype)).float(), xor()[1]).backward()
            optimizer.step()
        assert_close({n: p.detach().double() for n, p in net.named_parameters()}, want, rtol=0, atol=tolerance)
        assert optimizer.state[net[0].weight]["h0"].dtype == torch.float32


def test_theta_and_gradients_are_not_touched(theta):
    before, net = pytree.tree_map(torch.clone, theta), model()
    optimizer = Learned(net.parameters(), theta)
    F.cross_entropy(net(xor()[0]), xor()[1]).backward()
    g = net[0].weight.grad.clone()
    optimizer.step()
    assert torch.equal(net[0].weight.grad, g)
    assert all(map(torch.equal, pytree.tree_leaves(before), pytree.tree_leaves(theta)))
    assert not any(t.requires_grad for t in pytree.tree_leaves(optimizer.state_dict()["state"]))


def test_what_is_no_learned_optimizer_is_refused(theta):
    net = model()
    for wrong in (net.state_dict(), ml.Run(learner(), {"inner_lr": torch.ones(())})):
        with pytest.raises(ValueError, match=r"Learned: this is of another learner. Give a run of lstm_optimizer"):
            Learned(net.parameters(), wrong)
    with pytest.raises(ValueError, match=r"optim.Learned: lr=-1"):
        Learned(net.parameters(), theta, lr=-1)
    table = nn.Embedding(3, 2, sparse=True)
    optimizer = Learned(table.parameters(), theta)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse gradients"):
        optimizer.step()


def test_meta_train_then_use():
    """From a run to a plain loop: after a little meta-training on quadratics, an unseen one falls fast."""
    line, init = ml.functional(nn.Linear(3, 1, bias=False))
    loss = lambda predicted, y: (predicted - y).square().sum()
    pool = ml.tasks.problems(ml.tasks.least_squares(dim=3), init, spread=0.01)
    F_theta = ml.lstm_optimizer(line, inner_steps=20, hidden=8, preprocessed=False, loss=loss)
    run = ml.fit(
        F_theta, pool, steps=60, tasks=32, optimizer=lambda p: torch.optim.Adam(p, lr=0.02), progress=False, seed=0,
        device="cpu",
    )  # fmt: skip
    losses = []
    for seed in range(20):
        W, y = ml.tasks.least_squares(dim=3).sample(generator=torch.Generator().manual_seed(1000 + seed)).support
        w = nn.Parameter(torch.zeros(3, 1))
        optimizer = Learned([w], run)
        for _ in range(21):
            optimizer.zero_grad()
            value = loss(W[0] @ w, y[0])
            value.backward()
            optimizer.step()
        losses.append((y.square().sum().item(), value.item()))
    before, after = torch.tensor(losses).mean(0)
    assert after < 0.5 * before


def mixed(dtype=torch.float32):
    """Parameters of several shapes and layouts, with gradients of other layouts and sizes, zero included."""
    torch.manual_seed(0)
    picture = torch.randn(3, 5, 2, 2).to(memory_format=torch.channels_last)
    values = [torch.randn(41), torch.randn(()), picture, torch.randn(6, 4).T, torch.randn(0), torch.randn(2, 3)]
    params = [nn.Parameter(v.to(dtype)) for v in values]
    for p in params:
        p.grad = torch.randn(p.shape, dtype=dtype) * 10.0 ** torch.randint(-7, 3, p.shape)
    params[0].grad[::3] = 0
    return params


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_take_the_steps_of_the_plain_form(monkeypatch, threads, chunk):
    monkeypatch.setattr("metaloop.optim.CHUNK", chunk)
    monkeypatch.setattr("metaloop.engine.threads.cores", lambda: threads)
    net = ml.functional(nn.Linear(2, 1))[0]
    theta, params = ml.lstm_optimizer(net, hidden=5).init(3), mixed()
    m, plain = ml.functional(ml.nn.Recurrent(2, 5, 1, 2))[0], [p.detach().clone() for p in params]
    optimizer, states = Learned(params, theta), [() for _ in params]
    for _ in range(3):
        optimizer.step()
        for i, p in enumerate(params):
            if p.numel():
                g, states[i] = step(m, theta, p.grad.reshape(-1), states[i] or None)
                plain[i] = plain[i] + g.detach().view(p.shape)
    assert_close([p.detach() for p in params], plain, rtol=0, atol=1e-6)
    for p, state in zip(params, states, strict=True):
        for i, (h, c) in enumerate(state):
            assert_close(optimizer.state[p][f"h{i}"], h.detach(), rtol=0, atol=1e-6)
            assert_close(optimizer.state[p][f"c{i}"], c.detach(), rtol=0, atol=1e-6)


class Made(TorchDispatchMode):
    """The most bytes of a tensor that an operation made."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = lambda tree: [t for t in pytree.tree_leaves(tree) if isinstance(t, torch.Tensor)]
        given = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
        for t in tensors(out):
            if t.untyped_storage().data_ptr() not in given:
                self.most = max(self.most, t.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_takes_a_chunks_memory_beside_the_state(monkeypatch, dtype):
    monkeypatch.setattr("metaloop.optim.CHUNK", 16)
    monkeypatch.setattr("metaloop.engine.threads.cores", lambda: 1)
    theta = ml.lstm_optimizer(ml.functional(nn.Linear(2, 1))[0], hidden=4).init(0)
    large = nn.Parameter(torch.zeros(64, 40, 3, dtype=dtype).mT)  # no flat view of it
    large.grad = torch.ones_like(large)
    optimizer = Learned([large], theta)
    optimizer.step()
    monkeypatch.delattr(ml.optim._OF_THREAD, "memory", raising=False)  # what was held is counted as well
    with Made() as made:
        optimizer.step()
    assert 0 < made.most < 16 * 4 * 50  # 36 rows of float32


def test_a_state_in_bfloat16_is_half_as_large():
    theta = ml.lstm_optimizer(ml.functional(nn.Linear(2, 1))[0], hidden=5).init(3)
    whole, half = mixed(), mixed()
    single, short = Learned(whole, theta), Learned(half, theta, state_dtype=torch.bfloat16)
    for _ in range(3):
        single.step()
        short.step()
    assert {t.dtype for kept in short.state.values() for t in kept.values()} == {torch.bfloat16}
    assert_close(half, whole, rtol=0, atol=0.01)
    again = Learned(half, theta, state_dtype=torch.bfloat16)
    again.load_state_dict(short.state_dict())
    assert all(torch.equal(t, again.state[p][name]) for p, kept in short.state.items() for name, t in kept.items())
    with pytest.raises(ValueError, match=r"expected finite ones in torch.float32"):
        single.load_state_dict(short.state_dict())
    with pytest.raises(ValueError, match=r"state_dtype=torch.int8, expected one of floating point"):
        Learned(half, theta, state_dtype=torch.int8)


def test_a_step_in_inference_mode_leaves_others_as_they_were(theta, monkeypatch):
    monkeypatch.delattr(ml.optim._OF_THREAD, "memory", raising=False)
    ends = []
    for inference in (True, False, False):
        net = model()
        F.cross_entropy(net(xor()[0]), xor()[1]).backward()
        with torch.inference_mode(inference):
            Learned(net.parameters(), theta).step()
        ends.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


BUGS = [
    Bug("a learned optimizer keeps memory that is inference mode's alone", "optim.py",
        (" or held.is_inference()", ""), "test_a_step_in_inference_mode_leaves_others_as_they_were"),
    Bug("a learned optimizer ignores its group's factor", "optim.py",
        ("p.add_(g, alpha=lr)", "p.add_(g)"), "test_groups_have_their_own_factor"),
    Bug("a learned optimizer keeps no state", "optim.py",
        ("part.copy_(piece)", "pass"), "test_a_loop_gives_what_the_learner_gives"),
    Bug("small gradients are seen as zero", "optim.py",
        ("-math.exp(-P), math.exp(-P), out", "0, 0, out"), "test_chunks_take_the_steps_of_the_plain_form"),
    Bug("a step works on a whole parameter at once", "optim.py",
        ("if p.numel() <= size:", "if True:"), "test_a_step_takes_a_chunks_memory_beside_the_state"),
    Bug("a closure finds no gradients enabled", "sign.py",
        ("with torch.enable_grad():", "with torch.no_grad():"), "test_a_closure_is_called_once_with_gradients"),
]  # fmt: skip
