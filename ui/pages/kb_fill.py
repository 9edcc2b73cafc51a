"""Fill a knowledge base: upload files or name a folder, look at the plan, then index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from kb.errors import KnowledgeBaseError, ZhiwenError
from kb.knowledge import KnowledgeBase, check_name, names
from kb.load import SUPPORTED
from ui import wiring
from ui.pages import frame
from ui.pages.job_view import begin_index
from ui.pages.safe import only_chosen, plain
from ui.settings import Settings
from ui.text import pick
from ui.uploads import Refused, take

if TYPE_CHECKING:
    from kb.sync import Plan

TYPES = sorted({suffix.lstrip(".") for suffix in SUPPORTED})
LISTED = 500
"""Files of a plan that are listed."""


def new_dialog(settings: Settings) -> None:
    """Name, and where the documents come from."""

    def dialog() -> None:
        name = st.text_input(
            pick("名称", "Name"),
            key="new-name",
            max_chars=64,
            placeholder=pick("例如：制度", "for example: handbook"),
        )
        ways = {
            "upload": pick("上传文件", "Upload files"),
            "folder": pick("这台电脑上的文件夹", "A folder of this computer"),
        }
        way = st.radio(
            pick("文档来自", "Documents come from"),
            list(ways),
            format_func=ways.__getitem__,
            key="new-way",
            horizontal=True,
        )
        files, folder = [], ""
        if way == "upload":
            files = st.file_uploader(
                pick("文件（可多选，每个不超过 200 MB）", "Files (several, 200 MB each)"),
                type=TYPES,
                accept_multiple_files=True,
                key="new-files",
            )
        else:
            folder = st.text_input(
                pick("文件夹的完整路径", "Full path of the folder"),
                key="new-folder",
                placeholder="/home/me/Documents",
            )
            st.caption(
                pick(
                    "之后文件夹里有增减改动，点“更新”就会跟上；原文件不会被改动。",
                    "Later changes in the folder are followed when you press Update; the files are never changed.",
                )
            )
        ready = bool(name.strip()) and (bool(files) or bool(folder.strip()))
        if st.button(
            pick("下一步：看看会做什么", "Next: see what will happen"),
            type="primary",
            disabled=not ready,
            key="new-go",
        ):
            try:
                create(settings, name.strip(), files=files or [], folder=folder.strip())
            except ZhiwenError as error:
                frame.show_error(error, settings)
                return
            st.rerun()

    st.dialog(pick("新建知识库", "New knowledge base"))(dialog)()


def create(
    settings: Settings, name: str, *, files: list[st.runtime.uploaded_file_manager.UploadedFile], folder: str
) -> None:
    """Make it, put the uploads into it, and show its plan next. Raises KnowledgeBaseError, EmbedderError."""
    if check_name(name) in names(settings.home):
        raise KnowledgeBaseError(
            f"there is a knowledge base {name!r} already.", zh=f"已经有知识库“{name}”，请换一个名字。"
        )
    if folder:
        checked_folder(folder, settings)
    kb, choice = wiring.open_or_create(settings, name)
    if choice.message_en:
        frame.say_later(pick(choice.message_zh, choice.message_en))
    if files:
        tell_refused(take(kb, files)[1])
    kb.store.set_meta("folder", str(checked_folder(folder, settings) if folder else kb.uploads.resolve()))
    st.session_state["go-to-kb"], st.session_state["kb-part"] = name, "fill"


def checked_folder(text: str, settings: Settings) -> Path:
    """The folder that somebody typed. Raises KnowledgeBaseError if it is none, or holds this program's own state."""
    folder = Path(text).expanduser()
    if not folder.is_absolute() or not folder.is_dir():
        raise KnowledgeBaseError(
            f"{text!r} is not a folder of this computer. Give its full path.",
            zh=f"“{text}”不是这台电脑上的文件夹。请写完整路径。",
        )
    resolved, home = folder.resolve(), settings.home.resolve()
    if home.is_relative_to(resolved) or resolved.is_relative_to(home):
        raise KnowledgeBaseError(
            f"{text!r} holds zhiwen's own files. Choose the folder of your documents.",
            zh=f"“{text}”里是知问自己的文件。请选择存放文档的文件夹。",
        )
    return resolved


