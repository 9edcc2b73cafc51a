"""Bytes -> text: which encoding was it? UTF-8 and BOMs are certain; GB18030 and Big5 are told apart by how common the
characters are that come out; what is only likely is reported as a guess, never passed off in silence."""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text and how it was read."""

    text: str
    encoding: str
    """Python's name: "utf-8", "gb18030", "big5", "utf-16-le", ..."""
    certain: bool
    """False: a guess that should be reported."""
    damaged: int = 0
    """Bytes or characters that could not be read."""


@functools.cache
def _common(encoding: str) -> frozenset[str]:
    """The frequent characters of an encoding: GB 2312's first level, Big5's first level. Their order is by use."""
    found: set[str] = set()
    if encoding == "gb18030":
        spans = ((range(0xB0, 0xD8), range(0xA1, 0xFF)),)
    else:
        spans = ((range(0xA4, 0xC7), (*range(0x40, 0x7F), *range(0xA1, 0xFF))),)  # type: ignore[assignment]
    for leads, trails in spans:
        for lead in leads:
            for trail in trails:
                try:
                    found.add(bytes((lead, trail)).decode("gb2312" if encoding == "gb18030" else "big5"))
                except UnicodeDecodeError:
                    continue
    return frozenset(found)


_EVERYDAY = frozenset(
    "的一是不了在人有我他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家十用发天如然作方成者多日都三小军二无同么经法当起与好看学进种将还分此心前面又定见只主没公从"
    "這為來個們到說國時於對會後裡過發經當與學進種將還無軍見沒從動開現點種業實問電體長關門應該並請報"
    "，。、：；？！「」（）《》“”"
)


def decode(data: bytes) -> Decoded:
    """The text of a file. Never fails: what is not text at all comes out with `damaged` large."""
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            text = data.decode(encoding, errors="replace")
            return Decoded(_tidy(text), encoding.removesuffix("-sig"), True, text.count("\ufffd"))
    if _CONTROL_BYTES.search(data[:20000]) and (wide := _utf16_without_bom(data)) is not None:
        return wide
    if (hz := _hz(data)) is not None:
        return hz
    try:
        return Decoded(_tidy(data.decode("utf-8")), "utf-8", True)
    except UnicodeDecodeError as error:
        if error.start > len(data) - 4 and len(data) > 64:
            return Decoded(_tidy(data.decode("utf-8", errors="replace")), "utf-8", True, 1)
    if (wide := _utf16_without_bom(data)) is not None:
        return wide
    return _by_frequency(data)


def _tidy(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\x0c", "\n")


def _utf16_without_bom(data: bytes) -> Decoded | None:
    """Every other byte zero (Latin text), or both halves plausible Chinese."""
    if len(data) < 4 or len(data) % 2:
        return None
    sample = data[:20000]
    best: tuple[float, str] = (0.0, "")
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = sample[: len(sample) // 2 * 2].decode(encoding)
        except UnicodeDecodeError:
            continue
        best = max(best, (_likely(text) if not _CONTROL.search(text) else 0.0, encoding))
    if best[0] < 0.6:
        return None
    return Decoded(_tidy(data.decode(best[1], errors="replace")), best[1], False)


def _hz(data: bytes) -> Decoded | None:
    """Chinese in seven bits, ~{...~}, as mail once had it."""
    if b"~{" not in data or b"~}" not in data or not data.isascii():
        return None
    try:
        text = data.decode("hz")
    except UnicodeDecodeError:
        return None
    return Decoded(_tidy(text), "hz", False) if _likely(text) > 0.9 else None


def _likely(text: str) -> float:
    """Share of characters that everyday text has: Latin letters, digits, blanks, common Chinese."""
    if not text:
        return 0.0
    common = _common("gb18030") | _common("big5")
    good = sum(c in common or c in _EVERYDAY or (c < "\x7f" and c.isprintable()) or c in "\n\t" for c in text)
    return good / len(text)


def _by_frequency(data: bytes) -> Decoded:
    candidates = []
    for encoding in ("gb18030", "big5", "shift_jis"):
        candidate = _try(data, encoding)
        if candidate is not None:
            candidates.append(candidate)
    candidates.sort(key=lambda c: -c[0])
    if not candidates or candidates[0][0] < 0.2:
        text = data.decode("latin-1")
        return Decoded(_tidy(text), "latin-1", False, len(_CONTROL.findall(text)))
    score, encoding, text, damaged = candidates[0]
    rival = candidates[1][0] if len(candidates) > 1 else 0.0
    certain = encoding in ("gb18030", "big5") and score > 0.6 and score - rival > 0.15 and not damaged
    return Decoded(_tidy(text), encoding, certain, damaged)


def _try(data: bytes, encoding: str) -> tuple[float, str, str, int] | None:
    """(score, encoding, text, damaged characters); None if it is clearly not this encoding."""
    codec = "big5hkscs" if encoding == "big5" else encoding
    try:
        text = data.decode(codec, errors="replace")
    except LookupError:
        return None
    damaged = text.count("\ufffd")
    wide = [c for c in text[:50000] if c > "\x7f" and c != "\ufffd"]
    if not wide or damaged > 0.05 * len(wide) + 1:
        return None
    common = _common("gb18030" if encoding == "gb18030" else "big5")
    everyday = sum(c in _EVERYDAY for c in wide) / len(wide)
    usual = sum(
        c in common or unicodedata.category(c)[0] == "P" or "\uff00" <= c <= "\uffef" for c in wide
    ) / len(wide)
    if encoding == "shift_jis":
        usual = sum("\u3040" <= c <= "\u30ff" for c in wide) / len(wide)
        everyday = usual
    private = sum(unicodedata.category(c) in ("Co", "Cn", "Cs") for c in wide) / len(wide)
    score = 0.6 * usual + 1.2 * everyday - 3 * private - 5 * damaged / len(wide)
    return score, encoding, text, damaged


_GARBLED = re.compile(
    r"锟斤拷|烫烫烫|屯屯屯|(?:[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u2122]{1,3}){3,}"
)
"""The last one is UTF-8 that was read as Latin-1 or Windows-1252."""


def looks_garbled(text: str) -> bool:
    """Does it hold the marks of text that was decoded wrongly once before?"""
    sample = text[:20000]
    if not sample:
        return False
    bad = sample.count("\ufffd") + sum(unicodedata.category(c) == "Co" for c in sample)
    return bad > 0.02 * len(sample) + 1 or bool(_GARBLED.search(sample))


_DROP = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """What every page's text goes through: NFC, "\\n" line ends, no control, zero-width or direction characters."""
    text = unicodedata.normalize("NFC", _tidy(text)).replace("\xa0", " ").replace("\u2028", "\n")
    return _DROP.sub("", text).encode("utf-8", "replace").decode("utf-8")
