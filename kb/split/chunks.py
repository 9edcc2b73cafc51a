"""Drafts -> passages with chunks: sentences packed within the token limit, with heading path and table header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kb.split.config import SplitConfig
from kb.split.passages import Draft, Part
from kb.split.sentences import grouped, sentence_spans
from kb.types import ChunkSpan, Passage, TokenCounter

_SOFT = "，、：,:;；|\t 　\n"
"""Where a sentence that is too long is cut, if one of these stands in the second half of what fits."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """A sentence, row or line of a passage, up to the beginning of the next one."""

    draft: int
    start: int
    end: int
    header: str
    path: tuple[str, ...]


class _Prefixes:
    """Heading path and table header, as much as fits the share of a chunk; remembered per document."""

    def __init__(self, *, counter: TokenCounter, room: int) -> None:
        self._counter, self._room = counter, room
        self._known: dict[tuple[tuple[str, ...], str], tuple[str, int]] = {}

    def of(self, headings: tuple[str, ...], header: str) -> tuple[str, int]:
        """(text, tokens); the text ends with a line break if it is not empty."""
        key = (headings, header)
        if key not in self._known:
            self._known[key] = self._made(headings, header)
        return self._known[key]

    def _made(self, headings: tuple[str, ...], header: str) -> tuple[str, int]:
        head = self._fitted(header, self._room)
        left = self._room - self._count(head)
        path = ""
        for first in range(len(headings)):
            if self._count(" ".join(headings[first:])) <= left:
                path = " ".join(headings[first:])
                break
        else:
            if headings:
                path = self._fitted(headings[-1], left)
        text = "".join(f"{line}\n" for line in (path, head) if line)
        tokens = self._count(text)
        return (text, tokens) if tokens <= self._room else ("", 0)

    def _count(self, text: str) -> int:
        return self._counter.count_tokens([text])[0] if text else 0

    def _fitted(self, text: str, room: int) -> str:
        """As much of the text's beginning as fits."""
        if not text or room <= 0:
            return ""
        spans = self._counter.token_spans(text)
        return text if len(spans) <= room else text[: spans[room][0]].rstrip()


def chunked(drafts: Sequence[Draft], *, counter: TokenCounter, config: SplitConfig) -> list[Passage]:
    """The passages. Tokens are counted in three batches a document: sentences, long sentences, finished chunks."""
    budget = max(1, min(counter.max_tokens, config.chunk_tokens))
    prefixes = _Prefixes(counter=counter, room=int(budget * config.prefix_share))
    segments = [segment for at, draft in enumerate(drafts) for segment in _segments(at, draft)]
    counts = counter.count_tokens([drafts[s.draft].text[s.start : s.end] for s in segments])
    runs: dict[tuple[int, int], tuple[list[_Segment], list[int]]] = {}
    group = 0
    for at, (segment, count) in enumerate(zip(segments, counts, strict=True)):
        if at and _key(segment) != _key(segments[at - 1]):
            group += 1
        members, sizes = runs.setdefault((segment.draft, group), ([], []))
        members.append(segment)
        sizes.append(count)
    chunks: list[list[ChunkSpan]] = [[] for _ in drafts]
    for (at, _), (members, sizes) in runs.items():
        draft = drafts[at]
        prefix, taken = prefixes.of(members[0].path, members[0].header)
        spans, amounts = _fitting(draft.text, members, sizes, limit=budget - taken, counter=counter)
        for start, end in grouped(spans, amounts, limit=budget - taken):
            if draft.text[start:end].strip():
                chunks[at].append(
                    _chunk(draft.text, start, end, of=members[0], prefix=prefix, prefixes=prefixes)
                )
    bounded = _bounded(drafts, chunks, counter=counter, limit=budget)
    return [Passage(d.text, d.headings, d.spans, tuple(c)) for d, c in zip(drafts, bounded, strict=True)]


def _segments(at: int, draft: Draft) -> list[_Segment]:
    """Sentences of text, whole rows and lines; each goes on to the next one's beginning."""
    found: list[tuple[int, int, Part]] = []
    below: Part | None = None
    for part in reversed(draft.parts):
        below = part if below is None or part.kind != "heading" else below  # a heading goes with what follows
        spans = [(part.start, part.end)]
        if part.kind == "text":
            spans = sentence_spans(draft.text, part.start, part.end)
        found.extend((start, end, below) for start, end in reversed(spans))
    found.reverse()
    ends = [start for start, _, _ in found[1:]] + [len(draft.text)]
    return [
        _Segment(at, start, end, part.header, part.path)
        for (start, _, part), end in zip(found, ends, strict=True)
    ]


