"""Training, evaluation, random streams, files, devices."""

import json
import math
import os
import pickle

import pytest
import torch
import torch.nn.functional as F
from mutations import Bug
from torch import nn
from torch.testing import assert_close
from zoo import WAYS, ZOO, blobs, one

from metaloop import (
    Data,
    Learner,
    NonFinite,
    Run,
    Score,
    Task,
    evaluate,
    fit,
    functional,
    maml,
    meta_gradient,
    protonet,
    static,
    tasks,
)
from metaloop import predictor as value
from metaloop.engine import batch, checkpoint, predictor
from metaloop.engine.device import choose
from metaloop.engine.evaluate import NoScore
from metaloop.engine.log import read_metrics
from metaloop.engine.predictor import probabilities
from metaloop.engine.run import newest_whole
from metaloop.engine.seeds import generator
from metaloop.nn import conv4, mlp
from metaloop.torch_private import pytree

EPISODE = {"ways": 3, "shots": 2, "queries": 4}
QUICK = {"tasks": 4, "device": "cpu", "progress": False, **EPISODE}


@pytest.fixture
def pool():
    return tasks.gaussians(dim=4)


@pytest.fixture
def learner():
    return protonet(*functional(mlp((4, 8, 8))), ways=3)


class Altered:
    """A pool whose n-th batch of four tasks, as training deals them, is changed by alter(batch) on its way out."""

    def __init__(self, pool, n, alter):
        self.pool, self.n, self.alter, self.dealt = pool, n, alter, 0
        self.train = self.val = self.test = self
        self.classes, self.name = pool.classes, pool.name

    def to(self, device):
        return self

    def sample(self, tasks, **episode):
        batch = self.pool.sample(tasks=tasks, **episode)
        if tasks == 4:
            self.dealt += 1
            batch = self.alter(batch) if self.dealt == self.n else batch
        return batch


class Stop(Exception):
    """What kills a run in these tests."""


def stop(batch):
    raise Stop


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True))


# Training


def test_fit_is_the_loop_one_would_write(pool, learner):
    """Draw, take the meta-gradient, clip, step the optimizer and the schedule; T times."""
    theta = learner.init(5)
    leaves = list(theta.values())
    optimizer = torch.optim.SGD(leaves, lr=0.5, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)
    for step in range(5):
        batch = pool.train.sample(tasks=4, **EPISODE, generator=generator(5, "train", step))
        grads, *_ = meta_gradient(learner)(theta, batch)
        norm = torch.cat([g.flatten() for g in grads.values()]).norm()
        for p, g in zip(leaves, grads.values(), strict=True):
            p.grad = g * min(1.0, 0.1 / (norm + 1e-6))
        assert norm > 0.1, "the clip has nothing to do"
        optimizer.step()
        scheduler.step()
    run = fit(
        learner, pool, steps=5, seed=5, clip=0.1, optimizer=lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
        schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.1), **QUICK,
    )  # fmt: skip
    assert_close(run.theta, theta)
    assert run.step == 5
    assert run.learner is learner


def annealed():
    """A learner whose loss is weighed by a part of theta that goes by the meta-step: 1, 1/2, 1/3, ..."""

    def scheduled(step):
        return {"schedule": {"weight": torch.tensor(1 / (1 + step))}}

    def objective(adapt, theta, task):
        return theta["schedule"]["weight"] * theta["w"].sum() + 0 * task.query.x.sum(), {}

    init = lambda seed: {"w": torch.zeros(2), **scheduled(0)}
    return Learner(init, lambda theta, S: lambda x: x @ torch.ones(4, 3), objective, scheduled=scheduled)


def test_what_is_scheduled_goes_by_the_step_and_by_nothing_else(pool):
    run = fit(annealed(), pool, steps=3, optimizer=lambda p: torch.optim.SGD(p, lr=1.0), **QUICK)
    assert_close(run.theta["w"], -torch.full((2,), 1 + 1 / 2 + 1 / 3))
    assert run.theta["schedule"]["weight"] == 0.25


def test_what_is_scheduled_survives_resuming(pool, tmp_path):
    options = {"optimizer": lambda p: torch.optim.Adam(p), "checkpoint_every": 1, **QUICK}
    whole = fit(annealed(), pool, steps=6, **options)
    with pytest.raises(Stop):
        fit(annealed(), Altered(pool, 4, stop), steps=6, out=tmp_path / "run", **options)
    _, saved, _ = newest_whole(tmp_path / "run")
    assert saved["theta/schedule/weight"] == 0.25
    assert same(fit(annealed(), pool, steps=6, out=tmp_path / "run", resume=True, **options).theta, whole.theta)


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam"])
def test_any_torch_optimizer_trains_and_resumes(pool, learner, kind, tmp_path):
    optimizer = lambda p: getattr(torch.optim, kind)(p, lr=0.01)
    options = {"optimizer": optimizer, "checkpoint_every": 2, **QUICK}
    whole = fit(learner, pool, steps=6, **options)
    with pytest.raises(Stop):
        fit(learner, Altered(pool, 6, stop), steps=6, out=tmp_path / "run", **options)
    assert checkpoint.read(tmp_path / "run" / "checkpoint-00000004.safetensors")[1]["step"] == 4
    assert same(fit(learner, pool, steps=6, out=tmp_path / "run", resume=True, **options).theta, whole.theta)


