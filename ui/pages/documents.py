"""The documents of a knowledge base: how each was read, its passages, and what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import streamlit as st

from kb.errors import ZhiwenError
from kb.knowledge import KnowledgeBase
from kb.rename import rename_upload
from kb.types import Document
from ui.pages import frame
from ui.pages.job_view import begin_index
from ui.pages.safe import plain
from ui.reasons import reason_words
from ui.settings import Settings
from ui.text import pick

MARKS = {"ok": "✓", "suspect": "!", "failed": "✗"}
VERDICTS = {
    "ok": ("读好了", "read"),
    "suspect": ("读了，但要留意", "read, but look at it"),
    "failed": ("没能读出来", "not read"),
}
AT_ONCE = 20
"""Passages on one screen."""


def show_documents(settings: Settings, kb: KnowledgeBase, *, busy: bool) -> None:
    """A table of all, and one in detail."""
    documents = kb.store.documents()
    if not documents:
        st.info(
            pick(
                "还没有读过的文档。到“添加与更新”里放入文件并开始索引。",
                "Nothing was read yet: add files under “Add and update” and index them.",
            )
        )
        return
    counts = {verdict: sum(d.verdict == verdict for d in documents) for verdict in VERDICTS}
    told = [f"{MARKS[v]} {pick(*VERDICTS[v])} {n}" for v, n in counts.items() if n]
    st.caption(plain(pick(f"{len(documents)} 个文档，", f"{len(documents)} documents: ") + "，".join(told)))
    event = st.dataframe(
        rows(documents),
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"table-{kb.name}",
        height=min(440, 38 + 35 * len(documents)),
        column_config={
            "": st.column_config.TextColumn(width=30),
            pick("文件", "file"): st.column_config.TextColumn(width="medium"),
            **dict.fromkeys(
                (pick("页", "pages"), pick("段落", "passages"), "KB"), st.column_config.Column(width=60)
            ),
            pick("编码", "encoding"): st.column_config.TextColumn(width=80),
        },
    )
    chosen = event.selection.rows[0] if event.selection.rows else None
    names = [d.name for d in documents]
    key = f"document-{kb.name}"
    if chosen is not None and chosen < len(names) and st.session_state.get(f"row-{kb.name}") != chosen:
        st.session_state[key] = names[chosen]
    st.session_state[f"row-{kb.name}"] = chosen
    if st.session_state.get(key) not in names:
        st.session_state.pop(key, None)
    picked = st.selectbox(
        pick("查看文档", "Look at a document"),
        names,
        index=None,
        key=key,
        placeholder=pick("选一个，或点上面的一行", "choose one, or a row above"),
    )
    if picked is not None:
        show_one(settings, kb, documents[names.index(picked)], busy=busy)


def rows(documents: Sequence[Document]) -> list[dict[str, object]]:
    """The lines of the table."""
    file, pages, passages = pick("文件", "file"), pick("页", "pages"), pick("段落", "passages")
    kind, encoding, indexed = pick("类型", "kind"), pick("编码", "encoding"), pick("索引时间", "indexed")
    return [
        {
            "": MARKS[d.verdict],
            file: d.name,
            pages: d.pages,
            passages: d.passages,
            kind: d.kind,
            "KB": round(d.size / 1000, 1),
            encoding: d.encoding,
            indexed: local_time(d.indexed_at),
        }
        for d in documents
    ]


def local_time(moment: str) -> str:
    """ISO 8601 in UTC as day and time of this machine."""
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M}" if moment else ""


def show_one(settings: Settings, kb: KnowledgeBase, document: Document, *, busy: bool) -> None:
    """Verdict with reasons, actions, passages."""
    with st.container(border=True):
        st.markdown(
            f"**{plain(document.name)}**　{MARKS[document.verdict]} {pick(*VERDICTS[document.verdict])}"
        )
        if document.title:
            st.caption(plain(document.title))
        bad = [p for p in kb.store.pages(document.id) if p.verdict != "ok"]
        for page in bad[:30]:
            st.markdown(
                pick(f"第 {page.number} 页：", f"Page {page.number}: ")
                + plain(reason_words(", ".join(page.reasons)))
            )
        if document.verdict == "failed" and document.notes:
            message = document.notes[1 if len(document.notes) > 1 and pick("zh", "en") == "zh" else 0]
            st.markdown(plain(message))
        actions(settings, kb, document, busy=busy)
        show_passages(kb, document)


def actions(settings: Settings, kb: KnowledgeBase, document: Document, *, busy: bool) -> None:
    """Read again, rename, delete."""
    own = kb.source == kb.uploads.resolve()
    with st.container(horizontal=True):
        st.button(
            pick("重新读取", "Read again"),
            icon=":material/refresh:",
            disabled=busy,
            key="again",
            on_click=begin_index,
            args=(settings, kb.name, str(kb.source)),
            kwargs={"again": (document.name,)},
        )
        if own:
            with st.popover(pick("改名", "Rename"), icon=":material/edit:", disabled=busy):
                rename_form(settings, kb, document)
        with st.popover(pick("删除", "Delete"), icon=":material/delete:", disabled=busy):
            st.markdown(
                pick("从知识库里去掉，并删除上传的文件。", "Take it out and delete the uploaded file.")
                if own
                else pick(
                    "从知识库里去掉。原文件还在文件夹里，下次更新会再读进来。",
                    "Take it out. Its file stays in the folder, so the next update brings it back.",
                )
            )
            if st.button(pick("确认删除", "Delete it"), type="primary", key="delete-document"):
                remove(settings, kb, document)


def rename_form(settings: Settings, kb: KnowledgeBase, document: Document) -> None:
    """A new name for an upload."""
    with st.form(f"rename-{document.id}", border=False):
        new = st.text_input(pick("新名字", "New name"), value=document.name, key="new-document-name")
        if st.form_submit_button(pick("保存", "Save")):
            try:
                rename_upload(kb, document.name, new.strip())
            except ZhiwenError as error:
                frame.show_error(error, settings)
                return
            st.session_state["rename-to"] = new.strip()
            frame.say_later(pick("已改名", "Renamed"))
            st.rerun()


def remove(settings: Settings, kb: KnowledgeBase, document: Document) -> None:
    """Out of the knowledge base."""
    try:
        kb.remove_document(document.name)
    except ZhiwenError as error:
        frame.show_error(error, settings)
        return
    frame.say_later(pick(f"已删除 {document.name}", f"{document.name} was deleted"))
    st.rerun()


def show_passages(kb: KnowledgeBase, document: Document) -> None:
    """As they were read, a screen at a time."""
    passages = kb.store.passages(document.id)
    if not passages:
        return
    screens = (len(passages) + AT_ONCE - 1) // AT_ONCE
    screen = 1
    if screens > 1:
        screen = int(
            st.number_input(
                pick(f"段落（共 {screens} 屏）", f"Passages ({screens} screens)"),
                1,
                screens,
                key=f"screen-{document.id}",
            )
        )
    for passage in passages[(screen - 1) * AT_ONCE : screen * AT_ONCE]:
        path = " > ".join(passage.headings)
        place = pick(f"第 {passage.spans[0].page} 页", f"p.{passage.spans[0].page}") if passage.spans else ""
        st.caption(plain("　".join(part for part in (f"#{passage.ordinal + 1}", place, path) if part)))
        st.markdown(plain(passage.text))
