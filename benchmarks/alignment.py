"""Two domains: words of two languages turned onto each other; pictures whose features hide which domain they are from.

    python benchmarks/alignment.py --only words       some 40 s of CPU, needs METALOOP_DATA
    python benchmarks/alignment.py --only pictures    minutes, needs METALOOP_DATA
    python benchmarks/alignment.py --table            writes the tables in docs/alignment.md from results/alignment.json

Words. Multi30k's training part, two languages apart: windows of 4 words on either side, the 2000 most frequent words,
positive pointwise mutual information, with contexts as often as their count to the power 0.75, its first 100 singular
directions U S, each word's vector of unit length, centred, and of unit length again. The power, and U S in place of U
or U sqrt(S), were chosen on English and Czech; German and French are as they then came out. A dictionary from the lines
that belong together: the best by Dice's coefficient both ways, above 0.3. Half of it, drawn by the seed, is for the map
(`objectives.procrustes`), the other half is asked: is the first of 2000 the translation? By cosine and by CSLS, also
with fewer pairs. Intervals are over draws. And how often `profiles` alone, told no pair, is right.

Pictures. 20-way 1-shot tasks of printed glyphs, prototypical networks (conv4, group norms), with pictures of another
domain beside the queries, without their classes: the same glyphs inverted or textured, or Omniglot's drawings (Vinyals'
split). `objectives.confused`, and the same with most=0, whose critic watches and whose features heed only the glyphs.
Asked: 5-way 1-shot tasks of test classes of the other domain; and, where these are the same classes, with a support set
of printed glyphs and queries of the other domain. The same tasks for both; intervals over seeds, paired.
"""

import argparse
import gzip
import json
import os
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from told import filled, interval

import metaloop as ml
from metaloop.engine.run import machine, versions
from metaloop.objectives import confused, csls, procrustes, profiles
from metaloop.report.domains import a_distance

ROOT = Path(__file__).resolve().parent.parent
WORDS, DIM, WINDOW, SMOOTH, DICE = 2000, 100, 4, 0.75, 0.3
DRAWS, FEWER = 10, (25, 50, 100, 200, 400)
DOMAINS = ("inverted", "textured", "drawn")


def lines(language: str) -> list[list[str]]:
    path = Path(os.environ["METALOOP_DATA"]) / "multi30k" / "data" / "task1" / "raw" / f"train.{language}.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [re.findall(r"\w+", line.lower()) for line in file]


def vocabulary(text: list[list[str]]) -> dict[str, int]:
    return {word: i for i, (word, _) in enumerate(Counter(w for line in text for w in line).most_common(WORDS))}


def vectors(text: list[list[str]], place: dict[str, int]) -> torch.Tensor:
    """[words, DIM], rows of unit length."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import svds

    known = [[place.get(w, -1) for w in line] for line in text]
    a, b = [], []
    for line in known:
        for i, w in enumerate(line):
            if w >= 0:
                near = [v for v in line[max(0, i - WINDOW) : i] + line[i + 1 : i + 1 + WINDOW] if v >= 0]
                a += [w] * len(near)
                b += near
    n = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(place), len(place))).tocsr().tocoo()
    rows, columns = (np.asarray(n.sum(axis)).ravel() for axis in (1, 0))
    columns = columns**SMOOTH
    pmi = np.log(n.data * columns.sum() / (rows[n.row] * columns[n.col]))
    ppmi = coo_matrix((np.maximum(pmi, 0), (n.row, n.col)), shape=n.shape).tocsr()
    U, s, _ = svds(ppmi, k=DIM, v0=np.ones(len(place)))
    z = torch.nn.functional.normalize(torch.from_numpy((U * s).copy()))
    return torch.nn.functional.normalize(z - z.mean(0))


def dictionary(left, right, a: dict[str, int], b: dict[str, int]) -> torch.Tensor:
    """Pairs of places [n, 2]: each the other's best by Dice's coefficient over lines."""
    from scipy.sparse import csr_matrix

    def there(text, place):
        cells = {(i, place[w]) for i, line in enumerate(text) for w in line if w in place}
        rows, columns = zip(*cells, strict=True)
        return csr_matrix((np.ones(len(cells)), (rows, columns)), shape=(len(text), len(place)))

    A, B = there(left, a), there(right, b)
    often_a, often_b = (np.asarray(m.sum(0)).ravel() for m in (A, B))
    dice = 2 * (A.T @ B).toarray() / (often_a[:, None] + often_b)
    best = dice.argmax(1)
    mutual = (dice.argmax(0)[best] == np.arange(len(best))) & (dice.max(1) > DICE)
    return torch.from_numpy(np.stack([np.arange(len(best))[mutual], best[mutual]], 1))


def precision(X, Y, fitted, asked) -> dict[str, float]:
    """Share of asked pairs whose translation is first of all of Y."""
    W = procrustes(X[fitted[:, 0]], Y[fitted[:, 1]])
    scores = {"nearest": X[asked[:, 0]] @ W @ Y.T, "CSLS": csls(X @ W, Y)[asked[:, 0]]}
    return {name: (s.argmax(1) == asked[:, 1]).double().mean().item() for name, s in scores.items()}


def words() -> dict:
    began, found = time.process_time(), {}
    english = lines("en")
    a = vocabulary(english)
    X = vectors(english, a)
    for language in ("cs", "de", "fr"):
        other = lines(language)
        b = vocabulary(other)
        Y, pairs, by = vectors(other, b), dictionary(english, other, a, b), {}
        for draw in range(DRAWS):
            order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(draw))
            half = len(pairs) // 2
            asked = pairs[order[half:]]
            for n in (*FEWER, half):
                for name, p in precision(X, Y, pairs[order[:n]], asked).items():
                    by.setdefault(str(n), {}).setdefault(name, []).append(p)
        start = profiles(X, Y)[pairs[:, 0]]
        found[f"en-{language}"] = {
            "right without a pair": (start == pairs[:, 1]).double().mean().item(),
            "pairs": len(pairs), "asked": len(pairs) - half,
            "P@1 by pairs fitted": {n: {name: interval(v) for name, v in rows.items()} for n, rows in by.items()},
            "CSLS less nearest, half": interval(
                [c - n for c, n in zip(by[str(half)]["CSLS"], by[str(half)]["nearest"], strict=True)]
            ),
        }  # fmt: skip
        print(language, json.dumps(found[f"en-{language}"]), flush=True)
    return {"draws": DRAWS, "languages": found, "cpu seconds": round(time.process_time() - began)}


def only_queries(change):
    return lambda task, g: ml.Task(task.support, change(task, g).query)


def domain(name: str):
    """The other domain, and its tasks whose support set is of printed glyphs, where there are such."""
    glyphs, T = ml.tasks.glyphs(), ml.tasks
    if name == "drawn":
        return T.omniglot(split="vinyals", rotations=None), None
    change = getattr(T, name)
    return tuple(T.Varied(glyphs, c, everywhere=True) for c in (change, only_queries(change)))


def pictures(seeds: int, steps: int, width: int, tasks: int) -> dict:
    began, found, glyphs = time.process_time(), {}, ml.tasks.glyphs()
    for name in DOMAINS:
        other, across = domain(name)
        rows = {way: {} for way in ("without", "with")}
        for seed in range(seeds):
            for way, most in (("without", 0.0), ("with", 1.0)):
                module = ml.nn.conv4(glyphs.shape, norm_policy="group", width=width, downsample="stride")
                net, init = ml.functional(module)
                critic = ml.functional(ml.nn.mlp((module.dim, 64, 1)))
                learner = confused(ml.protonet(net, init, ways=20), net, critic, steps=steps, most=most)
                few = ml.protonet(net, init, ways=5)
                run = ml.fit(
                    learner, ml.tasks.Beside(glyphs, other), steps=steps, tasks=1, ways=20, shots=1, queries=5,
                    seed=seed, progress=False,
                )  # fmt: skip
                theta = run.theta["learner"]
                of = {"other domain": other, "glyphs": glyphs} | ({} if across is None else {"across": across})
                scored = {n: 100 * ml.evaluate(few, theta, p, tasks=tasks).mean for n, p in of.items()}
                g = lambda: torch.Generator().manual_seed(10**6)
                with torch.no_grad():
                    z = [net(theta, p.test.sample(20, generator=g()).query.x.flatten(0, 1)) for p in (glyphs, other)]
                scored["A-distance"] = a_distance(*z)
                for n, value in scored.items():
                    rows[way].setdefault(n, []).append(value)
                print(name, way, seed, json.dumps(scored), f"{time.process_time() - began:.0f} s", flush=True)
        found[name] = {
            n: {way: interval(rows[way][n]) for way in rows}
            | {"difference": interval([a - b for a, b in zip(rows["with"][n], rows["without"][n], strict=True)])}
            for n in rows["with"]
        }  # fmt: skip
    settings = {"seeds": seeds, "steps": steps, "width": width, "tasks": tasks}
    return settings | {"domains": found, "cpu seconds": round(time.process_time() - began)}


def told(pair: list[float], digits: int = 3) -> str:
    return f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}"


def words_table(found: dict) -> str:
    lines = ["| P@1 | pairs fitted | nearest | CSLS |", "| --- " * 4 + "|"]
    for name, of in found["languages"].items():
        for n, row in of["P@1 by pairs fitted"].items():
            lines.append(f"| {name} | {n} | {told(row['nearest'])} | {told(row['CSLS'])} |")
    about = "; ".join(
        f"{name}: {of['pairs']} pairs, {of['asked']} asked; `profiles`, told none, {of['right without a pair']:.3f}"
        for name, of in found["languages"].items()
    )
    return "\n".join([*lines, "", f"{about}; {found['draws']} draws, {found['cpu seconds']} s of CPU."]) + "\n"


def pictures_table(found: dict) -> str:
    head = ("other domain", "asked", "without", "with confusion", "difference")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for name, of in found["domains"].items():
        for asked, row in of.items():
            cells = [told(row[k], 2) for k in ("without", "with", "difference")]
            lines.append(f"| {' | '.join([name, asked, *cells])} |")
    about = f"{found['seeds']} seeds, {found['steps']} steps, width {found['width']}, {found['tasks']} test tasks"
    return "\n".join([*lines, "", f"{about}; {found['cpu seconds']} s of CPU."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("words", "pictures"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "alignment.json")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    kept = json.loads(args.out.read_text()) if args.out.exists() else {}
    if args.table:
        page = ROOT / "docs" / "alignment.md"
        for name, table in (("words", words_table), ("pictures", pictures_table)):
            if name in kept:
                page.write_text(filled(page.read_text(), name, table(kept[name]), page.name))
        return
    about = {"machine": machine(), "versions": versions()}
    if args.only != "pictures":
        kept["words"] = words() | {"command": "python benchmarks/alignment.py --only words"} | about
    if args.only != "words":
        options = {n: getattr(args, n) for n in ("seeds", "steps", "width", "tasks")}
        command = "python benchmarks/alignment.py --only pictures" + "".join(f" --{n} {v}" for n, v in options.items())
        kept["pictures"] = pictures(**options) | {"command": command} | about
    args.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
