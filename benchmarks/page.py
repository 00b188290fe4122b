"""The page: how long one change takes, from the pen to the answers; and adaptations per second under load.

    python benchmarks/page.py runs/proto runs/maml [--out results/page.json]

A change: in Chromium a dot is drawn into the query of a dealt task, and into the first class, `--changes` times each,
for each size of task. Of each run alone, and of all beside each other, it is measured from the pointer's rise until the
answers are painted: those of the first learner, and those of all; and the processor time of the server, and of the
page's main thread.

Load: each run is served alone, by `metaloop serve` in a process of its own. A 5-way 1-shot task of glyphs with ten
queries, its classes turned by one each time so that no adaptation serves twice, is sent by 1, 8 and 32 clients, each of
which waits for its answer before it asks again, and 200 times at once.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import perf_counter

import httpx2


def quantile(times: Sequence[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


async def load(address: str, task: dict, clients: int, seconds: float) -> dict:
    """What that many clients get in that time."""
    times, refused = [], 0
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=address, timeout=300, limits=limits) as http:

        turns = count()

        async def one():
            began, k = perf_counter(), next(turns) % len(task["classes"])
            turned = {**task, "classes": task["classes"][k:] + task["classes"][:k]}
            good = (await http.post("/api/adapt", json=turned)).status_code == 200
            times.append(1000 * (perf_counter() - began))
            return good

        async def client():
            nonlocal refused
            while perf_counter() < end:
                refused += not await one()

        began = perf_counter()
        end = began + seconds
        if seconds:
            await asyncio.gather(*(client() for _ in range(clients)))
        else:
            refused = clients - sum(await asyncio.gather(*(one() for _ in range(clients))))
        took = perf_counter() - began
    found = {"clients": clients, "answers": len(times), "refused": refused, "per_second": len(times) / took}
    return {**found, "p50_ms": quantile(times, 0.5), "p99_ms": quantile(times, 0.99)}


def peak(pid: int) -> float | None:
    """The most memory that a process has held, MiB."""
    try:
        return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024  # type: ignore
    except OSError:
        return None


def cpu(pid: int) -> float:
    """Seconds that a process has computed, on all cores."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(*runs: str) -> Iterator[tuple[str, int, list[str]]]:
    """The page of runs: its address, its process, the recipes."""
    command = [sys.executable, "-m", "metaloop", "serve", *runs, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+", server.stdout.readline())[0].rstrip("/")  # type: ignore
        learners = httpx2.get(f"{address}/api/learners", timeout=300).json()["learners"]
        yield address, server.pid, [one["recipe"] for one in learners]
    finally:
        server.terminate()
        server.wait(30)


SEEN = """(() => {
  let began = null, first = null;
  window.seen = [];
  addEventListener("pointerup", () => { began = performance.now(); first = null; }, true);
  const painted = then => requestAnimationFrame(() => setTimeout(() => then(performance.now()), 0));
  addEventListener("DOMContentLoaded", () => {
    new MutationObserver(() => { if (began != null && first == null && !document.querySelector("#learner-0.old")) {
      first = 0; painted(t => { first = t; }); } }).observe(document.querySelector("#answers"), {childList: true});
    new MutationObserver(() => { if (began != null && document.body.dataset.state === "still") {
      painted(t => { seen.push([first - began, t - began]); began = null; }); } })
      .observe(document.body, {attributeFilter: ["data-state"]});
  });
})()"""


def changes(runs: list[str], sizes: list[tuple[int, int]], n: int) -> list[dict]:
    """Of each size (ways, shots) of a task: n dots, drawn into the query."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    rows = []
    with served(*runs) as (address, pid, recipes), sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.add_init_script(SEEN)
        page.goto(address)
        told = page.context.new_cdp_session(page)
        told.send("Performance.enable", {"timeDomain": "threadTicks"})
        ticks = lambda: {m["name"]: m["value"] for m in told.send("Performance.getMetrics")["metrics"]}["TaskDuration"]

        def until(what: str) -> None:
            while not page.evaluate(what):
                page.wait_for_timeout(20)

        for ways, shots in sizes:
            page.fill("#ways", str(ways))
            page.fill("#shots", str(shots))
            page.click("#deal")
            until(f"document.querySelectorAll('.box').length === {ways + 1}")
            until(f"document.querySelectorAll('.box')[0].querySelectorAll('.few button').length === {shots}")
            until("document.body.dataset.state === 'still'")
            if page.evaluate("document.querySelector('#answers .wrong') != null"):
                continue  # a learner is of other ways
            for box, where in ((ways, "query"), (0, "class")):
                canvas = page.locator("canvas").nth(box)
                canvas.scroll_into_view_if_needed()
                at = canvas.bounding_box()
                assert at is not None
                page.evaluate("seen.length = 0")  # of what was before
                for i in range(n + 2):  # two to warm up
                    if i == 2:
                        server, main = cpu(pid), ticks()
                    to = 0.2 + 0.6 * (i * 0.618 % 1)
                    page.mouse.click(at["x"] + to * at["width"], at["y"] + 0.5 * at["height"])
                    until(f"seen.length === {i + 1}")
                spent = {"server_cpu_ms": 1000 * (cpu(pid) - server) / n, "page_cpu_ms": 1000 * (ticks() - main) / n}
                first, whole = zip(*page.evaluate("seen.slice(2)"), strict=True)
                rows.append({"recipes": recipes, "ways": ways, "shots": shots, "stroke": where, "changes": n, **spent,
                             "first_ms": [quantile(first, q) for q in (0.5, 0.9)],
                             "all_ms": [quantile(whole, q) for q in (0.5, 0.9)]})  # fmt: skip
        browser.close()
    return rows


def measure(run: str, seconds: float) -> dict:
    with served(run) as (address, pid, (recipe,)):
        dealt = httpx2.get(f"{address}/api/task/0?ways=5&shots=1&queries=2&seed=1", timeout=300).json()
        task = {name: dealt[name] for name in ("classes", "queries")}
        rows, before = [], None
        for clients, long in ((1, seconds), (8, seconds), (32, seconds), (200, 0)):
            before, spent = peak(pid), cpu(pid)
            found = asyncio.run(load(address, task, clients, long))
            rows.append({**found, "cpu_ms": 1000 * (cpu(pid) - spent) / found["answers"]})
        return {"recipe": recipe, "rows": rows, "peak_mib": [before, peak(pid)]}


if __name__ == "__main__":
    asks = argparse.ArgumentParser()
    asks.add_argument("runs", nargs="+")
    asks.add_argument("--seconds", type=float, default=10)
    asks.add_argument("--changes", type=int, default=20)
    asks.add_argument("--tasks", default="5x1,20x5", help="sizes of tasks for --changes: ways x shots")
    asks.add_argument("--out")
    args = asks.parse_args()
    from metaloop.engine.run import machine, versions

    before = os.getloadavg()[0]
    command = "python benchmarks/page.py RUN RUN --out results/page.json"
    sizes = [(int(ways), int(shots)) for ways, shots in (size.split("x") for size in args.tasks.split(","))]
    every = [[run] for run in args.runs] + ([args.runs] if len(args.runs) > 1 else [])
    found = {"command": command, "machine": machine(), "versions": versions(), "load_before": before,
             "changes": [row for runs in every for row in changes(runs, sizes, args.changes)],
             "measured": [measure(run, args.seconds) for run in args.runs]}  # fmt: skip
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n")