def tell_refused(refused: list[Refused]) -> None:
    """What was not taken, after the next rerun."""
    st.session_state["refused"] = refused


def show_fill(settings: Settings, kb: KnowledgeBase, *, busy: bool) -> None:
    """More files, the plan, and the button."""
    for one in st.session_state.pop("refused", []):
        st.warning(
            plain(pick(f"没有收下“{one.name}”：{one.zh}", f"{one.name!r} was not taken: {one.en}")),
            icon=":material/block:",
        )
    source = kb.source
    own = source is None or source == kb.uploads.resolve()
    if busy:
        st.caption(pick("正在索引，完成后可以再添加。", "Being indexed; more can be added afterwards."))
        return
    if own:
        upload_more(kb)
    else:
        st.markdown(pick("对应的文件夹：", "It mirrors the folder ") + f"`{str(source).replace('`', '')}`")
    folder = kb.uploads if source is None or own else source
    with frame.explained(settings):
        show_plan(settings, kb, folder)


def upload_more(kb: KnowledgeBase) -> None:
    """Files are taken as soon as they have arrived."""
    round_ = st.session_state.get("upload-round", 0)
    files = st.file_uploader(
        pick("上传文件（可多选，每个不超过 200 MB；同名的会被替换）", "Upload files (several, 200 MB each; one of the same name is replaced)"),
        type=TYPES,
        accept_multiple_files=True,
        key=f"files-{kb.name}-{round_}",
    )  # fmt: skip
    if files:
        taken, refused = take(kb, files)
        tell_refused(refused)
        if taken:
            frame.say_later(pick(f"收下了 {len(taken)} 个文件", f"{len(taken)} file(s) taken"))
        st.session_state["upload-round"] = round_ + 1
        st.rerun()


def show_plan(settings: Settings, kb: KnowledgeBase, folder: Path) -> None:
    """What indexing would do, and the button that does it. Without anything to do it says so."""
    from kb.sync import SyncOptions, plan

    if not folder.is_dir():
        st.info(
            pick("还没有文件。", "No files yet.")
            if folder == kb.uploads
            else plain(
                only_chosen(
                    pick(f"找不到文件夹 {folder}", f"The folder {folder} is not there"),
                    settings,
                    more=[folder],
                )
            )
        )
        return
    empty = not any(folder.iterdir())
    if empty and not kb.store.files():
        st.info(pick("文件夹是空的。", "The folder is empty."))
        return
    allow = empty and st.checkbox(
        pick("文件夹已清空：把知识库也清空", "The folder is empty: empty the knowledge base too"),
        key=f"allow-{kb.name}",
    )
    planned = plan(kb, folder, options=SyncOptions(allow_empty=allow))
    counts = planned.counts()
    todo = sum(counts[kind] for kind in ("added", "changed", "renamed", "deleted"))
    show_changes(planned)
    st.button(
        pick("开始索引", "Index now") if todo else pick("没有需要更新的", "Nothing to do"),
        type="primary",
        disabled=not todo,
        icon=":material/play_arrow:",
        on_click=begin_index,
        args=(settings, kb.name, str(folder)),
        kwargs={"allow_empty": allow},
        key="start-index",
    )


def show_changes(planned: Plan) -> None:
    """The sum in one line, the files in a table."""
    from ui.reasons import reason_words
    from ui.show import CHANGES, counts_line

    st.markdown(pick("**计划**　", "**Plan**　") + plain(counts_line(planned.counts())))
    rows = [
        {
            pick("做什么", "what"): pick(*CHANGES[c.change]),
            pick("文件", "file"): c.name if not c.old_name else f"{c.old_name} → {c.name}",
            "KB": round(c.size / 1000, 1),
            pick("原因", "why"): reason_words(c.reason) if c.reason else "",
        }
        for c in planned.changes
        if c.change != "unchanged"
    ]
    if rows:
        st.dataframe(rows[:LISTED], hide_index=True, height="auto" if len(rows) < 10 else 380)
    if len(rows) > LISTED:
        st.caption(pick(f"只列出前 {LISTED} 个", f"the first {LISTED} are listed"))
    for problem in planned.problems:
        st.warning(plain(f"{problem.name}{pick('：', ': ')}{reason_words(problem.reason)}"))
