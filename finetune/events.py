"""What happens in a run, one JSON object a line, so that a page, a plot and a person can follow it.

{"event": "begin", "time": …, "total": 300, …}         {"event": "step", "step": 5, "loss": 2.31, "lr": 1e-4, …}
{"event": "eval", "step": …, "loss": …}                  {"event": "sample", "step": …, "prompt": …, "text": …}
{"event": "held_out", "step": …, "score": …} (ppo)        {"event": "checkpoint" | "say" | "resume" | "end", …}
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Event = dict[str, Any]
FILE = "events.jsonl"
MOST_LINE = 1_000_000
"""Bytes of an event that a reader accepts."""


class EventLog:
    """Appends to the run's events; every line is written whole and at once.

    `silent`: of several processes all but the first write nothing.
    """

    def __init__(
        self, folder: Path, *, listen: Callable[[Event], None] | None = None, silent: bool = False
    ) -> None:
        self.path, self.listen, self.silent = folder / FILE, listen, silent

    def write(self, event: str, **values: Any) -> None:
        """Append one event with the time."""
        if self.silent:
            return
        line: Event = {"event": event, "time": round(time.time(), 3), **values}
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        number = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(number, data)
        finally:
            os.close(number)
        if self.listen is not None:
            self.listen(line)

    def rewind(self, step: int) -> None:
        """Forget what came after `step`: the run goes on from there. A half-written last line is dropped."""
        if self.silent or not self.path.exists():
            return
        kept = [e for e in read(self.path.parent) if e.get("step", 0) <= step and e["event"] != "end"]
        work = self.path.with_name(f".{FILE}.{os.getpid()}")
        work.write_text("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in kept), encoding="utf-8")
        work.replace(self.path)


def read(folder: Path) -> list[Event]:
    """All events of a run so far; lines that are not whole are passed over."""
    try:
        with (folder / FILE).open("rb") as file:
            return [event for line in file if (event := _parse(line)) is not None]
    except FileNotFoundError:
        return []


def _parse(line: bytes) -> Event | None:
    if not line.endswith(b"\n") or len(line) > MOST_LINE:
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def follow(folder: Path, *, ended: Callable[[], bool], wait: float = 0.5) -> Iterator[Event]:
    """Yield events as they come, until an "end" event, or until `ended()` and nothing more is there.

    A run that is resumed rewrites its events: then {"event": "rewind"} comes, and everything from the beginning.
    """
    path, number, at = folder / FILE, -1, 0
    while True:
        over = ended()
        try:
            state = path.stat()
        except FileNotFoundError:
            state = None
        if state is not None:
            if number not in (-1, state.st_ino) or state.st_size < at:
                at = 0
                yield {"event": "rewind"}
            number = state.st_ino
            with path.open("rb") as file:
                file.seek(at)
                lines = file.readlines()
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                at += len(line)
                event = _parse(line)
                if event is not None:
                    yield event
                    if event["event"] == "end":
                        return
        if over:
            return
        time.sleep(wait)
