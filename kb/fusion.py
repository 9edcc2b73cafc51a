"""Two ways of searching -> one score. Pure arithmetic on arrays; what was chosen on which sets stands in docs/search.md.

    score = lexical + SHARE * share + weight * z

lexical   BM25 over the most that the question's terms could give: how well the words fit, in the question's own unit,
          so that a question whose words are not there leaves room for the other leg
share     the part of the question's terms (weighted by rarity) that the chunk holds
z         the dense score in standard deviations above what chunks of this knowledge base have for this question: the
          same for cosine, inner product and l2, and for embedders whose cosines all lie between .7 and .9
weight    from a trust measured in the knowledge base itself (`kb.calibrate`): how often the embedder finds the place that
          a sentence was cut from, against how often the words do. About 0 for a useless embedder, large for a strong one
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SHARE = 0.25
WEIGHT_AT_ONE = 0.03
"""The weight of one standard deviation when the embedder finds as well as the words do."""
STEEPNESS_BELOW, STEEPNESS_ABOVE = 2.0, 3.0
"""Powers of the trust below and above 1."""
LARGEST_WEIGHT = 0.3
USUAL_TRUST = 0.7
"""Before anything was measured."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the candidates of one question in one knowledge base. All arrays have one entry a candidate."""

    chunk_ids: NDArray[np.int64]
    dense: Floats
    """In the embedder's own unit; higher is closer."""
    z: Floats
    """`dense` in standard deviations above the mean of the knowledge base's chunks for this question."""
    bm25: Floats
    bound: float
    """The most that BM25 could give this question; 0 if it has no terms."""
    share: Floats
    """0 to 1: the part of the question's terms that the chunk holds, rare ones count more."""

    @property
    def lexical(self) -> Floats:
        """*Range:* 0 to 1."""
        return (self.bm25 / self.bound if self.bound > 0 else np.zeros_like(self.bm25)).astype(np.float32)


def weight_of(trust: float) -> float:
    """Trust (reciprocal ranks of the dense leg over those of the lexical leg) -> weight of one standard deviation."""
    if not math.isfinite(trust) or trust <= 0:
        return 0.0
    power = STEEPNESS_BELOW if trust < 1 else STEEPNESS_ABOVE
    return min(LARGEST_WEIGHT, WEIGHT_AT_ONE * math.pow(min(trust, 100.0), power))


def fused(evidence: Evidence, *, weight: float) -> Floats:
    """Scores of the candidates. *Shape:* (candidates,)."""
    scores = evidence.lexical + SHARE * evidence.share + weight * evidence.z
    return np.asarray(scores, dtype=np.float32)


def standardised(scores: Floats, background: Floats) -> Floats:
    """Standard deviations above the mean of the background's scores; all 0 if those do not differ."""
    if not len(background):
        return np.zeros_like(scores)
    spread = float(background.std())
    if not math.isfinite(spread) or spread < 1e-9:
        return np.zeros_like(scores)
    return np.asarray((scores - background.mean()) / spread, dtype=np.float32)
