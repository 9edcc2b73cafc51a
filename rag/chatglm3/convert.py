"""Official folder -> standard folder that `AutoModelForCausalLM` and `AutoTokenizer` load anywhere, without code.

The weights flow tensor by tensor from the mapped shards into new safetensors files; the result appears under its name
only when it is complete.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kb.errors import ModelError
from rag.chatglm3 import names, shards
from rag.chatglm3.folder import PROVENANCE, need_space, new_folder, sha256_of, write_json
from rag.chatglm3.shape import PAD, Family, GlmShape, native_config, read_official
from rag.chatglm3.tokenizer_build import write_tokenizer
from rag.chatglm3.tokenizer_model import PieceModel, read_pieces

if TYPE_CHECKING:
    import torch

Dtype = Literal["float16", "bfloat16", "float32"]
Progress = Callable[[int, int, str], None]
"""Bytes done, bytes in all, what is being done."""

LAYOUT = 1
"""Version of the standard folder."""
_ALIASES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What a conversion did."""

    folder: Path
    shape: GlmShape
    tensors: int
    bytes: int
    """Of all tensors in the new dtype."""
    base_hash: str


def silent(done: int, total: int, what: str) -> None:
    """Progress that nobody looks at."""


def convert(
    source: Path,
    *,
    target: Path,
    dtype: Dtype | Literal[""] = "",
    family: Family | None = None,
    tokenizer: Path | None = None,
    without_tokenizer: bool = False,
    overwrite: bool = False,
    shard_bytes: int = 4_000_000_000,
    progress: Progress = silent,
) -> ConvertReport:
    """Convert ChatGLM2-6B or ChatGLM3-6B (also -base, -32k, -128k) from its official layout.

    `dtype` empty keeps the source's. `tokenizer` is a `tokenizer.model` where the source has none;
    `without_tokenizer` leaves it out (the result can be loaded, but not asked in words). Raises ModelError.
    """
    if source.resolve() == target.resolve():
        raise ModelError("Source and target are the same folder.", zh="源文件夹和目标文件夹相同。")
    shape = read_official(source, family=family)
    checkpoint = shards.find_checkpoint(source)
    kind = dtype or source_dtype(source)
    pieces = None if without_tokenizer else read_pieces(tokenizer or source / "tokenizer.model")
    check_vocabulary(pieces, shape=shape)
    need_space(
        target.resolve().parent, needed=shape.parameters * (4 if kind == "float32" else 2) + 50_000_000
    )
    with new_folder(target, overwrite=overwrite, source=source) as work:
        written = _write_weights(checkpoint, shape, kind, work, shard_bytes, progress)
        ends = pieces.specials.ends if pieces is not None and shape.family == "chatglm3" else (2,)
        write_json(work / "config.json", native_config(shape, dtype=kind, ends=ends))
        write_json(work / "generation_config.json", generation_config(ends))
        if pieces is not None:
            write_tokenizer(pieces, folder=work, context=shape.context, family=shape.family)
            shutil.copyfile(tokenizer or source / "tokenizer.model", work / "tokenizer.model")
        write_json(work / PROVENANCE, provenance(source, shape, kind, written, work))
    return ConvertReport(target, shape, len(written.digests), written.bytes, written.base_hash)


def source_dtype(source: Path) -> Dtype:
    """The dtype of the official files; float16 where nothing says it."""
    from rag.chatglm3.shape import read_json

    name = str(read_json(source / "config.json").get("torch_dtype", "float16"))
    if name not in shards.SAFE_NAMES:
        raise ModelError(
            f"torch_dtype {name!r} is unknown; give --dtype.",
            zh=f"未知的 torch_dtype {name!r}；请给出 --dtype。",
        )
    return name  # type: ignore[return-value]


def parse_dtype(name: str) -> Dtype | Literal[""]:
    """float16 or fp16 and so on; empty stays empty. Raises ModelError."""
    full = _ALIASES.get(name, name)
    if full and full not in shards.SAFE_NAMES:
        raise ModelError(
            f"--dtype {name!r}: allowed are fp16, bf16, fp32.",
            zh=f"--dtype {name!r}：可用 fp16、bf16、fp32。",
        )
    return full  # type: ignore[return-value]


def check_vocabulary(pieces: PieceModel | None, *, shape: GlmShape) -> None:
    """Raise ModelError if the tokenizer has more tokens than the embedding has rows."""
    if pieces is not None and pieces.specials.observation >= shape.vocabulary:
        raise ModelError(
            f"The tokenizer has {pieces.specials.observation + 1} tokens, the embedding {shape.vocabulary} rows.",
            zh=f"分词器有 {pieces.specials.observation + 1} 个词元，词向量只有 {shape.vocabulary} 行。",
        )


def generation_config(ends: tuple[int, ...]) -> dict[str, Any]:
    """The official sampling settings; zhiwen itself answers greedily unless it is told otherwise."""
    return {
        "_from_model_config": False,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.8,
        "eos_token_id": list(ends),
        "pad_token_id": PAD,
    }


