"""The values that cross borders: between the steps of `kb`, and from `kb` to `rag` and `ui`. All frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["ok", "suspect", "failed"]
"""ok: read as written; suspect: read, but look at it; failed: nothing usable was read."""

Metric = Literal["cosine", "ip", "l2"]
"""How two vectors are compared. Scores are always "higher is closer": l2 is reported as minus the squared distance."""

BlockKind = Literal["heading", "text", "table", "code"]

Vectors = NDArray[np.float32]
"""*Shape:* (texts, dimensions), float32."""


# ------------------------------------------------------------------ loading: file -> pages


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a page with one role. Blocks lie in order, do not overlap, and may leave gaps of white space."""

    kind: BlockKind
    start: int
    """First character in `Page.text`."""
    end: int
    """One past the last character in `Page.text`."""
    level: int = 0
    """Headings: 1 (highest) to 6. Everything else: 0."""
    header: str = ""
    """Tables: the header row as text; every piece of the table is shown with it. Everything else: empty."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a PDF, one slide, one sheet; a format without pages has a single page."""

    number: int
    """1-based position in the file."""
    text: str
    """Text as the reader should see it (NFC, "\\n" line ends, no control characters)."""
    blocks: tuple[Block, ...] = ()
    label: str = ""
    """What is printed on it: "iv", the sheet's name; empty if nothing."""
    verdict: Verdict = "ok"
    reasons: tuple[str, ...] = ()
    """Why it is not ok: short codes such as "no-text-layer", "unmapped-font", "mojibake", "guessed-encoding"."""
    ocr: bool = False
    """The text was read from the picture of the page."""


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """A document as text, before splitting."""

    path: Path
    kind: str
    """"pdf", "docx", "pptx", "xlsx", "csv", "html", "epub", "md", "txt", "json", "jsonl"."""
    pages: tuple[Page, ...]
    title: str = ""
    encoding: str = ""
    """Text formats: the encoding that was used, for example "gb18030". Others: empty."""
    notes: tuple[str, ...] = ()
    """What the person should know about the whole file, one short English code each."""

    @property
    def verdict(self) -> Verdict:
        """failed if no page was read, suspect if any page is not ok, else ok."""
        if not self.pages or all(page.verdict == "failed" for page in self.pages):
            return "failed"
        return "ok" if all(page.verdict == "ok" for page in self.pages) else "suspect"


# ------------------------------------------------------------------ splitting: pages -> passages -> chunks


@dataclass(frozen=True, slots=True)
class Span:
    """Where a piece of a passage stands in its source: `passage.text[offset:offset + end - start]` is
    `page.text[start:end]`."""

    page: int
    """Page number, 1-based."""
    start: int
    end: int
    offset: int
    """Where the piece begins in the passage's text."""


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """What is embedded and indexed: a part of a passage, never longer than the embedder's token limit."""

    start: int
    """First character in `Passage.text`."""
    end: int
    text: str
    """What the embedder reads: as much of the heading path or table header as fits, then `passage.text[start:end]`."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What the reader (person or language model) is shown: a few paragraphs of one document."""

    text: str
    headings: tuple[str, ...]
    """From the document's title down to the heading that it stands under."""
    spans: tuple[Span, ...]
    """In order; more than one where it goes over a page's end."""
    chunks: tuple[ChunkSpan, ...]

    @property
    def page(self) -> int:
        """The page it begins on, 1-based."""
        return self.spans[0].page


# ------------------------------------------------------------------ embedding


@runtime_checkable
class TokenCounter(Protocol):
    """What the splitter needs to know of an embedder."""

    @property
    def max_tokens(self) -> int:
        """Tokens of content that one text may have (special tokens and prefix are already taken off)."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens and prefix left out, nothing truncated."""
        ...

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """(start, end) in characters of each token of `text`, in order."""
        ...


@runtime_checkable
class Embedder(TokenCounter, Protocol):
    """Text -> vectors. Queries and passages may be treated differently (prefixes)."""

    @property
    def name(self) -> str:
        """What a person calls it: "zhiwen-embed-zh", "shibing624/text2vec-base-chinese"."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the vectors would: weights, pooling, prefix, metric. A knowledge base remembers it."""
        ...

    @property
    def dimensions(self) -> int: ...

    @property
    def metric(self) -> Metric: ...

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """*Shape:* (len(texts), dimensions). Unit length if the metric is cosine."""
        ...

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """*Shape:* (len(texts), dimensions). Unit length if the metric is cosine."""
        ...