def test_a_resumed_run_repeats_its_noise_schedule_and_log(pool, tmp_path):
    """Bit by bit, with dropout, a schedule, and a kill after the last checkpoint."""
    noisy = maml(*functional(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))), inner_lr=0.1)
    schedule = lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 8)
    options = {"steps": 8, "schedule": schedule, "checkpoint_every": 3, "validate_every": 4, **QUICK}
    options["validation"] = {"tasks": 5}
    whole = fit(noisy, pool, out=tmp_path / "whole", **options)
    with pytest.raises(Stop):
        fit(noisy, Altered(pool, 6, stop), out=tmp_path / "cut", **options)
    torch.rand(1)  # of the numbers that dropout would otherwise draw from
    resumed = fit(noisy, pool, out=tmp_path / "cut", resume=True, **options)
    assert same(resumed.theta, whole.theta)
    lines = [{**line, "seconds": 0} for line in read_metrics(tmp_path / "whole")]
    assert lines == [{**line, "seconds": 0} for line in read_metrics(tmp_path / "cut")]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]


def test_the_seed_decides(pool, learner):
    a, b, c = (fit(learner, pool, steps=2, seed=seed, **QUICK).theta for seed in (0, 0, 1))
    assert same(a, b)
    assert not same(a, c)


def test_without_steps_nothing_moves(pool, learner):
    assert same(fit(learner, pool, steps=0, **QUICK).theta, learner.init(0))


@pytest.mark.compile
def test_compiled_training_is_the_same(pool, learner, monkeypatch):
    """With a backend that only collects graphs: each step is one graph, compiled once."""
    graphs, compile = [], torch.compile

    def collect(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda f, **options: compile(f, backend=collect, **options))
    torch.compiler.reset()
    plain, compiled = (fit(learner, pool, steps=4, compile=c, **QUICK) for c in (False, True))
    assert_close(compiled.theta, plain.theta)
    assert len(graphs) == 1


def test_a_run_is_kept_in_its_folder(pool, learner, tmp_path):
    run = fit(learner, pool, steps=10, out=tmp_path / "deep" / "run", info={"recipe": "mine"}, **QUICK)
    kept = sorted(path.name for path in run.folder.iterdir())
    assert kept[:2] == ["checkpoint-00000009.safetensors", "checkpoint-00000010.safetensors"]
    assert kept[2].startswith("events.out.tfevents.")
    assert kept[3:] == ["metrics.jsonl", "run.json"]
    info = json.loads((run.folder / "run.json").read_text())
    assert (info["recipe"], info["seed"]) == ("mine", 0)
    lines = read_metrics(run.folder)
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert all(math.isfinite(line["loss"]) and 0 <= line["accuracy"] <= 1 for line in lines)

    opened = Run.open(run.folder, learner)
    assert same(opened.theta, run.theta)
    assert (opened.step, opened.info["recipe"]) == (10, "mine")
    assert opened.seconds > 0


def test_a_run_is_not_overwritten(pool, learner, tmp_path):
    fit(learner, pool, steps=1, out=tmp_path, **QUICK)
    with pytest.raises(ValueError, match=r"holds a run. Resume it"):
        fit(learner, pool, steps=1, out=tmp_path, **QUICK)
    with pytest.raises(ValueError, match="was started with seed=0, now it is 1"):
        fit(learner, pool, steps=1, out=tmp_path, resume=True, seed=1, **QUICK)


@pytest.mark.parametrize("name", ["report.html", "metrics.jsonl"])
def test_what_was_in_a_folder_is_not_overwritten(pool, learner, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"holds no run, but {name}, which one would overwrite"):
        fit(learner, pool, steps=1, out=tmp_path, **QUICK)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir() if path.name == name] == [(name, "mine")]
    assert not (tmp_path / "run.json").exists()


def test_resuming_what_never_began_begins(pool, learner, tmp_path):
    run = fit(learner, pool, steps=2, out=tmp_path / "new", resume=True, **QUICK)
    assert run.step == 2
    with pytest.raises(Stop):
        fit(learner, Altered(pool, 1, stop), steps=2, out=tmp_path / "early", **QUICK)
    assert same(fit(learner, pool, steps=2, out=tmp_path / "early", resume=True, **QUICK).theta, run.theta)