def _key(segment: _Segment) -> tuple[int, str, tuple[str, ...]]:
    """Chunks hold segments of one passage, one table or none, one section."""
    return segment.draft, segment.header, segment.path


def _fitting(
    text: str, members: Sequence[_Segment], sizes: Sequence[int], *, limit: int, counter: TokenCounter
) -> tuple[list[tuple[int, int]], list[int]]:
    """Spans of at most `limit` tokens and their token counts: sentences, and pieces of those that are too long."""
    spans: list[tuple[int, int]] = []
    amounts: list[int] = []
    for segment, size in zip(members, sizes, strict=True):
        pieces = [(segment.start, segment.end)]
        if size > limit:
            pieces = _cut(text, segment.start, segment.end, limit=limit, counter=counter)
            amounts.extend(counter.count_tokens([text[a:b] for a, b in pieces]))
        else:
            amounts.append(size)
        spans.extend(pieces)
    return spans, amounts


def _cut(text: str, start: int, end: int, *, limit: int, counter: TokenCounter) -> list[tuple[int, int]]:
    """Spans of at most about `limit` tokens, cut after a comma or space where one is near, else between tokens."""
    tokens = counter.token_spans(text[start:end])
    pieces, first, at = [], start, 0
    while len(tokens) - at > limit:
        stop = max(start + tokens[at + limit][0], first + 1)
        soft = next((i for i in range(stop, (first + stop) // 2, -1) if text[i - 1] in _SOFT), stop)
        pieces.append((first, soft))
        first = soft
        while at < len(tokens) and start + tokens[at][0] < first:
            at += 1
    if first < end:
        pieces.append((first, end))
    return pieces


def _chunk(text: str, start: int, end: int, *, of: _Segment, prefix: str, prefixes: _Prefixes) -> ChunkSpan:
    """A chunk without white space at its ends; headings and header that it holds itself are not said twice."""
    body = text[start:end]
    start += len(body) - len(body.lstrip())
    body = body.strip()
    if prefix:
        outside = tuple(name for name in of.path if name not in body)
        header = "" if of.header in body else of.header
        prefix, _ = prefixes.of(outside, header)
    return ChunkSpan(start, start + len(body), prefix + body)


def _bounded(
    drafts: Sequence[Draft], chunks: Sequence[Sequence[ChunkSpan]], *, counter: TokenCounter, limit: int
) -> list[list[ChunkSpan]]:
    """The promise kept: every chunk is counted as it is; one that is over loses its prefix, then is cut."""
    counts = iter(counter.count_tokens([chunk.text for of_one in chunks for chunk in of_one]))
    return [
        [
            kept
            for chunk in of_one
            for kept in _within(draft, chunk, next(counts), counter=counter, limit=limit)
        ]
        for draft, of_one in zip(drafts, chunks, strict=True)
    ]


def _within(
    draft: Draft, chunk: ChunkSpan, count: int, *, counter: TokenCounter, limit: int
) -> list[ChunkSpan]:
    if count <= limit:
        return [chunk]
    body = draft.text[chunk.start : chunk.end]
    if body != chunk.text:
        bare = ChunkSpan(chunk.start, chunk.end, body)
        return _within(draft, bare, counter.count_tokens([body])[0], counter=counter, limit=limit)
    if len(body) == 1:
        return [chunk]  # one character that is more tokens than the limit: cannot be made shorter
    spans = _cut(draft.text, chunk.start, chunk.end, limit=max(1, limit * 3 // 4), counter=counter)
    if len(spans) == 1:
        middle = (chunk.start + chunk.end) // 2
        spans = [(chunk.start, middle), (middle, chunk.end)]
    pieces = [ChunkSpan(a, b, draft.text[a:b]) for a, b in spans if draft.text[a:b].strip()]
    counts = counter.count_tokens([piece.text for piece in pieces])
    return [
        kept
        for piece, size in zip(pieces, counts, strict=True)
        for kept in _within(draft, piece, size, counter=counter, limit=limit)
    ]
