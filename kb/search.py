"""Question -> passages: both legs, fused, reranked if asked for, neighbours joined, near-duplicates dropped.

Several knowledge bases at once are compared by calibrated confidence. `kb/candidates.py` gathers, `kb/fusion.py` scores,
`kb/calibration.py` says how sure, `kb/tidy.py` joins and drops, `kb/rerank.py` reranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kb.calibration import Calibration, calibration_of
from kb.candidates import gather
from kb.errors import KnowledgeBaseError, SettingsError
from kb.fusion import Evidence, Floats, fused, weight_of
from kb.knowledge import KnowledgeBase
from kb.tidy import join_neighbours, without_duplicates
from kb.types import Chunk, Dropped, Embedder, Hit, LegScore, SearchResult

Mode = Literal["hybrid", "dense", "lexical"]
MODES: tuple[Mode, ...] = ("hybrid", "dense", "lexical")
LONGEST_QUESTION = 4000
"""Characters."""

Opener = Callable[[KnowledgeBase], Embedder]
"""Gives the embedder of a knowledge base; several knowledge bases may have several embedders."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search."""

    limit: int = 8
    """Hits at the most."""
    mode: Mode = "hybrid"
    depth: int = 100
    """Chunks that each leg brings."""
    reranker: str = ""
    """Folder of a cross-encoder that orders the best passages anew; empty: none."""
    rerank_depth: int = 30
    """Passages that the reranker reads."""
    join_chars: int = 1200
    """Neighbouring passages among the hits become one, up to this length; 0: never."""
    duplicate: float = 0.85
    """Passages that share this part of their four-character pieces are the same; 1: only equal ones."""
    threshold: float | None = None
    """Confidence below which to refuse; None: the one that was calibrated for the knowledge base."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise SettingsError(
                f"search mode: {self.mode!r} is not one of {', '.join(MODES)}.",
                zh=f"search mode：{self.mode!r} 无效，可选 {'、'.join(MODES)}。",
            )
        for name, low, high in (("limit", 1, 1000), ("depth", 1, 10_000), ("rerank_depth", 1, 1000)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise SettingsError(
                    f"search {name}: {value} is not between {low} and {high}.",
                    zh=f"search {name}：{value} 须在 {low} 到 {high} 之间。",
                )
        if self.join_chars < 0 or not 0 < self.duplicate <= 1:
            raise SettingsError(
                f"search: join_chars {self.join_chars} must be 0 or more, duplicate {self.duplicate} above 0 and at most 1.",
                zh=f"search：join_chars（{self.join_chars}）须不小于 0，duplicate（{self.duplicate}）须大于 0 且不大于 1。",
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise SettingsError(
                f"search threshold: {self.threshold} is not between 0 and 1.",
                zh=f"search threshold：{self.threshold} 须在 0 到 1 之间。",
            )


@dataclass(frozen=True, slots=True)
class RankedChunk:
    """A candidate with what was computed for it."""

    chunk: Chunk
    score: float
    confidence: float
    legs: tuple[LegScore, ...]


def search(
    kbs: Sequence[KnowledgeBase],
    question: str,
    *,
    embedder: Embedder | Opener,
    options: SearchOptions = SearchOptions(),
) -> SearchResult:
    """The passages nearest to the question, best first.

    `embedder`: one for all knowledge bases, or a function that gives each its own. Raises EmbedderMismatch if one was
    built with another, KnowledgeBaseError for an overlong question or no knowledge base.
    """
    _check(kbs, question)
    seconds: dict[str, float] = {}
    hits: list[Hit] = []
    dropped: list[Dropped] = []
    thresholds: dict[str, float] = {}
    vectors: dict[str, NDArray[np.float32]] = {}
    for kb in kbs if question.strip() else ():
        opened = embedder if isinstance(embedder, Embedder) else embedder(kb)
        kb.require(opened)
        began = time.perf_counter()
        if opened.fingerprint not in vectors:
            vectors[opened.fingerprint] = opened.encode_queries([question])
        _add(seconds, "embed", time.perf_counter() - began)
        calibration = calibration_of(kb)
        thresholds[kb.name] = calibration.threshold
        ranked, spent = rank(
            kb, question, vectors[opened.fingerprint], options=options, calibration=calibration
        )
        for step, value in spent.items():
            _add(seconds, step, value)
        hits += _monotone(hits_of(kb, ranked, options=options), among=options.limit)
    began = time.perf_counter()
    if len(kbs) > 1:
        hits.sort(key=lambda hit: -hit.confidence)
    if options.reranker and hits:
        from kb.rerank import reranked

        hits = reranked(hits, question, folder=options.reranker, depth=options.rerank_depth)
        _add(seconds, "rerank", time.perf_counter() - began)
        began = time.perf_counter()
    hits, same = without_duplicates(hits, limit=options.limit, share=options.duplicate)
    dropped += same
    hits, rest = hits[: options.limit], hits[options.limit :]
    dropped += [Dropped(hit.where, hit.score, "below-limit") for hit in rest[:20]]
    hits, joined = join_neighbours(hits, longest=options.join_chars)
    dropped += joined
    _add(seconds, "tidy", time.perf_counter() - began)
    threshold = options.threshold
    if threshold is None:
        threshold = thresholds.get(hits[0].kb if hits else kbs[0].name, 0.0)
    return SearchResult(
        question, tuple(_monotone(hits, among=options.limit)), threshold, tuple(dropped), seconds
    )


def _check(kbs: Sequence[KnowledgeBase], question: str) -> None:
    if not kbs:
        raise KnowledgeBaseError("no knowledge base to search in.", zh="没有可检索的知识库。")
    if len(question) > LONGEST_QUESTION:
        raise KnowledgeBaseError(
            f"the question has {len(question)} characters, {LONGEST_QUESTION} is the most.",
            zh=f"问题有 {len(question)} 个字符，最多 {LONGEST_QUESTION} 个。",
        )


def rank(
    kb: KnowledgeBase,
    question: str,
    query: NDArray[np.float32],
    *,
    options: SearchOptions,
    calibration: Calibration,
) -> tuple[list[RankedChunk], dict[str, float]]:
    """All candidate chunks of one knowledge base, best first, and what each step took. *Shape:* query (1, dimensions)."""
    dense, lexical = options.mode != "lexical", options.mode != "dense"
    found = gather(kb, question, query, depth=options.depth, dense=dense, lexical=lexical)
    evidence = found.evidence
    scores: Floats
    if options.mode == "dense":
        scores = evidence.dense
    elif options.mode == "lexical":
        scores = evidence.bm25
    else:
        scores = fused(evidence, weight=weight_of(calibration.trust))
    sure = calibration.confidence(evidence)
    legs = _legs(evidence, options.mode)
    order = np.lexsort((evidence.chunk_ids, -scores))
    ranked = [
        RankedChunk(
            found.chunks[int(evidence.chunk_ids[i])],
            float(scores[i]),
            float(sure[i]),
            legs[int(i)],
        )
        for i in order
    ]
    return ranked, dict(found.seconds)


def _ranks(scores: Floats) -> NDArray[np.int64]:
    """1 for the highest. Exact as far as the leg itself was asked (`depth`), since every candidate has every score."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


