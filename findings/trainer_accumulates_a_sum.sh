#!/bin/sh
# transformers 5.18.0, accelerate 1.15.0, torch 2.13.0: Trainer divides an accumulated gradient by the number of
# accumulation steps unless the model's forward takes **kwargs: such a model is believed to use num_items_in_batch
# itself. One that takes **kwargs and returns a mean, as a wrapper does, gets the gradient times
# gradient_accumulation_steps. (The default max_grad_norm=1 hides it from the weights, and Adam does.)
# guess (missed): four batches of 2 and one batch of 8 give the same step, whatever forward's signature.
# seen: forward(x, labels): the step of 4 x 2 over that of 1 x 8 is 1.00; forward(x, labels, **kwargs): 4.00
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6 transformers==5.18.0 accelerate==1.15.0
cd "$there"
env/bin/python - <<'END'
import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from transformers import Trainer, TrainingArguments


class Plain(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x, labels=None):
        return {"loss": (x @ self.w - labels).square().mean()}


class Wrapped(Plain):
    def forward(self, x, labels=None, **kwargs):
        return super().forward(x, labels)


def step(model, batch, accumulate):
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 2, generator=random), torch.randn(8, generator=random)
    arguments = TrainingArguments(
        tempfile.mkdtemp(dir="."), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate,
        max_steps=1, max_grad_norm=0.0, lr_scheduler_type="constant", report_to=[], use_cpu=True, disable_tqdm=True,
        save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    data = [{"x": a, "labels": b} for a, b in zip(x, y)]
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    Trainer(model, arguments, train_dataset=data, optimizers=(sgd, None)).train()
    return model.w.detach()


for model, factor in ((Plain, 1.0), (Wrapped, 4.0)):
    ratio = step(model(), 2, 4) / step(model(), 8, 1)
    print(model.__name__, ratio.tolist())
    assert torch.allclose(ratio, torch.full((2,), factor), atol=1e-3)
END
