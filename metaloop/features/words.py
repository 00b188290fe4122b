"""Texts as the words that they hold, without any learned weights.

    x_w = (1 + log n_w) * (1 + log((1 + N) / (1 + N_w))),      of length 1

for the n_w times that a word w is in the text, and the N_w of N texts that hold it (Salton & Buckley, Term-weighting
approaches in automatic text retrieval, 1988, doi:10.1016/0306-4573(88)90021-0). `fit` takes words and N_w from the
texts that it is given; other words do not count.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Words:
    """Texts as float32 [n, words]. The words are of two letters or more, in lower case."""

    kind = "texts"
    name = "TF-IDF of words"

    def __init__(self, words: Sequence[str] = (), idf: Tensor | None = None):
        self.words, self.idf = list(words), idf

    def fit(self, examples: Sequence[str]) -> "Words":
        counts = _counts()
        try:
            n = counts.fit_transform([str(text) for text in examples])
        except ValueError:  # no words at all
            raise ValueError("the texts hold no word of two letters or more.") from None
        of = np.asarray((n > 0).sum(0)).ravel()
        idf = torch.from_numpy(1 + np.log((1 + n.shape[0]) / (1 + of))).float()
        return Words(counts.get_feature_names_out().tolist(), idf)

    def __call__(self, examples: Sequence[str]) -> Tensor:
        if self.idf is None:
            raise ValueError("TF-IDF: no texts have told which words there are. Call fit(texts) first.")
        n = torch.zeros(len(examples), len(self.words))
        if len(examples):
            n = torch.from_numpy(_counts(self.words).transform([str(text) for text in examples]).toarray()).float()
        x = torch.where(n > 0, 1 + n.clamp_min(1).log(), 0) * self.idf
        return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def spec(self) -> dict[str, Any]:
        return {"features": "tf-idf", "words": self.words}

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.idf is None else {"idf": self.idf}


def _counts(words: Sequence[str] | None = None) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(vocabulary=words)


def build(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Words:
    words, idf = spec.get("words", ()), tensors.get("idf")
    if (idf is None) != (not words) or (idf is not None and idf.shape != (len(words),)):
        raise ValueError("tf-idf: a weight for each word was expected: the predictor's file is damaged.")
    return Words(words, idf)
