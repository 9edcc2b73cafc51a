"""One request on its way through the engine."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kb.errors import GenerationError
from rag.types import GenerateOptions, Piece

if TYPE_CHECKING:
    from rag.chatglm3.engine.cache import Slot
    from rag.chatglm3.engine.writing import Writing


@dataclass(eq=False, slots=True)
class Request:
    """What is asked, and how far it is."""

    ids: list[int]
    options: GenerateOptions
    writing: Writing
    cancel: threading.Event
    slot: Slot | None = None
    done: int = 0
    """Prompt ids that are in the cache."""
    next_id: int = -1
    """The id that was chosen last and is not in the cache yet."""
    out: queue.SimpleQueue[Piece | GenerationError] = field(default_factory=queue.SimpleQueue)
    random: random.Random = field(default_factory=random.Random)


class Ticket:
    """The answer of a request: iterate over its pieces. Leaving the loop early ends the request."""

    def __init__(self, request: Request) -> None:
        self._request = request

    @property
    def ids(self) -> list[int]:
        """Ids written so far, the end id not among them."""
        return list(self._request.writing.ids)

    @property
    def last_id(self) -> int:
        """The id that was chosen last: after finish "stop" by the model, the one that ended the answer."""
        return self._request.next_id

    def cancel(self) -> None:
        """End it within one token, with finish "stopped"."""
        self._request.cancel.set()

    def __iter__(self) -> Iterator[Piece]:
        ended = False
        try:
            while not ended:
                piece = self._request.out.get()
                if isinstance(piece, GenerationError):
                    ended = True
                    raise piece
                ended = piece.finish is not None
                if piece.text or ended:
                    yield piece
        finally:
            if not ended:
                self._request.cancel.set()

    def text(self) -> tuple[str, Piece]:
        """Wait for the whole answer: its text, and the last piece."""
        pieces = list(self)
        return "".join(piece.text for piece in pieces), pieces[-1]
