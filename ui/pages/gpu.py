"""One GPU: who holds it, chat model or training, and a button that frees it."""

from __future__ import annotations

import streamlit as st

from ui import held
from ui.found import runs_folder
from ui.pages.safe import plain
from ui.settings import Settings
from ui.text import pick


def running_runs(settings: Settings) -> list[str]:
    """Names of the runs that train now, newest first."""
    from finetune.run import list_runs

    return [run.folder.name for run in list_runs(runs_folder(settings)) if run.state == "running"]


def show_holders(settings: Settings, *, training: bool = True, chat: bool = True) -> None:
    """A line for each that holds memory: the chat model of this process, and runs that go on."""
    if chat and (model := held.held()) is not None:
        words = pick(
            f"聊天模型 {model.name} 在 {model.device} 上，约占 {model.gib:.1f} GiB。训练前可以先释放，下次提问会重新载入。",
            f"The chat model {model.name} is on {model.device} and holds about {model.gib:.1f} GiB. Free it before "
            "training; the next question loads it again.",
        )
        _line(words, pick("释放", "Free it"), key="free-chat", does=_free)
    names = running_runs(settings) if training else []
    for name in names:
        words = pick(
            f"训练 {name} 正在进行，占着设备。停下会保存进度，之后可以接着训练。",
            f"The run {name} is training and holds the device. Stopping keeps its progress; it can be resumed.",
        )
        _line(words, pick("停下", "Stop it"), key=f"free-{name}", does=lambda n=name: stop_run(settings, n))


def _line(words: str, label: str, *, key: str, does: object) -> None:
    left, right = st.columns([6, 1], vertical_alignment="center")
    left.caption(":material/memory: " + plain(words))
    right.button(label, key=key, on_click=does, type="secondary", width="stretch")


def _free() -> None:
    held.let_go()


def stop_run(settings: Settings, name: str) -> None:
    """Ask a run of this home to stop."""
    from finetune import run

    folder = runs_folder(settings) / name
    if folder.parent == runs_folder(settings) and folder.is_dir():
        run.stop(folder)
