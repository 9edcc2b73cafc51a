"""The numbers of a ChatGLM model, and the two `config.json` that hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kb.errors import ModelError

Family = Literal["chatglm2", "chatglm3"]
"""Which chat format the weights were trained with. The layers are the same."""

PAD, EOS = 0, 2
"""Token ids that are the same in every ChatGLM tokenizer."""

FULL_PARAMETERS = 6_243_584_000
"""ChatGLM3-6B, without the `inv_freq` buffer of the official files."""


@dataclass(frozen=True, slots=True)
class GlmShape:
    """Everything that decides which tensors a model has and what they compute."""

    layers: int
    hidden: int
    heads: int
    groups: int
    """Key-value heads; every one serves heads / groups queries."""
    head_dim: int
    """Dimensions of one head; the first half of them is rotated."""
    ffn: int
    vocabulary: int
    """Rows of the embedding and of the head (64,789 pieces and 5 or 9 specials padded to 65,024)."""
    context: int
    """Longest sequence, in tokens."""
    epsilon: float = 1e-5
    rope_theta: float = 10_000.0
    """10,000 times `rope_ratio`."""
    family: Family = "chatglm3"
    name: str = ""
    """What the source called itself, such as THUDM/chatglm3-6b."""

    @property
    def parameters(self) -> int:
        """Number of weights, 6,243,584,000 for ChatGLM3-6B."""
        attention = self.heads * self.head_dim
        qkv = attention + 2 * self.groups * self.head_dim
        layer = self.hidden * (qkv + attention + 3 * self.ffn + 2) + qkv
        return self.layers * layer + self.hidden * (2 * self.vocabulary + 1)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token takes in a 16-bit key-value cache (28 KiB for ChatGLM3-6B)."""
        return 2 * 2 * self.layers * self.groups * self.head_dim


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError with the path."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path} is missing. Give the folder of a complete model.",
            zh=f"缺少 {path}。请给出完整的模型文件夹。",
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}", zh=f"读不了 {path}：{error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object.", zh=f"{path} 不是 JSON 对象。")
    return value


def _fetch(config: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in config:
        raise ModelError(
            f"{path} has no {key!r}: it is not a ChatGLM2/ChatGLM3 configuration.",
            zh=f"{path} 里没有 {key!r}：这不是 ChatGLM2/ChatGLM3 的配置。",
        )
    return config[key]


def read_official(folder: Path, *, family: Family | None = None) -> GlmShape:
    """The shape from the `config.json` of an official folder; `family` overrules what its name says.

    Raises ModelError where the configuration asks for something that a native GLM does not compute.
    """
    path = folder / "config.json"
    config = read_json(path)
    if config.get("model_type") == "glm":
        raise ModelError(
            f"{folder} is converted already (model_type 'glm'). Use it as it is, or give the official folder.",
            zh=f"{folder} 已经转换过（model_type 为 glm）。可直接使用；要重新转换请给出官方格式的文件夹。",
        )
    for key, expected in _EXPECTED.items():
        if config.get(key, expected) != expected:
            raise ModelError(
                f"{path}: {key} is {config[key]!r}; only {expected!r} can be converted.",
                zh=f"{path}：{key} 为 {config[key]!r}，只有 {expected!r} 可以转换。",
            )
    name = str(config.get("_name_or_path", ""))
    found: Family = "chatglm2" if "chatglm2" in f"{name} {folder.name}".lower() else "chatglm3"
    kind = family or found
    ratio = float(config.get("rope_ratio", 1))
    if kind == "chatglm2" and ratio != 1:
        raise ModelError(
            f"{path}: ChatGLM2 with rope_ratio {ratio} stretches positions, which a native GLM does not do. "
            "Use chatglm3-6b-32k.",
            zh=f"{path}：ChatGLM2 的 rope_ratio {ratio} 采用位置插值，原生 GLM 不支持。请改用 chatglm3-6b-32k。",
        )
    heads = int(_fetch(config, "num_attention_heads", path))
    grouped = bool(config.get("multi_query_attention", False))
    return GlmShape(
        layers=int(_fetch(config, "num_layers", path)),
        hidden=int(_fetch(config, "hidden_size", path)),
        heads=heads,
        groups=int(_fetch(config, "multi_query_group_num", path)) if grouped else heads,
        head_dim=int(_fetch(config, "kv_channels", path)),
        ffn=int(_fetch(config, "ffn_hidden_size", path)),
        vocabulary=int(_fetch(config, "padded_vocab_size", path)),
        context=int(_fetch(config, "seq_length", path)),
        epsilon=float(_fetch(config, "layernorm_epsilon", path)),
        rope_theta=10_000.0 * ratio,
        family=kind,
        name=name,
    )


_EXPECTED: dict[str, object] = {
    "model_type": "chatglm",
    "rmsnorm": True,
    "post_layer_norm": True,
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "tie_word_embeddings": False,
}


def read_native(folder: Path) -> GlmShape:
    """The shape from the `config.json` of a converted folder. Raises ModelError if it is not a GLM."""
    path = folder / "config.json"
    config = read_json(path)
    if config.get("model_type") != "glm":
        kind = config.get("model_type", "?")
        raise ModelError(
            f"{folder} is not a converted ChatGLM model (model_type {kind!r}). "
            f"Run: zhiwen models convert {folder} <new folder>",
            zh=f"{folder} 不是转换后的 ChatGLM 模型（model_type 为 {kind!r}）。"
            f"请先运行：zhiwen models convert {folder} <新文件夹>",
        )
    rope = config.get("rope_parameters") or {}
    return GlmShape(
        layers=int(_fetch(config, "num_hidden_layers", path)),
        hidden=int(_fetch(config, "hidden_size", path)),
        heads=int(_fetch(config, "num_attention_heads", path)),
        groups=int(_fetch(config, "num_key_value_heads", path)),
        head_dim=int(_fetch(config, "head_dim", path)),
        ffn=int(_fetch(config, "intermediate_size", path)),
        vocabulary=int(_fetch(config, "vocab_size", path)),
        context=int(_fetch(config, "max_position_embeddings", path)),
        epsilon=float(_fetch(config, "rms_norm_eps", path)),
        rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
        family="chatglm2" if config.get("zhiwen_family") == "chatglm2" else "chatglm3",
        name=str(config.get("zhiwen_source", "")),
    )


def native_config(shape: GlmShape, *, dtype: str, ends: Sequence[int] = (EOS,)) -> dict[str, Any]:
    """`config.json` of the standard folder. Every value where GlmConfig's default differs is written out.

    `ends`: ids that end a turn; 2, 64795 and 64797 for ChatGLM3.
    """
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": dtype,
        "eos_token_id": list(ends),
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.context,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.groups,
        "pad_token_id": PAD,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": shape.epsilon,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": shape.rope_theta,
            "partial_rotary_factor": 0.5,
        },
        "rope_theta": shape.rope_theta,  # the same for transformers 4, which knows no rope_parameters
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": shape.vocabulary,
        "zhiwen_family": shape.family,
        "zhiwen_source": shape.name,
    }


def official_config(shape: GlmShape, *, dtype: str) -> dict[str, Any]:
    """`config.json` of the official layout. The name is one that llama.cpp's converter recognises."""
    name = shape.name or ("THUDM/chatglm2-6b" if shape.family == "chatglm2" else "THUDM/chatglm3-6b")
    config: dict[str, Any] = {
        "_name_or_path": name,
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        **{key: value for key, value in _EXPECTED.items() if key != "model_type"},
        "apply_query_key_layer_scaling": True,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "eos_token_id": EOS,
        "ffn_hidden_size": shape.ffn,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": shape.hidden,
        "kv_channels": shape.head_dim,
        "layernorm_epsilon": shape.epsilon,
        "multi_query_attention": True,
        "multi_query_group_num": shape.groups,
        "num_attention_heads": shape.heads,
        "num_layers": shape.layers,
        "original_rope": True,
        "pad_token_id": PAD,
        "padded_vocab_size": shape.vocabulary,
        "seq_length": shape.context,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if shape.rope_theta != 10_000.0:
        config["rope_ratio"] = shape.rope_theta / 10_000.0
    return config
