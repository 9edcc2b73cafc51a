"""Intervals, controlled damage, question files and what is measured of an answer, against cases worked out by hand."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from finetune.corrupt import Corruption, corrupt
from finetune.data.types import Conversation, Turn
from finetune.measures import (
    MEASURES,
    Said,
    choice,
    distinct,
    exact,
    learn_terms,
    overlap,
    repetition,
    similarity,
    term_density,
    unfinished,
    yes_or_no,
)
from finetune.questions import Question, read_questions
from finetune.stats import difference, estimate, percent, proportion
from kb.errors import DataError
from rag.prompt import REFUSAL


def test_interval_of_a_known_sample() -> None:
    values = [0.0, 1.0] * 50
    got = estimate(values)
    half = 1.984 * 0.5 / math.sqrt(99)  # Student's t of 99 degrees of freedom, standard error of the mean
    assert got.mean == 0.5 and got.count == 100
    assert got.low == pytest.approx(0.5 - half, abs=0.02) and got.high == pytest.approx(0.5 + half, abs=0.02)
    assert estimate(values) == got, "seeded"


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    draw = np.random.default_rng(1)
    for size, least in ((8, 0.88), (40, 0.92)):
        hits = 0
        for _ in range(300):
            got = estimate(list(draw.normal(3.0, 1.0, size)))
            hits += got.low <= 3.0 <= got.high
        assert least <= hits / 300 <= 0.99


def test_few_pairs_are_never_sure() -> None:
    assert not estimate([1.0]).sure and not estimate([1.0] * 5).sure
    assert estimate([1.0] * 6).sure and not estimate([0.0] * 30).sure
    assert math.isnan(estimate([]).mean) and not estimate([]).sure


def test_difference_and_percent_are_paired() -> None:
    theirs = [float(i) for i in range(1, 21)]
    ours = [t + 1 for t in theirs]
    gain = difference(ours, theirs)
    assert gain.mean == gain.low == gain.high == 1.0 and gain.sure
    half = percent([t / 2 for t in theirs], theirs)
    assert half.mean == half.low == half.high == 50.0
    with pytest.raises(ValueError, match="equal lengths"):
        difference([1.0], [])


def test_wilson_interval() -> None:
    got = proportion(8, 10)  # 0.4902, 0.9433: worked out from the formula by hand
    assert got.low == pytest.approx(0.4902, abs=1e-4) and got.high == pytest.approx(0.9433, abs=1e-4)
    assert proportion(0, 10).low == 0.0 and proportion(0, 10).high > 0.2


def _examples(answers: list[str]) -> list[Conversation]:
    return [Conversation((Turn("user", f"问{i}"), Turn("assistant", a))) for i, a in enumerate(answers)]


def test_shuffled_answers_never_equal_the_old_ones_even_among_twins() -> None:
    before = _examples([f"答{i // 4}" for i in range(40)])
    after, chosen = corrupt(before, how=Corruption("shuffle"))
    assert chosen == list(range(40))
    assert all(
        a.answer != b.answer for a, b in zip(before, after, strict=True) if isinstance(b, Conversation)
    )
    answers = Counter(e.answer for e in after if isinstance(e, Conversation))
    assert answers == Counter(e.answer for e in before)
    again, _ = corrupt(before, how=Corruption("shuffle"))
    other, _ = corrupt(before, how=Corruption("shuffle", seed=1))
    assert again == after and other != after
    with pytest.raises(DataError, match="are the same"):
        corrupt(_examples(["是"] * 9 + ["否"]), how=Corruption("shuffle"))


@pytest.mark.parametrize("damage", ["truncate", "noise", "style"])
def test_damage_touches_the_share_and_nothing_else(damage: str) -> None:
    before = _examples([f"第{i}条规定说明每位员工都可以申请调休。" for i in range(50)])
    after, chosen = corrupt(before, how=Corruption(damage, share=0.4))  # type: ignore[arg-type]
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert changed == chosen and len(chosen) == 20
    assert all(
        a.question == b.question for a, b in zip(before, after, strict=True) if isinstance(b, Conversation)
    )
    with pytest.raises(DataError, match="--share"):
        Corruption("noise", share=0.0)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("答案是B。", "B"),
        ("B", "B"),
        ("（C）因为……", "C"),
        ("选项A不对，应选B", "B"),
        ("The answer is D.", "D"),
        ("\uff23", "C"),
        ("我认为 A 和 B 都有可能", ""),
        ("不知道", ""),
        ("这是因为 D 最合理", "D"),
    ],
)
def test_letter_of_a_choice(text: str, letter: str) -> None:
    assert choice(text) == letter


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("对。", "yes"),
        ("错误，因为……", "no"),
        ("这个说法是不正确的", "no"),
        ("答案：正确", "yes"),
        ("也许", ""),
        ("False", "no"),
    ],
)
def test_true_or_false(text: str, verdict: str) -> None:
    assert yes_or_no(text) == verdict


def test_exact_match_knows_choices_and_verdicts() -> None:
    assert exact(Question(1, "?", ("B",)), Said("我选B，因为……")) == 1
    assert exact(Question(1, "?", ("正确",)), Said("对")) == 1
    assert exact(Question(1, "?", ("错",)), Said("正确")) == 0
    assert exact(Question(1, "?", ("五天",)), Said("五天。")) == 1


def test_repetition_distinct_and_overlap_by_hand() -> None:
    assert repetition("abcdabcd") == pytest.approx(1 - 4 / 5)
    assert distinct("ababab") == pytest.approx(2 / 5)
    assert repetition("好") == 0 and distinct("好") == 1
    assert overlap("年假几天", "年假有几天") == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "finish", "cut"),
    [
        ("年假从入职满一年之后开始计算，满三年", "stop", 1),
        ("年假从入职满一年之后开始计算，共六天。[1][2]", "stop", 0),
        ("年假从入职满一年之后开始计算。", "length", 1),
        (REFUSAL, "stop", 0),
        ("六天", "stop", 0),
    ],
)
def test_unfinished(text: str, finish: str, cut: int) -> None:
    assert unfinished(Said(text, finish)) == cut  # type: ignore[arg-type]


def test_terms_are_those_of_the_corpus() -> None:
    corpus = [
        "反渗透膜和复合滤芯应当定期更换。",
        "复合滤芯堵塞会伤害反渗透膜。",
        "先冲洗复合滤芯，再检查反渗透膜。",
    ]
    terms = learn_terms(corpus)
    assert any("滤芯" in t for t in terms[:4]) and not any(t in ("应当", "检查") for t in terms[:2])
    density = term_density(["滤芯"])
    assert density.of(Question(1, "?"), Said("滤芯要换，滤芯贵")) == pytest.approx(100 * 2 / 8)


def test_similarity_is_the_cosine_of_the_nearest_reference() -> None:
    class Letters:
        """Counts of a and b as a vector: only the arithmetic around it is under test."""

        def encode_passages(self, texts: list[str]) -> np.ndarray:
            return np.array([[t.count("a"), t.count("b")] for t in texts], dtype=np.float32)

    measure = similarity(Letters())  # type: ignore[arg-type]
    assert measure.of(Question(1, "?", ("b", "ab")), Said("a")) == pytest.approx(math.sqrt(0.5))
    assert measure.of(Question(1, "?", ("a",)), Said(" ")) == 0


def test_every_measure_takes_an_empty_answer() -> None:
    for measure in MEASURES:
        assert math.isfinite(measure.of(Question(1, "年假几天？", ("六天",)), Said("")))


def test_questions_of_every_kind(tmp_path: Path) -> None:
    csv = tmp_path / "exam.csv"
    csv.write_text("\ufeff,Question,A,B,C,D,Answer\n0,水的化学式？,H2O,CO2,O2,N2,A\n", encoding="utf-8")
    (asked,) = read_questions(csv)
    assert asked.kind == "选择" and asked.answers == ("A",) and "B. CO2" in asked.text
    jsonl = tmp_path / "q.jsonl"
    jsonl.write_text(
        '{"问题": "年假几天？", "answers": ["六天", "6 天"], "题型": "填空", "领域": "人事"}\n"谁批准？"\n',
        encoding="utf-8",
    )
    first, second = read_questions(jsonl)
    assert first.answers == ("六天", "6 天") and (first.kind, first.domain) == ("填空", "人事")
    assert second.text == "谁批准？" and second.answers == () and second.number == 2
    jsonl.write_text('{"answer": "六天"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"q\.jsonl:1"):
        read_questions(jsonl)
