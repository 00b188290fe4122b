"""What y is, is said in one file: a target nobody has heard of goes through the whole library; pools over pools."""

import ast
import json
import math
import re
from pathlib import Path

import pytest
import torch
from mutations import Bug
from PIL import Image
from test_report import read
from test_streams import coded
from torch.testing import assert_close

import metaloop as ml
from metaloop import targets, tasks
from metaloop.cli import main
from metaloop.core import Data, Task
from metaloop.engine.log import read_metrics
from metaloop.outer.search import Shuffled
from metaloop.recipes import RECIPES
from metaloop.recipes.data import Protocol
from metaloop.recipes.plan import Plan, Row, label, recipe
from metaloop.report.results import in_units
from metaloop.targets import BITS, CLASSES, DENSITIES, NUMBERS, Target
from metaloop.tasks.levels import Levels
from metaloop.tasks.pool import AnyShots, Episodes, FlatPool, Outline, Over, Pool, Splits
from metaloop.tasks.problems import ProblemPool
from metaloop.tasks.rotated import Rotated
from metaloop.tasks.sequences import Presentations
from metaloop.tasks.streams import ClassStream

PACKAGE = Path(ml.__file__).parent


class Rankings(Target):
    """y int64 [tasks, n]: places, 0 .. n-1; predicted are numbers [tasks, n], the lowest comes first."""

    kind, metric, unit, words = "ranking", "in_order", "pairs in order (%)", "pairs in order (%)"
    scale, higher = 100.0, True

    def score(self, predicted, y):
        before = y[:, :, None] < y[:, None]
        return ((predicted[:, :, None] < predicted[:, None]) & before).sum((1, 2)) / before.sum((1, 2))

    def loss(self, predicted, y):
        before = (y[:, None] < y).to(predicted)
        return (before * torch.nn.functional.softplus(predicted[:, None] - predicted)).sum() / before.sum()

    def check(self, call, part, y, ways):
        if not torch.equal(y.sort(1).values, torch.arange(y.shape[1]).expand_as(y)):
            raise ValueError(f"{call}: {part}.y are no places.")

    def check_answer(self, call, answer, y, ways):
        if answer.shape != y.shape:
            raise ValueError(f"{call}: {tuple(answer.shape)} is no ranking of {len(y)}.")

    def check_ways(self, run, ways):
        if ways is not None:
            raise ValueError(f"--ways {ways}: {run} ranks.")

    def label(self, ways, shots):
        return f"{shots} to learn from"

    def episode(self, ways, shots, queries):
        return f"{shots} ranked, {queries} to rank"

    def queries(self, n):
        return f"{n} to rank"

    def shows(self, shape):
        return True

    def show(self, task, answer, ways):
        rows = zip(task.query.x[:, 0].tolist(), task.query.y.tolist(), answer.tolist(), strict=True)
        support = zip(task.support.x[:, 0].tolist(), task.support.y.tolist(), strict=True)
        return {"support": [list(point) for point in support], "query": sorted(map(list, rows))}

    def uses(self, run):
        return [f"rank with {run}"]


RANKINGS = Rankings()


class UpOrDown(Pool):
    """Numbers in rising or in falling order."""

    name, shape, target, device = "up_or_down", (1,), RANKINGS, torch.device("cpu")

    def sample(self, tasks=1, ways=1, shots=5, queries=5, generator=None) -> Task:
        sign = torch.randint(2, (tasks, 1), generator=generator) * 2 - 1

        def data(n):
            x = torch.randn(tasks, n, generator=generator)
            return Data(x[..., None], (sign * x).argsort(1).argsort(1))

        return Task(data(shots), data(queries))

    def to(self, device):
        return self


@ml.predictor
class Slope:
    """f(x) = w x times the covariance of x and its place in S."""

    w: torch.Tensor

    def __call__(self, x):
        return self.w * x[:, 0]


def ranker() -> ml.Learner:
    def adapt(theta, S):
        place = S.y.to(S.x)
        return Slope(theta["w"] * (S.x[:, 0] * (place - place.mean())).mean())

    def objective(adapt, theta, task):
        predicted = adapt(theta, task.support)(task.query.x)
        return RANKINGS.loss(predicted, task.query.y), RANKINGS.scalars(predicted, task.query.y)

    return ml.Learner(lambda seed: {"w": torch.ones(1)}, adapt, objective)


