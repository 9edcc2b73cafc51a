"""Any other sentence-transformers model (Dense layers, other poolings, ...), through SentenceTransformer itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from kb.embed.config import EmbedderConfig
from kb.embed.device import pick_device, pick_dtype
from kb.embed.layout import Layout, fingerprint, prefixes
from kb.errors import EmbedderError
from kb.types import Metric, Vectors


class GeneralEmbedder:
    """`Embedder` over SentenceTransformer."""

    def __init__(self, layout: Layout, *, config: EmbedderConfig, name: str) -> None:
        """Errors: EmbedderError if the model cannot be loaded, has no fast tokenizer or wants remote code."""
        from sentence_transformers import SentenceTransformer

        device = pick_device(config.device)
        try:
            self._model: Any = SentenceTransformer(
                str(layout.folder),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": pick_dtype(config.dtype, device=device)},
            )
            self._core: Any = self._model.tokenizer.backend_tokenizer
        except (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise EmbedderError(
                f"The embedding model {name} in {layout.folder} cannot be loaded: {error}",
                zh=f"向量模型 {name}（{layout.folder}）无法加载：{error}",
            ) from error
        self._query_prefix, self._passage_prefix = prefixes(layout, config)
        self._layout, self._config, self._name = layout, config, name
        self._special: int = self._model.tokenizer.num_special_tokens_to_add(pair=False)
        taken = max(self.count_tokens([self._query_prefix, self._passage_prefix]))
        self._max_tokens: int = (
            int(self._model.max_seq_length or layout.max_seq_length) - self._special - taken
        )
        self._truncated = 0

    @property
    def name(self) -> str:
        return self._name

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self._layout, self._config)

    @cached_property
    def dimensions(self) -> int:
        return int(self._model.get_sentence_embedding_dimension())

    @property
    def metric(self) -> Metric:
        return self._config.metric

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    @property
    def truncated_tokens(self) -> int:
        """Tokens of passages that were over the limit and so not seen, since this embedder was opened."""
        return self._truncated

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(self.token_spans(text)) for text in texts]

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        self._core.no_padding()  # SentenceTransformer sets both anew in each encode
        self._core.no_truncation()
        return list(self._core.encode(text, add_special_tokens=False).offsets)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self._vectors(texts, prefix=self._query_prefix)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        self._truncated += sum(max(0, count - self.max_tokens) for count in self.count_tokens(texts))
        return self._vectors(texts, prefix=self._passage_prefix)

    def _vectors(self, texts: Sequence[str], *, prefix: str) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        found = self._model.encode(
            list(texts),
            prompt=prefix or None,
            normalize_embeddings=self.metric == "cosine",
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.asarray(found, dtype=np.float32)
