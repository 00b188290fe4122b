"""The page's server: what it answers, what it refuses, what it bears."""

import asyncio
import base64
import json
import os
import threading
import zlib
from io import BytesIO
from urllib.parse import quote

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mutations import Bug
from PIL import Image
from tiny import image_folder, make_run

import metaloop as ml

pytest.importorskip("fastapi", reason="needs metaloop[page]")
from fastapi.testclient import TestClient

from metaloop.cli.data import pool_of
from metaloop.page import asked
from metaloop.page.app import app
from metaloop.page.shown import by_theta_alone, load

HOME = {"base_url": "http://127.0.0.1"}
BODIES = int(os.environ.get("FUZZ", 150))


def png(x) -> str:
    out = BytesIO()
    Image.fromarray(np.asarray(x, np.uint8)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def stripes(k: int) -> np.ndarray:
    """White paper with a dark bar across or down."""
    x = np.full((28, 28), 255, np.uint8)
    x[(slice(8, 20), slice(3, 25)) if k else (slice(3, 25), slice(11, 17))] = 0
    return x


TASK = {
    "classes": [{"name": "down", "pictures": [png(stripes(0))]}, {"name": "across", "pictures": [png(stripes(1))]}],
    "queries": [png(stripes(1)), png(stripes(0))],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A metric learner's run, a gradient learner's, and a predictor of a folder's pictures."""
    from metaloop.features.pixels import Pixels
    from metaloop.own import predictor

    home = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ml.engine.session.calibrate.__kwdefaults__, "tasks", 2)
        for name, recipe in (("proto", "protonet-glyphs"), ("maml", "maml-glyphs")):
            make_run(home / name, recipe, budget="smoke")
    images = [Image.fromarray(np.roll(stripes(k), i, k)) for k in (0, 1) for i in range(6)]
    marks = [str(i) for i in range(12)]
    f = predictor.make([Pixels(8)], images, [0] * 6 + [1] * 6, ["down", "across"], marks, marks)
    predictor.save(home / "mine.safetensors", f, {})
    return home


@pytest.fixture(scope="module")
def page(files):
    data = lambda run: pool_of(run, None)[1]
    learners = [load(str(files / name), data) for name in ("proto", "maml", "mine.safetensors")]
    with TestClient(app(learners), **HOME) as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr("metaloop.page.sure.SECONDS", 0.0)
        yield client


def sentence(reply) -> str:
    """The error, which is one sentence of JSON."""
    told = reply.json()
    assert [*told] == ["error"]
    assert told["error"].strip().endswith((".", "?"))
    assert "Traceback" not in told["error"]
    return told["error"]


# ---- what it answers


def test_the_page_is_three_files_from_here(page):
    html, css, js = (page.get(path) for path in ("/", "/page.css", "/page.js"))
    assert html.status_code == css.status_code == js.status_code == 200
    assert "default-src 'self'" in html.headers["content-security-policy"]
    for text in (html.text, css.text, js.text):
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")  # nothing from elsewhere
    assert [one["name"] for one in page.get("/api/learners").json()["learners"]] == ["proto", "maml", "mine"]


def test_all_learners_answer_as_the_library_does(page, files):
    answers = page.post("/api/adapt", json=TASK).json()["answers"]
    proto, maml, mine = answers
    run = ml.open_run(files / "proto")
    x = 1 - torch.from_numpy(np.stack([stripes(0), stripes(1)])).float()[:, None] / 255
    f = ml.engine.predictor.adapt(run.plan.at_test(ways=2), run.theta, x, torch.tensor([0, 1]), ways=2)
    p = ml.engine.predictor.probabilities(f, x.flip(0), ways=2)
    torch.testing.assert_close(torch.tensor(proto["p"]), p, atol=1e-4, rtol=0)
    assert np.argmax(proto["p"], 1).tolist() == [1, 0]
    assert [e["steps"] for e in maml["path"]] == [0, 1, 2, 3, 5, 10]
    assert maml["path"][3]["p"] == maml["p"]  # three inner steps are its usual number
    assert maml["path"][0]["at"] == [0, 0]
    losses = [e["loss"] for e in maml["path"]]
    assert losses[-1] < losses[0]
    assert mine["classes"] == ["across", "down"]
    assert [mine["classes"][k] for k in np.argmax(mine["p"], 1)] == ["across", "down"]
    assert mine["sets"][0][0] == 0
    assert "count as" in mine["why no none"]  # one in ten is not to be promised from so few


def test_those_that_are_named_answer(page):
    every, one = (page.post("/api/adapt", json=t).json()["answers"] for t in (TASK, {**TASK, "learners": [2, 2]}))
    assert [len(every), len(one)] == [3, 1]
    assert one[0]["p"] == every[2]["p"]
    assert "no learner 3; 3 are loaded" in sentence(page.post("/api/adapt", json={**TASK, "learners": [0, 3]}))


def test_a_look_at_unseen_tasks_goes_on_where_it_stopped(page, files, monkeypatch):
    from metaloop.page import sure
    from metaloop.page.shown import Trained

    monkeypatch.setattr(sure, "TASKS", 12)
    before = page.post("/api/adapt", json={**TASK, "learners": [0, 2]}).json()["answers"]
    assert before[0]["sure"] == {"ways": 2, "shots": 1, "done": 0, "of": 12}
    assert not {"sets", "none"} & {*before[0]}
    assert "sure" not in before[1]
    assert page.get("/api/sure/0?ways=4&shots=2").json() == {"ways": 4, "shots": 2, "done": 1, "of": 12}
    run = Trained(str(files / "proto"), lambda run: pool_of(run, None)[1])
    assert [run.sure(2, 1).look()["done"] for _ in range(13)] == [*range(1, 13), 12]
    assert len(run.sure(2, 1).strangers) == 12


def test_sets_and_strangers_are_quantiles_of_what_was_seen(monkeypatch):
    from metaloop.page import sure

    monkeypatch.setattr(sure, "TASKS", 12)
    seen, p = sure.Sure(None, 2, 1), torch.tensor([[0.7, 0.3], [0.2, 0.8]])
    seen.true, seen.strangers = [k / 16 for k in range(4, 16)], [0.5 + k / 32 for k in range(12)]
    told = seen.shown(p, 0.5, 0.25)  # the 7th of 12 misses is 7/16, the 10th of 12 strangers 25/32
    assert (told["sets"], told["none"]) == ([[0], [1]], [True, False])
    told = seen.shown(p, 0.9, 0.05)  # the 12th miss is 12/16: all with p of 1/4 and more
    assert told["sets"] == [[0, 1], [1]]
    assert "0.95 needs 19 tasks" in told["why no none"]

    def lost(*what, **how):
        raise ValueError("it has no data.")

    without = sure.Sure(type("Run", (), {"pool": type("Lost", (), {"sample": lost})()}), 2, 1)
    assert without.look()["done"] == 12
    assert without.shown(p, 0.9, 0.1)["why no sets"] == "it has no data."


def test_a_learner_that_is_very_sure_is_held_to_strangers_as_they_were_seen(files, monkeypatch):
    """p of 0.999996 and 0.9999962 are 1 as they are shown, and not as they are compared."""
    from metaloop.page import shown
    from metaloop.page.shown import Trained

    run, box = Trained(str(files / "proto"), lambda run: pool_of(run, None)[1]), asked.Picture(Image.new("L", (28, 28)))
    monkeypatch.setattr(shown, "probabilities", lambda f, x, ways: torch.tensor([[0.999996, 4e-6], [0.9999999, 1e-7]]))
    seen = run.sure(2, 1)
    seen.true, seen.strangers = [[v] * 100 for v in (0.9999962, 0.9999962)]
    told = run.answer(([box, box], [0, 1], ["a", "b"], [box, box]), asked.Asked(classes=[]))
    assert (told["none"], told["p"]) == ([True, False], [[1.0, 0.0]] * 2)


def test_one_stroke_costs_one_picture_and_no_trial(page, monkeypatch):
    """What was asked about before is not decoded again, nor is a learner tried again on a task of that size."""
    from metaloop.engine import predictor
    from metaloop.page.shown import Trained

    page.post("/api/adapt", json=TASK)
    decoded, tried = [], []
    decode, trial = asked.Budget.decoded, predictor.check_outputs
    monkeypatch.setattr(asked.Budget, "decoded", lambda *given: decoded.append(given[2]) or decode(*given))
    monkeypatch.setattr(predictor, "check_outputs", lambda *given: tried.append(given) or trial(*given))
    both, made = png(np.minimum(stripes(0), stripes(1))), []
    adapts = Trained.adapted
    monkeypatch.setattr(Trained, "adapted", lambda *given, **how: made.append(how) or adapts(*given, **how))
    page.post("/api/adapt", json={**TASK, "queries": [*TASK["queries"], both]})
    assert (decoded, tried, made) == (["query 3"], [], [])  # S is as it was, and so is f
    other = [TASK["classes"][0], {"name": "across", "pictures": [both]}]
    page.post("/api/adapt", json={**TASK, "classes": other, "learners": [0]})
    assert (decoded, tried, made) == (["query 3"], [], [{}])
    ask = lambda classes: page.post("/api/adapt", json={**TASK, "classes": classes, "learners": [0]}).json()
    turned, again = (np.array(ask(classes)["answers"][0]["p"]) for classes in (other[::-1], other))
    np.testing.assert_allclose(turned[:, ::-1], again, atol=1e-4)
    assert len(made) == 3


def test_pictures_that_are_kept_are_counted_and_few(monkeypatch):
    """Of a request's pixels they are as many as when they were read, with what they were resized to; one that comes
    again counts once; the oldest go first."""
    kept, mark = asked.Kept(), [png(np.full((10, 10), v)) for v in range(4)]
    read = lambda *which: [asked.Budget(kept).read(mark[i], "it") for i in which]
    first = read(0)[0]
    assert read(0)[0] is first
    monkeypatch.setattr(asked, "KEPT", 300)
    first.fitted((1, 10, 10))
    assert (kept.size, [*first._fitted]) == (200, [(1, 10, 10)])
    read(1)
    kept.few()
    assert (kept.size, read(0)[0] is first) == (300, True)
    read(2, 3)
    kept.few()
    assert (kept.size, read(2)[0] is read(2)[0], len(kept._of)) == (200, True, 2)
    kept.put(*next(iter(kept._of.items())))
    assert kept.size == 200
    monkeypatch.setattr(asked, "MANY", 1)
    boxes = [{"name": n, "pictures": [m]} for n, m in zip("abcd", mark, strict=True)]
    with pytest.raises(ValueError, match="no base64"):
        asked.pictures(asked.Asked(classes=[*boxes, {"name": "e", "pictures": ["?"]}]), kept)
    assert len(kept._of) == 1
    assert read(0)[0] is not first
    budget = asked.Budget(kept)
    budget.left = 150
    budget.read(mark[0], "it")
    with pytest.raises(ValueError, match="it is too large"):
        budget.read(mark[0], "it")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Runs of other kinds: what they attend to, what they draw, how they descend."""
    home, pool = tmp_path_factory.mktemp("others"), ml.tasks.glyphs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ml.engine.session.calibrate.__kwdefaults__, "tasks", 2)
        for name, recipe in (("attends", "matching-fce-omniglot-1shot"), ("draws", "homoencoder-omniglot")):
            make_run(home / name, recipe, pool, budget="smoke")
        make_run(home / "rule", "lstm-optimizer-quadratic", budget="smoke")
        make_run(home / "says", "ntm-copy", budget="smoke")
    return [load(str(home / name), lambda run: pool) for name in ("attends", "draws", "rule", "says")]


def test_what_is_attended_to_and_drawn_and_how_a_learned_rule_descends(others):
    """The order in which S is taken does not show; both optimizers begin at one loss."""
    three = [*TASK["classes"], {"name": "both", "pictures": [png(np.minimum(stripes(0), stripes(1)))] * 2}]
    with TestClient(app(others), **HOME) as client:
        attends, draws, rule, says = client.post("/api/adapt", json={**TASK, "classes": three}).json()["answers"]
        kinds = [one["kind"] for one in client.get("/api/learners").json()["learners"]]
        assert kinds == ["other", "other", "rule", "sequence"]
        assert "no learner 2 that adapts" in sentence(client.get("/api/task/2"))
    weights = np.array(attends["attends"])
    by_class = np.stack([weights[:, 0], weights[:, 1], weights[:, 2:].sum(1)], 1)
    np.testing.assert_allclose(by_class, attends["p"], atol=5e-4)  # of matching networks, p is what is attended to
    budget = asked.Budget()
    drawn = [[np.asarray(budget.read(x, "").image) for x in of_one] for of_one in draws["samples"]]
    assert np.shape(drawn) == (3, 5, 28, 28)
    assert 0 < np.mean(drawn) < 255
    descent = rule["descent"]
    assert len(descent["learned"]) == len(descent["adam"]) == 101
    assert descent["learned"][0] == descent["adam"][0]
    assert descent["adam"][-1] < 0.5 * descent["adam"][0]
    assert np.shape(rule["p"]) == (2, 3)
    picture = lambda of: 255 - np.asarray(budget.read(says["said"][of], "").image)  # ink is light
    read = picture("read") > 0
    assert read.shape == picture("says").shape == (8, 20)  # five columns of each of four pictures
    assert read[1:7, 2].all()  # the bar down
    assert not read[:, 0].any()
    run = others[3].run
    x = torch.zeros(21, 9)
    x[:20, :8], x[20, 8] = torch.from_numpy(read.T), 1
    p = run.plan.learner.adapt(run.theta, ml.Data(x, x))(torch.zeros(20, 9))
    np.testing.assert_allclose(picture("says").T, 255 * p.detach(), atol=1)
    assert picture("looks").shape == (20, 21)


def test_a_slot_counts_for_the_example_that_changed_it_most():
    """A memory that writes x_t into slot t, nudges slot 0 each time, and reads the slots that q points at."""
    from metaloop.learners.meta_rnn import Continued
    from metaloop.page.memory import attended

    def net(theta, inputs, state):
        for u in inputs:
            if state is None:
                state = torch.zeros(u.shape[:-1]), None, (torch.zeros(*u.shape[:-1], 5, 1),)
            t, M = state[0], state[2][0]
            at = (torch.arange(5) == t[..., None]).float()
            M = M + (at + 0.01 * (torch.arange(5) == 0))[..., None]
            state = (t + 1, t, (M, u[..., None, :5], u))
        return inputs[..., :3], state

    S = ml.Data(torch.eye(5)[:3], torch.tensor([0, 2, 1]))
    h = net(None, torch.cat([S.x, torch.zeros(3, 3)], 1), None)[1]
    q = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]])  # slot 3 is q's own, slot 4 is empty
    weights, by_slots = attended(Continued({}, h, torch.eye(3)[1], net), S, q)
    assert by_slots
    torch.testing.assert_close(weights, torch.tensor([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]))


def test_of_a_sequence_said_again_each_answer_looks_where_it_was_written():
    """A tape that is written in order, and read from its beginning before what is read there is written over."""
    from metaloop.learners.ntm import Answering
    from metaloop.page.memory import attended

    def net(theta, inputs, state):
        for _ in inputs:
            t, M = (torch.zeros(()), torch.zeros(6, 1)) if state is None else (state[0], state[2][0])
            w = (torch.arange(6) == t - 3).float()
            state = t + 1, t, (M + (torch.arange(6) == t)[:, None] + 5 * w[:, None], w, w)
        return inputs, state

    S = ml.Data(torch.zeros(3, 2), torch.zeros(3, 2))
    weights, by_slots = attended(Answering({}, net(None, S.x, None)[1], net), S, torch.zeros(4, 2))
    assert by_slots
    torch.testing.assert_close(weights, torch.eye(4)[:, :3])  # the fourth looks at what was written while it spoke


def test_the_plane_stays_put(page):
    """Another class moves no point of the others."""
    before = page.post("/api/adapt", json=TASK).json()["answers"][0]["plane"]
    more = [*TASK["classes"], {"name": "both", "pictures": [png(np.minimum(stripes(0), stripes(1)))]}]
    after = page.post("/api/adapt", json={**TASK, "classes": more}).json()["answers"][0]["plane"]
    assert len(after["prototypes"]) == 3
    np.testing.assert_allclose(after["prototypes"][:2], before["prototypes"], atol=2e-3)
    np.testing.assert_allclose(after["queries"], before["queries"], atol=2e-3)


def test_a_stroke_places_one_picture_and_no_other(files, monkeypatch):
    """Of an embedding by theta alone; points are those of a page that was asked nothing before."""

    def ask(one, task):
        given = asked.Asked.model_validate(task)
        return one.answer(asked.pictures(given, kept), given)["plane"]

    kept, placed = asked.Kept(), []
    used, fresh = (load(str(files / "proto"), lambda run: pool_of(run, None)[1]) for _ in range(2))
    ask(used, TASK)
    other = [TASK["classes"][0], {"name": "across", "pictures": [png(np.minimum(stripes(0), stripes(1)))]}]
    place = used.placed
    monkeypatch.setattr(used, "placed", lambda z: placed.append(len(z)) or place(z))
    after, want = ask(used, {**TASK, "classes": other}), ask(fresh, {**TASK, "classes": other})
    assert sorted(placed) == [1, 2]  # the picture, two prototypes
    for part in ("support", "queries", "prototypes"):
        np.testing.assert_allclose(after[part], want[part], atol=2e-3)


@pytest.mark.parametrize(
    ("policy", "alone"), [("running", True), ("layer", True), ("support", False), ("transductive", False)]
)
def test_which_embedding_is_by_theta_alone(policy, alone):
    net, init = ml.functional(ml.nn.conv4(width=4, norm_policy=policy))
    theta = init(0)
    f = ml.protonet(net, init, ways=2).adapt(theta, ml.Data(torch.rand(4, 1, 28, 28), torch.arange(4) % 2))
    assert by_theta_alone(f, theta) is alone


def test_what_is_drawn_may_be_numbers(page):
    rows = lambda k: (1 - stripes(k) / 255).tolist()
    task = {"classes": [{"name": n, "pictures": [rows(k)]} for k, n in enumerate(("down", "across"))],
            "queries": [rows(1), rows(0)]}  # fmt: skip
    ours, theirs = (page.post("/api/adapt", json=t).json()["answers"][0] for t in (task, TASK))
    np.testing.assert_allclose(ours["p"], theirs["p"], atol=1e-4)


def test_a_dealt_task_is_unseen_and_comes_back(page):
    dealt = page.get("/api/task/0?ways=3&shots=2&queries=1&seed=4").json()
    assert [len(c["pictures"]) for c in dealt["classes"]] == [2, 2, 2]
    assert sorted(dealt["labels"]) == [0, 1, 2]
    assert page.get("/api/task/0?ways=3&shots=2&queries=1&seed=4").json() == dealt
    task = ml.tasks.glyphs().test.sample(
        ways=3, shots=2, queries=1, generator=ml.engine.seeds.generator(4, "page", 1)
    )  # fmt: skip
    budget = asked.Budget()
    x = np.asarray(budget.read(dealt["classes"][0]["pictures"][0], "").image)
    ours = (task.support.x[0][task.support.y[0] == 0][0, 0] * 255).round()
    np.testing.assert_array_equal(255 - x, ours)
    assert "answers" in page.post("/api/adapt", json={k: dealt[k] for k in ("classes", "queries")}).json()


def test_the_predictor_is_a_file_that_predict_takes(page, tmp_path):
    from metaloop.recipes.stored import load_predictor

    (tmp_path / "f.safetensors").write_bytes(page.post("/api/predictor/0", json=TASK).content)
    f, about = load_predictor(tmp_path / "f.safetensors")
    assert about["classes"] == ["down", "across"]
    x = 1 - torch.from_numpy(stripes(1)).float()[None, None] / 255
    assert f(x).argmax().item() == 1


@pytest.fixture
def web(tmp_path):
    """A folder that looks like onnxruntime-web."""
    from metaloop import exported

    for name in exported.WEB:
        (tmp_path / name).write_bytes(b"web")
    return tmp_path


def scripted(monkeypatch, script: str, *more: str) -> None:
    """Predictors are made into pages by this script, of their file, the page's and onnxruntime-web's folder."""
    import sys

    from metaloop.page import making

    monkeypatch.setattr(making, "command", lambda *paths: [sys.executable, "-c", script, *map(str, paths), *more])


def test_the_predictor_is_made_into_a_page_by_a_process_of_its_own(page, files, web, monkeypatch):
    """It is given the adapted predictor's file; `test_export.py` holds what `metaloop export` makes of that."""
    from metaloop.page import making

    data = lambda run: pool_of(run, None)[1]
    assert "onnxruntime-web" in sentence(page.post("/api/page/0", json=TASK))
    told = making.command(*(web / name for name in ("f.safetensors", "f.html", "dist")))[3:]
    assert told == ["export", f"{web}/f.safetensors", "--html", "-o", f"{web}/f.html",
                    "--onnxruntime-web", f"{web}/dist"]  # fmt: skip
    scripted(monkeypatch, "import sys; open(sys.argv[2], 'wb').write(open(sys.argv[1], 'rb').read() + b'made')")
    with TestClient(app([load(str(files / "proto"), data)], web=web), **HOME) as client:
        assert client.get("/api/learners").json()["pages"]
        reply = client.post("/api/page/0", json=TASK)
        assert reply.content == client.post("/api/predictor/0", json=TASK).content + b"made"
        assert 'filename="predictor.html"' in reply.headers["content-disposition"]
        scripted(monkeypatch, "raise SystemExit('secret')")
        reply = client.post("/api/page/0", json=TASK)
        assert (reply.status_code, sentence(reply)) == (422, "the page could not be made; the server has logged why.")
        scripted(monkeypatch, "import sys; sys.stderr.write('metaloop: there is no page.'); sys.exit(2)")
        assert sentence(client.post("/api/page/0", json=TASK)) == "there is no page."


def test_while_a_page_is_made_others_are_answered_and_few_wait(files, web, monkeypatch):
    import httpx2

    from metaloop.page import making

    monkeypatch.setattr(making, "WAITING", 2)
    scripted(monkeypatch, """import os, sys, time
while not os.path.exists(sys.argv[4]): time.sleep(0.01)
open(sys.argv[2], 'wb').write(b'made')""", str(web / "go"))  # fmt: skip

    async def all_of_them():
        learners = [load(str(files / "proto"), lambda run: pool_of(run, None)[1])]
        transport = httpx2.ASGITransport(app(learners, web=web))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            made = [asyncio.create_task(client.post("/api/page/0", json=TASK)) for _ in range(3)]
            refused = await next(asyncio.as_completed(made))
            assert (refused.status_code, "Ask again" in sentence(refused)) == (429, True)
            adapted = await client.post("/api/adapt", json=TASK)
            assert adapted.status_code == 200
            assert sum(one.done() for one in made) == 1
            (web / "go").touch()
            return await asyncio.gather(*made)

    replies = asyncio.run(all_of_them())
    assert sorted(r.status_code for r in replies) == [200, 200, 429]


def test_meta_training_betters_the_answers_to_one_support_set(page, monkeypatch):
    """From random weights; one at a time, a few steps a request, and whoever ends it leaves room for another."""
    from metaloop.page import training

    monkeypatch.setattr(training, "STEPS", 40)
    monkeypatch.setattr(training, "EACH", 20)
    dealt = page.get("/api/task/0?ways=5&shots=1&queries=5&seed=3").json()
    task = {name: dealt[name] for name in ("classes", "queries")}
    first = page.post("/api/training").json()["number"]
    refused = page.post("/api/training")
    assert (refused.status_code, "another training" in sentence(refused)) == (409, True)
    told = [page.post(f"/api/training/{first}", json=task).json() for _ in range(4)]
    assert [one["step"] for one in told] == [0, 20, 40, 40]
    right = [np.mean([p[k] for p, k in zip(one["p"], dealt["labels"], strict=True)]) for one in told]
    assert right[2] > right[0] + 0.1
    assert told[3]["p"] == told[2]["p"]  # it has ended, and answers still
    assert told[2]["loss"] < told[1]["loss"] < np.log(10)
    second = page.post("/api/training").json()["number"]
    for number, body, status in ((first, TASK, 409), (second, {"classes": []}, 422)):
        reply = page.post(f"/api/training/{number}", json=body)
        assert (reply.status_code, bool(sentence(reply))) == (status, True)
    assert page.delete(f"/api/training/{second}").status_code == 200
    assert page.delete(f"/api/training/{second}").status_code == 409
    third = page.post("/api/training").json()["number"]
    monkeypatch.setattr(training, "SILENT", -1.0)  # its window was closed
    assert page.post("/api/training").json()["number"] == third + 1


def test_what_may_be_asked_is_told_whole(page):
    told = page.get("/openapi.json").json()
    text = json.dumps(told)
    for name in {part.partition('"')[0] for part in text.split('"$ref": "')[1:]}:
        at = told
        for key in name.removeprefix("#/").split("/"):
            at = at[key]
    assert "#/components/schemas/Class" in text


# ---- what it refuses


def bomb() -> str:
    """A PNG whose header tells of 10^10 pixels."""
    part = lambda kind, data: (
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    )  # fmt: skip
    head = (100_000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    whole = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")
    return base64.b64encode(whole).decode()


def with_picture(picture) -> dict:
    return {"classes": [TASK["classes"][0], {"name": "b", "pictures": [picture]}]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (with_picture(bomb()), "too large"),
        (with_picture("no base64!"), "no base64"),
        (with_picture(base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0").decode()), "cannot be read"),
        (with_picture(TASK["queries"][0][:60]), "cannot be read"),
        (with_picture([[0.5, 2.0]]), "classes.1.pictures.0: expected a picture"),
        (with_picture([[0.1, 0.2], [0.1]]), "different lengths"),
        (with_picture([[]]), "different lengths"),
        ({"classes": []}, "0 classes have a picture"),
        ({"classes": [TASK["classes"][0]] * 2}, "two classes are called 'down'"),
        ({"classes": [{"name": str(i), "pictures": []} for i in range(21)]}, "at most 20"),
        ({**TASK, "queries": [TASK["queries"][0]] * 101}, "at most 100"),
        ({**TASK, "file": "/etc/passwd"}, "not permitted"),
        ({**TASK, "coverage": 1.5}, "coverage"),
        ([], "should be an object"),
    ],
)  # fmt: skip
def test_no_task_is_refused_in_a_sentence(page, body, says):
    reply = page.post("/api/adapt", json=body)
    assert reply.status_code == 422
    assert says in sentence(reply)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"classes": NaN}', b"null",
                                  json.dumps(with_picture([[1.0]])).replace("1.0", "NaN").encode(),
                                  json.dumps(with_picture([[1.0]])).replace("1.0", "1e999").encode(),
                                  b'{"classes":[{"name":"\\ud800","pictures":[]}]}'])  # fmt: skip
