"""Each metric equals the implementation that others use, to 1e-6; the report counts refusals and citations."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from rag_samples import found, handbook_hits

from kb.errors import DataError
from rag.answer import answer_from
from rag.evaluate import Reference, evaluate_answers, is_right, read_references, report, score_texts
from rag.metrics import bleu4, bleu_tokens, char_f1, contains, exact_match, rouge, words

PARTS = [
    "年休假",
    "为五天",
    "，",
    "可顺延到次年",
    "3月31日",
    "公司",
    "T3 型",
    "净水机",
    "每升 1.5 元",
    "。",
    "is",
    "covered",
    "（见附件）",
    "…",
]


def sentences(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(PARTS, k=rng.randint(4, 12))) for _ in range(count)]


def test_bleu_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

    for text in [*sentences(50, 1), "价格：3.5元-4元（约）", "A-1, b. c", "“好”——他说……", ""]:
        assert bleu_tokens(text) == TokenizerZh()(text).split(), text
    said, one, two = sentences(40, 2), sentences(40, 3), sentences(40, 4)
    ours = bleu4(said, [[a] for a in one])
    assert ours == pytest.approx(sacrebleu.corpus_bleu(said, [one], tokenize="zh").score / 100, abs=1e-6)
    ours = bleu4(said, [[a, b] for a, b in zip(one, two, strict=True)])
    assert ours == pytest.approx(sacrebleu.corpus_bleu(said, [one, two], tokenize="zh").score / 100, abs=1e-6)
    for text, reference in [("年假五天", "年假五天"), ("年假五天", "婚假十天"), ("短", "很长的一句话在这里")]:
        theirs = sacrebleu.corpus_bleu([text], [[reference]], tokenize="zh").score / 100
        assert bleu4([text], [[reference]]) == pytest.approx(theirs, abs=1e-6)


def test_rouge_is_rouge_chineses() -> None:
    rouge_chinese = pytest.importorskip("rouge_chinese")
    reference_rouge = rouge_chinese.Rouge()
    for said, wanted in zip(sentences(40, 5), sentences(40, 6), strict=True):
        said, wanted = said.replace(".", ""), wanted.replace(".", "")  # it ends a sentence at every "."
        theirs = reference_rouge.get_scores(" ".join(words(said)), " ".join(words(wanted)))[0]
        names = ("rouge-1", "rouge-2", "rouge-l")
        assert rouge(said, wanted) == pytest.approx([theirs[name]["f"] for name in names], abs=1e-6)
    assert rouge("", "年假") == (0.0, 0.0, 0.0)


def by_definition(said: str, wanted: str) -> float:
    """CMRC2018's F1 as its paper words it, by brute force over all runs of characters."""
    drop = "，。…（）"
    a, b = ("".join(c for c in text.lower() if c not in drop) for text in (said, wanted))
    runs = [a[i:j] for i in range(len(a)) for j in range(i + 1, len(a) + 1) if a[i:j] in b]
    common = max(map(len, runs), default=0)
    if not common:
        return 0.0
    precision, recall = common / len(a), common / len(b)
    return 2 * precision * recall / (precision + recall)


def test_f1_and_exact_are_cmrcs() -> None:
    chinese = ["年休假", "为五天", "，", "可顺延", "公司", "净水机", "。", "（见附件）", "五天"]
    rng = random.Random(7)
    for _ in range(60):
        said, wanted = ("".join(rng.choices(chinese, k=5)) for _ in range(2))
        assert char_f1(said, [wanted]) == pytest.approx(by_definition(said, wanted), abs=1e-6)
    assert char_f1("在2019年的上海", ["2019年", "上海"]) == pytest.approx(2 * (2 / 6) / (2 / 6 + 1))
    assert exact_match("《三国演义》。", ["三国演义"]) == 1.0 and exact_match("三国", ["三国演义"]) == 0.0
    assert char_f1("", ["年假"]) == 0.0
    assert contains("年休假为 5 天。", ["5天"]) == 1.0 and contains("年休假", [""]) == 0.0


def test_report() -> None:
    hits = handbook_hits()

    def ask(question: str):  # type: ignore[no-untyped-def]
        confidence = 0.1 if "食堂" in question or "工资" in question else 0.9
        return answer_from(question, found(question, hits, confidence=confidence))

    references = [
        Reference("公积金缴多少？", ("百分之十二",), "员工手册.md", 5),
        Reference("工资哪天发？", ("每月十日",)),
        Reference("食堂在几楼？", ()),
        Reference("火星上有什么？", ()),
    ]
    made = evaluate_answers(references, ask)
    assert made.questions == 4 and made.refused_wrongly == 0.5 and made.answered_wrongly == 0.5
    assert made.text.count == 1 and made.text.contained == 1.0 and made.text_all.contained == 0.5
    assert made.citation_recall == 1.0 and 0 < made.citation_precision <= 1 and made.unsupported == 0.0
    assert made.as_json()["text"]["count"] == 1
    answer = ask("公积金缴多少？")
    assert is_right(answer.citations[0], references[0])
    elsewhere = dataclasses.replace(references[0], answers=("没有",), page=4)
    assert not is_right(answer.citations[0], elsewhere)
    assert report([], []).questions == 0


def test_scores_of_nothing_and_of_unequal_lists() -> None:
    assert score_texts([], []).count == 0
    with pytest.raises(ValueError, match="1 texts"):
        score_texts(["a"], [])


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"question": "甲？", "answer": "乙"}\n\n{"question": "丙？", "answers": ["丁", "戊"], "file": "a.md", "page": 2}\n'
        '{"question": "己？", "answer": null}\n{"question": "庚？", "answer": "辛", "refuse": true}\n',
        encoding="utf-8",
    )
    assert read_references(path) == [
        Reference("甲？", ("乙",)),
        Reference("丙？", ("丁", "戊"), "a.md", 2),
        Reference("己？", ()),
        Reference("庚？", ()),
    ]
    for bad in (
        '{"question": ""}',
        "{",
        "[]",
        '{"question": "甲", "answer": 3}',
        '{"question": "甲", "page": "x"}',
        "",
    ):
        path.write_text(bad + "\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"q\.jsonl"):
            read_references(path)
