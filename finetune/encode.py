"""Examples -> token ids and labels, through the one chat encoder that answering uses too.

Every trained answer ends with `</s>` inside the loss, unless its end was cut off: then there is nothing to stop at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.data.types import Conversation, Example, PlainText, Source, kind_of
from kb.errors import DataError
from rag.types import Message

if TYPE_CHECKING:
    from rag.types import Chat, EncodedChat

IGNORE = -100
"""Label of a token that the loss does not look at."""
TOOLS = "Answer the following questions as best as you can. You have access to the following tools:"
"""What ChatGLM3's system message begins with when there are tools. A part of the model's format."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Tokens at the most; 0 is no limit of its own."""

    cutoff: int = 1024
    source: int = 0
    target: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One document to learn from. `ids` and `labels` have the same length; labels are not shifted."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    source: Source | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def trained(self) -> int:
        """Tokens that the loss looks at (a first token has nothing before it)."""
        return int((self.labels[1:] != IGNORE).sum())


@dataclass(slots=True)
class EncodeReport:
    """What became of the examples."""

    examples: int = 0
    tokens: int = 0
    trained: int = 0
    shortened: int = 0
    """Examples of which something was cut off."""
    turns_left_out: int = 0
    """Oldest rounds that did not fit."""
    unusable: list[str] = field(default_factory=list)
    """Places of examples with nothing to learn from within the limits."""


@dataclass(slots=True)
class _Round:
    """What one message became: (id, whether the assistant writes it)."""

    role: str
    head: list[tuple[int, bool]]
    content: list[tuple[int, bool]]
    end: list[tuple[int, bool]]
    train: bool = True

    def __len__(self) -> int:
        return len(self.head) + len(self.content) + len(self.end)


def messages_of(example: Conversation) -> list[Message]:
    """The conversation as the chat encoder takes it: system first, tool calls in ChatGLM3's own notation."""
    system = example.system
    if example.tools:
        listed = json.dumps(json.loads(example.tools), ensure_ascii=False, indent=4)
        system = "\n".join(part for part in (system, TOOLS, listed) if part)
    messages = [Message("system", system)] if system else []
    for turn in example.turns:
        content = _call(turn.content) if turn.role == "assistant" and turn.metadata else turn.content
        messages.append(Message(turn.role, content, turn.metadata))
    return messages


def _call(arguments: str) -> str:
    """JSON arguments as the call that ChatGLM3 writes; anything else as it stands."""
    try:
        values = json.loads(arguments)
    except ValueError:
        return arguments
    if not isinstance(values, dict):
        return arguments
    inner = ", ".join(f"{key}={value!r}" for key, value in values.items())
    return f"```python\ntool_call({inner})\n```"


def encode_conversation(
    example: Conversation, *, tokenizer: Chat, limits: Limits, report: EncodeReport
) -> list[Encoded]:
    """One document, or none if nothing to learn from fits."""
    messages = messages_of(example)
    train = [turn.train for turn in example.turns]
    cut = False
    while True:
        rounds = _rounds(tokenizer.example(messages), train)
        cut = _limit(rounds, limits) or cut
        rest = [r for r in rounds if r.role not in ("", "system")]
        room = limits.cutoff - sum(len(r) for r in rounds if r.role in ("", "system"))
        out = _too_old(rest, room)
        if not out:
            break
        # the rest is laid out anew: numbers of rounds and the like are those of what remains
        first = next(i for i, message in enumerate(messages) if message.role != "system")
        messages, train = messages[:first] + messages[first + out :], train[out:]
        report.turns_left_out += sum(r.role == "user" for r in rest[:out])
        cut = True
    cut = _squeeze(rest, room) or cut
    report.shortened += cut
    ids: list[int] = []
    labels: list[int] = []
    for item in rounds:
        part = item.head + item.content + item.end
        ids += [token for token, _ in part]
        labels += [token if own and item.train else IGNORE for token, own in part]
    return _finish(ids, labels, example.source, limits, report)


def _too_old(rest: list[_Round], room: int) -> int:
    """Messages at the beginning that have to go so that the others fit; the last round always stays."""
    out = 0
    while sum(map(len, rest[out:])) > room:
        later = next((i for i, r in enumerate(rest) if i > out and r.role == "user"), 0)
        if not later:
            break
        out = later
    return out


_ORDER = {"start": 0, "role": 0, "header": 1, "content": 2, "end": 3}


