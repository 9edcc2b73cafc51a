"""Official tensor names and native ones: one official tensor becomes one native tensor, or three (q, k and v)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kb.errors import ModelError
from rag.chatglm3.shape import GlmShape

PREFIX = "transformer."
IGNORED = ("transformer.rotary_pos_emb.inv_freq",)
"""Buffers in the official files that are computed, not learned (64 bytes in chatglm3-6b)."""

_LAYER = re.compile(r"transformer\.encoder\.layers\.(\d+)\.(.+)")

_INNER = {
    "input_layernorm.weight": "input_layernorm.weight",
    "post_attention_layernorm.weight": "post_attention_layernorm.weight",
    "self_attention.dense.weight": "self_attn.o_proj.weight",
    "mlp.dense_h_to_4h.weight": "mlp.gate_up_proj.weight",
    "mlp.dense_4h_to_h.weight": "mlp.down_proj.weight",
}
_OUTER = {
    "transformer.embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "transformer.encoder.final_layernorm.weight": "model.norm.weight",
    "transformer.output_layer.weight": "lm_head.weight",
}

TARGETS = {
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "dense": ("o_proj",),
    "dense_h_to_4h": ("gate_up_proj",),
    "dense_4h_to_h": ("down_proj",),
}
"""Official module names, as in the `target_modules` of old adapters, and the native modules that they mean."""

NATIVE_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")
"""All linear layers of a block. PEFT knows no default for `glm`: always pass a choice of these."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `start` to `end` of an official tensor are one native tensor."""

    name: str
    shape: tuple[int, ...]
    start: int
    end: int


def qkv_rows(shape: GlmShape) -> tuple[int, int, int]:
    """Rows of q, k and v in `query_key_value`: 4096, 256, 256 in ChatGLM3-6B."""
    keys = shape.groups * shape.head_dim
    return shape.heads * shape.head_dim, keys, keys


def native_parts(official: str, *, shape: GlmShape) -> list[Part]:
    """What becomes of an official tensor; nothing for an ignored buffer. Raises ModelError for an unknown name."""
    if official in IGNORED:
        return []
    if official in _OUTER:
        name = _OUTER[official]
        size = (shape.hidden,) if name == "model.norm.weight" else (shape.vocabulary, shape.hidden)
        return [Part(name, size, 0, size[0])]
    found = _LAYER.fullmatch(official)
    if found and int(found[1]) < shape.layers:
        layer, inner = f"model.layers.{found[1]}.", found[2]
        if inner in _INNER:
            sides = _sizes(shape)[_INNER[inner]]
            return [Part(layer + _INNER[inner], sides, 0, sides[0])]
        if inner.startswith("self_attention.query_key_value."):
            return _split_qkv(layer, inner.rsplit(".", 1)[1], shape)
    raise ModelError(
        f"The checkpoint has a tensor {official!r} that ChatGLM2/ChatGLM3 does not have. A quantised (int4) or "
        "fine-tuned P-tuning checkpoint cannot be converted: use the fp16 model, and `zhiwen models import-adapter`.",
        zh=f"检查点里有 ChatGLM2/ChatGLM3 没有的张量 {official!r}。量化（int4）或 P-tuning 的检查点不能转换："
        "请用 fp16 原模型，适配器请用 zhiwen models import-adapter。",
    )


def _sizes(shape: GlmShape) -> dict[str, tuple[int, ...]]:
    rows = shape.heads * shape.head_dim
    return {
        "input_layernorm.weight": (shape.hidden,),
        "post_attention_layernorm.weight": (shape.hidden,),
        "self_attn.o_proj.weight": (shape.hidden, rows),
        "mlp.gate_up_proj.weight": (2 * shape.ffn, shape.hidden),
        "mlp.down_proj.weight": (shape.hidden, shape.ffn),
    }


def _split_qkv(layer: str, kind: str, shape: GlmShape) -> list[Part]:
    parts, start = [], 0
    for letter, rows in zip("qkv", qkv_rows(shape), strict=True):
        size = (rows,) if kind == "bias" else (rows, shape.hidden)
        parts.append(Part(f"{layer}self_attn.{letter}_proj.{kind}", size, start, start + rows))
        start += rows
    return parts


def official_names(shape: GlmShape) -> list[str]:
    """Every learned tensor of the official layout, in the order of the layers."""
    first, last = "transformer.embedding.word_embeddings.weight", "transformer.output_layer.weight"
    names = [first]
    attention = ["self_attention.query_key_value.weight", "self_attention.query_key_value.bias"]
    for layer in range(shape.layers):
        names += [f"transformer.encoder.layers.{layer}.{inner}" for inner in (*attention, *_INNER)]
    return [*names, "transformer.encoder.final_layernorm.weight", last]


def native_shapes(shape: GlmShape) -> dict[str, tuple[int, ...]]:
    """Every tensor of the standard folder with its shape."""
    parts = (part for name in official_names(shape) for part in native_parts(name, shape=shape))
    return {part.name: part.shape for part in parts}