def ranker_plan(pool, *, steps, shots=6) -> Plan:
    row = Row(f"{shots} shots", ranker(), 1, shots, 4)
    return Plan(
        pool, ranker(), lambda ways=1: ranker(), (row,), steps=steps, tasks=2, ways=1, shots=shots, queries=3,
        more_shots=(2, 4),
    )  # fmt: skip


@pytest.fixture
def rankings(monkeypatch):
    """The target and a recipe, as if they stood in the library."""
    monkeypatch.setattr(targets, "TARGETS", (*targets.TARGETS, RANKINGS))
    data = Protocol("up_or_down", (1,), kind="ranking", make=UpOrDown)
    made = recipe("ranker", "nobody 2026", "ranking", data, ranker_plan, steps=4, quick={}, smoke={})
    monkeypatch.setitem(RECIPES, "ranker", made)


def test_a_new_target_is_evaluated_by_its_own_score(rankings):
    learner, theta = ranker(), {"w": torch.ones(1)}
    score = ml.evaluate(learner, theta, UpOrDown(), tasks=60, ways=1, shots=6, queries=4)
    assert (score.mean, score.metric, str(score)) == (1, "in_order", "100.00 ± 0.00 %")
    assert in_units(score) == (100, 0, "pairs in order (%)")
    worst = ml.evaluate(learner, {"w": -torch.ones(1)}, UpOrDown(), tasks=60, ways=1, shots=6, queries=4)
    assert (worst.mean, (score - worst).mean) == (0, 1)


def test_a_new_target_checks_tasks_and_answers(rankings):
    wide = ml.Learner(lambda seed: {"w": torch.ones(1)}, lambda theta, S: lambda x: x, ranker().objective)
    for run in (ml.evaluate, lambda learner, theta, pool, **options: ml.fit(learner, pool, **options, device="cpu")):
        with pytest.raises(ValueError, match=r"\(4, 1\) is no ranking of 4"):
            run(wide, wide.init(0), UpOrDown(), tasks=2, ways=1, shots=6, queries=4)

    class Ties(UpOrDown):
        def sample(self, *_, **episode):
            task = super().sample(**episode)
            return task._replace(query=Data(task.query.x, task.query.y * 0))

    with pytest.raises(ValueError, match=r"evaluate: query.y are no places"):
        ml.evaluate(ranker(), {"w": torch.ones(1)}, Ties(), tasks=2, ways=1, shots=6, queries=4)


