"""Standard folder -> the official layout, for llama.cpp's converter and for old tools.

An adapter is merged on the way, in fp32, tensor by tensor: nothing but one layer's weights is ever in memory.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kb.errors import ModelError
from rag.chatglm3 import names, shards
from rag.chatglm3.adapters import check_base, read_adapter
from rag.chatglm3.convert import Progress, silent
from rag.chatglm3.folder import need_space, new_folder, write_json
from rag.chatglm3.shape import GlmShape, official_config, read_json, read_native

if TYPE_CHECKING:
    import torch


def export(
    folder: Path,
    *,
    target: Path,
    adapter: Path | None = None,
    overwrite: bool = False,
    shard_bytes: int = 4_000_000_000,
    progress: Progress = silent,
) -> Path:
    """Write a converted model, with a LoRA adapter merged if one is given, in the official layout. Raises ModelError."""
    shape = read_native(folder)
    reader = shards.TensorReader(folder)
    dtype = str(read_json(folder / "config.json").get("dtype", "float16"))
    merge = LoraMerge(adapter, base=folder) if adapter is not None else None
    width = 4 if dtype == "float32" else 2
    need_space(target.resolve().parent, needed=shape.parameters * width + 50_000_000)
    with new_folder(target, overwrite=overwrite, source=folder) as work:
        _write(reader, shape, dtype, work, shard_bytes, merge, progress)
        write_json(work / "config.json", official_config(shape, dtype=dtype))
        name = official_config(shape, dtype=dtype)["_name_or_path"]
        settings = {
            "name_or_path": name,
            "remove_space": False,
            "do_lower_case": False,
            "tokenizer_class": "ChatGLMTokenizer",
        }
        write_json(work / "tokenizer_config.json", settings)
        if (folder / "tokenizer.model").is_file():
            shutil.copyfile(folder / "tokenizer.model", work / "tokenizer.model")
    return target


def _write(
    reader: shards.TensorReader,
    shape: GlmShape,
    dtype: str,
    work: Path,
    limit: int,
    merge: LoraMerge | None,
    progress: Progress,
) -> None:
    import torch

    width = 4 if dtype == "float32" else 2
    groups: list[list[shards.Planned]] = [[]]
    size = 0
    for name in names.official_names(shape):
        parts = names.native_parts(name, shape=shape)
        planned = shards.Planned(name, (parts[-1].end, *parts[0].shape[1:]))
        count = width
        for side in planned.shape:
            count *= side
        if groups[-1] and size + count > limit:
            groups, size = [*groups, []], 0
        groups[-1].append(planned)
        size += count
    weight_map, done, total = dict[str, str](), 0, shape.parameters * width
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        with shards.SafetensorsWriter(work / file, group, dtype=dtype) as writer:
            for planned in group:
                native = [p.name for p in names.native_parts(planned.name, shape=shape)]
                pieces = [
                    merge.merged(n, reader.must_get(n)) if merge else reader.must_get(n) for n in native
                ]
                whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
                writer.write(planned.name, whole)
                done += whole.numel() * width
                progress(done, total, file)
        weight_map |= dict.fromkeys((planned.name for planned in group), file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(work / "model.safetensors.index.json", index)


_MERGED = re.compile(r"\.lora_([AB]\.weight|magnitude_vector)$")
"""Tensors of an adapter that can be merged."""


class LoraMerge:
    """A LoRA or DoRA adapter that is added to the weights one tensor at a time."""

    def __init__(self, adapter: Path, *, base: Path) -> None:
        from safetensors.torch import load_file

        info = read_adapter(adapter)
        if info.kind != "lora":
            raise ModelError(
                f"{adapter} is a prefix adapter: it has no place in the weights and cannot be merged.",
                zh=f"{adapter} 是 prefix 适配器，不在权重里，不能合并。",
            )
        check_base(info, base=base)
        config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        odd = [key for key in ("rank_pattern", "alpha_pattern", "modules_to_save") if config.get(key)]
        if odd or config.get("bias", "none") != "none":
            raise ModelError(
                f"{adapter} uses {', '.join(odd) or 'bias'}, which is not merged here.",
                zh=f"{adapter} 使用了 {'、'.join(odd) or 'bias'}，这里不支持合并。",
            )
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        self._scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
        self._state = load_file(adapter / "adapter_model.safetensors")
        self._adapter = adapter
        other = sorted(key for key in self._state if not _MERGED.search(key))
        if other:
            raise ModelError(
                f"{adapter} holds {other[0]} ({len(other)} such), which is not merged here.",
                zh=f"{adapter} 含有 {other[0]} 等 {len(other)} 个张量，这里不支持合并。",
            )
        self._stems = {key.split(".lora_")[0] for key in self._state if ".lora_" in key}
        here = {
            "base_model.model." + n.removesuffix(".weight") for n in names.native_shapes(read_native(base))
        }
        if strange := self._stems - here:
            raise ModelError(
                f"{adapter} belongs to another base: {len(strange)} of its layers are not here, first {min(strange)}.",
                zh=f"{adapter} 属于另一个基座：有 {len(strange)} 层这里没有，第一个是 {min(strange)}。",
            )

    def merged(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The weight with what the adapter adds to it, in the weight's dtype."""
        stem = "base_model.model." + name.removesuffix(".weight")
        if not name.endswith(".weight") or stem not in self._stems:
            return tensor
        down, up = self._state.get(f"{stem}.lora_A.weight"), self._state.get(f"{stem}.lora_B.weight")
        if down is None or up is None:
            raise ModelError(
                f"{self._adapter} is broken: it has half of what it changes in {name}.",
                zh=f"{self._adapter} 已损坏：对 {name} 的改动只有一半。",
            )
        if up.shape[0] != tensor.shape[0] or down.shape[1] != tensor.shape[1]:
            raise ModelError(f"The adapter does not fit {name}.", zh=f"适配器与 {name} 的形状不符。")
        whole: torch.Tensor = tensor.float() + self._scale * (up.float() @ down.float())
        magnitude = self._state.get(f"{stem}.lora_magnitude_vector")
        if magnitude is not None:  # DoRA: the length of every row is learned apart
            whole *= (magnitude.float() / whole.norm(dim=1))[:, None]
        return whole.to(tensor.dtype)
