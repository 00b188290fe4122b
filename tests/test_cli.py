"""The command line: what each command does, and that bad input is one line, status 2, and nothing lost."""

import json
import shutil
import subprocess
import sys
import urllib.error
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import files, image_folder, make_run

import metaloop
from metaloop import evaluate, tasks
from metaloop.cli.data import protocols
from metaloop.engine.run import Run, checkpoints, read_info
from metaloop.learners.protonet import NearestPrototype
from metaloop.recipes import RECIPES
from metaloop.recipes.stored import load_predictor, open_run

ROOT = Path(__file__).resolve().parent.parent
QUICK = ["--tasks", "5"]
LEARNER = metaloop.protonet(*metaloop.functional(metaloop.nn.mlp((1, 1))), ways=2)


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def own_data_root(monkeypatch):
    """`--data-root` sets METALOOP_DATA for the process; here, for one test alone."""
    monkeypatch.setenv("METALOOP_DATA", "")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images of 25 classes, and runs on them: a ProtoNet, a MAML of 5 ways, one on curves."""
    place = tmp_path_factory.mktemp("place")
    pool = tasks.folder(image_folder(place / "images", 25, 20))
    image_folder(place / "few", 3, 4, seed=1)
    for name, recipe in (("proto", "protonet-glyphs"), ("maml", "maml-glyphs")):
        make_run(place / name, recipe, pool, data=str(place / "images"))
    make_run(place / "curve", "maml-sinusoid-5shot")
    return place


def refuses(call, place, *words: str) -> str:
    """The one line that a command ends with; nothing in the place may change."""
    before = files(place)
    status, told, lines = call(*words)
    assert (status, told) == (2, "")
    assert len(lines) == 1, lines
    assert files(place) == before
    return lines[0]


# What the commands do


def test_help_needs_no_torch():
    code = "import sys\nfrom metaloop.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "usage: metaloop" in done.stdout
    assert not {"torch", "numpy", "rich"} & set(done.stdout.split())


def test_it_is_also_a_module():
    done = subprocess.run([sys.executable, "-m", "metaloop", "predict"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "metaloop: the following arguments are required: FILE, IMAGE (see `metaloop predict --help`)\n"
    )


def test_recipes_are_listed_with_what_they_reproduce(call):
    status, told, lines = call("recipes")
    assert status == 0
    rows = {line.split()[0]: line for line in told.splitlines()[1:]}
    assert list(rows) == list(RECIPES)
    assert "98.8 / 96" in rows["protonet-omniglot-1shot"]
    assert "Finn et al. 2017" in rows["maml-sinusoid-5shot"]
    assert lines[-1].startswith("next: metaloop train")


def test_after_an_optimizer_comes_what_it_is_for(call, tmp_path):
    status, _, lines = call(
        "train", "lstm-optimizer-quadratic", "--budget", "smoke", "--tasks", "2", "--out", str(tmp_path / "run")
    )
    assert status == 0
    (line,) = [line for line in lines if line.startswith("next: ")]
    use, _, where = line.removeprefix("next: ").partition("    ")
    assert where == "(in Python)"
    names = {"metaloop": metaloop, "network": torch.nn.Linear(3, 1)}
    exec(use, names)
    assert isinstance(names["optimizer"], torch.optim.Optimizer)


def test_train_evaluate_and_their_files(call, tmp_path):
    out = str(tmp_path / "run")
    status, told, lines = call("train", "maml-sinusoid-5shot", "--steps", "3", "--seed", "2", "--out", out, *QUICK)
    assert status == 0
    assert "published" in told
    assert "1.13 ± 0.18" in told
    assert any(line.startswith(f"next: metaloop evaluate {out}") for line in lines)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (info["recipe"], info["steps"], info["seed"], info["data"]) == ("maml-sinusoid-5shot", 3, 2, None)
    assert set(info["versions"]) == {"metaloop", "torch", "python"}
    assert set(info["machine"]) == {"cpu", "cores", "threads", "waiting", "gpus", "processes"}

    (entry,) = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    run, pool = open_run(out), RECIPES["maml-sinusoid-5shot"].data()
    score = evaluate(run.learner, run.theta, pool, ways=1, shots=5, queries=100, tasks=5)
    assert (entry["mean"], entry["ci95"], entry["metric"]) == (score.mean, score.ci95, "mse")
    assert (entry["published"], entry["tasks"], entry["step"], entry["norm"]) == (1.13, 5, run.step, "none")
    assert entry["command"].startswith("metaloop train maml-sinusoid-5shot --steps 3")

    assert call("evaluate", out, "--shots", "10", *QUICK)[0] == 0
    assert call("evaluate", out, *QUICK)[0] == 0
    again, other = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert again["mean"] == entry["mean"]
    assert again["command"].startswith("metaloop evaluate")
    assert (other["label"], other["shots"], other["published"]) == ("10-shot", 10, None)


def test_train_on_a_folder_and_resume(call, place, tmp_path, monkeypatch):
    words = ["train", "maml-glyphs", "--data", "images", "--steps", "2", "--out", str(tmp_path / "run"), *QUICK]
    assert call(*words)[0] == 0
    assert "holds a run. Resume it" in refuses(call, place, *words)
    status, told, _ = call(*words, "--resume", "--no-capture")
    assert status == 0
    assert "5-way 1-shot" in told
    (entry,) = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (entry["data"], entry["norm"], entry["published"]) == ("images", "transductive", None)


def test_evaluate_on_other_data_and_other_ways(call, place):
    assert call("evaluate", "proto", "--ways", "3", "--shots", "2", "--data", "few", "--queries", "2", *QUICK)[0] == 0
    (entry,) = json.loads((place / "proto" / "evaluation.json").read_text())
    run, pool = open_run(place / "proto"), tasks.folder(place / "few", split=None)
    score = evaluate(run.plan.at_test(ways=3), run.theta, pool, tasks=5, ways=3, shots=2, queries=2)
    assert entry["mean"] == 100 * score.mean
    assert (entry["label"], entry["data"], entry["norm"]) == ("3-way 2-shot", "few", "running")


@pytest.mark.parametrize("out", ["plot.png", "page.html"])
def test_compare_runs_on_the_same_tasks(call, place, out, tmp_path):
    status, told, lines = call("compare", "proto", "maml", "--out", str(tmp_path / out), *QUICK)
    assert status == 0
    pool = tasks.folder(place / "images")
    a, b = (open_run(place / name) for name in ("proto", "maml"))
    a, b = (evaluate(r.learner, r.theta, pool, tasks=5, queries=15) for r in (a, b))
    gap = b - a
    assert f"{100 * b.mean:.2f} ± {100 * b.ci95:.2f}" in told
    assert f"{100 * gap.mean:.2f} ± {100 * gap.ci95:.2f}" in told
    start = (tmp_path / out).read_bytes()[:15]
    assert start.startswith(b"\x89PNG" if out.endswith("png") else b"<!doctype html>")
    assert lines[-1].startswith("next: metaloop")


@pytest.fixture
def leaky(place, tmp_path):
    """A run on the same images, of which another 15 classes were for training."""
    make_run(tmp_path / "leaky", "protonet-glyphs", tasks.folder(place / "images", seed=1), data=str(place / "images"))
    return tmp_path / "leaky"


def overlap(place) -> set[str]:
    test, train = (getattr(tasks.folder(place / "images", seed=s), part) for s, part in ((0, "test"), (1, "train")))
    return {*test.names} & {*train.names}


def test_a_run_knows_the_classes_it_was_trained_on(place):
    """By their examples, whatever they and their classes are called, and in whatever order they come."""
    seen = read_info(place / "proto")["seen"].split()
    pool = tasks.folder(place / "images")
    assert seen == pool.train.digests() == pool.flat().train.digests() == pool.any_shots().train.digests()
    assert len({*seen} | {*pool.val.digests()} | {*pool.test.digests()}) == 25
    images, counts = pool.test.images[pool.test.rows], pool.test.counts
    backwards = tasks.pool.ClassPool(images.flip(0), counts.flip(0), ["x"] * 5, name="other")
    assert backwards.digests() == pool.test.digests()[::-1]
    as_floats = tasks.pool.ClassPool(images.float() / 255, counts, ["x"] * 5, name="other")
    assert as_floats.digests() == pool.test.digests()
    assert read_info(place / "curve").get("seen") is None


def test_compare_refuses_classes_that_a_run_has_seen(call, place, leaky, tmp_path):
    met = overlap(place)
    assert met
    told = refuses(call, place, "compare", "proto", str(leaky), *QUICK)
    assert f"{leaky} was trained on {len(met)} of the 5 test classes of images (class" in told
    assert "Pass --allow-seen to have it anyway." in told
    words = ["compare", "proto", str(leaky), "--allow-seen", "--out", str(tmp_path / "plot.png"), *QUICK]
    status, told, _ = call(*words)
    assert status == 0
    assert f"seen: {leaky} was trained on {len(met)} of the 5 test classes of images" in told
    assert f"{leaky} (has seen {len(met)} classes)" in told


def test_evaluate_refuses_classes_that_the_run_has_seen(call, place, tmp_path):
    """The training images under other names; 3 of the 20 test classes here are new."""
    copies = tmp_path / "copies"
    shutil.copytree(place / "images", copies)
    for name in tasks.folder(place / "images").test.names[:3]:
        (copies / name).rename(copies / f"new-{name}")
    told = refuses(call, place, "evaluate", "proto", "--data", str(copies), *QUICK)
    assert "proto was trained on 15 of the 25 test classes of copies" in told
    status, told, _ = call("evaluate", "proto", "--data", str(copies), "--allow-seen", *QUICK)
    assert status == 0
    assert "seen: proto was trained on 15 of the 25 test classes" in told
    assert json.loads((place / "proto" / "evaluation.json").read_text())[-1]["seen"] == 15
    assert call("evaluate", "proto", "--split", "train", *QUICK)[0] == 0  # asked for by its name
    assert call("evaluate", "proto", *QUICK)[0] == 0
    assert "seen" not in json.loads((place / "proto" / "evaluation.json").read_text())[-1]


def test_a_run_that_does_not_know_its_classes_is_said_to(call, place, tmp_path):
    shutil.copytree(place / "proto", tmp_path / "old")
    info = read_info(tmp_path / "old")
    del info["seen"]
    (tmp_path / "old" / "run.json").write_text(json.dumps(info))
    status, _, lines = call("evaluate", str(tmp_path / "old"), *QUICK)
    assert status == 0
    assert any("old does not say what classes it was trained on; it may have seen images's" in line for line in lines)


def test_other_protocols_of_the_same_data_are_noted(capsys):
    pool = {"name": "omniglot"}
    recipes = {"a": "protonet-omniglot-1shot", "b": "maml-omniglot-5w1s", "c": "protonet-omniglot-5shot"}
    about = lambda recipe: {"recipe": recipe, "data": None, "pool": pool}
    runs = [Run(LEARNER, None, folder=Path(name), info=about(recipe)) for name, recipe in recipes.items()]
    protocols(runs)
    (line,) = capsys.readouterr().err.splitlines()
    assert "note: b was trained with split='random', rotations='task', rotations_at_test='task'" in line
    assert "a, whose tasks these are, with split='vinyals', rotations='classes', rotations_at_test='classes'" in line


def test_a_run_that_was_stopped_is_told(call, place, tmp_path):
    shutil.copytree(place / "proto", tmp_path / "stopped")
    info = json.loads((tmp_path / "stopped" / "run.json").read_text())
    (tmp_path / "stopped" / "run.json").write_text(json.dumps(info | {"steps": info["steps"] + 7}))
    status, _, lines = call("adapt", str(tmp_path / "stopped"), "few", "-o", str(tmp_path / "mine.safetensors"))
    assert status == 0
    assert any(f"has taken {info['steps']} of its {info['steps'] + 7} meta-steps" in line for line in lines)
    newest = checkpoints(tmp_path / "stopped")[-1]
    shutil.copy(newest, tmp_path / "stopped" / "best.safetensors")  # all that somebody passed on
    for path in checkpoints(tmp_path / "stopped"):
        path.unlink()
    assert call("adapt", str(tmp_path / "stopped"), "few", "-o", str(tmp_path / "mine.safetensors"))[0] == 0


def test_adapt_then_predict(call, place, tmp_path):
    file = str(tmp_path / "mine.safetensors")
    status, told, lines = call("adapt", "proto", "few", "-o", file)
    assert status == 0
    assert "3 classes from 12 images: class00, class01, class02" in told
    assert lines[-1] == f"next: metaloop predict {file} IMAGE..."
    assert not any("meta-steps" in line for line in lines)

    status, told, lines = call("predict", file, "few", "--json")
    assert status == 0
    answers = json.loads(told)
    assert len(answers) == 12
    right = sum(Path(a["image"]).parent.name == a["class"] for a in answers)
    assert right >= 10
    first = answers[0]
    assert first["probability"] == first["top"][0]["probability"] == max(t["probability"] for t in first["top"])
    assert abs(sum(t["probability"] for t in first["top"]) - 1) < 1e-3

    status, told, lines = call("predict", file, "few/class00/0.png")
    assert status == 0
    assert told.splitlines()[1].split()[:2] == ["few/class00/0.png", first["class"]]
    assert lines[-1].startswith("next: metaloop predict")


def test_predict_asks_a_predictor_for_its_own_probabilities(call, place, tmp_path, monkeypatch):
    file = str(tmp_path / "f")
    call("adapt", "proto", "few", "-o", file)
    own = lambda f, x: torch.tensor([[0.125, 0.625, 0.25]]).expand(len(x), -1)
    monkeypatch.setattr(NearestPrototype, "probabilities", own, raising=False)
    _, told, _ = call("predict", file, "few/class00/0.png", "--json")
    assert [t["probability"] for t in json.loads(told)[0]["top"]] == [0.625, 0.25, 0.125]


@pytest.mark.parametrize("recipe", ["maml-glyphs", "reptile-glyphs", "pretrain-glyphs", "protonet-glyphs"])
def test_predictors_of_every_learner_are_read_back(call, place, recipe, tmp_path):
    pool = tasks.folder(place / "images", channels=3 if recipe == "protonet-glyphs" else None, size=28)
    run = make_run(tmp_path / "run", recipe, pool, budget="smoke")
    file = str(tmp_path / "f.safetensors")
    assert call("adapt", str(tmp_path / "run"), "few", "-o", file)[0] == 0
    f, about = load_predictor(file)
    x, _, names, _ = tasks.read_folder("few", pool.shape)
    assert about["classes"] == names
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answer = f(x[order].float() / 255)
    assert answer.shape == (12, 3) if "maml" not in recipe and "reptile" not in recipe else (12, 5)
    assert answer.isfinite().all()
    assert run.step == 1
    status, _, lines = call("predict", file, "few/class00/0.png")
    assert status == 0
    assert any("normalises the images of one call" in line for line in lines) == (recipe == "maml-glyphs")


def test_a_folder_with_a_damaged_image_is_read_without_it(call, place, tmp_path):
    shutil.copytree(place / "few", tmp_path / "few")
    (tmp_path / "few" / "class00" / "0.png").write_bytes(b"\x89PNG and then nothing")
    status, told, lines = call("adapt", "proto", str(tmp_path / "few"), "-o", str(tmp_path / "f"))
    assert status == 0
    assert "from 11 images" in told
    assert lines[0].startswith("metaloop: skipped")
    assert "0.png" in lines[0]


# Bad input


def test_an_unknown_recipe_or_data_set(call, place):
    told = refuses(call, place, "train", "protonet-omniglot-1shots")
    assert "there is no recipe 'protonet-omniglot-1shots'. Did you mean 'protonet-omniglot-1shot'?" in told
    told = refuses(call, place, "train", "maml-glyphs", "--data", "omniglott")
    assert "no data set, folder or file 'omniglott'" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--ways 6", "images.sample(ways=6): the test split has 5 classes. Ask for at most 5 ways."),
        ("--shots 19", "Ask for at most 20 of both together for 5 ways."),
        ("--ways 0", "argument --ways: '0' is not a whole number of at least 1"),
        ("--tasks many", "argument --tasks: 'many' is not a whole number"),
        ("--device cuda:7", "device 'cuda:7' is not on this machine"),
        ("--device quantum", "device 'quantum' is unknown. Use auto, cpu, cuda, mps, or one by its number: cuda:1."),
        ("--device cpu:-1", "device 'cpu:-1' is unknown. Use auto, cpu, cuda, mps, or one by its number: cuda:1."),
        ("--device cpu:00", "device 'cpu:00' is unknown."),
        ("--device cpu:1", "device 'cpu:1' is not on this machine, which has: cpu"),
        ("--data sinusoid", "sinusoid has examples of 1, proto was trained on 1x28x28."),
        ("--data nowhere", "there is no data set, folder or file 'nowhere'."),
        ("--split best", "argument --split: invalid choice: 'best'"),
    ],
)
def test_what_the_data_or_the_machine_have_not(call, place, words, message):
    assert message in refuses(call, place, "evaluate", "proto", *words.split())


def test_more_ways_than_the_learner_can_tell_apart(call, place, tmp_path):
    told = refuses(call, place, "evaluate", "maml", "--ways", "7", "--split", "train", "--queries", "2")
    assert "the learner tells 5 classes apart, the tasks have 7. Give it 5 at most" in told
    told = refuses(call, place, "adapt", "maml", str(image_folder(tmp_path / "six", 6, 2)), "-o", "f")
    assert "the learner tells 5 classes apart, the tasks have 6. Give it 5 at most" in told
    assert "--ways 3: curve is a regression" in refuses(call, place, "evaluate", "curve", "--ways", "3")


def test_the_wrong_data_for_a_recipe(call, place):
    told = refuses(call, place, "train", "protonet-glyphs", "--data", "gaussians")
    assert "conv4: inputs have shape (2,), expected images (channels, height, width)." in told
    told = refuses(call, place, "train", "maml-sinusoid-5shot", "--data", "images")
    assert "regresses a number on a number; images is for classification" in told
    told = refuses(call, place, "train", "maml-glyphs", "--data", "few")
    assert "folder('few'): 3 classes are too few for split=(0.6, 0.2, 0.2)" in told


def test_a_folder_too_small_to_meta_train_on(call, place):
    told = refuses(call, place, "train", "maml-glyphs", "--data", "few")
    assert "`metaloop adapt` a run that was trained on other data" in told


def test_a_refused_option_leaves_no_run(call, place):
    words = ["train", "maml-glyphs", "--data", "images", "--steps", "1", "--out", "refused", *QUICK]
    for wrong in (["--memory", "lots"], ["--memory", "1KB"], ["--seed", str(10**30)]):
        status, _, lines = call(*words, *wrong)
        assert status == 2, lines
        assert not (place / "refused").exists(), lines


def test_a_file_that_is_no_predictor_is_kept(call, place):
    picture = next((place / "few").rglob("*.png")).relative_to(place)
    told = refuses(call, place, "adapt", "proto", "few", "-o", str(picture))
    assert "is there and no predictor, so it is kept. Choose another name." in told
    assert "is there and no predictor" in refuses(call, place, "adapt", "proto", "few", "-o", "")
    assert "proto is a folder, not a predictor. `metaloop adapt FOLDER -o FILE`" in refuses(
        call, place, "predict", "proto", str(picture)
    )


def test_a_damaged_run_json_is_told(call, place, tmp_path):
    shutil.copytree(place / "proto", tmp_path / "run")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    for wrong in ({"pool": None}, {"recipe": 5}, {"pool": {"name": "x"}}):
        (tmp_path / "run" / "run.json").write_text(json.dumps({**info, **wrong}))
        for words in (["evaluate"], ["adapt"]):
            more = ["few", "-o", "f"] if words == ["adapt"] else QUICK
            assert "run.json is damaged" in refuses(call, place, *words, str(tmp_path / "run"), *more)


def test_pictures_that_cannot_be_read_do_not_hide_the_others(call, place, tmp_path):
    assert call("adapt", "proto", "few", "-o", str(tmp_path / "f"))[0] == 0
    good = next((place / "few").rglob("*.png"))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    status, told, lines = call("predict", str(tmp_path / "f"), str(tmp_path / "bad.png"), str(good), "--json")
    assert status == 2
    assert [("error" in row, row["image"]) for row in json.loads(told)] == [
        (False, str(good)), (True, str(tmp_path / "bad.png")),
    ]  # fmt: skip
    assert "bad.png cannot be read as an image" in lines[-1]


def test_a_single_class_and_a_wrong_root(call, place):
    assert "--ways 1: with a single class" in refuses(call, place, "evaluate", "proto", "--ways", "1")
    told = refuses(call, place, "train", "protonet-omniglot-1shot", "--data-root", "nowhere")
    assert "--data-root nowhere: no such folder" in told


def test_nothing_to_resume_is_said(call, tmp_path):
    words = ["train", "maml-sinusoid-5shot", "--steps", "1", "--out", str(tmp_path / "r"), *QUICK]
    status, _, lines = call(*words, "--resume")
    assert status == 0
    assert any("holds no run to resume; it starts anew" in line for line in lines)


def test_runs_that_have_no_common_tasks(call, place):
    told = refuses(call, place, "compare", "proto", "curve")
    assert "curve was trained on examples of 1, proto on 1x28x28." in told
    assert "a name that ends in .png or .html" in refuses(call, place, "compare", "proto", "maml", "--out", "plot")


def test_folders_that_are_no_data(call, place, tmp_path):
    (tmp_path / "empty").mkdir()
    image_folder(tmp_path / "single", 1, 2)
    image_folder(tmp_path / "broken", 2, 1)
    (tmp_path / "broken" / "class01" / "0.png").write_bytes(b"")
    for name, message in (
        ("empty", "no sub-folders. Make one sub-folder of images per class, at least two."),
        ("single", "one class, 'class00'."),
        ("broken", "class 'class01' has no readable image (1 files, the last: is empty)"),
        ("nowhere", "no such folder"),
    ):
        assert message in refuses(call, place, "adapt", "proto", str(tmp_path / name), "-o", "f")
    told = refuses(call, place, "adapt", "curve", "few", "-o", "f")
    assert "curve was not trained on images, but on examples of 1." in told


def test_images_that_are_none(call, place, tmp_path):
    file = str(tmp_path / "f")
    assert call("adapt", "proto", "few", "-o", file)[0] == 0
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty").mkdir()
    assert "bad.png cannot be read as an image" in refuses(call, place, "predict", file, str(tmp_path / "bad.png"))
    assert "none.png cannot be read as an image" in refuses(call, place, "predict", file, "none.png")
    assert "one of the images has no name" in refuses(call, place, "predict", file, "")
    assert "empty holds no image" in refuses(call, place, "predict", file, str(tmp_path / "empty"))


def test_files_that_are_no_predictor(call, place, tmp_path):
    file = tmp_path / "f"
    assert call("adapt", "proto", "few", "-o", str(file))[0] == 0
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "f is damaged or not metaloop's" in refuses(call, place, "predict", str(file), "few")
    checkpoint = str(checkpoints(place / "proto")[-1].relative_to(place))
    assert "holds no predictor" in refuses(call, place, "predict", checkpoint, "few")
    assert "no such file" in refuses(call, place, "predict", "nowhere", "few")


def test_folders_that_are_no_run(call, place, tmp_path):
    assert "few holds no run (no run.json)." in refuses(call, place, "evaluate", "few")
    (tmp_path / "run.json").write_text("{}")
    assert "was not trained by a recipe" in refuses(call, place, "evaluate", str(tmp_path))
    (tmp_path / "run.json").write_text("{")
    assert "run.json cannot be read" in refuses(call, place, "evaluate", str(tmp_path))


def test_checkpoints_cut_in_half_or_of_another_learner(call, place, tmp_path):
    for name in ("proto", "maml"):
        shutil.copytree(place / name, tmp_path / name)
    (ours,), (theirs,) = checkpoints(tmp_path / "proto"), checkpoints(tmp_path / "maml")
    shutil.copy(theirs, ours)
    told = refuses(call, place, "evaluate", str(tmp_path / "proto"))
    assert "has shape (32, 1, 3, 3), this learner wants (64, 1, 3, 3): it is of another architecture" in told
    theirs.write_bytes(theirs.read_bytes()[: theirs.stat().st_size // 2])
    told = refuses(call, place, "evaluate", str(tmp_path / "maml"))
    assert "is damaged or not metaloop's" in told
    assert "--resume goes on from the checkpoint before it" in told
    theirs.unlink()
    assert "has no checkpoint yet" in refuses(call, place, "evaluate", str(tmp_path / "maml"))


def test_a_truncated_archive(call, place, tmp_path):
    with zipfile.ZipFile(tmp_path / "images_background.zip", "w") as archive:
        archive.writestr("images_background/Latin/character01/0709_01.png", bytes(2000))
    whole = (tmp_path / "images_background.zip").read_bytes()
    (tmp_path / "images_evaluation.zip").write_bytes(whole)
    (tmp_path / "images_background.zip").write_bytes(whole[:1000])
    told = refuses(call, place, "train", "protonet-omniglot-1shot", "--data-root", str(tmp_path))
    assert "images_background.zip is damaged" in told
    assert "fetch" in told


def test_no_network(call, place, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("METALOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    told = refuses(call, place, "train", "protonet-omniglot-1shot")
    assert "cannot download images_background.zip (Name or service not known). Fetch https://" in told
    assert "and put it in" in told


def test_a_full_disk(call, place, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    told = refuses(call, place, "adapt", "proto", "few", "-o", "f")
    assert "cannot write f: No space left on device" in told
    before = files(place)
    status, _, lines = call("evaluate", "proto", *QUICK)
    assert status == 2
    assert "cannot write proto/evaluation.json: No space left on device. What was there before is kept." in lines[-1]
    assert files(place) == before


def test_an_image_of_any_kind_is_converted(call, place, tmp_path):
    """Colour, transparent, of another size: it becomes what the net was trained on."""
    file = str(tmp_path / "f")
    assert call("adapt", "proto", "few", "-o", file)[0] == 0
    image = Image.open(place / "few" / "class01" / "0.png")
    image.convert("RGBA").resize((90, 90)).save(tmp_path / "large.webp")
    _, told, _ = call("predict", file, str(tmp_path / "large.webp"), "--json")
    assert json.loads(told)[0]["class"] == "class01"


# ---- What an extra brings


@pytest.fixture
def absent(monkeypatch):
    """As if packages were not installed."""

    def absent(*names: str) -> None:
        for name in [m for m in sys.modules if m.split(".")[0] in names]:
            monkeypatch.delitem(sys.modules, name)
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return absent


def test_what_needs_an_absent_extra_names_it(call, place, absent):
    absent("pytorch_metric_learning", "matplotlib")
    told = refuses(call, place, "compare", "proto", "proto")
    assert told == "metaloop: compare: matplotlib, which draws, is not installed: pip install 'metaloop[plot]'."
    told = refuses(call, place, "train", "margin-omniglot-triplet", "--data", "images", *QUICK)
    assert "pytorch-metric-learning, which is not installed: pip install 'metaloop[metric]'." in told


def test_without_tensorboard_a_run_has_no_events(call, absent, tmp_path):
    words = ["train", "maml-sinusoid-5shot", "--steps", "2", *QUICK, "--out"]
    absent("tensorboard")
    told = []
    for name in ("first", "second"):
        status, out, lines = call(*words, str(tmp_path / name))
        assert status == 0, lines
        assert "tensorboard --logdir" not in out
        assert (tmp_path / name / "metrics.jsonl").read_text().count("\n") >= 2
        assert not list((tmp_path / name).glob("events*"))
        told += [line for line in lines if "pip install" in line]
    assert told == ["No events for TensorBoard, which is not installed: pip install 'metaloop[tensorboard]'."]  # once
