"""Data for training: choose sets or upload files, see what is wrong with them, and what of an example is learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from ui import training
from ui.pages import frame
from ui.pages.form import Form
from ui.pages.safe import plain
from ui.settings import Settings
from ui.text import pick

if TYPE_CHECKING:
    from finetune.data.check import CheckReport
    from finetune.data.load import Loaded
    from rag.types import Chat

FORM = Form("ft")
SHOWN = 300
"""Findings that are listed."""
KINDS = {
    "conversation": ("对话", "conversations"),
    "preference": ("偏好对", "preference pairs"),
    "feedback": ("点赞点踩", "thumbs"),
    "text": ("纯文本", "plain text"),
}


def show_data(settings: Settings) -> tuple[str, ...]:
    """The first step. Returns the keys of the chosen sets; none until they can be read."""
    choose_taken()
    st.subheader(pick("1. 数据", "1. Data"), anchor=False)
    for one in st.session_state.pop("ft-refused", []):
        st.warning(
            plain(pick(f"没有收下“{one.name}”：{one.zh}", f"{one.name!r} was not taken: {one.en}")),
            icon=":material/block:",
        )
    every = training.known_sets(settings)
    labels = {
        one.key: one.name + (pick("（上传）", " (uploaded)") if one.own else pick("（示例）", " (sample)"))
        for one in every
    }
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    with left:
        key = FORM.key("sets", [], allowed=list(labels))
        chosen = st.multiselect(
            pick("数据集（可多选，混在一起训练）", "Data sets (several are mixed)"),
            list(labels),
            format_func=labels.__getitem__,
            key=key,
            placeholder=pick("选择，或在右边上传", "choose, or upload on the right"),
        )
    with right:
        upload(settings)
    FORM.keep("sets", chosen)
    if not chosen:
        st.info(
            pick(
                "选一个数据集开始。第一次可以用示例 zhouyi：六十四卦的问答。",
                "Choose a data set. The sample zhouyi, questions on the 64 hexagrams, is a good first try.",
            )
        )
        return ()
    keys = tuple(chosen)
    loaded = read(keys, training.stamp(keys))
    show_found(settings, keys, loaded)
    return keys


def upload(settings: Settings) -> None:
    """A button that opens the uploader; files are kept as soon as they have arrived."""
    with st.popover(pick("上传数据", "Upload data"), icon=":material/upload_file:", width="stretch"):
        round_ = st.session_state.get("ft-upload-round", 0)
        files = st.file_uploader(
            pick("json、jsonl、csv、tsv、parquet、txt，每个不超过 200 MB", "json, jsonl, csv, tsv, parquet, txt; 200 MB each"),
            type=["json", "jsonl", "csv", "tsv", "parquet", "txt"],
            accept_multiple_files=True,
            key=f"ft-files-{round_}",
        )  # fmt: skip
        st.caption(
            pick(
                "alpaca、sharegpt、问答、ChatGLM、医疗行、偏好对等格式会自动认出。文件只留在这台电脑。",
                "alpaca, sharegpt, question-answer, ChatGLM, preference pairs and more are recognised. Files stay here.",
            )
        )
        own = [one for one in training.known_sets(settings) if one.own]
        for one in own:
            st.button(
                pick(f"删除 {one.name}", f"Delete {one.name}"),
                key=f"ft-delete-{one.name}",
                icon=":material/delete:",
                type="tertiary",
                on_click=training.remove_set,
                args=(settings, one.key),
            )
    if files:
        taken, refused = training.take(settings, files)
        st.session_state["ft-refused"] = refused
        if taken:
            frame.say_later(pick(f"收下了 {len(taken)} 个文件", f"{len(taken)} file(s) taken"))
            before = [k for k in FORM.values.get("sets", []) if k not in map(str, taken)]
            st.session_state["ft-take"] = [*before, *map(str, taken)]
        st.session_state["ft-upload-round"] = round_ + 1
        st.rerun()


def choose_taken() -> None:
    """What was uploaded in the run before is chosen; called before the widgets are drawn."""
    if (taken := st.session_state.pop("ft-take", None)) is not None:
        FORM.put({"sets": taken})


@st.cache_resource(max_entries=8, show_spinner=False)
def read(keys: tuple[str, ...], stamp: tuple[tuple[str, int, int], ...]) -> Loaded:
    """All examples of the sets; read once until a file changes. Raises DataError."""
    from finetune.data.load import load_sets

    return load_sets(",".join(keys), folder=training.SAMPLES)


@st.cache_resource(max_entries=8, show_spinner=False)
def checked(keys: tuple[str, ...], stamp: tuple[tuple[str, int, int], ...]) -> CheckReport:
    """What is wrong with them."""
    from finetune.data.check import check

    loaded = read(keys, stamp)
    return check(loaded.examples, bad=loaded.bad)


def show_found(settings: Settings, keys: tuple[str, ...], loaded: Loaded) -> None:
    """How many of what, and the problems by kind with file and line."""
    from finetune.data.check import EXPLAIN
    from finetune.data.types import kind_of

    with st.spinner(pick("正在检查数据……", "Looking at the data ...")):
        report = checked(keys, training.stamp(keys))
    kinds = Counter(kind_of(e) for e in loaded.examples)
    counted = pick("，", ", ").join(f"{n} {pick(*KINDS[k])}" for k, n in kinds.items())
    formats = pick("、", ", ").join(f"{f}：{k}" for f, k in loaded.formats.items())
    st.markdown(pick("**读到**　", "**Read**　") + plain(counted) + f"　:gray[{plain(formats)}]")
    if report.clean:
        st.success(pick("没有发现问题", "No problem found"), icon=":material/check_circle:")
        return
    words = pick("，", ", ").join(f"{pick(*EXPLAIN[k])} {n}" for k, n in report.counts.items())
    with st.expander(
        pick(f"发现 {len(report.findings)} 处问题：", f"{len(report.findings)} problems: ") + plain(words),
        icon=":material/warning:",
    ):
        st.caption(
            pick(
                "无法读取的行不会参加训练，其余照常；建议改好再训练。",
                "Lines that cannot be read are left out, the rest is trained on; better correct them first.",
            )
        )
        st.dataframe(finding_rows(report), hide_index=True, height=min(420, 38 * len(report.findings) + 40))
        if len(report.findings) > SHOWN:
            st.caption(pick(f"只列出前 {SHOWN} 处", f"the first {SHOWN} are listed"))


def finding_rows(report: CheckReport) -> list[dict[str, Any]]:
    """One line a finding."""
    from finetune.data.check import EXPLAIN

    return [
        {
            pick("位置", "where"): str(f.source),
            pick("问题", "problem"): pick(*EXPLAIN[f.kind]),
            pick("详情", "detail"): pick(f.zh, f.detail),
        }
        for f in report.findings[:SHOWN]
    ]


def mask_parts(ids: Sequence[int], labels: Sequence[int], *, tokenizer: Chat) -> list[tuple[str, bool, bool]]:
    """(text, whether it is learned, whether it is a special token) in order; neighbours of one kind together."""
    from finetune.encode import IGNORE

    groups: list[tuple[list[int], bool, bool]] = []
    for number, label in zip(ids, labels, strict=True):
        special = tokenizer.is_special(int(number))
        learned = label != IGNORE
        if groups and groups[-1][1:] == (learned, special) and not special:
            groups[-1][0].append(int(number))
        else:
            groups.append(([int(number)], learned, special))
    return [
        ("".join(tokenizer.piece(i) for i in part) if special else tokenizer.decode(part), learned, special)
        for part, learned, special in groups
    ]
