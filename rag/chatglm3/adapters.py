"""Adapter folders: what they say about themselves, whether they fit a base, whether they do anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kb.errors import GenerationError, ModelError
from rag.chatglm3.base import base_hash
from rag.chatglm3.names import NATIVE_TARGETS, TARGETS
from rag.chatglm3.shape import GlmShape, read_json

if TYPE_CHECKING:
    import torch

TRAIN_FILE = "train.json"
"""What training says about the adapter: base_hash, prompt_version, close_turns, and much that only people read."""


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """One adapter folder."""

    name: str
    folder: Path
    kind: Literal["lora", "prefix"]
    base_hash: str = ""
    """Of the base that it was trained on; empty if nobody wrote it down (adapters from elsewhere)."""
    prompt_version: str = ""
    """Version of the answering prompt that it was trained with."""
    close_turns: bool = False
    """Whether earlier answers in a prompt end with `</s>`, as they did in training."""
    template: str = ""
    """The chat template that it was trained with; empty if any will do or nobody wrote it down."""


def read_adapter(folder: Path, *, name: str = "", native: bool = True) -> AdapterInfo:
    """Read what an adapter folder says. Raises ModelError if it is no PEFT adapter that a GLM can carry.

    `native` False: it is for another base, whose modules may be called as in ChatGLM's official layout.
    """
    config = read_json(folder / "adapter_config.json")
    kinds: dict[str, Literal["lora", "prefix"]] = {"LORA": "lora", "PREFIX_TUNING": "prefix"}
    kind = str(config.get("peft_type"))
    if kind not in kinds:
        raise ModelError(
            f"{folder} is a {kind} adapter; LoRA and prefix tuning (P-tuning v2) can be loaded.",
            zh=f"{folder} 是 {kind} 适配器；可以加载的是 LoRA 与 prefix tuning（P-tuning v2）。",
        )
    if config.get("task_type") == "SEQ_CLS":
        raise ModelError(
            f"{folder} is a reward model: it scores answers and cannot write any. Use it with --stage ppo.",
            zh=f"{folder} 是奖励模型：它只给回答打分，不会写回答。可用于 --stage ppo。",
        )
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{folder} has no adapter_model.safetensors. Old adapters: zhiwen models import-adapter {folder} NEW",
            zh=f"{folder} 里没有 adapter_model.safetensors。旧适配器请先运行：zhiwen models import-adapter {folder} 新文件夹",
        )
    targets = config.get("target_modules") or []
    official = isinstance(targets, list) and set(targets) & set(TARGETS) - set(NATIVE_TARGETS)
    if native and kind == "LORA" and official:
        raise ModelError(
            f"{folder} was trained on the official layout ({', '.join(sorted(targets))}). "
            f"Run: zhiwen models import-adapter {folder} NEW",
            zh=f"{folder} 是在官方格式上训练的（{'、'.join(sorted(targets))}）。"
            f"请先运行：zhiwen models import-adapter {folder} 新文件夹",
        )
    train = read_json(folder / TRAIN_FILE) if (folder / TRAIN_FILE).is_file() else {}
    return AdapterInfo(
        name or folder.name,
        folder,
        kinds[kind],
        str(train.get("base_hash", "")),
        str(train.get("prompt_version", "")),
        train.get("close_turns") is True,
        str(train.get("template", "")),
    )


def engine_takes(folder: Path) -> bool:
    """Whether the engine can carry the adapter beside its base: plain LoRA on layers, or a prefix."""
    config = read_json(folder / "adapter_config.json")
    targets = config.get("target_modules") or []
    outer = {"lm_head", "embed_tokens"} & set(targets if isinstance(targets, list) else [])
    more = ("use_dora", "modules_to_save", "lora_bias", "trainable_token_indices")
    return not (outer or any(config.get(key) for key in more) or config.get("bias", "none") != "none")


def loaded_one(adapters: Mapping[str, AdapterInfo], name: str) -> AdapterInfo | None:
    """The adapter of that name, None for no name. Raises GenerationError if it is not loaded."""
    if name and name not in adapters:
        raise not_loaded(name, known=adapters)
    return adapters.get(name)


def not_loaded(name: str, *, known: Iterable[str]) -> GenerationError:
    """The error for a name that nobody knows."""
    there = ", ".join(known) or "-"
    return GenerationError(
        f"There is no adapter {name!r} loaded. Loaded: {there}.",
        zh=f"没有加载名为 {name!r} 的适配器。已加载：{there}。",
    )


def tunes_biases(folder: Path) -> bool:
    """Whether loading it changes the base's own biases: switched off, its base is not as it was (a limit of PEFT)."""
    return str(read_json(folder / "adapter_config.json").get("bias", "none")) != "none"