def test_a_new_target_is_trained_reported_and_asked_for_from_the_command_line(rankings, tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["train", "ranker", "--out", out, "--tasks", "5"]) == 0
    told, said = capsys.readouterr()
    assert "pairs in order (%)  100.00 ± 0.00" in told
    assert f"next: rank with {out}" in said
    assert json.loads((tmp_path / "run" / "run.json").read_text())["pool"] == {
        "shape": [1], "classes": None, "kind": "ranking", "name": "up_or_down",
    }  # fmt: skip
    assert [line["val_in_order"] for line in read_metrics(tmp_path / "run") if "val_in_order" in line]
    html, text, _ = read(tmp_path / "run" / "report.html")
    for words in ("6 ranked, 3 to rank", "5 test tasks of up_or_down, 4 to rank", "Pairs in order (%) at meta-test"):
        assert words in text, words
    assert text.count("prediction") == 3
    assert html.count("<svg") == 2 + 1 + 3

    assert main(["evaluate", out, "--shots", "3", "--tasks", "5"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("3 to learn from  pairs in order (%)")
    assert main(["evaluate", out, "--ways", "3", "--tasks", "5"]) == 2
    assert f"--ways 3: {out} ranks." in capsys.readouterr().err
    assert main(["compare", out, out, "--out", str(tmp_path / "plot.html"), "--tasks", "3"]) == 0
    assert "pairs in order (%)" in (tmp_path / "plot.html").read_text()


KINDS = {target.kind for target in targets.TARGETS}
ASKED = {"is_floating_point", "dtype", "ndim", "dim"}


def branches(source: str) -> list[str]:
    """Where code asks what y is: by dtype, by the number of its dimensions, by the name of its kind."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ASKED:
            asked = re.search(r"(^|\.)y$", ast.unparse(node.value))
        elif isinstance(node, ast.Call):
            asked = re.search(r"\bis_floating_point\((\w+\.)*y\)$|^len\((\w+\.)*y\.shape\)$", ast.unparse(node))
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            asked = any(isinstance(side, ast.Constant) and side.value in KINDS for side in sides)
            asked = asked or (
                any(isinstance(side, ast.Constant) for side in sides)
                and any(re.search(r"(?<!dtype)(\.kind|\['kind'\])$", ast.unparse(side)) for side in sides)
            )
        else:
            continue
        found += [ast.unparse(node)] if asked else []
    return found


def test_nobody_but_the_targets_asks_what_y_is():
    told = {str(path.relative_to(PACKAGE)): branches(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert len(told.pop("targets.py")) >= 3
    assert not {path: found for path, found in told.items() if found}


@pytest.mark.parametrize(
    "code",
    [
        "if Q.y.is_floating_point(): pass", "y.dtype == torch.int64", "if task.query.y.dim() != 2: pass", "y.ndim > 1",
        "pool.kind == 'regression'", "info['pool']['kind'] != x or kind == 'classification'", "len(S.y.shape) == 2",
        "torch.is_floating_point(y)", "'mine' == pool.kind", "len(y.shape)",
    ],
)  # fmt: skip
def test_a_branch_is_found(code):
    assert branches(code)


@pytest.mark.parametrize("code", ["len(y)", "len(Q.y)", "x.dtype", "pool.kind == other.kind", "p.is_floating_point()"])
def test_no_branch_is_found_where_none_is(code):
    assert not branches(code)


# The targets there are


def test_scores_and_losses():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 7, 4, generator=g)
    k = torch.randint(4, (3, 7), generator=g)
    for i in range(3):
        right = sum(int(a[i, q].argmax()) == int(k[i, q]) for q in range(7)) / 7
        assert_close(CLASSES.score(a, k)[i].item(), right)
        assert_close(CLASSES.scalars(a[i], k[i])["accuracy"].item(), right)
        assert_close(NUMBERS.score(a, b)[i], ((a[i] - b[i]) ** 2).sum() / 28)
        assert_close(DENSITIES.score(a, b)[i], (b[i] - a[i]).sum() / 28)
    p, bits = b.sigmoid(), (a > 0).float()
    for i in range(3):
        cost = sum(-math.log2(q if y else 1 - q) for q, y in zip(p[i].flatten().tolist(), bits[i].flatten().tolist(),
                                                                 strict=True))  # fmt: skip
        assert_close(BITS.score(p, bits)[i].item(), cost)
        assert_close(BITS.loss(p[i], bits[i]).item(), cost * math.log(2) / 28)
    assert BITS.score(bits, bits).tolist() == [0, 0, 0]
    assert BITS.score(1 - bits, bits).isfinite().all()
    assert_close(NUMBERS.loss(a[0], b[0]), NUMBERS.score(a, b)[0])
    assert_close(DENSITIES.loss(a[0], b[0]), DENSITIES.score(a, b)[0])
    assert_close(CLASSES.loss(a[0], k[0]), -a[0].log_softmax(1)[range(7), k[0]].mean())


def test_a_pool_says_its_target_and_where_it_does_not_the_tensors_tell():
    assert tasks.gaussians().target is CLASSES
    assert tasks.sinusoid().target is NUMBERS
    assert tasks.distributions().target is DENSITIES
    assert tasks.copy().target is tasks.associative_recall().target is BITS
    assert tasks.distributions().kind == "regression"  # as runs have kept it
    floats, integers = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64)
    assert targets.target_of(integers) is CLASSES
    assert targets.target_of(floats, pool=object()) is NUMBERS
    assert targets.target_of(integers, UpOrDown()) is RANKINGS
    with pytest.raises(ValueError, match=r"fit: support.y is torch.float32, the pool says that y are classes"):
        CLASSES.check("fit", "support", floats, 5)


def test_densities_are_scored_in_nats():
    pool = tasks.distributions()
    flat = ml.Learner(lambda seed: {"w": torch.ones(1)}, lambda theta, S: lambda x: 0 * x - 1, ranker().objective)
    score = ml.evaluate(flat, flat.init(0), pool, tasks=3, ways=1, shots=4, queries=9)
    y = pool.sample(tasks=50, ways=1, shots=4, queries=9, generator=ml.engine.seeds.generator(0, "test", 0)).query.y
    assert_close(score.per_task, (y[:3] + 1).flatten(1).mean(1))
    assert score.metric == "excess_nats"


def test_words():
    assert CLASSES.label(5, 1) == label(5, 1) == "5-way 1-shot"
    assert NUMBERS.label(1, 10) == "10-shot"
    assert (CLASSES.queries(1), CLASSES.queries(15), NUMBERS.queries(2)) == (
        "1 query per class", "15 queries per class", "2 queries",
    )  # fmt: skip
    assert targets.units("accuracy") == (100, "accuracy (%)", "accuracy (%)")
    assert targets.units("mse") == (1, "mse", "mean squared error")
    assert targets.units("final_sum") == (1, "final_sum", "final sum")


# Pools over pools


def start(seed: int):
    return {"w": torch.zeros(2)}


WRAPPERS = {  # each, and what it changes of what the pool below says
    Splits: (lambda pool: Splits(pool, pool, pool), {"split": "", "skipped": ()}),
    FlatPool: (FlatPool, {"labels": "pool"}),
    AnyShots: (AnyShots, {}),
    tasks.Varied: (lambda pool: tasks.Varied(pool, tasks.strokes), {}),
    tasks.Instances: (tasks.Instances, {}),
    tasks.Beside: (lambda pool: tasks.Beside(pool, pool), {}),
    ClassStream: (ClassStream, {"name": "coded_stream", "labels": "task"}),
    ProblemPool: (lambda pool: ProblemPool(pool, start, 0.1), {}),
    Presentations: (Presentations, {}),
    Levels: (lambda pool: Levels(pool, (1, 2)), {"name": "levels"}),
    Rotated: (lambda pool: Rotated(pool, (0, 90)), {"name": "rotated_coded", "labels": "pool", "tasks": None}),
}
SAID = (
    "name", "split", "target", "labels", "tasks", "shape", "classes", "names", "device", "skipped", "kind", "pictures",
)  # fmt: skip


def test_all_pools_over_pools_are_here():
    ours = {cls for cls in Over.__subclasses__() if cls.__module__.startswith("metaloop.")}
    assert ours - {Episodes, Shuffled} == set(WRAPPERS)  # those are of tasks of one part, which has no others


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("cls", WRAPPERS, ids=lambda cls: cls.__name__)
def test_a_pool_over_a_pool_says_what_that_one_says(cls, name):
    pool = coded(6, 4, split="val")
    pool.target, pool.labels, pool.tasks, pool.skipped = RANKINGS, "odd", 7, [(Path("a"), "empty")]
    make, changed = WRAPPERS[cls]
    over = make(pool)
    expected = changed.get(name, getattr(pool, name))
    assert getattr(over, name) == expected
    assert getattr(over.to("cpu"), name) == expected or name in ("target", "labels", "tasks", "skipped", "kind")
    assert over.outline() == pool.outline() | {"name": over.name}


@pytest.mark.parametrize("cls", WRAPPERS, ids=lambda cls: cls.__name__)
def test_a_pool_over_a_pool_has_its_splits(cls):
    parts = [coded(n, 8, split=split) for n, split in ((9, "train"), (7, "val"), (5, "test"))]
    make, _ = WRAPPERS[cls]
    over = Splits(*parts) if cls is Splits else make(Splits(*parts))  # type: ignore[arg-type]
    assert [(p.split, p.classes) for p in (over.train, over.val, over.test)] == [("train", 9), ("val", 7), ("test", 5)]
    assert type(over.to("cpu")) is cls


def test_streams_that_remember_have_the_labels_of_the_pool():
    assert (ClassStream(coded(6, 4), 3).labels, ClassStream(coded(6, 4)).labels) == ("pool", "task")


def test_what_a_pool_is_fits_into_run_json():
    for pool in (tasks.glyphs(), tasks.sinusoid(), coded(6, 4), tasks.Varied(tasks.glyphs(), tasks.strokes)):
        kept = pool.outline()
        assert list(kept) == ["shape", "classes", "kind", "name"]
        again = Outline(**json.loads(json.dumps(kept)))
        assert again.outline() == Outline.of(pool).outline() == kept
        assert (again.target, again.pictures) == (pool.target, pool.pictures)
    with pytest.raises(ValueError, match=r"no kind of tasks 'odd'. There are: classification, regression."):
        Outline((1,), None, "odd").target  # noqa: B018


def test_labels_beyond_the_ways_are_refused_however_many_classes_the_pool_has():
    class Beyond(type(tasks.gaussians())):
        classes = 100

        def sample(self, *arguments, **options):
            task = super().sample(*arguments, **options)
            return task._replace(support=task.support._replace(y=task.support.y + 4))

        def to(self, device):
            return self

    plain = tasks.gaussians(dim=4)
    pool = Beyond(plain.name, plain.target, plain.shape, plain.deal)
    learner = ml.protonet(*ml.functional(ml.nn.mlp((4, 8, 8))), ways=3)
    with pytest.raises(ValueError, match=r"fit: support.y has labels from 4 to 6, expected 0..2"):
        ml.fit(learner, pool, steps=1, tasks=2, ways=3, shots=1, queries=1, device="cpu", progress=False)


def test_labels_of_a_whole_pool_are_not_taken_for_a_tasks():
    """Whatever the first batch holds: here, by chance, labels that a task of these ways could have."""

    def adapt(theta, S):
        raise AssertionError("f is for few-shot tasks")

    class Lucky(FlatPool):
        def sample(self, *arguments, **options):
            task = super().sample(*arguments, **options)
            return Task(*(Data(part.x, part.y % 5) for part in task))

    objective = lambda adapt, theta, task: (task.query.y.float().mean() * theta["w"].sum(), {})
    learner = ml.Learner(lambda seed: {"w": torch.ones(1)}, adapt, objective)
    run = ml.fit(learner, Lucky(coded(20, 4), 8), steps=1, tasks=2, ways=5, device="cpu", progress=False)
    assert run.step == 1


def test_images_that_are_given_are_read_and_others_named(tmp_path):
    (tmp_path / "some" / "deep").mkdir(parents=True)
    Image.new("L", (9, 9), 255).save(tmp_path / "some" / "deep" / "a.png")
    (tmp_path / "some" / "b.png").write_bytes(b"no picture")
    (tmp_path / "some" / "notes.txt").write_text("")
    x, good, skipped = tasks.read_images([tmp_path / "some", tmp_path / "some" / "deep" / "a.png"], (1, 4, 4))
    assert good == [tmp_path / "some" / "deep" / "a.png"] * 2
    assert_close(x, torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    ((path, reason),) = skipped
    assert (path.name, reason[:28]) == ("b.png", "cannot be read as an image (")
    with pytest.raises(ValueError, match=r"b.png cannot be read as an image .*\.$"):
        tasks.read_images([tmp_path / "some" / "b.png"], (1, 4, 4))


BUGS = [
    Bug("evaluate goes by the dtype", "engine/evaluate.py",
        ("target_of(batch.query.y, source)", "target_of(batch.query.y)"),
        "test_a_new_target_is_evaluated_by_its_own_score"),
    Bug("labels of a whole pool are taken for a task's", "engine/train.py",
        ('if getattr(pool.train, "labels", "task") == "task":', "if True:"),
        "test_labels_of_a_whole_pool_are_not_taken_for_a_tasks"),
    Bug("a pool over fixed tasks has no end of them", "tasks/pool.py",
        ('name, split, target, labels, tasks = map(_said, ("name", "split", "target", "labels", "tasks"))',
         'name, split, target, labels = map(_said, ("name", "split", "target", "labels"))'),
        "test_a_pool_over_a_pool_says_what_that_one_says"),
    Bug("log-densities are scored by their squares", "targets.py",
        ("return excess_nats(predicted, y)", "return (y - predicted).square().flatten(1).mean(1)"),
        "test_densities_are_scored_in_nats"),
]  # fmt: skip
