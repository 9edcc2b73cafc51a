"""Splitting by what documents look like: headings, articles, tables, code, pages, sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_embedders import static_folder, vocabulary

from kb.embed import EmbedderConfig, open_embedder
from kb.errors import SettingsError
from kb.split import SplitConfig, split
from kb.split.lines import heading_level
from kb.split.sentences import cut_long, sentence_spans
from kb.types import Block, Embedder, LoadedFile, Page, Passage

DEFAULT = SplitConfig()
SENTENCE = "员工请假须提前三天向部门主管申请，年休假按工龄计算。"


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    assert len(vocabulary()) > 100
    return open_embedder(EmbedderConfig(model=str(static_folder(tmp_path_factory.mktemp("m") / "static"))))


def document(*pages: Page, title: str = "") -> LoadedFile:
    return LoadedFile(Path("a.txt"), "txt", pages, title=title)


def plain(text: str, counter: Embedder, *, title: str = "", config: SplitConfig = DEFAULT) -> list[Passage]:
    return split(document(Page(1, text), title=title), counter=counter, config=config)


def page_of(*pieces: tuple[str, str, int]) -> Page:
    """(kind, text, level) -> a page with those blocks; a table's first line is its header."""
    text, blocks = "", []
    for kind, piece, level in pieces:
        header = piece.split("\n")[0] if kind == "table" else ""
        blocks.append(Block(kind, len(text), len(text) + len(piece), level=level, header=header))  # type: ignore[arg-type]
        text += piece + "\n\n"
    return Page(1, text, blocks=tuple(blocks))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("天行健。地势坤！谁？", ["天行健。", "地势坤！", "谁？"]),
        (
            "他说：“走吧。”她没动……（真的。）然后走了",
            ["他说：“走吧。”", "她没动……", "（真的。）", "然后走了"],
        ),
        ("价格为 3.5 元，见 v1.2；其他不变。", ["价格为 3.5 元，见 v1.2；", "其他不变。"]),
        ("It costs 3.5 yuan. Buy it. ok", ["It costs 3.5 yuan. ", "Buy it. ok"]),
        ("也．作者自云", ["也．", "作者自云"]),
        ("标题\n正文在这里", ["标题\n", "正文在这里"]),
        (
            "这一行在句子中间被折断了因为它实在太长，\n下一行才说完。",
            ["这一行在句子中间被折断了因为它实在太长，\n下一行才说完。"],
        ),
        (
            "这一行在句子中间被折断了因为它实在太长，\n一、总则",
            ["这一行在句子中间被折断了因为它实在太长，\n", "一、总则"],
        ),
        ("", []),
    ],
)
def test_sentence_ends(text: str, sentences: list[str]) -> None:
    assert [text[a:b] for a, b in sentence_spans(text)] == sentences


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("第一编 总则", 1),
        ("第三章　考勤", 2),
        ("第一回 宴桃园豪杰三结义 斩黄巾英雄首立功", 2),
        ("第二节 假期", 3),
        ("一、适用范围", 4),
        ("（二）报销流程", 5),
        ("## 安装", 2),
        ("第三章的内容很多", 0),
        ("一、员工应当准时上班。", 0),
        ("第十二条 员工请假", 0),
        ("第一次来", 0),
        ("1. 打开", 0),
    ],
)
def test_heading_lines(line: str, level: int) -> None:
    assert heading_level(line) == level


def test_plain_text_knows_chapters_and_articles(counter: Embedder) -> None:
    text = (
        f"第一章 总则\n\n第一条 {SENTENCE * 5}\n第二条 {SENTENCE * 8}\n第二章 假期\n第三条 {SENTENCE * 6}\n"
    )
    passages = plain(text, counter, title="员工手册")
    assert [p.headings for p in passages] == [("员工手册", "第一章 总则"), ("员工手册", "第二章 假期")]
    assert passages[0].text.startswith("第一章 总则") and passages[1].text.startswith("第二章 假期\n第三条")
    chunks = [chunk for passage in passages for chunk in passage.chunks]
    assert all(chunk.text.startswith(("员工手册", "第")) for chunk in chunks)
    assert chunks[1].text.startswith("员工手册 第一章 总则\n")


def test_a_heading_never_ends_a_passage(counter: Embedder) -> None:
    body = SENTENCE * 15
    passages = plain("\n".join(f"第{n}章 标题\n{body}" for n in "一二三"), counter)
    assert all(not p.text.rstrip().endswith("标题") for p in passages)
    assert sum("标题" in p.text for p in passages) == 3


