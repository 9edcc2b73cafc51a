"""What is measured of one answer. The metrics against references are `rag.metrics`, equal to their reference programs."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.questions import Question
from kb.types import Embedder
from rag import metrics
from rag.prompt import is_refusal
from rag.types import FinishReason

END = "。！？…”』」）)!?.~～；;"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer with what it cost."""

    text: str
    finish: FinishReason = "stop"
    seconds: float = 0.0
    tokens: int = 0
    memory: float = 0.0
    """GiB that this process (with a GPU: the GPU) held at the end of the answer; 0 if the model is elsewhere."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of one answer."""

    name: str
    zh: str
    better: int
    """1: more is better; -1: less is; 0: neither, it only tells."""
    needs_reference: bool
    of: Callable[[Question, Said], float]


def repetition(text: str, *, size: int = 4) -> float:
    """Share of character n-grams that stood before in the text, 0 to 1."""
    grams = [text[i : i + size] for i in range(len(text) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(text: str, *, size: int = 2) -> float:
    """Different n-grams over all n-grams, 0 to 1 (distinct-n); 1 for a text shorter than that."""
    grams = [text[i : i + size] for i in range(len(text) - size + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def unfinished(said: Said) -> float:
    """1 if the answer was cut by the limit, or ends in the middle of a sentence. Citations at the end do not count."""
    if said.finish == "length":
        return 1.0
    text = re.sub(r"(\s*\[\d+\])+$", "", said.text.rstrip())
    if len(text) <= 12 or is_refusal(text):
        return 0.0
    return float(text[-1] not in END and not text[-1].isdigit() and "\n" not in text[-30:])


def overlap(question: str, text: str) -> float:
    """Share of the question's character pairs that the answer holds."""
    pairs = {question[i : i + 2] for i in range(len(question) - 1)}
    return sum(p in text for p in pairs) / len(pairs) if pairs else 0.0


_LETTER = r"([A-D])(?![A-Z])(?!\s*[、和与])"
_YES = ("正确", "对", "是", "√", "TRUE", "YES", "T", "Y")
_NO = ("错误", "错", "不对", "不正确", "否", "不是", "×", "FALSE", "NO", "F", "N")


def choice(text: str) -> str:
    """The letter that an answer to a multiple-choice question chooses; empty if none can be told.

    The last letter after 答案 or 选 counts first, then one that opens the text, then the only one that is named.
    """
    plain = unicodedata.normalize("NFKC", text).strip().upper()
    named = re.findall(r"(?:答案|选(?!项)|ANSWER)[^A-D]{0,6}" + _LETTER, plain)
    if named:
        return str(named[-1])
    if match := re.match(r"\(?" + _LETTER, plain):
        return match.group(1)
    letters = set(re.findall(r"(?<![A-Z])([A-D])(?![A-Z])", plain))
    return letters.pop() if len(letters) == 1 else ""


def yes_or_no(text: str) -> str:
    """What an answer to a true-or-false question says: "yes", "no", or empty if it cannot be told."""
    plain = unicodedata.normalize("NFKC", text).strip().upper()
    plain = (
        re.sub(r"^(?:答案|判断|这个说法|该说法|此说法|说法)?(?:是|为)?[:\s]*(?=.)", "", plain, count=1)
        or plain
    )
    for word in sorted((*_YES, *_NO), key=len, reverse=True):
        if plain.startswith(word) and not (word.isascii() and plain[len(word) : len(word) + 1].isalpha()):
            return "yes" if word in _YES else "no"
    return ""


def exact(question: Question, said: Said) -> float:
    """Exact match; of multiple choice whether the letter is right, of true or false whether the verdict is."""
    answers = [unicodedata.normalize("NFKC", a).strip().upper() for a in question.answers]
    if answers and all(re.fullmatch(r"[A-D]", a) for a in answers):
        return float(choice(said.text) in answers)
    if answers and all(a in (*_YES, *_NO) for a in answers):
        verdict = yes_or_no(said.text)
        return float(bool(verdict) and verdict in {yes_or_no(a) for a in answers})
    return metrics.exact_match(said.text, question.answers)


def _rouge(index: int) -> Callable[[Question, Said], float]:
    return lambda q, s: max(metrics.rouge(s.text, a)[index] for a in q.answers)


def term_density(terms: Sequence[str]) -> Measure:
    """Domain terms in a hundred characters of the answer."""

    def of(question: Question, said: Said) -> float:
        count = sum(said.text.count(term) for term in terms)
        return 100 * count / len(said.text) if said.text else 0.0

    return Measure("terms", "每百字术语数", 1, False, of)


def similarity(embedder: Embedder) -> Measure:
    """Cosine of the embeddings of the answer and of the nearest reference, -1 to 1."""

    def of(question: Question, said: Said) -> float:
        if not said.text.strip():
            return 0.0
        vectors = np.asarray(embedder.encode_passages([said.text, *question.answers]), dtype=np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return float((vectors[1:] @ vectors[0]).max())

    return Measure("similarity", "语义相似", 1, True, of)


def learn_terms(texts: Sequence[str], *, count: int = 200) -> list[str]:
    """Words of the corpus that are frequent in it and rare in everyday Chinese (jieba's own counts)."""
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    found = Counter(
        w for text in texts for w in jieba.lcut(text) if len(w) > 1 and re.match(r"[\u4e00-\u9fff]", w)
    )
    total = sum(found.values()) or 1
    everyday = float(jieba.dt.total or 1)
    scored = {w: n / total / ((jieba.dt.FREQ.get(w, 0) + 5) / everyday) for w, n in found.items() if n >= 3}
    return sorted(scored, key=lambda w: -scored[w])[:count]


MEASURES: tuple[Measure, ...] = (
    Measure("exact", "精确匹配", 1, True, exact),
    Measure("f1", "字符 F1", 1, True, lambda q, s: metrics.char_f1(s.text, q.answers)),
    Measure("bleu4", "BLEU-4", 1, True, lambda q, s: metrics.bleu4([s.text], [q.answers])),
    Measure("rouge1", "ROUGE-1", 1, True, _rouge(0)),
    Measure("rouge2", "ROUGE-2", 1, True, _rouge(1)),
    Measure("rouge_l", "ROUGE-L", 1, True, _rouge(2)),
    Measure("length", "字数", 0, False, lambda q, s: float(len(s.text))),
    Measure("overlap", "复述问题", 0, False, lambda q, s: overlap(q.text, s.text)),
    Measure("repetition", "重复", -1, False, lambda q, s: repetition(s.text)),
    Measure("distinct2", "用词多样", 1, False, lambda q, s: distinct(s.text)),
    Measure("looped", "陷入循环", -1, False, lambda q, s: float(s.finish == "loop")),
    Measure("unfinished", "没说完", -1, False, lambda q, s: unfinished(s)),
    Measure("refused", "拒答", 0, False, lambda q, s: float(is_refusal(s.text))),
    Measure("seconds", "用时（秒）", -1, False, lambda q, s: s.seconds),
    Measure("memory", "内存（GiB）", -1, False, lambda q, s: s.memory),
)
"""Sentence BLEU is given for each answer; over a whole column it is a mean of sentences, and labelled so."""
