"""Sentences and their translations: files of parallel lines, words in pieces, vectors of words, a task a language."""

import gzip
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import Data, Task
from ..targets import DENSITIES
from ..torch_private import pytree
from .files import data_folders
from .pool import Pool, Splits

PAD, START, END, UNKNOWN = range(4)  # as `nn.translator` has them
EXTRA = "translation needs sentencepiece, which is not installed: pip install 'metaloop[translation]'."


def lines(path: str | os.PathLike) -> list[str]:
    """The sentences of a file, one a line; of a .gz too. Raises ValueError if it cannot be read as text in UTF-8, or
    has a line without a word."""
    try:
        read = gzip.open if str(path).endswith(".gz") else open
        with read(path, "rb") as file:
            found = file.read().decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}).") from None
    for i, line in enumerate(found):
        if not line.strip():
            raise ValueError(f"{path}: line {i + 1} is empty. Each line needs a sentence, as its translation has one.")
    return found


def parallel(source: str | os.PathLike, target: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Sentences and their translations, line by line. Raises as `lines`, and if one file has more lines."""
    s, t = lines(source), lines(target)
    if len(s) != len(t):
        raise ValueError(f"{source} has {len(s)} lines, {target} {len(t)}. Line i of one is line i of the other.")
    return s, t


class Vocabulary:
    """Pieces of words (sentencepiece's BPE), learned from some sentences; ids 0 to 3 are `PAD`, `START`, `END` and
    `UNKNOWN`.

    first: what is added to the ids of pieces, so that languages do not share them. Raises ValueError where the extra is
    not installed, and of sentences that are too few for so many pieces.
    """

    def __init__(self, sentences: Iterable[str], pieces: int, *, name: str = "", first: int = 0):
        try:
            import sentencepiece
        except ImportError:
            raise ValueError(EXTRA) from None
        import io

        model, self.name, self.first = io.BytesIO(), name, first
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences), model_writer=model, vocab_size=pieces, model_type="bpe",
                pad_id=PAD, bos_id=START, eos_id=END, unk_id=UNKNOWN, character_coverage=1.0, num_threads=1,
                minloglevel=2,
            )  # fmt: skip
        except RuntimeError as error:
            said = str(error).strip().splitlines()[-1]
            raise ValueError(f"vocabulary {name}: {pieces} pieces cannot be had of these sentences ({said}).") from None
        self.model: Any = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

    def encode(self, sentences: Sequence[str], length: int) -> Tensor:
        """ids [n, length], each sentence cut off at length - 1, then END, then PAD.

        Raises ValueError for a sentence no piece of which is known, as of an alphabet that it has not seen."""
        rows, says_nothing = [], {UNKNOWN, self.model.piece_to_id("▁")}
        for text, said in zip(sentences, self.model.encode(list(sentences)), strict=True):
            if says_nothing.issuperset(said):
                raise ValueError(f"{self.name or 'vocabulary'}: {text!r} is in letters that it has never seen.")
            rows.append([*said[: length - 1], END, *[PAD] * (length - 1 - len(said))])
        ids = torch.tensor(rows)
        return torch.where(ids > UNKNOWN, ids + self.first, ids)

    def decode(self, ids: Tensor) -> list[str]:
        """The sentences of ids [n, length], up to END."""
        return [self.model.decode(_before_end(row, self.first)) for row in ids.tolist()]


def corpus(said: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """BLEU and chrF of a corpus of translations beside one reference each, by sacrebleu, with its signatures.

    BLEU is no mean over sentences: it is the corpus's, so a task's score is that of all its queries together.
    Raises ValueError where the extra is not installed, and unless there are as many of both."""
    try:
        from sacrebleu.metrics import BLEU, CHRF  # type: ignore[attr-defined]
    except ImportError:
        raise ValueError(EXTRA.replace("sentencepiece", "sacrebleu")) from None
    if len(said) != len(texts):
        raise ValueError(f"corpus: {len(said)} translations of {len(texts)} sentences.")
    found: dict[str, Any] = {}
    for name, metric in (("BLEU", BLEU()), ("chrF", CHRF())):
        score = metric.corpus_score(list(said), [list(texts)])
        found |= {name: score.score, f"{name} signature": str(metric.get_signature())}
    return found


def _before_end(row: list[int], first: int) -> list[int]:
    cut = row[: row.index(END)] if END in row else row
    return [piece - first if piece > UNKNOWN else piece for piece in cut if piece not in (PAD, START)]


# Vectors


def vectors(sentences: Tensor, pieces: int, dim: int, window: int = 3) -> np.ndarray:
    """Vectors [pieces, dim], of length one, of pieces by what stands within `window` of them, in sentences [n, length]:
    the singular vectors, times the roots of the singular values, of max(0, log p(a, b) / p(a) p(b))."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import svds

    ids, met = sentences.numpy(), np.zeros(pieces**2)
    for apart in range(1, min(window, ids.shape[1] - 1) + 1):
        a, b = ids[:, :-apart].ravel(), ids[:, apart:].ravel()
        there = (a > UNKNOWN) & (b > UNKNOWN)
        met += np.bincount(a[there] * pieces + b[there], minlength=pieces**2)
    counts = coo_matrix(met.reshape(pieces, pieces) + met.reshape(pieces, pieces).T)
    each, total = np.asarray(counts.sum(1))[:, 0], counts.sum()
    counts.data = np.maximum(0, np.log(counts.data * total / (each[counts.row] * each[counts.col])))
    U, s, _ = svds(counts.tocsr(), k=dim, v0=np.ones(pieces))
    return _unit(U * np.sqrt(s))


def dictionary(source: Tensor, target: Tensor, pieces: int, least: float = 0.3) -> np.ndarray:
    """Pairs [n, 2] of pieces that are each other's likeliest translation, by Dice's measure, 2 n(a, b) / (n(a) + n(b))
    of the pairs of sentences that both are in, `least` at least; each in two sentences or more."""
    from scipy.sparse import csr_matrix

    there = []
    for part in (source, target):
        row, at = np.nonzero(part.numpy() > UNKNOWN)
        m = csr_matrix((np.ones(len(row)), (row, part.numpy()[row, at])), shape=(len(part), pieces))
        m.data[:] = 1.0  # once in a sentence is enough
        there.append(m)
    a, b = (np.asarray(m.sum(0))[0] for m in there)
    dice = 2 * (there[0].T @ there[1]).toarray() / np.maximum(1, a[:, None] + b)
    dice[a < 2] = dice[:, b < 2] = 0
    to, back = dice.argmax(1), dice.argmax(0)
    mutual = np.flatnonzero((back[to] == np.arange(pieces)) & (dice.max(1) >= least))
    return np.stack([mutual, to[mutual]], 1)


def turned(source: np.ndarray, target: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """source R, for the rotation R that takes the pairs' source vectors nearest to their targets (Procrustes)."""
    if not len(pairs):
        return source
    U, _, V = np.linalg.svd(source[pairs[:, 0]].T @ target[pairs[:, 1]])
    return source @ U @ V


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-9)


# Tasks


class Translations(Pool):
    """Tasks of pairs of sentences x = [s, t], int64 [tasks, n, source + target]: each of one language, drawn evenly.

    languages: of each, x [n, source + target]. fixed: a task that is always dealt, instead. y are zeros, the
    log-densities that nothing exceeds, so the loss of f is -log p(t|s), in nats per sentence. source: how long s is;
    keys: the vectors of `nn.Universal`; english: the target's `Vocabulary`; texts: the target's own words of the
    fixed task's queries.
    """

    target = DENSITIES

    def __init__(
        self, languages: dict[str, Tensor], *, name: str, source: int, keys: tuple[Tensor, Tensor], english: Any = None,
        fixed: Task | None = None, texts: Sequence[str] = (), split: str = "",
    ):  # fmt: skip
        self.languages, self.name, self.source, self.keys, self.english = languages, name, source, keys, english
        self.fixed, self.texts, self.split = fixed, texts, split
        self.tasks = None if fixed is None else 1
        x = fixed.support.x[0] if fixed is not None else next(iter(languages.values()))
        self.shape, self.device = tuple(x.shape[1:]), x.device

    def sample(self, tasks=1, ways=1, shots=1, queries=15, generator=None) -> Task:
        """shots and queries: pairs of the language; a fixed task has its own. ways is ignored."""
        self._check_positive(tasks=tasks, shots=shots, queries=queries)
        if self.fixed is not None:
            return Task(*(Data(*(t.expand(tasks, *t.shape[1:]) for t in part)) for part in self.fixed))
        names = [*self.languages]
        if shots + queries > (most := min(map(len, self.languages.values()))):
            raise ValueError(f"{self._call(shots=shots, queries=queries)} has but {most} pairs of one. Ask for fewer.")
        source = {"generator": generator, "device": generator.device if generator is not None else "cpu"}
        found = []
        for i in torch.randint(len(names), (tasks,), **source).tolist():
            x = self.languages[names[i]]
            found.append(x[torch.randperm(len(x), **source)[: shots + queries].to(x.device)])
        x = torch.stack(found)
        y = torch.zeros(*x.shape[:2], 1, device=x.device)
        return Task(Data(x[:, :shots], y[:, :shots]), Data(x[:, shots:], y[:, shots:]))

    def to(self, device) -> "Translations":
        languages = {name: x.to(device) for name, x in self.languages.items()}
        fixed = self.fixed and pytree.tree_map(lambda t: t.to(device), self.fixed)
        how = {"name": self.name, "source": self.source, "keys": self.keys, "english": self.english}
        return Translations(languages, fixed=fixed, texts=self.texts, split=self.split, **how)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(self.languages) or 'one fixed task'}: pairs of shape {self.shape})"


