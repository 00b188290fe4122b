"""Examples of one's own, without a run: how good the predictor is, and whether what it says of itself is so.

    python benchmarks/own.py [--kinds cifar10 ...] [--shots 1 3 5 10] [--draws 40] [--plain]
    python benchmarks/own.py --cost       CPU time of adapting to 200 pictures, to results/adapt-cost.json

Each draw takes `ways` classes of a kind, `shots` pictures of each to adapt to and fifty others to ask of (what is left
of twenty where a class has no more: omniglot), and as many classes that are none of these as are left, up to as many.
Written, for each number of shots, to results/own-KIND.json (with --plain, which leaves out features that need an extra,
to results/own-KIND-plain.json): the share that is right, beside that of the nearest picture by its 32 x 32 pixels; the
calibration error in 15 bins; the area under the curve of known against unknown; the share that `adapt` expects to be
right, half of its 95 % interval, and in how many draws that interval, widened by the 95 % interval of the pictures
asked, holds the share that is right; how often the 90 % sets hold the true class, and how large they are; the share of
unknown pictures that are taken for a class at a stated rate of 10 % and of 20 %, and of its own that still are; in what
share of draws such a rate is promised at all.

Pictures are looked for in METALOOP_DATA: cifar10/cifar10-test-jpg.zip, fashion_mnist/t10k-*.gz,
omniglot/images_evaluation.zip, mini_imagenet/*.zip. Kinds that are not there are left out.
"""

import argparse
import gzip
import json
import math
import os
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from told import filled, interval
from torch import Tensor

import metaloop as ml
from metaloop.engine.run import machine, versions
from metaloop.features import at_hand, efficientnet
from metaloop.own.choose import WITHOUT_LEARNING, independent, outlook
from metaloop.own.pictures import read_classes
from metaloop.own.predictor import key, remade
from metaloop.report.calibration import auroc, ece

ROOT = Path(__file__).resolve().parent.parent
ASKED, WAYS = 50, 20  # pictures of a class that are asked of, and classes, at most
COVERAGE, RATES = 0.9, (0.1, 0.2)


