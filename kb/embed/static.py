"""The static kind: a text's vector is the mean of its tokens' rows. tokenizers and numpy only; torch is never imported.

The same numbers as sentence-transformers' StaticEmbedding (an EmbeddingBag in mean mode), tested against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from kb.embed.config import EmbedderConfig
from kb.embed.layout import Layout, fingerprint, prefixes
from kb.errors import EmbedderError
from kb.types import Metric, Vectors

MAX_TOKENS = 256
"""A mean over more tokens than this says little; nothing is cut off beyond it."""

_BATCH = 1024
"""Texts tokenised at a time."""


class StaticEmbedder:
    """`Embedder` over a StaticEmbedding folder."""

    def __init__(self, layout: Layout, *, config: EmbedderConfig, name: str) -> None:
        """Errors: EmbedderError if the files are missing or do not fit together."""
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        weights, tokenizer = layout.body / "model.safetensors", layout.body / "tokenizer.json"
        try:
            rows = load_file(weights)["embedding.weight"]
            self._tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # both libraries raise bare Exceptions of their Rust side
            raise EmbedderError(
                f"The static embedding model in {layout.body} cannot be read: {error}. Install zhiwen again.",
                zh=f"静态向量模型 {layout.body} 无法读取：{error}。请重新安装 zhiwen。",
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if rows.ndim != 2 or rows.shape[0] < self._tokenizer.get_vocab_size():
            raise EmbedderError(
                f"{weights} has shape {rows.shape}, its tokenizer {self._tokenizer.get_vocab_size()} tokens.",
                zh=f"{weights} 的形状 {rows.shape} 与分词器的 {self._tokenizer.get_vocab_size()} 个词不符。",
            )
        self._rows = rows.astype(np.float32, copy=False)
        self._normalize = layout.normalize or config.metric == "cosine"
        self._query_prefix, self._passage_prefix = prefixes(layout, config)
        self._layout, self._config, self._name = layout, config, name

    @property
    def name(self) -> str:
        return self._name

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self._layout, self._config)

    @property
    def dimensions(self) -> int:
        return int(self._rows.shape[1])

    @property
    def metric(self) -> Metric:
        return self._config.metric

    @property
    def max_tokens(self) -> int:
        return MAX_TOKENS

    @property
    def truncated_tokens(self) -> int:
        """Always 0: a mean reads every token."""
        return 0

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(found.ids) for found in self._encode(texts)]

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).offsets)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._vectors(texts, prefix=self._query_prefix)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return self._vectors(texts, prefix=self._passage_prefix)

    def _encode(self, texts: Sequence[str]) -> Any:
        return self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)

    def _vectors(self, texts: Sequence[str], *, prefix: str) -> Vectors:
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for first in range(0, len(texts), _BATCH):
            batch = [prefix + text for text in texts[first : first + _BATCH]]
            for offset, found in enumerate(self._encode(batch)):
                if found.ids:
                    self._rows[found.ids].mean(axis=0, out=vectors[first + offset])
        if self._normalize:
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.maximum(norms, 1e-12)
        return vectors
