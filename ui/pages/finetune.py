"""微调: choose data, look at it, choose how, see the plan change, start; and the runs with their curves."""

from __future__ import annotations

import streamlit as st

from ui.pages import frame, gpu
from ui.pages.ft_data import show_data
from ui.pages.ft_runs import show_runs
from ui.pages.ft_setup import show_setup
from ui.text import pick

PARTS = {"new": ("新训练", "New training"), "runs": ("训练记录", "Runs")}


def page() -> None:
    """The page."""
    settings = frame.settings_or_stop()
    st.title(pick("微调", "Fine-tune"))
    if wanted := st.session_state.pop("go-to-runs", None):
        st.session_state["ft-part"], st.session_state["ft-run"] = "runs", wanted
    part = st.segmented_control(
        pick("内容", "Part"),
        list(PARTS),
        format_func=lambda p: pick(*PARTS[p]),
        default=None if "ft-part" in st.session_state else first_part(),
        key="ft-part",
        label_visibility="collapsed",
        required=True,
    )
    gpu.show_holders(settings, training=part != "runs")
    with frame.explained(settings):
        if part == "runs":
            show_runs(settings)
            return
        chosen = show_data(settings)
        if chosen:
            show_setup(settings, chosen)


def first_part() -> str:
    """What is shown to somebody who comes here: the runs while one goes on, else a new one."""
    from finetune.run import list_runs
    from ui.found import runs_folder

    settings = frame.settings_or_stop()
    return "runs" if any(r.state == "running" for r in list_runs(runs_folder(settings))) else "new"
