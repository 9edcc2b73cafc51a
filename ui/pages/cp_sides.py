"""One question, everybody's answers in parallel columns as they are written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import streamlit as st

from ui import sides
from ui.pages.cp_who import Who, shown_name
from ui.pages.safe import light, only_chosen, plain
from ui.settings import Settings
from ui.sides import Side, Sides
from ui.text import pick

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

EVERY = 0.15
"""Seconds between two looks at what was written."""


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

    places = [place for row in boxes(found) for place in row]
    while not found.done:
        for place, side in zip(places, found.columns, strict=True):
            with place.container():
                show_side(side, settings)
        time.sleep(
            EVERY
        )  # one script that goes on, not one every moment: each would stop all threads to tidy up
    st.rerun()


def boxes(found: Sides) -> list[list[DeltaGenerator]]:
    """A place to write in for each column, at the most three in a row."""
    rows = []
    for first in range(0, len(found.columns), 3):
        row = found.columns[first : first + 3]
        places = []
        for column, side in zip(st.columns(len(row)), row, strict=True):
            with column.container(border=True, height="stretch"):
                st.markdown(f"##### {plain(shown_name(side.name))}")
                places.append(st.empty())
        rows.append(places)
    return rows


def draw(found: Sides, settings: Settings) -> None:
    """Everybody's answer as it stands."""
    places = [place for row in boxes(found) for place in row]
    for place, side in zip(places, found.columns, strict=True):
        with place.container():
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
