"""A forward pass that holds one layer at a time: a 12.5 GB model is checked in a little over 1 GB."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kb.errors import ModelError
from rag.chatglm3.shape import GlmShape
from rag.chatglm3.shards import TensorReader

if TYPE_CHECKING:
    import torch

_ROWS = 8192
"""Rows of the head that are multiplied at once."""


def streamed_logits(folder: Path, *, ids: Sequence[int], shape: GlmShape) -> torch.Tensor:
    """Logits of one sequence in fp32, computed with transformers' own layers. *Shape:* (tokens, vocabulary)."""
    import torch
    from transformers import GlmConfig
    from transformers.models.glm import modeling_glm as glm

    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config: Any = GlmConfig(**(settings | {"num_hidden_layers": 1, "dtype": "float32"}))
    config._attn_implementation = "sdpa"
    weights = TensorReader(folder)
    with torch.inference_mode():
        hidden = rows_of(weights, "model.embed_tokens.weight", ids).float()[None]
        positions = torch.arange(len(ids))[None]
        turned = glm.GlmRotaryEmbedding(config)(hidden, positions)
        layer: Any = glm.GlmDecoderLayer(config, 0).eval()
        for number in range(shape.layers):
            _fill(layer, weights, f"model.layers.{number}.")
            hidden = layer(hidden, position_embeddings=turned, position_ids=positions)
        norm: Any = glm.GlmRMSNorm(shape.hidden, eps=shape.epsilon)
        _fill(norm, weights, "model.norm.")
        hidden = norm(hidden)[0]
        head = weights.must_get("lm_head.weight")
        return torch.cat(
            [hidden @ head[i : i + _ROWS].float().T for i in range(0, shape.vocabulary, _ROWS)], dim=-1
        )


def rows_of(weights: TensorReader, name: str, ids: Sequence[int]) -> torch.Tensor:
    """Some rows of a tensor."""
    import torch

    return weights.must_get(name)[torch.tensor(list(ids))]


def _fill(module: Any, weights: TensorReader, prefix: str) -> None:
    """Copy tensors into a module's parameters."""
    for name, parameter in module.named_parameters():
        tensor = weights.must_get(prefix + name)
        if tensor.shape != parameter.shape:
            raise ModelError(
                f"{prefix}{name} is {tuple(tensor.shape)}, should be {tuple(parameter.shape)}.",
                zh=f"{prefix}{name} 的形状是 {tuple(tensor.shape)}，应为 {tuple(parameter.shape)}。",
            )
        parameter.data.copy_(tensor)
