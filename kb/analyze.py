"""Text -> the terms that lexical search counts: characters and their pairs for Chinese, whole words for the rest.

Folded first: full width to half (NFKC), upper case to lower, traditional to simplified, Kangxi radicals to characters.
Unigrams and bigrams measured better than jieba's words on Chinese questions (see docs/search.md).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from pathlib import Path

_HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TERM = re.compile(rf"[{_HAN}]+|[a-z0-9]+(?:[.,:/'_+-][a-z0-9]+)*[%℃]?|[^\W\d_]+")
_RADICALS = str.maketrans(
    "⺁⺄⺇⺈⺊⺌⺍⺕⺗⺙⺛⺝⺟⺠⺢⺣⺤⺥⺧⺩⺪⺫⺬⺭⺮⺱⺳⺶⺷⺹⺼⺽⺾⻁⻂⻃⻄⻅⻆⻈⻉⻊⻋⻌⻏⻐⻑⻒⻓⻔⻖⻗⻘⻙⻚⻛⻜⻝⻟⻠⻢⻣⻤⻥⻦⻧⻨⻩⻪⻬⻮⻰⻳",
    "厂乙几刀卜小小彐心攴无月母民水火爪爪牛王疋目示示竹网网羊羊老肉臼艹虎衣西西见角讠贝足车辶阝钅长长长门阝雨青韦页风飞食饣首马骨鬼鱼鸟卤麦黄黾齐齿龙龟",
)
"""CJK radicals that broken PDF fonts put in place of characters and that NFKC leaves as they are."""
_HAN_RUN = re.compile(rf"[{_HAN}]")


@functools.cache
def _table() -> dict[int, str]:
    """Code point -> simplified character. From OpenCC's table; read once, about 4,000 entries."""
    import opencc

    folder = Path(opencc.__file__).parent / "dictionary"
    table: dict[int, str] = {}
    for name in ("TSCharacters.txt",):
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            traditional, _, simplified = line.partition("\t")
            first = simplified.split(" ")[0].strip()
            if len(traditional) == 1 and len(first) == 1 and first != traditional:
                table[ord(traditional)] = first
    return table


def to_simplified(text: str) -> str:
    """Character by character, so that offsets stay as they are."""
    return text if text.isascii() else text.translate(_table())


def plain_character(character: str) -> str:
    """A radical that stands for a character becomes that character; everything else stays (NFC)."""
    if "\u2f00" <= character <= "\u2fdf":
        return unicodedata.normalize("NFKC", character)
    if "\u2e80" <= character <= "\u2eff":
        return character.translate(_RADICALS)
    return character


@functools.lru_cache(maxsize=4096)
def fold(text: str) -> str:
    """NFKC, lower case, simplified. The length may change."""
    if text.isascii():
        return text.lower()
    return to_simplified(unicodedata.normalize("NFKC", text).translate(_RADICALS).lower())


def tokens(text: str) -> list[str]:
    """Terms of `text`, with repetitions: for 年假有5天 -> 年 假 有 年假 假有 5 天."""
    found: list[str] = []
    for run in _TERM.findall(fold(text)):
        if _HAN_RUN.match(run):
            found += run
            found += [run[i : i + 2] for i in range(len(run) - 1)]
        else:
            found.append(run)
            parts = re.split(r"[.,:/'_+-]", run)
            if len(parts) > 1:
                found += [part for part in parts if part]
    return found
