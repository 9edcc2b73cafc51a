"""What must be right to the letter: numbers with units, dates, percentages, Latin words, titles and names.

三万 = 3万 = 30,000; 百分之十二 = 12%; 2026-03-31 has the same facts as 2026年3月31日; 天 = 日.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "壹": 1, "贰": 2, "叁": 3}
_DIGITS |= {"肆": 4, "伍": 5, "陆": 6, "柒": 7, "捌": 8, "玖": 9}
_PLACES = {"十": 10, "拾": 10, "百": 100, "佰": 100, "千": 1000, "仟": 1000}
_BIG = {"万": 10_000, "亿": 100_000_000}
_HAN_NUMBER = "零〇一二三四五六七八九十百千万亿两壹贰叁肆伍陆柒捌玖拾佰仟"

_UNITS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("workday", ("个工作日", "工作日", "working days", "working day", "business days", "business day")),
    ("month-long", ("个月", "个自然月", "months", "month")),
    ("hour", ("个小时", "小时", "个钟头", "hours", "hour", "h")),
    ("minute", ("分钟", "minutes", "minute", "min")),
    ("second", ("秒钟", "秒", "seconds", "second", "s")),
    ("week", ("个星期", "星期", "周", "weeks", "week")),
    ("yuan", ("元人民币", "人民币", "块钱", "元", "块", "yuan", "rmb", "cny")),
    ("dollar", ("美元", "美金", "dollars", "dollar", "usd")),
    ("%", ("%", "个百分点")),
    ("year", ("周年", "年度", "年", "years", "year")),
    ("month", ("月份", "月")),
    ("day", ("个自然日", "自然日", "天", "日", "号", "days", "day")),
    ("kg", ("公斤", "千克", "kg")),
    ("km", ("公里", "千米", "km")),
    ("mm", ("毫米", "mm")),
    ("cm", ("厘米", "公分", "cm")),
    ("m", ("米", "m")),
    ("ml", ("毫升", "ml")),
    ("l", ("升", "l")),
    ("g", ("克", "g")),
    ("w", ("瓦", "w")),
    ("v", ("伏", "v")),
    ("celsius", ("摄氏度", "℃", "°c", "度")),
    ("times", ("倍",)),
    ("count", ("次", "遍", "回")),
    ("people", ("个人", "名", "人", "位", "people")),
    ("article", ("条", "款", "项", "章", "节")),
    (
        "piece",
        ("个", "件", "台", "套", "只", "张", "支", "份", "盒", "箱", "瓶", "本", "部", "家", "所", "座"),
    ),
    ("place", ("楼", "层", "岁", "级", "分", "点", "卷", "集", "届", "页", "排", "期", "段")),
)
_CLASS = {word: name for name, words in _UNITS for word in words}
_UNIT = "|".join(sorted((re.escape(word) for word in _CLASS), key=len, reverse=True))
_HARD = "天日号年月周元块点岁倍次人名条章节楼层级位件台份页秒米克升度"
"""After these a single Chinese digit is a number; 一般 and 统一 are words."""

_NUMBER = re.compile(
    rf"""(?P<percent>百分之(?P<percent_of>[{_HAN_NUMBER}点]+|[0-9.]+))
    |(?P<iso>(?<![0-9])(?P<y>[12][0-9]{{3}})[-/.](?P<m>[01]?[0-9])[-/.](?P<d>[0-3]?[0-9])(?![0-9]))
    |(?P<half>半)(?=个?(?:天|年|月|小时|日|数))
    |(?P<number>(?<![0-9.A-Za-z])(?<![A-Za-z][-_])[0-9]+(?:,[0-9]{{3}})*(?:\.[0-9]+)?|[{_HAN_NUMBER}]+(?:点[零一二三四五六七八九]+)?)
     \s?(?P<scale>[十百千]?[万亿]|[百千](?=[元人万]))?\s?(?P<unit>{_UNIT})?""",
    re.VERBOSE | re.IGNORECASE,
)
_LATIN = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_./+][A-Za-z0-9]+)*")
_TITLE = re.compile(r"《([^《》\n]{1,40})》")
_SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许邓韩冯曹彭曾肖田董潘袁蔡蒋余于杜叶程魏苏吕丁任卢姚沈钟姜崔谭陆范汪廖石金韦贾夏付方邹熊白孟秦邱侯江尹薛闫段雷龙黎史陶贺毛郝顾龚邵万覃武钱戴严莫孔向常"
_NAME = re.compile(
    rf"(?:(?<![\u4e00-\u9fff])|(?<=[是为由叫找和与]))[{_SURNAMES}][\u4e00-\u9fff]{{1,2}}(?=先生|女士|教授|博士|医生|老师|经理|是|说|在|于|担任|出任|和|与|、|，|。|（|$)"
)
_PLACE = re.compile(r"[\u4e00-\u9fff]{2}(?:省|市|县|州|大学|医院|公司|学院|银行)")
_NO_WORDS = frozenset(
    [
        "之一",
        "一些",
        "一般",
        "一样",
        "一起",
        "一定",
        "一直",
        "一切",
        "万一",
        "十分",
        "千万",
        "一旦",
        "一方",
        "一面",
        "一边",
        "一下",
        "一致",
        "百分",
    ]
)


@dataclass(frozen=True, slots=True)
class Fact:
    """Something of a sentence that must stand in its source."""

    text: str
    """As it is written."""
    value: str
    """Canonical: "30000", "12", "ls-t3", a title or a name."""
    unit: str = ""
    """Class of the unit: "day", "%", "yuan"; empty: none written. "word": Latin, title or name."""
    at: int = 0


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` up to, but without, `high`, of one unit: 满 3 年不满 5 年."""

    low: float
    high: float
    unit: str


