"""设置与检查: what can be set, what is on this machine, and what to do about what is missing."""

from __future__ import annotations

import dataclasses
from typing import Any

import streamlit as st

from kb.errors import SettingsError
from ui import feedback
from ui.doctor import Finding, broken_settings, examine
from ui.pages import frame
from ui.pages.safe import only_chosen, plain
from ui.settings import SECTIONS, Settings, Value, known_keys, load_settings
from ui.settings_file import write_setting
from ui.text import pick

TITLES = {
    "": ("界面与文件夹", "Language and folders"),
    "generator": ("由谁写答案", "What writes answers"),
    "search": ("检索", "Searching"),
    "embedder": ("嵌入模型", "Embedder"),
    "hub": ("下载模型", "Downloading models"),
}
EXPLAINED = {
    "embedder": (
        "换嵌入模型只影响之后新建的知识库；已有的要删掉重建。",
        "Another embedder is used by new knowledge bases only; existing ones must be built anew.",
    ),
    "generator": (
        "none：摘录原文，不用模型。openai：任何 OpenAI 兼容的服务。chatglm3：本机转换好的模型。local：本机的其他模型。",
        "none: quotes, no model. openai: any OpenAI-compatible server. chatglm3: a converted model on this machine. "
        "local: any other model here.",
    ),
}
ICONS = {
    "ok": ":green[:material/check_circle:]",
    "note": ":gray[:material/info:]",
    "problem": ":red[:material/error:]",
}


def page() -> None:
    """The page."""
    settings, error = frame.current_settings()
    st.title(pick("设置与检查", "Settings and checks"))
    checks, form, data = st.tabs(
        [pick("检查", "Checks"), pick("设置", "Settings"), pick("反馈数据", "Feedback data")],
        on_change="rerun",  # only the open one is made
        key="settings-part",
    )
    if checks.open:
        with checks:
            show_checks(settings, error)
    if form.open:
        with form:
            if error is not None:
                frame.show_error(error, settings)
            else:
                show_form(settings)
    if data.open:
        with data:
            show_feedback(settings)


def show_checks(settings: Settings, error: SettingsError | None) -> None:
    """Every finding; the problems first."""
    findings = ([broken_settings(error)] if error is not None else []) + examine(settings)
    problems = [f for f in findings if f.status == "problem"]
    if problems:
        st.error(
            pick(f"{len(problems)} 个问题需要处理", f"{len(problems)} problem(s) to solve"),
            icon=":material/error:",
        )
    else:
        st.success(pick("没有发现问题", "No problem found"), icon=":material/check_circle:")
    for finding in problems + [f for f in findings if f.status != "problem"]:
        show_finding(finding, settings)
    st.button(pick("再检查一遍", "Check again"), icon=":material/refresh:", key="check-again")


def show_finding(finding: Finding, settings: Settings) -> None:
    """A line, and under it what to do."""
    words = plain(only_chosen(pick(finding.zh, finding.en), settings))
    todo = pick(finding.todo_zh, finding.todo_en)
    st.markdown(
        f"{ICONS[finding.status]} {words}"
        + (f"  \n:gray[→ {plain(only_chosen(todo, settings))}]" if todo else "")
    )


def show_form(settings: Settings) -> None:
    """All keys by section. Written to zhiwen.toml only as a whole that can be used."""
    with st.form("settings", border=False):
        chosen: dict[str, Value] = {}
        for section in TITLES:
            keys = [key for key in known_keys() if key.rpartition(".")[0] == section]
            with st.expander(pick(*TITLES[section]), expanded=section in ("", "generator")):
                if section in EXPLAINED:
                    st.caption(plain(pick(*EXPLAINED[section])))
                for key in keys:
                    chosen[key] = field_of(settings, key)
        if st.form_submit_button(pick("保存", "Save"), type="primary", icon=":material/save:"):
            save(settings, chosen)


def value_of(settings: Settings, key: str) -> Value:
    """What holds now."""
    section, _, name = key.rpartition(".")
    found: Value = getattr(getattr(settings, section) if section in SECTIONS else settings, name)
    return found