def test_a_run_of_another_learner_is_not_resumed(pool, learner, tmp_path):
    fit(learner, pool, steps=1, out=tmp_path, **QUICK)
    wider, deeper = (protonet(*functional(mlp(sizes)), ways=3) for sizes in ((4, 9, 8), (4, 8, 8, 8)))
    for other, message in ((wider, r"'theta/body.1.weight' has shape \(8, 4\), this learner wants \(9, 4\)"),
                           (deeper, "holds no 'theta/body.3.weight'")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            fit(other, pool, steps=2, out=tmp_path, resume=True, **QUICK)
        with pytest.raises(ValueError, match=message):
            Run.open(tmp_path, other)


def test_validation_judges_the_learner_of_meta_test_on_validation_tasks(pool, learner, tmp_path):
    at_test = protonet(*functional(mlp((4, 8, 8))), ways=5)
    validation = {"ways": 5, "tasks": 7}
    run = fit(
        learner, pool, steps=3, at_test=at_test, validation=validation, validate_every=2, out=tmp_path, **QUICK
    )
    lines = [line for line in read_metrics(tmp_path) if "val_accuracy" in line]
    assert [line["step"] for line in lines] == [2, 3]
    score = evaluate(at_test, run.theta, pool, split="val", ways=5, shots=2, queries=4, tasks=7)
    assert lines[-1] == {"step": 3, "val_accuracy": score.mean, "val_ci95": score.ci95}
    assert run.learner is at_test


def test_population_statistics_are_in_every_checkpoint(tmp_path):
    pool = tasks.gaussians(dim=256)
    flat = nn.Sequential(nn.Unflatten(1, (1, 16, 16)), conv4((1, 16, 16), width=2, norm_policy="running"))
    run = fit(protonet(*functional(flat), ways=3), pool, steps=1, out=tmp_path, **QUICK)
    means = {n: p for n, p in run.theta.items() if n.endswith("running_mean")}
    assert all(p.any() for p in means.values())
    assert same(Run.open(tmp_path, run.learner).theta, run.theta)


def test_lines_where_there_is_no_terminal(pool, learner, capsys):
    fit(learner, pool, steps=3, **{**QUICK, "progress": True})
    out, err = capsys.readouterr()
    assert out == ""
    assert "step 3/3  loss " in err
    assert "tasks/s  0:00 left" in err
    fit(learner, pool, steps=3, **QUICK)
    assert capsys.readouterr().err == ""


# What is not finite


def spoil(part, i):
    """A batch in which task i has a NaN in its support or query inputs."""

    def alter(batch: Task) -> Task:
        data = getattr(batch, part)
        x = data.x.clone()
        x[i, 1] = math.nan
        return batch._replace(**{part: data._replace(x=x)})

    return alter


@pytest.mark.parametrize(("part", "i"), [("support", 0), ("query", 3)])
def test_data_that_are_not_finite_are_found_and_the_last_checkpoint_kept(pool, learner, tmp_path, part, i):
    with pytest.raises(NonFinite, match=f"step 4, task {i}: its {part} set holds values that are not finite"):
        fit(learner, Altered(pool, 4, spoil(part, i)), steps=9, checkpoint_every=3, out=tmp_path, **QUICK)
    kept = Run.open(tmp_path, learner)
    assert kept.step == 3
    assert all(p.isfinite().all() for p in kept.theta.values())


def test_a_loss_that_is_not_finite_names_step_task_and_parameter(pool):
    """The root of a negative number: its loss and gradient are NaN, in the third task alone."""
    net = lambda theta, x: theta["scale"] * (x.sum().abs() + theta["root"]).sqrt() * x

    def objective(adapt, theta, task):
        return (net(theta, task.query.x) - task.query.x).square().mean(), {}

    def numb(batch):
        x = batch.query.x.clone()
        x[2] = 0.0
        return batch._replace(query=batch.query._replace(x=x))

    theta = {"scale": torch.ones(()), "root": torch.tensor(-1e-3)}
    learner = Learner(lambda seed: dict(theta), lambda theta, S: lambda x: net(theta, x), objective)
    message = "step 2, task 2 of 4: the loss is nan, the gradient of theta/scale is not finite"
    with pytest.raises(NonFinite, match=message):
        fit(learner, Altered(pool, 2, numb), steps=3, **{**QUICK, "ways": 4})


def test_a_step_that_ruins_theta_is_found(pool, learner):
    rash = lambda p: torch.optim.SGD(p, lr=math.inf)
    with pytest.raises(NonFinite, match=r"step 1: theta/body.1.weight is not finite after it. Lower the learning"):
        fit(learner, pool, steps=1, optimizer=rash, **QUICK)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": -1}, "steps=-1"),
        ({"tasks": 0}, "tasks=0"),
        ({"ways": 4}, "the learner tells 3 classes apart, the tasks have 4. Give it 3 at most"),
        ({"device": "tpu"}, "device 'tpu' is unknown. Use auto, cpu, cuda, mps"),
        ({"validate_every": 1, "validation": {"ways": 7}}, "fit: validation: the learner tells 3 classes apart"),
    ],
)
def test_bad_arguments_fail_before_the_first_step(pool, learner, wrong, message):
    with pytest.raises(ValueError, match=message):
        fit(learner, Altered(pool, 1, stop), **{**QUICK, **wrong})


# Evaluation


def test_score_is_the_mean_with_its_interval():
    """Scores 0, 0.5, 1, 1: mean 5/8, sample variance 11/48; Student's t of three degrees of freedom is 3.182."""
    score = Score.of(torch.tensor([0.0, 0.5, 1.0, 1.0]))
    assert score.mean == 0.625
    assert math.isclose(score.ci95, 3.182446 * math.sqrt(11 / 48 / 4), rel_tol=1e-6)
    assert str(score) == "62.50 ± 76.17 %"
    assert str(Score.of(torch.tensor([2.0, 4.0]), "mse")) == "3 ± 13 (mse)"
    assert math.isnan(Score.of(torch.tensor([1.0])).ci95)


