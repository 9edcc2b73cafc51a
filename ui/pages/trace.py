"""How an answer came about, for whoever wants to know."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ui.pages.safe import plain
from ui.show import LEGS
from ui.text import pick

DROPPED = {
    "near-duplicate": ("与另一段几乎相同", "nearly the same as another"),
    "joined": ("并入相邻的一段", "joined to its neighbour"),
    "below-limit": ("排在名额之后", "ranked below the limit"),
    "budget": ("放不进提示词", "no room in the prompt"),
}
STEPS = {
    "rewrite": ("理解追问", "reading the follow-up"),
    "search": ("检索", "searching"),
    "pack": ("整理资料", "packing"),
    "generate": ("生成", "writing"),
    "extract": ("摘录", "quoting"),
    "cite": ("核对出处", "checking sources"),
}


def show_trace(answer: dict[str, Any], *, key: str) -> None:
    """A button; the dialog is made only when somebody opens it."""
    if st.button(
        pick("回答过程", "How it was answered"), key=f"trace-{key}", icon=":material/account_tree:", type="tertiary"
    ):  # fmt: skip

        def dialog() -> None:
            show(answer)

        st.dialog(pick("回答过程", "How it was answered"), width="large")(dialog)()


def show(answer: dict[str, Any]) -> None:
    """Question, hits, dropped, prompt, tokens, seconds."""
    trace = answer["trace"]
    who = answer["generator"] or "-"
    who = pick("摘录原文，没有用语言模型", "quotes, no language model") if who == "extractive" else who
    own = f" + {answer['adapter']}" if answer["adapter"] else ""
    st.markdown(pick("**回答者**　", "**Answered by**　") + plain(who.removesuffix(own) + own))
    st.markdown(pick("**问题**　", "**Question**　") + plain(trace["question"]))
    if trace["rewritten"] and trace["rewritten"] != trace["question"]:
        st.markdown(pick("**改写后**　", "**Rewritten**　") + plain(trace["rewritten"]))
    show_seconds(trace["seconds"])
    if trace["prompt_tokens"]:
        st.markdown(
            pick(
                f"**token**　提示词 {trace['prompt_tokens']}，其中资料预算 {trace['budget_tokens']}；回答 {trace['answer_tokens']}",
                f"**Tokens**　prompt {trace['prompt_tokens']}, of which for sources up to {trace['budget_tokens']}; answer {trace['answer_tokens']}",
            )
        )
    st.markdown(pick(f"**检索到 {len(trace['hits'])} 段**", f"**{len(trace['hits'])} passages found**"))
    if trace["hits"]:
        st.dataframe([hit_row(n, hit) for n, hit in enumerate(trace["hits"], start=1)], hide_index=True)
    if trace["dropped"]:
        with st.expander(pick(f"没有采用的 {len(trace['dropped'])} 段", f"{len(trace['dropped'])} left out")):
            st.dataframe([dropped_row(d) for d in trace["dropped"]], hide_index=True)
    if trace["messages"]:
        with st.expander(pick("发给模型的提示词", "The prompt")):
            for message in trace["messages"]:
                st.caption(plain(message["role"]))
                st.code(message["content"], language=None, wrap_lines=True)


def show_seconds(seconds: dict[str, float]) -> None:
    """ "检索 0.03 秒，摘录 0.01 秒"."""
    words = [
        f"{pick(*STEPS.get(step, (step, step)))} {value:.2f} {pick('秒', 's')}"
        for step, value in seconds.items()
    ]
    if words:
        st.markdown(pick("**用时**　", "**Time**　") + plain(pick("，", ", ").join(words)))


def hit_row(number: int, hit: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    legs = {leg["leg"]: leg for leg in hit["legs"]}
    row: dict[str, Any] = {
        "#": number,
        pick("文件", "file"): hit["document"],
        pick("页", "page"): hit["page"],
        pick("可信度", "confidence"): round(hit["confidence"], 3),
        pick("总分", "score"): round(hit["score"], 4),
    }
    for leg, words in LEGS.items():
        if any_leg := legs.get(leg):
            rank = f"#{any_leg['rank']}" if any_leg["rank"] else "–"
            row[pick(*words)] = f"{rank}  {any_leg['score']:.3f}"
    row[pick("内容", "text")] = " ".join(hit["passage"][hit["start"] : hit["end"]].split())[:120]
    return row


def dropped_row(dropped: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    return {
        pick("位置", "where"): dropped["where"],
        pick("分数", "score"): round(dropped["score"], 4),
        pick("原因", "why"): pick(*DROPPED.get(dropped["reason"], (dropped["reason"],) * 2)),
    }
