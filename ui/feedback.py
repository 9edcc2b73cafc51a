"""Votes on answers, kept with the conversation, and turned into training data that `zhiwen data check` reads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.data.convert import convert
from finetune.data.types import Conversation, Example, Feedback, Preference, Turn, TurnRole
from ui.history import History, TurnRecord

Shape = Literal["messages", "preference", "kto"]
"""messages: right answers to learn from; preference: the correction before the answer; kto: every vote with its thumb."""

FORMAT_OF: dict[Shape, str] = {"messages": "messages", "preference": "preference-sharegpt", "kto": "kto"}
SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote with everything that training needs."""

    system: str
    turns: tuple[Turn, ...]
    """The prompt with its sources, earlier turns first; ends with the user's."""
    answer: str
    good: bool
    correction: str
    """What it should have said; empty if nobody wrote it."""


def votes(history: History) -> list[Vote]:
    """All of them, oldest conversation first."""
    found = []
    for talk in reversed(history.all()):
        found += [vote for turn in talk.turns if (vote := vote_of(turn)) is not None]
    return found


def vote_of(turn: TurnRecord) -> Vote | None:
    """The vote on a turn; None without one, or without an answer."""
    if not turn.vote or turn.answer is None:
        return None
    roles: dict[str, TurnRole] = {"user": "user", "assistant": "assistant", "observation": "observation"}
    prompt = turn.answer["prompt"] or [{"role": "user", "content": turn.question}]
    system = "\n".join(m["content"] for m in prompt if m["role"] == "system")
    turns = tuple(Turn(roles[m["role"]], m["content"]) for m in prompt if m["role"] in roles)
    text = without_marks(str(turn.answer["text"]))
    return Vote(system, turns, text, turn.vote == "up", turn.correction.strip())


def without_marks(text: str) -> str:
    """The answer without [1][2]: those are set after generating, a model must not learn them."""
    import re

    return re.sub(r"\s*\[\d{1,3}\]", "", text).strip()


def examples(found: list[Vote], shape: Shape) -> Iterator[Example]:
    """The votes that say something in this shape."""
    for vote in found:
        if shape == "messages":
            if right := vote.correction or (vote.answer if vote.good else ""):
                yield Conversation((*vote.turns, Turn("assistant", right)), vote.system)
        elif shape == "preference":
            if vote.correction and vote.correction != vote.answer:
                yield Preference(vote.turns, vote.correction, vote.answer, vote.system)
        else:
            yield Feedback(vote.turns, vote.answer, vote.good, vote.system)


def export(history: History, shape: Shape) -> tuple[bytes, int]:
    """The file's bytes, and how many examples are in it."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"feedback{SUFFIX}"
        report = convert(examples(votes(history), shape), to=FORMAT_OF[shape], path=path)
        return (path.read_bytes() if report.written else b""), report.written
