"""Foreign text (documents, models, file names, errors) made harmless for `st.markdown`: shown as it is, never obeyed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ui.settings import Settings

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_SHORTCODE = re.compile(r"\\:(?=[\w+\-/]+\\?:|material)")
_BOLD = re.compile(r"\\\*\\\*(\S(?:.*?\S)?)\\\*\\\*")
_URL = re.compile(r"(https?\\:|ftp\\:|\bwww(?=\\\.))", re.IGNORECASE)
_TABLE = re.compile(
    r"^[ ]*\|.+\|[^|\n]*\n[ ]*\|(?:[ ]*:?-{2,}:?[ ]*\|)+[ ]*(?:\n[ ]*\|.+\|.*)+", re.MULTILINE
)
_HEADING = re.compile(r"^(?:\\#){1,6} +(.+)$", re.MULTILINE)
_PATH = re.compile(r"(?<![\w:/.])(?:/[^\s/，。；：、“”‘’（）()'\"<>|]+){2,}/?|[A-Za-z]:\\[^\s，。；'\"<>|]+")
_INVISIBLE = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f\x7f]")


def plain(text: str) -> str:
    """Markdown that shows exactly this text: no HTML, links, pictures, formulas, colours or emoji come of it.

    Lines stay lines; blanks at their beginning stay visible without making a block of code.
    """
    lines = _INVISIBLE.sub("", text).replace("\t", "    ").split("\n")
    return "  \n".join(_line(line) for line in lines)


def _line(line: str) -> str:
    bare = line.lstrip(" ")
    escaped = _PUNCTUATION.sub(r"\\\1", bare.rstrip())
    return "\u00a0" * min(16, len(line) - len(bare)) + _URL.sub(
        "\\1\u2060", _SHORTCODE.sub("\\\\:\u2060", escaped)
    )


def light(text: str) -> str:
    """As `plain`, but **bold** is bold, headings are bold lines and tables are tables: what models like to write."""
    parts: list[str] = []
    at = 0
    for table in _TABLE.finditer(text):
        parts += [_light(text[at : table.start()]), "\n\n" + _table(table[0]) + "\n\n"]
        at = table.end()
    return "".join([*parts, _light(text[at:])])


def _light(text: str) -> str:
    return _HEADING.sub(r"**\1**", _BOLD.sub(r"**\1**", plain(text)))


def _table(text: str) -> str:
    """Cells made harmless one by one."""
    lines = text.strip().split("\n")
    made = []
    for number, line in enumerate(lines):
        cells = line.strip().strip("|").split("|")
        made.append("| " + " | ".join("---" if number == 1 else _line(c.strip()) for c in cells) + " |")
    return "\n".join(made)


def marked(text: str, spans: Iterable[tuple[int, int]], *, colour: str = "orange") -> str:
    """`plain` with the characters of `spans` on a coloured ground."""
    parts, at = [], 0
    for start, end in sorted(spans):
        if start < at or end > len(text):
            continue
        parts += [plain(text[at:start]), highlighted(text[start:end], colour=colour)]
        at = end
    return "".join([*parts, plain(text[at:])])


def highlighted(text: str, *, colour: str) -> str:
    """Every line of it on a coloured ground."""
    return "  \n".join(
        f":{colour}-background[{_line(line)}]" if line.strip() else "" for line in text.split("\n")
    )


def only_chosen(text: str, settings: Settings, *, more: Iterable[Path] = ()) -> str:
    """The text without paths that nobody chose: of those outside the home, the models and `more` only the name stays."""
    chosen = [str(p) for p in (settings.home, settings.models, *more)]

    def shorten(found: re.Match[str]) -> str:
        path = found[0].rstrip("/")
        if any(path == root or path.startswith(root + "/") for root in chosen):
            return found[0]
        return "…/" + re.split(r"[/\\]", path)[-1]

    return _PATH.sub(shorten, text)
