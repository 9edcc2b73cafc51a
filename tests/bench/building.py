"""Texts -> a knowledge base as the product makes it, without files: split, embedded, stored, both caches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kb.knowledge import KnowledgeBase
from kb.split import split
from kb.store import text_digest
from kb.types import Block, Document, Embedder, LoadedFile, Page, Passage


def passages_of(text: str, *, embedder: Embedder) -> list[Passage]:
    """As a text file of one paragraph would be split."""
    page = Page(1, text, (Block("text", 0, len(text)),))
    return split(LoadedFile(Path("text.txt"), "txt", (page,)), counter=embedder)


def build(home: Path, name: str, documents: Sequence[str], *, embedder: Embedder) -> KnowledgeBase:
    """Document number n is called "n.txt"."""
    kb = KnowledgeBase.create(home, name, embedder=embedder)
    cut = [passages_of(text, embedder=embedder) for text in documents]
    texts = list(dict.fromkeys(c.text for passages in cut for p in passages for c in p.chunks))
    rows = embedder.encode_passages(texts).astype(np.float16)
    vectors = {text_digest(t): row for t, row in zip(texts, rows, strict=True)}
    kb.store.connection.execute("PRAGMA synchronous = OFF")
    for number, (text, passages) in enumerate(zip(documents, cut, strict=True)):
        data = text.encode()
        digest = hashlib.blake2b(data, digest_size=32).hexdigest()
        kb.store.put_document(
            Document(0, f"{number}.txt", "txt", digest, len(data), 1, 0, 0, "ok"),
            version="bench",
            stat="",
            pages=[Page(1, "")],
            passages=passages,
            embedder=embedder.fingerprint,
            vectors={d: vectors[d] for p in passages for c in p.chunks if (d := text_digest(c.text))},
        )
    kb.refresh_caches()
    return kb
