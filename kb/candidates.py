"""What both legs find for a question in one knowledge base, each candidate with both scores."""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kb import analyze
from kb.exact import score
from kb.fusion import Evidence, Floats, standardised
from kb.knowledge import KnowledgeBase
from kb.types import Chunk, Vectors

BACKGROUND = 1500
"""Chunks whose scores say what is usual for a question."""
LATIN = 2.0
"""A Latin word or a number is one term where a Chinese word of two characters is three."""
ASKING = re.compile(
    r"请问|为什么|为何|什么|怎么样|怎么办|怎么|怎样|如何|哪一个|哪个|哪些|哪里|哪儿|哪种|哪一|多少|是否|是不是|有没有|能不能|可不可以|"
    r"会不会|要不要|需不需要|谁|[吗呢吧么嘛啊呀]|\b(?:what|when|where|which|who|whose|why|how|is|are|do|does|did|can|the|a|an|of|to)\b"
)
SATURATION = 2.2
"""BM25's k1 + 1: the most that one term can give is its rarity times this."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The union of what the legs found."""

    evidence: Evidence
    chunks: Mapping[int, Chunk]
    seconds: Mapping[str, float]


_backgrounds: weakref.WeakKeyDictionary[KnowledgeBase, tuple[int, Vectors]] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def background(kb: KnowledgeBase) -> Vectors:
    """Vectors of a fixed sample of chunks, kept while the knowledge base is open. *Shape:* (at most BACKGROUND, dimensions)."""
    generation = kb.store.generation
    with _guard:
        known = _backgrounds.get(kb)
    if known is not None and known[0] == generation:
        return known[1]
    record = kb.embedder_record
    ids = sample_ids(kb, BACKGROUND, seed=0)
    rows = kb.store.vectors_of(record.fingerprint, ids, dimensions=record.dimensions)
    empty = np.empty((0, record.dimensions), dtype=np.float32)
    found = np.stack([rows[i] for i in ids if i in rows]) if rows else empty
    with _guard:
        _backgrounds[kb] = (generation, found)
    return found


def sample_ids(kb: KnowledgeBase, count: int, *, seed: int) -> list[int]:
    """At most `count` chunk ids, in order, without reading the whole table."""
    connection = kb.store.connection
    low, high = connection.execute("SELECT min(id), max(id) FROM chunks").fetchone()
    if low is None:
        return []
    draw = np.random.default_rng(seed)
    if high - low < 4 * count:
        ids = [row[0] for row in connection.execute("SELECT id FROM chunks ORDER BY id")]
        chosen = draw.choice(len(ids), min(count, len(ids)), replace=False)
        return sorted(ids[i] for i in chosen)
    found: set[int] = set()
    for _ in range(8):
        part = [int(i) for i in draw.integers(low, high + 1, size=900)]
        marks = ",".join("?" * len(part))
        found.update(
            row[0] for row in connection.execute(f"SELECT id FROM chunks WHERE id IN ({marks})", part)
        )
        if len(found) >= count:
            break
    kept = sorted(found)
    return sorted(int(i) for i in draw.permutation(kept)[:count])


def gather(
    kb: KnowledgeBase, question: str, query: Vectors, *, depth: int, dense: bool = True, lexical: bool = True
) -> Candidates:
    """The best `depth` chunks of each leg that is asked for; scores that a leg did not give are computed exactly.

    *Shape:* query (1, dimensions).
    """
    began = time.perf_counter()
    near: dict[int, float] = {}
    if dense:
        ids, found = kb.vectors().search(query, depth)
        near = {int(i): float(s) for i, s in zip(ids[0], found[0], strict=True) if i >= 0}
    between = time.perf_counter()
    words = dict(kb.lexical().search(question, depth)) if lexical else {}
    after = time.perf_counter()
    chunks = kb.store.chunks_by_id([*near, *words])
    evidence = _evidence(kb, question, query, near, words, chunks)
    seconds = {"dense": between - began, "lexical": after - between, "fuse": time.perf_counter() - after}
    return Candidates(evidence, chunks, seconds)


def _evidence(
    kb: KnowledgeBase,
    question: str,
    query: Vectors,
    near: dict[int, float],
    words: dict[int, float],
    chunks: Mapping[int, Chunk],
) -> Evidence:
    record = kb.embedder_record
    order = list(chunks)
    missing = [i for i in order if i not in near]
    rows = kb.store.vectors_of(record.fingerprint, missing, dimensions=record.dimensions)
    if rows:
        exact = score(query, np.stack(list(rows.values())), record.metric)[0]
        near = near | {i: float(s) for i, s in zip(rows, exact, strict=True)}
    usual = score(query, background(kb), record.metric)[0]
    worst = float(usual.min()) if len(usual) else 0.0
    dense = np.array([near.get(i, worst) for i in order], dtype=np.float32)
    index = kb.lexical()
    words = words | index.scores_of(question, [i for i in order if i not in words])
    rarity = index.rarity(content_terms(question))
    rarity = {term: LATIN * value if term.isascii() else value for term, value in rarity.items()}
    total = sum(rarity.values())
    return Evidence(
        chunk_ids=np.array(order, dtype=np.int64),
        dense=dense,
        z=standardised(dense, usual),
        bm25=np.array([words.get(i, 0.0) for i in order], dtype=np.float32),
        bound=SATURATION * total,
        share=shares([chunks[i].text for i in order], rarity),
    )


def content_terms(question: str) -> list[str]:
    """The terms of a question without those that only ask, each once; all of them if nothing else is left.

    Documents hardly ever say "what" or "how", so BM25 would take them for the rarest words of the question.
    """
    found = list(dict.fromkeys(analyze.tokens(ASKING.sub(" ", analyze.fold(question)))))
    return found or list(dict.fromkeys(analyze.tokens(question)))


def shares(texts: list[str], rarity: Mapping[str, float]) -> Floats:
    """The part of the terms' rarity that each text holds. *Shape:* (texts,), 0 to 1."""
    total = sum(rarity.values())
    if total <= 0:
        return np.zeros(len(texts), dtype=np.float32)
    han = {term: value for term, value in rarity.items() if not term.isascii()}
    plain = [
        (re.compile(rf"(?<![a-z0-9]){re.escape(term)}(?![a-z0-9])"), value)
        for term, value in rarity.items()
        if term.isascii()
    ]
    held: NDArray[np.float32] = np.zeros(len(texts), dtype=np.float32)
    for number, text in enumerate(texts):
        folded = analyze.fold(text)
        value = sum(v for term, v in han.items() if term in folded)
        value += sum(v for pattern, v in plain if pattern.search(folded))
        held[number] = value / total
    return held
