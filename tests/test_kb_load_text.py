"""Text, Markdown, csv, json, HTML, EPUB: encodings found out, structure kept, nothing turned into garbage in silence."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from kb.errors import LimitError, LoadError
from kb.load import ADVICE, SUPPORTED, LoadLimits, load_file
from kb.load.encoding import clean, decode, looks_garbled

SIMPLIFIED = "公司为员工缴纳五险一金，试用期内的工资不低于约定工资的百分之八十。出差需要提前填写申请单，由部门负责人批准。"
TRADITIONAL = "公司為員工繳納五險一金，試用期內的工資不低於約定工資的百分之八十。出差需要提前填寫申請單，由部門負責人批准。"


def load_bytes(folder: Path, name: str, data: bytes | str):  # type: ignore[no-untyped-def]
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return load_file(path)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (SIMPLIFIED, "utf-8"),
        (SIMPLIFIED, "utf-8-sig"),
        (SIMPLIFIED, "gbk"),
        (SIMPLIFIED, "gb18030"),
        (SIMPLIFIED + "𠮷", "gb18030"),
        (SIMPLIFIED, "hz"),
        (SIMPLIFIED, "utf-16"),
        (SIMPLIFIED, "utf-16-le"),
        (SIMPLIFIED, "utf-16-be"),
        (TRADITIONAL, "big5"),
        (TRADITIONAL, "utf-16-be"),
        (TRADITIONAL, "gb18030"),
        ("plain ASCII text, nothing else", "ascii"),
        ("plain ASCII text in wide characters", "utf-16-le"),
    ],
)
def test_encodings_are_found_out(tmp_path: Path, text: str, encoding: str) -> None:
    loaded = load_bytes(tmp_path, "a.txt", text.encode(encoding))
    assert loaded.pages[0].text == text


def test_short_texts_are_told_apart() -> None:
    texts = [SIMPLIFIED[i : i + 10] for i in range(0, len(SIMPLIFIED) - 10, 3)]
    assert all(decode(text.encode("gbk")).text == text for text in texts)
    texts = [TRADITIONAL[i : i + 10] for i in range(0, len(TRADITIONAL) - 10, 3)]
    assert all(decode(text.encode("big5")).text == text for text in texts)


def test_a_guess_is_said_and_garbage_too(tmp_path: Path) -> None:
    wide = load_bytes(tmp_path, "a.txt", SIMPLIFIED.encode("utf-16-be"))
    assert (wide.verdict, wide.pages[0].reasons) == ("suspect", ("guessed-encoding",))
    twice = load_bytes(tmp_path, "b.txt", SIMPLIFIED.encode().decode("latin-1").encode())
    assert twice.verdict == "suspect" and "mojibake" in twice.pages[0].reasons
    lost = load_bytes(tmp_path, "c.txt", "客户名称：锟斤拷锟斤拷")
    assert "mojibake" in lost.pages[0].reasons
    cut = decode((SIMPLIFIED * 3).encode()[:-1])
    assert cut.encoding == "utf-8" and cut.damaged == 1
    assert not looks_garbled(SIMPLIFIED) and not looks_garbled("Straße, naïve façade, Ærøskøbing")


def test_characters_nobody_sees_are_left_out() -> None:
    assert clean("a\u200bb\u202ec\x00d\r\ne\ufeff\xa0f") == "abcd\ne f"


def test_binary_data_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="binary data"):
        load_bytes(tmp_path, "a.txt", bytes(range(256)) * 40)
    with pytest.raises(LoadError, match="is empty"):
        load_bytes(tmp_path, "b.txt", b"")
    blank = load_bytes(tmp_path, "c.txt", b" \n\n ")
    assert (blank.verdict, blank.pages[0].reasons) == ("failed", ("empty",))


def test_markdown_structure(tmp_path: Path) -> None:
    text = (
        "---\ntitle: x\n---\n# 手册\n\n前言。\n第二行。\n\n## 表格\n\n| 城市 | 标准 |\n| --- | --- |\n| 北京 | 500 |\n\n"
        "```python\n# 不是标题\n```\n<!-- 看不见 -->\n尾声\n"
    )
    loaded = load_bytes(tmp_path, "a.md", text)
    page = loaded.pages[0]
    assert loaded.title == "手册"
    assert [(b.kind, b.level, page.text[b.start : b.end], b.header) for b in page.blocks] == [
        ("heading", 1, "手册", ""),
        ("text", 0, "前言。\n第二行。", ""),
        ("heading", 2, "表格", ""),
        ("table", 0, "城市 | 标准\n北京 | 500", "城市 | 标准"),
        ("code", 0, "# 不是标题", ""),
        ("text", 0, "尾声", ""),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_in_any_encoding_and_with_any_delimiter(tmp_path: Path, delimiter: str) -> None:
    rows = (("科室", "问题"), ("内科", f'"头晕{delimiter}乏力"'), ("外科", "扭伤"))
    data = "\r\n".join(delimiter.join(row) for row in rows).encode("gb18030")
    page = load_bytes(tmp_path, "a.csv", data).pages[0]
    assert page.text.split("\n")[1] == f"内科 | 头晕{delimiter}乏力".replace("\t", " ")
    assert page.blocks[0].header == "科室 | 问题"


def test_json_by_record_and_bad_lines_of_jsonl(tmp_path: Path) -> None:
    data = json.dumps([{"名称": "手冲壶", "规格": {"容量": "600ml", "颜色": ["黑", "白"]}}, {"名称": "滤纸"}])
    assert load_bytes(tmp_path, "a.json", data).pages[0].text == (
        "名称: 手冲壶\n规格.容量: 600ml\n规格.颜色: 黑、白\n\n名称: 滤纸"
    )
    loaded = load_bytes(tmp_path, "b.jsonl", '{"a": 1}\nnot json\n{"a": 2}\n')
    assert loaded.pages[0].text == "a: 1\n\na: 2"
    assert (loaded.verdict, loaded.pages[0].reasons, loaded.notes) == (
        "suspect",
        ("bad-lines",),
        ("bad-lines: 1",),
    )
    for name, bad in (("c.json", "{"), ("d.json", "[" * 100_000), ("e.jsonl", "no\nno")):
        with pytest.raises(LoadError, match="not valid JSON") as caught:
            load_bytes(tmp_path, name, bad)
        assert "\n" not in str(caught.value)


def test_html_without_scripts_and_navigation(tmp_path: Path) -> None:
    markup = (
        "<html><head><meta charset=gb2312><title>帮助</title><style>p{}</style></head><body><nav>首页 登录</nav>"
        "<h1>退货</h1><p>七天内<b>可以</b>退货。<br>运费自理。</p><script>alert(1)</script>"
        "<table><tr><th>类别</th><th>期限</th></tr><tr><td>电器</td><td>15 天</td></tr></table>"
        "<ul><li>保留发票</li></ul></body></html>"
    )
    loaded = load_bytes(tmp_path, "a.html", markup.encode("gbk"))
    page = loaded.pages[0]
    assert (loaded.title, loaded.encoding, loaded.verdict) == ("帮助", "gb18030", "ok")
    assert page.text == "退货\n\n七天内可以退货。\n运费自理。\n\n类别 | 期限\n电器 | 15 天\n\n- 保留发票"
    assert [b.kind for b in page.blocks] == ["heading", "text", "table", "text"]


def test_epub_chapters_in_the_order_of_the_book(tmp_path: Path) -> None:
    path = tmp_path / "a.epub"
    chapter = "<?xml version='1.0'?><!DOCTYPE html><html><body><h1>{}</h1><p>{}</p></body></html>"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "META-INF/container.xml",
            "<container><rootfiles><rootfile full-path='O/b.opf'/></rootfiles></container>",
        )
        archive.writestr(
            "O/b.opf",
            "<package><metadata><dc:title>坟</dc:title></metadata><manifest><item id='b' href='2.xhtml'/>"
            "<item id='a' href='%E4%B8%80.xhtml'/><item id='c' href='../../etc/passwd'/></manifest>"
            "<spine><itemref idref='a'/><itemref idref='b'/><itemref idref='c'/></spine></package>",
        )
        archive.writestr("O/2.xhtml", chapter.format("二", "后来"))
        archive.writestr("O/一.xhtml", chapter.format("一", "起初"))
    loaded = load_file(path)
    assert loaded.title == "坟"
    assert [page.text for page in loaded.pages] == ["一\n\n起初", "二\n\n后来"]


def test_bounds(tmp_path: Path) -> None:
    path = tmp_path / "长\n名.txt"
    path.write_text("字" * 1000, encoding="utf-8")
    with pytest.raises(LimitError, match="has 3,000 bytes, more than 100") as caught:
        load_file(path, limits=LoadLimits(max_bytes=100))
    assert "\n" not in str(caught.value)
    page = load_file(path, limits=LoadLimits(max_characters=10)).pages[0]
    assert (len(page.text), page.verdict, page.reasons) == (10, "suspect", ("too-long",))
    for name in ("a.html", "a.json"):
        (tmp_path / name).write_text("[" + "1," * 500 + "1]")
        with pytest.raises(LimitError, match="for its kind"):
            load_file(tmp_path / name, limits=LoadLimits(max_markup=100))
    with pytest.raises(LoadError, match="cannot be read"):
        load_file(tmp_path / "missing.txt")
    with pytest.raises(LoadError, match="files of this type are not read"):
        load_file(tmp_path / "a.exe")


def test_deep_html_is_bounded(tmp_path: Path) -> None:
    loaded = load_bytes(tmp_path, "a.html", "<div>" * 20_000 + "到底了" + "</div>" * 20_000)
    assert loaded.pages[0].verdict in ("ok", "failed")


def test_every_reason_has_advice_in_both_languages() -> None:
    import re

    source = "".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.parent.glob("kb/load/*.py"))
    used = set(re.findall(r'reasons\.append\("([a-z-]+)"\)', source))
    for group in re.findall(r'"(?:failed|suspect|ok)", \((".*?"),?\)', source):
        used |= set(re.findall(r'"([a-z-]+)"', group))
    assert {"no-text-layer", "unmapped-font", "scanned-text"} <= used
    assert used <= set(ADVICE)
    assert all(re.search(r"[\u4e00-\u9fff]", zh) and en.isascii() for zh, en in ADVICE.values())


def test_every_kind_has_a_reader(tmp_path: Path) -> None:
    for suffix in SUPPORTED:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"\x00")
        try:
            load_file(path)
        except LoadError as error:
            assert str(error).isprintable()
