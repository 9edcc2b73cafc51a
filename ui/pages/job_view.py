"""A job on a page: how far, how fast, how long still, and a button that stops it."""

from __future__ import annotations

import time

import streamlit as st

from ui.jobs import Job, find, jobs
from ui.pages import frame
from ui.pages.safe import only_chosen, plain
from ui.settings import Settings
from ui.text import pick

STEPS = {
    "list": ("正在查看文件夹", "Looking at the folder"),
    "hash": ("正在比较文件", "Comparing files"),
    "read": ("正在阅读文档", "Reading documents"),
    "embed": ("正在计算向量", "Computing vectors"),
    "index": ("正在更新索引", "Updating the indexes"),
    "calibrate": ("正在标定何时拒答", "Measuring when to refuse"),
    "done": ("收尾", "Finishing"),
}


def running_index(settings: Settings, *, kb: str = "") -> Job | None:
    """The indexing that goes on now, of one knowledge base or of any."""
    for job in jobs(settings.home, kind="index")[:20]:
        if job.state == "running" and (not kb or job.given.get("kb") == kb):
            return job
    return None


def last_index(settings: Settings, *, kb: str) -> Job | None:
    """The newest indexing of a knowledge base."""
    return next((j for j in jobs(settings.home, kind="index")[:50] if j.given.get("kb") == kb), None)


def follow(job: Job, settings: Settings) -> None:
    """Show it and keep it current; the whole page is run again when it ends."""

    def watch() -> None:
        found = find(settings.home, job.id)
        if found is None or found.state != "running":
            st.rerun(scope="app")
        else:
            show_progress(found)

    st.fragment(watch, run_every=1.0)()


def show_progress(job: Job) -> None:
    """Step, bar, rate, time left, and the button."""
    progress = job.progress
    step = str(progress.get("step", "list"))
    done, total = int(progress.get("done", 0)), int(progress.get("total", 0))
    share = min(1.0, done / total) if total else 0.0
    words = pick(*STEPS.get(step, STEPS["list"]))
    if total > 1:
        words += pick(f"：{done} / {total}", f": {done} of {total}")
    with st.container(border=True):
        st.markdown(f"**{plain(job.title)}**")
        st.progress(share, text=words + _pace(progress, done, total))
        if name := str(progress.get("name", "")):
            st.caption(plain(name))
        if job.stopping:
            st.caption(pick("正在停止，已完成的会保留……", "Stopping; what is done is kept ..."))
        else:
            st.button(
                pick("停止", "Stop"), icon=":material/stop_circle:", on_click=job.stop, key=f"stop-{job.id}"
            )


def _pace(progress: dict[str, object], done: int, total: int) -> str:
    """Rate and time left, once there is something to reckon with."""
    began = float(str(progress.get("began", 0)) or 0)
    passed = time.time() - began
    if progress.get("step") not in ("read", "embed") or done < 2 or passed < 1:
        return ""
    rate = done / passed
    left = (total - done) / rate
    return pick(
        f" · 每秒 {rate:.1f} 个 · 还要约 {span(left)}", f" · {rate:.1f} a second · about {span(left)} left"
    )


def span(seconds: float) -> str:
    """ "40 秒", "3 分钟", "1.5 小时"."""
    if seconds < 90:
        return pick(f"{max(1, round(seconds))} 秒", f"{max(1, round(seconds))} s")
    if seconds < 5400:
        return pick(f"{round(seconds / 60)} 分钟", f"{round(seconds / 60)} min")
    return pick(f"{seconds / 3600:.1f} 小时", f"{seconds / 3600:.1f} h")


def show_result(job: Job, settings: Settings) -> None:
    """What came of a job that has ended."""
    from ui.reasons import file_words
    from ui.show import counts_line

    if job.state == "failed":
        said = pick(str(job.result.get("zh", "")), str(job.result.get("en", "")))
        died = pick(
            "进程意外结束；已完成的都在，重新索引会接着做。",
            "The process ended unexpectedly; what was done is kept, indexing again goes on from there.",
        )
        st.error(plain(only_chosen(said or died, settings)), icon=":material/error:")
        return
    report = job.result.get("came", {}).get("report", {})
    said = counts_line(report.get("counts", {}))
    took = span(float(report.get("seconds", 0)))
    if job.state == "stopped":
        st.warning(
            pick(
                f"已停止：{said}。再次索引会接着做。", f"Stopped: {said}. Indexing again goes on from there."
            ),
            icon=":material/pause_circle:",
        )
    else:
        st.success(
            pick(f"索引完成，用时 {took}：{said}", f"Indexed in {took}: {said}"),
            icon=":material/check_circle:",
        )
    if problems := report.get("problems", []):
        with st.expander(
            pick(f"{len(problems)} 个文件需要留意", f"{len(problems)} files to look at"),
            expanded=len(problems) <= 3,
        ):
            for problem in problems[:200]:
                mark = "✗" if problem["verdict"] == "failed" else "!"
                st.markdown(
                    f"{mark} **{plain(problem['name'])}**  \n{plain(only_chosen(file_words(problem['reason'], problem.get('reason_zh', '')), settings))}"
                )


NEWS_SECONDS = 600
"""A result is news for so long."""


def show_news(job: Job, settings: Settings) -> None:
    """The result of a job that ended lately, until it is closed; a failure stays until it is closed."""
    seen = st.session_state.setdefault("seen-jobs", set())
    ended = float(job.progress.get("at", job.began))
    if job.id in seen or (job.state != "failed" and time.time() - ended > NEWS_SECONDS):
        return
    left, right = st.columns([12, 1])
    with left:
        show_result(job, settings)
    right.button(
        "",
        icon=":material/close:",
        key=f"close-{job.id}",
        on_click=seen.add,
        args=(job.id,),
        type="tertiary",
        help=pick("知道了", "Got it"),
    )


def begin_index(
    settings: Settings, kb: str, folder: str, *, allow_empty: bool = False, again: tuple[str, ...] = ()
) -> None:
    """Start indexing, unless it goes on already."""
    from ui.jobs import forget, start

    if running_index(settings, kb=kb) is not None:
        frame.say_later(pick("这个知识库正在索引", "This knowledge base is being indexed"))
        return
    forget(settings.home)
    given = {
        "home": str(settings.home),
        "kb": kb,
        "folder": folder,
        "allow_empty": allow_empty,
        "again": list(again),
    }
    start(settings.home, "index", title=pick(f"索引知识库“{kb}”", f"Indexing {kb!r}"), given=given)
