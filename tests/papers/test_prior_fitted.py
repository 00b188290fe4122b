"""Prior-fitted networks: the Transformer restated one row, one head and one support row at a time; what may be turned
about in a table; the prior; PMLB's tables. The classes of a task have unequal sizes."""

import gzip
import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from mutations import Bug, law
from tiny import make_run
from torch.testing import assert_close
from zoo import WAYS, batched, blobs

import metaloop as ml
from metaloop import Data, Task, functional, meta_gradient, prior_fitted
from metaloop.nn import InContext
from metaloop.testing import Case
from metaloop.torch_private import pytree

FEATURES, CLASSES, DIM, HEADS = 6, 5, 8, 2
HEAD = ["linear", "attention"]
NETS = {head: functional(InContext(FEATURES, CLASSES, dim=DIM, layers=2, heads=HEADS, head=head)) for head in HEAD}


def learner(head, ways=WAYS, **options):
    return prior_fitted(*NETS[head], ways=ways, **options)


def weights(head):
    return {n: p.double().requires_grad_() for n, p in NETS[head][1](0).items()}


@pytest.fixture
def task():
    """The third of four columns does not vary in S."""
    g = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(13, 4, generator=g).double()
    x[:8, 2] = 0.1
    x[9, 0] = 1000.0
    y = torch.tensor([0, 2, 2, 1, 2, 2, 0, 1, 2, 0, 0, 2, 1])
    return Task(Data(x[:8], y[:8]), Data(x[8:], y[8:]))


# ---- the paper again, slow and obvious


def linear(theta, name, x):
    return theta[f"{name}.weight"] @ x + theta.get(f"{name}.bias", 0.0)


def layer_norm(theta, name, h):
    z = (h - h.mean()) / (((h - h.mean()) ** 2).mean() + 1e-5).sqrt()
    return theta[f"{name}.weight"] * z + theta[f"{name}.bias"]


def token(theta, S: Data, x, y=None):
    h = 0.0
    vary = [j for j in range(S.x.shape[1]) if len(set(S.x[:, j].tolist())) > 1]
    for j in vary:
        column = S.x[:, j]
        mean = sum(column) / len(column)
        deviation = math.sqrt(sum((c - mean) ** 2 for c in column) / len(column))
        z = max(-5.0, min(5.0, (x[j] - mean).item() / deviation)) * math.sqrt(FEATURES / len(vary))
        h = h + theta["embed.weight"][:, j] * z                                                   # (a)
    return h if y is None else h + theta["label.weight"][:, y]                                    # (b)


def layer(theta, at, h, rows):
    """Row h in the light of the rows of S."""
    u, found = layer_norm(theta, f"{at}.norm", h), []
    q, size = linear(theta, f"{at}.q", u), DIM // HEADS
    both = [linear(theta, f"{at}.kv", layer_norm(theta, f"{at}.norm", s)) for s in rows]
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        k, v = [b[:DIM][part] for b in both], [b[DIM:][part] for b in both]
        a = torch.stack([((q[part] @ k_i) / math.sqrt(size)).exp() for k_i in k])
        found.append(sum(a_i * v_i for a_i, v_i in zip(a / a.sum(), v, strict=True)))
    h = h + linear(theta, f"{at}.out", torch.cat(found))
    inner = linear(theta, f"{at}.mlp.0", layer_norm(theta, f"{at}.norm_after", h))
    return h + linear(theta, f"{at}.mlp.2", inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))


def logits(head, theta, S: Data, x):
    rows, h = [token(theta, S, *row) for row in zip(*S, strict=True)], token(theta, S, x)
    for at in ("layers.0", "layers.1"):
        rows, h = [layer(theta, at, s, rows) for s in rows], layer(theta, at, h, rows)
    last = lambda h: linear(theta, "head", layer_norm(theta, "norm", h))
    if head == "linear":
        return last(h)[:WAYS]                                                                     # (c)
    p = [torch.tensor(0.0)] * WAYS
    for s, y in zip(rows, S.y, strict=True):
        d = ((last(h) - last(s)) ** 2).sum() * theta["log_scale"].exp() / math.sqrt(DIM)
        p[y] = p[y] + (-d).exp()
    return torch.stack(p).log()                                                                   # (c')


