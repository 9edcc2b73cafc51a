"""Answers without a language model: the sentences, rows and items of the sources that answer, word for word.

Each piece of the passages found is scored by how much of the question it holds (rare terms count more), by the embedder, by
whether it has the kind of thing that is asked for (几天: a number of days), and by how well its passage was found.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kb.types import Embedder, Hit, Vectors
from rag.question import Question, source_terms
from rag.sentence import Unit, units


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    """How much is quoted. The defaults were measured in tests/bench/answers.py."""

    most: int = 3
    """Pieces at the most; rows of one table that belong together count once."""
    passages: int = 5
    """Passages looked at, best first."""
    max_chars: int = 400
    """Characters quoted in all, but the best piece is always whole."""
    near: float = 0.7
    """A further piece of the passage that has the best one needs this share of its score."""
    elsewhere: float = 0.82
    """A piece of another passage needs this share."""
    kind: float = 0.5
    """What a piece needs of the best score to be added because it alone has the kind of thing that is asked for."""
    alike: float = 0.93
    """Rows and items that hold at least this share of what the best one holds of the question are shown with it."""
    most_rows: int = 12
    """Rows of a table that are shown together when the question fits all of them alike."""


@dataclass(frozen=True, slots=True)
class Extract:
    """A piece of a passage that answers: `hit.passage.text[start:end]`."""

    hit: Hit
    start: int
    end: int
    rows: tuple[tuple[int, int], ...] = ()
    """A table: the header, then the rows that are shown; `start` and `end` enclose the rows."""
    lead: tuple[int, int] | None = None
    """What is shown before it: the sentence that leads into the list."""
    score: float = 0.0

    @property
    def quote(self) -> str:
        return self.hit.passage.text[self.start : self.end]


@dataclass(slots=True)
class _Candidate:
    hit: Hit
    rank: int
    unit: Unit
    context: str
    """Heading path, header, lead-in or the sentence before: read with it, counted less."""
    replies: bool = False
    """The sentence before it is a question: this one may be its answer."""
    terms: set[str] = field(default_factory=set)
    around: set[str] = field(default_factory=set)
    score: float = 0.0

    @property
    def text(self) -> str:
        return self.hit.passage.text[self.unit.start : self.unit.end]


_AROUND = 0.55
"""What a question term counts that stands in the context only."""
_REPLY = 0.85
"""The same where the sentence before is a question."""
_APART = 0.8
"""What a pair of characters counts that stands there with one or two others between."""
_WEIGHTS = {"cover": 1.0, "dense": 0.6, "fit": 0.3, "rank": 0.25, "range": 0.35}
_TOO_SHORT = 4
"""Characters; shorter sentences say nothing alone."""


def extract(
    question: str,
    hits: Sequence[Hit],
    *,
    embedder: Embedder | None = None,
    options: ExtractOptions = ExtractOptions(),
) -> list[Extract]:
    """What of `hits` answers `question`, in reading order (passages by rank). Empty only if the hits have no text.

    Without an embedder the words alone decide.
    """
    asked = Question(question)
    candidates = _candidates(hits[: options.passages])
    if not candidates:
        return []
    _score(asked, candidates, embedder)
    return _in_order(_chosen(asked, candidates, options))


def _candidates(hits: Sequence[Hit]) -> list[_Candidate]:
    """Every piece of the passages that is not a heading, with what is read with it."""
    found: list[_Candidate] = []
    seen: set[str] = set()
    for rank, hit in enumerate(hits):
        text, before, heading = hit.passage.text, "", ""
        path = " ".join(hit.passage.headings)
        for unit in units(text, headings=hit.passage.headings):
            words = text[unit.start : unit.end]
            if unit.kind == "heading":
                heading, before = words, ""
                continue
            around = [path, heading, before]
            around += [text[span[0] : span[1]] for span in (unit.header, unit.lead) if span is not None]
            key = "".join(words.split())
            if len(key) >= _TOO_SHORT and key not in seen:
                replies = before.endswith(("?", "？"))
                found.append(_Candidate(hit, rank, unit, " ".join(around), replies=replies))
                seen.add(key)
            before = words if unit.kind != "row" else ""
    return found


def _score(asked: Question, candidates: list[_Candidate], embedder: Embedder | None) -> None:
    """Set `score` of each candidate, about 0 to 2.5."""
    counts: Counter[str] = Counter()
    for candidate in candidates:
        candidate.terms = set(source_terms(candidate.text))
        candidate.around = set(source_terms(candidate.context))
        counts.update(candidate.terms)
    weights = {
        term: _size(term) * math.log(1 + (len(candidates) + 1) / (counts[term] + 0.5)) for term in asked.terms
    }
    total = sum(weights.values()) or 1.0
    dense = _similarities(asked.text, candidates, embedder)
    for candidate, similarity in zip(candidates, dense, strict=True):
        cover = sum(w * _held(term, candidate) for term, w in weights.items()) / total
        candidate.score = (
            _WEIGHTS["cover"] * cover
            + _WEIGHTS["dense"] * similarity
            + _WEIGHTS["fit"] * asked.fits(candidate.text)
            + _WEIGHTS["range"] * asked.in_range(candidate.text)
            + _WEIGHTS["rank"] / (1 + candidate.rank)
        )
        candidate.score -= 0.25 * candidate.text.rstrip("”’\"'）)").endswith(
            ("？", "?")
        )  # a question is no answer


def _held(term: str, candidate: _Candidate) -> float:
    """1 if the piece has the term, less if only its context has it or its characters stand near each other (年假: 年休假)."""
    if term in candidate.terms:
        return 1.0
    if term in candidate.around:
        return _REPLY if candidate.replies else _AROUND
    if len(term) == 2 and not term.isascii():
        near = re.compile(f"{re.escape(term[0])}.{{1,2}}{re.escape(term[1])}")
        if near.search(candidate.text):
            return _APART
        return _AROUND * _APART if near.search(candidate.context) else 0.0
    return 0.0


def _size(term: str) -> float:
    """What a term weighs by its form: a single Chinese character says less than a pair, a model's number more."""
    if term.startswith("="):
        return 1.2
    if term.isascii() and any(c.isdigit() for c in term) and any(c.isalpha() for c in term):
        return 4.0
    return 1.0 if len(term) > 1 else 0.45


