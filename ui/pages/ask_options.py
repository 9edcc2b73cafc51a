"""What a question is asked with: knowledge bases, model, adapter, persona."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from kb.errors import ModelError
from kb.knowledge import names
from rag.persona import personas
from rag.types import AnswerEvent, Message
from ui import wiring
from ui.answering import Begin
from ui.found import adapter_folders, adapter_name, converted_models, fits, is_converted, promoted_folder
from ui.opened import opened
from ui.settings import Settings
from ui.speakers import BASE, find_adapter, kind_of
from ui.text import pick

EXTRACTIVE = ""
"""The model that is none: sentences of the documents are quoted."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """One way of asking."""

    kbs: tuple[str, ...]
    model: str
    """EXTRACTIVE, or generator.model."""
    kind: str
    """generator.kind that goes with the model."""
    adapter: str
    """Folder of an adapter; empty: none."""
    persona: str
    """Name of a persona; empty: none."""

    def kept(self) -> dict[str, Any]:
        """For the history. Of the adapter only its name."""
        return dataclasses.asdict(self) | {
            "adapter": adapter_name(Path(self.adapter)) if self.adapter else ""
        }


def choose(settings: Settings) -> Chosen:
    """A line that says what is chosen, and opens to change it. The choice holds for the session."""
    every = names(settings.home)
    state = st.session_state
    kept = [name for name in state.get("chosen-kbs", every) if name in every] or every
    models = model_choices(settings)
    model = state.get(
        "chosen-model", settings.generator.model if settings.generator.kind != "none" else EXTRACTIVE
    )
    if model not in models and is_converted(Path(model)):
        models[model] = kind_of(Path(model))  # what a run left, in its own folder
    model = model if model in models else EXTRACTIVE
    label = kb_label(kept, every) + " · " + model_label(model)
    with st.popover(label, icon=":material/tune:"):
        kbs = st.multiselect(
            pick("知识库", "Knowledge bases"), every, default=kept, key="pick-kbs",
            placeholder=pick("选择知识库", "choose"),
        )  # fmt: skip
        model = st.selectbox(
            pick("由谁回答", "Who answers"), list(models), index=list(models).index(model), format_func=model_label, key="pick-model",
        )  # fmt: skip
        adapter = persona = ""
        if model == EXTRACTIVE:
            st.caption(pick("摘录原文不用语言模型，所以没有适配器和角色可选。", "Quoting needs no language model, so there is no adapter or persona to choose."))  # fmt: skip
        else:
            adapters = adapter_choices(settings, model)
            first_adapter(settings, adapters)
            adapter = st.selectbox(
                pick("适配器", "Adapter"), ["", *adapters], key="pick-adapter",
                format_func=lambda a: adapter_name(Path(a)) if a else pick("不用", "none"),
            )  # fmt: skip
            known = [p.name for p in personas(wiring.personas_folder(settings))]
            persona = st.selectbox(
                pick("角色", "Persona"), ["", *known], key="pick-persona",
                format_func=lambda p: p or pick("不用", "none"),
            )  # fmt: skip
        state["chosen-adapter"] = adapter
    state["chosen-kbs"], state["chosen-model"] = kbs, model
    return Chosen(tuple(kbs), model, models[model], adapter or "", persona or "")


def kb_label(chosen: Sequence[str], every: Sequence[str]) -> str:
    """ "全部 3 个知识库", "制度、价目"."""
    if len(chosen) == len(every) and len(every) > 1:
        return pick(f"全部 {len(every)} 个知识库", f"all {len(every)} knowledge bases")
    shown = pick("、", ", ").join(chosen[:2])
    return shown + (pick(f" 等 {len(chosen)} 个", f" and {len(chosen) - 2} more") if len(chosen) > 2 else "")


def model_label(model: str) -> str:
    """What a person calls it."""
    return (Path(model).name if "/" in model and Path(model).is_dir() else model) or pick(
        "摘录原文", "quotes"
    )


def model_choices(settings: Settings) -> dict[str, str]:
    """generator.model -> generator.kind of everything that can answer: quotes, the settings' model, converted folders."""
    found = {EXTRACTIVE: "none"}
    if settings.generator.kind != "none":
        found[settings.generator.model] = settings.generator.kind
    for folder in converted_models(settings):
        found.setdefault(str(folder), "chatglm3")
    return found


def adapter_choices(settings: Settings, model: str) -> list[str]:
    """Folders of the adapters that go with a model: the settings' one, <home>/adapters, finished runs."""
    folder = (
        Path(model) if Path(model).is_dir() else settings.models / model
    )  # as `generator_folder` reads a name
    return [str(a) for a in adapter_folders(settings) if not folder.is_dir() or fits(a, folder)]


def first_adapter(settings: Settings, adapters: Sequence[str]) -> None:
    """Until somebody chooses: the settings' adapter, else the promoted one, if it goes with the model."""
    state = st.session_state
    if state.get("pick-adapter", "") not in ("", *adapters):
        del state["pick-adapter"]
    if "pick-adapter" in state:
        return
    promoted = promoted_folder(settings)
    wanted = state.get(
        "chosen-adapter",
        named_folder(settings) if settings.generator.adapter else str(promoted or ""),
    )
    state["pick-adapter"] = wanted if wanted in adapters else ""


def named_folder(settings: Settings) -> str:
    """The folder of generator.adapter, which may be a name as well; empty if it is "base" or not here."""
    try:
        return str(find_adapter(settings, settings.generator.adapter).folder.resolve())
    except ModelError:
        return ""


def settings_for(settings: Settings, chosen: Chosen) -> Settings:
    """The settings with what was chosen on top."""
    generator = dataclasses.replace(
        settings.generator,
        kind=chosen.kind,
        model=chosen.model or settings.generator.model,
        adapter=chosen.adapter or (BASE if chosen.kind in ("chatglm3", "local") else ""),
    )
    return dataclasses.replace(settings, generator=generator)


def begin(settings: Settings, question: str, chosen: Chosen, before: Sequence[Message]) -> Begin:
    """What the thread runs: open what is needed, then answer."""
    wanted = settings_for(settings, chosen)

    def answer(cancel: threading.Event) -> Iterator[AnswerEvent]:
        yield from wiring.reply(
            wanted,
            question,
            kbs=opened(settings.home, chosen.kbs),
            generator=wiring.open_generator(wanted),
            history=before,
            options=wiring.answer_options(wanted, persona=chosen.persona),
            cancel=cancel,
        )

    return answer