def test_intervals_over_few_tasks_cover_what_they_say():
    """19 of 20 intervals hold the true mean, over few normal scores as over many."""
    for n in (3, 20):
        scores = torch.randn(4000, n, generator=torch.Generator().manual_seed(n))
        inside = [abs(s.mean) <= s.ci95 for s in map(Score.of, scores)]
        assert abs(sum(inside) / 4000 - 0.95) < 0.012, n
    many = Score.of(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    assert math.isclose(many.ci95, 1.96 * many.per_task.double().std().item() / 1000**0.5, rel_tol=2e-3)


@value
class Constant:
    """Answers the same to every query: what a learner may answer that has gone wrong."""

    answer: torch.Tensor

    def __call__(self, x):
        return self.answer.expand(len(x), -1)


def constant(*numbers: float) -> tuple[Learner, dict]:
    theta = {"w": torch.ones(())}
    adapt = lambda theta, S: Constant(torch.tensor(numbers) * theta["w"])
    return Learner(lambda seed: theta, adapt, lambda adapt, theta, task: (theta["w"] ** 2, {})), theta


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("numbers", [(NAN, NAN, NAN), (0.0, NAN, 1.0), (INF, 0.0, 0.0), (-INF, -INF, -INF)])
def test_an_answer_that_is_not_finite_has_no_score(pool, numbers):
    with pytest.raises(NoScore, match=r"evaluate: in 3 of 3 tasks f answers numbers that are not finite"):
        evaluate(*constant(*numbers), pool, tasks=3, **EPISODE)
    with pytest.raises(ValueError, match="the predictor answers NaN or infinite numbers to 2 of 2 examples"):
        probabilities(Constant(torch.tensor(numbers)), torch.ones(2, 4), ways=3)


def test_a_class_may_be_impossible(pool):
    assert evaluate(*constant(0.0, -INF, -INF), pool, tasks=3, **EPISODE).mean == pytest.approx(1 / 3)


@pytest.mark.parametrize("number", [NAN, INF, -INF, 1e30])
def test_a_number_that_is_not_finite_has_no_error(number):
    with pytest.raises(NoScore, match=r"in 3 of 3 tasks .*not finite"):
        evaluate(*constant(number), tasks.sinusoid(), tasks=3, ways=1, shots=2, queries=2)


def test_a_metric_that_is_not_finite_has_no_interval(pool):
    surprise = lambda p, y: -p.log_softmax(-1).gather(-1, y[..., None]).flatten(1).mean(1)
    with pytest.raises(NoScore, match="in 3 of 3 tasks the score is not finite"):
        evaluate(*constant(0.0, -INF, 0.0), pool, tasks=3, metric=surprise, **EPISODE)


def right(p, y):
    return (p.argmax(-1) == y).float()


METRICS = {
    "each query's": right, "one of all tasks": lambda p, y: right(p, y).mean(),
    "a column": lambda p, y: right(p, y)[:, :1],
    "each query's, over tasks": lambda p, y: right(p, y).mean(0), "no tensor": lambda p, y: right(p, y).mean().item(),
    "a list": lambda p, y: right(p, y).mean(1).tolist(),
}  # fmt: skip


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_gives_a_number_for_each_task(pool, learner, name):
    """As many tasks as queries, so that the shape alone does not tell."""
    with pytest.raises(ValueError, match=r"evaluate: metric .* gives .* expected one number for each task"):
        evaluate(learner, learner.init(0), pool, tasks=12, chunk=12, metric=METRICS[name], **EPISODE)


def test_a_metric_that_cannot_be_is_told(pool, learner):
    theta = learner.init(0)
    with pytest.raises(ValueError, match=r"^evaluate: metric is 'accuracy', expected a function"):
        evaluate(learner, theta, pool, tasks=2, metric="accuracy", **EPISODE)
    with pytest.raises(ValueError, match=r"^evaluate: metric cross_entropy, of 1 task: .*Expected target size"):
        evaluate(learner, theta, pool, tasks=2, metric=torch.nn.functional.cross_entropy, **EPISODE)


def test_a_metric_may_count(pool, learner):
    count = lambda p, y: (p.argmax(-1) == y).sum(1)
    score = evaluate(learner, learner.init(0), pool, tasks=4, metric=count, **EPISODE)
    assert_close(score.per_task / 12, evaluate(learner, learner.init(0), pool, tasks=4, **EPISODE).per_task)


def test_a_run_outlives_a_validation_without_a_score(pool, learner):
    """The learner of meta-test diverges; the one that is trained does not."""
    diverging, _ = constant(NAN, NAN, NAN)
    at_test = Learner(learner.init, lambda theta, S: Constant(torch.full((3,), NAN)), diverging.objective)
    with pytest.warns(UserWarning, match=r"fit: step 2 has no validation score\. evaluate: in \d+ of"):
        run = fit(learner, pool, at_test=at_test, **{**QUICK, "steps": 2}, validate_every=2)
    assert run.step == 2


def test_the_difference_of_scores_is_paired():
    a, b = Score.of(torch.tensor([0.2, 0.5, 0.9])), Score.of(torch.tensor([0.1, 0.4, 0.8]))
    difference = a - b
    assert math.isclose(difference.mean, 0.1, rel_tol=1e-6)
    assert difference.ci95 < 1e-6 < a.ci95
    for other in (Score.of(torch.ones(2)), Score.of(torch.ones(3), "mse")):
        with pytest.raises(ValueError, match="paired difference needs the same metric on the same tasks"):
            a - other


def test_evaluate_scores_each_task_on_its_queries(pool, learner):
    theta = learner.init(0)
    score = evaluate(learner, theta, pool, tasks=60, **EPISODE)
    scores = []
    for block in range(2):
        dealt = pool.test.sample(tasks=50, **EPISODE, generator=generator(0, "test", block))
        for i in range(50):
            S, Q = pytree.tree_map(lambda t: t[i], dealt)  # noqa: B023
            scores.append((learner.adapt(theta, S)(Q.x).argmax(1) == Q.y).float().mean())
    assert_close(score.per_task, torch.stack(scores)[:60])
    assert score.mean == score.per_task.double().mean()
    assert score.metric == "accuracy"
    assert not score.per_task.requires_grad


def test_every_learner_meets_the_same_tasks(pool, learner):
    """Whatever is scored, at whatever size of chunk; and fewer tasks are the first of many."""

    def first_query(predicted, y):
        return predicted[:, 0, 0]

    def seen(**options):
        echo = Learner(lambda seed: None, lambda theta, S: lambda x: x, lambda adapt, theta, task: None)
        score = evaluate(echo, {"w": torch.ones(1)}, pool, metric=first_query, **EPISODE, **options)
        assert score.metric == "first_query"
        return score.per_task

    many = seen(tasks=120, chunk=7)
    assert len(many.unique()) == 120
    assert torch.equal(seen(tasks=120, chunk=50), many)
    assert torch.equal(seen(tasks=70), many[:70])
    assert not torch.equal(seen(tasks=70, seed=1), many[:70])


@pytest.mark.parametrize("count", [3, 70])
def test_fixed_tasks_are_scored_once_each(learner, count):
    """However many are asked for; fewer are the first of them."""
    dealt = blobs(count, 0)
    pool = tasks.FixedPool(dealt, ways=3, shots=3, queries=4, name="fixed")
    theta, episode = learner.init(0), {"ways": 3, "shots": 3, "queries": 4}
    each = evaluate(learner, theta, pool, tasks=1000, **episode).per_task
    for i, score in enumerate(each):
        S, Q = pytree.tree_map(lambda t: t[i], dealt)  # noqa: B023
        assert_close(score, (learner.adapt(theta, S)(Q.x).argmax(1) == Q.y).float().mean())
    assert len(each) == count
    assert torch.equal(evaluate(learner, theta, pool, tasks=2, **episode).per_task, each[:2])


def test_evaluate_deals_from_the_split_that_is_asked_for(learner):
    class Splits:
        pass

    pools = Splits()
    pools.test, pools.val = tasks.gaussians(dim=4, noise=0.0), tasks.gaussians(dim=4, spread=0.0, noise=1.0)
    assert evaluate(learner, learner.init(0), pools, tasks=20, **EPISODE).mean == 1
    assert evaluate(learner, learner.init(0), pools, tasks=20, split="val", **EPISODE).mean < 0.6


def test_evaluate_scores_regression_by_the_mean_squared_error():
    case, pool = ZOO["maml-regression"], tasks.sinusoid()
    theta = case.learner.init(0)
    score = evaluate(case.learner, theta, pool, tasks=3, ways=1, shots=5, queries=8)
    dealt = pool.sample(tasks=50, ways=1, shots=5, queries=8, generator=generator(0, "test", 0))
    S, Q = pytree.tree_map(lambda t: t[2], dealt)
    assert_close(score.per_task[2], F.mse_loss(case.learner.adapt(theta, S)(Q.x), Q.y).detach())
    assert score.metric == "mse"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": 0}, "tasks=0, expected a whole number of at least 1"), ({"tasks": 1.5}, "tasks=1.5"),
        ({"ways": 5}, "evaluate: the learner tells 3 classes apart, the tasks have 5. Give it 3 at most"),
    ],
)
def test_evaluate_refuses(pool, learner, wrong, message):
    with pytest.raises(ValueError, match=message):
        evaluate(learner, learner.init(0), pool, **{**EPISODE, "tasks": 2, **wrong})


