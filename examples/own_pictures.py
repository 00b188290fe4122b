"""From a folder of pictures to a predictor.

    python examples/own_pictures.py                        draws a folder of three classes to have one
    python examples/own_pictures.py FOLDER PICTURE ...     yours: one sub-folder per class, a few pictures in each

F is meta-trained on the embedded glyphs, so it suits small drawings; for photographs, train on photographs.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

import metaloop as ml


def learn_to_learn(pool: ml.tasks.Pool) -> ml.Run:
    """Meta-train F for some seconds; `metaloop train protonet-glyphs` does it better."""
    net, init = ml.functional(ml.nn.conv4(pool.shape, width=32, norm_policy="running"))
    learner = ml.protonet(net, init, ways=20)
    at_test = ml.protonet(net.eval(), init, ways=5)
    return ml.fit(learner, pool, steps=40, tasks=1, ways=20, queries=5, at_test=at_test, progress=False)


def draw(pool: ml.tasks.Pool, folder: Path) -> tuple[list[Path], list[str]]:
    """Pictures of three characters that F has not seen: four of each to learn from, five of each to ask about."""
    task = pool.test.sample(ways=3, shots=4, queries=5, generator=torch.Generator().manual_seed(0))
    asked, truth = [], []
    for part, data in zip(("known", "asked"), task, strict=True):
        for i, (x, y) in enumerate(zip(data.x[0], data.y[0].tolist(), strict=True)):
            place = folder / part / (f"class-{y}" if part == "known" else "")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((255 - 255 * x[0]).byte().numpy()).save(place / f"{i}.png")
            if part == "asked":
                asked.append(place / f"{i}.png")
                truth.append(f"class-{y}")
    return asked, truth


def main(arguments: list[str]) -> None:
    pool = ml.tasks.glyphs()
    run = learn_to_learn(pool)
    with TemporaryDirectory() as made:
        truth: list[str] = []
        if arguments:
            folder, pictures = Path(arguments[0]), [Path(name) for name in arguments[1:]]
        else:
            folder = Path(made) / "known"
            pictures, truth = draw(pool, Path(made))
        x, y, classes, skipped = ml.tasks.read_folder(folder, pool.shape)
        f = ml.FewShotClassifier(run).fit(x, [classes[k] for k in y])          # f = F(S)
        found = f.predict(torch.stack([ml.tasks.read_image(picture, pool.shape) for picture in pictures]))
    for path, reason in skipped:
        print(f"left out: {path} ({reason})")
    for picture, name in zip(pictures, found, strict=True):
        print(f"{picture.name}: {name}")
    if truth:
        print(f"right: {sum(a == b for a, b in zip(found, truth, strict=True))} of {len(truth)}")


if __name__ == "__main__":
    main(sys.argv[1:])
