"""What all pages share: settings, the language of this session, and errors in words instead of tracebacks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import streamlit as st

from kb.errors import SettingsError, ZhiwenError
from ui.history import History
from ui.pages.safe import only_chosen, plain
from ui.settings import Settings, home_folder, load_settings
from ui.text import Language, ask_language, pick

LANGUAGES: tuple[Language, ...] = ("zh", "en")


def session_language() -> Language | None:
    """What this session chose; None outside of a session."""
    from streamlit.runtime.scriptrunner import get_script_run_ctx

    if get_script_run_ctx(suppress_warning=True) is None:
        return None
    found = st.session_state.get("language")
    return found if found in LANGUAGES else None


def begin_language(settings: Settings) -> None:
    """The language of the address (?lang=en), else of the settings."""
    ask_language(session_language)
    if "language" not in st.session_state:
        asked = st.query_params.get("lang", "")
        st.session_state["language"] = asked if asked in LANGUAGES else settings.language
    if st.session_state["language"] != settings.language:
        st.query_params["lang"] = st.session_state["language"]
    elif "lang" in st.query_params:
        del st.query_params["lang"]


def language_switch() -> None:
    """One click in the side bar."""

    def turn() -> None:
        st.session_state["language"] = "en" if st.session_state["language"] == "zh" else "zh"

    st.sidebar.button(
        "English" if st.session_state["language"] == "zh" else "中文",
        on_click=turn,
        key="switch-language",
        icon=":material/translate:",
        type="tertiary",
    )


def current_settings() -> tuple[Settings, SettingsError | None]:
    """The settings; if the file is broken the defaults, with what is wrong."""
    try:
        return load_settings(), None
    except SettingsError as error:
        return Settings(home=home_folder()), error


def settings_or_stop() -> Settings:
    """The settings; a broken file is said and ends the page."""
    settings, error = current_settings()
    if error is not None:
        show_error(error, settings)
        st.page_link(st.session_state["page_of"]["settings"], label=pick("去“设置与检查”", "To the settings"))
        st.stop()
    return settings


def show_error(error: ZhiwenError, settings: Settings) -> None:
    """In the language of the session, without paths that nobody chose."""
    st.error(plain(only_chosen(pick(error.zh, error.message), settings)), icon=":material/error:")


@contextmanager
def explained(settings: Settings) -> Iterator[None]:
    """Errors that we raise on purpose become a red box; the rest of the page goes on."""
    try:
        yield
    except ZhiwenError as error:
        show_error(error, settings)


@lru_cache(maxsize=4)
def _history(home: Path) -> History:
    return History(home)


def history(settings: Settings) -> History:
    """The conversations of this home, shared by all sessions."""
    return _history(settings.home)


def run_safely(show: Callable[[], None]) -> None:
    """What nobody foresaw is logged whole, and told without its inside; the rest of the frame stays."""
    try:
        show()
    except Exception:
        logging.getLogger("zhiwen.ui").exception("a page failed")
        st.error(
            pick(
                "这个页面出错了，详情在运行 zhiwen ui 的终端里。刷新可以重试。",
                "This page failed; the terminal that runs zhiwen ui says why. Reload to try again.",
            ),
            icon=":material/error:",
        )


def say_later(text: str) -> None:
    """A short notice after the next rerun."""
    st.session_state.setdefault("notices", []).append(text)


def say_now() -> None:
    """Show what `say_later` kept."""
    for text in st.session_state.pop("notices", []):
        st.toast(plain(text))
