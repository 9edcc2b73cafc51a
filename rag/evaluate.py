"""How good the answers are: a file of questions with reference answers -> text scores, refusals, citations.

A line of the file: {"question": "…", "answer": "…"} or {"question": "…", "answers": ["…", "…"], "file": "…", "page": 3};
"answer": null (or "refuse": true) means that the documents do not answer it and a refusal is right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kb.errors import DataError
from rag.metrics import bleu4, char_f1, contains, exact_match, rouge
from rag.types import Answer, Citation

_LONGEST_FILE = 50_000_000


@dataclass(frozen=True, slots=True)
class Reference:
    """A question with what is right."""

    question: str
    answers: tuple[str, ...]
    """Any of them is right; none: the documents do not say, and a refusal is right."""
    file: str = ""
    """Document that must be cited, relative name or its end; empty: any."""
    page: int = 0
    """Page that must be cited; 0: any."""

    @property
    def answerable(self) -> bool:
        return bool(self.answers)


@dataclass(frozen=True, slots=True)
class TextScores:
    """Means over the texts, 0 to 1; BLEU over all of them together. See rag.metrics."""

    count: int
    exact: float
    f1: float
    contained: float
    """Share of texts in which a reference stands."""
    bleu4: float
    rouge1: float
    rouge2: float
    rouge_l: float
    chars: float
    """Mean length of a text."""


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """What one run of questions gave."""

    questions: int
    text: TextScores
    """Over the questions that have an answer and were answered."""
    text_all: TextScores
    """Over all questions that have an answer; a refusal counts as an empty text."""
    refused_wrongly: float
    """Share of the questions that have an answer."""
    answered_wrongly: float
    """Share of the questions that have none."""
    citation_precision: float
    """Share of citations that stand in the right place: file and page of the reference, or a quote that holds the answer."""
    citation_recall: float
    """Share of answered questions with at least one such citation."""
    unsupported: float
    """Share of answer sentences for which no source was found."""

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)


def read_references(path: Path) -> list[Reference]:
    """Read a JSONL file. Raises DataError with file and line."""
    if path.stat().st_size > _LONGEST_FILE:
        raise DataError(f"{path} is larger than 50 MB.", zh=f"{path} 超过 50 MB。")
    found: list[Reference] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            found.append(_reference(path, number, line))
    if not found:
        raise DataError(f"{path} has no questions.", zh=f"{path} 里没有问题。")
    return found


def _reference(path: Path, number: int, line: str) -> Reference:
    def bad(why: str) -> DataError:
        return DataError(f"{path}, line {number}: {why}.", zh=f"{path} 第 {number} 行：{why}。")

    try:
        row = json.loads(line)
    except ValueError as error:
        raise bad(f"no JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise bad('"question" must be a text')
    given = row.get("answers", row.get("answer", []))
    answers = [given] if isinstance(given, str) else given or []
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise bad('"answer" must be a text or null, "answers" a list of texts')
    kept = tuple(answer for answer in answers if answer.strip()) if not row.get("refuse") else ()
    page = row.get("page") or 0
    if not isinstance(page, int):
        raise bad('"page" must be a number')
    return Reference(row["question"].strip(), kept, str(row.get("file") or ""), page)


def score_texts(texts: Sequence[str], references: Sequence[Sequence[str]]) -> TextScores:
    """Texts against their references (each has at least one); ROUGE against the reference that fits best."""
    if len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts, {len(references)} lists of references")
    pairs = list(zip(texts, references, strict=True))
    rouges = [max(rouge(text, reference) for reference in wanted) for text, wanted in pairs]
    return TextScores(
        count=len(pairs),
        exact=_mean(exact_match(text, wanted) for text, wanted in pairs),
        f1=_mean(char_f1(text, wanted) for text, wanted in pairs),
        contained=_mean(contains(text, wanted) for text, wanted in pairs),
        bleu4=bleu4(texts, references) if pairs else 0.0,
        rouge1=_mean(value[0] for value in rouges),
        rouge2=_mean(value[1] for value in rouges),
        rouge_l=_mean(value[2] for value in rouges),
        chars=_mean(float(len(text)) for text in texts),
    )


def evaluate_answers(
    references: Sequence[Reference],
    ask: Callable[[str], Answer],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> AnswerReport:
    """Ask every question and count. `ask` is `rag.answer.answer` with everything but the question filled in."""
    answers: list[Answer] = []
    for done, reference in enumerate(references, 1):
        answers.append(ask(reference.question))
        progress(done, len(references))
    return report(references, answers)


def report(references: Sequence[Reference], answers: Sequence[Answer]) -> AnswerReport:
    """Count answers that are there already."""
    pairs = list(zip(references, answers, strict=True))
    has = [(reference, answer) for reference, answer in pairs if reference.answerable]
    none = [answer for reference, answer in pairs if not reference.answerable]
    given = [(reference, answer) for reference, answer in has if not answer.refused]
    right = [[is_right(c, reference) for c in answer.citations] for reference, answer in given]
    sentences = [sentence for _, answer in given for sentence in answer.sentences]
    return AnswerReport(
        questions=len(pairs),
        text=score_texts([said_of(a) for _, a in given], [r.answers for r, _ in given]),
        text_all=score_texts(["" if a.refused else said_of(a) for _, a in has], [r.answers for r, _ in has]),
        refused_wrongly=_mean(float(answer.refused) for _, answer in has),
        answered_wrongly=_mean(float(not answer.refused) for answer in none),
        citation_precision=_mean(float(one) for marks in right for one in marks),
        citation_recall=_mean(float(any(marks)) for marks in right),
        unsupported=_mean(float(sentence.support == "unsupported") for sentence in sentences),
    )


def said_of(answer: Answer) -> str:
    """The answer's text without the marks of its citations."""
    text = answer.text
    for cited in answer.citations:
        text = text.replace(f" [{cited.number}]", "").replace(f"[{cited.number}]", "")
    return text


def is_right(citation: Citation, reference: Reference) -> bool:
    """Whether a citation stands where the reference wants it, or holds the answer itself."""
    if contains(citation.quote, reference.answers):
        return True
    if not reference.file or not citation.hit.document.name.endswith(reference.file):
        return False
    return not reference.page or citation.page == reference.page


def _mean(values: Iterable[float]) -> float:
    """0 of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0
