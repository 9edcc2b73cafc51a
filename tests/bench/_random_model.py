"""A standard ChatGLM3 folder of any size with random weights: as fast as one that has learnt something."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from rag.chatglm3.names import native_shapes
from rag.chatglm3.shape import GlmShape, native_config

REAL = GlmShape(28, 4096, 32, 2, 128, 13_696, 65_024, 8192)
"""ChatGLM3-6B."""
SMALL = GlmShape(2, 256, 4, 2, 32, 512, 768, 1024)
"""Small enough for a CPU, and wide enough for the decoding kernels."""
TINY = GlmShape(2, 64, 4, 2, 16, 128, 512, 1024)


def write_model(folder: Path, shape: GlmShape) -> Path:
    """The folder, one shard a layer; made once. Its tokenizer is the small one of the tests.

    12.5 GB and some 20 seconds at the real shape on a GPU.
    """
    import torch
    from safetensors.torch import save_file

    sys.path.append(str(Path(__file__).resolve().parent.parent))
    from tiny_chatglm3 import converted

    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    shards: dict[str, dict[str, Any]] = {}
    for name, size in native_shapes(shape).items():
        key = name.split(".")[2] if name.startswith("model.layers.") else "outer"
        tensor = torch.empty(size, dtype=torch.bfloat16, device=device)
        if "norm" in name:
            tensor.fill_(1)
        else:
            tensor.normal_(0, 0.02, generator=generator)
        shards.setdefault(key, {})[name] = tensor.cpu()
    index: dict[str, dict[str, str]] = {"metadata": {}, "weight_map": {}}
    for key, tensors in shards.items():
        save_file(tensors, folder / f"model-{key}.safetensors", metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(tensors, f"model-{key}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with tempfile.TemporaryDirectory() as scratch:
        for file in converted(Path(scratch) / "tiny").iterdir():
            if "token" in file.name or file.name.endswith(".jinja"):
                shutil.copy(file, folder / file.name)
    (folder / "config.json").write_text(json.dumps(native_config(shape, dtype="bfloat16")))
    return folder
