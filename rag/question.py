"""What a question asks for: its content terms without the words of asking, and the kind of answer that fits."""

from __future__ import annotations

import re
from typing import Literal

from kb.analyze import fold, tokens
from rag.facts import Fact, Range, numbers, ranges

AnswerKind = Literal[
    "days", "money", "percent", "date", "time", "number", "person", "place", "reason", "how", "what"
]

_ASKING = re.compile(
    r"请问|请告诉我|告诉我|我想知道|想知道|想问一下|问一下|能不能|可不可以|可以吗|是不是|有没有|是什么意思|什么意思|怎么样|怎么办|怎么|怎样|如何|"
    r"为什么|为何|什么时候|什么|哪一天|哪天|哪里|哪儿|哪些|哪个|哪种|哪一|哪|几天|几个|几|多少|多久|多长时间|多(?=[重高大长远宽厚深快])|"
    r"谁|是否|吗|呢|吧|啊|呀|一下|应该|需要|可以|一共|总共|到底|究竟|我们|你们|我|你|您|的话"
)
_STOP = frozenset(
    [
        "的",
        "了",
        "是",
        "在",
        "和",
        "与",
        "有",
        "就",
        "都",
        "而",
        "及",
        "或",
        "着",
        "被",
        "把",
        "对",
        "会",
        "能",
        "要",
        "也",
        "还",
        "又",
        "这",
        "那",
        "其",
        "之",
        "于",
        "以",
        "为",
        "个",
        "到",
        "从",
        "上",
        "下",
        "中",
        "里",
    ]
)
_STOP_EN = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "do",
        "does",
        "did",
        "of",
        "to",
        "in",
        "on",
        "at",
        "by",
        "for",
        "with",
        "from",
        "and",
        "or",
        "as",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "i",
        "you",
        "we",
        "they",
        "he",
        "she",
        "my",
        "your",
        "our",
        "what",
        "which",
        "who",
        "whom",
        "whose",
        "when",
        "where",
        "why",
        "how",
        "many",
        "much",
        "long",
        "often",
        "can",
        "could",
        "should",
        "would",
        "will",
        "shall",
        "may",
        "must",
        "have",
        "has",
        "had",
        "there",
        "any",
        "some",
        "please",
        "tell",
        "me",
        "about",
        "if",
        "not",
        "no",
    ]
)
_KINDS: tuple[tuple[AnswerKind, str], ...] = (
    (
        "days",
        r"几天|多少天|几日|多少个?工作日|几个工作日|多久|多长时间|几个?月|几年|多少年|几周|几小时|多少小时|几分钟|休多|提前多|how long|how many (?:working |business )?(?:days|weeks|months|years|hours)|how often",
    ),
    (
        "money",
        r"多少钱|多少元|几块|几元|价格|价钱|费用|单价|零售价|收费|工资是|奖金|补贴|补助|补多少|收多少|花多少|奖励|how much|price|cost|fee",
    ),
    ("percent", r"百分之几|百分之多少|比例|几成|占比|利率|percent|rate"),
    (
        "date",
        r"哪一?天|什么时候|何时|哪年|哪一年|几月|几号|几日|日期|截止|when|what date|which year|deadline",
    ),
    ("time", r"几点|什么时间|时间是|工作时间|what time|opening hours"),
    ("person", r"谁|哪位|何人|什么人|who\b|whom"),
    ("place", r"哪里|哪儿|何处|何地|什么地方|哪个地方|哪个城市|哪个省|哪国|哪个国家|where"),
    ("reason", r"为什么|为何|什么原因|原因|怎么回事|why"),
    ("how", r"怎么|怎样|如何|怎么办|步骤|how (?:do|to|can|should)"),
    (
        "number",
        r"多少|几[个人次台级层条位种名件]|多重|多大|多高|多远|电话|号码|型号|多快|how many|how (?:far|big|heavy|tall)|number|phone",
    ),
)
_WANTED: dict[AnswerKind, frozenset[str]] = {
    "days": frozenset({"day", "workday", "month", "month-long", "year", "hour", "week", "minute"}),
    "money": frozenset({"yuan", "dollar", "%", "times"}),
    "percent": frozenset({"%"}),
    "time": frozenset({"place", "hour", "minute", "day"}),
}
_CUES: dict[AnswerKind, re.Pattern[str]] = {
    "person": re.compile(
        r"先生|女士|教授|博士|医生|经理|主任|负责人|总监|本人|部门|[A-Z][a-z]+ [A-Z][a-z]+|由.{1,12}(?:负责|审批|担任)"
    ),
    "place": re.compile(r"省|市|县|区|镇|村|路|街|楼|层|室|国|州|岛|山|河|位于|地点|在.{1,10}[里内上]"),
    "reason": re.compile(
        r"因为|由于|因此|所以|原因|是因|导致|引起|属于正常|以便|because|due to|since|so that|in order", re.I
    ),
    "how": re.compile(
        r"应|请|须|可|先|再|然后|步骤|按|点击|办理|处理|must|should|please|first|then|press", re.I
    ),
    "date": re.compile(
        r"[0-9０-９〇零一二三四五六七八九十]\s?[日号月年](?!度)|[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}|[每上下本]?[周期][一二三四五六日天]"
        r"|次年|次月|当月|当天|之日起|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
        r"|January|February|March|April|May|June|July|August|September|October|November|December"
    ),
}


