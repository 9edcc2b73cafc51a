"""Thumbs under an answer; a thumb down asks what would have been right."""

from __future__ import annotations

import streamlit as st

from ui.history import History, Talk, TurnRecord
from ui.pages import frame
from ui.text import pick

MOST = 4000
"""Characters of a correction."""


def show_vote(history: History, talk: Talk, turn: TurnRecord, *, key: str) -> None:
    """Two thumbs. A click is kept at once; the correction when it is handed in."""
    sign = f"vote-{key}"
    before = {"up": 1, "down": 0}.get(turn.vote)

    def keep() -> None:
        value = {1: "up", 0: "down", None: ""}[st.session_state[sign]]
        history.append(
            talk.id,
            "vote",
            turn=turn.number,
            vote=value,
            correction=turn.correction if value == "down" else "",
        )

    st.session_state.setdefault(sign, before)
    st.feedback("thumbs", key=sign, on_change=keep, width="content")
    if turn.vote == "down":
        label = (
            pick("已更正", "Corrected") if turn.correction else pick("应该怎么答？", "What would be right?")
        )
        with st.popover(label, type="tertiary"):
            correct(history, talk, turn, key=key)


def correct(history: History, talk: Talk, turn: TurnRecord, *, key: str) -> None:
    """The form of the correction."""
    with st.form(f"correct-{key}", border=False):
        text = st.text_area(
            pick("正确的回答（会用作训练数据）", "The right answer (becomes training data)"),
            value=turn.correction,
            max_chars=MOST,
            key=f"correction-{key}",
        )
        if st.form_submit_button(pick("保存", "Save"), type="primary"):
            history.append(talk.id, "vote", turn=turn.number, vote="down", correction=text.strip())
            frame.say_later(pick("更正已保存", "The correction is kept"))
            st.rerun()
