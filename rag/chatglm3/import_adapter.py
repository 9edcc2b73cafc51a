"""Old adapters -> PEFT adapters for the native model.

LoRA on the official layout: q, k and v come from one `query_key_value`, so they share `lora_A`, and the rows of `lora_B`
split as the rows of the weight do; the result is exact. P-tuning v2 (`prefix_encoder`): its keys were never rotated and
its text began at position 0, while PEFT counts the prefix as positions; turning the keys forward by the number of virtual
tokens makes both the same.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kb.errors import ModelError
from rag.chatglm3 import names, shards
from rag.chatglm3.adapters import TRAIN_FILE
from rag.chatglm3.base import base_hash
from rag.chatglm3.folder import new_folder, write_json
from rag.chatglm3.shape import GlmShape, read_json, read_native

if TYPE_CHECKING:
    import torch

_LORA = re.compile(
    r"(?:base_model\.model\.)?(transformer\.encoder\.layers\.\d+\.)(.+)\.lora_([AB])(?:\.\w+)?\.weight"
)
_MODULES = {
    "self_attention.query_key_value": ("self_attn.", ("q_proj", "k_proj", "v_proj")),
    "self_attention.dense": ("self_attn.", ("o_proj",)),
    "mlp.dense_h_to_4h": ("mlp.", ("gate_up_proj",)),
    "mlp.dense_4h_to_h": ("mlp.", ("down_proj",)),
}
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin")


def import_adapter(source: Path, *, target: Path, base: Path, overwrite: bool = False) -> Path:
    """Convert an old LoRA folder or P-tuning v2 checkpoint for the converted model `base`. Raises ModelError."""
    shape = read_native(base)
    state = dict(old_tensors(source))
    prefix = {
        key.split("prefix_encoder.")[1]: value for key, value in state.items() if "prefix_encoder." in key
    }
    with new_folder(target, overwrite=overwrite, source=source) as work:
        if prefix:
            config, tensors = prefix_adapter(prefix, shape=shape)
        else:
            config, tensors = lora_adapter(state, read_json(source / "adapter_config.json"), shape=shape)
        _write(work, config, tensors, base)
    return target


def old_tensors(source: Path) -> list[tuple[str, torch.Tensor]]:
    """The tensors of an adapter folder."""
    for name in _WEIGHTS:
        if (source / name).is_file():
            return list(shards.read_tensors(source / name))
    raise ModelError(
        f"{source} holds no adapter: none of {', '.join(_WEIGHTS)}.",
        zh=f"{source} 里没有适配器：找不到 {'、'.join(_WEIGHTS)}。",
    )


def lora_adapter(
    state: dict[str, torch.Tensor], old: dict[str, Any], *, shape: GlmShape
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(adapter_config.json, tensors) of the native LoRA adapter."""
    tensors: dict[str, torch.Tensor] = {}
    used: set[str] = set()
    for key, tensor in state.items():
        found = _LORA.fullmatch(key)
        if not found or found[2] not in _MODULES:
            raise ModelError(
                f"{key!r} is no LoRA tensor of the official ChatGLM layout.",
                zh=f"{key!r} 不是官方 ChatGLM 格式上的 LoRA 张量。",
            )
        layer = found[1].replace("transformer.encoder.", "model.")
        inner, modules = _MODULES[found[2]]
        used |= set(modules)
        start = 0
        rows = names.qkv_rows(shape) if len(modules) == 3 else (tensor.shape[0],)
        if found[3] == "B" and tensor.shape[0] != sum(rows):
            raise ModelError(
                f"{key} has {tensor.shape[0]} rows, this base needs {sum(rows)}: it belongs to another model.",
                zh=f"{key} 有 {tensor.shape[0]} 行，这个基座需要 {sum(rows)} 行：适配器属于另一个模型。",
            )
        for module, count in zip(modules, rows, strict=True):
            part = tensor if found[3] == "A" else tensor[start : start + count]
            start += count if found[3] == "B" else 0
            stem = f"base_model.model.{layer}{inner}{module}.lora_{found[3]}.weight"
            tensors[stem] = part.contiguous().clone()
    odd = ("modules_to_save", "use_dora", "rank_pattern", "alpha_pattern")
    if old.get("bias", "none") != "none" or any(old.get(key) for key in odd):
        raise ModelError(
            "Only plain LoRA can be imported: no biases, no DoRA, one rank and alpha for all layers.",
            zh="只能导入普通 LoRA（无偏置、无 DoRA，各层的 rank 和 alpha 相同）。",
        )
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": int(old["r"]),
        "lora_alpha": old["lora_alpha"],
        "lora_dropout": float(old.get("lora_dropout") or 0.0),
        "use_rslora": bool(old.get("use_rslora")),
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(used),
    }
    return config, tensors


def prefix_adapter(
    state: dict[str, torch.Tensor], *, shape: GlmShape
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(adapter_config.json, tensors) of a native prefix adapter; a projecting encoder is computed through."""
    import torch

    values = state["embedding.weight"].float()
    if "trans.0.weight" in state:
        inner = torch.nn.functional.linear(
            values, state["trans.0.weight"].float(), state["trans.0.bias"].float()
        )
        values = torch.nn.functional.linear(
            inner.tanh(), state["trans.2.weight"].float(), state["trans.2.bias"].float()
        )
    count, width = values.shape[0], shape.layers * 2 * shape.groups * shape.head_dim
    if values.shape[1] != width:
        raise ModelError(
            f"The prefix has {values.shape[1]} numbers a token, this base needs {width}: it belongs to another model.",
            zh=f"prefix 每个词元有 {values.shape[1]} 个数，这个基座需要 {width} 个：它属于另一个模型。",
        )
    parts = values.view(count, shape.layers, 2, shape.groups, shape.head_dim).clone()
    parts[:, :, 0] = turn_forward(parts[:, :, 0], positions=count, theta=shape.rope_theta)
    config = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "num_virtual_tokens": count,
        "token_dim": shape.groups * shape.head_dim,
        "num_attention_heads": shape.groups,
        "num_layers": shape.layers,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
        "encoder_hidden_size": shape.hidden,
    }
    return config, {"prompt_embeddings": parts.reshape(count, width).contiguous()}


def turn_forward(keys: torch.Tensor, *, positions: int, theta: float) -> torch.Tensor:
    """Rotate the first half of every head as position `positions` would. *Shape:* (..., head_dim)."""
    import torch

    from rag.chatglm3.engine.network import rotate

    size = keys.shape[-1] // 2
    frequency = 1.0 / theta ** (torch.arange(0, size, 2).float() / size)
    angle = positions * frequency
    return rotate(keys, cos=angle.cos(), sin=angle.sin())


def _write(work: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], base: Path) -> None:
    from safetensors.torch import save_file

    write_json(work / "adapter_config.json", config | {"base_model_name_or_path": base.name})
    save_file(tensors, work / "adapter_model.safetensors", metadata={"format": "pt"})
    notes = {"made_by": "zhiwen models import-adapter", "base_hash": base_hash(base), "close_turns": False}
    write_json(work / TRAIN_FILE, notes)
