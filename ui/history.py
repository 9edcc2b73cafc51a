"""Conversations on disk: one file of appended lines each, so that a kill loses nothing that was shown.

<home>/conversations/<id>.jsonl
    {"event": "start", "at": ..., "title": ""}
    {"event": "ask", "turn": 0, "at": ..., "question": ..., "chosen": {...}}
    {"event": "piece", "turn": 0, "text": ...}          as the answer grows, each before it is shown
    {"event": "answer", "turn": 0, "answer": {...}}     replaces the pieces
    {"event": "broken", "turn": 0, "zh": ..., "en": ...}
    {"event": "title", "title": ...}
    {"event": "vote", "turn": 0, "vote": ..., "correction": ...}
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kb.errors import DataError

_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
LONGEST_FILE = 50_000_000
"""Bytes of one conversation that are read; one that is larger is not listed."""


@dataclass(slots=True)
class TurnRecord:
    """A question with what came of it."""

    number: int
    """0-based."""
    question: str
    at: str
    """ISO 8601, UTC."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """Knowledge bases, model, adapter and persona that it was asked with."""
    written: str = ""
    """The pieces, as far as they came."""
    answer: dict[str, Any] | None = None
    """See `ui.kept.kept_answer`; None while it is written, and for ever if it was broken off."""
    broken: tuple[str, str] = ("", "")
    """Why there is no answer: Chinese, English."""
    vote: str = ""
    """"up", "down" or empty."""
    correction: str = ""


@dataclass(slots=True)
class Talk:
    """A conversation as it was read."""

    id: str
    title: str = ""
    """Empty: nobody named it; show the first question."""
    started: str = ""
    turns: list[TurnRecord] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What a list shows."""
        return self.title or (self.turns[0].question[:40] if self.turns else "")


class History:
    """All conversations of a home. Several processes may append at once."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "conversations"
        self._read: dict[str, tuple[tuple[int, int], Talk]] = {}

    def new_id(self) -> str:
        """An id that nobody has; its file is made with the first question."""
        return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"

    def path(self, talk: str) -> Path:
        """Raises DataError for anything that is not an id: it becomes a file name."""
        if not _ID.fullmatch(talk):
            raise DataError(f"{talk!r} is not the id of a conversation.", zh=f"{talk!r} 不是会话编号。")
        return self.folder / f"{talk}.jsonl"

    def append(self, talk: str, event: str, **values: Any) -> None:
        """Add one line and hand it to the operating system, which keeps it if this process is killed."""
        path = self.path(talk)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        line = json.dumps({"event": event, "at": now(), **values}, ensure_ascii=False) + "\n"
        with path.open("ab", buffering=0) as file:
            file.write(line.encode("utf-8", "replace"))

    def load(self, talk: str) -> Talk | None:
        """The conversation as it stands; None if there is none."""
        path = self.path(talk)
        try:
            about = path.stat()
        except FileNotFoundError:
            return None
        stamp = (about.st_mtime_ns, about.st_size)
        kept = self._read.get(talk)
        if kept and kept[0] == stamp:
            return kept[1]
        if about.st_size > LONGEST_FILE:
            return None
        made = parse(talk, path.read_bytes())
        self._read[talk] = (stamp, made)
        return made

    def all(self) -> list[Talk]:
        """Newest first, without those in which nothing was asked."""
        found = [p.stem for p in self.folder.glob("*.jsonl") if _ID.fullmatch(p.stem)]
        talks = (self.load(talk) for talk in sorted(found, reverse=True))
        return [talk for talk in talks if talk and talk.turns]

    def find(self, words: str) -> list[Talk]:
        """Those that have every one of the words in their title, questions or answers; all if there are none."""
        wanted = words.lower().split()
        return [talk for talk in self.all() if all(word in text_of(talk) for word in wanted)]

    def remove(self, talk: str) -> None:
        """Delete it; nothing happens if there is none."""
        self.path(talk).unlink(missing_ok=True)
        self._read.pop(talk, None)


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def text_of(talk: Talk) -> str:
    """All that was said, in lower case."""
    said = [talk.title]
    for turn in talk.turns:
        said += [turn.question, answer_text(turn)]
    return "\n".join(said).lower()


def answer_text(turn: TurnRecord) -> str:
    """The answer, or what there is of it."""
    return str(turn.answer.get("text", "")) if turn.answer else turn.written


def parse(talk: str, data: bytes) -> Talk:
    """The lines as a conversation. A last line that was cut by a power failure is left out."""
    made = Talk(talk)
    for raw in data.split(b"\n"):
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict):
            _take(made, line)
    return made


def _take(talk: Talk, line: dict[str, Any]) -> None:
    """Apply one line."""
    event, number = line.get("event"), line.get("turn")
    if event == "ask" and number == len(talk.turns):
        talk.started = talk.started or str(line.get("at", ""))
        talk.turns.append(
            TurnRecord(number, str(line["question"]), str(line["at"]), dict(line.get("chosen") or {}))
        )
        return
    if event == "title":
        talk.title = str(line.get("title", ""))[:80]
    if not isinstance(number, int) or not 0 <= number < len(talk.turns):
        return
    turn = talk.turns[number]
    match event:
        case "piece":
            turn.written += str(line.get("text", ""))
        case "answer" if isinstance(line.get("answer"), dict):
            turn.answer = line["answer"]
        case "broken":
            turn.broken = (str(line.get("zh", "")), str(line.get("en", "")))
        case "vote":
            turn.vote, turn.correction = str(line.get("vote", "")), str(line.get("correction", ""))
