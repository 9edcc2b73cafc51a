"""The strings that people read, in Chinese and English. Chinese unless ZHIWEN_LANG (or `set_language`) says "en"."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

Language = Literal["zh", "en"]

_language: Language = "en" if os.environ.get("ZHIWEN_LANG", "").lower().startswith("en") else "zh"


_asked: list[Callable[[], Language | None]] = []


def ask_language(source: Callable[[], Language | None]) -> None:
    """Let `source` say the language each time; where it says None, what `set_language` chose holds.

    A server speaks to several people at once, each in the language of their own session.
    """
    _asked[:] = [source]


def set_language(language: Language) -> None:
    """Choose what `pick` returns from here on."""
    global _language
    _language = language


def language() -> Language:
    """What `pick` returns now."""
    return next((found for ask in _asked if (found := ask())), _language)


def pick(chinese: str, english: str) -> str:
    """The sentence in the language in force."""
    return english if language() == "en" else chinese