def _similarities(question: str, candidates: list[_Candidate], embedder: Embedder | None) -> list[float]:
    """Cosine of each piece, its context in front, to the question; 0 to 1."""
    if embedder is None:
        return [0.0] * len(candidates)
    query = embedder.encode_queries([question])[0]
    alone = embedder.encode_passages([candidate.text for candidate in candidates])
    with_context = embedder.encode_passages([f"{c.context} {c.text}" for c in candidates])
    norm = float(np.linalg.norm(query)) or 1.0

    def cosine(vectors: Vectors) -> Vectors:
        found: Vectors = vectors @ query / (np.maximum(np.linalg.norm(vectors, axis=1), 1e-9) * norm)
        return found

    both = 0.6 * cosine(alone) + 0.4 * cosine(with_context)
    return [max(0.0, float(value)) for value in both]


def _chosen(asked: Question, candidates: list[_Candidate], options: ExtractOptions) -> list[Extract]:
    """The best piece, then others that are nearly as good or that bring terms of the question still missing."""
    ranked = sorted(candidates, key=lambda c: (-c.score, c.rank, c.unit.start))
    best = ranked[0]
    taken = [_whole(asked, best, candidates, options)]
    held = best.terms | best.around
    size = len(taken[0].quote)
    for candidate in ranked[1:]:
        share = candidate.score / best.score if best.score > 0 else 0.0
        if len(taken) >= options.most or share < min(options.near, options.elsewhere):
            break
        if share < (options.near if candidate.hit is best.hit else options.elsewhere):
            continue
        extract = _whole(asked, candidate, candidates, options)
        if any(_overlap(extract, other) for other in taken):
            continue
        new = any(term in candidate.terms and term not in held for term in asked.terms)
        if size + len(extract.quote) > options.max_chars or not (new or share >= options.near + 0.12):
            continue
        taken.append(extract)
        held |= candidate.terms
        size += len(extract.quote)
    if len(taken) < options.most and (more := _of_the_kind(asked, taken, ranked, options)) is not None:
        taken.append(_whole(asked, more, candidates, options))
    return taken


