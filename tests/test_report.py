"""report.html: one file that says what was trained, how well, and on what."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from tiny import image_folder, make_run

from metaloop import open_run, tasks
from metaloop.cli import main
from metaloop.optim import Learned
from metaloop.recipes import find
from metaloop.report import write_report
from metaloop.report.findings import find_out
from metaloop.report.results import keep, kept, measure
from metaloop.report.svg import Line, chart


class Tags(HTMLParser):
    """Checks that tags close in order; collects their text and the addresses they load."""

    void = ("meta", "img", "br")

    def __init__(self, html: str):
        super().__init__()
        self.open, self.text, self.loads = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path) -> tuple[str, str, list[str]]:
    html = path.read_text()
    page = Tags(html)
    return html, " ".join(" ".join(page.text).split()), page.loads


def test_a_row_on_fixed_tasks_says_how_many_there_were(tmp_path):
    pool = tasks.folder(image_folder(tmp_path / "images", 25, 20))
    run = make_run(tmp_path / "run", "maml-glyphs", pool)
    benchmark = tasks.FixedPool(pool.test.sample(tasks=3, queries=5), ways=5, shots=1, queries=5, name="benchmark")
    row = replace(run.plan.rows[0], data=lambda: benchmark)
    entry = measure(run, row, pool, tasks=1000, seed=0, split="test", data=None)
    assert (entry.tasks, entry.whole, entry.data) == (3, True, "benchmark")
    assert not measure(run, run.plan.rows[0], pool, tasks=2, seed=0, split="test", data="images").whole


def test_a_report_of_a_classifier(tmp_path):
    pool = tasks.folder(image_folder(tmp_path / "images", 25, 20))
    run = make_run(tmp_path / "run", "maml-glyphs", pool, steps=3)
    score = measure(run, run.plan.rows[0], pool, tasks=6, seed=0, split="test", data="images")
    keep(run.folder, [score])
    html, text, loads = read(write_report(run, lambda: pool, tasks=4))
    for told in (
        "maml-glyphs", "Finn et al. 2017", "5 ways, 1 support and 5 query examples per class", "3 of 3, 16 tasks each",
        "transductive", "1x28x28, 15 training classes", "seed 0", "number of shots", "inner steps", "Task 3",
        "peak memory", "per second", "torch 2.",
    ):  # fmt: skip
        assert told in text, told
    (entry,) = kept(run.folder)
    assert f"{entry.mean:.2f} ± {entry.ci95:.2f}" in text
    assert all(address.startswith("data:image/png;base64,") for address in loads)
    assert len(loads) == 3 * 5 * (1 + 3)
    assert "http" not in re.sub(r"data:[^\"]*", "", html)
    assert "<script" not in html
    assert str(tmp_path) not in html
    found = json.loads((run.folder / "report.json").read_text())
    assert [p[0] for p in found["shots"]] == [1, 2, 3, 5, 10]
    assert [p[0] for p in found["inner_steps"]] == [1, 2, 3, 5, 10]
    shown = sum(guess != k for t in found["examples"] for k, c in enumerate(t["classes"]) for _, guess in c["queries"])
    assert html.count('class="query wrong"') == shown
    assert html.count('class="query"') == 45 - shown
    assert "at meta-test</h2>" in html
    found |= {"shots": [], "inner_steps": []}
    (run.folder / "report.json").write_text(json.dumps(found))
    assert "at meta-test</h2>" not in read(write_report(run, lambda: pool, tasks=4))[0]  # nothing to show there


def test_a_report_of_a_regression_beside_the_paper(tmp_path, capsys):
    out = tmp_path / "run"
    words = ["train", "maml-sinusoid-5shot", "--steps", "12", "--out", str(out), "--tasks", "5"]
    assert main(words) == 0
    html, text, loads = read(out / "report.html")
    assert not loads
    assert "1.13 ± 0.18" in text
    assert "paper" in text
    assert text.count("prediction") == 3
    assert html.count("<svg") == 2 + 2 + 3
    capsys.readouterr()


def test_findings_are_kept_until_the_weights_change(tmp_path):
    pool = find("maml-sinusoid-5shot").data
    run = make_run(tmp_path / "run", "maml-sinusoid-5shot")
    first = find_out(run, pool, 4)
    assert find_out(run, pool, 3) == json.loads(json.dumps(first))
    run.step += 1
    assert find_out(run, pool, 3)["tasks"] == 3


def test_charts_stay_inside_their_frame():
    drawn = chart([Line("a<b", [[1, 3.0, 0.5], [10_000, -2.0, 4.0]], dots=True), Line("", [[5, 1.0]], 1)], x="x", y="y")
    assert "a&lt;b" in drawn
    assert "5k" in drawn or "10k" in drawn
    numbers = [float(n) for n in re.findall(r'c[xy]="([-\d.]+)"', drawn)]
    assert numbers
    assert all(0 <= n <= 420 for n in numbers)
    chart([Line("", [[1, 2.0]])], x="x", y="y")  # one point, no range


def test_an_interval_ends_where_its_values_do():
    """Of one query that is right the normal interval of a share goes beyond 100 %."""
    share = [[40, 100.0, 96.0], [60, 50.0, 10.0]]
    free, cut = (chart([Line("", share)], x="p", y="right", **within) for within in ({}, {"within": (0, 100)}))
    labels = [[float(n) for n in re.findall(r'text-anchor="end">(-?[\d.]+)<', drawn)] for drawn in (free, cut)]
    assert max(labels[0]) > 100
    assert (min(labels[1]), max(labels[1])) == (0, 100)
    (band,) = re.findall(r'class="band c0" d="M(.*)Z"', cut)
    top, bottom = (float(re.findall(rf'y="([\d.]+)" text-anchor="end">{n}<', cut)[0]) - 4 for n in (100, 0))
    heights = [float(point.split()[1]) for point in band.split("L")]
    assert min(heights) == pytest.approx(top, abs=0.1)
    assert max(heights) <= bottom


def test_a_report_of_an_optimizer(tmp_path, capsys):
    """Its inputs are no pictures and no curve: the page shows how far it comes in how many steps, and no tasks."""
    out = str(tmp_path / "run")
    assert main(["train", "lstm-optimizer-quadratic", "--budget", "smoke", "--tasks", "2", "--out", out]) == 0
    html, text, _ = read(tmp_path / "run" / "report.html")
    assert "final sum by inner steps" in html
    assert "by number of shots" not in text
    assert "Three test tasks" not in text
    run = open_run(out)
    line = torch.nn.Linear(10, 1)
    line(torch.ones(3, 10)).sum().backward()
    before = line.weight.detach().clone()
    Learned(line.parameters(), run).step()
    assert not torch.equal(line.weight, before)