def fold_width(text: str) -> str:
    """Full width to half, one character for one, so that offsets stay."""
    return "".join(half if len(half := unicodedata.normalize("NFKC", c)) == 1 else c for c in text)


def parse_number(written: str) -> float | None:
    """三万 -> 30000, 二〇二六 -> 2026, 一点五 -> 1.5, 30,000 -> 30000; None if it is no number."""
    if re.fullmatch(r"[0-9][0-9,]*(?:\.[0-9]+)?", written):
        return float(written.replace(",", ""))
    whole, _, fraction = written.partition("点")
    if not whole or any(c not in _HAN_NUMBER for c in whole):
        return None
    if all(c in _DIGITS for c in whole):
        if len(whole) > 1 and not any(c in "零〇" for c in whole) and len(whole) < 4:
            return None  # 二三, 三五: "two or three", no number
        total = float(int("".join(str(_DIGITS[c]) for c in whole)))
    else:
        total = _with_places(whole)
    if fraction:
        total += float("0." + "".join(str(_DIGITS[c]) for c in fraction if c in _DIGITS))
    return total


def _with_places(whole: str) -> float:
    """三千二百万 -> 32000000; 一亿两千万 -> 120000000."""
    total = section = digit = 0
    last = 0
    for c in whole:
        if c in _DIGITS:
            digit = _DIGITS[c]
        elif c in _PLACES:
            section += (digit or 1) * _PLACES[c]
            digit = 0
        elif _BIG[c] > last:
            total, last = (total + section + digit or 1) * _BIG[c], _BIG[c]
            section = digit = 0
        else:
            total, last = total + (section + digit) * _BIG[c], _BIG[c]
            section = digit = 0
    return float(total + section + digit)


def numbers(text: str) -> list[Fact]:
    """Numbers, dates and percentages, in order."""
    folded = fold_width(text)
    found: list[Fact] = []
    for match in _NUMBER.finditer(folded):
        written = text[match.start() : match.end()].strip()
        if match["percent"]:
            value = parse_number(match["percent_of"])
            if value is not None:
                found.append(Fact(written, _plain(value), "%", match.start()))
        elif match["iso"]:
            parts = (("y", "year"), ("m", "month"), ("d", "day"))
            found += [Fact(written, str(int(match[k])), unit, match.start()) for k, unit in parts]
        elif match["half"]:
            after = re.match(r"个?(天|年|月|小时|日)", folded[match.end() :])
            unit = {"月": "month-long"}.get(after[1], _CLASS[after[1]]) if after else ""
            found.append(Fact(written, "0.5", unit, match.start()))
        else:
            found += _counted(folded, written, match)
    return found


