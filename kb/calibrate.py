"""Measure a knowledge base with its own passages: how far to trust the embedder, and when to refuse.

Trust      pseudo-questions cut from the passages (`kb.pseudo`): which leg finds their place again?
Threshold  questions that have nothing to do with it (`kb.foreign`): what scores does it give to what it cannot answer?
           The confidence of a hit counts the standard deviations by which share, words and vector together stand above
           that; refused is what does not stand out more than nearly all foreign questions do. Real answerable questions
           are not needed, and pseudo-questions would make the threshold too high: they use the passages' own words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kb.calibration import Calibration, keep
from kb.candidates import gather
from kb.foreign import FOREIGN
from kb.fusion import fused, weight_of
from kb.knowledge import KnowledgeBase
from kb.pseudo import pseudo_questions, trust
from kb.types import Embedder

PSEUDO = 100
CHECKED = 40
"""Pseudo-questions that the threshold is tried on; for the report only."""
QUANTILE = 0.86
"""Part of the foreign questions that must be refused."""
LEAST_TRUST = 0.45
"""Below it the vector says nothing about whether there is an answer."""
SLOPE = 0.7
"""Of the confidence, a standard deviation."""
FLOORS = (0.03, 0.02, 0.03)
"""Standard deviations of share, words and vector (of unit spread) are at least this: in a tiny one they may be 0."""

Rows = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Foreign:
    """What share, words and vector of the best hit are for questions that cannot be answered."""

    mean: Rows
    """*Shape:* (3,)"""
    spread: Rows
    """*Shape:* (3,)"""
    limit: float
    """Sum of the three, standardised, that QUANTILE of the foreign questions stay below."""


def calibrate(kb: KnowledgeBase, *, embedder: Embedder, seed: int = 0) -> Calibration:
    """Measure, write the result into the knowledge base, return it. Under a second for a small one; deterministic.

    An empty knowledge base keeps the defaults. Raises EmbedderMismatch.
    """
    kb.require(embedder)
    chunks = len(kb.vectors())
    if not chunks:
        found = Calibration(embedder=embedder.fingerprint)
        keep(kb, found)
        return found
    asked = pseudo_questions(kb, count=PSEUDO, seed=seed)
    trusted = trust(kb, asked, embedder=embedder)
    rows = features(kb, FOREIGN, embedder=embedder, weight=weight_of(trusted))
    foreign = _foreign(rows, dense=trusted >= LEAST_TRUST)
    calibration = _linear(foreign, trusted)
    own = features(kb, [q.text for q in asked[:CHECKED]], embedder=embedder, weight=weight_of(trusted))
    result = replace(
        calibration,
        questions=len(asked),
        refused=_below(calibration, own),
        accepted=1 - _below(calibration, rows),
        embedder=embedder.fingerprint,
        chunks=chunks,
    )
    keep(kb, result)
    return result


def features(kb: KnowledgeBase, questions: Sequence[str], *, embedder: Embedder, weight: float) -> Rows:
    """Share, words (0 to 1) and dense score of each question's best chunk. *Shape:* (questions, 3)."""
    rows = np.zeros((len(questions), 3))
    if not questions:
        return rows
    vectors = embedder.encode_queries(list(questions))
    for number, question in enumerate(questions):
        evidence = gather(kb, question, vectors[number : number + 1], depth=50).evidence
        if not len(evidence.chunk_ids):
            continue
        best = int(np.argmax(fused(evidence, weight=weight)))
        rows[number] = evidence.share[best], evidence.lexical[best], evidence.dense[best]
    return rows


def _foreign(rows: Rows, *, dense: bool) -> Foreign:
    """Without `dense` the vector does not count: an embedder that finds nothing cannot say what is there."""
    mean = rows.mean(axis=0)
    unit = np.array([1.0, 1.0, max(1e-6, float(np.abs(rows[:, 2]).max()))])
    spread = np.maximum(rows.std(axis=0), np.array(FLOORS) * np.minimum(unit, 1e9))
    if not dense:
        spread[2] = np.inf
    sums = ((rows - mean) / spread).sum(axis=1)
    return Foreign(mean, spread, float(np.quantile(sums, QUANTILE)))


def _linear(foreign: Foreign, trusted: float) -> Calibration:
    share, words, vector = (SLOPE / foreign.spread).tolist()
    bias = -SLOPE * (float((foreign.mean / foreign.spread).sum()) + foreign.limit)
    return Calibration(trust=trusted, threshold=0.5, bias=bias, share=share, words=words, dense=vector)


def _below(calibration: Calibration, rows: Rows) -> float:
    """Part of the questions that are refused."""
    if not len(rows):
        return 0.0
    raw = calibration.bias + rows @ np.array([calibration.share, calibration.words, calibration.dense])
    return float((raw < 0).mean())
