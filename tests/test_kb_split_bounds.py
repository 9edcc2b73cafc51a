"""What splitting promises for every document: spans, limits, nothing lost. Generated documents, real tokenizers."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_embedders import WORDS, vocabulary

from kb.embed import SHIPPED, open_embedder
from kb.split import SplitConfig, split
from kb.types import Block, LoadedFile, Page, Passage, TokenCounter


class Counter:
    """A real tokenizer with a limit of our choice."""

    def __init__(self, tokenizer: object, *, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens

    def count_tokens(self, texts: list[str]) -> list[int]:
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)  # type: ignore[attr-defined]
        return [len(one.ids) for one in found]

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).offsets)  # type: ignore[attr-defined]


@cache
def tokenizers() -> dict[str, object]:
    """WordPiece (as BERT's) and byte-level BPE (up to three tokens a character), both built here."""
    from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer

    bytelevel = ByteLevelBPETokenizer()
    bytelevel.train_from_iterator([WORDS] * 3, vocab_size=400, min_frequency=2, show_progress=False)
    return {
        "wordpiece": BertWordPieceTokenizer(vocab=vocabulary())._tokenizer,
        "bytes": bytelevel._tokenizer,
    }


PIECE = st.one_of(
    st.text(alphabet=WORDS + "，。\n ", min_size=1, max_size=200),
    st.text(alphabet="abc def.,;\n\t", min_size=1, max_size=120),
    st.text(min_size=1, max_size=40),
    st.sampled_from(
        [
            "第一章 总则\n",
            "第二节 请假\n",
            "一、范围\n",
            "第十二条 ",
            "（二）报销\n",
            "\n\n\n",
            "# 标题\n",
            "|a|b|\n|1|2|\n",
        ]
    ),
    st.integers(1, 60).map(lambda n: "员工请假须提前三天申请。" * n),
    st.integers(1, 1500).map(lambda n: "天" * n),
)


@st.composite
def documents(draw: st.DrawFn) -> LoadedFile:
    """Pages with and without blocks; blocks of all kinds, with gaps, tables with headers that are there or not."""
    pages = []
    for number in range(1, draw(st.integers(1, 3)) + 1):
        text, blocks = "", []
        for piece in draw(st.lists(PIECE, max_size=6)):
            kind = draw(st.sampled_from(["heading", "text", "table", "code", "none", "none"]))
            if kind != "none":
                header = (
                    draw(st.sampled_from(["", piece.split("\n")[0], "名称 | 价格"]))
                    if kind == "table"
                    else ""
                )
                level = draw(st.integers(1, 6)) if kind == "heading" else 0
                blocks.append(Block(kind, len(text), len(text) + len(piece), level=level, header=header))  # type: ignore[arg-type]
            text += piece
        pages.append(Page(number, text, blocks=tuple(blocks)))
    return LoadedFile(
        Path("a.txt"), "txt", tuple(pages), title=draw(st.sampled_from(["", "员工手册", "长" * 300]))
    )


def check(loaded: LoadedFile, passages: list[Passage], *, counter: TokenCounter, config: SplitConfig) -> None:
    """Every promise of kb.types and kb.split."""
    pages = {page.number: page.text for page in loaded.pages}
    seen = {number: bytearray(len(text)) for number, text in pages.items()}
    texts = [chunk.text for passage in passages for chunk in passage.chunks]
    counts = iter(counter.count_tokens(texts))
    for passage in passages:
        assert passage.text.strip() and passage.spans and passage.chunks
        for span in passage.spans:
            assert (
                passage.text[span.offset : span.offset + span.end - span.start]
                == pages[span.page][span.start : span.end]
            )
        assert list(passage.spans) == sorted(passage.spans, key=lambda span: span.offset)
        assert len(passage.text) <= config.max_chars + 1
        for chunk in passage.chunks:
            body = passage.text[chunk.start : chunk.end]
            assert body and chunk.text.endswith(body)
            assert next(counts) <= min(counter.max_tokens, config.chunk_tokens) or len(chunk.text) == 1
            for span in passage.spans:
                first = max(chunk.start, span.offset)
                last = min(chunk.end, span.offset + span.end - span.start)
                for at in range(first, last):
                    seen[span.page][span.start + at - span.offset] = 1
    for number, text in pages.items():
        lost = [char for char, one in zip(text, seen[number], strict=True) if not one and not char.isspace()]
        assert not lost


@pytest.mark.parametrize("name", ["wordpiece", "bytes"])
@pytest.mark.parametrize("limit", [8, 30, 126, 510])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(loaded=documents())
def test_promises(name: str, limit: int, loaded: LoadedFile) -> None:
    counter = Counter(tokenizers()[name], max_tokens=limit)
    config = SplitConfig()
    check(loaded, split(loaded, counter=counter, config=config), counter=counter, config=config)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    loaded=documents(), sizes=st.lists(st.integers(1, 300), min_size=3, max_size=3), share=st.floats(0, 0.5)
)
def test_promises_hold_for_every_setting(loaded: LoadedFile, sizes: list[int], share: float) -> None:
    low, middle, high = sorted(sizes)
    config = SplitConfig(low, middle, high, chunk_tokens=max(8, low), prefix_share=share)
    counter = Counter(tokenizers()["wordpiece"], max_tokens=64)
    check(loaded, split(loaded, counter=counter, config=config), counter=counter, config=config)  # type: ignore[arg-type]


@settings(max_examples=10, deadline=None, derandomize=True)
@given(loaded=documents())
def test_the_same_document_gives_the_same_passages(loaded: LoadedFile) -> None:
    counter = Counter(tokenizers()["wordpiece"], max_tokens=126)
    assert split(loaded, counter=counter) == split(loaded, counter=counter)  # type: ignore[arg-type]


def test_a_line_of_a_million_characters_takes_seconds() -> None:
    counter = Counter(tokenizers()["wordpiece"], max_tokens=126)
    loaded = LoadedFile(Path("a.txt"), "txt", (Page(1, "员工请假" * 250_000),))
    began = time.perf_counter()
    passages = split(loaded, counter=counter)  # type: ignore[arg-type]
    assert time.perf_counter() - began < 60
    assert sum(len(passage.text) for passage in passages) == 1_000_000


@pytest.mark.slow
def test_four_novels() -> None:
    folder = SHARED / "data" / "folders" / "classics"
    if not folder.is_dir():
        pytest.skip("the four novels are not on this machine")
    if not (SHIPPED / "modules.json").is_file():
        pytest.skip("the shipped model is not in this checkout")
    counter = open_embedder()
    for path in sorted(folder.glob("*.txt")):
        loaded = LoadedFile(path, "txt", (Page(1, path.read_text(encoding="utf-8")),), title=path.stem)
        passages = split(loaded, counter=counter)
        check(loaded, passages, counter=counter, config=SplitConfig())
        lengths = sorted(len(passage.text) for passage in passages)
        assert 300 <= lengths[len(lengths) // 2] <= 600
        assert len({passage.headings for passage in passages}) >= 100  # chapters
