"""Hits made by hand from texts of ours, and a generator that says what it is told: for tests of what lies around them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from kb.types import Chunk, Document, Hit, SearchResult, Span, StoredPassage
from rag.types import GenerateOptions, Message, Piece

HANDBOOK = """第三章 休假
第十二条　员工入职满一年后享受带薪年休假，天数按在本公司的连续工龄确定，见下表。年休假在当年使用，可顺延到次年三月三十一日，逾期作废。
| 本公司工龄 | 年休假天数 | 需提前申请 |
| 满 1 年不满 3 年 | 6 天 | 3 个工作日 |
| 满 3 年不满 5 年 | 8 天 | 3 个工作日 |
| 满 5 年 | 11 天 | 5 个工作日 |
第十三条　病假须提供二级以上医院开具的诊断证明。全年累计病假十天以内的，按基本工资的百分之八十发放病假工资。
第十四条　婚假为十天，应在领取结婚证之日起一年内一次休完。"""
PAY = """第五章 薪酬与福利
第二十三条　工资于每月十日发放上月工资，遇节假日提前至最近的工作日。
第二十五条　住房公积金的缴存比例为百分之十二。转正员工另享有补充医疗保险，门诊年度限额两万元，免赔额三百元。
离职须交还下列物品：
1. 电脑和工牌
2. 门禁卡和图书
第二十八条　员工推荐的候选人入职并转正的，推荐人获得奖金：普通岗位二千元，研发岗位五千元。财务负责人是林晓梅。"""
WARRANTY = """International warranty
The T3 is covered for 24 months from the date of purchase. Filters are consumables and are not covered.
To make a claim, write to service@lanshi.example with the serial number and a photo of the receipt. Dr. Weiss answers
within 5 working days. Return shipping is free inside the European Union."""


def hit(
    text: str, *, number: int = 1, name: str = "员工手册.md", headings: Sequence[str] = (), page: int = 3
) -> Hit:
    """A passage of a document as a hit."""
    document = Document(number, name, name.rsplit(".", 1)[-1], "00", len(text), 9, 1, 1, "ok")
    passage = StoredPassage(number, number, 0, text, tuple(headings), (Span(page, 0, len(text), 0),))
    chunk = Chunk(number, number, number, 0, len(text), text)
    return Hit("测试", document, passage, chunk, score=1.0 / number, confidence=0.9)


def handbook_hits() -> list[Hit]:
    """Two chapters of a handbook and an English page."""
    return [
        hit(HANDBOOK, number=1, headings=("第三章 休假",), page=3),
        hit(PAY, number=2, headings=("第五章 薪酬与福利",), page=5),
        hit(WARRANTY, number=3, name="warranty.html", headings=("International warranty",), page=1),
    ]


def found(question: str, hits: Sequence[Hit], *, confidence: float = 0.9) -> SearchResult:
    """What searching would return."""
    import dataclasses

    scored = tuple(dataclasses.replace(one, confidence=confidence) for one in hits)
    return SearchResult(question, scored, threshold=0.5)


class Says:
    """A generator that says one text character by character, and remembers what it was asked."""

    def __init__(self, text: str, *, context_tokens: int = 8192, wait: threading.Event | None = None) -> None:
        self.text, self._context, self.wait = text, context_tokens, wait
        self.asked: list[Sequence[Message]] = []
        self.options: list[GenerateOptions] = []

    @property
    def name(self) -> str:
        return "says"

    @property
    def context_tokens(self) -> int:
        return self._context

    def count_tokens(self, text: str) -> int:
        return len(text)

    def stream(
        self,
        messages: Sequence[Message],
        *,
        options: GenerateOptions,
        cancel: threading.Event | None = None,
    ) -> Iterator[Piece]:
        self.asked.append(tuple(messages))
        self.options.append(options)
        written = 0
        for written, character in enumerate(self.text, 1):
            if cancel is not None and cancel.is_set():
                yield Piece("", "stopped", written - 1)
                return
            if written > options.max_tokens:
                yield Piece("", "length", written - 1)
                return
            if any(self.text[:written].endswith(stop) for stop in options.stop):
                break
            yield Piece(character, tokens=written)
        yield Piece("", "stop", written)