def test_evaluate_refuses_labels_out_of_range_and_numbers_that_are_none(learner):
    class Dealing:
        name = "mine"

        def __init__(self, batch):
            self.batch, self.test = batch, self

        def sample(self, **_):
            return self.batch

    batch = blobs(2, 0)
    beyond = batch._replace(support=batch.support._replace(y=batch.support.y + 4))
    with pytest.raises(ValueError, match=r"support.y has labels from 4 to 6, expected 0..2. Relabel .* pass ways=7"):
        evaluate(learner, learner.init(0), Dealing(beyond), **EPISODE)
    with pytest.raises(ValueError, match="mine deals tasks with values that are not finite"):
        evaluate(learner, learner.init(0), Dealing(spoil("query", 1)(batch)), **EPISODE)


def test_a_predictor_must_answer_like_the_targets():
    wide = maml(*functional(mlp((1, 4, 2))), inner_lr=0.1, loss=lambda f, y: f.sum())
    with pytest.raises(ValueError, match=r"answers \(8, 2\) per task, the targets are \(8, 1\)"):
        evaluate(wide, wide.init(0), tasks.sinusoid(), ways=1, shots=5, queries=8)


# Random streams


def draws(*place):
    return torch.rand(4, generator=generator(*place))


def test_each_place_of_each_stream_of_each_seed_has_its_own_numbers():
    places = [(0, "train", 0), (1, "train", 0), (0, "test", 0), (0, "train", 1), (1, "train", 11), (11, "train", 1)]
    assert len({tuple(draws(*place).tolist()) for place in places}) == len(places)
    assert torch.equal(draws(0, "train", 1), draws(0, "train", 1))