@pytest.mark.parametrize("head", HEAD)
def test_scores_loss_and_gradient(task, head):
    F_theta, theta, (S, Q) = learner(head), weights(head), task
    scores = torch.stack([logits(head, theta, S, x) for x in Q.x])
    p = scores.exp() / scores.exp().sum(1, keepdim=True)                                          # (2)
    assert_close(F_theta.adapt(theta, S)(Q.x), p.log())
    loss = -sum(p_i[y].log() for p_i, y in zip(p, Q.y, strict=True)) / len(Q.y)                   # (3)
    want = torch.autograd.grad(loss, list(theta.values()))
    grads, got, _ = meta_gradient(F_theta)({n: t.detach() for n, t in theta.items()}, batched(task))
    assert_close(got, loss.detach())
    assert_close(list(grads.values()), list(want))


@pytest.mark.parametrize("head", HEAD)
def test_members_are_turned_and_averaged(task, head):
    """Equation (4): a member sees columns and classes moved on by t; its answers are moved back."""
    theta, (S, Q) = weights(head), task
    p = 0
    for t in range(3):
        columns = [(j - t) % 4 for j in range(4)]
        turned = Data(S.x[:, columns], torch.tensor([(int(y) + t) % WAYS for y in S.y]))
        q = learner(head).adapt(theta, turned)(Q.x[:, columns]).softmax(-1)
        p = p + torch.stack([q[:, (k + t) % WAYS] for k in range(WAYS)], 1) / 3
    assert_close(learner(head, members=3).adapt(theta, S)(Q.x), p.log())


# ---- what does not matter in a table


def answers(head, theta, S, x, ways=WAYS):
    with torch.no_grad():
        return learner(head, ways).adapt(theta, S)(x)


@pytest.mark.parametrize("head", HEAD)
def test_rows_units_and_padding_do_not_matter(task, head):
    theta, (S, Q) = weights(head), task
    want = answers(head, theta, S, Q.x)
    order = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    assert_close(answers(head, theta, Data(S.x[order], S.y[order]), Q.x), want)
    unit, zero = torch.tensor([0.01, 3.0, 1.0, 700.0]).double(), torch.tensor([5.0, -2.0, 0.0, 1.0]).double()
    assert_close(answers(head, theta, Data(S.x * unit + zero, S.y), Q.x * unit + zero), want)
    for width in (1, 2):
        padded = [torch.nn.functional.pad(x, (0, width)) for x in (S.x, Q.x)]
        assert_close(answers(head, theta, Data(padded[0], S.y), padded[1]), want, rtol=0, atol=0)
    other = Q.x.clone()
    other[:, 2] = 99.0  # what S does not vary in
    assert_close(answers(head, theta, S, other), want, rtol=0, atol=0)
    assert_close(torch.cat([answers(head, theta, S, x[None]) for x in Q.x]), want)


@pytest.mark.parametrize("head", HEAD)
def test_columns_and_classes_have_places_in_theta_and_nowhere_else(task, head):
    """In another order they are those of a theta whose weights for them are in that order."""
    theta, (S, Q) = {n: p.detach() for n, p in weights(head).items()}, task
    columns, classes = torch.tensor([3, 0, 2, 1]), torch.tensor([2, 0, 1])  # column j is now where columns[j] was
    whole, all_classes = torch.cat([columns, torch.tensor([4, 5])]), torch.cat([classes, torch.tensor([3, 4])])
    moved = {**theta, "embed.weight": theta["embed.weight"][:, whole]}
    moved["label.weight"] = theta["label.weight"][:, all_classes]
    if head == "linear":
        moved |= {n: theta[n][all_classes] for n in ("head.weight", "head.bias")}
    y = torch.tensor([classes.tolist().index(k) for k in S.y])
    got = answers(head, moved, Data(S.x[:, columns], y), Q.x[:, columns])
    assert_close(got, answers(head, theta, S, Q.x)[:, classes])
    assert not torch.allclose(got, answers(head, theta, Data(S.x[:, columns], y), Q.x[:, columns]))