def test_no_json_is_refused_in_a_sentence(page, body):
    reply = page.post("/api/adapt", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 422
    sentence(reply)


def test_what_is_too_large_is_not_read_to_its_end(page):
    read = 0

    def endless():
        nonlocal read
        for _ in range(100):
            read += 1
            yield b" " * 2**20

    reply = page.post("/api/adapt", content=endless(), headers={"content-type": "application/json"})
    assert reply.status_code == 413
    assert "8 MiB" in sentence(reply)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"host": "elsewhere.example"}, 403),  # a name that was made to lead here
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"origin": "http://127.0.0.1"}, 200),
    ],
)
def test_who_may_ask(page, headers, status):
    whole = {"content-type": "application/json", **headers}
    reply = page.post("/api/adapt", content=json.dumps(TASK), headers=whole)
    assert reply.status_code == status
    if status != 200:
        sentence(reply)


@pytest.mark.parametrize("path", [
    "/../pyproject.toml", "/%2e%2e/page.js", "/page.py", "/..%2f..%2fetc/passwd", "//etc/passwd",
    "/api/predictor/..%2f0", "/api/task/-1", "/api/task/9", "/api/task/2", "/api/task/0?ways=1",
    "/api/task/0?seed=x", "/api/adapt",
])  # fmt: skip
def test_no_other_path_leads_anywhere(page, path):
    reply = page.get(path)
    assert reply.status_code in (404, 405, 422)
    sentence(reply)
    assert ("allow" in reply.headers) == (reply.status_code == 405)


