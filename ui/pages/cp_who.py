"""Who is compared: one base model, its adapters, and the knowledge bases that they may read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from kb.knowledge import names
from ui.found import adapter_folders, adapter_name, converted_models, fits
from ui.pages.form import Form
from ui.settings import Settings
from ui.sides import WITH_KB, Asked
from ui.speakers import BASE
from ui.text import pick

FORM = Form("cp")


@dataclass(frozen=True, slots=True)
class Who:
    """What was chosen above all parts of the page."""

    kind: str
    model: str
    adapters: tuple[str, ...]
    kbs: tuple[str, ...]
    retrieval: str
    """off, on or both."""
    max_tokens: int

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in order."""
        plain = (BASE, *self.adapters)
        read = tuple(name + WITH_KB for name in plain)
        return {"off": plain, "on": read, "both": (*plain, *read)}[self.retrieval]

    def asked(self, question: str, *, names: Sequence[str] = ()) -> Asked:
        """The question as `ui.sides` takes it."""
        return Asked(
            question,
            self.model,
            self.kind,
            self.adapters,
            tuple(names) or self.names,
            self.kbs,
            self.max_tokens,
        )


def shown_name(name: str) -> str:
    """ "基座", "zhouyi + 资料"."""
    who = name.removesuffix(WITH_KB)
    who = pick("基座", "base") if who == BASE else who
    return who + (pick(" + 资料", " + documents") if name.endswith(WITH_KB) else "")


def choose_who(settings: Settings) -> Who | None:
    """The choices, or None with what is missing."""
    models = {str(folder): folder.name for folder in converted_models(settings)}
    if settings.generator.kind == "openai":
        models[settings.generator.model] = settings.generator.model
    if not models:
        st.info(
            pick(
                "这台电脑上还没有可以对比的模型。到“微调”里训练一次（可以用极小的试验模型），或先转换 ChatGLM3。",
                "There is no model to compare yet: train one under Fine-tune (the tiny one will do), or convert ChatGLM3.",
            ),
            icon=":material/info:",
        )
        return None
    taken = st.session_state.pop("cp-take", None)
    if taken and taken[0] in models:
        FORM.put({"model": taken[0], "adapters": [adapter_name(Path(taken[1]))]})
    left, right = st.columns(2)
    with left:
        model = st.selectbox(
            pick("基座模型", "Base model"), list(models), format_func=models.__getitem__,
            key=FORM.key("model", next(iter(models)), allowed=list(models)),
        )  # fmt: skip
    FORM.keep("model", model)
    served = settings.generator.kind == "openai" and model == settings.generator.model
    with right:
        adapters = choose_adapters(settings, model, served=served)
    if len(adapters) > 5:
        st.warning(pick("最多同时比较五个适配器。", "Five adapters at once at the most."))
        return None
    kbs, retrieval, most = choose_reading(settings)
    kind = "openai" if served else "chatglm3"
    return Who(kind, model, tuple(adapters), tuple(kbs), retrieval if kbs else "off", most)


def choose_adapters(settings: Settings, model: str, *, served: bool) -> list[str]:
    """Adapters that go with the model; of a server, names of its other models."""
    if served:
        chosen = st.multiselect(
            pick("服务上的其他模型名", "Names of other models of the server"), FORM.values.get("served", []),
            key=FORM.key("served", []), accept_new_options=True,
        )  # fmt: skip
        return list(FORM.keep("served", chosen))
    known = [adapter_name(a) for a in adapter_folders(settings) if fits(a, Path(model))]
    chosen = st.multiselect(
        pick("适配器（与基座比）", "Adapters (against the base)"), known,
        key=FORM.key("adapters", known[:1], allowed=known),
        placeholder=pick("这个基座还没有适配器", "no adapter of this base yet") if not known else pick("选择", "choose"),
    )  # fmt: skip
    return list(FORM.keep("adapters", chosen))


def choose_reading(settings: Settings) -> tuple[list[str], str, int]:
    """Knowledge bases, with or without or both, and how long an answer may be."""
    every = names(settings.home)
    ways = {
        "off": ("不给资料", "Without documents"),
        "on": ("给资料", "With documents"),
        "both": ("都要", "Both"),
    }
    left, middle, right = st.columns([2, 2, 1], vertical_alignment="bottom")
    if not every:
        right = left
    kbs: list[str] = []
    retrieval = "off"
    with left:
        if every:
            kbs = st.multiselect(
                pick("知识库", "Knowledge bases"), every, key=FORM.key("kbs", [], allowed=every),
                placeholder=pick("不检索", "none"),
            )  # fmt: skip
            FORM.keep("kbs", kbs)
    with middle:
        if kbs:
            retrieval = st.segmented_control(
                pick("检索", "Retrieval"), list(ways), format_func=lambda w: pick(*ways[w]),
                key=FORM.key("retrieval", "both"), required=True,
            )  # fmt: skip
            FORM.keep("retrieval", retrieval)
    with right:
        most = st.number_input(
            pick("回答最长 token", "Longest answer"),
            min_value=8,
            max_value=4096,
            step=32,
            key=FORM.key("most", 256),
        )
    return kbs, str(retrieval), int(FORM.keep("most", most))
