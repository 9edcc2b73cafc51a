"""A conversation as Markdown, for people to keep or pass on."""

from __future__ import annotations

from typing import Any

from ui.history import Talk, TurnRecord
from ui.text import pick


def as_markdown(talk: Talk) -> str:
    """Questions as headings, answers as they stand, sources with the words they rest on."""
    parts = [f"# {_line(talk.name)}", talk.started]
    for turn in talk.turns:
        parts += [f"## {_line(turn.question)}", *_answer(turn)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())


def _answer(turn: TurnRecord) -> list[str]:
    if turn.answer is None:
        return [turn.written, pick("（没有写完）", "(not finished)")]
    parts = [str(turn.answer["text"])]
    parts += [_source(c) for c in turn.answer["citations"]]
    if turn.answer["refused"]:
        parts += [_near(h) for h in turn.answer["nearest"]]
    if turn.correction:
        parts.append(pick("更正：", "Correction: ") + turn.correction)
    return parts


def _source(citation: dict[str, Any]) -> str:
    place = f"{citation['document']} p.{citation['page']}"
    quote = "\n".join("> " + line for line in str(citation["quote"]).splitlines())
    return f"[{citation['number']}] {place}\n\n{quote}"


def _near(hit: dict[str, Any]) -> str:
    start, end = int(hit["start"]), int(hit["end"])
    quote = "\n".join("> " + line for line in str(hit["passage"])[start:end].splitlines())
    return pick("最接近：", "Nearest: ") + f"{hit['document']} p.{hit['page']}\n\n{quote}"