def _rounds(chat: EncodedChat, train: Sequence[bool]) -> list[_Round]:
    """Segments grouped by message; `train` says for each that is no system message whether it is learned."""
    flags = iter(train)
    out: list[_Round] = []
    before = 9
    for segment in chat.segments:
        place = _ORDER[segment.kind]
        if place < before or (place == before and segment.kind != "end"):
            wanted = segment.role in ("", "system") or next(flags, True)
            out.append(_Round(segment.role, [], [], [], wanted))
        before = place
        part = out[-1].head if place < 2 else out[-1].content if place == 2 else out[-1].end
        part += [(token, segment.loss) for token in segment.ids]
    return out


def _limit(rounds: list[_Round], limits: Limits) -> bool:
    """Cut questions and answers to their own limits. True if something was cut."""
    cut = False
    for item in rounds:
        most = limits.target if item.role == "assistant" else limits.source
        if item.role == "system" or not most or len(item.content) <= most:
            continue
        item.content, cut = item.content[:most], True
        if item.role == "assistant":
            item.end = []
    return cut


def _squeeze(rest: list[_Round], room: int) -> bool:
    """Make the last round fit: first its question to no less than a quarter of the room, then its answer."""
    over = sum(map(len, rest)) - room
    if over <= 0:
        return False
    for item in rest:
        if item.role != "assistant" and over > 0:
            taken = min(over, max(0, len(item.content) - max(room // 4, 1)))
            item.content = item.content[: len(item.content) - taken]
            over -= taken
    for item in reversed(rest):
        if item.role == "assistant" and over > 0:
            over -= len(item.end)
            item.end = []
            taken = min(max(over, 0), len(item.content))
            item.content = item.content[: len(item.content) - taken]
            over -= taken
    return True


def encode_text(
    example: PlainText, *, tokenizer: Chat, limits: Limits, report: EncodeReport
) -> list[Encoded]:
    """A text as windows of at most the cutoff, every token trained; only the last window ends with `</s>`."""
    start = list(tokenizer.start)
    body = [*tokenizer.encode(example.text), tokenizer.eos]
    size = limits.cutoff - len(start)
    out: list[Encoded] = []
    if len(body) > 1:
        for at in range(0, len(body), size):
            part = body[at : at + size]
            out += _finish(start + part, [IGNORE] * len(start) + part, example.source, limits, report)
    else:
        report.unusable.append(str(example.source or ""))
    return out


def _finish(
    ids: list[int], labels: list[int], source: Source | None, limits: Limits, report: EncodeReport
) -> list[Encoded]:
    encoded = Encoded(
        np.asarray(ids[: limits.cutoff], np.int32), np.asarray(labels[: limits.cutoff], np.int32), source
    )
    if not encoded.trained:
        report.unusable.append(str(source or ""))
        return []
    report.tokens += len(encoded)
    report.trained += encoded.trained
    return [encoded]


ENCODERS: dict[str, tuple[str, Callable[..., list[Encoded]]]] = {
    # stage: (kind of example that it takes, how one becomes documents)
    "sft": ("conversation", encode_conversation),
    "pt": ("text", encode_text),
}


def encode_all(
    examples: Iterable[Example], *, stage: str, tokenizer: Chat, limits: Limits
) -> tuple[list[Encoded], EncodeReport]:
    """All examples of a stage. Raises DataError for an example of the wrong kind, or if none is usable."""
    kind, encoder = ENCODERS[stage]
    report, out = EncodeReport(), []
    for example in examples:
        if kind_of(example) != kind:
            raise _wrong_kind(example, stage)
        report.examples += 1
        out += encoder(example, tokenizer=tokenizer, limits=limits, report=report)
    if not out:
        raise DataError(
            f"none of {report.examples} examples has anything to learn from within --cutoff-len {limits.cutoff}.",
            zh=f"{report.examples} 条样本在 --cutoff-len {limits.cutoff} 之内没有可学的内容。",
        )
    return out, report


def _wrong_kind(example: Any, stage: str) -> DataError:
    found, wanted = kind_of(example), ENCODERS[stage][0]
    fits = {"conversation": "sft", "text": "pt", "preference": "dpo", "feedback": "kto"}.get(found, "")
    hint = f" Use --stage {fits}." if fits else ""
    return DataError(
        f"{example.source}: --stage {stage} learns from {wanted} data, this is {found}.{hint}",
        zh=f"{example.source}：--stage {stage} 需要 {wanted} 类数据，这里是 {found}。"
        + (f"请用 --stage {fits}。" if fits else ""),
    )
