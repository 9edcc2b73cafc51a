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

TOGETHER = 100
"""Short texts that are stored as one document: a transaction for each sentence would take most of the time."""


def passages_of(text: str, *, embedder: Embedder) -> list[Passage]:
    """As a text file of one paragraph would be split."""
    page = Page(1, text, (Block("text", 0, len(text)),))
    return split(LoadedFile(Path("text.txt"), "txt", (page,)), counter=embedder)


def build(
    home: Path, name: str, texts: Sequence[str], *, embedder: Embedder
) -> tuple[KnowledgeBase, dict[int, int]]:
    """The knowledge base, and chunk id -> number of the text that it belongs to."""
    kb = KnowledgeBase.create(home, name, embedder=embedder)
    cut = [passages_of(text, embedder=embedder) for text in texts]
    chunks = list(dict.fromkeys(c.text for passages in cut for p in passages for c in p.chunks))
    rows = embedder.encode_passages(chunks).astype(np.float16)
    vectors = {text_digest(t): row for t, row in zip(chunks, rows, strict=True)}
    together = TOGETHER if sum(map(len, texts)) < 50 * len(texts) else 1
    owners: dict[tuple[str, int], int] = {}
    for start in range(0, len(texts), together):
        group = range(start, min(start + together, len(texts)))
        passages = [p for n in group for p in cut[n]]
        for ordinal, number in enumerate(n for n in group for _ in cut[n]):
            owners[f"{start}.txt", ordinal] = number
        data = "\n".join(texts[n] for n in group).encode()
        digest = hashlib.blake2b(data, digest_size=32).hexdigest()
        kb.store.put_document(
            Document(0, f"{start}.txt", "txt", digest, len(data), 1, 0, 0, "ok"),
            version="bench",
            stat="",
            pages=[Page(1, "")],
            passages=passages,
            embedder=embedder.fingerprint,
            vectors={d: vectors[d] for p in passages for c in p.chunks if (d := text_digest(c.text))},
        )
    kb.refresh_caches()
    found = kb.store.connection.execute(
        "SELECT c.id, d.name, p.ordinal FROM chunks c JOIN passages p ON p.id = c.passage_id"
        " JOIN documents d ON d.id = p.document_id"
    )
    return kb, {number: owners[name, ordinal] for number, name, ordinal in found}
