"""The front end's entry: `zhiwen ui` runs this file. Frame, language and the list of pages; each page is a file in ui/pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from ui.pages import ask, compare, finetune, frame, knowledge, settings, warm
from ui.text import pick


@dataclass(frozen=True)
class PageEntry:
    """A page in the side bar."""

    name: str
    """Its address, and its key in session_state["page_of"]."""
    zh: str
    en: str
    icon: str
    show: Callable[[], None]
    wide: bool = False


ICON = (Path(__file__).parent / "icon.svg").read_text(encoding="utf-8")

PAGES = (
    PageEntry("ask", "问答", "Ask", ":material/forum:", ask.page),
    PageEntry(
        "knowledge", "知识库", "Knowledge bases", ":material/library_books:", knowledge.page, wide=True
    ),
    PageEntry("finetune", "微调", "Fine-tune", ":material/model_training:", finetune.page, wide=True),
    PageEntry("compare", "对比", "Compare", ":material/compare:", compare.page, wide=True),
    PageEntry("settings", "设置与检查", "Settings and checks", ":material/tune:", settings.page),
)


def main() -> None:
    """Run the page that is asked for.

    The side bar's links are made by hand: an icon in `st.Page` becomes the tab's icon, which browsers are told to fetch from
    another machine.
    """
    warm.warm_up()
    found, _ = frame.current_settings()
    frame.begin_language(found)
    made = {
        entry.name: st.Page(
            entry.show,
            title=pick(entry.zh, entry.en),
            url_path=entry.name,
            default=entry is PAGES[0],
        )
        for entry in PAGES
    }
    st.session_state["page_of"] = made
    chosen = st.navigation(list(made.values()), position="hidden")
    wide = next(entry.wide for entry in PAGES if made[entry.name] == chosen)
    st.set_page_config(
        page_title=f"{chosen.title} · {pick('知问', 'zhiwen')}",
        page_icon=ICON,
        layout="wide" if wide else "centered",
    )
    st.logo(ICON, size="large")
    for entry in PAGES:
        st.sidebar.page_link(made[entry.name], icon=entry.icon)
    frame.language_switch()
    frame.say_now()
    frame.run_safely(chosen.run)


main()