# ---- what it bears


class Slow:
    """Counts how many it is asked by at a time."""

    name = "slow"

    def __init__(self):
        self.now, self.most, self.all, self.lock = 0, 0, 0, threading.Lock()

    def answer(self, given, task):
        with self.lock:
            self.now, self.all = self.now + 1, self.all + 1
            self.most = max(self.most, self.now)
        threading.Event().wait(0.002)
        with self.lock:
            self.now -= 1
        return {"p": task.coverage}


def test_two_hundred_at_once_wait_their_turn_and_none_is_lost():
    import httpx2

    slow = Slow()

    async def all_of_them():
        transport = httpx2.ASGITransport(app([slow]))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            ask = lambda i: client.post("/api/adapt", json={**TASK, "coverage": (i + 1) / 300})
            return await asyncio.gather(*(ask(i) for i in range(200)))

    replies = asyncio.run(all_of_them())
    assert [r.json()["answers"][0]["p"] for r in replies] == [(i + 1) / 300 for i in range(200)]
    assert (slow.all, slow.most) == (200, 1)


class Broken:
    name = "broken"

    def answer(self, given, task):
        raise RuntimeError("secret")


def test_a_learner_that_fails_spoils_nothing(caplog):
    with TestClient(app([Broken(), Slow()]), **HOME) as client:
        answers = client.post("/api/adapt", json=TASK).json()["answers"]
    assert "secret" not in json.dumps(answers)
    assert answers[0]["error"].startswith("it failed")
    assert answers[1] == {"p": 0.9}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
