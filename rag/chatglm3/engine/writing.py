"""Token ids of an answer -> pieces of text, and when to stop."""

from __future__ import annotations

from collections.abc import Sequence

from rag.types import Chat, FinishReason, GenerateOptions, Piece

LOOP_TOKENS, LOOP_TIMES, LOOP_LONGEST = 48, 4, 160
"""An answer goes in circles if its end repeats one unit at least 4 times over at least 48 tokens; the longest unit."""


def loops(ids: Sequence[int]) -> bool:
    """Whether the end of `ids` is one unit over and over."""
    for period in range(1, min(LOOP_LONGEST, len(ids) // LOOP_TIMES) + 1):
        if ids[-1] != ids[-1 - period]:
            continue
        need = max(LOOP_TIMES * period, LOOP_TOKENS)
        if len(ids) >= need and ids[len(ids) - need + period :] == ids[len(ids) - need : -period]:
            return True
    return False


class Writing:
    """One answer while it is written. `feed` an id, get a piece; after a piece with `finish` nothing more comes."""

    def __init__(self, tokenizer: Chat, *, options: GenerateOptions, limit: int, guard: bool) -> None:
        self.ids: list[int] = []
        self._tokenizer, self._reader = tokenizer, tokenizer.detokeniser()
        self._options, self.limit, self._guard = options, limit, guard
        self._header = list(tokenizer.header)
        self._held = ""
        """Text that may be the beginning of a stop string."""
        self._waiting: list[int] = []
        """Ids that may be the header of the turn, which is no part of the answer."""

    def feed(self, token: int) -> Piece:
        """The next id."""
        if token in self._tokenizer.stop_ids:
            return self.end("stop")
        self.ids.append(token)
        text, found = self._cut(self._held + self._text(token))
        if found:
            return Piece(text, "stop", len(self.ids))
        if len(self.ids) >= self.limit:
            return self._last(text, "length")
        if self._guard and len(self.ids) % 8 == 0 and loops(self.ids):
            return self._last(text, "loop")
        return Piece(text, None, len(self.ids))

    def end(self, reason: FinishReason) -> Piece:
        """Stop here."""
        return self._last("", reason)

    def _last(self, text: str, reason: FinishReason) -> Piece:
        rest = "".join(self._reader.feed(token) for token in self._waiting) + self._reader.finish()
        self._waiting = []
        tail, _ = self._cut(self._held + rest)
        tail += self._held
        self._held = ""
        return Piece(text + tail, reason, len(self.ids))

    def _text(self, token: int) -> str:
        """Text of one id, without the header that the turn begins with (an empty line in the chat format)."""
        if not self._header:
            return self._reader.feed(token)
        self._waiting.append(token)
        size = len(self._waiting)
        if self._waiting == self._header[:size]:
            if size == len(self._header):
                self._header, self._waiting = [], []
            return ""
        text = "".join(self._reader.feed(waiting) for waiting in self._waiting)
        self._header, self._waiting = [], []
        return text

    def _cut(self, text: str) -> tuple[str, bool]:
        """What may be shown of `text`, and whether a stop string ended it. Holds back a possible beginning of one."""
        at = min((i for stop in self._options.stop if stop and (i := text.find(stop)) >= 0), default=-1)
        if at >= 0:
            self._held = ""
            return text[:at], True
        hold = max((_overlap(text, stop) for stop in self._options.stop if stop), default=0)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold], False


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
