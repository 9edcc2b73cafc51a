"""The list of conversations in the side bar: new, search, open, rename, export, delete."""

from __future__ import annotations

import re

import streamlit as st

from kb.errors import DataError
from ui.export import as_markdown
from ui.history import Talk
from ui.pages import frame
from ui.pages.safe import plain
from ui.settings import Settings
from ui.text import pick

WIDTH = 34
"""Half-width characters of a name in the list."""
SHOWN = 25
"""Conversations in the list; the rest is found by searching."""


def current(settings: Settings) -> str:
    """The conversation of this session: that of the address (so a reload keeps it), else a new one."""
    history = frame.history(settings)
    asked = st.query_params.get("c", "")
    try:
        if asked and st.session_state.get("talk") != asked and history.load(asked):
            st.session_state["talk"] = asked
    except DataError:
        del st.query_params["c"]
    if "talk" not in st.session_state:
        st.session_state["talk"] = history.new_id()
    talk = str(st.session_state["talk"])
    if history.load(talk) is not None and asked != talk:
        st.query_params["c"] = talk
    return talk


def open_talk(talk: str) -> None:
    """Make it the one of this session."""
    st.session_state["talk"] = talk
    st.query_params["c"] = talk


def begin_new(settings: Settings) -> None:
    """An empty conversation."""
    st.session_state["talk"] = frame.history(settings).new_id()
    if "c" in st.query_params:
        del st.query_params["c"]


def side_bar(settings: Settings, talk_id: str) -> None:
    """New, search, and the newest ones."""
    history = frame.history(settings)
    with st.sidebar:
        st.button(
            pick("新对话", "New conversation"),
            icon=":material/add:",
            on_click=begin_new,
            args=(settings,),
            width="stretch",
            key="new-talk",
        )
        words = st.text_input(
            pick("搜索历史", "Search the history"),
            key="talk-search",
            placeholder=pick("搜索历史对话", "Search conversations"),
            label_visibility="collapsed",
        )
        found = history.find(words)
        for talk in found[:SHOWN]:
            st.button(
                plain(shorten(talk.name)),
                key=f"talk-{talk.id}",
                on_click=open_talk,
                args=(talk.id,),
                type="secondary" if talk.id == talk_id else "tertiary",
                width="stretch",
            )
        if words and not found:
            st.caption(pick("没有找到", "Nothing found"))
        if len(found) > SHOWN:
            st.caption(pick(f"还有 {len(found) - SHOWN} 个，请搜索", f"{len(found) - SHOWN} more: search"))
        chosen = history.load(talk_id)
        if chosen is not None:
            actions(settings, chosen)


def shorten(name: str) -> str:
    """One line for the side bar."""
    line = " ".join(name.split())
    room, kept = WIDTH, ""
    for character in line:
        room -= 1 if character.isascii() else 2
        if room < 0:
            return kept.rstrip() + "…"
        kept += character
    return kept


def actions(settings: Settings, talk: Talk) -> None:
    """What can be done with the open conversation."""
    history = frame.history(settings)

    def rename() -> None:
        history.append(talk.id, "title", title=str(st.session_state[f"title-{talk.id}"]).strip())

    def remove() -> None:
        history.remove(talk.id)
        begin_new(settings)

    with st.popover(pick("管理这个对话", "This conversation"), icon=":material/more_horiz:", width="stretch"):
        st.text_input(
            pick("名称", "Name"), value=talk.name, key=f"title-{talk.id}", on_change=rename, max_chars=80
        )
        st.download_button(
            pick("导出为 Markdown", "Export as Markdown"),
            data=lambda: as_markdown(talk).encode(),
            file_name=file_name(talk),
            mime="text/markdown",
            icon=":material/download:",
            key=f"export-{talk.id}",
            on_click="ignore",
        )
        st.button(pick("删除", "Delete"), icon=":material/delete:", on_click=remove, key=f"remove-{talk.id}")


def file_name(talk: Talk) -> str:
    """Letters and digits of its name."""
    return (re.sub(r"\W+", "-", talk.name).strip("-")[:40] or talk.id) + ".md"
