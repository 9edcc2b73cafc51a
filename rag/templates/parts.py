"""The parts of a rendered conversation -> segments of ids.

Text between two special tokens is one run: it is tokenised as a whole, as the model's own tokenizer would do it, but
with special tokens off. Only where the assistant begins is a run cut, because answering begins there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rag.templates.vocabulary import Vocabulary
from rag.types import EncodedChat, Segment


@dataclass(frozen=True, slots=True)
class Part:
    """A special token, or text of one origin."""

    kind: str
    """"start", "role", "header", "content" or "end"."""
    role: str
    turn: int
    """Number of the message."""
    text: str
    token: int = -1
    """Id of a special token; -1 for text."""
    own: bool = False
    """Whether the assistant writes it: the loss is there in training."""

    @property
    def origin(self) -> tuple[str, str, int, bool]:
        """What neighbours of one segment have in common."""
        return self.kind, self.role, self.turn, self.own


def literal(text: str, like: Part, *, vocabulary: Vocabulary) -> list[Part]:
    """Text of a template as parts of the kind of `like`, its special tokens as ids."""
    return [
        Part(like.kind, like.role, like.turn, piece, own=like.own)
        if isinstance(piece, str)
        else Part(like.kind, like.role, like.turn, vocabulary.piece(piece), piece, like.own)
        for piece in vocabulary.split(text)
    ]


def encoded(parts: Sequence[Part], *, vocabulary: Vocabulary, train: bool) -> EncodedChat:
    """The whole as segments: neighbours of one origin are one segment. `train`: with the loss on the assistant's words."""
    pairs: list[tuple[Part, int]] = []
    for special, group in groupby(parts, key=lambda part: part.token >= 0):
        if special:
            pairs += [(part, part.token) for part in group]
        else:
            pairs += _run(list(group), vocabulary, first=not pairs)
    texts: dict[tuple[str, str, int, bool], str] = {}
    for part in parts:
        texts[part.origin] = texts.get(part.origin, "") + part.text
    segments = []
    for same in _runs(pairs):
        first = same[0][0]
        ids = tuple(token for _, token in same)
        segments.append(Segment(first.kind, first.role, texts[first.origin], ids, first.own and train))
    return EncodedChat(tuple(segments))


def _runs(pairs: Sequence[tuple[Part, int]]) -> list[list[tuple[Part, int]]]:
    """Neighbours of one origin together."""
    out: list[list[tuple[Part, int]]] = []
    before: Part | None = None
    for pair in pairs:
        part = pair[0]
        if part is before or (before is not None and part.origin == before.origin):
            out[-1].append(pair)
        else:
            out.append([pair])
        before = part
    return out


def _run(parts: list[Part], vocabulary: Vocabulary, *, first: bool) -> list[tuple[Part, int]]:
    """Ids of neighbouring texts. What the assistant writes never changes the ids before it."""
    cut = next((i for i, part in enumerate(parts) if part.own), len(parts))
    before, after = parts[:cut], parts[cut:]
    head = _joined(before, vocabulary, first=first)
    if not after:
        return head
    if not before:
        return _joined(after, vocabulary, first=first)
    whole = _joined(parts, vocabulary, first=first)
    if whole[: len(head)] == head and (len(whole) == len(head) or whole[len(head)][0].own):
        return whole
    return head + _joined(after, vocabulary, first=False)


def _joined(parts: Sequence[Part], vocabulary: Vocabulary, *, first: bool) -> list[tuple[Part, int]]:
    if not parts:
        return []
    text, ends = "", []
    for part in parts:
        text += part.text
        ends.append(len(text))
    ids, begins = vocabulary.run(text, first=first)
    if len(parts) == 1:
        return [(parts[0], token) for token in ids]
    last = len(parts) - 1
    out: list[tuple[Part, int]] = []
    at, owner, end = 0, parts[0], ends[0]
    for begin, token in zip(begins, ids, strict=True):
        while begin >= end and at < last:
            at += 1
            owner, end = parts[at], ends[at]
        out.append((owner, token))
    return out
