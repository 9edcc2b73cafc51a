"""知识库: make, fill, watch, search and keep knowledge bases."""

from __future__ import annotations

import streamlit as st

from kb.knowledge import KnowledgeBase, names
from ui.opened import opened
from ui.pages import frame, job_view
from ui.pages.documents import show_documents
from ui.pages.kb_care import show_care
from ui.pages.kb_fill import new_dialog, show_fill
from ui.pages.kb_search import show_search
from ui.settings import Settings
from ui.text import pick

PARTS = {
    "documents": ("文档", "Documents"),
    "fill": ("添加与更新", "Add and update"),
    "search": ("检索试验", "Try a search"),
    "care": ("管理", "Manage"),
}


def page() -> None:
    """The page."""
    settings = frame.settings_or_stop()
    st.title(pick("知识库", "Knowledge bases"))
    every = names(settings.home)
    with frame.explained(settings):
        chosen = choose(settings, every)
        if chosen is not None:
            show(settings, opened(settings.home, [chosen])[0])


def choose(settings: Settings, every: list[str]) -> str | None:
    """Which one, and a button for a new one."""
    wanted = st.session_state.pop("go-to-kb", None)
    if wanted in every:
        st.session_state["kb"] = wanted
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    chosen: str | None = None
    if every:
        if st.session_state.get("kb") not in every:
            st.session_state.pop("kb", None)
        chosen = left.selectbox(pick("知识库", "Knowledge base"), every, key="kb")
    else:
        left.info(
            pick("还没有知识库。点“新建”，放入文档。", "No knowledge base yet: press New and add documents.")
        )
    if right.button(
        pick("新建", "New"), icon=":material/add:", type="secondary" if every else "primary", width="stretch", key="new-kb"
    ):  # fmt: skip
        new_dialog(settings)
    return chosen


def show(settings: Settings, kb: KnowledgeBase) -> None:
    """One knowledge base: what goes on, then the chosen part of it."""
    job = job_view.last_index(settings, kb=kb.name)
    if job is not None and job.state == "running":
        job_view.follow(job, settings)
    elif job is not None:
        job_view.show_news(job, settings)
    part = st.segmented_control(
        pick("内容", "Part"),
        list(PARTS),
        format_func=lambda p: pick(*PARTS[p]),
        default="documents",
        key="kb-part",
        label_visibility="collapsed",
        required=True,
    )
    busy = job is not None and job.state == "running"
    if part == "fill":
        show_fill(settings, kb, busy=busy)
    elif part == "search":
        show_search(settings, kb)
    elif part == "care":
        show_care(settings, kb, busy=busy)
    else:
        show_documents(settings, kb, busy=busy)
