#!/bin/sh
# sacrebleu 2.6.0: a corpus whose sentences have three words each scores 0 BLEU though every one is right, as there is
# no 4-gram; a few-shot task of short captions is such a corpus. sentence_bleu, which leaves out orders that are
# not there, says 100 of each of them.
# guess (missed): what is right word by word scores 100, with a warning perhaps.
# seen: corpus 0.0, sentence 100.0, corpus with effective_order 100.0; one sentence of four words among them: 100.0.
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq sacrebleu==2.6.0
cd "$there"
env/bin/python - <<'END'
import sacrebleu
from sacrebleu.metrics import BLEU

three, four = ["two dogs run", "a man sings", "children play outside"], ["a red car stops"]
told = [
    sacrebleu.corpus_bleu(three, [three]).score, sacrebleu.sentence_bleu(three[0], [three[0]]).score,
    BLEU(effective_order=True).corpus_score(three, [three]).score,
    sacrebleu.corpus_bleu(three + four, [three + four]).score,
]
told = [round(score, 6) for score in told]
print(told)
assert told == [0.0, 100.0, 100.0, 100.0]
END
