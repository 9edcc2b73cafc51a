"""Thoughts that a model writes down before its answer (`<think>...</think>`) are no part of the answer."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


class Thoughts:
    """Takes pieces of text and gives those of the answer. White space before it goes too."""

    def __init__(self, *, inside: bool = False) -> None:
        """`inside`: the prompt has opened the thoughts already."""
        self._state = "thinking" if inside else "begin"
        self._held = ""

    def feed(self, text: str) -> str:
        """What of it belongs to the answer, as far as is known."""
        if self._state == "answer":
            return text
        self._held += text
        if self._state == "begin":
            self._held = self._held.lstrip()
            if self._held.startswith(OPEN):
                self._state = "thinking"
            elif self._held and not OPEN.startswith(self._held):
                return self._answer(self._held)
        if self._state == "thinking":
            _, found, rest = self._held.partition(CLOSE)
            if found:
                self._held, self._state = rest, "after"
            else:
                self._held = self._held[-len(CLOSE) :] if len(self._held) > 64 else self._held
        if self._state == "after" and (rest := self._held.lstrip()):
            return self._answer(rest)
        return ""

    def finish(self) -> str:
        """What was held back; thoughts without an end give nothing."""
        held, state = self._held, self._state
        self._held = ""
        return held.strip() if state in ("begin", "after") else ""

    def _answer(self, text: str) -> str:
        self._state, self._held = "answer", ""
        return text
