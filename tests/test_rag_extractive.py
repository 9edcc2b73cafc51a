"""Sentences, facts and extractive answers."""

from __future__ import annotations

import itertools

import pytest
from rag_samples import HANDBOOK, PAY, WARRANTY, found, handbook_hits, hit

from kb.embed import SHIPPED
from rag.answer import answer_from
from rag.extractive import ExtractOptions, extract
from rag.facts import missing, numbers, parse_number, ranges
from rag.quoted import quoted
from rag.sentence import cells, sentence_spans, units


def texts(text: str) -> list[str]:
    return [text[a:b] for a, b in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("他来了。她走了！真的吗？", ["他来了。", "她走了！", "真的吗？"]),
        ("他说：“好。”然后走了。", ["他说：“好。”", "然后走了。"]),
        ("（见附件。详情另说）请看。", ["（见附件。详情另说）请看。"]),
        ("It costs 3.5 dollars. Dr. Weiss answers.", ["It costs 3.5 dollars.", "Dr. Weiss answers."]),
        ("See e.g. page 3. Then stop.", ["See e.g. page 3.", "Then stop."]),
        ("甲；乙。", ["甲；乙。"]),
        ("没有句号", ["没有句号"]),
        ("  \n ", []),
        ("真的吗？！是的……对。", ["真的吗？！", "是的……", "对。"]),
    ],
)
def test_sentences(text: str, wanted: list[str]) -> None:
    assert texts(text) == wanted


def test_long_sentences_are_cut_at_semicolons_only() -> None:
    clause = "员工连续旷工达到三天的公司可以依法解除劳动合同并且不支付任何形式的经济补偿"
    text = "；".join([clause] * 6) + "。"
    parts = texts(text)
    assert len(parts) > 1 and all(part.endswith(("；", "。")) for part in parts)
    assert "".join(parts) == text


def test_units_know_tables_lists_and_headings() -> None:
    found_ = units(HANDBOOK, headings=["第三章 休假"])
    assert HANDBOOK[found_[0].start : found_[0].end] == "第三章 休假" and found_[0].kind == "heading"
    rows = [unit for unit in found_ if unit.kind == "row"]
    assert len(rows) == 3 and {unit.table for unit in rows} == {0}
    assert rows[0].header is not None and "年休假天数" in HANDBOOK[slice(*rows[0].header)]
    assert rows[0].lead is not None and HANDBOOK[slice(*rows[0].lead)].endswith("见下表。")
    items = [u for u in units(PAY) if u.kind == "item" and u.lead is not None]
    assert [PAY[slice(*u.lead)] for u in items if u.lead] == ["离职须交还下列物品："] * 2


@pytest.mark.parametrize(
    "text", [HANDBOOK, PAY, WARRANTY, "a\tb\n1\t2", "|a|b|\n|---|---|\n|1|2|", "", "\n\n", "#", "1."]
)
def test_units_are_in_order_and_do_not_overlap(text: str) -> None:
    spans = [(unit.start, unit.end) for unit in units(text)]
    assert all(a < b for a, b in spans)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert all(text[a:b] == text[a:b].strip() for a, b in spans)


def test_cells() -> None:
    assert cells("| a | b |") == cells("a | b") == cells("a\tb") == ["a", "b"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("三万", 30000),
        ("二〇二六", 2026),
        ("一点五", 1.5),
        ("30,000", 30000),
        ("一百五十八", 158),
        ("两千零三", 2003),
        ("十二", 12),
        ("一亿两千万", 120_000_000),
        ("三五", None),
        ("天", None),
    ],
)
def test_parse_number(written: str, value: float | None) -> None:
    assert parse_number(written) == value


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("百分之十二", [("12", "%")]),
        ("3 万元", [("30000", "yuan")]),
        ("２０２６年３月", [("2026", "year"), ("3", "month")]),
        ("2026-03-31", [("2026", "year"), ("3", "month"), ("31", "day")]),
        ("半天", [("0.5", "day")]),
        ("统一安排一般事务，万一有事", []),
        ("LS-T3 型", []),
        ("within 5 working days", [("5", "workday")]),
    ],
)
def test_numbers(text: str, wanted: list[tuple[str, str]]) -> None:
    assert [(fact.value, fact.unit) for fact in numbers(text)] == wanted


