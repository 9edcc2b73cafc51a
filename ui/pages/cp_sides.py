"""One question, everybody's answers in parallel columns as they are written."""

from __future__ import annotations

import streamlit as st

from ui import sides
from ui.pages.cp_who import Who, shown_name
from ui.pages.safe import light, only_chosen, plain
from ui.settings import Settings
from ui.sides import Side, Sides
from ui.text import pick


def show_sides(settings: Settings, who: Who) -> None:
    """A field for the question, and the columns."""
    with st.form("cp-ask", border=False, clear_on_submit=False):
        left, right = st.columns([5, 1], vertical_alignment="bottom")
        question = left.text_input(
            pick("问题", "Question"), key="cp-question", max_chars=4000,
            placeholder=pick("同一个问题，大家一起答", "one question for all of them"),
        )  # fmt: skip
        go = right.form_submit_button(
            pick("一起回答", "Ask all"), type="primary", icon=":material/send:", width="stretch"
        )
    if go and question.strip():
        st.query_params["s"] = sides.start(settings, who.asked(question.strip())).id
    found = sides.find(st.query_params.get("s", ""))
    if found is None:
        return
    st.markdown(f"**{plain(found.asked.question)}**")
    if found.done:
        draw(found, settings)
    else:
        follow(found, settings)


def follow(found: Sides, settings: Settings) -> None:
    """Draw again and again until everybody has ended."""
    st.button(
        pick("停止", "Stop"),
        icon=":material/stop_circle:",
        on_click=found.cancel.set,
        key=f"cp-stop-{found.id}",
    )

    @st.fragment(run_every=0.3)
    def watch() -> None:
        if found.done:
            st.rerun(scope="app")
        draw(found, settings)

    watch()


def draw(found: Sides, settings: Settings) -> None:
    """At the most three columns in a row."""
    for first in range(0, len(found.columns), 3):
        row = found.columns[first : first + 3]
        for column, side in zip(st.columns(len(row)), row, strict=True):
            with column.container(border=True, height="stretch"):
                st.markdown(f"##### {plain(shown_name(side.name))}")
                show_side(side, settings)


def show_side(side: Side, settings: Settings) -> None:
    """What was written so far, and what it cost."""
    if any(side.error):
        st.error(plain(only_chosen(pick(*side.error), settings)), icon=":material/error:")
        return
    st.markdown(light(side.text) if side.text else ":gray[" + plain(waiting(side)) + "]")
    if side.done:
        words = pick(f"{side.seconds:.1f} 秒", f"{side.seconds:.1f} s")
        if side.tokens:
            words += f" · {side.tokens} token"
        ends = {"length": ("到长度上限", "cut at the limit"), "loop": ("陷入重复，已截断", "stopped: it repeated itself"), "stopped": ("已停止", "stopped")}  # fmt: skip
        if side.finish in ends:
            words += " · " + pick(*ends[side.finish])
        st.caption(plain(words))


def waiting(side: Side) -> str:
    """In place of a text that is not there."""
    if side.done:
        return pick("（没有说话）", "(said nothing)")
    return pick(*side.status) + "……" if any(side.status) else "……"