@dataclass(slots=True)
class Written:
    """What the weights came to."""

    digests: dict[str, str]
    """Native tensor name -> sha256 of its bytes in the source's dtype."""
    shapes: dict[str, tuple[int, ...]]
    files: dict[str, str]
    """File -> sha256."""
    bytes: int = 0

    @property
    def base_hash(self) -> str:
        """See `base.py`."""
        from rag.chatglm3.base import combine

        return combine(self.digests, self.shapes)


def _write_weights(
    checkpoint: shards.Checkpoint, shape: GlmShape, dtype: str, work: Path, limit: int, progress: Progress
) -> Written:
    """Stream every tensor into new shards of at most `limit` bytes."""
    order = _source_order(checkpoint, shape)
    groups = _grouped(order, shape, 4 if dtype == "float32" else 2, limit)
    total = sum(size for _, size in groups)
    written, weight_map = Written({}, {}, {}), dict[str, str]()
    expected = names.native_shapes(shape)
    for number, (group, _) in enumerate(groups, 1):
        single = "model.safetensors"
        file = single if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        planned = [
            shards.Planned(p.name, p.shape)
            for _, name in group
            for p in names.native_parts(name, shape=shape)
        ]
        with shards.SafetensorsWriter(work / file, planned, dtype=dtype) as writer:
            for name, tensor in _tensors(checkpoint, group):
                for part in names.native_parts(name, shape=shape):
                    _write_part(writer, part, tensor, name, written)
                    written.bytes += _count(part.shape) * (4 if dtype == "float32" else 2)
                progress(written.bytes, total, file)
        written.files[file] = writer.sha256
        weight_map |= {tensor.name: file for tensor in planned}
    missing = sorted(set(expected) - set(weight_map))
    if missing:
        raise ModelError(
            f"The checkpoint lacks {len(missing)} tensors, first {missing[0]}.",
            zh=f"检查点缺少 {len(missing)} 个张量，第一个是 {missing[0]}。",
        )
    if len(groups) > 1:
        index = {"metadata": {"total_size": written.bytes}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(work / "model.safetensors.index.json", index)
    return written


def _write_part(
    writer: shards.SafetensorsWriter, part: names.Part, tensor: torch.Tensor, official: str, written: Written
) -> None:
    piece = tensor[part.start : part.end]
    if tuple(piece.shape) != part.shape or (
        part.end != tensor.shape[0] and "query_key_value" not in official
    ):
        raise ModelError(
            f"{official} has shape {tuple(tensor.shape)}, which does not fit config.json.",
            zh=f"{official} 的形状 {tuple(tensor.shape)} 与 config.json 不符。",
        )
    if not piece.is_floating_point():
        raise ModelError(
            f"{official} holds {piece.dtype}: a quantised checkpoint cannot be converted; use the fp16 model.",
            zh=f"{official} 的类型是 {piece.dtype}：量化的检查点不能转换，请用 fp16 原模型。",
        )
    written.digests[part.name] = hashlib.sha256(shards.tensor_bytes(piece)).hexdigest()
    written.shapes[part.name] = part.shape
    writer.write(part.name, piece)


def _source_order(checkpoint: shards.Checkpoint, shape: GlmShape) -> list[tuple[str, str]]:
    """(shard, tensor) in the order in which they lie, without the buffers that are not learned."""
    order = []
    for file in checkpoint.files:
        for name in shards.tensor_names(checkpoint.folder / file):
            if names.native_parts(name, shape=shape):
                order.append((file, name))
    return order


def _grouped(
    order: list[tuple[str, str]], shape: GlmShape, width: int, limit: int
) -> list[tuple[list[tuple[str, str]], int]]:
    """The tensors of each new shard, with its bytes. A new shard never needs two old ones open at once."""
    groups: list[tuple[list[tuple[str, str]], int]] = []
    for file, name in order:
        size = sum(_count(part.shape) * width for part in names.native_parts(name, shape=shape))
        if not groups or groups[-1][1] + size > limit:
            groups.append(([], 0))
        group, sofar = groups.pop()
        groups.append(([*group, (file, name)], sofar + size))
    return groups


def _tensors(checkpoint: shards.Checkpoint, group: list[tuple[str, str]]) -> Any:
    """The tensors of a group, in its order, which is the order of the source."""
    wanted = set(group)
    for file in dict.fromkeys(file for file, _ in group):
        for name, tensor in shards.read_tensors(checkpoint.folder / file):
            if (file, name) in wanted:
                yield name, tensor


def _count(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def provenance(source: Path, shape: GlmShape, dtype: str, written: Written, work: Path) -> dict[str, Any]:
    """What the folder was made from, and the sha256 of each of its files."""
    small = sorted(p for p in work.iterdir() if p.name not in written.files)
    return {
        "layout": LAYOUT,
        "made_by": "zhiwen models convert",
        "source": {
            "name": shape.name,
            "family": shape.family,
            "files": {
                p.name: {"bytes": p.stat().st_size}
                for p in sorted(source.iterdir())
                if p.is_file() and p.suffix in (".safetensors", ".bin", ".model", ".json")
            },
            "tokenizer_sha256": sha256_of(source / "tokenizer.model")
            if (source / "tokenizer.model").is_file()
            else "",
        },
        "dtype": dtype,
        "base_hash": written.base_hash,
        "tensors_sha256": written.digests,
        "files_sha256": {**written.files, **{p.name: sha256_of(p) for p in small}},
    }
