"""What was measured in a knowledge base: how far its embedder can be trusted, and what a score says about an answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from kb.fusion import USUAL_TRUST, Evidence, Floats
from kb.knowledge import KnowledgeBase

KEY = "calibration"
VERSION = 2


@dataclass(frozen=True, slots=True)
class Calibration:
    """Kept with a knowledge base; the defaults stand for one that was never measured."""

    trust: float = USUAL_TRUST
    """Reciprocal ranks of the dense leg over that of the lexical leg on pseudo-questions; 1: equally good."""
    threshold: float = 0.5
    """Refuse if the best hit's confidence is below it."""
    bias: float = -5.0
    """Confidence is the logistic function of bias + share * (share of the question's terms) + words * (BM25 over its
    bound) + dense * (dense score)."""
    share: float = 9.0
    words: float = 11.0
    dense: float = 0.0
    questions: int = 0
    """Pseudo-questions that it was measured with; 0: nothing was measured."""
    refused: float = 0.0
    """Part of the answerable pseudo-questions that the threshold refuses."""
    accepted: float = 0.0
    """Part of the unanswerable pseudo-questions that it lets through."""
    embedder: str = ""
    """Fingerprint of the embedder that was measured."""
    chunks: int = 0
    """Chunks of the knowledge base at that time."""
    version: int = VERSION

    def confidence(self, evidence: Evidence) -> Floats:
        """Of each candidate. *Range:* 0 to 1; grows with its share and its dense score."""
        raw = (
            self.bias
            + self.share * evidence.share
            + self.words * evidence.lexical
            + self.dense * evidence.dense
        )
        return np.asarray(1.0 / (1.0 + np.exp(-raw)), dtype=np.float32)


def calibration_of(kb: KnowledgeBase) -> Calibration:
    """What was measured for this knowledge base with its embedder; the defaults if nothing was."""
    found = kb.value(KEY)
    if not isinstance(found, dict) or found.get("version") != VERSION:
        return Calibration()
    if found.get("embedder") != kb.embedder_record.fingerprint:
        return Calibration()
    return Calibration(**found)


def keep(kb: KnowledgeBase, calibration: Calibration) -> None:
    """Write it into the knowledge base."""
    kb.set_value(KEY, asdict(calibration))
