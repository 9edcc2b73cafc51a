"""The model folder: a sentence-transformers static embedding that numpy and tokenizers read just as well."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kb.errors import EmbedderError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Floats = NDArray[np.float32]
LIMIT_BYTES = 30_000_000
"""What a shipped model folder may weigh."""


@dataclass(frozen=True)
class StaticModel:
    """One row a token; a text is the mean of its rows at unit length."""

    tokenizer: Tokenizer
    rows: Floats
    """*Shape:* (tokens, dimensions). Token weights are folded in."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """*Shape:* (len(texts), dimensions), unit length; only the empty text is all zeros."""
        lists = [e.ids for e in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        vectors = np.zeros((len(lists), self.rows.shape[1]), np.float32)
        for number, ids in enumerate(lists):
            if ids:
                mean = self.rows[ids].mean(axis=0)
                vectors[number] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return vectors


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def save(model: StaticModel, folder: Path, *, card: str) -> int:
    """Write the folder beside `folder`, then put its files in place one rename each. Returns its bytes.

    Raises EmbedderError if it weighs more than 30 MB; then `folder` is left as it was.
    """
    from safetensors.numpy import save_file

    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "0_StaticEmbedding").mkdir(parents=True)
    (fresh / "1_Normalize").mkdir()
    save_file(
        {"embedding.weight": model.rows.astype(np.float16)}, fresh / "0_StaticEmbedding" / "model.safetensors"
    )
    (fresh / "0_StaticEmbedding" / "model.safetensors").chmod(0o644)
    model.tokenizer.save(str(fresh / "0_StaticEmbedding" / "tokenizer.json"), pretty=False)
    kinds = [("0_StaticEmbedding", "StaticEmbedding"), ("1_Normalize", "Normalize")]
    _write_json(
        fresh / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ],
    )
    config = {"model_type": "SentenceTransformer", "prompts": {"query": "", "document": ""}}
    _write_json(
        fresh / "config_sentence_transformers.json",
        {**config, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    _write_json(fresh / "1_Normalize" / "config.json", {})
    (fresh / "README.md").write_text(card, encoding="utf-8")
    size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file())
    if size > LIMIT_BYTES:
        shutil.rmtree(fresh)
        raise EmbedderError(
            f"The model weighs {size:,} bytes, more than {LIMIT_BYTES:,}. Lower --tokens or --dimensions.",
            zh=f"模型有 {size:,} 字节，超过 {LIMIT_BYTES:,}。请减小 --tokens 或 --dimensions。",
        )
    for path in sorted(fresh.rglob("*")):
        target = folder / path.relative_to(fresh)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    shutil.rmtree(fresh)
    return size


def load(folder: Path) -> StaticModel:
    """Read a folder that `save` wrote. Raises EmbedderError if a file is missing or the sizes do not fit."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    weights, words = (folder / "0_StaticEmbedding" / name for name in ("model.safetensors", "tokenizer.json"))
    for path in (weights, words):
        if not path.is_file():
            raise EmbedderError(
                f"No model in {folder}: {path.name} is missing. Train one: python -m finetune.embedder train",
                zh=f"{folder} 里没有模型：缺少 {path.name}。可训练一个：python -m finetune.embedder train",
            )
    tokenizer = Tokenizer.from_file(str(words))
    rows = load_file(weights)["embedding.weight"].astype(np.float32)
    if rows.shape[0] != tokenizer.get_vocab_size():
        raise EmbedderError(
            f"{folder}: {rows.shape[0]} rows for {tokenizer.get_vocab_size()} tokens; the folder is damaged.",
            zh=f"{folder}：{rows.shape[0]} 行对应 {tokenizer.get_vocab_size()} 个词元，文件夹已损坏。",
        )
    return StaticModel(tokenizer, rows)
