"""Show an answer while it is written: the tail of it on a terminal, replaced at the end by the whole with citations."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kb.errors import GenerationError
from rag.types import Answer, AnswerEvent, AnswerReady, Piece, Status
from ui.settings import Settings
from ui.table import clip
from ui.text import pick


@contextmanager
def loading(settings: Settings, *, quiet: bool = False) -> Iterator[None]:
    """While a model of this machine is loaded: one line on a terminal that says so, gone afterwards."""
    if quiet or not settings.generator.here or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    name, quantise = settings.generator_folder.name, settings.generator.quantise
    kind = f" ({quantise})" if quantise != "none" else ""
    with Console(stderr=True).status(pick(f"正在载入 {name}{kind} …", f"loading {name}{kind} …")):
        yield


def say_note(generator: object) -> None:
    """What people should know about the one that answers, on stderr."""
    note = getattr(generator, "note", None)
    if note:
        print(pick(*note), file=sys.stderr)


def follow(events: Iterable[AnswerEvent], *, quiet: bool = False) -> Answer:
    """Consume the events of one answer; draw on stderr if it is a terminal and not `quiet`. Returns the answer."""
    if quiet or not sys.stderr.isatty():
        for event in events:
            if isinstance(event, AnswerReady):
                return event.answer
        raise _no_answer()
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    written = ""
    with Live(Text(""), console=console, transient=True, refresh_per_second=12) as live:
        for event in events:
            if isinstance(event, AnswerReady):
                return event.answer
            if isinstance(event, Status):
                live.update(Text(f"{pick(event.zh, event.english)} …", style="dim"))
            elif isinstance(event, Piece):
                written += event.text
                live.update(Text(tail(written, columns=console.width, lines=max(3, console.height - 4))))
    raise _no_answer()


def tail(text: str, *, columns: int, lines: int) -> str:
    """The last `lines` lines of `text` as it would wrap in a terminal of `columns`."""
    wrapped: list[str] = []
    for line in text.split("\n"):
        rest = line
        while len(rest) > columns // 2 and clip(rest, columns) != rest:
            cut = len(clip(rest, columns)) - 1
            wrapped.append(rest[: max(1, cut)])
            rest = rest[max(1, cut) :]
        wrapped.append(rest)
    return "\n".join(wrapped[-lines:])


def _no_answer() -> GenerationError:
    return GenerationError("Answering ended without an answer.", zh="回答过程没有给出结果就结束了。")
