"""Alignment of answers with their sources."""

from __future__ import annotations

import random
import re

import pytest
from rag_samples import HANDBOOK, PAY, handbook_hits, hit

from rag.cite import cite
from rag.marks import without_marks
from rag.sentence import sentence_spans


def test_quotes_are_found_and_numbered_in_order() -> None:
    text = "婚假为十天，应在领取结婚证之日起一年内一次休完。住房公积金的缴存比例为百分之十二。"
    made = cite(text, handbook_hits())
    assert [s.support for s in made.sentences] == ["quoted", "quoted"]
    assert made.text == text.replace("休完。", "休完。[1]") + "[2]"
    assert [c.page for c in made.citations] == [3, 5]


@pytest.mark.parametrize(
    ("sentence", "support", "missing"),
    [
        ("结婚可以休婚假 10 天，领证后一年内一次休完。", "supported", ()),
        ("婚假一共十五天，应在领取结婚证之日起一年内休完。", "partial", ("十五天",)),
        ("公积金的缴存比例是 12%。", "supported", ()),
        ("公积金的缴存比例是 21%。", "partial", ("21%",)),
        ("门诊年度限额为 20,000 元，免赔额 300 元。", "supported", ()),
        ("门诊年度限额为 20 万元，免赔额 300 元。", "partial", ("20 万元",)),
        ("研发岗位的推荐奖金是 5000 元。", "supported", ()),
        ("工作满五年的员工年休假为 11 天。", "supported", ()),
        ("公司为员工提供免费的班车和食堂。", "unsupported", ()),
        ("The T3 is covered for 24 months from the purchase date.", "supported", ()),
        ("The T3 is covered for 36 months from the purchase date.", "partial", ("36 months",)),
        ("财务负责人是王晓梅。", "partial", ("王晓梅",)),
    ],
)
def test_support(sentence: str, support: str, missing: tuple[str, ...]) -> None:
    made = cite(sentence, handbook_hits()).sentences[0]
    assert (made.support, made.missing) == (support, missing)
    assert bool(made.citations) == (support != "unsupported")


def test_a_row_is_not_supported_by_its_neighbour() -> None:
    made = cite("满 3 年不满 5 年的年休假为 11 天。", handbook_hits()[:1]).sentences[0]
    assert made.support != "quoted"
    right = cite("满 3 年不满 5 年的年休假为 8 天。", handbook_hits()[:1])
    assert right.sentences[0].support == "supported" and "8 天" in right.citations[0].quote


def test_own_marks_are_taken_off_and_not_believed() -> None:
    hits = handbook_hits()
    made = cite("婚假为十天[9]。工资于每月十日发放上月工资【1】。", hits)
    assert "[9]" not in made.text and "【1】" not in made.text
    assert made.citations[1].hit is hits[1]
    bare, marks = without_marks("一[1]二[2, 3]三[来源 1]四［2］", hits=3)
    assert bare == "一二三四" and [number for _, number in marks] == [1, 2, 3, 1, 2]


def test_a_mark_decides_between_equal_sources() -> None:
    same = [hit("年假五天。", number=1), hit("年假五天。", number=2, name="b.md")]
    assert cite("年假五天[2]。", same).citations[0].hit is same[1]
    assert cite("年假五天。", same).citations[0].hit is same[0]


def test_numbers_are_not_cut() -> None:
    assert cite("奖金五十元。", [hit("奖金二百五十元。")]).sentences[0].support != "quoted"


def test_no_hits_and_small_talk() -> None:
    assert cite("任何话都没有出处。", []).sentences[0].support == "unsupported"
    assert cite("", handbook_hits()).text == ""
    made = cite("希望对您有帮助！", handbook_hits())
    assert made.sentences[0].citations == ()


def test_layout_of_the_answer_is_kept() -> None:
    text = "可以归纳为两点：\n\n- 婚假为十天。\n- 公积金为 12%。\n"
    made = cite(text, handbook_hits())
    assert re.sub(r"\[\d+\]", "", made.text) == text


def test_changed_digits_are_caught() -> None:
    """Every sentence of the sources that has a number, with one number changed: seldom taken for supported."""
    rng = random.Random(5)
    caught = total = 0
    for text in (HANDBOOK, PAY):
        for start, end in sentence_spans(text):
            sentence = text[start:end]
            places = [
                m.start()
                for m in re.finditer(r"[一二三四五六七八九1-9](?=[0-9十百千万]*[天年元个日条 ])", sentence)
            ]
            for at in places:
                digits = "一二三四五六七八九" if sentence[at] in "一二三四五六七八九" else "123456789"
                wrong = rng.choice([c for c in digits if c != sentence[at]])
                changed = sentence[:at] + wrong + sentence[at + 1 :]
                if "|" in changed:
                    continue
                total += 1
                caught += cite(changed, handbook_hits()).sentences[-1].support in ("partial", "unsupported")
    assert total >= 8 and caught / total >= 0.85, (caught, total)
