"""Questions with the places that must be found -> recall, MRR, nDCG and refusals, dense, lexical and hybrid side by side."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kb.analyze import fold
from kb.calibration import calibration_of
from kb.errors import DataError
from kb.knowledge import KnowledgeBase
from kb.questions import Place, Question
from kb.search import MODES, Mode, SearchOptions, hits_of, rank
from kb.types import Embedder, Hit

DEPTH = 10
DEFAULTS = SearchOptions()
RESAMPLES = 1000
_BLANK = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its 95 % interval from resampled questions. All 0 to 1."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ModeReport:
    """One way of searching."""

    mode: Mode
    recall_1: Figure
    """Part of the right places among the first hit; a question with several places counts each."""
    recall_5: Figure
    recall_10: Figure
    mrr_10: Figure
    ndcg_10: Figure
    refused_wrongly: Figure
    """Part of the answerable questions whose best hit lies below the threshold."""
    answered_wrongly: Figure
    """Part of the unanswerable questions whose best hit does not."""


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """What `evaluate_retrieval` measured."""

    kb: str
    embedder: str
    answerable: int
    unanswerable: int
    threshold: float
    modes: tuple[ModeReport, ...]
    seconds: float
    unknown: tuple[str, ...] = ()
    """Files that questions name and the knowledge base does not have."""

    def table(self, *, zh: bool = False) -> str:
        """For a terminal: one line a mode, means with their intervals; with `zh` the words are Chinese."""
        head = (
            "",
            "recall@1",
            "recall@5",
            "recall@10",
            "MRR@10",
            "nDCG@10",
            "误拒" if zh else "refused wrongly",
            "误答" if zh else "answered wrongly",
        )
        rows: list[tuple[str, ...]] = [head]
        for report in self.modes:
            figures = [f for f in asdict(report).values() if isinstance(f, dict)]
            rows.append((report.mode, *(_shown(Figure(**f)) for f in figures)))
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(width - sum(c > "\u2fff" for c in cell))
                for cell, width in zip(row, widths, strict=True)
            ).rstrip()
            for row in rows
        ]
        counts = f"{self.kb}: {self.answerable} + {self.unanswerable} unanswerable, {self.embedder}, {self.seconds:.1f} s"
        if zh:
            counts = f"{self.kb}：{self.answerable} 题有答案，{self.unanswerable} 题没有；{self.embedder}，{self.seconds:.1f} 秒"
        return "\n".join([counts, *lines])

    def to_json(self) -> str:
        """All figures as one JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)

    def save_picture(self, path: Path) -> None:
        """Bars with intervals, as PNG."""
        from kb.picture import bars

        names = ["recall@1", "recall@5", "recall@10", "MRR@10", "nDCG@10"]
        series: dict[str, list[tuple[float, float, float]]] = {
            report.mode: [
                (f.mean, f.low, f.high)
                for f in (report.recall_1, report.recall_5, report.recall_10, report.mrr_10, report.ndcg_10)
            ]
            for report in self.modes
        }
        bars(path, names, series, title=f"{self.kb} · {self.answerable} questions · {self.embedder}")


def evaluate_retrieval(
    kb: KnowledgeBase,
    questions: Sequence[Question],
    *,
    embedder: Embedder,
    modes: Sequence[Mode] = MODES,
    options: SearchOptions = DEFAULTS,
    seed: int = 0,
) -> RetrievalReport:
    """Search each question in each mode; ranks are those of passages, before joining and dropping duplicates.

    Raises DataError if there is no question, EmbedderMismatch.
    """
    if not questions:
        raise DataError("there is no question to evaluate with.", zh="没有可用来评估的问题。")
    began = time.perf_counter()
    kb.require(embedder)
    calibration = calibration_of(kb)
    threshold = calibration.threshold if options.threshold is None else options.threshold
    vectors = embedder.encode_queries([q.text for q in questions])
    reports = []
    for mode in modes:
        wanted = SearchOptions(limit=DEPTH, mode=mode, depth=options.depth)
        rows: list[list[float]] = []
        refused: list[bool] = []
        for number, question in enumerate(questions):
            ranked, _ = rank(
                kb, question.text, vectors[number : number + 1], options=wanted, calibration=calibration
            )
            hits = hits_of(kb, ranked, options=wanted)[:DEPTH]
            refused.append(not hits or max(h.confidence for h in hits) < threshold)
            if question.answerable:
                rows.append(scores(hits, question.places))
        reports.append(_report(mode, rows, questions, refused, seed))
    return RetrievalReport(
        kb=kb.name,
        embedder=embedder.name,
        answerable=sum(q.answerable for q in questions),
        unanswerable=sum(not q.answerable for q in questions),
        threshold=threshold,
        modes=tuple(reports),
        seconds=time.perf_counter() - began,
        unknown=_unknown(kb, questions),
    )


def scores(hits: Sequence[Hit], places: Sequence[Place]) -> list[float]:
    """recall@1, @5, @10, reciprocal rank, nDCG@10 of one question; each place counts once, at its first hit."""
    ranks = [next((i for i, hit in enumerate(hits) if is_right(hit, place)), DEPTH) for place in places]
    recalls = [sum(r < k for r in ranks) / len(places) for k in (1, 5, 10)]
    first = min(ranks)
    gain = sum(1 / math.log2(2 + r) for r in sorted({r for r in ranks if r < DEPTH}))
    ideal = sum(1 / math.log2(2 + r) for r in range(min(len(set(ranks)), DEPTH)))
    return [*recalls, 1 / (1 + first) if first < DEPTH else 0.0, gain / ideal]


def is_right(hit: Hit, place: Place) -> bool:
    """Is this the file, does the passage touch the page, does it hold the words?"""
    if place.file and place.file not in (hit.document.name, hit.document.name.rsplit("/", 1)[-1]):
        return False
    if place.page and place.page not in {span.page for span in hit.passage.spans}:
        return False
    return not place.passage or _plain(place.passage) in _plain(hit.passage.text)


def _plain(text: str) -> str:
    return _BLANK.sub("", fold(text))


def _report(
    mode: Mode, rows: list[list[float]], questions: Sequence[Question], refused: list[bool], seed: int
) -> ModeReport:
    wrongly = [float(r) for q, r in zip(questions, refused, strict=True) if q.answerable]
    answered = [float(not r) for q, r in zip(questions, refused, strict=True) if not q.answerable]
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), 5).T
    first, fifth, tenth, reciprocal, gain = (figure(column, seed=seed) for column in columns)
    return ModeReport(
        mode,
        first,
        fifth,
        tenth,
        reciprocal,
        gain,
        figure(np.array(wrongly), seed=seed),
        figure(np.array(answered), seed=seed),
    )


def figure(values: NDArray[np.float64], *, seed: int = 0) -> Figure:
    """Mean and bootstrap interval of the mean; all NaN if there is no value."""
    if not len(values):
        return Figure(math.nan, math.nan, math.nan)
    draw = np.random.default_rng(seed)
    means = values[draw.integers(0, len(values), size=(RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Figure(float(values.mean()), float(low), float(high))


def _shown(found: Figure) -> str:
    return "-" if math.isnan(found.mean) else f"{found.mean:.3f} [{found.low:.2f}, {found.high:.2f}]"


def _unknown(kb: KnowledgeBase, questions: Sequence[Question]) -> tuple[str, ...]:
    named = {place.file for q in questions for place in q.places if place.file}
    known = {d.name for d in kb.store.documents()}
    known |= {name.rsplit("/", 1)[-1] for name in known}
    return tuple(sorted(named - known))