def test_markdown_blocks_decide_where_there_are_any(counter: Embedder) -> None:
    page = page_of(
        ("heading", "# 手册", 1),
        ("heading", "## 请假", 2),
        ("text", SENTENCE * 8, 0),
        ("text", "一、不是标题", 0),
        ("heading", "## 报销", 2),
        ("text", SENTENCE * 8, 0),
    )
    passages = split(document(page), counter=counter)
    assert [p.headings for p in passages] == [("手册", "请假"), ("手册", "报销")]
    assert "一、不是标题" in passages[0].text


def test_short_sections_are_put_together(counter: Embedder) -> None:
    pieces = [("heading", "# 周易", 1)]
    for name in "乾坤屯蒙":
        pieces += [("heading", f"## {name}", 2), ("text", f"{name}卦：{SENTENCE}", 0)]
    passages = split(document(page_of(*pieces)), counter=counter)
    assert [p.headings for p in passages] == [("周易",), ("周易", "蒙")]
    chunks = [chunk.text for passage in passages for chunk in passage.chunks]
    assert [text.count("卦：") for text in chunks] == [1, 1, 1, 1]  # a chunk never spans two sections
    assert all(text.startswith(("周易", "# 周易")) for text in chunks)


def test_a_table_is_cut_between_rows_and_keeps_its_header(counter: Embedder) -> None:
    rows = [f"产品{n:03d} | {n * 3} | 保修一年" for n in range(120)]
    page = page_of(("heading", "# 价目", 1), ("table", "\n".join(["名称 | 价格 | 保修", *rows]), 0))
    passages = split(document(page), counter=counter)
    assert len(passages) > 3
    for passage in passages:
        assert "名称 | 价格 | 保修" in passage.text and len(passage.text) <= 600
        for chunk in passage.chunks:
            assert chunk.text.count("名称 | 价格 | 保修") == 1
            body = passage.text[chunk.start : chunk.end].split("\n")
            assert all(line in rows or line.startswith(("#", "名称")) for line in body if line)
    found = [line for p in passages for line in p.text.split("\n") if line.startswith("产品")]
    assert found == rows


def test_code_stays_together(counter: Embedder) -> None:
    code = "def leave(days):\n    return days * 3\n" * 5
    page = page_of(("text", SENTENCE * 15, 0), ("code", code, 0))
    assert any(code.strip() in p.text for p in split(document(page), counter=counter))


def test_a_paragraph_goes_on_over_the_page_end(counter: Embedder) -> None:
    pages = (
        Page(1, "产品保修期为一年，自购买之日起"),
        Page(2, "算。" + SENTENCE),
        Page(3, "The price of"),
        Page(4, "leave."),
    )
    (passage,) = split(document(*pages), counter=counter)
    assert passage.text == f"产品保修期为一年，自购买之日起算。{SENTENCE}\nThe price of leave."
    assert [span.page for span in passage.spans] == [1, 2, 3, 4] and passage.page == 1


def test_monster_sentences_are_cut_by_langchain_without_loss(counter: Embedder) -> None:
    text = "员工，" * 700 + "天" * 3000
    passages = plain(text, counter)
    assert "".join(p.text for p in passages) == text
    assert max(len(p.text) for p in passages) <= 600
    spans = cut_long("员工请假，三天。" * 5, limit=9)
    assert [b - a for a, b in spans] == [8] * 5


def test_the_prefix_takes_a_third_at_most_and_the_nearest_heading_goes_first(counter: Embedder) -> None:
    title = "员工" * 40
    passages = plain(f"一、请假\n{SENTENCE * 12}", counter, title=title, config=SplitConfig(chunk_tokens=60))
    last = passages[0].chunks[-1]
    assert last.text.startswith("一、请假\n") and title not in last.text
    assert max(counter.count_tokens([c.text for c in passages[0].chunks])) <= 60


def test_empty_and_failed_pages_give_nothing(counter: Embedder) -> None:
    assert (
        split(document(Page(1, ""), Page(2, " \n　\n"), Page(3, "", verdict="failed")), counter=counter) == []
    )


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="max_chars"):
        SplitConfig(target_chars=700)
    with pytest.raises(SettingsError, match="prefix_share"):
        SplitConfig(prefix_share=0.9)
