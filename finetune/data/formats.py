"""The named formats that `zhiwen data` reads and writes. A writer drops what its format cannot hold: `convert` reads
every row back and says what was lost, so nothing here promises more than it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune.data import markup
from finetune.data.layout import Columns, Layout, Tags
from finetune.data.parse import parse_row, plain, read_turns
from finetune.data.rows import Row
from finetune.data.types import (
    Conversation,
    Example,
    Kind,
    PlainText,
    Source,
    Turn,
    Unusable,
    kind_of,
)
from finetune.data.writers import (
    last,
    write_alpaca,
    write_department,
    write_pair,
    write_paragraph,
    write_preference,
    write_prompt_response,
    writer_of_messages,
)


@dataclass(frozen=True, slots=True)
class Format:
    """One way of writing examples down."""

    name: str
    kind: Kind
    keys: tuple[str, ...]
    """Columns by which it is recognised; empty: by `recognise`, or lines of text."""
    read: Callable[[Row, Source], Example]
    write: Callable[[Any], Row]
    files: tuple[str, ...] = (".json", ".jsonl")
    """Suffixes that it can be written to."""


_OPENAI = Tags("role", "content", "user", "assistant", "tool", "tool_call", "system")
_CHATGLM3 = Tags("from", "value", "user", "assistant", "observation", "tool_call", "system")
_FLAT = (".json", ".jsonl", ".csv", ".tsv")


def _layout(**columns: str) -> Layout:
    return Layout(columns=Columns(**columns))


def _from_layout(layout: Layout) -> Callable[[Row, Source], Example]:
    return lambda row, source: parse_row(row, layout, source)


# ------------------------------------------------------------------ readers that are not a layout


def _read_lines(parse: Callable[[str], tuple[str, tuple[Turn, ...]]]) -> Callable[[Row, Source], Example]:
    def read(row: Row, source: Source) -> Example:
        text = plain(row.get("text"), "text") if isinstance(row, dict) else row
        if not isinstance(text, str):
            raise Unusable("expected a text", "应是文本")
        system, turns = parse(text)
        return Conversation(turns, system, "", source)

    return read


def _medical(text: str) -> tuple[str, tuple[Turn, ...]]:
    question, answer = markup.read_medical_line(text)
    return "", (Turn("user", question), Turn("assistant", answer))


def _read_text(row: Row, source: Source) -> Example:
    text = plain(row.get("text"), "text") if isinstance(row, dict) else row
    if not isinstance(text, str) or not text.strip():
        raise Unusable("the text is empty", "文本是空的")
    return PlainText(text, source)


def _read_paragraph(row: Row, source: Source) -> Example:
    """ChatGLM3's other example layout: `paragraph` is a list of {"role", "q", "a"}."""
    items = row.get("paragraph") if isinstance(row, dict) else None
    if not isinstance(items, list) or not all(isinstance(i, dict) for i in items):
        raise Unusable("'paragraph' must be a list of {role, q, a}", "“paragraph” 应是 {role, q, a} 的列表")
    messages: list[dict[str, str]] = []
    for item in items:
        messages.append({"from": str(item.get("role", "user")), "value": str(item.get("q", ""))})
        if item.get("a"):
            messages.append({"from": "assistant", "value": str(item["a"])})
    turns, system = read_turns(messages, _CHATGLM3)
    if not turns or turns[-1].role != "assistant":
        raise Unusable("the conversation must end with an answer", "对话应以回答结束")
    return Conversation(tuple(turns), system, "", source)


def _read_department(row: Row, source: Source) -> Example:
    """Department csv of hospitals: department, title, ask, answer; the title is the short question."""
    layout = _layout(prompt="title", query="ask", response="answer")
    return parse_row(row, layout, source)


# ------------------------------------------------------------------ the table


def _sharegpt_layout(column: str, tags: Tags, *, ranking: bool = False, kto: str = "") -> Layout:
    columns = Columns(
        messages=column,
        tools="tools",
        chosen="chosen" if ranking else "",
        rejected="rejected" if ranking else "",
        kto_tag=kto,
    )
    return Layout("sharegpt", ranking, columns, tags)


def _pair_format(name: str, question: str, answer: str) -> Format:
    layout = _layout(prompt=question, query="", response=answer)
    return Format(
        name, "conversation", (question, answer), _from_layout(layout), write_pair(question, answer), _FLAT
    )


