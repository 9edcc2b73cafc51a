"""Questions cut from the passages themselves: a sentence is taken out, and the chunk without it must be found again.

The words of a neighbouring sentence lead back to it only as far as topic and vocabulary do, which is what a real question
has in common with its answer; so the two legs can be compared without anybody having written a question.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kb import analyze
from kb.candidates import sample_ids
from kb.exact import score
from kb.fusion import USUAL_TRUST
from kb.knowledge import KnowledgeBase
from kb.types import Chunk, Embedder

LONGEST = 40
"""Characters of a pseudo-question."""
SHORTEST_REST = 8
PRIOR = 4.0
"""Pseudo-questions' worth of belief in USUAL_TRUST before any was asked."""
_SENTENCE = re.compile(r"(?<=[。！？；!?;\n])")
_CLAUSE = re.compile(r"(?<=[，,、\s])")
_K1, _B = 1.2, 0.75


@dataclass(frozen=True, slots=True)
class PseudoQuestion:
    """A sentence, the chunk that it was cut from, and what is left of that."""

    text: str
    rest: str
    chunk: Chunk


def pseudo_questions(kb: KnowledgeBase, *, count: int, seed: int = 0) -> list[PseudoQuestion]:
    """At most `count`; chunks of one short sentence give none. Deterministic for one state of the knowledge base."""
    draw = random.Random(seed)
    ids = sample_ids(kb, 4 * count, seed=seed)
    draw.shuffle(ids)
    chunks = kb.store.chunks_by_id(ids)
    found: list[PseudoQuestion] = []
    for number in ids:
        cut = _cut(chunks[number], draw) if number in chunks else None
        if cut is not None:
            found.append(cut)
        if len(found) == count:
            break
    return found


def _cut(chunk: Chunk, draw: random.Random) -> PseudoQuestion | None:
    for pattern, shortest in ((_SENTENCE, 8), (_CLAUSE, 5)):
        parts = [part for part in pattern.split(chunk.text) if len(part.strip()) >= shortest]
        if len(parts) < 2:
            continue
        part = draw.choice(parts)
        rest = chunk.text.replace(part, "", 1)
        if len(rest.strip()) >= SHORTEST_REST:
            return PseudoQuestion(part.strip()[:LONGEST], rest, chunk)
    return None


def trust(
    kb: KnowledgeBase, questions: Sequence[PseudoQuestion], *, embedder: Embedder, depth: int = 100
) -> float:
    """Reciprocal ranks of the dense leg over those of the lexical leg; 1: equally good, 0: the embedder finds nothing."""
    if not questions:
        return USUAL_TRUST
    asked = embedder.encode_queries([q.text for q in questions])
    rests = embedder.encode_passages([q.rest for q in questions])
    length = float(np.mean([len(analyze.tokens(q.chunk.text)) for q in questions]))
    index, vectors = kb.lexical(), kb.vectors()
    dense = lexical = 0.0
    for place, question in enumerate(questions):
        query = asked[place : place + 1]
        near, nearness = vectors.search(query, depth)
        own = float(score(query, rests[place : place + 1], embedder.metric)[0, 0])
        dense += _reciprocal(
            list(zip(near[0].tolist(), nearness[0].tolist(), strict=True)), own, question, kb
        )
        rarity = index.rarity(dict.fromkeys(analyze.tokens(question.text)))
        words = bm25(question.rest, rarity, length=length)
        lexical += _reciprocal(index.search(question.text, depth), words, question, kb)
    return (dense + PRIOR * USUAL_TRUST) / (lexical + PRIOR)


def _reciprocal(
    found: Sequence[tuple[int, float]], own: float, question: PseudoQuestion, kb: KnowledgeBase
) -> float:
    """1 / rank of the rest among other documents' chunks; 0 if a whole page of them is nearer.

    Copies that still hold the sentence do not count: they are right answers too.
    """
    chunks = kb.store.chunks_by_id([number for number, _ in found if number >= 0])
    others = [
        value
        for number, value in found
        if (chunk := chunks.get(number)) is not None
        and chunk.document_id != question.chunk.document_id
        and question.text not in chunk.text
    ]
    if not others:
        return 1.0 if own > 0 else 0.0
    better = sum(value > own for value in others)
    return 0.0 if better == len(others) and len(found) > 50 else 1.0 / (1 + better)


def bm25(text: str, rarity: Mapping[str, float], *, length: float) -> float:
    """BM25 of a text that is not in the index. `length`: mean number of terms of the chunks."""
    terms = analyze.tokens(text)
    counted = Counter(term for term in terms if term in rarity)
    damping = _K1 * (1 - _B + _B * len(terms) / max(length, 1.0))
    return sum(rarity[t] * (_K1 + 1) * n / (n + damping) for t, n in counted.items())
