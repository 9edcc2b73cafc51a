"""One request on its way through the engine."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kb.errors import GenerationError
from rag.types import GenerateOptions, Piece

if TYPE_CHECKING:
    import torch

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
    steps: int = 0
    """Decoding steps that were begun: so many ids of the answer are in the cache, or on their way."""
    pending: int = 0
    """Ids that the device chose, or will, and that were not looked at yet."""
    chosen: list[int] = field(default_factory=list)
    """Ids of the answer as the device chose them, an end id too."""
    ended: bool = False
    out: queue.SimpleQueue[Piece | GenerationError] = field(default_factory=queue.SimpleQueue)
    random: random.Random = field(default_factory=random.Random)

    @property
    def may_go_on(self) -> bool:
        """Whether its next step can begin now, before anybody has seen what the last one chose."""
        if self.done < len(self.ids) or 1 + self.steps >= self.writing.limit:
            return False
        return self.pending == 0 or self.options.repetition_penalty == 1.0

    def settle(self) -> None:
        """Note in the slot which ids of the answer are in the cache."""
        if self.slot is not None and self.done == len(self.ids):
            known = len(self.slot.tokens) - len(self.ids)
            self.slot.tokens += self.chosen[known : self.steps]


def together(unread: Sequence[Request], *, size: int) -> list[Request]:
    """The first, and others whose unread part begins at the same position: side by side they are read in one pass.

    Filled up to the longest they are at most `size` tokens, and at least half of those are real.
    """
    out: list[Request] = []
    longest = tokens = 0
    for request in unread:
        if out and _position(request) != _position(out[0]):
            continue
        rest = min(len(request.ids) - request.done, size)
        wide = max(longest, rest) * (len(out) + 1)
        if not out or wide <= min(size, 2 * (tokens + rest)):
            out.append(request)
            longest, tokens = max(longest, rest), tokens + rest
    return out


def _position(request: Request) -> int:
    return request.slot.position if request.slot is not None else 0


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that was begun: for whom, the ids it chooses (rows,), and what tells that they are there."""

    requests: list[Request]
    ids: torch.Tensor
    event: Any

    @classmethod
    def begun(cls, requests: list[Request], ids: torch.Tensor) -> Flight:
        """`ids` on their way from the device of this thread."""
        import torch

        if not ids.is_cuda:
            return cls(requests, ids, None)
        here = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True).copy_(ids, non_blocking=True)
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return cls(requests, here, event)


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
        return self._request.chosen[-1]

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
