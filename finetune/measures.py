"""What is measured of one answer. The metrics against references are `rag.metrics`, equal to their reference programs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finetune.questions import Question
from rag import metrics
from rag.types import FinishReason

END = "。！？…”』」）)!?.~～；;"


@dataclass(frozen=True, slots=True)
class Said:
    """An answer with what it cost."""

    text: str
    finish: FinishReason = "stop"
    seconds: float = 0.0
    tokens: int = 0


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
    """1 if the answer was cut by the limit, or ends in the middle of a sentence."""
    text = said.text.rstrip()
    if said.finish == "length":
        return 1.0
    return float(len(text) > 12 and text[-1] not in END and not text[-1].isdigit() and "\n" not in text[-30:])


def overlap(question: str, text: str) -> float:
    """Share of the question's character pairs that the answer holds."""
    pairs = {question[i : i + 2] for i in range(len(question) - 1)}
    return sum(p in text for p in pairs) / len(pairs) if pairs else 0.0


def choice(text: str) -> str:
    """The letter that an answer to a multiple-choice question chooses; empty if none can be told.

    A letter after 答案 or 选 counts first, then one that stands alone, then the only one that is named.
    """
    plain = text.strip().upper()
    match = re.search(r"(?:答案|选择?|ANSWER)[^A-D]{0,6}([A-D])(?![A-Z])", plain)
    match = match or re.match(r"[（(]?([A-D])(?![A-Z])", plain)
    if match:
        return match.group(1)
    letters = set(re.findall(r"(?<![A-Z])([A-D])(?![A-Z])", plain))
    return letters.pop() if len(letters) == 1 else ""


def exact(question: Question, said: Said) -> float:
    """Exact match; of a multiple-choice question whether the letter is right."""
    if question.answers and all(re.fullmatch(r"[A-D]", a.strip().upper()) for a in question.answers):
        return float(choice(said.text) in {a.strip().upper() for a in question.answers})
    return metrics.exact_match(said.text, question.answers)


def _rouge(index: int) -> Callable[[Question, Said], float]:
    return lambda q, s: max(metrics.rouge(s.text, a)[index] for a in q.answers)


def term_density(terms: Sequence[str]) -> Measure:
    """Domain terms in a hundred characters of the answer."""

    def of(question: Question, said: Said) -> float:
        count = sum(said.text.count(term) for term in terms)
        return 100 * count / len(said.text) if said.text else 0.0

    return Measure("terms", "每百字术语数", 1, False, of)


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
    Measure("seconds", "用时（秒）", -1, False, lambda q, s: s.seconds),
)
"""Sentence BLEU is given for each answer; over a whole column it is a mean of sentences, and labelled so."""
