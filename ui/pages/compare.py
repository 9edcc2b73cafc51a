"""对比: base and adapters side by side, blind votes, whole files measured, what was damaged, and which one answers."""

from __future__ import annotations

import streamlit as st

from ui.pages import frame, gpu
from ui.pages.cp_batch import show_batch
from ui.pages.cp_blind import show_blind
from ui.pages.cp_damage import show_damage
from ui.pages.cp_promote import show_promote
from ui.pages.cp_sides import show_sides
from ui.pages.cp_who import choose_who
from ui.text import pick

PARTS = {
    "sides": ("并排回答", "Side by side"),
    "blind": ("盲投", "Blind votes"),
    "batch": ("整批测评", "Measures"),
    "damage": ("损伤检查", "Damage"),
    "promote": ("启用", "Promote"),
}


def page() -> None:
    """The page."""
    settings = frame.settings_or_stop()
    st.title(pick("对比", "Compare"))
    part = st.segmented_control(
        pick("内容", "Part"),
        list(PARTS),
        format_func=lambda p: pick(*PARTS[p]),
        default=None if "cp-part" in st.session_state else "sides",
        key="cp-part",
        label_visibility="collapsed",
        required=True,
    )
    gpu.show_holders(settings, chat=part in ("batch", "damage"))
    with frame.explained(settings):
        if part == "promote":
            show_promote(settings)
            return
        who = choose_who(settings)
        if who is None:
            return
        shown = {"sides": show_sides, "blind": show_blind, "batch": show_batch, "damage": show_damage}
        shown[str(part)](settings, who)