def check_base(adapter: AdapterInfo, *, base: Path) -> None:
    """Raise ModelError if the adapter says that it was trained on another base."""
    if adapter.base_hash and adapter.base_hash != (here := base_hash(base)):
        raise ModelError(
            f"The adapter {adapter.name!r} was trained on another base model ({adapter.base_hash[:12]}), not on "
            f"{base} ({here[:12]}). Load it with the model named in {adapter.folder / TRAIN_FILE}.",
            zh=f"适配器 {adapter.name!r} 是在另一个基座模型（{adapter.base_hash[:12]}）上训练的，"
            f"不能用于 {base}（{here[:12]}）。请按 {adapter.folder / TRAIN_FILE} 里写的基座加载。",
        )


def read_prefix(adapter: AdapterInfo, *, shape: GlmShape) -> torch.Tensor:
    """Keys and values of a prefix adapter. *Shape:* (layers, 2, groups, virtual tokens, head_dim), float32.

    They stand at positions 0 to n - 1 of the cache, and the text follows from n on, as in PEFT.
    """
    from safetensors.torch import load_file

    state = load_file(adapter.folder / "adapter_model.safetensors")
    flat = state.get("prompt_embeddings")
    width = shape.layers * 2 * shape.groups * shape.head_dim
    if flat is None or flat.ndim != 2 or flat.shape[1] != width:
        found = "nothing" if flat is None else str(tuple(flat.shape))
        raise ModelError(
            f"{adapter.folder}: prompt_embeddings should be (n, {width}) for this base, found {found}.",
            zh=f"{adapter.folder}：对这个基座，prompt_embeddings 应为 (n, {width})，实际为 {found}。",
        )
    parts = flat.float().view(flat.shape[0], shape.layers, 2, shape.groups, shape.head_dim)
    prefix: torch.Tensor = parts.permute(1, 2, 3, 0, 4).contiguous()
    return prefix


def attach_loras(model: Any, adapters: Mapping[str, AdapterInfo]) -> Any:
    """The PEFT model with all LoRA adapters attached, the first one active. Raises ModelError if one does not fit."""
    from peft import PeftModel

    peft: Any = None
    for name, adapter in adapters.items():
        try:
            if peft is None:
                peft = PeftModel.from_pretrained(model, adapter.folder, adapter_name=name)
            else:
                peft.load_adapter(adapter.folder, adapter_name=name)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise ModelError(
                f"The adapter {name!r} does not fit this base model: {reason}",
                zh=f"适配器 {name!r} 与这个基座模型不匹配：{reason}",
            ) from error
        check_lora_keys(peft, name, adapter)
    return peft.eval()


def check_lora_keys(peft: Any, name: str, adapter: AdapterInfo) -> None:
    """Raise ModelError if the file's tensors did not all find their place, or if the adapter is all zeros."""
    from safetensors import safe_open

    with safe_open(adapter.folder / "adapter_model.safetensors", framework="pt") as file:
        stored = {key for key in file.keys() if ".lora_" in key}  # noqa: SIM118 - not a dict
    # DoRA's magnitudes are stored without the ".weight" that they have in the model
    stored = {key + ".weight" if key.endswith("magnitude_vector") else key for key in stored}
    own = dict(peft.named_parameters())
    # a layer may have the adapter's name: 1, mlp
    mine = re.compile(rf"(\.lora_\w+)\.{re.escape(name)}(?=\.|$)")
    placed = {mine.sub(r"\1", key) for key in own if mine.search(key)}
    if not stored or stored != placed:
        raise ModelError(
            f"The adapter {name!r} does not fit this base model: {len(stored)} tensors in the file, "
            f"{len(placed)} places, {len(stored & placed)} in common.",
            zh=f"适配器 {name!r} 与这个基座模型不匹配：文件里 {len(stored)} 个张量，模型里 {len(placed)} 个位置，"
            f"相符 {len(stored & placed)} 个。",
        )
    second = re.compile(rf"\.lora_(embedding_)?B\.{re.escape(name)}(\.|$)")
    if not any(bool(own[key].any()) for key in own if second.search(key)):
        raise ModelError(
            f"The adapter {name!r} does nothing: every lora_B is zero. It was saved before it learned anything.",
            zh=f"适配器 {name!r} 不起作用：所有 lora_B 都是零，它在学到东西之前就被保存了。",
        )


def logit_change(peft: Any, name: str, *, ids: list[int]) -> float:
    """Largest change of a logit that switching a LoRA adapter on makes; 0 means that it is not active."""
    import torch

    tokens = torch.tensor([ids], device=peft.device)
    with torch.inference_mode():
        peft.set_adapter(name)
        on = peft(tokens).logits.float()
        with peft.disable_adapter():
            off = peft(tokens).logits.float()
    return float((on - off).abs().max())
