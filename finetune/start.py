"""Going on from an adapter of an earlier stage, and switching between adapters on one base.

`--adapter RUN` continues the adapter itself: the new stage's adapter contains the old one's learning and stands on the
same base, so it is used alone. What was there at the start stays the reference of dpo, kto and ppo: a frozen copy.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import run
from finetune.config import RunConfig
from kb.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from finetune.methods import Trainee

POLICY = "default"
"""PEFT's name of the adapter that is trained."""
REFERENCE = "reference"
"""PEFT's name of the frozen copy of what the run started from."""


def made_at(text: str, *, flag: str, kind: str = run.ADAPTER) -> Path:
    """The adapter (or `kind`: model) folder that a path means: itself, a run's, or that of the newest finished run so named.

    runs/line-sft finds runs/line-sft-20261121-120000/adapter. Raises ModelError.
    """
    path = Path(text).expanduser()
    file = "adapter_config.json" if kind == run.ADAPTER else "config.json"
    if kind == run.ADAPTER and (path / file).is_file():
        return path
    if (path / kind / file).is_file():
        return path / kind
    named = (r for r in run.list_runs(path.parent) if r.name == path.name and r.state == "done")
    found = next((r.adapter for r in named if r.adapter and r.adapter.name == kind), None)
    if found is None and kind == run.ADAPTER and (path / run.MODEL).is_dir():
        raise ModelError(
            f"{flag} {text}: that run trained all weights and has no adapter. Train it with qlora or lora for this.",
            zh=f"{flag} {text}：这次运行训练的是全部权重，没有适配器。用在这里请改用 qlora 或 lora 训练。",
        )
    if found is None:
        raise ModelError(
            f"{flag} {text}: there is no {kind} and no finished run of that name.",
            zh=f"{flag} {text}：那里没有{'适配器' if kind == run.ADAPTER else '模型'}，也没有同名的已完成运行。",
        )
    return found


def with_start(config: RunConfig) -> RunConfig:
    """The config with what it starts from as folders, and the adapter's own rank, alpha and targets.

    A run that trained all weights may be named as the model. Raises ModelError if something is not there or cannot be gone
    on with; SettingsError with a method that has no LoRA.
    """
    config = _with_model(config)
    if config.ppo.reward_model:
        reward = str(made_at(config.ppo.reward_model, flag="--reward-model").resolve())
        config = replace(config, ppo=replace(config.ppo, reward_model=reward))
    data = config.data
    if not data.adapter:
        return config
    if config.method.finetuning_type not in ("qlora", "lora"):
        raise SettingsError(
            f"--adapter goes on with a LoRA adapter: use qlora or lora, not {config.method.finetuning_type}. To train "
            "all weights from there, merge it first: zhiwen models export --adapter, then zhiwen models convert.",
            zh=f"--adapter 接着训练 LoRA 适配器：请用 qlora 或 lora，而不是 {config.method.finetuning_type}。要从那里训练"
            "全部权重，请先合并：zhiwen models export --adapter，再 zhiwen models convert。",
        )
    folder = made_at(data.adapter, flag="--adapter")
    own = read_shape(folder)
    method = replace(
        config.method,
        lora_rank=int(own["r"]),
        lora_alpha=float(own["lora_alpha"]),
        lora_target=",".join(sorted(own["target_modules"])),
        use_rslora=bool(own.get("use_rslora")),
        use_dora=bool(own.get("use_dora")),
    )
    return replace(config, method=method, data=replace(data, adapter=str(folder.resolve())))


def _with_model(config: RunConfig) -> RunConfig:
    """`model_name_or_path` may name a run that trained a whole model."""
    name = config.data.model_name_or_path
    path = Path(name).expanduser()
    if name in ("", "tiny") or (path / "config.json").is_file():
        return config
    if not (path / run.MODEL).is_dir() and all(r.name != path.name for r in run.list_runs(path.parent)):
        return config
    model = made_at(name, flag="--model-name-or-path", kind=run.MODEL).resolve()
    return replace(config, data=replace(config.data, model_name_or_path=str(model)))


def base_of(config: RunConfig) -> str:
    """The base model that the adapter to go on from was trained on, as its train.json says; "" without one."""
    from finetune.adapters import read_train

    if not config.data.adapter:
        return ""
    return str(read_train(made_at(config.data.adapter, flag="--adapter")).get("base_folder", ""))


