"""The strings that people read, in Chinese and English. Chinese unless ZHIWEN_LANG (or `set_language`) says "en"."""

from __future__ import annotations

import os
from typing import Literal

Language = Literal["zh", "en"]

_language: Language = "en" if os.environ.get("ZHIWEN_LANG", "").lower().startswith("en") else "zh"


def set_language(language: Language) -> None:
    """Choose what `pick` returns from here on."""
    global _language
    _language = language


def language() -> Language:
    """What `pick` returns now."""
    return _language


def pick(chinese: str, english: str) -> str:
    """The sentence in the language in force."""
    return english if _language == "en" else chinese
