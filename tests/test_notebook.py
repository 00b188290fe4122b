"""What a notebook shows of scores, runs and plans."""

import re

import torch
from tiny import make_run

from metaloop.engine import Score
from metaloop.recipes import find


def cells(shown) -> dict[str, str]:
    return dict(re.findall(r"<th[^>]*>(.*?)</th><td[^>]*>(.*?)</td>", shown._repr_html_()))


def test_a_score_shows_its_interval():
    score = Score.of(torch.tensor([0.5, 0.75, 1.0]))
    assert cells(score) == {"mean ± 95 %": str(score), "tasks": "3", "least, most": "0.5, 1"}


def test_a_run_and_its_plan_show_what_they_are(tmp_path):
    run = make_run(tmp_path / "a<b", "maml-sinusoid-5shot", budget="smoke")
    shown = cells(run)
    assert shown["recipe"] == "maml-sinusoid-5shot"
    assert shown["meta-steps"] == "1"
    assert shown["numbers in theta"] == "1,761"  # 1 x 40 + 40, 40 x 40 + 40, 40 + 1
    assert "a&lt;b" in shown["folder"]  # a name is text
    plan = cells(find("maml-sinusoid-5shot").plan())
    assert plan["data"] == "sinusoid"
    assert plan["tests"] == "5-shot, one step"