def read_shape(folder: Path) -> dict[str, Any]:
    """adapter_config.json of plain LoRA. Raises ModelError for what cannot be gone on with."""
    from rag.chatglm3.adapters import read_adapter
    from rag.chatglm3.shape import read_json

    info, own = read_adapter(folder), read_json(folder / "adapter_config.json")
    odd = [
        k for k in ("rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform") if own.get(k)
    ]
    odd += ["bias"] if own.get("bias", "none") != "none" else []
    if info.kind != "lora" or odd or not isinstance(own.get("target_modules"), list):
        what = ", ".join(odd) or info.kind
        raise ModelError(
            f"{folder} cannot be gone on with ({what}): only LoRA with one rank on whole layers can.",
            zh=f"{folder} 不能接着训练（{what}）：只支持各层同秩的普通 LoRA。",
        )
    return own


def fill(model: Any, folder: Path, *, name: str, base: Path) -> None:
    """Put a folder's weights into the adapter `name` of a PEFT model. Raises ModelError if they do not fit."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    from rag.chatglm3.adapters import check_base, check_lora_keys, read_adapter

    info = read_adapter(folder)
    check_base(info, base=base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state: dict[str, Any] = get_peft_model_state_dict(  # what a reward model has besides: its head, new
            model, adapter_name=name, save_embedding_layers=False
        )
        state |= load_file(folder / "adapter_model.safetensors")
        try:
            set_peft_model_state_dict(model, state, adapter_name=name)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ModelError(
                f"{folder} does not fit this base model: {reason}",
                zh=f"{folder} 与这个基座模型不匹配：{reason}",
            ) from error
    check_lora_keys(model, name, info)


def add_reference(trainee: Trainee, folder: Path) -> None:
    """Keep what the run started from as a frozen adapter beside the trained one."""
    add_frozen(trainee, folder, name=REFERENCE)


def add_base(trainee: Trainee) -> None:
    """The bare base as a frozen adapter of zeros, of the trained adapter's shape: the reference of a run from nothing."""
    own = trainee.model.peft_config[POLICY]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        trainee.model.add_adapter(REFERENCE, copy.deepcopy(own), autocast_adapter_dtype=False)
    _to_dtype(trainee, REFERENCE)


def add_frozen(trainee: Trainee, folder: Path, *, name: str) -> None:
    """One more LoRA adapter that is never trained. Raises ModelError if it is of another base or does not fit."""
    from peft import LoraConfig

    own = read_shape(folder)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=int(own["r"]),
        lora_alpha=float(own["lora_alpha"]),
        target_modules=list(own["target_modules"]),
        use_rslora=bool(own.get("use_rslora")),
        use_dora=bool(own.get("use_dora")),
        inference_mode=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        trainee.model.add_adapter(name, lora, autocast_adapter_dtype=False)
    fill(trainee.model, folder, name=name, base=trainee.loaded.folder)
    _to_dtype(trainee, name)


def _to_dtype(trainee: Trainee, name: str) -> None:
    """A new adapter in the compute dtype, frozen; the trained one stays in force."""
    import torch

    dtype = getattr(torch, trainee.loaded.dtype)
    for key, parameter in trainee.model.named_parameters():
        if f".{name}." in key:
            parameter.data = parameter.data.to(dtype)
    _activate(trainee.model, POLICY)


@contextmanager
def switched(trainee: Trainee, name: str) -> Iterator[None]:
    """Inside, the model answers with the adapter `name`; "" is the base alone. Nothing of it is trained."""
    _activate(trainee.model, name, frozen=True)
    try:
        yield
    finally:
        _activate(trainee.model, POLICY)


@contextmanager
def reference(trainee: Trainee) -> Iterator[None]:
    """Inside, the model is what the run started from: the frozen copy of its adapter, or the base alone."""
    with switched(trainee, REFERENCE if REFERENCE in trainee.model.peft_config else ""):
        yield


def _activate(model: Any, name: str, *, frozen: bool = False) -> None:
    """Make one adapter (or with "" none) the active one in every layer, without PEFT's survey of the whole model."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.enable_adapters(bool(name))
            if name:
                module.set_adapter(name, inference_mode=frozen)
