"""Text -> the terms that lexical search counts: characters and their pairs for Chinese, whole words for the rest.

Folded first: full width to half (NFKC), upper case to lower, traditional to simplified, Kangxi radicals to characters.
Unigrams and bigrams measured better than jieba's words on Chinese questions (see docs/search.md).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from pathlib import Path

_CJK = "\u3007\u3041-\u3096\u30a1-\u30fa\u30fc\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
"""Han, kana, hangul: scripts without blanks between words, or with endings that would hide them."""
_LETTERS = rf"(?:(?![{_CJK}])[^\W_])+"
_TERM = re.compile(rf"[{_CJK}]+|{_LETTERS}(?:[.,:/'_+-]{_LETTERS})*(?:%|#|\+\+)?")
_JOINTS = re.compile(r"[.,:/'_+-]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
LONGEST = 64
"""Characters of a term; what is longer (a key, an encoded picture) is cut there, in documents and questions alike."""
_RADICALS = str.maketrans(
    "⺁⺄⺇⺈⺊⺌⺍⺕⺗⺙⺛⺝⺟⺠⺢⺣⺤⺥⺧⺩⺪⺫⺬⺭⺮⺱⺳⺶⺷⺹⺼⺽⺾⻁⻂⻃⻄⻅⻆⻈⻉⻊⻋⻌⻏⻐⻑⻒⻓⻔⻖⻗⻘⻙⻚⻛⻜⻝⻟⻠⻢⻣⻤⻥⻦⻧⻨⻩⻪⻬⻮⻰⻳",
    "厂乙几刀卜小小彐心攴无月母民水火爪爪牛王疋目示示竹网网羊羊老肉臼艹虎衣西西见角讠贝足车辶阝钅长长长门阝雨青韦页风飞食饣首马骨鬼鱼鸟卤麦黄黾齐齿龙龟",
)
"""CJK radicals that broken PDF fonts put in place of characters and that NFKC leaves as they are."""
_CJK_RUN = re.compile(rf"[{_CJK}]")


@functools.cache
def _table() -> dict[int, str]:
    """Code point -> simplified character. From OpenCC's table; read once, about 4,000 entries."""
    import opencc

    path = Path(opencc.__file__).parent / "dictionary" / "TSCharacters.txt"
    table: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
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
    """Terms of `text`, with repetitions: 年假有5天 -> 年 假 有 年假 假有 5 天; 12,800 -> 12800; X200-A -> x200-a x200 a."""
    found: list[str] = []
    for run in _TERM.findall(_THOUSANDS.sub("", fold(text))):
        if _CJK_RUN.match(run):
            found += run
            found += [run[i : i + 2] for i in range(len(run) - 1)]
        else:
            found.append(run[:LONGEST])
            if _JOINTS.search(run):
                found += [part[:LONGEST] for part in _JOINTS.split(run) if part]
    return found