# ------------------------------------------------------------------ what is stored, and what search returns


@dataclass(frozen=True, slots=True)
class Document:
    """One indexed file of a knowledge base."""

    id: int
    name: str
    """Path relative to the indexed folder, with "/" between parts."""
    kind: str
    digest: str
    """BLAKE2b-256 of the file's bytes, hex."""
    size: int
    """Bytes."""
    pages: int
    passages: int
    chunks: int
    verdict: Verdict
    title: str = ""
    encoding: str = ""
    notes: tuple[str, ...] = ()
    indexed_at: str = ""
    """ISO 8601, UTC."""


@dataclass(frozen=True, slots=True)
class StoredPassage:
    """A passage as the store keeps it."""

    id: int
    document_id: int
    ordinal: int
    """0-based position in its document."""
    text: str
    headings: tuple[str, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk as the store keeps it. Ids are never used twice in a knowledge base."""

    id: int
    passage_id: int
    document_id: int
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class LegScore:
    """What one way of searching said about a hit."""

    leg: Literal["dense", "lexical", "rerank"]
    rank: int
    """1 is best, counted among all candidates of both legs."""
    score: float
    """In the leg's own unit (cosine, BM25, cross-encoder); higher is closer."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that answers a question, with where it stands and why it was found."""

    kb: str
    document: Document
    passage: StoredPassage
    chunk: Chunk
    """The best chunk of the passage."""
    score: float
    """Fused score; higher is closer; comparable within one knowledge base only."""
    confidence: float
    """Calibrated, 0 to 1, comparable between knowledge bases: below the threshold of its knowledge base = refuse."""
    legs: tuple[LegScore, ...] = ()
    joined: tuple[int, ...] = ()
    """Ids of neighbouring passages whose text was joined to this one, if any."""

    @property
    def page(self) -> int:
        """The page on which the best chunk begins."""
        begun = [span.page for span in self.passage.spans if span.offset <= self.chunk.start]
        return begun[-1] if begun else self.passage.spans[0].page

    @property
    def where(self) -> str:
        """File and page as a person writes it: "handbook.pdf p.3"."""
        return f"{self.document.name} p.{self.page}"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate that search left out, for the trace."""

    where: str
    score: float
    reason: Literal["near-duplicate", "joined", "below-limit", "budget"]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Best first."""

    question: str
    hits: tuple[Hit, ...]
    threshold: float
    """Refuse if the best hit's confidence is below it."""
    dropped: tuple[Dropped, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    """Step -> seconds, for the trace."""

    @property
    def answerable(self) -> bool:
        return bool(self.hits) and self.hits[0].confidence >= self.threshold

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)


# ------------------------------------------------------------------ mirroring a folder

Change = Literal["added", "changed", "renamed", "deleted", "unchanged", "skipped"]


@dataclass(frozen=True, slots=True)
class PlannedChange:
    """What indexing would do with one file."""

    change: Change
    name: str
    """Relative path, "/" between parts."""
    size: int = 0
    reason: str = ""
    """Skipped: a short code ("unsupported-type", "symlink-outside", "too-large", ...)."""
    old_name: str = ""
    """Renamed: what it was called."""


@dataclass(frozen=True, slots=True)
class FileProblem:
    """One file that could not be read, or not wholly, in one line."""

    name: str
    verdict: Verdict
    reason: str
    """Short code(s), see `Page.reasons`, or the text of the LoadError."""
    advice: str = ""
    """What to do, English; `ui.text` knows the codes in Chinese."""
    reason_zh: str = ""
    """The text of the LoadError in Chinese; empty for codes."""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one run of indexing did."""

    kb: str
    counts: dict[Change, int]
    problems: tuple[FileProblem, ...]
    passages: int
    """In the knowledge base after the run."""
    chunks: int
    embedded: int
    """Chunks that went through the embedder in this run."""
    reused: int
    """Chunks whose vector was already known."""
    truncated_tokens: int
    """Tokens that the embedder did not see. Always 0; counted, not assumed."""
    seconds: float
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class SyncProgress:
    """Given to the progress callback after each document, and at the start of each step."""

    step: Literal["list", "hash", "read", "embed", "index", "calibrate", "done"]
    done: int
    total: int
    name: str = ""
    chunks: int = 0
    """Chunks written so far."""