numbers = st.one_of(st.floats(), st.floats(0, 1), st.integers(-1, 2))
pictured = st.one_of(
    st.lists(st.lists(numbers, max_size=4), max_size=4),
    st.binary(max_size=60).map(lambda b: base64.b64encode(b).decode()),
    st.text(max_size=12), st.sampled_from([*TASK["queries"], bomb()]), json_values,
)  # fmt: skip


@st.composite
def damaged(draw):
    """A file of a picture with a byte changed, or cut."""
    whole = bytearray(base64.b64decode(TASK["queries"][0]))
    whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    return base64.b64encode(bytes(whole[: draw(st.integers(0, len(whole)))])).decode()


boxes = st.fixed_dictionaries({"name": st.text(max_size=6) | json_values,
                               "pictures": st.lists(pictured | damaged(), max_size=3) | json_values})  # fmt: skip
tasks = st.fixed_dictionaries(
    {"classes": st.lists(boxes, max_size=4) | json_values},
    optional={"queries": st.lists(pictured | damaged(), max_size=3) | json_values, "coverage": numbers,
              "false_accept": json_values, "x": json_values},
)  # fmt: skip
bodies = st.one_of(st.binary(max_size=50), json_values.map(lambda v: json.dumps(v).encode()),
                   tasks.map(lambda v: json.dumps(v).encode()))  # fmt: skip


