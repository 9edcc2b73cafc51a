"""Answers that are being written, each in a thread of its own: a page that is closed or reloaded does not stop one.

What is written goes to the conversation's file first and is shown then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kb.errors import ZhiwenError
from rag.types import AnswerEvent, AnswerReady, Message, Piece, Status
from ui.history import History, Talk, answer_text
from ui.kept import kept_answer

HISTORY_TURNS = 8
"""Earlier turns that a follow-up is given."""

Begin = Callable[[threading.Event], Iterator[AnswerEvent]]
"""Opens what is needed and answers; it is called in the thread."""


@dataclass(slots=True)
class LiveAnswer:
    """One answer on its way. Read it from any thread; only its own thread writes."""

    talk: str
    turn: int
    cancel: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    text: str = ""
    status: tuple[str, str] = ("", "")
    """Chinese, English: the step that it is in."""


_live: dict[str, LiveAnswer] = {}
_lock = threading.Lock()


def live_answer(talk: str) -> LiveAnswer | None:
    """The one that is being written in this conversation."""
    found = _live.get(talk)
    return found if found and not found.done.is_set() else None


def start_answer(
    history: History, talk: str, question: str, *, chosen: dict[str, Any], begin: Begin
) -> LiveAnswer | None:
    """Note the question and answer it in a thread; None if the conversation is waiting for an answer already."""
    with _lock:
        if live_answer(talk) is not None:
            return None
        before = history.load(talk)
        turn = len(before.turns) if before else 0
        made = LiveAnswer(talk, turn)
        history.append(talk, "ask", turn=turn, question=question, chosen=chosen)
        for other in [name for name, old in _live.items() if old.done.is_set()]:
            del _live[other]
        _live[talk] = made
    threading.Thread(target=_write, args=(history, made, begin), name=f"answer-{talk}", daemon=True).start()
    return made


def _write(history: History, live: LiveAnswer, begin: Begin) -> None:
    """Follow the events to the end. Whatever goes wrong is written into the conversation, never lost."""
    try:
        for event in begin(live.cancel):
            _note(history, live, event)
    except ZhiwenError as error:
        history.append(live.talk, "broken", turn=live.turn, zh=error.zh, en=error.message)
    except Exception:
        logging.getLogger(__name__).exception("answering failed")
        history.append(
            live.talk,
            "broken",
            turn=live.turn,
            zh="回答时出错，详情在运行 zhiwen ui 的终端里。",
            en="Answering failed; the terminal that runs zhiwen ui says why.",
        )
    finally:
        live.done.set()


def _note(history: History, live: LiveAnswer, event: AnswerEvent) -> None:
    match event:
        case Status():
            live.status = (event.zh, event.english)
        case Piece() if event.text:
            history.append(live.talk, "piece", turn=live.turn, text=event.text)
            live.text += event.text
        case AnswerReady():
            history.append(live.talk, "answer", turn=live.turn, answer=kept_answer(event.answer))


def wait_for(live: LiveAnswer, *, seconds: float) -> bool:
    """Whether it ended within that time."""
    return live.done.wait(seconds)


def growing(live: LiveAnswer, *, every: float = 0.06) -> Iterator[str]:
    """What is written so far, each time that it has grown or its step has changed, until it is done."""
    seen: tuple[str, tuple[str, str]] | None = None
    while True:
        ended = live.done.is_set()
        if (live.text, live.status) != seen:
            seen = (live.text, live.status)
            yield live.text
        if ended:
            return
        time.sleep(every)


def messages_before(talk: Talk | None) -> Sequence[Message]:
    """The latest turns as a conversation for `rag`; turns without any answer are left out."""
    messages: list[Message] = []
    for turn in (talk.turns if talk else [])[-HISTORY_TURNS:]:
        if said := answer_text(turn):
            messages += [Message("user", turn.question), Message("assistant", said)]
    return messages
