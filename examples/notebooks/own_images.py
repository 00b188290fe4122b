# %% [markdown]
# # Pictures of your own
# A few labelled pictures S are enough for a predictor f: nothing is trained here, and no run is needed. In place of the
# drawn pictures below take yours, as PIL images or files, with the name of each one's class.

# %%
import random

from PIL import Image, ImageDraw

import metaloop as ml

SHAPES = ("ring", "box", "slash")


def picture(shape: str, dice: random.Random) -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    x, y, size = dice.randint(4, 20), dice.randint(4, 20), dice.randint(28, 40)
    colour, where = tuple(dice.randint(0, 120) for _ in range(3)), (x, y, x + size, y + size)
    pen = ImageDraw.Draw(image)
    if shape == "slash":
        pen.line(where, fill=colour, width=5)
    else:
        {"ring": pen.ellipse, "box": pen.rectangle}[shape](where, outline=colour, width=5)
    return image


dice = random.Random(0)
names = [name for name in SHAPES for _ in range(5)]
pictures = [picture(name, dice) for name in names]

# %% [markdown]
# f = F(S). What it compares pictures by, and how sure it may be, is chosen by holding each picture out in turn.

# %%
f = ml.FewShotClassifier().fit(pictures, names)

# %% [markdown]
# Pictures that it has not seen, each with the probabilities of the classes.

# %%
truth = [name for name in SHAPES for _ in range(4)]
asked = [picture(name, dice) for name in truth]
for name, p in zip(truth[::4], f.predict_proba(asked[::4]), strict=True):
    print(name, {str(c): round(float(q), 2) for c, q in zip(f.classes_, p, strict=True)})
print(f"right: {sum(a == b for a, b in zip(f.predict(asked), truth, strict=True))} of {len(truth)}")
