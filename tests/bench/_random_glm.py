"""A GLM of ChatGLM3-6B's shape (or a small one) with random weights, in the standard folder layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rag.chatglm3.shape import GlmShape, native_config

REAL = GlmShape(28, 4096, 32, 2, 128, 13_696, 65_024, 8192)
"""ChatGLM3-6B."""
TINY = GlmShape(2, 64, 4, 2, 16, 128, 512, 1024)


def write_random(folder: Path, shape: GlmShape) -> Path:
    """Write it, one shard a layer; nothing if it is there. 12.5 GB and some 20 s at the real shape on a GPU."""
    import torch
    from safetensors.torch import save_file

    from rag.chatglm3.names import native_shapes

    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draws = torch.Generator(device).manual_seed(0)
    shards: dict[str, dict[str, Any]] = {}
    for name, size in native_shapes(shape).items():
        key = name.split(".")[2] if name.startswith("model.layers.") else "outer"
        tensor = torch.empty(size, dtype=torch.bfloat16, device=device)
        shards.setdefault(key, {})[name] = (
            tensor.fill_(1) if "norm" in name else tensor.normal_(0, 0.02, generator=draws)
        ).cpu()
    places: dict[str, str] = {}
    for key, tensors in shards.items():
        save_file(tensors, folder / f"model-{key}.safetensors", metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, f"model-{key}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "config.json").write_text(json.dumps(native_config(shape, dtype="bfloat16")))
    return folder
