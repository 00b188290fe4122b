"""Contrastive pretraining, restated one pair at a time; and what it has in common with prototypical networks."""

import math

import pytest
import torch
from mutations import Bug
from torch.testing import assert_close
from zoo import WAYS, batched, features, one

from metaloop import Data, Task, contrastive, functional, meta_gradient, protonet, tasks
from metaloop.nn import mlp
from metaloop.targets import information_nats
from metaloop.testing import Case

embed, init = functional(mlp((4, 8, 5)))
T = 0.2


def pairs(n: int, seed: int) -> Task:
    """Clouds of points, one example of each class in S and one in Q, in another order."""
    g = torch.Generator().manual_seed(seed)
    means = 1.5 * torch.randn(n, WAYS, 2, generator=g)

    def data() -> Data:
        y = torch.rand(n, WAYS, generator=g).argsort(1)
        signal = means.gather(1, y[..., None].expand(-1, -1, 2)) + 0.3 * torch.randn(n, WAYS, 2, generator=g)
        return Data(torch.cat([signal, 2 * torch.randn(n, WAYS, 2, generator=g)], -1), y)

    return Task(data(), data())


@pytest.fixture
def theta():
    return {n: p.double().requires_grad_() for n, p in init(0).items()}


def z(theta, x):
    out = embed(theta, x[None])[0]
    return out / (out @ out).sqrt()


@pytest.mark.parametrize("alpha", [None, 0.4])
def test_loss_and_gradient(theta, alpha):
    task = one(pairs(1, 0))
    S, Q = ({int(y): z(theta, x) for x, y in zip(*part, strict=True)} for part in task)
    total = 0.0
    for a, b in ((Q, S), (S, Q)):                                                                 # (3)
        for i in range(WAYS):
            e = [(a[i] @ b[j] / T).exp() for j in range(WAYS)]                                    # (2)
            if alpha is None:
                total = total + (e[i] / (sum(e) / WAYS)).log() / WAYS
                continue
            rest = lambda j, e=e: alpha * sum(e[k] for k in range(WAYS) if k != j) / (WAYS - 1) + 1 - alpha
            others = [j for j in range(WAYS) if j != i]
            total = total + (1 + sum((e[i] / rest(j)).log() - e[j] / rest(i) for j in others) / 2) / WAYS
    grads, loss, info = meta_gradient(contrastive(embed, init, ways=WAYS, temperature=T, alpha=alpha))(
        theta, batched(task)
    )
    assert_close(loss, -(total / 2).detach())
    assert_close(info["nats"], -loss)
    assert_close(list(grads.values()), list(torch.autograd.grad(-total / 2, list(theta.values()))))
    right = sum(max(range(WAYS), key=lambda j: (Q[i] @ S[j]).item()) == i for i in range(WAYS))
    assert info["accuracy"] == pytest.approx(right / WAYS)


def test_scores_are_cosines_to_the_mean_direction_of_a_class(theta):
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double()
    S = Data(x[:4], torch.tensor([0, 1, 1, 0]))
    f = contrastive(embed, init, ways=3, temperature=T).adapt(theta, S)
    c = [torch.stack([z(theta, x) for x, y in zip(*S, strict=True) if y == k]).mean(0) for k in range(2)]
    want = torch.stack([torch.stack([z(theta, x) @ m / (m @ m).sqrt() / T for m in c]) for x in x[4:]])
    assert_close(f(x[4:])[:, :2], want)
    assert (f(x[4:])[:, 2] == -torch.inf).all()


def test_one_way_round_it_is_the_loss_of_prototypical_networks_in_nats(theta):
    """An episode of 1 shot and one query a class, by cosines: its cross-entropy is ln N less InfoNCE."""
    S, Q = task = one(pairs(1, 3))
    proto = protonet(embed, init, ways=WAYS, metric="cosine", temperature=1 / T)
    ours = contrastive(embed, init, ways=WAYS, temperature=T)
    cost, _ = proto.objective(proto.adapt, theta, task)
    back, _ = proto.objective(proto.adapt, theta, Task(Q, S))
    loss, _ = ours.objective(ours.adapt, theta, task)
    assert_close(-loss, math.log(WAYS) - (cost + back) / 2)
    assert_close(information_nats(ours.adapt(theta, S)(Q.x)[None], Q.y[None]), math.log(WAYS) - cost[None])


def test_instances_are_classes_of_one_example():
    pool = tasks.Instances(tasks.glyphs())
    S, Q = pool.sample(tasks=2, ways=3, shots=2, queries=1, generator=torch.Generator().manual_seed(0))
    assert S.y.tolist() == [[0, 0, 1, 1, 2, 2]] * 2
    assert torch.equal(S.x[:, ::2], Q.x)
    assert torch.equal(S.x[:, 1::2], Q.x)
    assert not torch.equal(Q.x[:, 0], Q.x[:, 1])
    views = tasks.Varied(pool, tasks.distortions)
    S, Q = views.sample(ways=3, queries=1, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(S.x, Q.x)
    assert torch.equal(views.test.sample(generator=torch.Generator().manual_seed(0)).support.x,
                       tasks.glyphs().test.sample(generator=torch.Generator().manual_seed(0)).support.x)  # fmt: skip
    with pytest.raises(ValueError, match="Instances: sinusoid has no fixed list of classes"):
        tasks.Instances(tasks.sinusoid())
    with pytest.raises(ValueError, match=r"examples\. Ask for at most"):
        pool.sample(ways=10**7)


def test_bad_input_is_refused(theta):
    with pytest.raises(ValueError, match="contrastive: temperature is 0, expected above 0"):
        contrastive(embed, init, ways=WAYS, temperature=0)
    learner, (S, Q) = contrastive(embed, init, ways=WAYS), one(pairs(1, 0))
    with pytest.raises(ValueError, match="contrastive: 3 support examples, 2 queries; expected as many of each"):
        learner.objective(learner.adapt, theta, Task(S, Data(Q.x[:2], Q.y[:2])))


CASES = {
    "contrastive": lambda: Case(contrastive(*features, ways=WAYS, temperature=0.5), pairs),
}

BUGS = [
    Bug("pairs are taken as they lie", "learners/contrastive.py", ("[y.argsort(stable=True)]", ""),
        "test_loss_and_gradient[None]"),
    Bug("the bound runs one way only", "learners/contrastive.py", ("bound(f) + bound(f.mT)", "bound(f) + bound(f)"),
        "test_loss_and_gradient[None]"),
    Bug("views are of one drawing and another", "tasks/varied.py",
        ("Task(each(shots), each(queries))", "Task(each(shots), Data(each(queries).x.roll(1, 1), each(queries).y))"),
        "test_instances_are_classes_of_one_example"),
]  # fmt: skip
