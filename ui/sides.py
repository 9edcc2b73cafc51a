"""One question answered by several at once, each in a thread of its own: a reloaded page finds them again."""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kb.errors import ZhiwenError
from rag.types import AnswerReady, Message, Piece, Status
from ui import wiring
from ui.settings import Settings

if TYPE_CHECKING:
    from ui.speakers import Speaker

KEPT = 60
"""Questions whose answers are kept in memory."""
WITH_KB = " +kb"
"""What the name of a contestant who is given documents ends with."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is asked, and how."""

    question: str
    model: str
    """As [generator] model."""
    kind: str
    """As [generator] kind."""
    adapters: tuple[str, ...]
    """Names; the base is there anyway."""
    names: tuple[str, ...]
    """Columns: "base", "zhouyi", "zhouyi +kb"."""
    kbs: tuple[str, ...] = ()
    max_tokens: int = 256


@dataclass(slots=True)
class Side:
    """One column. Only its own thread writes."""

    name: str
    text: str = ""
    status: tuple[str, str] = ("", "")
    error: tuple[str, str] = ("", "")
    seconds: float = 0.0
    tokens: int = 0
    finish: str = ""
    done: bool = False


@dataclass(slots=True)
class Sides:
    """One question with everybody's answers."""

    id: str
    asked: Asked
    columns: list[Side]
    cancel: threading.Event = field(default_factory=threading.Event)

    @property
    def done(self) -> bool:
        """Whether everybody has ended."""
        return all(side.done for side in self.columns)


_kept: dict[str, Sides] = {}


def find(number: str) -> Sides | None:
    """By its id."""
    return _kept.get(number)


def start(settings: Settings, asked: Asked) -> Sides:
    """Begin; the model is opened in the thread, so that this returns at once."""
    made = Sides(secrets.token_hex(8), asked, [Side(name) for name in asked.names])
    for old in list(_kept)[: max(0, len(_kept) - KEPT)]:
        del _kept[old]
    _kept[made.id] = made
    threading.Thread(target=_open_and_ask, args=(settings, made), name="sides", daemon=True).start()
    return made


def settings_of(settings: Settings, asked: Asked) -> Settings:
    """The settings with the chosen model."""
    generator = dataclasses.replace(settings.generator, kind=asked.kind, model=asked.model, adapter="")
    return dataclasses.replace(settings, generator=generator)


def _open_and_ask(settings: Settings, sides: Sides) -> None:
    from ui.speakers import open_speakers

    wanted = settings_of(settings, sides.asked)
    for side in sides.columns:
        side.status = ("正在载入模型", "loading the model")

    def begin() -> None:
        speakers = {who.name: who for who in open_speakers(wanted, sides.asked.adapters)}
        for side in sides.columns:
            who = speakers[side.name.removesuffix(WITH_KB)]
            threading.Thread(target=_ask, args=(wanted, sides, side, who), daemon=True).start()

    if (trouble := _guarded(begin)) is not None:
        for side in sides.columns:
            side.error, side.done = trouble, True


def _ask(settings: Settings, sides: Sides, side: Side, who: Speaker) -> None:
    began = time.monotonic()
    write = _grounded if side.name.endswith(WITH_KB) else _alone
    side.status = ("正在写", "writing")
    trouble = _guarded(lambda: write(settings, sides, side, who))
    side.error = trouble or ("", "")
    side.seconds, side.done = time.monotonic() - began, True


def _guarded(work: Callable[[], None]) -> tuple[str, str] | None:
    """What went wrong, in Chinese and English; None if nothing did."""
    try:
        work()
    except ZhiwenError as error:
        return error.zh, error.message
    except Exception:
        logging.getLogger(__name__).exception("answering failed")
        return (
            "回答时出错，详情在运行 zhiwen ui 的终端里。",
            "Answering failed; the terminal that runs zhiwen ui says why.",
        )
    return None


def _alone(settings: Settings, sides: Sides, side: Side, who: Speaker) -> None:
    options = wiring.answer_options(settings).generate
    options = dataclasses.replace(options, adapter=who.adapter, max_tokens=sides.asked.max_tokens)
    messages: Sequence[Message] = [Message("user", sides.asked.question)]
    for piece in who.generator.stream(messages, options=options, cancel=sides.cancel):
        _take(side, piece)


def _grounded(settings: Settings, sides: Sides, side: Side, who: Speaker) -> None:
    from ui.opened import opened

    options = wiring.answer_options(settings)
    generate = dataclasses.replace(options.generate, adapter=who.adapter, max_tokens=sides.asked.max_tokens)
    events = wiring.reply(
        settings, sides.asked.question, kbs=opened(settings.home, sides.asked.kbs), generator=who.generator,
        options=dataclasses.replace(options, generate=generate), cancel=sides.cancel,
    )  # fmt: skip
    for event in events:
        match event:
            case Status():
                side.status = (event.zh, event.english)
            case Piece():
                _take(side, event)
            case AnswerReady():
                side.text = event.answer.text
                side.finish = event.answer.trace.finish or "stop"


def _take(side: Side, piece: Piece) -> None:
    side.text += piece.text
    side.tokens = piece.tokens or side.tokens
    side.finish = piece.finish or side.finish