def field_of(settings: Settings, key: str) -> Value:
    """The widget that fits the key; fixed if an environment variable says it."""
    about: dataclasses.Field[Any] = known_keys()[key]
    value = value_of(settings, key)
    source = settings.sources.get(key, "")
    fixed = bool(source) and source != str(settings.file)
    label = f"{pick(about.metadata['zh'], about.metadata['en'])}　`{key}`"
    help_text = (
        pick(f"由环境变量 {source} 决定", f"the environment variable {source} says so") if fixed else None
    )
    shared: dict[str, Any] = {"key": f"set-{key}", "disabled": fixed, "help": help_text}
    if about.metadata["choices"]:
        options = list(about.metadata["choices"])
        return str(st.selectbox(label, options, index=options.index(value), format_func=lambda o: o or pick("自动", "automatic"), **shared))  # fmt: skip
    if isinstance(value, bool):
        return bool(st.toggle(label, value=value, **shared))
    low, high = about.metadata["low"], about.metadata["high"]
    if isinstance(value, int):
        return int(
            st.number_input(label, min_value=int(low), max_value=int(high), value=value, step=1, **shared)
        )
    if isinstance(value, float):
        return float(
            st.number_input(
                label, min_value=float(low), max_value=float(high), value=value, step=0.05, **shared
            )
        )
    return str(st.text_input(label, value=str(value), **shared)).strip()


def save(settings: Settings, chosen: dict[str, Value]) -> None:
    """Write what was changed; if the whole cannot be used the file stays as it was."""
    changed = {
        key: value
        for key, value in chosen.items()
        if value != value_of(settings, key)
        and settings.sources.get(key, str(settings.file)) == str(settings.file)
    }
    if not changed:
        st.info(pick("没有改动", "Nothing was changed"))
        return
    before = settings.file.read_bytes() if settings.file.exists() else None
    try:
        for key, value in changed.items():
            write_setting(settings.home, key, str(value).lower() if isinstance(value, bool) else str(value))
        load_settings(settings.home)
    except SettingsError as error:
        if before is None:
            settings.file.unlink(missing_ok=True)
        else:
            settings.file.write_bytes(before)
        frame.show_error(error, settings)
        return
    if "language" in changed:
        st.session_state["language"] = changed["language"]
    frame.say_later(pick(f"已保存 {len(changed)} 项设置", f"{len(changed)} setting(s) saved"))
    st.rerun()


def show_feedback(settings: Settings) -> None:
    """Votes as training data."""
    history = frame.history(settings)
    found = feedback.votes(history)
    good = sum(vote.good for vote in found)
    corrected = sum(bool(vote.correction) for vote in found)
    st.markdown(
        pick(
            f"已有 {len(found)} 条反馈：{good} 条赞同，{len(found) - good} 条不赞同，其中 {corrected} 条写了正确回答。",
            f"{len(found)} vote(s): {good} up, {len(found) - good} down, {corrected} of them with a right answer.",
        )
    )
    shapes: dict[feedback.Shape, tuple[str, str]] = {
        "messages": ("对话：赞同的回答和更正（监督微调）", "conversations: good answers and corrections (SFT)"),
        "preference": ("偏好：更正与原回答成对（DPO、奖励模型）", "preferences: correction over answer (DPO, reward model)"),
        "kto": ("好坏：每条回答带一个赞或踩（KTO）", "thumbs: every answer with its thumb (KTO)"),
    }  # fmt: skip
    shape = st.radio(
        pick("导出为", "Export as"),
        list(shapes),
        format_func=lambda s: pick(*shapes[s]),
        key="feedback-shape",
    )
    data, count = feedback.export(history, shape)
    st.download_button(
        pick(f"导出 {count} 条（jsonl）", f"Export {count} example(s) (jsonl)"),
        data=data,
        file_name=f"zhiwen-feedback-{shape}.jsonl",
        mime="application/jsonl",
        disabled=count == 0,
        icon=":material/download:",
        key="feedback-export",
        on_click="ignore",
    )
    st.caption(
        pick(
            "导出的文件可以直接用 zhiwen data check 检查，再用于微调。",
            "The file can be checked with zhiwen data check and trained on.",
        )
    )
