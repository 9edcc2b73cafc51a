"""How to train: model, method, stage and numbers, with the plan that follows from them, and the button that starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from kb.errors import ZhiwenError
from rag.templates import is_chatglm
from rag.templates.names import NAMES
from ui import training
from ui.found import converted_models, runs_folder
from ui.pages import frame
from ui.pages.form import Form
from ui.pages.ft_numbers import numbers
from ui.pages.ft_plan import show_examples, show_plan
from ui.pages.gpu import running_runs
from ui.pages.safe import plain
from ui.settings import Settings
from ui.text import pick

if TYPE_CHECKING:
    from finetune.config import RunConfig

FORM = Form("ft")
METHODS = {
    "qlora": ("QLoRA", "基座压到 4 位，只训练小矩阵：显存最省，默认选它。", "the base in 4 bits, small matrices trained: least memory; the default."),
    "lora": ("LoRA", "基座不压缩，只训练小矩阵。", "the base as it is, small matrices trained."),
    "freeze": ("Freeze", "只训练最后几层，得到一整个模型。", "the last layers are trained; gives a whole model."),
    "full": ("Full", "训练全部权重，显存需求最大，得到一整个模型。", "all weights are trained: most memory; gives a whole model."),
    "ptuning": ("P-tuning v2", "只学一段看不见的前缀，改动最小。", "a prefix that nobody sees is learned: the smallest change."),
}  # fmt: skip
STAGES = {
    "sft": ("问答（监督微调）", "Questions and answers (SFT)"),
    "pt": ("纯文本（继续预训练）", "Plain text (continued pretraining)"),
    "dpo": ("偏好（DPO）", "Preferences (DPO)"),
    "kto": ("好评差评（KTO）", "Thumbs up and down (KTO)"),
    "rm": ("奖励模型", "Reward model"),
}


def show_setup(settings: Settings, sets: tuple[str, ...]) -> None:
    """The second and third step."""
    st.subheader(pick("2. 怎么训练", "2. How to train"), anchor=False)
    values = choose(settings, sets)
    st.subheader(pick("3. 计划", "3. Plan"), anchor=False)
    try:
        config = training.config_of(settings, values)
        with st.spinner(pick("正在估算……", "Estimating ...")):
            config = training.built(settings, config)
            prepared = prepared_for(training.data_part(config), training.stamp(sets))
            plan = training.plan_for(config, prepared)
    except ZhiwenError as error:
        frame.show_error(error, settings)
        return
    show_plan(plan, prepared)
    show_examples(config, prepared)
    busy = running_runs(settings)
    if busy:
        st.caption(
            pick(
                f"训练 {plain(busy[0])} 正在进行；同时再训练一个会更慢，也可能内存不够。",
                f"{plain(busy[0])} is training; a second run makes both slower and may not fit.",
            )
        )
    name = st.text_input(
        pick("给这次训练起个名字", "Name of this run"),
        key=FORM.key("name", ""),
        placeholder=suggested_name(values, sets),
        max_chars=60,
    )
    FORM.keep("name", name)
    st.button(
        pick("开始训练", "Start training"),
        type="primary",
        icon=":material/model_training:",
        disabled=not plan.fits,
        on_click=start,
        args=(settings, training.named(config, name or suggested_name(values, sets))),
        key="ft-start",
    )


def suggested_name(values: dict[str, Any], sets: tuple[str, ...]) -> str:
    """ "zhouyi-qlora"."""
    return f"{Path(sets[0]).stem}-{values.get('finetuning_type', 'qlora')}"


def start(settings: Settings, config: RunConfig) -> None:
    """Begin the run in a process of its own, and show it."""
    from finetune import run

    begun = run.start(config, parent=runs_folder(settings))
    st.session_state["go-to-runs"] = begun.folder.name
    FORM.values.pop("name", None)


@st.cache_resource(max_entries=4, show_spinner=False)
def prepared_for(data: RunConfig, stamp: tuple[tuple[str, int, int], ...]) -> Any:
    """The encoded data; kept until the files or what decides about them change."""
    return training.prepared_for(data)


# ------------------------------------------------------------------ choosing


def choose(settings: Settings, sets: tuple[str, ...]) -> dict[str, Any]:
    """Every value of the run that somebody chose, with the ready config's below them."""
    configs = training.ready_configs()
    models = {str(folder): folder.name for folder in converted_models(settings)}
    if training.TINY not in {Path(m).name for m in models}:
        models[training.TINY] = pick(
            "试验用的极小模型（现做，随机权重）", "a tiny model to try it with (random, made now)"
        )
    left, right = st.columns(2)
    with left:
        model = st.selectbox(
            pick("基座模型", "Base model"),
            list(models),
            format_func=models.__getitem__,
            key=FORM.key("model_name_or_path", next(iter(models)), allowed=list(models)),
        )
        if model == training.TINY:
            st.caption(
                pick(
                    "它只会说训练里学到的话，用来走通全程。真正使用请先下载并转换 ChatGLM3（见“设置与检查”）。",
                    "It can say only what it is taught here, and is for trying the whole way. For real use get ChatGLM3 "
                    "first (see Settings and checks).",
                )
            )
    with right:
        ready = ready_config(configs)
    base = dict(configs.get(ready, {}))
    left, right = st.columns(2)
    with left:
        stage = st.segmented_control(
            pick("学什么", "What is learned"),
            list(STAGES),
            format_func=lambda s: pick(*STAGES[s]),
            key=FORM.key("stage", "sft"),
            required=True,
        )
    with right:
        default = "lora" if model == training.TINY else "qlora"
        method = st.segmented_control(
            pick("方法", "Method"),
            list(METHODS),
            format_func=lambda m: METHODS[m][0],
            key=FORM.key("finetuning_type", default),
            required=True,
        )
        st.caption(pick(*METHODS[method][1:]))
    values = {"model_name_or_path": model, "stage": stage, "finetuning_type": method}
    if model != training.TINY and not is_chatglm(Path(model)):
        values["template"] = template_of_base()
    for name, value in values.items():
        FORM.keep(name, value)
    chosen = numbers(FORM, base, method=str(method))
    return {**base, **values, **chosen, "dataset": ",".join(sets), "eval_dataset": ""}


def template_of_base() -> str:
    """How a conversation is laid out, for bases that are not ChatGLM."""
    template: str = st.selectbox(
        pick("对话模板", "Chat template"),
        ["auto", *NAMES],
        format_func=lambda name: pick("模型自带的", "the model's own") if name == "auto" else name,
        key=FORM.key("template", "auto"),
        help=pick(
            "没有自带模板的基座模型，请选 default、alpaca 或 vicuna；下面的样本会照着显示。",
            "A base model without a template of its own needs default, alpaca or vicuna; the examples below show it.",
        ),
    )
    return template


def ready_config(configs: dict[str, dict[str, Any]]) -> str:
    """A ready config, which fills in everything below it when it is chosen."""
    names = ["", *configs]

    def fill() -> None:
        chosen = st.session_state["ft-ready"]
        FORM.values["ready"] = chosen
        if values := configs.get(chosen):
            put = {
                k: v for k, v in values.items() if k not in ("dataset", "dataset_dir", "output_dir", "name")
            }
            if put.get("model_name_or_path") != training.TINY:
                put.pop("model_name_or_path", None)
            FORM.put(put)

    ready = st.selectbox(
        pick("现成的配置", "Ready config"),
        names,
        format_func=lambda n: n or pick("默认值", "defaults"),
        key=FORM.key("ready", "", allowed=names),
        on_change=fill,
    )
    return str(FORM.keep("ready", ready))
