"""The plan of a run in words and bars, and examples with what is learned of them in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from ui.pages.ft_data import mask_parts
from ui.pages.job_view import span
from ui.pages.safe import highlighted, plain
from ui.text import pick

if TYPE_CHECKING:
    from finetune.config import RunConfig
    from finetune.encode import Encoded
    from finetune.plan import Plan
    from finetune.prepare import Prepared
    from rag.types import Chat

GIB = 2**30
LONGEST = 6000
"""Characters of an example that are shown."""


def gib(value: float) -> str:
    """ "7.9 GiB", "35 MiB"."""
    return f"{value / GIB:.1f} GiB" if value >= GIB / 10 else f"{value / 2**20:.0f} MiB"


def show_plan(plan: Plan, prepared: Prepared) -> None:
    """Steps, tokens, memory against what is free, time; and what to change if it does not fit."""
    steps, tokens, memory, time = st.columns(4)
    steps.metric(pick("步数", "Steps"), f"{plan.steps:,}", help=pick(f"每步 {plan.per_step} 条，共 {plan.epochs:.1f} 轮", f"{plan.per_step} examples a step, {plan.epochs:.1f} epochs"))  # fmt: skip
    tokens.metric(pick("每轮 token", "Tokens an epoch"), f"{plan.tokens:,}", help=pick(f"其中 {plan.trained_tokens:,} 个参与学习；最长一条 {plan.longest}", f"{plan.trained_tokens:,} of them learned; the longest example has {plan.longest}"))  # fmt: skip
    memory.metric(pick("需要内存", "Memory"), gib(plan.need.total), help=pick(f"{plan.device} 上可用 {gib(plan.free)}", f"{gib(plan.free)} free on {plan.device}"))  # fmt: skip
    time.metric(pick("大约要", "Takes about"), span(plan.seconds) if plan.seconds else "–")
    share = min(1.0, plan.need.total / max(1, plan.free))
    words = pick(
        f"{plan.device} · 需要 {gib(plan.need.total)} / 可用 {gib(plan.free)}　（权重 {gib(plan.need.weights)}，"
        f"训练的部分 {gib(plan.need.trained)}，激活 {gib(plan.need.kept + plan.need.working)}）",
        f"{plan.device} · needs {gib(plan.need.total)} of {gib(plan.free)} free　(weights {gib(plan.need.weights)}, "
        f"what is trained {gib(plan.need.trained)}, activations {gib(plan.need.kept + plan.need.working)})",
    )
    st.progress(share, text=plain(words))
    part = 100 * plan.trainable / plan.parameters
    st.caption(
        plain(
            pick(
                f"{plan.examples} 条样本（另留 {len(prepared.eval_examples)} 条评估），训练 {plan.trainable:,} 个参数（全部的 {part:.2f} %）",
                f"{plan.examples} examples ({len(prepared.eval_examples)} more kept for evaluation), {plan.trainable:,} "
                f"weights trained ({part:.2f} % of all)",
            )
        )
    )
    if plan.fits:
        st.success(pick("装得下，可以开始", "It fits: ready to start"), icon=":material/check_circle:")
    else:
        changes = "\n".join(f"- {plain(c)}" for c in pick_list(plan))
        st.error(
            pick("内存不够。任选一项改动即可：\n\n", "It does not fit. Any one of these changes will do:\n\n")
            + changes,
            icon=":material/memory_alt:",
        )


def pick_list(plan: Plan) -> tuple[str, ...]:
    """The changes in the language in force."""
    from ui.text import language

    return plan.changes_en if language() == "en" else plan.changes_zh


def show_examples(config: RunConfig, prepared: Prepared) -> None:
    """A few examples as the model reads them: green is learned, the rest is only read."""
    from finetune.pack import documents_of

    documents = prepared.train
    with st.expander(pick("看看样本：绿色是要学会说的，其余只是读", "Look at examples: green is learned, the rest only read"), icon=":material/colors:"):  # fmt: skip
        number = int(
            st.number_input(
                pick(f"第几条（共 {len(documents)} 条）", f"Which one (of {len(documents)})"),
                min_value=1,
                max_value=len(documents),
                key="ft-example",
            )
        )
        unit = documents[number - 1]
        tokenizer = open_tokenizer_kept(config.data.model_name_or_path, config.data.template)
        st.caption(
            plain(f"{unit.source or ''} · ")
            + pick(
                f"{len(unit)} 个 token，学习其中 {unit.trained} 个",
                f"{len(unit)} tokens, {unit.trained} of them learned",
            )
        )
        for document in documents_of([unit]):
            st.markdown(mask_markdown(document, tokenizer))


@st.cache_resource(max_entries=4, show_spinner=False)
def open_tokenizer_kept(folder: str, template: str) -> Chat:
    """The encoder of a model folder."""
    from pathlib import Path

    from rag.templates import open_chat

    return open_chat(Path(folder), template=template)


def mask_markdown(document: Encoded, tokenizer: Chat) -> str:
    """Learned text on green, read text plain, special tokens grey."""
    out, room = [], LONGEST
    for text, learned, special in mask_parts(
        document.ids.tolist(), document.labels.tolist(), tokenizer=tokenizer
    ):
        shown = text[: max(0, room)]
        room -= len(shown)
        if special:
            out.append(highlighted(shown, colour="green") if learned else f":gray[{plain(shown)}]")
        elif shown.strip():
            out.append(highlighted(shown, colour="green") if learned else plain(shown))
        if room <= 0:
            out.append("……")
            break
    return " ".join(out)