def multi30k(
    root: str | os.PathLike | None = None, *, sources: Sequence[str] = ("de", "fr"), to_learn: str = "cs",
    words: int = 4000, draw: int = 0, pieces: int = 2000, dim: int = 100, length: tuple[int, int] = (48, 40),
    each: int = 10_000, tested: int = 1000,
) -> Splits:  # fmt: skip
    """Captions of Multi30k (Elliott et al. 2016) to translate into English: from `sources` in meta-training, from
    `to_learn` at meta-test, where S are as many pairs as hold `words` English words (draw: which ones), and Q the first
    `tested` lines of test_2016_flickr.

    All languages translate the same English lines, so the lines are divided, and no English sentence is met twice:
    source k has lines k * each .. (k + 1) * each - 1, and S are drawn from the lines behind all of them. Each language
    has a vocabulary of its own of `pieces`, learned from its own lines, and vectors from them, turned to English by a
    dictionary of its pairs; those of `to_learn` from S alone. `val` deals other pairs of the sources.
    root: a folder with a copy of Multi30k's repository as `multi30k`, METALOOP_DATA unless given; nothing is fetched.
    length: of s and t in pieces. Raises ValueError if files are missing, or of different lengths, or have empty lines,
    if there are not so many lines, and where sentencepiece is not installed: the extra `translation`.
    """
    places = [p / "data" / "task1" / "raw" for p in data_folders("multi30k", root)]
    folder = next((p for p in places if p.is_dir()), None)
    if folder is None:
        where = ", ".join(str(p) for p in places)
        raise ValueError(f"multi30k: no data at {where}. Set METALOOP_DATA to a folder that holds the repository.")

    def pairs(part: str, language: str) -> tuple[list[str], list[str]]:
        return parallel(*(_file(folder, f"{part}.{of}") for of in (language, "en")))

    names, S_length, T_length = [*sources, to_learn], *length
    train = {name: pairs("train", name) for name in names}
    n, behind = len(train[to_learn][0]), each * len(sources)
    if behind >= n:
        raise ValueError(f"multi30k: {len(sources)} languages of {each} lines leave none of {n} for {to_learn}.")
    own = {name: range(k * each, (k + 1) * each) for k, name in enumerate(sources)} | {to_learn: range(behind, n)}
    english_lines = train[to_learn][1]
    english = Vocabulary(english_lines[:behind], pieces, name="en")
    learned = {
        name: Vocabulary([train[name][0][i] for i in own[name]], pieces, name=name, first=k * pieces)
        for k, name in enumerate(names)
    }  # fmt: skip

    def encoded(name: str, s: Sequence[str], t: Sequence[str]) -> tuple[Tensor, Tensor]:
        return learned[name].encode(s, S_length), english.encode(t, T_length)

    drawn = own[to_learn][0] + torch.randperm(n - behind, generator=torch.Generator().manual_seed(draw))
    chosen, held = [], 0
    for i in drawn.tolist():
        if held >= words:
            break
        chosen.append(i)
        held += len(english_lines[i].split())
    taught = {name: [*own[name]] for name in sources} | {to_learn: chosen}
    data = {
        name: encoded(name, *([part[i] for i in of] for part in train[name])) for name, of in taught.items()
    }  # fmt: skip
    v = vectors(english.encode(english_lines[:behind], T_length), pieces, dim)
    keys = torch.zeros(len(names) * pieces, dim)
    for name, vocabulary in learned.items():
        alone = vocabulary.encode([train[name][0][i] for i in own[name]], S_length)
        local = lambda ids, first=vocabulary.first: torch.where(ids > UNKNOWN, ids - first, ids)
        s, t = data[name]
        u = turned(vectors(local(alone), pieces, dim), v, dictionary(local(s), t, pieces))
        keys[vocabulary.first + UNKNOWN + 1 : vocabulary.first + pieces] = torch.from_numpy(u[UNKNOWN + 1 :]).float()
    common = {"name": "multi30k", "source": S_length, "keys": (keys, torch.from_numpy(v).float()), "english": english}
    whole = {name: torch.cat(both, 1) for name, both in data.items()}
    part = {"train": slice(0, each - each // 20), "val": slice(each - each // 20, each)}
    train_pool, val_pool = (
        Translations({name: whole[name][cut] for name in sources}, split=split, **common) for split, cut in part.items()
    )
    s, t = (side[:tested] for side in pairs("test_2016_flickr", to_learn))
    query = torch.cat(encoded(to_learn, s, t), 1)
    task = Task(*(Data(x[None], torch.zeros(1, len(x), 1)) for x in (whole[to_learn], query)))
    test_pool = Translations({}, fixed=task, texts=t, split="test", **common)
    return Splits(train_pool, val_pool, test_pool)


def _file(folder: Path, name: str) -> Path:
    found = next((folder / f"{name}{end}" for end in ("", ".gz") if (folder / f"{name}{end}").is_file()), None)
    if found is None:
        raise ValueError(f"multi30k: {folder} holds no {name}.gz.")
    return found