PATHS = ["/api/adapt", "/api/adapt", "/api/predictor/0", "/api/predictor/7", "/api/page/0", "/api/training/1"]
many = settings(max_examples=BODIES, deadline=None, derandomize="FUZZ" not in os.environ, database=None,
                suppress_health_check=[*HealthCheck])  # fmt: skip


@many
@given(path=st.sampled_from(PATHS), body=bodies)
@example(path="/api/adapt", body=json.dumps(TASK).encode())
def test_no_body_brings_it_down(page, path, body):
    reply = page.post(path, content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (200, 404, 409, 413, 422)
    if reply.status_code != 200:
        sentence(reply)


words = st.one_of(st.integers(-(10**12), 10**12).map(str), st.floats().map(str), st.text(max_size=5), st.just("3"))


@many
@given(
    asks=st.dictionaries(st.sampled_from(["ways", "shots", "queries", "seed", "x"]), words, max_size=4),
    number=st.sampled_from(["0", "1", "2", "9"]) | words,
    kind=st.sampled_from(["get", "get", "look", "delete", "post"]),
)
@example(asks={"ways": "20", "shots": "10", "queries": "5"}, number="0", kind="get")
def test_no_question_brings_it_down(page, asks, number, kind):
    path = {"get": "/api/task/", "look": "/api/sure/"}.get(kind, "/api/training/") + quote(number, safe="")
    reply = page.request("get" if kind == "look" else kind, path, params=asks, follow_redirects=False)
    assert reply.status_code in (200, 307, 404, 405, 409, 415, 422)
    if reply.status_code not in (200, 307):
        sentence(reply)


# ---- the command


def test_serve_refuses_what_it_cannot_show(files, tmp_path, capsys):
    from metaloop.cli import main

    make_run(tmp_path / "sine", "maml-sinusoid-5shot", budget="smoke")
    image_folder(tmp_path / "pictures", 2, 2)
    for what, says in (("sine", "was not trained on pictures"), ("pictures", "holds no run"), ("none", "none")):
        assert main(["serve", str(tmp_path / what)]) == 2
        assert says in capsys.readouterr().err
    assert main(["serve", str(files / "mine.safetensors"), "--port", "70000"]) == 2
    assert "--port 70000" in capsys.readouterr().err


BUGS = [
    Bug("pictures of the last S stay where they were", "page/shown.py",
        ('"transductive" not in policies(f) and all(id(t) in own for t in parts)', "True"),
        "test_which_embedding_is_by_theta_alone[support-False]"),
    Bug("what has a place is placed again", "page/shown.py", ("if one not in self._places]", "]"),
        "test_a_stroke_places_one_picture_and_no_other"),
    Bug("a slot counts for the example that changed it least", "page/memory.py",
        ("changed.argmax(0)", "changed.argmin(0)"), "test_a_slot_counts_for_the_example_that_changed_it_most"),
    Bug("strangers are held to the share of the right class", "page/sure.py",
        ("self.strangers, 1 - false_accept", "self.strangers, false_accept"),
        "test_sets_and_strangers_are_quantiles_of_what_was_seen"),
    Bug("a run's answers are rounded before they are compared", "page/shown.py",
        (".shown(p, asked", ".shown(p.double().round(decimals=5), asked"),
        "test_a_learner_that_is_very_sure_is_held_to_strangers_as_they_were_seen"),
    Bug("a tape's reader is held to what is written behind it", "page/memory.py",
        ("(h[2][1], before) if", "(h[2][1], h[2][0]) if"),
        "test_of_a_sequence_said_again_each_answer_looks_where_it_was_written"),
    Bug("slots of the query's own count for S", "page/memory.py",
        ("<= most) & (most > WRITTEN)", "< torch.inf)"), "test_a_slot_counts_for_the_example_that_changed_it_most"),
]  # fmt: skip
