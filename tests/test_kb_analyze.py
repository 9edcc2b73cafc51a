"""Terms: the same for a question and its answer, however either was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb.analyze import LONGEST, fold, to_simplified, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("年假有5天", "年 假 有 年假 假有 5 天"),
        ("", ""),
        ("，。！", ""),
        ("型号X200-A", "型 号 型号 x200-a x200 a"),
        ("12,800元", "12800 元"),
        ("1,234,567.89", "1234567.89 1234567 89"),
        ("第3,4条", "第 3,4 3 4 条"),
        ("３．５％", "3.5% 3 5%"),
        ("Café déjà", "café déjà"),
        ("C++和C#", "c++ c 和 c#"),
        ("かな", "か な かな"),
        ("한국어", "한 국 어 한국 국어"),
        ("a_b", "a_b a b"),
        ("2026-11-21", "2026-11-21 2026 11 21"),
    ],
)
def test_terms(text: str, expected: str) -> None:
    assert tokens(text) == expected.split()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("員工手冊的請假規定", "员工手册的请假规定"),
        ("Ａｉ１２３", "ai123"),
        ("⽆⼈机", "无人机"),
        ("⻓江", "长江"),
        ("ｶﾀｶﾅ", "カタカナ"),
        ("¥12,800", "￥12800"),
    ],
)
def test_written_differently(one: str, other: str) -> None:
    assert tokens(one) == tokens(other)


def test_a_long_run_is_cut() -> None:
    assert tokens("a" * 10_000) == ["a" * LONGEST]


@given(st.text(max_size=80))
def test_folding_twice_changes_nothing_and_terms_have_no_blanks(text: str) -> None:
    once = fold(text)
    assert tokens(once) == tokens(fold(once))
    assert all(term and not any(c.isspace() for c in term) for term in tokens(text))


@given(st.text(max_size=80))
def test_to_simplified_keeps_the_length(text: str) -> None:
    assert len(to_simplified(text)) == len(text)