_ALPACA = _layout(history="history", system="system")
_RANKED = Layout(
    "alpaca", True, Columns(history="history", system="system", chosen="chosen", rejected="rejected")
)
_SHAREGPT, _TEXT = Tags(), ("text",)

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("alpaca", "conversation", ("instruction", "output"), _from_layout(_ALPACA), write_alpaca),
        Format(
            "sharegpt",
            "conversation",
            ("conversations",),
            _from_layout(_sharegpt_layout("conversations", _SHAREGPT)),
            writer_of_messages("conversations", _SHAREGPT),
        ),
        Format(
            "messages",
            "conversation",
            ("messages",),
            _from_layout(_sharegpt_layout("messages", _OPENAI)),
            writer_of_messages("messages", _OPENAI),
        ),
        Format(
            "chatglm3",
            "conversation",
            ("conversations",),
            _from_layout(_sharegpt_layout("conversations", _CHATGLM3)),
            writer_of_messages("conversations", _CHATGLM3),
        ),
        Format("paragraph", "conversation", ("paragraph",), _read_paragraph, write_paragraph),
        _pair_format("content-summary", "content", "summary"),
        _pair_format("question-answer", "question", "answer"),
        _pair_format("wen-da", "问", "答"),
        Format(
            "prompt-response",
            "conversation",
            ("prompt", "response"),
            _from_layout(_layout(prompt="prompt", query="", response="response", history="history")),
            write_prompt_response,
        ),
        Format(
            "department",
            "conversation",
            ("title", "ask", "answer"),
            _read_department,
            write_department,
            _FLAT,
        ),
        Format(
            "vicuna",
            "conversation",
            (),
            _read_lines(markup.read_vicuna),
            lambda e: {"text": markup.write_vicuna(e.system, e.turns)},
        ),
        Format(
            "chatglm2",
            "conversation",
            (),
            _read_lines(lambda text: ("", markup.read_rounds(text))),
            lambda e: {"text": markup.write_rounds(e.turns)},
        ),
        Format(
            "medical-line",
            "conversation",
            (),
            _read_lines(_medical),
            lambda e: markup.write_medical_line(*last(e)),
            (".txt",),
        ),
        Format("text", "text", _TEXT, _read_text, lambda e: {"text": e.text}),
        Format("preference", "preference", ("chosen", "rejected"), _from_layout(_RANKED), write_preference),
        Format(
            "preference-sharegpt",
            "preference",
            ("conversations", "chosen", "rejected"),
            _from_layout(_sharegpt_layout("conversations", _SHAREGPT, ranking=True)),
            writer_of_messages("conversations", _SHAREGPT),
        ),
        Format(
            "kto",
            "feedback",
            ("messages", "label"),
            _from_layout(_sharegpt_layout("messages", _OPENAI, kto="label")),
            writer_of_messages("messages", _OPENAI),
        ),
    )
}
"""Name -> format."""


def recognise(row: Row) -> Format | None:
    """The format of a row by its columns and first words; None if nothing fits."""
    if isinstance(row, str):
        return _recognise_text(row)
    if not isinstance(row, dict):
        return None
    if "text" in row and isinstance(row["text"], str):
        return _recognise_text(row["text"], boxed=True)
    best: Format | None = None
    for candidate in FORMATS.values():
        if candidate.keys and all(key in row for key in candidate.keys):
            better = best is None or len(candidate.keys) > len(best.keys)
            best = candidate if better else best
    if best is not None and best.name == "sharegpt":
        return FORMATS[_dialect(row)]
    return best


def _dialect(row: dict[str, Any]) -> str:
    """sharegpt's human and gpt, or ChatGLM3's user and assistant under the same column."""
    messages = row.get("conversations")
    first = messages[0] if isinstance(messages, list) and messages and isinstance(messages[0], dict) else {}
    roles = {m.get("from") for m in messages if isinstance(m, dict)} if isinstance(messages, list) else set()
    return "chatglm3" if "from" in first and roles & {"user", "assistant"} else "sharegpt"


def _recognise_text(text: str, *, boxed: bool = False) -> Format:
    if text.lstrip().startswith("[Round "):
        return FORMATS["chatglm2"]
    if "USER:" in text and "ASSISTANT:" in text:
        return FORMATS["vicuna"]
    if not boxed and "," in text and ("?" in text or "？" in text):
        return FORMATS["medical-line"]
    return FORMATS["text"]


def fits(example: Example, target: Format) -> bool:
    """Whether the target can hold examples of this kind at all."""
    return kind_of(example) == target.kind