def _of_the_kind(
    asked: Question, taken: list[Extract], ranked: list[_Candidate], options: ExtractOptions
) -> _Candidate | None:
    """If a number or date is asked for and none was taken: the best piece of the same passage that has one."""
    shown = " ".join(e.hit.passage.text[(e.rows or ((e.start, 0),))[0][0] : e.end] for e in taken)
    if not asked.measured or asked.fits(shown) >= 1.0:
        return None
    for candidate in ranked[1:]:
        if candidate.score < options.kind * ranked[0].score:
            return None
        if candidate.hit is ranked[0].hit and asked.fits(candidate.text) >= 1.0:
            piece = _whole(asked, candidate, ranked, options)
            if not any(_overlap(piece, other) for other in taken):
                return candidate
    return None


def _whole(
    asked: Question, chosen: _Candidate, candidates: list[_Candidate], options: ExtractOptions
) -> Extract:
    """The candidate as it is shown: a row with its header and the rows that fit alike, an item with its list's lead-in,
    a sentence that leads into a table or list with what it leads into."""
    unit = chosen.unit
    here = (unit.start, unit.end)
    led = [c for c in candidates if c.hit is chosen.hit and c.unit.lead == here]
    if any(c.unit.kind == "row" for c in led):
        rows = [c for c in led if c.unit.kind == "row"]
        return _table(asked, max(rows, key=lambda c: c.score), candidates, options)
    if unit.kind == "row":
        return _table(asked, chosen, candidates, options)
    if led:
        items = _items(max(led, key=lambda c: c.score), led, options, whole=True)
        return replace(items, score=chosen.score)
    if unit.lead is not None:
        listed = [c for c in candidates if c.hit is chosen.hit and c.unit.lead == unit.lead]
        return _items(chosen, listed, options, whole=not asked.kinds)
    return Extract(chosen.hit, unit.start, unit.end, score=chosen.score)


def _table(
    asked: Question, chosen: _Candidate, candidates: list[_Candidate], options: ExtractOptions
) -> Extract:
    """A row with the rows of its table that fit alike."""
    unit = chosen.unit
    table = [c for c in candidates if c.hit is chosen.hit and c.unit.table == unit.table]
    own = {id(c): _own(asked, c) for c in table}
    best = max(own.values())
    alike = [c for c in table if own[id(c)] >= options.alike * best] if best > 0 else table
    if len(alike) > options.most_rows:
        alike = [chosen]
    spans = sorted((c.unit.start, c.unit.end) for c in alike)
    rows = (unit.header, *spans) if unit.header is not None else tuple(spans)
    return Extract(chosen.hit, spans[0][0], spans[-1][1], rows=rows, lead=unit.lead, score=chosen.score)


def _own(asked: Question, candidate: _Candidate) -> float:
    """What a row itself has of the question, its table's header and lead-in aside."""
    held = sum(_size(term) for term in asked.terms if term in candidate.terms and len(term) > 1)
    return held + 2 * asked.in_range(candidate.text)


def _items(chosen: _Candidate, listed: list[_Candidate], options: ExtractOptions, *, whole: bool) -> Extract:
    """The item, or the whole list if it was asked for or its items fit alike, and if it is not too long."""
    alike = [c for c in listed if c.score >= options.alike * chosen.score]
    start, end = min(c.unit.start for c in listed), max(c.unit.end for c in listed)
    if (whole or 2 * len(alike) > len(listed) > 1) and end - start <= options.max_chars:
        return Extract(chosen.hit, start, end, lead=chosen.unit.lead, score=chosen.score)
    unit = chosen.unit
    return Extract(chosen.hit, unit.start, unit.end, lead=unit.lead, score=chosen.score)


def _overlap(a: Extract, b: Extract) -> bool:
    """Whether two extracts show the same text, or one is the lead-in of the other."""
    if a.hit is not b.hit:
        return False
    if a.lead and a.lead[0] < b.end and b.start < a.lead[1]:
        return True
    if b.lead and b.lead[0] < a.end and a.start < b.lead[1]:
        return True
    return a.start < b.end and b.start < a.end


def _in_order(extracts: list[Extract]) -> list[Extract]:
    """The passage of the best piece first, then by score of each passage's best; inside a passage as it stands there."""
    best: dict[int, float] = {}
    for extract in extracts:
        best[id(extract.hit)] = max(best.get(id(extract.hit), 0.0), extract.score)
    return sorted(extracts, key=lambda e: (-best[id(e.hit)], e.lead[0] if e.lead else e.start))