def test_missing_facts_and_ranges() -> None:
    assert not missing(numbers("年假 5 天"), "年假五日")
    assert [fact.text for fact in missing(numbers("年假 6 天"), "年假五日")] == ["6 天"]
    assert missing(numbers("三天"), "三个工作日")
    assert [(r.low, r.high) for r in ranges("满 3 年不满 5 年")] == [(3.0, 5.0)]
    assert ranges("满 20 年")[0].high == float("inf")


@pytest.fixture(scope="module")
def embedder():  # type: ignore[no-untyped-def]
    if not (SHIPPED / "modules.json").is_file():
        pytest.skip("the shipped embedder is not in the package yet")
    from kb.embed import EmbedderConfig, open_embedder

    return open_embedder(EmbedderConfig(model=str(SHIPPED)))


CASES = [
    ("年假有几天？", ["6 天", "8 天", "11 天", "年休假天数"], ["病假", "婚假"]),
    ("我来公司四年了，年休假几天？", ["8 天", "年休假天数"], ["| 6 天", "11 天"]),
    ("工资哪天发？", ["每月十日"], ["公积金", "病假"]),
    ("公积金缴多少？", ["百分之十二"], ["工资于"]),
    ("离职要交还什么？", ["离职须交还下列物品", "电脑和工牌", "门禁卡和图书"], ["年休假"]),
    ("How long is the warranty of the T3?", ["24 months"], ["休假", "shipping"]),
    ("财务负责人是谁？", ["林晓梅"], ["年休假"]),
]


@pytest.mark.parametrize(("question", "has", "has_not"), CASES)
@pytest.mark.parametrize("with_embedder", [True, False])
def test_answers(question: str, has: list[str], has_not: list[str], with_embedder: bool, request) -> None:  # type: ignore[no-untyped-def]
    chosen = request.getfixturevalue("embedder") if with_embedder else None
    answer = answer_from(question, found(question, handbook_hits()), embedder=chosen)
    assert all(part in answer.text for part in has), answer.text
    if with_embedder:
        assert not any(part in answer.text for part in has_not), answer.text
    assert answer.generator == "extractive" and not answer.refused


def test_every_citation_is_word_for_word() -> None:
    for question, _, _ in CASES:
        answer = answer_from(question, found(question, handbook_hits()))
        assert [c.number for c in answer.citations] == list(range(1, len(answer.citations) + 1))
        for cited in answer.citations:
            assert (
                cited.quote == cited.hit.passage.text[cited.start : cited.end]
                and cited.page == cited.hit.page
            )
            assert f"[{cited.number}]" in answer.text
        assert all(s.support == "quoted" and s.citations for s in answer.sentences)


def test_a_table_is_shown_as_a_table() -> None:
    hits = handbook_hits()
    text = quoted(extract("入职满五年的员工年休假有几天？", hits)).text
    lines = text.splitlines()
    at = lines.index("| 本公司工龄 | 年休假天数 | 需提前申请 |")
    assert lines[at + 1] == "| --- | --- | --- |" and lines[at + 2].startswith("| 满 5 年 | 11 天")
    assert lines[at - 1] == "" and "见下表" in lines[at - 2]


def test_the_page_of_a_quote_follows_the_spans() -> None:
    from kb.types import Span
    from rag.cite import page_of

    one = hit("第一页的话。第二页的话。")
    passage = type(one.passage)(1, 1, 0, one.passage.text, (), (Span(3, 90, 96, 0), Span(4, 0, 6, 6)))
    two = type(one)(one.kb, one.document, passage, one.chunk, 1.0, 1.0)
    assert page_of(two, 0) == 3 and page_of(two, 6) == 4


def test_no_heading_alone_and_limits() -> None:
    only = hit("第三章 休假\n年休假五天。", headings=("第三章 休假",))
    assert [e.quote for e in extract("休假", [only])] == ["年休假五天。"]
    assert extract("休假", []) == []
    assert len(extract("员工 工资 假", handbook_hits(), options=ExtractOptions(most=1))) == 1
