"""Transformer + Pooling (mean or cls) (+ Normalize), on transformers' AutoModel.

Each text is tokenised once; batches are sorted by length and packed to a number of tokens, so that almost nothing is
padding; the model runs in bf16 where the hardware computes in it. The vectors are SentenceTransformer's (tested).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from kb.embed.config import EmbedderConfig
from kb.embed.device import pick_device, pick_dtype
from kb.embed.layout import Layout, fingerprint, prefixes
from kb.errors import EmbedderError
from kb.types import Metric, Vectors

_TOKENS_A_BATCH = {"cpu": 4_096, "cuda": 65_536}
_TEXTS_A_WINDOW = 8_192
"""Texts tokenised and sorted at a time."""


class TransformerEmbedder:
    """`Embedder` over a transformers encoder."""

    def __init__(self, layout: Layout, *, config: EmbedderConfig, name: str) -> None:
        """Errors: EmbedderError if the model cannot be loaded or its tokenizer is not a fast one."""
        import torch
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        self._device = pick_device(config.device)
        self._dtype = pick_dtype(config.dtype, device=self._device)
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                layout.body, local_files_only=True, trust_remote_code=False
            )
            self._model: Any = AutoModel.from_pretrained(
                layout.body, dtype=self._dtype, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
            raise EmbedderError(
                f"The embedding model {name} in {layout.body} cannot be loaded: {error}",
                zh=f"向量模型 {name}（{layout.body}）无法加载：{error}",
            ) from error
        finally:
            if bars:
                logging.enable_progress_bar()
        if not self._tokenizer.is_fast:
            raise EmbedderError(
                f"The tokenizer of {name} is not a fast one (tokenizer.json); without it chunks cannot be fitted.",
                zh=f"{name} 的分词器不是 fast 版（缺 tokenizer.json），无法按 token 切分。",
            )
        self._model.to(torch.device(self._device)).eval()
        self._core: Any = self._tokenizer.backend_tokenizer
        self._core.no_padding()
        self._core.no_truncation()
        self._query_prefix, self._passage_prefix = prefixes(layout, config)
        self._layout, self._config, self._name = layout, config, name
        self._special: int = self._tokenizer.num_special_tokens_to_add(pair=False)
        taken = max(self.count_tokens([self._query_prefix, self._passage_prefix]))
        self._max_tokens: int = layout.max_seq_length - self._special - taken
        if self._max_tokens < 8:
            raise EmbedderError(
                f"The prefixes of {name} take {taken} of its {layout.max_seq_length} tokens. Shorten them.",
                zh=f"{name} 的前缀占去 {layout.max_seq_length} 个 token 中的 {taken} 个，请缩短前缀。",
            )
        self._truncated = 0

    @property
    def name(self) -> str:
        return self._name

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self._layout, self._config)

    @property
    def dimensions(self) -> int:
        return int(self._model.config.hidden_size)

    @property
    def metric(self) -> Metric:
        return self._config.metric

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    @property
    def dtype(self) -> str:
        """What the model computes in: "float32", "bfloat16", "float16"."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def truncated_tokens(self) -> int:
        """Tokens of passages that were over the limit and so not seen, since this embedder was opened."""
        return self._truncated

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [
            len(found.ids) for found in self._core.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return list(self._core.encode(text, add_special_tokens=False).offsets)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._vectors([self._query_prefix + text for text in texts])[0]

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        vectors, cut = self._vectors([self._passage_prefix + text for text in texts])
        self._truncated += cut
        return vectors

    def _vectors(self, texts: list[str]) -> tuple[Vectors, int]:
        """(vectors, tokens cut off). *Shape:* (len(texts), dimensions)."""
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        cut = 0
        for first in range(0, len(texts), _TEXTS_A_WINDOW):
            window = texts[first : first + _TEXTS_A_WINDOW]
            rows, over = self._token_rows(window)
            cut += over
            for batch in _packed(
                [len(row) for row in rows], budget=_TOKENS_A_BATCH[self._device.split(":")[0]]
            ):
                vectors[np.asarray(batch) + first] = self._forward([rows[at] for at in batch])
        if self._layout.normalize or self.metric == "cosine":
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors, cut

    def _token_rows(self, texts: list[str]) -> tuple[list[list[int]], int]:
        """Token ids with special tokens, each at most max_seq_length, and how many tokens that cut off."""
        rows, over = [], 0
        limit = self._layout.max_seq_length
        for found in self._core.encode_batch_fast(texts):
            ids = found.ids
            if len(ids) > limit:
                over += len(ids) - limit
                ids = self._shortened(ids, limit=limit)
            rows.append(ids)
        return rows, over

    def _shortened(self, ids: list[int], *, limit: int) -> list[int]:
        """The first tokens of a row that is too long, with the special tokens at its end kept."""
        specials = set(self._tokenizer.all_special_ids)
        tail = 0
        while tail < self._special and ids[len(ids) - 1 - tail] in specials:
            tail += 1
        return ids[: limit - tail] + ids[len(ids) - tail :]

    def _forward(self, rows: list[list[int]]) -> Vectors:
        """One batch. *Shape:* (len(rows), dimensions), float32, pooled, not yet of unit length."""
        import torch

        longest = max(len(row) for row in rows)
        pad = self._tokenizer.pad_token_id or 0
        ids = torch.full((len(rows), longest), pad, dtype=torch.long)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[at, : len(row)] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        with torch.inference_mode():
            states = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            if self._layout.pooling == "cls":
                pooled = states[:, 0]
            else:
                weight = mask.unsqueeze(-1).float()
                pooled = (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
        vectors: Vectors = pooled.cpu().numpy()
        return vectors


def _packed(lengths: Sequence[int], *, budget: int) -> Iterator[list[int]]:
    """Positions in batches of near equal length, longest first; a batch is at most `budget` tokens, padding included."""
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch
