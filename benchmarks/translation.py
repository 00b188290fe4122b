"""What few sentences are worth to a translator: MetaNMT, ordinary training on other languages, and none, by BLEU.

    metaloop train meta-translation-multi30k --budget quick --seed 0 --out runs/meta          and so on
    python benchmarks/translation.py runs/meta runs/multilingual runs/scratch [--words 4000 16000] [--draws 3]
    python benchmarks/translation.py --full de --steps 4000                                   a check of the stack

Each run is fine-tuned on draws of Czech captions with their English, on all that moves, on embeddings and encoder, and
on embeddings alone; it translates the first thousand captions of test_2016_flickr word by word, or by a beam. BLEU and
chrF are those of the whole corpus, with sacrebleu's signatures; the first run is compared with each other one by a
paired bootstrap over sentences, and over draws in pairs. --full trains the same network on all pairs of one language.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
from told import interval

import metaloop as ml
from metaloop.core import Data, Task
from metaloop.engine.run import machine, versions
from metaloop.nn.functional import at_meta_test
from metaloop.targets import DENSITIES
from metaloop.tasks.translation import Vocabulary, corpus, parallel

ROOT = Path(__file__).resolve().parent.parent
MOVES = ("all", "embedding+encoder", "embedding")


def translated(f, x: torch.Tensor, source: int, english, width: int, length: int = 40) -> list[str]:
    """A hundred sentences at a time."""
    said = []
    with torch.no_grad(), at_meta_test():
        for part in x.split(100):
            said += english.decode(f.translate(part[:, :source], length=length, width=width))
    return said


def bootstrap(ours: list[str], theirs: list[str], texts: list[str], draws: int = 1000) -> dict:
    """BLEU of ours - theirs: the 95 % interval over resampled sentences."""
    from sacrebleu.metrics import BLEU

    metric, g = BLEU(), torch.Generator().manual_seed(0)
    found = []
    for _ in range(draws):
        i = torch.randint(len(texts), (len(texts),), generator=g).tolist()
        at = lambda said: metric.corpus_score([said[j] for j in i], [[texts[j] for j in i]]).score  # noqa: B023
        found.append(at(ours) - at(theirs))
    low, high = torch.tensor(found).quantile(torch.tensor([0.025, 0.975])).tolist()
    return {"low": low, "high": high, "mean": sum(found) / draws}


def learned(run: ml.Run, pool, moves: str, steps: int | None):
    """The run, fine-tuned on the pool's fixed task; the keys of its language are that draw's."""
    theta = {**run.theta}
    if "source.keys" in theta:
        theta["source.keys"] = pool.test.keys[0].to(theta["source.keys"])
    learner = run.plan.at_test(1, moves=moves, **({} if steps is None else {"inner_steps": steps}))
    S = Data(*(t[0] for t in pool.test.fixed.support))
    with torch.no_grad(), at_meta_test():
        return learner.adapt(theta, S)


def few(args) -> dict:
    runs = [ml.open_run(folder) for folder in args.runs]
    rows, said = [], {}
    for words in args.words:
        for draw in range(args.draws):
            pool = ml.tasks.multi30k(words=words, draw=draw)
            test = pool.test
            x, texts = test.fixed.query.x[0][: args.tested], list(test.texts)[: args.tested]
            for k, run in enumerate(runs):
                ways = [("zero-shot", 0), *((moves, args.fine_tune) for moves in MOVES)]
                for moves, steps in ways:
                    began = time.process_time()
                    f = learned(run, pool, "all" if steps == 0 else moves, steps)
                    out = translated(f, x, test.source, test.english, args.width)
                    said[words, draw, k, moves] = out
                    about = {n: run.info[n] for n in ("recipe", "budget", "steps", "seed")}
                    row = {
                        "run": about, "words": words, "pairs": len(test.fixed.support.x[0]), "draw": draw,
                        "moves": moves, **corpus(out, texts), "cpu seconds": round(time.process_time() - began, 1),
                    }  # fmt: skip
                    rows.append(row)
                    print(f"{about['recipe']}, {words} words, draw {draw}, {moves}: BLEU {row['BLEU']:.2f}", flush=True)
    compared = []
    for words in args.words:
        for k in range(1, len(runs)):
            for moves in MOVES:
                of = [[r["BLEU"] for r in rows if r["words"] == words and r["moves"] == moves
                       and r["run"]["recipe"] == run.info["recipe"] and r["run"]["seed"] == run.info["seed"]]
                      for run in (runs[0], runs[k])]  # fmt: skip
                less = [a - b for a, b in zip(*of, strict=True)]
                compared.append({
                    "words": words, "moves": moves, "other": f"{runs[k].info['recipe']}, seed {runs[k].info['seed']}",
                    "first - other, over draws": interval(less) if len(less) > 1 else less,
                    "over sentences, draw 0": bootstrap(
                        said[words, 0, 0, moves], said[words, 0, k, moves], texts, args.resamples
                    ),
                })  # fmt: skip
    return {"rows": rows, "compared": compared, "width": args.width, "fine-tuning steps": args.fine_tune}


class Whole(ml.tasks.Pool):
    """Batches of all pairs x [n, 88]."""

    name, target, device = "whole", DENSITIES, torch.device("cpu")

    def __init__(self, x: torch.Tensor):
        self.x, self.shape, self.device = x, tuple(x.shape[1:]), x.device

    def sample(self, tasks=1, ways=1, shots=1, queries=15, generator=None):
        drawn = self.x[torch.randint(len(self.x), (tasks, shots + queries), generator=generator).to(self.x.device)]
        parts = drawn[:, :shots], drawn[:, shots:]
        return Task(*(Data(part, torch.zeros(*part.shape[:2], 1, device=part.device)) for part in parts))

    def to(self, device) -> "Whole":
        return Whole(self.x.to(device))


def full(args) -> dict:
    """All pairs of one language, by ordinary training of a network of twice the width."""
    folder, (S, T), pieces = Path(os.environ["METALOOP_DATA"]) / "multi30k" / "data" / "task1" / "raw", (48, 40), 4000
    pairs = {
        part: parallel(folder / f"{part}.{args.full}.gz", folder / f"{part}.en.gz")
        for part in ("train", "test_2016_flickr")
    }  # fmt: skip
    (s, t), (test_s, texts) = pairs["train"], pairs["test_2016_flickr"]
    source, english = Vocabulary(s, pieces, name=args.full), Vocabulary(t, pieces, name="en")
    x = torch.cat([source.encode(s, S), english.encode(t, T)], 1)
    net, init = ml.functional(ml.nn.Transformer(pieces, pieces, dim=256, layers=3, hidden=512))
    learner = ml.meta_translation(net, init, source=S, inner_lr=0.0, inner_steps=0, joint=True)
    rate = lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: min((t + 1) / 1000, (1000 / (t + 1)) ** 0.5))
    run = ml.fit(
        learner, Whole(x), steps=args.steps, tasks=1, ways=1, shots=1, queries=128, clip=1.0, schedule=rate,
        optimizer=lambda p: torch.optim.Adam(p, lr=7e-4), device=args.device, progress=False,
    )  # fmt: skip
    theta = {n: p.cpu() for n, p in run.theta.items()}
    with torch.no_grad(), at_meta_test():
        f = learner.adapt(theta, Data(x[:1], torch.zeros(1, 1)))
    asked, texts = source.encode(test_s[: args.tested], S), texts[: args.tested]
    told = {"language": args.full, "pairs": len(x), "steps": args.steps, "seconds": round(run.seconds, 1)}
    for width in (1, 4):
        told[f"width {width}"] = corpus(translated(f, asked, S, english, width), texts)
        print(f"{args.full}, all pairs, width {width}: BLEU {told[f'width {width}']['BLEU']:.2f}", flush=True)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--words", type=int, nargs="+", default=[4000, 16_000], help="of English to learn from")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--tested", type=int, default=1000)
    parser.add_argument("--width", type=int, default=1, help="of the beam; 1 is greedy")
    parser.add_argument("--fine-tune", type=int, help="steps; as the run's recipe says unless given")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--full", metavar="LANGUAGE")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "translation.json")
    args = parser.parse_args()
    if not args.runs and not args.full:
        parser.error("give runs, or --full de.")
    before = json.loads(args.out.read_text()) if args.out.exists() else {}
    name, told = ("full", full(args)) if args.full else ("few", few(args))
    about = {"machine": machine(), "versions": versions()}
    args.out.write_text(json.dumps({**before, **about, name: told}, indent=1) + "\n")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
