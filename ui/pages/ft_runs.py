"""Training runs: one in detail while it learns and afterwards, several with their curves over each other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from ui.found import runs_folder
from ui.pages import frame, gpu
from ui.pages.ft_curves import show_curves, show_overlay
from ui.pages.job_view import span
from ui.pages.safe import light, only_chosen, plain
from ui.settings import Settings
from ui.text import pick
from ui.training import events_of

if TYPE_CHECKING:
    from finetune.run import RunInfo

STATES = {
    "new": ("未开始", "new", "gray"),
    "running": ("训练中", "training", "blue"),
    "stopped": ("已停下", "stopped", "orange"),
    "done": ("完成", "done", "green"),
    "failed": ("出错", "failed", "red"),
    "killed": ("意外中断", "killed", "red"),
}
SAMPLES_SHOWN = 12


def show_runs(settings: Settings) -> None:
    """The list, the chosen one, and the comparison of several."""
    from finetune.run import list_runs

    runs = list_runs(runs_folder(settings))
    if not runs:
        st.info(
            pick(
                "还没有训练过。到“新训练”里选数据，开始第一次。",
                "No run yet: choose data under New training.",
            ),
            icon=":material/info:",
        )
        return
    names = [run.folder.name for run in runs]
    if st.session_state.get("ft-run") not in names:
        st.session_state["ft-run"] = names[0]
    chosen = st.selectbox(pick("哪一次训练", "Which run"), names, key="ft-run")
    run = runs[names.index(chosen)]
    if run.state == "running":
        follow(run, settings)
    else:
        show_run(run, settings)
    if len(runs) > 1:
        show_table(runs)
        st.subheader(pick("放在一起看", "Together"), anchor=False)
        several = st.multiselect(
            pick("选几次训练，曲线画在一张图上", "Runs whose curves are drawn over each other"),
            names,
            default=names[: min(2, len(names))],
            key="ft-several",
        )
        show_overlay({name: events_of(runs_folder(settings) / name) for name in several})


def show_table(runs: list[RunInfo]) -> None:
    """All runs in figures."""
    rows = [
        {
            pick("名称", "name"): run.folder.name,
            pick("状态", "state"): pick(*STATES[run.state][:2]),
            pick("方法", "method"): run.method,
            pick("数据", "data"): ", ".join(Path(d).name for d in run.dataset.split(",")),
            pick("步", "step"): f"{run.step} / {run.total}",
            pick("损失", "loss"): None if run.loss is None else round(run.loss, 4),
            pick("评估损失", "eval loss"): last_eval(run.folder),
            pick("开始", "began"): time.strftime("%m-%d %H:%M", time.localtime(run.began)),
        }
        for run in runs
    ]
    with st.expander(pick(f"全部 {len(runs)} 次", f"All {len(runs)} runs"), icon=":material/list:"):
        st.dataframe(rows, hide_index=True)


def last_eval(folder: Path) -> float | None:
    """The last loss on the evaluation set."""
    losses = [e["loss"] for e in events_of(folder) if e["event"] == "eval"]
    return round(float(losses[-1]), 4) if losses else None


def follow(run: RunInfo, settings: Settings) -> None:
    """Keep it current; the whole page is run again when it ends."""
    from finetune.run import info

    @st.fragment(run_every=1.0)
    def watch() -> None:
        found = info(run.folder)
        if found.state != "running":
            st.rerun(scope="app")
        show_run(found, settings)

    watch()


def show_run(run: RunInfo, settings: Settings) -> None:
    """State, progress, buttons, curves, samples."""
    events = events_of(run.folder)
    zh, en, colour = STATES[run.state]
    st.markdown(
        f":{colour}-badge[{pick(zh, en)}] **{plain(run.folder.name)}**　:gray[{plain(pick_summary(run))}]"
    )
    steps = [e for e in events if e["event"] == "step"]
    show_progress(run, steps)
    show_buttons(run, settings)
    if run.state == "failed":
        said = pick(run.error_zh, run.error_en)
        st.error(plain(only_chosen(said, settings)), icon=":material/error:")
    if run.state == "killed":
        st.warning(
            pick(
                "训练进程意外中断。“接着训练”会从最后一个检查点继续，结果与没有中断时相同。",
                "The process ended unexpectedly. Resume goes on from the last checkpoint, as if nothing had happened.",
            ),
            icon=":material/bolt:",
        )
    for event in [e for e in events if e["event"] == "say"][-5:]:
        st.caption(plain(only_chosen(pick(str(event.get("zh", "")), str(event.get("en", ""))), settings)))
    if steps:
        show_curves(events)
    elif run.state == "running":
        st.caption(pick("正在读取数据、载入模型……", "Reading data, loading the model ..."))
    show_samples(events)


def pick_summary(run: RunInfo) -> str:
    """ "lora · zhouyi"."""
    return f"{run.method} · " + ", ".join(Path(d).name for d in run.dataset.split(","))


def show_progress(run: RunInfo, steps: list[dict[str, Any]]) -> None:
    """Bar, loss, rate, speed, memory, time left."""
    last = steps[-1] if steps else {}
    step, total = int(last.get("step", run.step)), run.total
    if run.state == "running":
        words = pick(f"第 {step} 步", f"step {step}") + (f" / {total}" if total else "")
        if last.get("left"):
            words += pick(f" · 还要约 {span(last['left'])}", f" · about {span(last['left'])} left")
        st.progress(min(1.0, step / total) if total else 0.0, text=words)
    if not last:
        return
    columns = st.columns(5 if last.get("memory") else 4)
    before = steps[-11]["loss"] if len(steps) > 10 else None
    change = None if before is None else f"{last['loss'] - before:+.3f}"
    columns[0].metric(pick("损失", "Loss"), f"{last['loss']:.4f}", delta=change, delta_color="inverse")
    columns[1].metric(pick("学习率", "Learning rate"), f"{last['lr']:.2e}")
    columns[2].metric(pick("token / 秒", "Tokens / s"), f"{last.get('tokens_per_second', 0):,.0f}")
    columns[3].metric(pick("已学 token", "Tokens seen"), f"{last.get('tokens', 0):,}")
    if last.get("memory"):
        columns[4].metric(pick("显存峰值", "Peak memory"), f"{last['memory'] / 2**30:.1f} GiB")


def show_buttons(run: RunInfo, settings: Settings) -> None:
    """Stop, resume, try in the chat, compare."""
    from finetune import run as runs

    name = run.folder.name
    left, middle, right = st.columns(3)
    if run.state == "running":
        stopping = runs.stop_requested(run.folder)
        left.button(
            pick("正在停下……", "Stopping ...") if stopping else pick("停下并保存进度", "Stop and keep the progress"),
            icon=":material/stop_circle:", disabled=stopping, on_click=gpu.stop_run, args=(settings, name),
            key=f"ft-stop-{name}", width="stretch",
        )  # fmt: skip
        return
    if run.can_resume:
        left.button(
            pick("接着训练", "Resume"), icon=":material/resume:", type="primary", on_click=resume, args=(settings, run),
            key=f"ft-resume-{name}", width="stretch",
        )  # fmt: skip
    if run.adapter is None:
        return
    if runs.read_config(run.folder).data.stage == "rm":
        st.caption(pick("奖励模型只打分，不说话：", "A reward model scores and does not speak:"))
        st.code(
            f"zhiwen score {run.folder} " + pick("问题 回答1 回答2", "QUESTION ANSWER1 ANSWER2"),
            language=None,
        )
        return
    if middle.button(
        pick("在问答里试试", "Try it in the chat"), icon=":material/forum:", key=f"ft-try-{name}", width="stretch",
        type="primary",
    ):  # fmt: skip
        try_in_chat(run)
    if right.button(
        pick("与基座对比", "Compare with its base"), icon=":material/compare:", key=f"ft-compare-{name}", width="stretch"
    ):  # fmt: skip
        st.session_state["cp-take"] = (base_folder(run), str(run.adapter))
        st.switch_page(st.session_state["page_of"]["compare"])


def resume(settings: Settings, run: RunInfo) -> None:
    """Go on with it in a process of its own."""
    from finetune import run as runs
    from kb.errors import ZhiwenError

    try:
        runs.resume(run.folder)
    except ZhiwenError as error:
        frame.say_later(pick(error.zh, error.message))


def base_folder(run: RunInfo) -> str:
    """The model that it was trained on."""
    from finetune.run import read_config

    return read_config(run.folder).data.model_name_or_path


def try_in_chat(run: RunInfo) -> None:
    """Go to the chat with this model and adapter chosen."""
    state = st.session_state
    state.pop("pick-model", None)
    if run.adapter is not None and run.adapter.name == "adapter":
        state["chosen-model"], state["chosen-adapter"] = base_folder(run), str(run.adapter.resolve())
        state.pop("pick-adapter", None)
    else:
        state["chosen-model"] = str(run.adapter)
    st.switch_page(state["page_of"]["ask"])


def show_samples(events: list[dict[str, Any]]) -> None:
    """What the model said while it learned, newest first."""
    samples = [e for e in events if e["event"] == "sample"]
    if not samples:
        return
    st.markdown(pick("**它现在怎么回答**", "**What it says**"))
    for event in reversed(samples[-SAMPLES_SHOWN:]):
        with st.container(border=True):
            st.caption(pick(f"第 {event['step']} 步", f"step {event['step']}"))
            st.markdown(f"**{plain(str(event['prompt']))}**")
            st.markdown(light(str(event["text"])) or pick("（没有说话）", "(said nothing)"))