@pytest.mark.parametrize("head", HEAD)
def test_a_class_without_rows_is_never_chosen_and_changes_nothing(task, head):
    theta = {n: p.detach() for n, p in weights(head).items()}
    scores = answers(head, theta, task.support, task.query.x, WAYS + 2)
    assert_close(scores[:, :WAYS], answers(head, theta, task.support, task.query.x))
    assert (scores[:, WAYS:] == -torch.inf).all()
    many, few = (meta_gradient(learner(head, ways))(theta, batched(task)) for ways in (WAYS + 2, WAYS))
    assert_close(many[:2], few[:2])


def test_a_table_that_is_too_large_is_refused(task):
    theta, S = weights("linear"), task.support
    wide = Data(torch.randn(8, 7).double(), S.y)
    with pytest.raises(ValueError, match="7 columns, this network was made for up to 6"):
        learner("linear").adapt(theta, wide)
    with pytest.raises(ValueError, match="6 classes, this network was made for up to 5"):
        learner("linear", 6).adapt(theta, S)
    with pytest.raises(ValueError, match="head is 'mean', expected 'linear' or 'attention'"):
        InContext(head="mean")
    with pytest.raises(ValueError, match="3 heads do not divide dim=8"):
        InContext(dim=8, heads=3)
    with pytest.raises(ValueError, match="members=0"):
        learner("linear", members=0)


# ---- the prior


def test_tables_of_the_prior_have_so_many_rows_of_each_class_and_stay_the_same():
    pool = ml.tasks.tables_prior(features=7)
    task = pool.test.sample(40, 6, 4, 3, torch.Generator().manual_seed(0))
    for (x, y), n in zip(task, (4, 3), strict=True):
        assert x.shape == (40, 6 * n, 7)
        assert x.isfinite().all()
        assert all(row.bincount(minlength=6).tolist() == [n] * 6 for row in y)
    again = pool.test.sample(40, 6, 4, 3, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(pytree.tree_leaves(task), pytree.tree_leaves(again), strict=True))
    x = torch.cat([task.support.x, task.query.x], 1)
    rows = torch.cat([x, torch.cat([task.support.y, task.query.y], 1)[..., None].float()], -1)
    empty = (x == 0).all(1)
    assert set(empty.sum(1).tolist()) >= {0, 1, 2, 3}  # columns that are none, in any place
    assert empty.any(0).all()
    assert not empty.all(0).any()
    assert sum(len(r.unique(dim=0)) == len(r) for r in rows) > 20  # S and Q share no row, but where columns are cut


def test_tables_of_the_prior_can_be_learned_in_both_directions_and_labels_alone_tell_nothing():
    """1-nearest neighbour is far above chance where the class is a cause and where it is caused, and at chance if each
    row has another's columns."""
    for anticausal in (0.0, 1.0):
        pool = ml.tasks.tables_prior(anticausal=anticausal)
        S, Q = pool.test.sample(200, 2, 20, 5, torch.Generator().manual_seed(0))
        near = torch.cdist(Q.x, S.x).argmin(-1)
        right = (S.y.gather(1, near) == Q.y).float().mean(1)
        chance = (S.y.gather(1, near.roll(1, 0)) == Q.y).float().mean(1)
        assert right.mean() > 0.6
        assert abs(chance.mean() - 0.5) < 4 * chance.std() / 200**0.5


