"""Reading the layout of a sentence-transformers folder, and the fingerprint of what makes its vectors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kb.embed.config import NO_PREFIX, EmbedderConfig
from kb.errors import EmbedderError

Kind = Literal["static", "transformer", "other"]
Pooling = Literal["mean", "cls", ""]

_LONGEST = 100_000
"""A tokenizer's `model_max_length` above this means "not set"."""

_BGE_QUERY = "为这个句子生成表示以用于检索相关文章："
_KNOWN_QUERY_PREFIX = {
    f"bge-{size}-zh{v}": _BGE_QUERY for size in ("small", "base", "large") for v in ("", "-v1.5")
}
"""Models whose card asks for a query prefix that their folder does not carry."""

_HASHED = (".safetensors", ".bin", "tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model folder says about itself."""

    folder: Path
    body: Path
    """The folder with weights and tokenizer."""
    kind: Kind
    pooling: Pooling
    normalize: bool
    """It ends with a Normalize module."""
    max_seq_length: int
    """Tokens, special ones included; 0 if there is no limit."""
    query_prefix: str
    passage_prefix: str


def read_layout(folder: Path, *, name: str = "") -> Layout:
    """The layout of a model folder; `name` (its hub id) may decide the query prefix.

    Errors: EmbedderError if a JSON file of it is broken.
    """
    modules = _read_json(folder / "modules.json", default=[])
    if not isinstance(modules, list) or not all(isinstance(entry, dict) for entry in modules):
        raise _broken(folder / "modules.json", "a list of modules was expected")
    steps = [(str(entry.get("type", "")).split(".")[-1], str(entry.get("path", ""))) for entry in modules]
    if any(Path(path).is_absolute() or ".." in Path(path).parts for _, path in steps):
        raise _broken(folder / "modules.json", "a module lies outside of the folder")
    names = [step for step, _ in steps]
    normalize = names[-1:] == ["Normalize"]
    core = names[:-1] if normalize else names
    body = folder / steps[0][1] if steps else folder
    kind: Kind = "other"
    pooling: Pooling = ""
    if core == ["StaticEmbedding"]:
        kind = "static"
    elif core == ["Transformer", "Pooling"]:
        pooling = _pooling(folder / steps[1][1])
        kind = "transformer" if pooling and _plain_transformer(body) else "other"
    elif not core:  # a bare transformers model: mean pooling, as SentenceTransformer does
        kind, pooling = "transformer", "mean"
    query, passage = _prompts(folder, name=name)
    return Layout(
        folder=folder,
        body=body,
        kind=kind,
        pooling=pooling,
        normalize=normalize,
        max_seq_length=0 if kind == "static" else _max_seq_length(body),
        query_prefix=query,
        passage_prefix=passage,
    )


def prefixes(layout: Layout, config: EmbedderConfig) -> tuple[str, str]:
    """(query, passage) prefix: what is set goes before what the model brings; "none" turns one off."""

    def one(setting: str, own: str) -> str:
        return "" if setting == NO_PREFIX else setting or own

    return one(config.query_prefix, layout.query_prefix), one(config.passage_prefix, layout.passage_prefix)


def fingerprint(layout: Layout, config: EmbedderConfig) -> str:
    """32 hex digits that change when the vectors would: weights, tokenizer, pooling, prefixes, metric.

    Device and dtype are left out: bf16 and fp32 vectors of one model may be mixed (cosine above .999).
    """
    digest = hashlib.blake2b(digest_size=16)
    said = {
        "kind": layout.kind,
        "pooling": layout.pooling,
        "normalize": layout.normalize,
        "max_seq_length": layout.max_seq_length,
        "prefixes": prefixes(layout, config),
        "metric": config.metric,
    }
    digest.update(json.dumps(said, ensure_ascii=False, sort_keys=True).encode())
    files = sorted(
        path for path in layout.folder.rglob("*") if path.name.endswith(_HASHED) and path.is_file()
    )
    if any(path.name.endswith(".safetensors") for path in files):
        files = [path for path in files if not path.name.endswith(".bin")]
    if layout.kind == "other":
        files += sorted(path for path in layout.folder.rglob("*.json") if path not in files)
    for path in files:
        if {"onnx", "openvino"} & set(path.relative_to(layout.folder).parts):
            continue
        digest.update(path.relative_to(layout.folder).as_posix().encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _pooling(folder: Path) -> Pooling:
    """mean or cls; empty for any other pooling (weighted, max, two at once, prompts left out)."""
    config = _read_json(folder / "config.json", default={})
    if not config.get("include_prompt", True):
        return ""
    mode = config.get("pooling_mode")
    if mode is None:
        on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        mode = (
            {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}.get(on[0])
            if len(on) == 1
            else ""
        )
    return mode if mode in ("mean", "cls") else ""


def _plain_transformer(body: Path) -> bool:
    """Whether AutoModel and the tokenizer reproduce the Transformer module (no lower-casing on top, text only)."""
    config = _read_json(body / "sentence_bert_config.json", default={})
    task = config.get("transformer_task", "feature-extraction")
    return not config.get("do_lower_case", False) and task == "feature-extraction"


def _max_seq_length(body: Path) -> int:
    """The smallest of what the model's files say, special tokens included; 512 if they say nothing."""
    own = _read_json(body / "sentence_bert_config.json", default={}).get("max_seq_length")
    tokenizer = _read_json(body / "tokenizer_config.json", default={}).get("model_max_length")
    model = _read_json(body / "config.json", default={})
    positions = model.get("max_position_embeddings")
    if isinstance(positions, int) and model.get("model_type") in ("roberta", "xlm-roberta", "camembert"):
        positions -= 2  # their positions begin after the padding id
    limits = [int(n) for n in (own, tokenizer, positions) if isinstance(n, int | float) and 2 < n < _LONGEST]
    return min(limits) if limits else 512


def _prompts(folder: Path, *, name: str) -> tuple[str, str]:
    """(query, passage) prompts of config_sentence_transformers.json, or the query prefix the model is known to want."""
    prompts = _read_json(folder / "config_sentence_transformers.json", default={}).get("prompts") or {}
    query = str(prompts.get("query") or "")
    passage = str(prompts.get("document") or prompts.get("passage") or "")
    return query or _KNOWN_QUERY_PREFIX.get((name or folder.name).split("/")[-1], ""), passage


def _read_json(path: Path, *, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, why: str) -> EmbedderError:
    return EmbedderError(
        f"The embedding model's file {path} cannot be read: {why}. Fetch the model again (zhiwen models pull).",
        zh=f"向量模型文件 {path} 无法读取：{why}。请重新获取模型（zhiwen models pull）。",
    )
