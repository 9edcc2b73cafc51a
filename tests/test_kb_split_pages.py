"""Sheets and slides stand alone; the text of a PDF runs on."""

from __future__ import annotations

from pathlib import Path

from kb.load.builder import PageBuilder
from kb.split import split
from kb.types import LoadedFile, Page


class Characters:
    """One token a character."""

    max_tokens = 200

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [len(t) for t in texts]

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return [(i, i + 1) for i in range(len(text))]


def pages() -> tuple[Page, ...]:
    made = []
    for number in (1, 2, 3):
        builder = PageBuilder()
        builder.add("text", f"第 {number} 张表里只有一句话，说的是编号 {number}。")
        made.append(builder.page(number))
    return tuple(made)


def test_no_passage_goes_over_the_end_of_a_sheet() -> None:
    for kind, spans in (("xlsx", 1), ("pptx", 1), ("pdf", 3)):
        passages = split(LoadedFile(Path("x"), kind, pages()), counter=Characters())
        assert max(len(p.spans) for p in passages) == spans, kind


def test_notes_below_a_table_are_paragraphs() -> None:
    builder = PageBuilder()
    builder.table(
        [["型号", "名称", "价格"], ["T3", "净饮机", "1899"], ["T5", "制冷", "2799"], ["含税价。", "", ""]]
    )
    page = builder.page(1)
    assert [b.kind for b in page.blocks] == ["table", "text"]
    assert page.text.endswith("\n\n含税价。")
