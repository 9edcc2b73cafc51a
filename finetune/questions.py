"""Question files for comparing: csv, tsv, json or jsonl with a question and, where there are, answers and types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.rows import read_rows
from finetune.data.types import BadLine
from kb.errors import DataError

_QUESTION = ("question", "问题", "content", "prompt", "instruction", "题目", "问", "query")
_ANSWER = (
    "answer",
    "reference",
    "参考答案",
    "答案",
    "summary",
    "response",
    "output",
    "answers",
    "标准答案",
    "答",
)
_KIND = ("type", "题型", "kind", "类型")
_DOMAIN = ("domain", "领域", "子领域", "subject", "department")


@dataclass(frozen=True, slots=True)
class Question:
    """One question, asked of every contestant."""

    number: int
    """1-based, in the order of the file."""
    text: str
    answers: tuple[str, ...] = ()
    """Any of them is right; none: there is no reference."""
    kind: str = ""
    """填空, 问答, 选择, 判断, ... as the file says; empty if it does not."""
    domain: str = ""


def read_questions(path: Path, *, limit: int = 0) -> list[Question]:
    """All questions of a file. Raises DataError naming the line of the first that cannot be used."""
    found: list[Question] = []
    for item in read_rows(path):
        if isinstance(item, BadLine):
            raise item.error()
        source, row = item
        if isinstance(row, str):
            row = {"question": row}
        text = _first(row, _QUESTION) if isinstance(row, dict) else ""
        if not text:
            raise DataError(
                f"{source}: there is no question. Name the column one of {', '.join(_QUESTION)}.",
                zh=f"{source}：没有问题。列名应为 {'、'.join(_QUESTION)} 之一。",
            )
        assert isinstance(row, dict)
        options = [f"{letter}. {row[letter]}" for letter in "ABCD" if str(row.get(letter) or "").strip()]
        if options:
            text = "\n".join([text, *options])
        kind = _first(row, _KIND) or ("选择" if options else "")
        found.append(Question(len(found) + 1, text, _answers(row), kind, _first(row, _DOMAIN)))
        if limit and len(found) >= limit:
            break
    if not found:
        raise DataError(f"{path.name} holds no question.", zh=f"{path.name} 里没有问题。")
    return found


def _first(row: dict[str, Any], names: tuple[str, ...]) -> str:
    by_lower = {str(k).strip().lower(): v for k, v in row.items()}
    for name in names:
        value = by_lower.get(name)
        if isinstance(value, str | int | float) and str(value).strip():
            return str(value).strip()
    return ""


def _answers(row: dict[str, Any]) -> tuple[str, ...]:
    by_lower = {str(k).strip().lower(): v for k, v in row.items()}
    for name in _ANSWER:
        value = by_lower.get(name)
        if isinstance(value, list):
            return tuple(str(v).strip() for v in value if str(v).strip())
        if isinstance(value, str | int | float) and str(value).strip():
            return (str(value).strip(),)
    return ()
