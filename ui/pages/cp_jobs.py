"""Jobs of the comparison page: begin one, follow it, and where their reports lie."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import streamlit as st

from ui import held
from ui.jobs import Job, find, forget, jobs, start
from ui.pages.safe import only_chosen, plain
from ui.settings import Settings
from ui.text import pick

_NAME = re.compile(r"(compare|damage)-[0-9]{8}-[0-9]{6}")


def reports_folder(settings: Settings) -> Path:
    """Where reports are kept."""
    return settings.home / "reports"


def reports(settings: Settings, kind: str, *, file: str) -> list[Path]:
    """Folders of finished reports, newest first."""
    found = sorted(reports_folder(settings).glob(f"{kind}-*"), reverse=True)
    return [f for f in found if _NAME.fullmatch(f.name) and (f / file).is_file()]


def read_report(path: Path) -> dict[str, Any]:
    """A JSON file of a report; empty if it cannot be read."""
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def begin(settings: Settings, kind: str, *, title: str, given: dict[str, Any]) -> None:
    """Start one. The chat model is let go first: the job's own process loads the model again."""
    if any(job.state == "running" for job in jobs(settings.home, kind=kind)[:20]):
        return
    held.let_go()
    forget(settings.home)
    out = reports_folder(settings) / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    start(settings.home, kind, title=title, given={**given, "home": str(settings.home), "out": str(out)})


def last(settings: Settings, kind: str) -> Job | None:
    """The newest of its kind."""
    return next(iter(jobs(settings.home, kind=kind)), None)


def show_job(settings: Settings, kind: str) -> bool:
    """Follow the one that runs, or say why the last one failed. Whether one runs."""
    job = last(settings, kind)
    if job is None:
        return False
    if job.state == "failed":
        died = pick("进程意外结束；已有的回答都在，重新开始会接着做。", "The process ended unexpectedly; what was answered is kept.")  # fmt: skip
        said = pick(str(job.result.get("zh", "")), str(job.result.get("en", ""))) or died
        st.error(plain(only_chosen(said, settings)), icon=":material/error:")
    if job.state == "stopped":
        st.warning(pick("已停下，报告只含已答完的题。", "Stopped: the report covers what was answered."), icon=":material/pause_circle:")  # fmt: skip
    if job.state != "running":
        return False

    @st.fragment(run_every=1.0)
    def watch() -> None:
        found = find(settings.home, job.id)
        if found is None or found.state != "running":
            st.rerun(scope="app")
            return
        done, total = int(found.progress.get("done", 0)), int(found.progress.get("total", 0))
        with st.container(border=True):
            st.markdown(f"**{plain(found.title)}**")
            words = f"{done} / {total}" if total else pick("正在载入模型……", "loading the model ...")
            st.progress(done / total if total else 0.0, text=words)
            if found.stopping:
                st.caption(pick("正在停止……", "Stopping ..."))
            else:
                st.button(
                    pick("停止", "Stop"),
                    icon=":material/stop_circle:",
                    on_click=found.stop,
                    key=f"stop-{job.id}",
                )

    watch()
    return True
