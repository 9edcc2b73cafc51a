"""Curves of training runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from ui.text import pick
from ui.training import thinned

Events = list[dict[str, Any]]


def smoothed(values: list[float], *, weight: float = 0.8) -> list[float]:
    """Exponential mean without the pull towards the first value."""
    out, mean, total = [], 0.0, 0.0
    for value in values:
        mean, total = weight * mean + (1 - weight) * value, weight * total + (1 - weight)
        out.append(mean / total)
    return out


def show_curves(events: Events) -> None:
    """Loss (with its evaluations) beside learning rate and speed."""
    steps = [e for e in events if e["event"] == "step"]
    evaluations = [e for e in events if e["event"] == "eval"]
    shown = thinned(steps)
    raw, mean, held = pick("每步", "each step"), pick("平滑", "smoothed"), pick("评估", "evaluation")
    smooth = {e["step"]: v for e, v in zip(steps, smoothed([e["loss"] for e in steps]), strict=True)}
    rows = [_row(e["step"], e["loss"], raw) for e in shown] + [
        _row(e["step"], smooth[e["step"]], mean) for e in shown
    ]
    rows += [_row(e["step"], e["loss"], held) for e in thinned(evaluations)]
    left, right = st.columns([3, 2])
    with left:
        st.caption(pick("损失", "Loss"))
        lines = (raw, mean, held) if evaluations else (raw, mean)
        chart(rows, colours=("#9db8b0", "#2f6f5e", "#c96a11"), order=lines, height=300)
    with right:
        st.caption(pick("学习率", "Learning rate"))
        chart(
            [_row(e["step"], e["lr"], "lr") for e in shown], colours=("#2f6f5e",), order=("lr",), height=120
        )
        st.caption(pick("token / 秒", "Tokens / s"))
        speed = [_row(e["step"], e.get("tokens_per_second", 0.0), "v") for e in shown]
        chart(speed, colours=("#4a76a8",), order=("v",), height=120)
    if any("accuracy" in e for e in steps):
        show_judged(shown, thinned(evaluations))
    if any("seconds_generate" in e for e in steps):
        show_rewarded(shown)


def show_judged(steps: Events, evaluations: Events) -> None:
    """What stages that learn from preferences report: right order, and rewards of both sides."""
    left, right = st.columns(2)
    each, held = pick("训练", "training"), pick("评估", "evaluation")
    with left:
        st.caption(pick("正确率", "Right order"))
        rows = [
            _row(e["step"], e["accuracy"], line)
            for line, found in ((each, steps), (held, evaluations))
            for e in found
            if "accuracy" in e
        ]
        chart(
            rows, colours=("#2f6f5e", "#c96a11"), order=(each, held) if evaluations else (each,), height=160
        )
    with right:
        st.caption(pick("奖励", "Rewards"))
        names = {"reward_chosen": pick("好", "chosen"), "reward_rejected": pick("差", "rejected"), "margin": pick("差距", "margin")}  # fmt: skip
        rows = [_row(e["step"], e[n], word) for n, word in names.items() for e in steps if n in e]
        chart(rows, colours=("#2f6f5e", "#b3261e", "#2f6fd0"), order=tuple(names.values()), height=160)


def show_rewarded(steps: Events) -> None:
    """What ppo reports: score, distance from the reference, length, entropy."""
    names = {
        "score": pick("得分", "Score"),
        "kl": pick("与参考模型的距离（KL）", "Distance from the reference (KL)"),
        "length": pick("回答长度（token）", "Length of answers (tokens)"),
        "entropy": pick("熵", "Entropy"),
    }
    for column, (name, caption) in zip(st.columns(4), names.items(), strict=True):
        with column:
            st.caption(caption)
            rows = [_row(e["step"], e[name], name) for e in steps if name in e]
            chart(rows, colours=("#2f6f5e",), order=(name,), height=140)


def show_overlay(runs: Mapping[str, Events]) -> None:
    """The smoothed loss of several runs in one picture, evaluations as dots."""
    rows: list[dict[str, Any]] = []
    dots: list[dict[str, Any]] = []
    for name, events in runs.items():
        steps = [e for e in events if e["event"] == "step"]
        values = smoothed([e["loss"] for e in steps])
        pairs = [{"step": e["step"], "loss": v} for e, v in zip(steps, values, strict=True)]
        rows += [_row(p["step"], p["loss"], name) for p in thinned(pairs)]
        dots += [_row(e["step"], e["loss"], name) for e in events if e["event"] == "eval"]
    if not rows:
        return
    colours = ("#2f6f5e", "#c96a11", "#2f6fd0", "#8b4fc1", "#b3261e", "#6b7785")
    chart(rows, colours=colours, order=tuple(runs), height=320, dots=dots)


def _row(step: int, value: float, line: str) -> dict[str, Any]:
    return {"step": step, "value": float(value), "line": line}


def chart(
    rows: list[dict[str, Any]],
    *,
    colours: tuple[str, ...],
    order: tuple[str, ...],
    height: int,
    dots: list[dict[str, Any]] | None = None,
) -> None:
    """Lines by step, one colour each, in the order given."""
    import altair as alt
    import pandas as pd

    many = len({row["line"] for row in rows}) > 1
    colour = alt.Color(
        "line:N",
        title=None,
        scale=alt.Scale(domain=list(order), range=[colours[i % len(colours)] for i in range(len(order))]),
        legend=alt.Legend(orient="top", labelLimit=320) if many else None,
    )
    x = alt.X("step:Q", title=None, axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    tips = [alt.Tooltip("line:N", title=" "), alt.Tooltip("step:Q", title=pick("步", "step")), alt.Tooltip("value:Q", title=" ", format=".4g")]  # fmt: skip
    drawn: Any = (
        alt.Chart(pd.DataFrame(rows))
        .mark_line(point=len(rows) < 4)
        .encode(x=x, y=y, color=colour, tooltip=tips)
    )
    if dots:
        drawn = drawn + alt.Chart(pd.DataFrame(dots)).mark_point(size=50, filled=True).encode(x=x, y=y, color=colour, tooltip=tips)  # fmt: skip
    st.altair_chart(drawn.properties(height=height), width="stretch")
