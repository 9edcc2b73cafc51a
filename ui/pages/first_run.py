"""The first page of somebody who has no documents in here yet: three steps, and a button that tries them."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from ui.jobs import jobs
from ui.pages import job_view
from ui.settings import Settings
from ui.text import pick

SAMPLES = Path(__file__).resolve().parent.parent.parent / "data" / "docs"
SAMPLE_KB = ("示例文档", "samples")


def show(settings: Settings) -> None:
    """Three steps in plain words; progress once it was begun."""
    st.title(pick("向自己的文档提问", "Ask your own documents"))
    st.markdown(
        pick(
            "知问在这台电脑上阅读你的文档，用里面的原话回答问题，每一句都能点开看出处。文档不会离开这台电脑。",
            "zhiwen reads your documents on this computer and answers from what they say; every sentence opens at its "
            "source. The documents never leave this computer.",
        )
    )
    job = job_view.running_index(settings)
    steps = [
        (pick("放入文档", "Add documents"), pick("上传文件，或指定一个文件夹：PDF、Word、Excel、PPT、网页、文本都行。", "Upload files or name a folder: PDF, Word, Excel, PowerPoint, web pages, text."), "upload_file"),
        (pick("等它读完", "Let it read"), pick("几十个文件通常不到一分钟；可以随时停下，下次接着来。", "A few dozen files take less than a minute; stop whenever you like, it goes on from there."), "auto_stories"),
        (pick("提问，核对", "Ask and check"), pick("用平常的话提问；点回答里的 [1] 就能看到原文那一句。", "Ask in your own words; [1] in the answer opens the sentence it rests on."), "fact_check"),
    ]  # fmt: skip
    for number, (column, (title, words, icon)) in enumerate(zip(st.columns(3), steps, strict=True), start=1):
        with column.container(border=True, height="stretch"):
            st.markdown(f"##### :material/{icon}: {number}. {title}")
            st.markdown(words)
    if job is not None:
        job_view.follow(job, settings)
        return
    left, right = st.columns(2)
    if SAMPLES.is_dir():
        left.button(
            pick("先用示例文档试试", "Try it with the sample documents"),
            type="primary",
            icon=":material/play_circle:",
            width="stretch",
            on_click=begin_samples,
            args=(settings,),
            key="index-samples",
        )
    if right.button(
        pick("放入我的文档", "Add my documents"),
        icon=":material/upload_file:",
        width="stretch",
        key="add-own",
    ):
        st.switch_page(st.session_state["page_of"]["knowledge"])
    last = next(iter(jobs(settings.home, kind="index")), None)
    if last is not None:
        job_view.show_result(last, settings)


def begin_samples(settings: Settings) -> None:
    """Index the documents that come with the source."""
    job_view.begin_index(settings, pick(*SAMPLE_KB), str(SAMPLES))
