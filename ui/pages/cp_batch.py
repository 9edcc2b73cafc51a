"""A whole file of questions, measured: the table with intervals, and the report to send to a colleague."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from ui.pages.cp_jobs import begin, read_report, reports, show_job
from ui.pages.cp_questions import choose_file
from ui.pages.cp_who import Who, shown_name
from ui.pages.safe import plain
from ui.settings import Settings
from ui.text import pick


def show_batch(settings: Settings, who: Who) -> None:
    """Choose the file, start, look at the newest report or an older one."""
    path = choose_file(settings, key="batch", needed=True)
    if path is None:
        st.info(
            pick("上传一个问题文件开始。", "Upload a file of questions to begin."), icon=":material/info:"
        )
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    limit = left.number_input(
        pick("最多几题（0：全部）", "Questions (0: all)"), min_value=0, value=0, step=10, key="cp-limit"
    )
    busy = show_job(settings, "compare")
    right.button(
        pick(f"开始测评（{len(who.names)} 位应答者）", f"Measure ({len(who.names)} contestants)"),
        type="primary", icon=":material/analytics:", disabled=busy or path is None, key="cp-measure",
        on_click=begin_compare, args=(settings, who, str(path), int(limit)),
    )  # fmt: skip
    found = reports(settings, "compare", file="report.json")
    if found:
        show_report(found)


def begin_compare(settings: Settings, who: Who, questions: str, limit: int) -> None:
    """Start the job."""
    given = {
        "kind": who.kind, "model": who.model, "adapters": list(who.adapters), "questions": questions,
        "retrieval": who.retrieval, "kbs": list(who.kbs), "max_tokens": who.max_tokens, "limit": limit,
    }  # fmt: skip
    name = Path(questions).name
    begin(settings, "compare", title=pick(f"测评 {name}", f"Measuring {name}"), given=given)


def show_report(found: list[Path]) -> None:
    """Tables by type, and the files."""
    chosen = st.selectbox(
        pick("报告", "Report"), found, format_func=lambda f: f.name.removeprefix("compare-"), key="cp-report"
    )
    about = read_report(chosen / "report.json")
    blocks = {
        pick("总表", "Overall"): about.get("overall", {}),
        **about.get("types", {}),
        **about.get("domains", {}),
    }
    st.caption(
        pick(
            f"{about.get('questions', 0)} 题。格内：均值 [95 % 区间]（与第一列逐题相减的差，* 表示至少 6 题且区间不含 0）",
            f"{about.get('questions', 0)} questions. Mean [95 % interval] (minus the first column, question by question; *: 0 left out, with 6 questions or more)",
        )
    )
    for title, block in blocks.items():
        if block:
            st.markdown(f"**{plain(str(title))}**")
            st.dataframe(measure_rows(block), hide_index=True)
    left, right = st.columns(2)
    for column, name, words, icon in (
        (left, "report.html", pick("下载报告（html）", "Report (html)"), "description"),
        (right, "answers.csv", pick("下载全部回答（csv）", "All answers (csv)"), "table"),
    ):
        path = chosen / name
        if path.is_file():
            column.download_button(
                words, data=path.read_bytes(), file_name=f"{chosen.name}-{name}", icon=f":material/{icon}:",
                key=f"cp-get-{name}", width="stretch",
            )  # fmt: skip


def measure_rows(block: dict[str, Any]) -> list[dict[str, str]]:
    """One line a measure, one cell a contestant."""
    from finetune.measures import MEASURES

    words = {m.name: m.zh for m in MEASURES}
    rows = []
    for measure, by_name in block.items():
        row = {pick("指标", "measure"): pick(f"{words.get(measure, measure)} {measure}", measure)}
        for at, (name, numbers) in enumerate(by_name.items()):
            row[shown_name(name)] = cell(numbers, first=at == 0)
        rows.append(row)
    return rows


def cell(numbers: dict[str, Any], *, first: bool) -> str:
    """ "0.812 [0.700, 0.900] (+0.312*)"."""
    low, high = numbers["interval"]
    text = f"{numbers['mean']:.3f} [{low:.3f}, {high:.3f}]"
    if first:
        return text
    lower, upper = numbers["gain_interval"]
    sure = numbers.get("sure", lower > 0 or upper < 0)
    return f"{text} ({numbers['gain']:+.3f}{'*' if sure else ''})"