def test_training_has_tables_of_any_size():
    pool, g = ml.tasks.tables_prior(features=3), torch.Generator().manual_seed(0)
    sizes = {(int(S.y.max()) + 1, S.x.shape[1]) for S, _ in (pool.train.sample(1, 4, 3, 1, g) for _ in range(100))}
    assert {ways for ways, _ in sizes} == {2, 3, 4}
    assert {n // ways for ways, n in sizes} == {1, 2, 3}
    assert ml.tasks.tables_prior(varied=False).train.sample(1, 4, 3, 1, g).support.x.shape == (1, 12, 10)
    with pytest.raises(ValueError, match=r"tables_prior\(features=0, anticausal=0.5\)"):
        ml.tasks.tables_prior(features=0)


def test_a_run_serves_on_a_table_of_ones_own(tmp_path):
    """Columns of any unit, padded to the width of the prior's; words for classes."""
    run = make_run(tmp_path / "run", "prior-fitted-tables", budget="smoke")
    x = torch.randn(12, 10) * torch.tensor([1000.0, 0.01] + [0.0] * 8)
    few = ml.FewShotClassifier(run).fit(x, ["low", "high"] * 6)
    assert few.predict_proba(x[:3]).shape == (3, 2)
    again = ml.FewShotClassifier(tmp_path / "run").fit(x / 7, ["low", "high"] * 6)
    assert_close(few.predict_proba(x), again.predict_proba(x / 7), rtol=1e-4, atol=1e-5)


# ---- PMLB's tables


def table(folder, name, columns, classes, rows, note=None):
    path = folder / "datasets" / name / f"{name}.tsv.gz"
    path.parent.mkdir(parents=True)
    lines = ["\t".join([*(f"c{j}" for j in range(columns)), "target"])]
    lines += ["\t".join([*(str(10 * i + j) for j in range(columns)), str(i % classes)]) for i in range(rows)]
    path.write_bytes(gzip.compress("\n".join([*lines, *([note] if note else [])]).encode()))
    return [name, "classification", str(columns), f"{classes}.0"]


def test_pmlbs_tables_are_dealt_each_as_a_task_of_its_own(tmp_path):
    rows = [table(tmp_path, "two", 2, 2, 40), table(tmp_path, "three", 3, 3, 30), table(tmp_path, "wide", 5, 2, 20)]
    rows += [table(tmp_path, "holes", 2, 2, 20, "NA\t1\t0"), ["gone", "classification", "2", "2.0"]]
    rows += [["numbers", "regression", "2", "9.0"]]
    told = ["dataset\ttask\tn_features\tn_classes", *("\t".join(row) for row in rows)]
    (tmp_path / "all_summary_stats.tsv").write_text("\n".join(told))
    pool = ml.tasks.pmlb(tmp_path, features=4)
    assert list(pool.tables) == ["three", "two"]
    assert {path.name: why for path, why in pool.skipped} == {
        "holes.tsv.gz": "could not convert string to float: 'NA'", "gone.tsv.gz": "not there"
    }  # fmt: skip
    assert [pool.fitting(3, 5, 5), pool.fitting(2, 10, 5), pool.fitting(2, 15, 6)] == [["three"], ["two"], []]
    S, Q = pool.sample(20, 2, 3, 4, torch.Generator().manual_seed(0))
    assert (S.x.shape, Q.x.shape) == ((20, 6, 4), (20, 8, 4))
    widths = [int((x != 0).any(0).sum()) for x in S.x]
    assert set(widths) == {2, 3}
    for x, width in zip(torch.cat([S.x, Q.x], 1), widths, strict=True):
        assert_close(x[:, 1] - x[:, 0], torch.ones(14))  # the cells of a row stay together
        assert len(x[:, 0].unique()) == 14
        assert (x[:, width:] == 0).all()
    with pytest.raises(ValueError, match=r"pmlb.sample\(ways=4, shots=1, queries=1\): .* no table of so many classes"):
        pool.sample(1, 4, 1, 1)
    with pytest.raises(ValueError, match=r"pmlb: there is no all_summary_stats\.tsv in .*Fetch https"):
        ml.tasks.pmlb(tmp_path / "nowhere")


def test_the_table_on_the_page_is_that_of_the_results():
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location("tables", root / "benchmarks" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    told = json.loads((root / "results" / "tables.json").read_text())
    assert (root / "docs" / "learners" / "prior_fitted.md").read_text() == tables.page(told)
    assert {shots: tables.summary(found) for shots, found in told["by table"].items()} == told["rows"]
    row = tables.summary({"a": {"prior-fitted": 80.0, "regression": 70.0, "neighbours": 80.0},
                          "b": {"prior-fitted": 50.0, "regression": 62.0, "neighbours": 40.0}})  # fmt: skip
    assert row["mean rank"] == {"prior-fitted": 1.75, "regression": 2.0, "neighbours": 2.25}
    assert row["ours - theirs, points"]["regression"] == pytest.approx([-1, 12.706 * 11], rel=1e-4)  # Student's
    assert row["tables won, lost"] == {"regression": [1, 1], "neighbours": [1, 0]}


def case(head):
    return Case(prior_fitted(*functional(InContext(4, WAYS, dim=8, layers=1, heads=2, head=head)), ways=WAYS), blobs)


CASES = {"prior_fitted": lambda: case("attention"), "prior_fitted-linear": lambda: case("linear")}

BUGS = [
    Bug("columns keep their length however few vary", "nn/in_context.py",
        ("varies * (self.features / varies.sum().clamp_min(1)).sqrt()", "varies * 1.0"),
        "test_scores_loss_and_gradient[linear]"),
    Bug("what is far off stays there", "nn/in_context.py",
        (".clamp(-5, 5)", ""), "test_scores_loss_and_gradient[linear]"),
    Bug("a constant column counts if it is not zero", "nn/in_context.py",
        ("varies = x.amax(0) > x.amin(0)", "varies = x.abs().amax(0) > 0"),
        "test_rows_units_and_padding_do_not_matter[linear]"),
    Bug("columns are centred by nothing", "nn/in_context.py",
        ("self.embed(((x - mean) * scale)", "self.embed((x * scale)"),
        "test_rows_units_and_padding_do_not_matter[linear]"),
    Bug("keys and values change places", "nn/in_context.py",
        ("in self.kv(u).chunk(2, -1))", "in reversed(self.kv(u).chunk(2, -1)))"),
        "test_scores_loss_and_gradient[linear]"),
    Bug("queries read rows as they were before the layer below", "nn/in_context.py",
        ("                h, kept = layer(h)\n", "                _, kept = layer(h)\n"),
        "test_scores_loss_and_gradient[attention]"),
    Bug("rows are read without their labels", "nn/in_context.py",
        ("self.label(member.to(x)), []", "self.label(0 * member.to(x)), []"), "test_scores_loss_and_gradient[linear]"),
    Bug("a class without rows has a score", "nn/in_context.py",
        ("torch.where(shown.any(0), answer, -torch.inf)", "answer"),
        "test_a_class_without_rows_is_never_chosen_and_changes_nothing[linear]"),
    Bug("answers are compared without their scale", "nn/in_context.py",
        (" * self.log_scale.exp() / answer", " / answer"), law("all_of_theta_learns", "prior_fitted")),
    Bug("classes are not turned back", "learners/prior_fitted.py",
        (".roll(-t, 1))", ".roll(t, 1))"), "test_members_are_turned_and_averaged"),
    Bug("members are averaged as logarithms", "learners/prior_fitted.py",
        ("torch.stack(answers).logsumexp(0) - log(len(answers))", "torch.stack(answers).mean(0)"),
        "test_members_are_turned_and_averaged"),
    Bug("queries of the prior are rows of S", "tasks/tables_prior.py",
        ("(queries, rows[..., shots:])", "(queries, rows[..., :queries])"),
        "test_tables_of_the_prior_have_so_many_rows_of_each_class_and_stay_the_same"),
    Bug("columns and classes of the prior are of other rows", "tasks/tables_prior.py",
        ("parts.append(Data(x.gather(1, chosen", "parts.append(Data(x.gather(1, chosen.roll(1, 1)"),
        "test_tables_of_the_prior_can_be_learned_in_both_directions_and_labels_alone_tell_nothing"),
    Bug("training has as many shots as were asked for", "tasks/tables_prior.py",
        ("shots = 1 + int(rand(1) * shots)", "shots = shots"), "test_training_has_tables_of_any_size"),
    Bug("tables are filled up in front", "tasks/tables.py",
        ("(0, features - found.shape[0])", "(features - found.shape[0], 0)"),
        "test_pmlbs_tables_are_dealt_each_as_a_task_of_its_own"),
    Bug("a table of few rows is dealt from", "tasks/tables.py",
        (">= shots + queries).sum()", ">= shots).sum()"), "test_pmlbs_tables_are_dealt_each_as_a_task_of_its_own"),
]  # fmt: skip
