"""Question files: uploaded ones, those that come with the source, and uploaded data sets."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from ui import training
from ui.pages import frame
from ui.pages.cp_who import FORM
from ui.pages.safe import plain
from ui.settings import Settings
from ui.text import pick


def questions_folder(settings: Settings) -> Path:
    """Where uploaded question files are kept."""
    return settings.home / "questions"


def question_files(settings: Settings) -> dict[str, str]:
    """Path -> what it is called on the page."""
    from finetune.data.rows import SUFFIXES

    found = {}
    for folder, zh, en in (
        (questions_folder(settings), "上传", "uploaded"),
        (training.datasets_folder(settings), "数据集", "data set"),
        (training.SAMPLES / "eval", "示例", "sample"),
    ):
        for path in sorted(folder.glob("*")):
            if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                found[str(path)] = path.name + pick(f"（{zh}）", f" ({en})")
    return found


def choose_file(settings: Settings, *, key: str, needed: bool) -> Path | None:
    """A file of questions, or a way to upload one."""
    for one in st.session_state.pop("cp-refused", []):
        st.warning(
            plain(pick(f"没有收下“{one.name}”：{one.zh}", f"{one.name!r} was not taken: {one.en}")),
            icon=":material/block:",
        )
    if (taken := st.session_state.pop("cp-taken", None)) is not None:
        FORM.put({f"file-{key}": taken})
    files = question_files(settings)
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        options = list(files) if needed else ["", *files]
        chosen = st.selectbox(
            pick("问题文件", "Question file"), options, key=FORM.key(f"file-{key}", options[0] if options else None, allowed=options),
            format_func=lambda f: files[f] if f else pick("不用文件，自己输入", "none, questions are typed"),
        )  # fmt: skip
        FORM.keep(f"file-{key}", chosen)
    with (
        right,
        st.popover(pick("上传问题", "Upload questions"), icon=":material/upload_file:", width="stretch"),
    ):
        round_ = st.session_state.get("cp-upload-round", 0)
        sent = st.file_uploader(
            pick("csv、jsonl、json，含“问题”列，可带答案、题型、领域", "csv, jsonl, json with a question column; answers, types and domains if there are"),
            type=["csv", "tsv", "json", "jsonl", "txt"], accept_multiple_files=True, key=f"cp-files-{key}-{round_}",
        )  # fmt: skip
    if sent:
        took, refused = training.take(settings, sent, folder=questions_folder(settings))
        st.session_state["cp-refused"] = refused
        if took:
            st.session_state["cp-taken"] = str(took[0])
            frame.say_later(pick(f"收下了 {len(took)} 个文件", f"{len(took)} file(s) taken"))
        st.session_state["cp-upload-round"] = round_ + 1
        st.rerun()
    return Path(chosen) if chosen else None


def choose_questions(settings: Settings, *, key: str) -> list[str]:
    """The questions of a chosen file; none if they are typed. Raises DataError naming the line that cannot be read."""
    from finetune.questions import read_questions

    path = choose_file(settings, key=key, needed=False)
    return [q.text for q in read_questions(path)] if path else []
