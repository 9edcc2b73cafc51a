"""Hits as a reader wants them: no text twice, neighbouring passages as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from kb.analyze import fold
from kb.types import Dropped, Hit, Span

PIECE = 4
"""Characters of a piece (shingle)."""
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*|[〇零一二三四五六七八九十百千万亿]+")
_BLANK = re.compile(r"\s+")


def pieces(text: str) -> frozenset[str]:
    """All runs of four characters of the folded text, white space left out."""
    plain = _BLANK.sub("", fold(text))
    return frozenset(plain[i : i + PIECE] for i in range(max(1, len(plain) - PIECE + 1)))


def numbers(text: str) -> frozenset[str]:
    """The numbers of a text: two price lists may differ in nothing else."""
    return frozenset(_NUMBER.findall(fold(text)))


def without_duplicates(hits: Sequence[Hit], *, limit: int, share: float) -> tuple[list[Hit], list[Dropped]]:
    """Drop a hit if one above it says the same: `share` of their pieces are common (Jaccard) and all numbers are.

    Looks no further than it needs to for `limit` hits.
    """
    kept: list[Hit] = []
    seen: list[tuple[frozenset[str], frozenset[str]]] = []
    dropped: list[Dropped] = []
    for place, hit in enumerate(hits):
        if len(kept) >= limit:
            return kept + list(hits[place:]), dropped
        own, digits = pieces(hit.passage.text), numbers(hit.passage.text)
        twin = any(
            digits == other_digits and len(own & other) >= share * len(own | other)
            for other, other_digits in seen
        )
        if twin:
            dropped.append(Dropped(hit.where, hit.score, "near-duplicate"))
            continue
        kept.append(hit)
        seen.append((own, digits))
    return kept, dropped


def join_neighbours(hits: Sequence[Hit], *, longest: int) -> tuple[list[Hit], list[Dropped]]:
    """Hits that follow each other in one document become one, in the place of the better one, up to `longest` characters."""
    found = list(hits)
    dropped: list[Dropped] = []
    place = 0
    while place < len(found):
        other = next(
            (i for i in range(place + 1, len(found)) if _adjacent(found[place], found[i], longest)), None
        )
        if other is None:
            place += 1
            continue
        hit = found.pop(other)
        dropped.append(Dropped(hit.where, hit.score, "joined"))
        found[place] = _joined(found[place], hit)
    return found, dropped


def _ordinals(hit: Hit) -> range:
    return range(hit.passage.ordinal, hit.passage.ordinal + 1 + len(hit.joined))


def _adjacent(one: Hit, two: Hit, longest: int) -> bool:
    if one.kb != two.kb or one.document.id != two.document.id:
        return False
    if len(one.passage.text) + len(two.passage.text) + 1 > longest:
        return False
    return _ordinals(one).stop == _ordinals(two).start or _ordinals(two).stop == _ordinals(one).start


def _joined(better: Hit, other: Hit) -> Hit:
    """The better hit with the other's text before or after its own; its chunk keeps pointing at the same words.

    The passage's ordinal becomes that of the first part, its id stays that of the better one.
    """
    first, second = (better, other) if _ordinals(better).stop == _ordinals(other).start else (other, better)
    shift = len(first.passage.text) + 1
    spans = first.passage.spans + tuple(
        Span(s.page, s.start, s.end, s.offset + shift) for s in second.passage.spans
    )
    passage = replace(
        better.passage,
        ordinal=first.passage.ordinal,
        text=f"{first.passage.text}\n{second.passage.text}",
        spans=spans,
        headings=_common(first.passage.headings, second.passage.headings),
    )
    moved = shift if second is better else 0
    chunk = replace(better.chunk, start=better.chunk.start + moved, end=better.chunk.end + moved)
    ids = (*better.joined, other.passage.id, *other.joined)
    return replace(
        better, passage=passage, chunk=chunk, joined=ids, confidence=max(better.confidence, other.confidence)
    )


def _common(one: tuple[str, ...], two: tuple[str, ...]) -> tuple[str, ...]:
    """The part of both heading paths that is the same; the first one's if they share nothing."""
    shared = []
    for a, b in zip(one, two, strict=False):
        if a != b:
            break
        shared.append(a)
    return tuple(shared) or one
