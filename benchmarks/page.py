"""The page under load: adaptations per second, and how long they take.

    python benchmarks/page.py runs/proto runs/maml [--out results/page.json]

Each run is served alone, by `metaloop serve` in a process of its own. A 5-way 1-shot task of glyphs with ten queries is
sent by 1, 8 and 32 clients, each of which waits for its answer before it asks again, and 200 times at once.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import httpx2


def quantile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


async def load(address: str, task: dict, clients: int, seconds: float) -> dict:
    """What that many clients get in that time."""
    times, refused = [], 0
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=address, timeout=300, limits=limits) as http:

        async def one():
            began = perf_counter()
            good = (await http.post("/api/adapt", json=task)).status_code == 200
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


def measure(run: str, seconds: float) -> dict:
    command = [sys.executable, "-m", "metaloop", "serve", run, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://\S+", server.stdout.readline())[0].rstrip("/")  # type: ignore
        dealt = httpx2.get(f"{address}/api/task/0?ways=5&shots=1&queries=2&seed=1", timeout=300).json()
        recipe = httpx2.get(f"{address}/api/learners").json()["learners"][0]["recipe"]
        task = {name: dealt[name] for name in ("classes", "queries")}
        rows, before = [], None
        for clients, long in ((1, seconds), (8, seconds), (32, seconds), (200, 0)):
            before, spent = peak(server.pid), cpu(server.pid)
            found = asyncio.run(load(address, task, clients, long))
            rows.append({**found, "cpu_ms": 1000 * (cpu(server.pid) - spent) / found["answers"]})
        return {"recipe": recipe, "rows": rows, "peak_mib": [before, peak(server.pid)]}
    finally:
        server.terminate()
        server.wait(30)


if __name__ == "__main__":
    asks = argparse.ArgumentParser()
    asks.add_argument("runs", nargs="+")
    asks.add_argument("--seconds", type=float, default=10)
    asks.add_argument("--out")
    args = asks.parse_args()
    from metaloop.engine.run import machine, versions

    before = os.getloadavg()[0]
    command = "python benchmarks/page.py RUN RUN --out results/page.json"
    found = {"command": command, "machine": machine(), "versions": versions(), "load_before": before,
             "measured": [measure(run, args.seconds) for run in args.runs]}  # fmt: skip
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n")
