"""Text -> vectors. `open_embedder` opens one model, `choose_embedder` decides which (and says so aloud).

static.py       the shipped kind: rows of a table, averaged (tokenizers and numpy only, no torch)
transformer.py  Transformer + Pooling (+ Normalize): our own fast path
general.py      every other sentence-transformers model, through SentenceTransformer
layout.py       which of the three a folder is, and its fingerprint
locate.py       where a model lies on this machine
langchain.py    any of them as LangChain `Embeddings`
"""

from __future__ import annotations

from kb.embed.choose import EmbedderChoice, choose_embedder, open_embedder, truncated_tokens
from kb.embed.config import EmbedderConfig
from kb.embed.locate import PREFERRED, SHIPPED, find_model

__all__ = [
    "PREFERRED",
    "SHIPPED",
    "EmbedderChoice",
    "EmbedderConfig",
    "choose_embedder",
    "find_model",
    "open_embedder",
    "truncated_tokens",
]