def test_streams_are_the_same_everywhere_and_for_ever():
    """Published scores rest on these numbers."""
    assert generator(0, "test", 0).initial_seed() == 3494780237346305856


# Chunks


@pytest.mark.parametrize(
    ("n", "numbers", "eager", "compiled"),
    [(32, 1, 32, 32), (32, 2**11, 32, 2), (32, 2**12, 16, 1), (30, 2**10, 30, 3), (30, 2**15, 1, 1), (7, 2**20, 1, 1)],
)
def test_chunks_divide_the_batch_within_the_working_set(n, numbers, eager, compiled):
    data = Data(torch.zeros(1, 1).expand(n, numbers), torch.zeros(n, 1))
    assert [batch.chunk_size(Task(data, data), compiled=c) for c in (False, True)] == [eager, compiled]


# Files


def test_tensors_survive_the_disk(tmp_path):
    tree = {"net": {"a": torch.randn(2, 3).T, "b": torch.tensor(1.5, dtype=torch.float64)}, "n": torch.arange(3)}
    checkpoint.write(tmp_path / "f", checkpoint.flatten(tree, "theta"), {"step": 3})
    tensors, meta = checkpoint.read(tmp_path / "f")
    assert set(tensors) == {"theta/net/a", "theta/net/b", "theta/n"}
    assert meta == {"step": 3}
    back = checkpoint.unflatten(tensors, pytree.tree_map(torch.zeros_like, tree), "theta", "f")
    assert same(back, tree)
    assert back["net"]["b"].dtype == torch.float64


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    path = tmp_path / "f.safetensors"
    checkpoint.write(path, {"a": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"f.safetensors is damaged or not metaloop's"):
        checkpoint.read(path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    import safetensors.torch

    with pytest.raises(ValueError, match="none: no such file"):
        checkpoint.read(tmp_path / "none")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"a": 1}))
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    for name in ("pickle", "foreign"):
        with pytest.raises(ValueError, match=f"{name} is damaged or not metaloop's"):
            checkpoint.read(tmp_path / name)
    with pytest.raises(ValueError, match="is a folder, expected a file"):
        checkpoint.read(tmp_path)


def test_a_link_is_followed_and_what_is_no_file_is_kept(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    checkpoint.write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: it is no file"):
        checkpoint.write_bytes(tmp_path / "pipe", b"new")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clip": -1.0}, "clip=-1.0, expected a norm above 0"),
        ({"steps": 1.5}, "steps=1.5, expected a whole number, at least 0"),
        ({"validate_every": 0}, "validate_every=0, expected a whole number, at least 1"),
        ({"seed": 10**30}, "seed=1000000000000000000000000000000, expected a whole number below"),
        ({"optimizer": "adam"}, "optimizer is str, expected a function such as"),
        ({"optimizer": torch.optim.Adam([torch.zeros(1)])}, "optimizer is Adam, expected a function such as"),
        ({"optimizer": lambda p: torch.optim.SGD([torch.zeros(1)], lr=1)}, r"the optimizer \(SGD\) moves other"),
        ({"optimizer": lambda p: torch.optim.SparseAdam(p)}, "step 1: SparseAdam does not support dense gradients"),
        ({"schedule": lambda o: None}, "the schedule is NoneType, which has no step"),
        ({"at_test": 5}, "at_test is int, expected a Learner"),
        ({"resume": True}, "resume=True needs out"),
        ({"pool": "glyphs"}, "the pool is str, expected one such as"),
        ({"learner": None}, "learner is NoneType, expected a Learner"),
    ],
)
def test_bad_arguments_of_fit(pool, learner, wrong, message):
    options = {"learner": learner, "pool": pool, **QUICK, "steps": 1, **wrong}
    with pytest.raises(ValueError, match=f"fit: {message}"):
        fit(**options)


def test_a_keyword_that_is_none_is_named(pool, learner):
    with pytest.raises(TypeError, match="fit: unknown keyword 'lr'"):
        fit(learner, pool, lr=0.1, **QUICK)


def test_an_objective_that_gives_something_else_is_told(pool, learner):
    bare = Learner(learner.init, learner.adapt, lambda adapt, theta, task: torch.zeros(()))
    with pytest.raises(ValueError, match=r"objective gives something else than \(loss, info\)"):
        fit(bare, pool, steps=1, **QUICK)


def test_evaluate_says_what_it_cannot_use(pool, learner):
    theta, options = learner.init(0), {"ways": 3, "queries": 3, "tasks": 2}
    for wrong, message in (
        ({"split": "foo"}, "split='foo', expected 'train', 'val' or 'test'"),
        ({"chunk": 0}, "chunk=0, expected at least 1"),
        ({"theta": Run(learner, theta)}, "theta is Run, expected a pytree of tensors such as run.theta"),
        ({"theta": {n: p * math.nan for n, p in theta.items()}}, "theta holds numbers that are not finite"),
    ):
        with pytest.raises(ValueError, match=f"evaluate: {message}"):
            evaluate(**{"learner": learner, "theta": theta, "pool": pool, **options, **wrong})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {n: v for n, v in t.items() if n != "f/a"}, "the file holds no 'f/a': it is of another learner"),
        (lambda t: {**t, "f/c": torch.zeros(1)}, "the file holds 'f/c', unknown here"),
        (lambda t: {**t, "f/b": torch.zeros(3)}, r"'f/b' has shape \(3,\), this learner wants \(2,\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    like = {"a": torch.zeros(1), "b": torch.zeros(2)}
    with pytest.raises(ValueError, match=message):
        checkpoint.unflatten(change(checkpoint.flatten(like, "f")), like, "f", "the file")


def test_other_parts_of_a_file_are_let_be():
    like = {"a": torch.zeros(1)}
    tensors = {**checkpoint.flatten(like, "f"), "optimizer/0/step": torch.zeros(1)}
    assert same(checkpoint.unflatten(tensors, like, "f", "the file"), like)


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "f"
    checkpoint.write(path, {"a": torch.zeros(3)}, {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ValueError, match=r"cannot write .*: No space left on device. What was there before is kept"):
        checkpoint.write(path, {"a": torch.ones(3)}, {"step": 2})
    assert checkpoint.read(path)[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_folder_that_cannot_be_made_is_named(pool, learner, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot make the run folder .*file/run"):
        fit(learner, pool, steps=1, out=tmp_path / "file" / "run", **QUICK)
    for folder, message in ((tmp_path, r"holds no run \(no run.json\)"), (tmp_path / "file", "holds no run")):
        with pytest.raises(ValueError, match=message):
            Run.open(folder, learner)


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(pool, learner, tmp_path, capsys):
    whole = fit(learner, pool, steps=4, **QUICK)
    fit(learner, pool, steps=4, checkpoint_every=2, out=tmp_path, **QUICK)
    newest = tmp_path / "checkpoint-00000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"is damaged .* --resume goes on from the checkpoint before"):
        Run.open(tmp_path, learner)
    assert same(fit(learner, pool, steps=4, out=tmp_path, resume=True, **QUICK).theta, whole.theta)
    assert "going on from checkpoint-00000002" in capsys.readouterr().err


# Predictors for one's own examples


def test_adapt_gives_the_same_predictor_in_whatever_order_the_examples_are_taken(learner):
    task = one(blobs(1, 0))
    theta = pytree.tree_map(torch.Tensor.double, learner.init(0))
    f = predictor.adapt(learner, theta, *task.support, ways=WAYS)
    assert_close(f(task.query.x), learner.adapt(theta, task.support)(task.query.x))
    p = predictor.probabilities(f, task.query.x, ways=2)
    assert_close(p, f(task.query.x)[:, :2].softmax(1))


def test_adapt_refuses_what_the_learner_cannot_tell_apart(learner):
    S = one(blobs(1, 0)).support
    with pytest.raises(ValueError, match=r"adapt: support.y has labels from 0 to 2, expected 0..1"):
        predictor.adapt(learner, learner.init(0), S.x.float(), S.y, ways=2)
    with pytest.raises(ValueError, match="adapt: the learner tells 3 classes apart, the tasks have 4"):
        predictor.adapt(learner, learner.init(0), S.x.float(), S.y, ways=4)


def test_predictors_survive_the_disk(learner, tmp_path):
    S, Q = one(blobs(1, 0))
    theta = pytree.tree_map(torch.Tensor.double, learner.init(0))
    f, other = learner.adapt(theta, S), learner.adapt(pytree.tree_map(torch.zeros_like, theta), S)
    predictor.save(tmp_path / "f", f, {"classes": ["a", "b", "c"]})
    back, about = predictor.load(tmp_path / "f", lambda about: other)
    assert torch.equal(back(Q.x), f(Q.x))
    assert about == {"classes": ["a", "b", "c"]}
    checkpoint.write(tmp_path / "theta", checkpoint.flatten(theta, "theta"), {"step": 1})
    with pytest.raises(ValueError, match="theta holds no predictor"):
        predictor.load(tmp_path / "theta", lambda about: other)


def test_a_predictor_is_a_value():
    @value
    class Line:
        a: torch.Tensor
        name: str = static()

        def __call__(self, x):
            return self.a * x

    f = Line(torch.tensor(2.0), "f")
    doubled = pytree.tree_map(lambda t: 2 * t, f)
    assert doubled(3) == 12
    assert doubled.name == "f"
    with pytest.raises(AttributeError):
        f.a = 1


# Devices


def test_devices():
    assert choose("cpu") == torch.device("cpu")
    assert choose("auto").type in ("cpu", "cuda", "mps")
    assert choose(torch.device("cpu")).type == "cpu"
    with pytest.raises(ValueError, match="device 'gpu' is unknown"):
        choose("gpu")
    absent = "mps" if not torch.backends.mps.is_available() else "cuda:9"
    with pytest.raises(ValueError, match=f"device '{absent}' is not on this machine, which has: cpu"):
        choose(absent)


BUGS = [
    Bug("every step draws the same tasks", "engine/deal.py",
        ('"train", step))', '"train", 0))'), "test_fit_is_the_loop_one_would_write"),
    Bug("the schedule stands still", "engine/session.py",
        ("            self.scheduler.step()", "            pass"), "test_fit_is_the_loop_one_would_write"),
    Bug("an optimizer may move nothing of theta", "engine/session.py",
        ("    _moves(descent, leaves)\n", "    pass\n"), "test_bad_arguments_of_fit"),
    Bug("nothing is clipped", "engine/steady.py",
        ("if clip is not None:", "if False:"), "test_fit_is_the_loop_one_would_write"),
    Bug("a resumed optimizer has forgotten its moments", "engine/session.py",
        ("restore_optimizer(descent, tensors,", "(lambda *_, **__: None)(descent, tensors,"),
        "test_any_torch_optimizer_trains_and_resumes"),
    Bug("a resumed schedule begins anew", "engine/session.py",
        ('restore_scheduler(scheduler, descent, meta.get("scheduler"), str(path))', "pass"),
        "test_a_resumed_run_repeats_its_noise_schedule_and_log"),
    Bug("noise depends on what came before", "engine/seeds.py",
        ("torch.default_generator.manual_seed(number)", "pass"),
        "test_a_resumed_run_repeats_its_noise_schedule_and_log"),
    Bug("validation judges the training learner", "engine/train.py",
        ("evaluate(run.learner, theta", "evaluate(learner, theta"),
        "test_validation_judges_the_learner_of_meta_test_on_validation_tasks"),
    Bug("what is not finite goes unseen", "engine/session.py",
        ("return math.isfinite(total(grads, loss).item())", "return True"),
        "test_a_loss_that_is_not_finite_names_step_task_and_parameter"),
    Bug("the interval is of a single task", "engine/evaluate.py",
        ("t * spread / n**0.5", "t * spread"), "test_score_is_the_mean_with_its_interval"),
    Bug("the interval takes the biased spread", "engine/evaluate.py",
        (".std().item()", ".std(correction=0).item()"), "test_score_is_the_mean_with_its_interval"),
    Bug("intervals over few tasks are too narrow", "engine/evaluate.py",
        ("float(stdtrit(n - 1, 0.975))", "1.96"), "test_intervals_over_few_tasks_cover_what_they_say"),
    Bug("NaN is of class 0", "targets.py",
        ("return (predicted < torch.inf) & (predicted > -torch.inf).any(-1, keepdim=True)",
        "return torch.ones_like(predicted) > 0"), "test_an_answer_that_is_not_finite_has_no_score[numbers0]"),
    Bug("a metric's shape is believed", "engine/evaluate.py",
        ("for n in (1, len(y)):", "for n in (len(y),):"),
        "test_a_metric_gives_a_number_for_each_task[each query's, over tasks]"),
    Bug("every block of test tasks is the same", "engine/evaluate.py",
        ('"test", block)', '"test", 0)'), "test_every_learner_meets_the_same_tasks"),
    Bug("evaluation ignores the split", "engine/evaluate.py",
        ("getattr(pool, split)", "pool.test"), "test_evaluate_deals_from_the_split_that_is_asked_for"),
    Bug("fixed tasks are scored again and again", "engine/evaluate.py",
        ("(min(tasks, fixed), BLOCK if", "(tasks, BLOCK if"), "test_fixed_tasks_are_scored_once_each"),
    Bug("what is scheduled stays as it began", "engine/session.py",
        ("self.learner.scheduled(i)", "self.learner.scheduled(0)"),
        "test_what_is_scheduled_goes_by_the_step_and_by_nothing_else"),
    Bug("what is scheduled drifts with the optimizer", "engine/session.py",
        ("if self.learner.scheduled is not None:", "if self.learner.scheduled is not None and i < 2:"),
        "test_what_is_scheduled_goes_by_the_step_and_by_nothing_else"),
    Bug("streams of one seed are one", "engine/seeds.py",
        ("{seed}/{stream}/{index}", "{seed}/{index}"),
        "test_each_place_of_each_stream_of_each_seed_has_its_own_numbers"),
    Bug("places run into each other", "engine/seeds.py",
        ("{seed}/{stream}/{index}", "{stream}{seed}{index}"),
        "test_each_place_of_each_stream_of_each_seed_has_its_own_numbers"),
    Bug("files are written in place", "engine/checkpoint.py",
        (('open(temporary, "wb")', 'open(target, "wb")'), ("os.replace(temporary, target)", "pass")),
        "test_a_full_disk_leaves_what_was_there"),
    Bug("shapes are not compared", "engine/checkpoint.py",
        ("if found.shape != leaf.shape:", "if False:"), "test_what_does_not_fit_is_named"),
]  # fmt: skip
