"""What a line of a data set becomes, whatever format it was written in. All frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kb.errors import DataError

TurnRole = Literal["user", "assistant", "observation"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where an example stands."""

    file: Path
    line: int
    """1-based line on which the example begins."""

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation."""

    role: TurnRole
    content: str
    metadata: str = ""
    """Assistant: the name of the tool that it calls; the content is then the call's arguments as JSON."""
    train: bool = True
    """Assistant: whether the loss covers this turn. Other roles: ignored, never trained on."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Supervised fine-tuning: the turns begin with the user's and end with the assistant's."""

    turns: tuple[Turn, ...]
    system: str = ""
    tools: str = ""
    """Description of the tools as a JSON string; empty if there are none."""
    source: Source | None = None

    @property
    def question(self) -> str:
        """The last thing that the user says."""
        return next((t.content for t in reversed(self.turns) if t.role == "user"), "")

    @property
    def answer(self) -> str:
        """The last thing that the assistant says."""
        return next((t.content for t in reversed(self.turns) if t.role == "assistant"), "")


@dataclass(frozen=True, slots=True)
class Preference:
    """Reward models and DPO: two answers to one conversation (which ends with the user's turn)."""

    turns: tuple[Turn, ...]
    chosen: str
    rejected: str
    system: str = ""
    tools: str = ""
    source: Source | None = None

    @property
    def question(self) -> str:
        return next((t.content for t in reversed(self.turns) if t.role == "user"), "")


@dataclass(frozen=True, slots=True)
class Feedback:
    """KTO: one answer with a thumb up or down."""

    turns: tuple[Turn, ...]
    answer: str
    good: bool
    system: str = ""
    tools: str = ""
    source: Source | None = None

    @property
    def question(self) -> str:
        return next((t.content for t in reversed(self.turns) if t.role == "user"), "")


@dataclass(frozen=True, slots=True)
class PlainText:
    """Continued pretraining: a text, all of it trained on."""

    text: str
    source: Source | None = None


Example = Conversation | Preference | Feedback | PlainText

Kind = Literal["conversation", "preference", "feedback", "text"]


def kind_of(example: Example) -> Kind:
    """The kind as `--stage` needs it: sft, rm and dpo, kto, pt."""
    match example:
        case Conversation():
            return "conversation"
        case Preference():
            return "preference"
        case Feedback():
            return "feedback"
        case PlainText():
            return "text"


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that could not be used, and why. It stops nothing but itself, unless the reader is strict."""

    source: Source
    reason: str
    """English."""
    zh: str = ""

    def error(self) -> DataError:
        """The same as an exception, for strict reading."""
        return DataError(f"{self.source}: {self.reason}", zh=f"{self.source}：{self.zh or self.reason}")


class Unusable(ValueError):
    """A row is not a valid example of its format. `str(error)` is English, `error.zh` Chinese."""

    def __init__(self, reason: str, zh: str) -> None:
        super().__init__(reason)
        self.zh = zh
