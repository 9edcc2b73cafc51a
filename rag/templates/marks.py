"""Role marks that are plain text ("USER:", "[INST]") inside data: written so that they are marks no more.

A special token cannot come from text at all (see `vocabulary`). A template whose roles are words has only this defence:
its marks are spelled with a full-width sign where a document or a person writes them. It reads the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_WIDE = str.maketrans({"：": ":"} | {c: chr(ord(c) + 0xFEE0) for c in "!#$%&()*+,-./:;<=>?@[]^_{|}~"})
_BRACKETS = re.compile(r"\[[^\[\]\s]{2,20}\]|<[^<>\s]{2,24}>|<<[^<>\s]{2,20}>>")
LONGEST = 40
"""A longer line of a template is a sentence, not a mark."""


def marks_of(literal: str) -> set[str]:
    """The marks in a piece of a template that has no special token: bracketed words, else its lines."""
    found = set(_BRACKETS.findall(literal))
    if found:
        return found
    lines = {line.strip() for line in literal.splitlines()}
    return {line for line in lines if 3 <= len(line) <= LONGEST and re.search(r"\w", line)}


def harmless(text: str, marks: Iterable[str]) -> str:
    """`text` with every mark in it spelled apart."""
    for mark in sorted(marks, key=len, reverse=True):
        if mark in text:
            text = text.replace(mark, spelled(mark))
    return text


def spelled(mark: str) -> str:
    """A mark that looks the same and is another string: full-width signs, else a full-width first letter."""
    wide = mark.translate(_WIDE)
    if wide != mark:
        return wide
    return chr(ord(mark[0]) + 0xFEE0) + mark[1:] if "!" <= mark[0] <= "~" else mark[0] + "\u2009" + mark[1:]