class Question:
    """A question read once. `terms` are what a source should share with it, `kind` what the answer looks like."""

    def __init__(self, text: str) -> None:
        self.text = text
        folded = fold(text)
        self.english = is_english(text)
        self.kinds: tuple[AnswerKind, ...] = tuple(
            kind for kind, pattern in _KINDS if re.search(pattern, folded)
        )
        self.measured = bool({"days", "money", "percent", "date", "time"} & set(self.kinds[:1]))
        """A duration, an amount, a share, a date or a time is asked for."""
        self.terms = content_terms(text)
        self.facts: list[Fact] = numbers(text)

    def fits(self, text: str, *, given: str = "") -> float:
        """0 to 1: whether `text` has what is asked for. `given`: words that the question itself brings."""
        if not self.kinds:
            return 0.0
        own = {fact.value for fact in self.facts}
        new = [fact for fact in numbers(text) if fact.value not in own and fact.unit != "article"]
        best = 0.0
        for kind in self.kinds[:2]:
            wanted = _WANTED.get(kind)
            cue = _CUES.get(kind)
            if wanted and any(fact.unit in wanted for fact in new):
                best = max(best, 1.0)
            elif (wanted or kind == "number") and new:
                best = max(best, 0.6 if wanted else 0.9)
            if cue and cue.search(text):
                best = max(best, 1.0 if kind == "date" else 0.8)
        return best

    def in_range(self, text: str) -> float:
        """1 if a number of the question lies in a range that `text` gives (四年: 满 3 年不满 5 年), -1 if outside all."""
        asked = {(float(fact.value), fact.unit) for fact in self.facts if fact.unit}
        if not asked:
            return 0.0
        given: list[Range] = [r for r in ranges(text) if any(unit == r.unit for _, unit in asked)]
        if not given:
            return 0.0
        inside = any(r.low <= value < r.high for r in given for value, unit in asked if unit == r.unit)
        return 1.0 if inside else -1.0


def is_english(text: str) -> bool:
    """Whether a text is to be answered in English: Latin letters and no Chinese character."""
    return not re.search(r"[\u3400-\u9fff]", text) and bool(re.search(r"[A-Za-z]", text))


def content_terms(text: str) -> list[str]:
    """The terms of a question (see `kb.analyze`) without words of asking; numbers as their value. No repetitions."""
    kept: dict[str, None] = {}
    for run in _ASKING.split(fold(text)):
        for term in source_terms(run):
            if term not in _STOP and term not in _STOP_EN:
                kept.setdefault(term)
    return list(kept)


def source_terms(text: str) -> list[str]:
    """Terms of a source, with its numbers as values: 五年 and 5 年 share "=5"; English plurals lose their s."""
    found = [_stem(term) for term in tokens(text)]
    found += [f"={fact.value}" for fact in numbers(text)]
    return found


def _stem(term: str) -> str:
    if not (term.isascii() and term.isalpha()) or len(term) < 4:
        return term
    for ending, rest in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", "e"), ("s", "")):
        if term.endswith(ending) and len(term) - len(ending) >= 3 and not term.endswith("ss"):
            return (term[: -len(ending)] + rest).rstrip("e")
    return term.rstrip("e")
