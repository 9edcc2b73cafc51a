"""Answers against references, the way others count, so that figures can be compared.

exact match, F1   CMRC2018's own script: punctuation left out, longest common run of characters (Latin: words)
BLEU-4            sacrebleu, tokenize "zh", corpus level, exponential smoothing
ROUGE-1, -2, -L   rouge-chinese over jieba's words: sets of n-grams, longest common subsequence

Each is tested to be equal to its reference to 1e-6. All values lie between 0 and 1.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』…")
_SEGMENT = re.compile(r"[\u4e00-\u9fa5]|[^\u4e00-\u9fa5\s]+")


# ------------------------------------------------------------------ CMRC2018


def _segments(text: str) -> list[str]:
    """Chinese characters one by one, the rest as words; punctuation left out."""
    bare = "".join(c for c in text.lower().strip() if c not in _PUNCTUATION)
    return _SEGMENT.findall(bare)


def exact_match(text: str, references: Sequence[str]) -> float:
    """1 if the text is one of the references, punctuation, case and white space at the ends aside."""

    def bare(value: str) -> str:
        return "".join(c for c in value.lower().strip() if c not in _PUNCTUATION)

    return float(any(bare(text) == bare(reference) for reference in references))


def char_f1(text: str, references: Sequence[str]) -> float:
    """The best over the references of CMRC2018's F1: the longest run that both have, against both lengths."""
    best = 0.0
    said = _segments(text)
    for reference in references:
        wanted = _segments(reference)
        common = _longest_run(said, wanted)
        if common:
            precision, recall = common / len(said), common / len(wanted)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def _longest_run(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest run of equal items."""
    best = 0
    before = [0] * (len(b) + 1)
    for item in a:
        row = [0] * (len(b) + 1)
        for j, other in enumerate(b, 1):
            if item == other:
                row[j] = before[j - 1] + 1
                best = max(best, row[j])
        before = row
    return best


def contains(text: str, references: Sequence[str]) -> float:
    """1 if one of the references stands in the text, white space and punctuation aside."""
    said = "".join(_segments(text))
    return float(any("".join(_segments(r)) in said for r in references if _segments(r)))


# ------------------------------------------------------------------ BLEU

_ALONE = (
    ("\u3400", "\u4db5"), ("\u4e00", "\u9fa5"), ("\u9fa6", "\u9fbb"), ("\uf900", "\ufa2d"), ("\ufa30", "\ufa6a"),
    ("\ufa70", "\ufad9"), ("\u2001", "\u2a6d"), ("\uff00", "\uffef"), ("\u2e80", "\u2eff"), ("\u3000", "\u303f"),
    ("\u31c0", "\u31ef"), ("\u2f00", "\u2fdf"), ("\u2ff0", "\u2fff"), ("\u3100", "\u312f"), ("\u31a0", "\u31bf"),
    ("\ufe10", "\ufe1f"), ("\ufe30", "\ufe4f"), ("\u3200", "\u33ff"),
)  # fmt: skip
"""Characters that are a token each, as sacrebleu has them."""
_SPLITS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


@cache
def _alone(c: str) -> bool:
    return any(low <= c <= high for low, high in _ALONE)


def bleu_tokens(text: str) -> list[str]:
    """Tokens as sacrebleu's "zh" tokeniser makes them."""
    spaced = "".join(f" {c} " if _alone(c) else c for c in text.strip())
    for pattern, by in _SPLITS:
        spaced = pattern.sub(by, spaced)
    return spaced.split()


def bleu4(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU with up to four tokens, 0 to 1 (sacrebleu's score divided by 100)."""
    right, total = [0] * 4, [0] * 4
    said_length = wanted_length = 0
    for text, wanted in zip(texts, references, strict=True):
        said = bleu_tokens(text)
        others = [bleu_tokens(reference) for reference in wanted]
        said_length += len(said)
        wanted_length += min((abs(len(o) - len(said)), len(o)) for o in others)[1]
        for n in range(1, 5):
            counts = _grams(said, n)
            best: Counter[tuple[str, ...]] = Counter()
            for other in others:
                best |= _grams(other, n)
            right[n - 1] += sum((counts & best).values())
            total[n - 1] += sum(counts.values())
    return _bleu(right, total, said_length, wanted_length)


def _bleu(right: list[int], total: list[int], said: int, wanted: int) -> float:
    """The geometric mean of the precisions with exponential smoothing, times the brevity penalty."""
    if not any(right):
        return 0.0
    smooth, logs = 1.0, 0.0
    for hits, n in zip(right, total, strict=True):
        if n == 0:
            return 0.0
        if hits == 0:
            smooth *= 2
            logs += math.log(1 / (smooth * n))
        else:
            logs += math.log(hits / n)
    penalty = 1.0 if said >= wanted else math.exp(1 - wanted / said) if said else 0.0
    return penalty * math.exp(logs / 4)


def _grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


# ------------------------------------------------------------------ ROUGE


def rouge(text: str, reference: str) -> tuple[float, float, float]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L over jieba's words; 0 where either is empty."""
    said, wanted = words(text), words(reference)
    if not said or not wanted:
        return 0.0, 0.0, 0.0
    ones = _set_f1(set(_grams(said, 1)), set(_grams(wanted, 1)))
    twos = _set_f1(set(_grams(said, 2)), set(_grams(wanted, 2)))
    common = _subsequence(said, wanted)
    return ones, twos, _f1(common / len(said), common / len(wanted))


def words(text: str) -> list[str]:
    """jieba's words without white space."""
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    return [word for word in jieba.cut(text) if word.strip()]


def _set_f1(said: set[tuple[str, ...]], wanted: set[tuple[str, ...]]) -> float:
    common = len(said & wanted)
    return _f1(common / len(said) if said else 0.0, common / len(wanted) if wanted else 0.0)


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    before = [0] * (len(b) + 1)
    for item in a:
        row = [0]
        for j, other in enumerate(b, 1):
            row.append(before[j - 1] + 1 if item == other else max(before[j], row[-1]))
        before = row
    return before[-1]
