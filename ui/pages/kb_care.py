"""Keep a knowledge base: its embedder, when it refuses, its health, its name, its end."""

from __future__ import annotations

from functools import lru_cache

import streamlit as st

from kb.calibration import Calibration, calibration_of
from kb.errors import ZhiwenError
from kb.knowledge import KnowledgeBase
from kb.rename import rename
from ui import uploads, wiring
from ui.pages import frame
from ui.pages.job_view import begin_index
from ui.pages.safe import plain
from ui.reasons import problem_words
from ui.settings import Settings
from ui.text import pick

USUAL_COSINE = 0.4
"""Dense score at which the picture of the calibration is drawn."""


def show_care(settings: Settings, kb: KnowledgeBase, *, busy: bool) -> None:
    """Everything, one under the other."""
    record = kb.embedder_record
    counts = kb.store.counts()
    for column, (label, value) in zip(
        st.columns(3),
        ((pick("文档", "documents"), counts["documents"]), (pick("段落", "passages"), counts["passages"]), (pick("检索块", "chunks"), counts["chunks"])),
        strict=True,
    ):  # fmt: skip
        column.metric(label, f"{value:,}")
    st.subheader(pick("嵌入模型", "Embedder"))
    st.markdown(
        plain(
            f"{record.name}（{record.dimensions} 维，{record.metric}）"
            if pick("zh", "en") == "zh"
            else f"{record.name} ({record.dimensions} dimensions, {record.metric})"
        )
    )
    st.caption(
        pick(
            "换模型：先在“设置与检查”里改嵌入模型，再在这里重建。",
            "To change it: choose another embedder in the settings, then build this one anew.",
        )
    )
    rebuild(settings, kb, busy=busy)
    st.subheader(pick("何时拒答", "When it refuses"))
    show_calibration(calibration_of(kb))
    if st.button(
        pick("重新标定", "Measure again"),
        icon=":material/speed:",
        disabled=busy or not counts["chunks"],
        key="calibrate",
    ):
        with frame.explained(settings), st.spinner(pick("正在标定……", "Measuring ...")):
            wiring.calibrate_kb(kb, embedder=wiring.embedder_of(kb, settings))
            st.rerun()
    st.subheader(pick("检查", "Health"))
    check(settings, kb, busy=busy)
    st.subheader(pick("名称与删除", "Name and end"))
    name_and_end(settings, kb, busy=busy)


def show_calibration(found: Calibration) -> None:
    """The threshold, how often it errs, and the picture of confidence over what a search finds."""
    if not found.questions:
        st.caption(
            pick(
                f"还没有标定，阈值用默认的 {found.threshold:.2f}。",
                f"Not measured; the usual threshold {found.threshold:.2f} holds.",
            )
        )
        return
    left, right = st.columns([2, 3])
    with left:
        st.metric(pick("拒答阈值", "threshold"), f"{found.threshold:.2f}")
        st.caption(
            plain(
                pick(
                    f"用本库内容编的 {found.questions} 个问题测得：答得了的有 {found.refused:.0%} 会被误拒，答不了的有 {found.accepted:.0%} 会被放行。",
                    f"Measured with {found.questions} questions made from its text: {found.refused:.0%} of those it can answer are refused, {found.accepted:.0%} of those it cannot are let through.",
                )
            )
        )
    right.image(picture(found), width="stretch")
    right.caption(
        pick(
            "横轴：段落里有问题中的多少词；纵轴：可信度；红虚线以下拒答。三条线是字词匹配的三种强弱。",
            "Across: how much of the question's words a passage holds; up: confidence; below the red line it refuses.",
        )
    )


@lru_cache(maxsize=64)
def picture(found: Calibration) -> bytes:
    """PNG: confidence over the share of the question's terms that a passage holds, at three strengths of the word match."""
    import io

    import numpy as np
    from matplotlib.figure import Figure

    from kb.fusion import Evidence

    figure = Figure(figsize=(6, 2.8), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    shares = np.linspace(0, 1, 101, dtype=np.float32)
    none, near = np.zeros_like(shares), np.full_like(shares, USUAL_COSINE)
    for words, colour in ((0.0, "#b9cfc7"), (0.3, "#6fa08f"), (0.6, "#2f6f5e")):
        evidence = Evidence(np.arange(101), near, none, np.full_like(shares, words), 1.0, shares)
        axes.plot(shares, found.confidence(evidence), color=colour, label=f"word match {words:g}")
    axes.axhline(found.threshold, color="#c0392b", linestyle="--", label=f"threshold {found.threshold:.2f}")
    axes.set(
        xlabel="share of the question's terms in the passage",
        ylabel="confidence",
        xlim=(0, 1),
        ylim=(0, 1.02),
    )
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def rebuild(settings: Settings, kb: KnowledgeBase, *, busy: bool) -> None:
    """Delete what was made and make it again from the files."""
    with st.popover(pick("重建", "Build anew"), icon=":material/autorenew:", disabled=busy):
        st.markdown(
            pick(
                "删除索引，用现在的嵌入模型把文件重新读一遍；文件不受影响。",
                "Delete the index and read the files again with the present embedder; the files stay.",
            )
        )
        if st.button(pick("确认重建", "Build it anew"), type="primary", key="rebuild"):
            with frame.explained(settings):
                begin_index(settings, kb.name, str(uploads.rebuild(settings, kb)))
                st.rerun()


def check(settings: Settings, kb: KnowledgeBase, *, busy: bool) -> None:
    """Look, and repair what is found."""
    if st.button(
        pick("检查一遍", "Check it"), icon=":material/health_and_safety:", disabled=busy, key="check-kb"
    ):
        with frame.explained(settings), st.spinner(pick("正在检查……", "Checking ...")):
            found = kb.check()
            if not found.ok:
                st.warning(plain(pick("；", "; ").join(problem_words(p) for p in found.problems)))
                found = kb.repair()
            if found.ok:
                st.success(pick("完好。", "It is sound."))
            else:
                st.error(
                    plain(
                        pick("；", "; ").join(problem_words(p) for p in found.problems)
                        + pick("。请重新索引。", ". Index it again.")
                    )
                )


def name_and_end(settings: Settings, kb: KnowledgeBase, *, busy: bool) -> None:
    """Rename and delete."""
    with st.form(f"rename-kb-{kb.name}", border=False):
        new = st.text_input(pick("名称", "Name"), value=kb.name, max_chars=64, key="rename-kb")
        if st.form_submit_button(pick("改名", "Rename"), disabled=busy) and new.strip() != kb.name:
            try:
                rename(kb, new.strip())
            except ZhiwenError as error:
                frame.show_error(error, settings)
                return
            st.session_state["go-to-kb"] = new.strip()
            st.rerun()
    with st.popover(
        pick("删除这个知识库", "Delete this knowledge base"), icon=":material/delete_forever:", disabled=busy
    ):
        own = kb.source == kb.uploads.resolve()
        st.markdown(
            pick(
                "索引和上传的文件都会删除，无法恢复。",
                "The index and the uploaded files are deleted for good.",
            )
            if own
            else pick(
                "索引会删除；文件夹里的原文件不受影响。",
                "The index is deleted; the files in the folder stay.",
            )
        )
        if st.button(pick("确认删除", "Delete it"), type="primary", key="delete-kb"):
            try:
                kb.remove()
            except ZhiwenError as error:
                frame.show_error(error, settings)
                return
            frame.say_later(pick("已删除", "Deleted"))
            st.rerun()
