"""Follow-ups made self-contained."""

from __future__ import annotations

import pytest
from rag_samples import Says

from rag.conversation import leans, rewrite, subject
from rag.types import Message


def after(question: str, said: str = "") -> list[Message]:
    return [Message("user", question), Message("assistant", said)]


LIST = "入职要带：\n1. 身份证原件\n2. 学历证书复印件\n3. 一寸照片两张"


@pytest.mark.parametrize(
    ("before", "said", "question", "wanted"),
    [
        ("年假有几天？", "", "那病假呢？", "病假有几天？"),
        ("年休假有几天？", "", "婚假呢？", "婚假有几天？"),
        ("听泉 T3 的价格是多少？", "", "T5 呢？", "听泉 T5 的价格是多少？"),
        ("经理去一线城市出差，住宿标准是多少？", "", "那总监呢？", "总监去一线城市出差，住宿标准是多少？"),
        ("听泉 T3 的价格是多少？", "", "它多重？", "听泉 T3多重？"),
        ("年休假没休完怎么办？", "", "为什么？", "年休假没休完为什么？"),
        ("入职要带什么？", LIST, "第二个要原件吗？", "“学历证书复印件”要原件吗？"),
        ("入职要带什么？", LIST, "最后一项几寸？", "“一寸照片两张”几寸？"),
        ("年假有几天？", "", "怎么申请？", "年假怎么申请？"),
        ("How long is the warranty?", "", "What about filters?", "filters: How long is the warranty?"),
    ],
)
def test_rules(before: str, said: str, question: str, wanted: str) -> None:
    assert rewrite(question, after(before, said)) == wanted


@pytest.mark.parametrize(
    "question",
    ["工资哪天发？", "公积金的缴存比例是多少？", "T3 多重？", "第十二条说了什么内容和要求，涉及哪些员工？", "井水可以用吗？",
     "How long is the warranty of the T3?", "What is the price of a filter?", "忘记打卡怎么办？", "这个月几号发工资？"],
)  # fmt: skip
def test_what_stands_alone_is_left_alone(question: str) -> None:
    model = Says("改坏了")
    assert not leans(question)
    assert rewrite(question, after("年假有几天？"), generator=model) == "" and not model.asked


def test_nothing_before_it() -> None:
    assert rewrite("那病假呢？", []) == ""


def test_a_chain_of_follow_ups() -> None:
    history = [*after("年假有几天？"), *after("那病假呢？")]
    assert rewrite("婚假呢？", history) == "婚假有几天？"


def test_a_model_rewrites_and_is_checked() -> None:
    history = after("听泉 T3 的价格是多少？", "2999 元[1]。")
    good = Says("改写后的问题：听泉 T3 多重？\n我解释一下")
    assert rewrite("它多重？", history, generator=good) == "听泉 T3 多重？"
    assert "[1]" not in good.asked[0][0].content and good.options[0].max_tokens <= 128
    for bad in ("", "今天天气很好适合去公园散步晒太阳", "它" * 200):
        assert rewrite("它多重？", history, generator=Says(bad)) == "听泉 T3多重？"


def test_subject() -> None:
    assert subject("年假有几天？") == "年假"
    assert subject("听泉 T3 的价格是多少？") == "听泉 T3"
