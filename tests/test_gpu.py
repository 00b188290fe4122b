"""The prepared quarter of an hour on a GPU, rehearsed; and the queue of rows that it goes through."""

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import gpu
import pytest
import reproduce

from metaloop.recipes import RECIPES

BENCHMARKS = Path(gpu.__file__).parent
ABSENT = ("rich", "pytorch_metric_learning", "tensorboard", "optuna", "cloudpickle", "fastapi", "matplotlib", "onnx")
REHEARSE = f"""
import sys
from importlib.machinery import PathFinder
there = PathFinder.find_spec
def find_spec(cls, name, *args, **how):
    return None if name.split(".")[0] in {ABSENT} else there(name, *args, **how)
PathFinder.find_spec = classmethod(find_spec)
sys.path.insert(0, {str(BENCHMARKS)!r})
import gpu
sys.exit(gpu.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """A folder where all was done once, on a machine that has little beside torch."""
    folder = tmp_path_factory.mktemp("gpu")
    env = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", REHEARSE, "--rehearse", "--out", "out"]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_all_parts_are_rehearsed_to_their_end(rehearsed):
    folder, printed = rehearsed
    table = printed.splitlines()[-4:]
    assert [line.split()[0] for line in table] == ["exactness", "speed", "maml", "rows"]
    assert all(line.endswith("whole") for line in table), table
    assert len([*(folder / "out").iterdir()]) == 6


def test_on_a_cpu_float32_is_near_float64_and_bfloat16_is_not_as_near(rehearsed):
    told = json.loads((rehearsed[0] / "out" / "exactness.json").read_text())["exactness"]
    for name in gpu.REHEARSED:
        row = told["gradients"][name]
        assert row["float32"] < 1e-4 < row["bfloat16"], (name, row)
    assert told["graphs"] == {"protonet, six steps": {"captured": "equal bit by bit", "once more": "equal bit by bit"}}
    assert told["dealing"] == {"glyphs": "equal"}


def test_runs_are_packed_to_go_on_from(rehearsed, tmp_path):
    with tarfile.open(rehearsed[0] / "out" / "runs.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    item = reproduce.Item("meta-rnn-boolean", 2, 0, "")
    files = {path.name for path in (tmp_path / item.folder.name).iterdir()}
    assert files == {"run.json", "metrics.jsonl", "evaluation.json", "report.json", "best.safetensors"}


def test_a_run_that_is_not_tested_yet_keeps_its_checkpoint_and_those_that_do_not_fit_are_told(tmp_path, monkeypatch):
    for name in ("first", "second", "third"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "checkpoint-00000001.safetensors").write_bytes(bytes(3000))
        (tmp_path / "runs" / name / "checkpoint-00000002.safetensors").write_bytes(bytes(3000))
    monkeypatch.setattr(gpu, "LARGEST", 6000)
    session = gpu.Session("cpu", 1, tmp_path, small=True)
    gpu.pack(session, tmp_path / "runs")
    held = []
    for name in ("runs.tar", "runs-2.tar"):
        with tarfile.open(tmp_path / name) as tar:
            held.append(tar.getnames())
    assert held == [["first/checkpoint-00000002.safetensors"], ["second/checkpoint-00000002.safetensors"]]
    assert session.lines == ["third is left out: 0 MB too many"]


def test_a_limit_strikes_like_ctrl_c():
    with pytest.raises(KeyboardInterrupt), gpu.at_most(0.01):
        time.sleep(10)


def test_without_a_gpu_one_line_says_so(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "--rehearse" in capsys.readouterr().err
    assert gpu.main(["--rehearse", "--from", "nowhere"]) == 2
    assert "there is no runs.tar" in capsys.readouterr().err


# The queue


def test_the_queue_is_of_recipes_and_none_is_there_twice():
    items = reproduce.queue()
    assert len({item.folder for item in items}) == len(items) > 10
    assert all(item.why and item.steps > 0 for item in items)


def test_what_is_done_is_left_out_and_what_was_begun_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    done, begun, fresh = reproduce.queue()[:3]
    for item, step in ((done, done.steps), (begun, 300)):
        item.folder.mkdir(parents=True)
        (item.folder / "run.json").write_text("{}")
        (item.folder / f"checkpoint-{step:08d}.safetensors").touch()
    (done.folder / "evaluation.json").write_text("[{}]")  # broken off after the first of its rows
    assert reproduce.chosen(reproduce.queue(), [])[:2] == [done, begun]
    (done.folder / "evaluation.json").write_text(json.dumps([{}] * len(RECIPES[done.recipe].published)))
    assert reproduce.chosen(reproduce.queue(), [])[:2] == [begun, fresh]
    assert "--resume" in begun.words
    assert "--resume" not in fresh.words
    assert reproduce.main(["--list", begun.recipe]) == 0
    assert capsys.readouterr().out.startswith(f"{begun.folder.name}: step 300 of {begun.steps}.")
    assert reproduce.main(["--list", "nothing"]) == 2
    assert "nothing is not in queue.json" in capsys.readouterr().err


def test_a_queue_of_another_form_is_refused(tmp_path):
    path = tmp_path / "queue.json"
    unknown = '[{"recipe": "x", "steps": 1, "seed": 0, "why": ""}]'
    for text, reason in (('[{"recipe": "x"}]', "steps"), ("{", "expected a list"), (unknown, "no recipe 'x'")):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            reproduce.queue(path)


def test_rows_are_trained_one_after_the_other_until_one_stops(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = []

    def run(words, **_):
        asked.append(words)
        return subprocess.CompletedProcess(words, 130 if "snail-omniglot-5w" in words else 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert reproduce.main(["matching-omniglot-5shot", "snail-omniglot-5w", "reptile-omniglot-5w"]) == 130
    trained = [words[words.index("train") + 1] for words in asked if "train" in words]
    assert trained == ["matching-omniglot-5shot", "snail-omniglot-5w"]
    assert [Path(words[1]).name for words in asked if "train" not in words] == ["results.py"]
