"""What is told of the machine, and what a shell completes."""

import json
import subprocess

import pytest

from metaloop.cli import doctor, main


def test_the_doctor_says_what_to_do(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("METALOOP_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "matplotlib" else object())
    assert main(["doctor", "--fast", "--json"]) == 0
    told = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"metaloop", "torch", "device", "threads", "omniglot", "extra: onnx"} <= set(told)
    assert told["data folder"]["advice"].endswith("nowhere: no such folder")
    assert told["extra: plot"]["advice"] == "for compare draws: pip install 'metaloop[plot]'"
    assert not told["extra: metric"]["advice"]
    (tmp_path / "data" / "omniglot").mkdir(parents=True)
    (tmp_path / "data" / "omniglot" / "images_background.zip").touch()
    assert main(["doctor", "--fast", "--data-root", str(tmp_path / "data")]) == 0
    table = capsys.readouterr().out
    assert str(tmp_path / "data" / "omniglot" / "images_background.zip") in table
    assert "could be better" in table


def test_the_speed_check_ends_in_time():
    ((what, found, _),) = doctor.speed(seconds=0.2)
    assert what == "speed"
    assert float(found.split()[0]) > 0


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["tra"], {"train"}), (["train", "maml-gl"], {"maml-glyphs"}),
        (["train", "maml-glyphs", "--bud"], {"--budget"}),
        (["evaluate", "r", "--split", ""], {"train", "val", "test"}), (["evaluate", "runs/x"], set()),
    ],
)  # fmt: skip
def test_a_shell_completes(capsys, typed, offered):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    asked = 'COMP_WORDS=(metaloop "$@"); COMP_CWORD=$#; _metaloop; echo "${COMPREPLY[@]}"\n'
    done = subprocess.run(["bash", "-c", script + asked, "bash", *typed], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == offered