def zipped(path: Path, suffix: str, most: int) -> dict[str, list[Image.Image]]:
    """The first pictures of each folder in an archive."""
    found: dict[str, list[Image.Image]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(suffix) and len(found.setdefault(str(Path(name).parent), [])) < most:
                found[str(Path(name).parent)].append(Image.open(BytesIO(archive.read(name))).convert("RGB"))
    return found


def cifar10(root: Path, most: int):
    return zipped(root / "cifar10" / "cifar10-test-jpg.zip", ".jpg", most)


def fashion(root: Path, most: int):
    folder = root / "fashion_mnist"
    x, y = (
        np.frombuffer(gzip.decompress((folder / f"t10k-{name}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for name, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    x = x.reshape(-1, 28, 28)
    return {str(k): [Image.fromarray(i).convert("RGB") for i in x[y == k][:most]] for k in range(10)}


def omniglot(root: Path, most: int):
    every = zipped(root / "omniglot" / "images_evaluation.zip", ".png", most)
    return {name: every[name] for name in sorted(every)[:: len(every) // (2 * WAYS)]}


def mini_imagenet(root: Path, most: int):
    pool = ml.tasks.mini_imagenet(root)
    found = {}
    for part in (pool.test, pool.val):
        starts = part.counts.cumsum(0) - part.counts
        for name, start in zip(part.names, starts.tolist(), strict=True):
            rows = part.images[start : start + most].permute(0, 2, 3, 1).numpy()
            found[name] = [Image.fromarray(row) for row in rows]
    return found


KINDS = {"cifar10": cifar10, "fashion": fashion, "omniglot": omniglot, "mini_imagenet": mini_imagenet}


def draws(z: dict[str, Tensor], shots: int, n: int) -> Iterator[tuple]:
    """(S, Q, U, y of S, y of Q), each a table of vectors: known classes' and unknown classes' pictures."""
    classes, pictures = next(iter(z.values())).shape[:2]
    ways = min(WAYS, classes * 2 // 3)
    for seed in range(n):
        g = torch.Generator().manual_seed(seed)
        order = torch.randperm(classes, generator=g)
        rows = torch.stack([torch.randperm(pictures, generator=g) for _ in range(classes)])
        known, unknown = order[:ways], order[ways : 2 * ways]

        def take(these: Tensor, low: int, high: int, rows: Tensor = rows) -> dict[str, Tensor]:
            index = rows[these, low:high]
            return {name: v[these[:, None], index].flatten(0, 1) for name, v in z.items()}

        y, asked = torch.arange(ways), min(ASKED, pictures - shots)
        S, Q = take(known, 0, shots), take(known, shots, shots + asked)
        yield S, Q, take(unknown, 0, ASKED), y.repeat_interleave(shots), y.repeat_interleave(asked)


def holds(stated: tuple[float, float, float], right: Tensor) -> bool:
    """Whether a share and its 95 % interval (mid, low, high) hold that of which `right` [K, q] are answers, which has
    noise of its own: that of q pictures of each of K classes, by which the interval is widened."""
    mid, low, high = stated
    share, (K, q) = right.mean(1), right.shape
    noise = 1.959964 * math.sqrt(float((share * (1 - share)).sum()) / (q - 1)) / K
    return mid - math.hypot(mid - low, noise) <= float(share.mean()) <= mid + math.hypot(high - mid, noise)


def measure(features, z: dict[str, Tensor], pixels: str, shots: int, n: int) -> dict:
    """One row: see above."""
    p, right, truth, areas, nearest, held, stated, sizes, hits, seconds, worth = ([] for _ in range(11))
    taken: dict[float, list[float]] = {rate: [] for rate in RATES}
    kept: dict[float, list[float]] = {rate: [] for rate in RATES}
    chosen: Counter[str] = Counter()
    for S, Q, U, y, yq in draws(z, shots, n):
        classes = [f"{k:03d}" for k in range(int(y.max()) + 1)]
        names = [str(i) for i in range(len(y))]
        began = time.process_time()
        f = remade("pictures", classes, features, {key(x): S[key(x)] for x in features}, y, names, names)
        seconds.append(time.process_time() - began)
        told = lambda part: {m: part[m].double() for m in f.used}  # noqa: B023
        a, u = f.of(told(Q)), f.of(told(U))
        right.append(a.p.argmax(1) == yq)
        p.append(a.p)
        truth.append(yq)
        areas.append(auroc(a.known, u.known))
        nearest.append(float((y[(Q[pixels] @ S[pixels].T).argmax(1)] == yq).double().mean()))
        chosen[f"{f.choice.head}: " + ", ".join(f"{m} {s:.2f}" for m, s in f.choice.features.items())] += 1
        if f.choice.held:
            stated.append(outlook(f.choice, f.y))
            held.append(holds(stated[-1], right[-1].double().unflatten(0, (len(classes), -1))))
            with suppress(ValueError):
                sets = f.sets(a.p, COVERAGE)
                hits.append(np.mean([int(k) in s for k, s in zip(yq, sets, strict=True)]))
                sizes.append(np.mean([len(s) for s in sets]))
        worth.append(independent(torch.tensor(f.choice.strangers, dtype=torch.float64), f.y))
        for rate in RATES:
            with suppress(ValueError):  # too few to promise that
                taken[rate].append(float((u.known > f.threshold(rate)).double().mean()))
                kept[rate].append(float((a.known > f.threshold(rate)).double().mean()))
    share = np.array([float(r.double().mean()) for r in right])
    mean = lambda values: round(float(np.mean(values)), 4) if values else None
    return {
        "shots": shots, "ways": len(classes), "draws": n, "accuracy": round(float(share.mean()), 4),
        "ci95": round(interval(share)[1], 4) if n > 1 else None,
        "pixels_nearest": mean(nearest),
        "calibration_error": round(ece(torch.cat(p).amax(1), torch.cat(right)), 4),
        "log_loss": round(float(F.nll_loss(torch.cat(p).clamp_min(1e-12).log(), torch.cat(truth))), 4),
        "auroc_unknown": mean(areas), "set_coverage_90": mean(hits),
        "set_size_90": mean(sizes), "choosing_seconds": mean(seconds), "asked_of_a_class": len(yq) // len(classes),
        "expected": mean([mid for mid, _, _ in stated]), "interval_holds": mean(held),
        "interval_half": mean([(high - low) / 2 for _, low, high in stated]),
        "strangers_count_as": mean(worth),
        **{f"false_accept_at_{100 * r:.0f}": mean(v) for r, v in taken.items()},
        **{f"accept_at_{100 * r:.0f}": mean(v) for r, v in kept.items()},
        **{f"promised_at_{100 * r:.0f}": round(len(v) / n, 4) for r, v in taken.items()},
        "chosen": dict(chosen.most_common(3)),
    }  # fmt: skip


def cost(root: Path, times: int = 5) -> dict:
    """CPU seconds of what `adapt` does with 200 pictures, on one thread, and in turns of forward passes over 200
    pictures, by EfficientNet as its weights are published and by the quicker form that `adapt` makes of it. The batches
    are small, with which both are quickest. The pictures are mini-ImageNet's, ten of each class, enlarged to JPEG of
    500 x 375."""
    torch.set_num_threads(1)
    nets = (efficientnet.pretrained(), torch.contiguous_format), (efficientnet._quick(), torch.channels_last)
    shown, found = torch.zeros(200, 3, efficientnet.SIZE, efficientnet.SIZE), []
    with TemporaryDirectory() as folder, torch.no_grad():
        for name, pictures in list(mini_imagenet(root, 10).items())[:20]:
            (Path(folder) / name).mkdir()
            for i, picture in enumerate(pictures):
                picture.resize((500, 375), Image.Resampling.BICUBIC).save(Path(folder) / name / f"{i}.jpg", quality=92)
        for _ in range(times + 1):
            at = [time.process_time()]
            for net, order in nets:
                for part in shown.split(efficientnet.BATCH):
                    net(part.contiguous(memory_format=order))
                at.append(time.process_time())
            own, y, classes = read_classes(Path(folder))
            at.append(time.process_time())
            features = at_hand("pictures", own.images)
            z = {key(f): F.normalize(f(own.images).float(), dim=1) for f in features}
            at.append(time.process_time())
            remade("pictures", classes, features, z, torch.tensor(y), own.digests, own.digests)
            at.append(time.process_time())
            found.append(np.diff(at))
    seconds = np.array(found[1:])  # the first is for warming up
    names = ("forward passes", "forward passes, quicker form", "adapt: reading", "adapt: features", "adapt: choosing")
    ratio, quicker = (seconds[:, 2:].sum(1) / seconds[:, i] for i in (0, 1))
    return {
        "what": "CPU seconds of adapting to 200 photographs of 20 classes", "times": times,
        "seconds": {n: round(float(s), 3) for n, s in zip(names, np.median(seconds, 0), strict=True)},
        "ratio": [round(float(r), 3) for r in ratio], "ratio to quicker form": [round(float(r), 3) for r in quicker],
        "versions": versions(), "machine": machine(),
    }  # fmt: skip


def page() -> str:
    """docs/own-pictures.md with its table and cost made anew, of all results that there are."""
    percent = lambda v: "" if v is None else f"{100 * v:.0f}"

    def let_in(r: dict, at: int) -> str:
        promised = r[f"promised_at_{at}"]
        return percent(r[f"false_accept_at_{at}"]) + (f" ({percent(promised)})" if 0 < promised < 1 else "")

    def expects(r: dict) -> str:
        return "" if r["expected"] is None else f"{percent(r['expected'])} ± {percent(r['interval_half'])}"

    head = ("pictures", "features", "ways, shots", "right ± 95 %", "nearest by pixels", "calibration error",
            "AUROC of unknown", "let in, at 10 %", "at 20 %", "90 % sets hold", "expects",
            "its interval holds")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    most = {round(100 * rate): (-1.0, "") for rate in RATES}
    held = []
    for path in sorted((ROOT / "results").glob("own-*.json")):
        told = json.loads(path.read_text())
        for r in told["rows"]:
            features = "plain" if path.stem.endswith("plain") else "photos"
            for at in most:
                if (value := r[f"false_accept_at_{at}"]) is not None and value > most[at][0]:
                    most[at] = value, (f"{told['kind']}, {features}, {r['ways']} classes of {r['shots']}, accepted in "
                                       f"{percent(r[f'promised_at_{at}'])} of a hundred draws")  # fmt: skip
            held += [] if r["interval_holds"] is None else [r["interval_holds"]]
            cells = (told["kind"], features, f"{r['ways']}, {r['shots']}",
                     f"{percent(r['accuracy'])} ± {percent(r['ci95'])}", percent(r["pixels_nearest"]),
                     percent(r["calibration_error"]), f"{r['auroc_unknown']:.2f}", let_in(r, 10),
                     let_in(r, 20), percent(r["set_coverage_90"]), expects(r),
                     percent(r["interval_holds"]))  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    worst = (f"{percent(value)} at {at} % ({where})" for at, (value, where) in most.items() if where)
    lines += ["", f"The most that was let in: {'; '.join(worst)}."]
    lines += ["", f"The interval held in {percent(min(held))} to {percent(max(held))} of a hundred draws, in "
                  f"{percent(np.mean(held))} on the average."]  # fmt: skip
    path = ROOT / "docs" / "own-pictures.md"
    text = filled(path.read_text(), "own", "\n".join(lines) + "\n", path.name)
    told = json.loads((ROOT / "results" / "adapt-cost.json").read_text())
    times = lambda ratio: f"{np.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f} in {told['times']} tries)"
    spent = (
        "Adapting to 200 pictures of 84 x 84, enlarged to JPEG of 500 x 375, 20 classes, takes "
        f"{times(told['ratio'])} times the CPU time of the network's own forward passes over 200 pictures, and "
        f"{times(told['ratio to quicker form'])} times that of the quicker form which `adapt` makes of the network "
        "(importing torch not counted; `python benchmarks/own.py --cost`)."
    )
    return filled(text, "cost", spent + "\n", path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 3, 5, 10])
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--plain", action="store_true", help="without features that need an extra")
    parser.add_argument("--out", type=Path, default=ROOT / "results")
    parser.add_argument("--cost", action="store_true", help="only measure CPU time")
    args = parser.parse_args()
    root = Path(os.environ.get("METALOOP_DATA", ""))
    if args.cost:
        (args.out / "adapt-cost.json").write_text(json.dumps(cost(root), indent=1, default=str) + "\n")
        args.kinds = []
    for kind in args.kinds:
        try:
            pictures = KINDS[kind](root, max(args.shots) + ASKED)
        except (OSError, ValueError) as error:
            print(f"{kind}: left out ({error})")
            continue
        every = [image for images in pictures.values() for image in images]
        features = [f for f in at_hand("pictures", every) if not args.plain or key(f).startswith(WITHOUT_LEARNING)]
        began = time.process_time()
        z = {key(f): F.normalize(f(every).float(), dim=1).unflatten(0, (len(pictures), -1)) for f in features}
        spent = (time.process_time() - began) / len(every)
        pixels = next(key(f) for f in features if key(f).startswith("pixels"))
        rows = []
        for shots in args.shots:
            rows.append(measure(features, z, pixels, shots, args.draws))
            print(kind, json.dumps(rows[-1]), flush=True)
            told = {
                "what": "own pictures, no run", "kind": kind, "features": [f.name for f in features],
                "features_seconds_per_picture": round(spent, 4), "rows": rows, "versions": versions(),
                "machine": machine(),
            }  # fmt: skip
            path = args.out / f"own-{kind}{'-plain' if args.plain else ''}.json"
            path.write_text(json.dumps(told, indent=1, default=str) + "\n")
    (ROOT / "docs" / "own-pictures.md").write_text(page())


if __name__ == "__main__":
    main()
