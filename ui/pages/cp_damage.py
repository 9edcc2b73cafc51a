"""What an adapter broke: forgetting, memorisation, repetition, unfinished answers, with a verdict each."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from ui import training
from ui.pages.cp_jobs import begin, read_report, reports, show_job
from ui.pages.cp_who import Who
from ui.pages.safe import plain
from ui.settings import Settings
from ui.text import language, pick


def show_damage(settings: Settings, who: Who) -> None:
    """Start a check, look at the reports."""
    general = training.SAMPLES / "general" / "basics.jsonl"
    if who.kind in ("chatglm3", "local") and not who.adapters:
        st.info(pick("选一个适配器来检查。", "Choose an adapter to check."), icon=":material/info:")
    st.caption(
        pick(
            "把通识题（算术、常识、指令、格式、拒答、英文）和一部分训练题分别问基座与适配器：忘了多少，背了多少，有没有重复和说半截。",
            "General questions and some of the training set are put to the base and to the adapter: what was forgotten, "
            "what is recited, whether it repeats itself or stops half-way.",
        )
    )
    busy = show_job(settings, "damage")
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    adapter = left.selectbox(pick("检查哪个", "Which one"), list(who.adapters), key="cp-damaged")
    right.button(
        pick("开始检查", "Check"), type="primary", icon=":material/healing:", key="cp-damage", width="stretch",
        disabled=busy or not adapter or not general.is_file(),
        on_click=begin_damage, args=(settings, who, str(adapter), general),
    )  # fmt: skip
    if found := reports(settings, "damage", file="damage.json"):
        show_report(found)


def begin_damage(settings: Settings, who: Who, adapter: str, general: Path) -> None:
    """Start the job."""
    given = {
        "kind": who.kind, "model": who.model, "adapter": adapter, "general": str(general), "sample": 30,
        "max_tokens": min(who.max_tokens, 128),
    }  # fmt: skip
    begin(settings, "damage", title=pick(f"损伤检查 {adapter}", f"Damage of {adapter}"), given=given)


def show_report(found: list[Path]) -> None:
    """Verdict, table, what only the base got right."""
    about = {path: read_report(path / "damage.json") for path in found[:30]}
    chosen = st.selectbox(
        pick("报告", "Report"), list(about), key="cp-damage-report",
        format_func=lambda f: f"{about[f].get('adapter', '')} · {f.name.removeprefix('damage-')}",
    )  # fmt: skip
    report = about[chosen]
    if report.get("passed"):
        st.success(
            pick("通过：没有确定变差的项目", "Passed: nothing is worse for sure"),
            icon=":material/check_circle:",
        )
    else:
        st.error(
            pick("未通过：有项目确定变差", "Failed: something is worse for sure"), icon=":material/error:"
        )
    head, *rows = report.get("tables", {}).get(language()) or [[]]
    if rows:
        st.dataframe([dict(zip(head, row, strict=True)) for row in rows], hide_index=True)
    if lost := report.get("lost"):
        with st.expander(pick(f"只有基座答对的 {len(lost)} 题", f"{len(lost)} that only the base got right")):
            for question, base, adapter in lost:
                st.markdown(f"**{plain(question)}**")
                left, right = st.columns(2)
                left.caption(pick("基座", "base"))
                left.markdown(plain(base))
                right.caption(pick("微调后", "adapter"))
                right.markdown(plain(adapter))
    st.download_button(
        pick("下载报告（html）", "Report (html)"), data=(chosen / "damage.html").read_bytes(),
        file_name=f"{chosen.name}.html", icon=":material/description:", key="cp-get-damage",
    )  # fmt: skip
