"""Token ids -> text, one id at a time, so that an answer can be shown while it is written.

Only whole characters come out: the bytes of a character that takes several tokens are held back until it is complete.
The first space of a text is the dummy prefix of the encoding and is left out, as SentencePiece does.
"""

from __future__ import annotations

from collections.abc import Sequence

from rag.chatglm3.tokenizer_model import BYTE, NORMAL, SPACE, UNKNOWN, USER_DEFINED

BROKEN = "\ufffd"
"""What stands for a byte that belongs to no character."""


class Detokeniser:
    """Feed ids, get text. `finish` gives what was held back."""

    def __init__(self, pieces: Sequence[str], *, types: Sequence[int]) -> None:
        self._pieces, self._types = pieces, types
        self._bytes = b""
        self._first = True

    def feed(self, token: int) -> str:
        """The text that became certain with this id; often empty. Special and unknown-to-us ids give none."""
        kind = self._types[token] if 0 <= token < len(self._types) else 0
        if kind == BYTE:
            self._first = False
            self._bytes += bytes([int(self._pieces[token][3:5], 16)])
            return self._whole()
        if kind == UNKNOWN:
            text = " \u2047 "
        elif kind in (NORMAL, USER_DEFINED):
            text = self._pieces[token].replace(SPACE, " ")
            text = text[1:] if self._first and text.startswith(" ") else text
        else:
            return ""
        self._first = False
        return self.finish() + text

    def finish(self) -> str:
        """What is held back; bytes that never became a character are shown as U+FFFD."""
        text = self._whole() + BROKEN * len(self._bytes)
        self._bytes = b""
        return text

    def _whole(self) -> str:
        """Take complete characters out of the buffer; a byte that can begin or continue none is U+FFFD."""
        out = ""
        while self._bytes:
            length = _length(self._bytes[0])
            head = self._bytes[:length]
            if length and len(head) < length and _may_continue(head):
                break
            try:
                out += head.decode("utf-8") if length else BROKEN
                self._bytes = self._bytes[max(length, 1) :]
            except UnicodeDecodeError:
                out, self._bytes = out + BROKEN, self._bytes[1:]
        return out


def _length(first: int) -> int:
    """Bytes of a character by its first byte; 0 if none begins so."""
    if first < 0x80:
        return 1
    if 0xC2 <= first < 0xE0:
        return 2
    if 0xE0 <= first < 0xF0:
        return 3
    return 4 if 0xF0 <= first < 0xF5 else 0


def _may_continue(head: bytes) -> bool:
    """Whether an incomplete sequence can still become a character."""
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def decode(ids: Sequence[int], *, pieces: Sequence[str], types: Sequence[int]) -> str:
    """The text of a whole sequence."""
    reader = Detokeniser(pieces, types=types)
    return "".join(reader.feed(token) for token in ids) + reader.finish()