def _legs(evidence: Evidence, mode: Mode) -> list[tuple[LegScore, ...]]:
    """What each leg says of each candidate; a chunk without any word of the question has no lexical leg."""
    near, words = _ranks(evidence.dense), _ranks(evidence.bm25)
    found = []
    for place in range(len(evidence.chunk_ids)):
        legs = []
        if mode != "lexical":
            legs.append(LegScore("dense", int(near[place]), float(evidence.dense[place])))
        if mode != "dense" and evidence.bm25[place] > 0:
            legs.append(LegScore("lexical", int(words[place]), float(evidence.bm25[place])))
        found.append(tuple(legs))
    return found


def hits_of(kb: KnowledgeBase, ranked: Sequence[RankedChunk], *, options: SearchOptions) -> list[Hit]:
    """One hit a passage, by its best chunk; more than `limit`, so that duplicates can be dropped."""
    best: dict[int, RankedChunk] = {}
    sure: dict[int, float] = {}
    for item in ranked:
        number = item.chunk.passage_id
        best.setdefault(number, item)
        sure[number] = max(sure.get(number, 0.0), item.confidence)
    wanted = max(3 * options.limit, options.rerank_depth if options.reranker else 0, 20)
    kept = list(best.items())[:wanted]
    passages = kb.store.passages_by_id(number for number, _ in kept)
    documents = kb.store.documents_by_id(p.document_id for p in passages.values())
    return [
        Hit(kb.name, documents[passage.document_id], passage, item.chunk, item.score, sure[number], item.legs)
        for number, item in kept
        if (passage := passages.get(number)) is not None and passage.document_id in documents
    ]


def _monotone(hits: Sequence[Hit], *, among: int) -> list[Hit]:
    """Confidence never grows down the list: a hit is as sure as the surest below it among the first ones, and no surer than
    the one above it. So hits of several knowledge bases can be sorted by it and each keeps its own order."""
    found: list[Hit] = []
    floor = 0.0
    for hit in reversed(hits[:among]):
        floor = max(floor, hit.confidence)
        found.append(replace(hit, confidence=floor))
    found.reverse()
    for hit in hits[among:]:
        found.append(replace(hit, confidence=min(hit.confidence, found[-1].confidence)))
    return found


def _add(seconds: dict[str, float], step: str, value: float) -> None:
    seconds[step] = seconds.get(step, 0.0) + value
