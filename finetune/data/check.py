"""Find what is wrong with a data set before it is trained on; each finding has its file and line."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune.data.shuffled import shuffled_answers
from finetune.data.types import BadLine, Conversation, Example, Feedback, PlainText, Preference, Source

FindingKind = Literal[
    "bad-line", "empty", "duplicate", "contradiction", "shuffled", "too-long", "leak", "encoding", "no-end"
]

EXPLAIN: dict[FindingKind, tuple[str, str]] = {
    "bad-line": ("无法读取的行", "a line that cannot be read"),
    "empty": ("空的字段", "an empty field"),
    "duplicate": ("重复的样本", "a duplicate"),
    "contradiction": ("同一问题有不同回答", "one question with different answers"),
    "shuffled": ("回答像是属于别的问题", "the answer seems to belong to another question"),
    "too-long": ("超过长度上限，会被截断", "longer than the limit: it would be cut"),
    "leak": ("训练集与评测集重叠", "it is in the training and the evaluation set"),
    "encoding": ("乱码", "damaged characters"),
    "no-end": ("回答像是没有写完", "the answer seems cut off"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one example."""

    kind: FindingKind
    source: Source
    detail: str
    """English, with the value."""
    zh: str

    def __str__(self) -> str:
        return f"{self.source}: {self.kind}: {self.detail}"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All findings, in the order of the files."""

    examples: int
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(f.kind for f in self.findings))

    @property
    def clean(self) -> bool:
        return not self.findings


def check(
    examples: Sequence[Example],
    *,
    bad: Sequence[BadLine] = (),
    evaluation: Sequence[Example] = (),
    max_tokens: int = 0,
    count_tokens: Callable[[Example], int] | None = None,
) -> CheckReport:
    """Look at all examples. `max_tokens` with `count_tokens` finds those that training would cut."""
    findings = [Finding("bad-line", b.source, b.reason, b.zh or b.reason) for b in bad]
    findings += _texts(examples)
    findings += _duplicates(examples)
    findings += _contradictions(examples)
    findings += [
        Finding("shuffled", s.source, s.detail, s.zh) for s in shuffled_answers(_conversations(examples))
    ]
    if max_tokens and count_tokens is not None:
        findings += _too_long(examples, max_tokens, count_tokens)
    findings += _leaks(examples, evaluation)
    findings.sort(key=lambda f: (str(f.source.file), f.source.line, f.kind))
    return CheckReport(len(examples), tuple(findings))


def question_of(example: Example) -> str:
    """The whole conversation before the last answer, as one text."""
    if isinstance(example, PlainText):
        return example.text
    turns = example.turns[:-1] if isinstance(example, Conversation) else example.turns
    return "\n".join([example.system, *(t.content for t in turns)]).strip()


def answer_of(example: Example) -> str:
    """What is learnt of an example: the last answer, the chosen one, the whole text."""
    match example:
        case Conversation() | Feedback():
            return example.answer
        case Preference():
            return example.chosen
        case PlainText():
            return ""


def _conversations(examples: Iterable[Example]) -> list[Conversation]:
    return [e for e in examples if isinstance(e, Conversation)]


def _source(example: Example) -> Source:
    assert example.source is not None
    return example.source


_MARKS = re.compile(r"[\s，。！？、；：!?;]+|(?<!\d)[,.:]|[,.:](?!\d)")
"""Blanks and punctuation, not the point within a number: 1.5 is not 15."""


def _normal(text: str) -> str:
    return _MARKS.sub("", text).lower()


def _digest(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(_normal(t) for t in texts).encode(), digest_size=16).digest()


_DAMAGE = re.compile(r"\ufffd|锟斤拷|烫烫烫|屯屯屯|[ÃÂåäæçèé][\x80-\xbf\u0080-\u00ff]{1,2}[ÃÂåäæçèé]")


def _texts(examples: Iterable[Example]) -> list[Finding]:
    findings = []
    for example in examples:
        question, answer = question_of(example), answer_of(example)
        if match := _DAMAGE.search(question) or _DAMAGE.search(answer):
            found = match.group()[:10]
            findings.append(Finding("encoding", _source(example), f"contains {found!r}", f"含有 {found!r}"))
        if isinstance(example, Conversation) and _looks_cut(answer):
            tail = answer.rstrip()[-15:]
            findings.append(Finding("no-end", _source(example), f"ends with {tail!r}", f"结尾是 {tail!r}"))
    return findings


def _looks_cut(answer: str) -> bool:
    """A long answer that stops at a comma, a colon, or inside a bracket."""
    text = answer.rstrip()
    if len(text) < 20:
        return False
    open_brackets = text.count("（") - text.count("）")
    return text[-1] in "，、：,:（(" or (open_brackets > 0 and text.rfind("（") > len(text) - 30)


def _duplicates(examples: Iterable[Example]) -> list[Finding]:
    first: dict[bytes, Source] = {}
    findings = []
    for example in examples:
        rejected = example.rejected if isinstance(example, Preference) else ""
        key = _digest(question_of(example), answer_of(example), rejected)
        source = _source(example)
        if key in first:
            findings.append(
                Finding("duplicate", source, f"the same as {first[key]}", f"与 {first[key]} 相同")
            )
        else:
            first[key] = source
    return findings


def _contradictions(examples: Iterable[Example]) -> list[Finding]:
    groups: dict[bytes, dict[bytes, Conversation]] = defaultdict(dict)
    for example in examples:
        if isinstance(example, Conversation):
            groups[_digest(question_of(example))].setdefault(_digest(example.answer), example)
    findings = []
    for answers in groups.values():
        if len(answers) > 1:
            one, *others = answers.values()
            for other in others:
                findings.append(
                    Finding(
                        "contradiction",
                        _source(other),
                        f"{other.question[:30]!r} is answered otherwise at {_source(one)}",
                        f"{other.question[:30]!r} 在 {_source(one)} 处另有回答",
                    )
                )
    return findings


def _too_long(
    examples: Iterable[Example], max_tokens: int, count_tokens: Callable[[Example], int]
) -> list[Finding]:
    findings = []
    for example in examples:
        if (tokens := count_tokens(example)) > max_tokens:
            detail = f"{tokens} tokens, the limit is {max_tokens}"
            findings.append(
                Finding("too-long", _source(example), detail, f"{tokens} 个词元，上限 {max_tokens}")
            )
    return findings


def _leaks(examples: Iterable[Example], evaluation: Iterable[Example]) -> list[Finding]:
    trained = {_digest(question_of(e)): _source(e) for e in examples}
    findings = []
    for example in evaluation:
        if (where := trained.get(_digest(question_of(example)))) is not None:
            source = _source(example)
            findings.append(Finding("leak", source, f"also trained on at {where}", f"训练集 {where} 处也有"))
    return findings