def _counted(folded: str, written: str, match: re.Match[str]) -> list[Fact]:
    """A number with its unit; nothing where Chinese digits are part of a word."""
    digits, unit = match["number"], (match["unit"] or "").lower()
    if not digits[0].isdigit():
        around = folded[max(0, match.start() - 1) : match.start() + 2]
        if any(word in around for word in _NO_WORDS) and unit not in ("分钟",):
            return []
        if len(digits) == 1 and (
            digits in "万亿千百" or not unit or (unit[0] not in _HARD and digits in "一两")
        ):
            return []
    elif (
        unit
        and unit.isascii()
        and unit.isalpha()
        and re.match(r"[a-z0-9]", folded[match.end() : match.end() + 1], re.I)
    ):
        unit = ""
    value = parse_number(digits)
    if value is None:
        return []
    for c in match["scale"] or "":
        value *= _PLACES.get(c) or _BIG[c]
    return [Fact(written, _plain(value), _CLASS.get(unit, ""), match.start())]


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}".rstrip("0")


def words(text: str, *, chinese: bool) -> list[Fact]:
    """Latin words, titles in 《》 and names. In English only words with a capital or a digit inside a sentence."""
    found: list[Fact] = []
    for match in _LATIN.finditer(fold_width(text)):
        word = match[0]
        first = not re.search(r"[A-Za-z0-9,]\s+$", text[: match.start()])
        special = any(c.isdigit() for c in word) or sum(c.isupper() for c in word) > 1
        if (
            (len(word) > 1 and chinese and word.lower() not in _CLASS)
            or special
            or (word[0].isupper() and len(word) > 1 and not first)
        ):
            found.append(Fact(word, word.lower(), "word", match.start()))
    for pattern in (_TITLE, _NAME, _PLACE) if chinese else ():
        found += [Fact(m[0], m[m.lastindex or 0], "word", m.start()) for m in pattern.finditer(text)]
    return found


def facts(text: str) -> list[Fact]:
    """Everything of `text` that a source must have to the letter."""
    chinese = any("\u4e00" <= c <= "\u9fff" for c in text)
    return numbers(text) + words(text, chinese=chinese)


def missing(claim: Iterable[Fact], source: str) -> list[Fact]:
    """Facts that `source` does not have. A unit counts only where both sides write a different one."""
    have: dict[str, set[str]] = {}
    for fact in numbers(source):
        have.setdefault(fact.value, set()).add(fact.unit)
    folded = fold_width(source).lower()
    absent: list[Fact] = []
    for fact in claim:
        if fact.unit == "word":
            bare = fact.value.lower()
            wanted = rf"(?<![a-z0-9]){re.escape(bare)}(?![a-z0-9])" if bare.isascii() else re.escape(bare)
            if not re.search(wanted, folded):
                absent.append(fact)
        else:
            units = have.get(fact.value)
            if units is None or (fact.unit and "" not in units and not _same_unit(fact.unit, units)):
                absent.append(fact)
    return absent


def _same_unit(unit: str, units: set[str]) -> bool:
    loose = {"month": "month-long", "month-long": "month", "piece": "people", "people": "piece"}
    return unit in units or loose.get(unit, unit) in units


_TO = re.compile(r"^\s*(?:不满|未满|不足|至|到|-|~|～|—|–|、?小于|以下)\s*$")
_FROM = re.compile(r"(?:满|超过|达到?|高于|大于)\s*$")


def ranges(text: str) -> list[Range]:
    """满 3 年不满 5 年, 3-5 天, 20 年以上, 满 20 年."""
    found = numbers(text)
    made: list[Range] = []
    used: set[int] = set()
    for i, (a, b) in enumerate(pairwise(found)):
        between = text[a.at + len(a.text) : b.at]
        if _TO.match(between) and (a.unit == b.unit or not a.unit) and float(a.value) < float(b.value):
            made.append(Range(float(a.value), float(b.value), b.unit))
            used |= {i, i + 1}
    for i, fact in enumerate(found):
        after = text[fact.at + len(fact.text) : fact.at + len(fact.text) + 3].strip()
        if (
            i not in used
            and fact.unit
            and (after.startswith(("以上", "及以上")) or _FROM.search(text[: fact.at]))
        ):
            made.append(Range(float(fact.value), float("inf"), fact.unit))
    return made
