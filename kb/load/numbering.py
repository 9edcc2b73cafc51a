"""The numbers that Word writes by itself (第一条, 1.2, a)): they stand in no paragraph's text."""

from __future__ import annotations

import re
from typing import Any

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_DIGITS = "〇一二三四五六七八九"


class Numbering:
    """Counts the numbered paragraphs of one document, in its order."""

    def __init__(self, document: Any) -> None:
        self._levels: dict[str, dict[int, tuple[str, str, int]]] = {}
        """numId -> level -> (format, pattern, start)."""
        self._counts: dict[str, dict[int, int]] = {}
        self._abstract: dict[str, str] = {}
        relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/numbering"
        try:
            root = document.part.part_related_by(relation).element
        except (KeyError, AttributeError):
            return
        lists = {a.get(f"{_W}abstractNumId"): a for a in root.findall(f"{_W}abstractNum")}
        for number in root.findall(f"{_W}num"):
            reference = number.find(f"{_W}abstractNumId")
            key, target = number.get(f"{_W}numId"), "" if reference is None else reference.get(f"{_W}val")
            if target in lists:
                self._levels[key] = _levels(lists[target])
                self._abstract[key] = target

    def next(self, paragraph: Any, styles: list[Any]) -> str:
        """The number that stands before the paragraph, with a blank after it; empty if it has none."""
        for element in (paragraph._p, *(style.element for style in styles)):
            found = element.find(f"{_W}pPr/{_W}numPr")
            if found is None:
                continue
            number, level = (found.find(f"{_W}{name}") for name in ("numId", "ilvl"))
            if number is not None:
                depth = level.get(f"{_W}val", "0") if level is not None else "0"
                return self._count(number.get(f"{_W}val", ""), int(depth) if depth.isdigit() else 0)
        return ""

    def _count(self, key: str, level: int) -> str:
        levels = self._levels.get(key, {})
        if level not in levels:
            return ""
        counts = self._counts.setdefault(self._abstract[key], {})
        counts[level] = counts.get(level, levels[level][2] - 1) + 1
        for deeper in [x for x in counts if x > level]:
            del counts[deeper]
        kind, pattern, _ = levels[level]
        if kind == "bullet":
            return "• "
        if kind == "none":
            return ""

        def value(match: re.Match[str]) -> str:
            place = int(match.group(1)) - 1
            form, _, start = levels.get(place, ("decimal", "", 1))
            return written(counts.get(place, start), form)

        text = re.sub(r"%(\d)", value, pattern)
        return text + ("" if not text or text[-1] in "、）)．" else " ")


def _levels(definition: Any) -> dict[int, tuple[str, str, int]]:
    levels: dict[int, tuple[str, str, int]] = {}
    for level in definition.findall(f"{_W}lvl"):
        about = {}
        for name, usual in (("numFmt", "decimal"), ("lvlText", ""), ("start", "1")):
            found = level.find(f"{_W}{name}")
            about[name] = usual if found is None else found.get(f"{_W}val", usual)
        place = level.get(f"{_W}ilvl", "0")
        if place.isdigit():
            start = int(about["start"]) if about["start"].isdigit() else 1
            levels[int(place)] = (about["numFmt"], about["lvlText"][:50], start)
    return levels


def written(number: int, form: str) -> str:
    """A number in one of Word's formats: 3 -> "3", "三", "c", "iii"."""
    if form.lower().startswith(("chinese", "ideograph", "japanesecounting", "taiwanesecounting")):
        return _chinese(number)
    if form in ("upperLetter", "lowerLetter") and number > 0:
        letters = chr(ord("A") + (number - 1) % 26) * ((number - 1) // 26 + 1)
        return letters if form == "upperLetter" else letters.lower()
    if form in ("upperRoman", "lowerRoman"):
        return _roman(number) if form == "upperRoman" else _roman(number).lower()
    return f"{number:02d}" if form == "decimalZero" else str(number)


def _chinese(number: int) -> str:
    """1 to 9999; 12 -> 十二, 105 -> 一百零五."""
    if not 0 < number < 10000:
        return str(number)
    text, zero = "", False
    for unit, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // unit % 10
        if digit:
            text += ("零" if zero and text else "") + _DIGITS[digit] + name
            zero = False
        else:
            zero = True
    return text[1:] if 10 <= number < 20 else text


def _roman(number: int) -> str:
    if not 0 < number < 4000:
        return str(number)
    text = ""
    for value, letters in (
        (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"),
        (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
    ):  # fmt: skip
        text += letters * (number // value)
        number %= value
    return text
