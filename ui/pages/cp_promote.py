"""Which adapter answers: where each comes from, and the comparison that promoting one rests on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from kb.errors import ZhiwenError
from ui.pages import frame
from ui.pages.cp_jobs import read_report, reports
from ui.pages.safe import plain
from ui.settings import Settings
from ui.text import pick

if TYPE_CHECKING:
    from finetune.adapters import AdapterRecord


def show_promote(settings: Settings) -> None:
    """Every adapter with where it comes from; buttons to promote one and to go back to the base."""
    from finetune.adapters import demote, find_adapters
    from ui.speakers import adapter_places, adapters_folder

    state = adapters_folder(settings)
    known = find_adapters(adapter_places(settings), state=state)
    if not known:
        st.info(
            pick("还没有适配器。到“微调”里训练一个。", "There is no adapter yet: train one under Fine-tune.")
        )
        return
    now = next((r for r in known if r.promoted), None)
    if now is None:
        st.markdown(pick("现在由**基座**回答。", "The **base** answers now."))
    else:
        st.markdown(
            pick(f"现在由 **{plain(now.name)}** 回答。", f"**{plain(now.name)}** answers now.")
            + (f"　:gray[{plain(Path(now.reason).parent.name if '/' in now.reason else now.reason)}]" if now.reason else "")
        )  # fmt: skip
        st.button(
            pick("改由基座回答", "Let the base answer"),
            icon=":material/undo:",
            on_click=demote,
            args=(state,),
            key="cp-demote",
        )
    for record in known:
        with st.container(border=True):
            show_record(settings, record)


def show_record(settings: Settings, record: AdapterRecord) -> None:
    """Provenance, and the button with the comparisons that speak of this one."""
    train = record.train
    badge = f":green-badge[{pick('正在回答', 'answers now')}] " if record.promoted else ""
    st.markdown(f"{badge}**{plain(record.name)}**")
    st.caption(plain(provenance(train)))
    if record.promoted:
        return
    found = {
        str(path / "report.json"): path.name.removeprefix("compare-")
        for path in reports(settings, "compare", file="report.json")
        if speaks_of(path / "report.json", record.name)
    }
    left, middle, right = st.columns([2, 2, 1], vertical_alignment="bottom")
    comparison = left.selectbox(
        pick("依据的测评", "Comparison that it rests on"), ["", *found], key=f"cp-basis-{record.name}",
        index=min(1, len(found)), format_func=lambda f: found[f] if f else pick("没有", "none"),
    )  # fmt: skip
    reason = middle.text_input(pick("理由", "Why"), key=f"cp-reason-{record.name}", max_chars=300)
    right.button(
        pick("启用", "Promote"), type="primary", icon=":material/verified:", width="stretch",
        key=f"cp-promote-{record.name}", on_click=promote, args=(settings, record, comparison, reason),
    )  # fmt: skip
    if not comparison:
        st.caption(
            pick(
                "还没有测评过它；建议先在“整批测评”里比一比。",
                "It was not measured yet: better do that first.",
            )
        )


def provenance(train: dict[str, Any]) -> str:
    """ "qlora · chatglm3-6b · zhouyi · 2026-11-21 · eval_loss 0.31"."""
    if not train:
        return pick("没有 train.json：来历不明", "no train.json: nobody wrote down where it is from")
    data = str(train.get("config", {}).get("dataset", ""))
    metrics = train.get("metrics", {})
    shown = [
        f"{k} {metrics[k]:.4g}"
        for k in ("eval_loss", "train_loss")
        if isinstance(metrics.get(k), int | float)
    ]
    parts = [train.get("method", ""), Path(str(train.get("base_folder") or train.get("base_model", ""))).name, ", ".join(Path(d).name for d in data.split(",")), train.get("date", ""), *shown]  # fmt: skip
    return " · ".join(str(part) for part in parts if part)


def speaks_of(report: Path, name: str) -> bool:
    """Whether a comparison measured this adapter."""
    overall = read_report(report).get("overall", {})
    return any(name in by_name or f"{name} +kb" in by_name for by_name in overall.values())


def promote(settings: Settings, record: AdapterRecord, comparison: str, reason: str) -> None:
    """Let it answer; where no model is set yet, its base becomes the model of the settings."""
    from finetune import adapters
    from ui.speakers import adapters_folder, let_answer

    try:
        adapters.promote(
            adapters_folder(settings),
            record,
            comparison=Path(comparison) if comparison else None,
            reason=reason,
        )
        if (base := let_answer(settings, record)) is not None:
            frame.say_later(pick(f"{base.name} 已设为默认模型", f"{base.name} is the default model now"))
    except ZhiwenError as error:
        frame.say_later(pick(error.zh, error.message))
        return
    for name in ("pick-adapter", "chosen-adapter", "chosen-model", "pick-model"):
        st.session_state.pop(name, None)
    frame.say_later(pick(f"现在由 {record.name} 回答", f"{record.name} answers now"))
