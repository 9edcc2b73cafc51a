"""Mirror a folder into a knowledge base: plan, then apply, one transaction per document.

Content decides what changed (BLAKE2b of the bytes); names, times and sizes only spare reading what cannot have changed.
Killed at any point, the next run ends in the state of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kb.errors import KnowledgeBaseError, LoadError
from kb.knowledge import KnowledgeBase
from kb.listing import FoundFile, Listing, list_folder
from kb.load import ADVICE, LOADER_VERSION, LoadLimits, OcrMode
from kb.lock import write_lock
from kb.reading import read_files
from kb.split import SPLITTER_VERSION, SplitConfig, split
from kb.store import HalfVectors, text_digest
from kb.types import (
    Change,
    Document,
    Embedder,
    FileProblem,
    LoadedFile,
    Passage,
    PlannedChange,
    SyncProgress,
    SyncReport,
)

Progress = Callable[[SyncProgress], None]
RACY_SECONDS = 2.0
"""A file that changed this shortly before it was hashed is hashed again: its time may not tell."""
EMBED_AT_ONCE = 1024
"""Chunks that are embedded together, and so the most that a kill can lose."""


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """How to mirror."""

    allow_empty: bool = False
    """Delete everything if the folder is empty."""
    wait: float = 0.0
    """Seconds to wait for another writer."""
    ocr: OcrMode = "auto"
    limits: LoadLimits = field(default_factory=LoadLimits)
    split: SplitConfig = field(default_factory=SplitConfig)
    workers: int = 0
    """Reading processes; 0: one for each two cores."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What mirroring would do."""

    changes: tuple[PlannedChange, ...]
    problems: tuple[FileProblem, ...]
    """Folders that could not be listed; what lies under them is left as it is."""
    digests: dict[str, str]
    """Name -> digest of every file that was looked at."""
    stats: dict[str, str]

    def counts(self) -> dict[Change, int]:
        kinds: tuple[Change, ...] = ("added", "changed", "renamed", "deleted", "unchanged", "skipped")
        return {kind: sum(c.change == kind for c in self.changes) for kind in kinds}


def plan(
    kb: KnowledgeBase,
    folder: Path,
    *,
    options: SyncOptions = SyncOptions(),
    progress: Progress = lambda step: None,
) -> Plan:
    """Compare the folder with the knowledge base; changes nothing.

    Raises KnowledgeBaseError if the folder is missing or cannot be listed, or if it is empty although the knowledge
    base is not (unless `allow_empty`).
    """
    if not folder.is_dir():
        raise KnowledgeBaseError(
            f"{folder} is not a folder. Give the folder that holds the documents.",
            zh=f"{folder} 不是文件夹。请给出存放文档的文件夹。",
        )
    progress(SyncProgress("list", 0, 0))
    listing = list_folder(folder, limits=options.limits)
    stored = kb.store.files()
    if "" in listing.unlisted or (not listing.files and stored and not options.allow_empty):
        raise KnowledgeBaseError(
            f"{folder} could not be listed or holds no document, but {kb.name!r} has {len(stored)}. Nothing was deleted. "
            "If the folder is really empty now, say --allow-empty.",
            zh=f"{folder} 无法列出或没有文档，而知识库 {kb.name!r} 里有 {len(stored)} 个。没有删除任何内容。"
            "如果文件夹确实已清空，请加 --allow-empty。",
        )
    version = content_version(options.split)
    digests, stats, unreadable = _digests(listing, stored, progress)
    changes = [*listing.skipped, *unreadable]
    gone = {n for n in stored if n not in digests and not _protected(n, listing, unreadable)}
    by_digest: dict[str, list[str]] = {}
    for name in sorted(gone):
        by_digest.setdefault(stored[name][0], []).append(name)
    for name, digest in digests.items():
        size = listing.files[name].size
        known = stored.get(name)
        if known and known[0] == digest:
            same = known[1] == version
            changes.append(PlannedChange("unchanged" if same else "changed", name, size))
        elif known:
            changes.append(PlannedChange("changed", name, size))
        elif (twins := by_digest.get(digest)) and stored[twins[0]][1] == version:
            old = twins.pop(0)
            gone.discard(old)
            changes.append(PlannedChange("renamed", name, size, old_name=old))
        else:
            changes.append(PlannedChange("added", name, size))
    changes += [PlannedChange("deleted", name) for name in gone]
    changes.sort(key=lambda c: c.name)
    problems = tuple(_problem(place, "failed", "unlisted-folder") for place in listing.unlisted)
    return Plan(tuple(changes), problems, digests, stats)


def content_version(config: SplitConfig) -> str:
    """What a document's passages depend on besides its bytes."""
    return f"{LOADER_VERSION}/{SPLITTER_VERSION}/{config}"


def _protected(name: str, listing: Listing, unreadable: Sequence[PlannedChange]) -> bool:
    """Is the file perhaps still there, though we could not see it?"""
    hidden = {c.name for c in unreadable} | {c.name for c in listing.skipped if c.reason == "unreadable"}
    return name in hidden or any(name.startswith(place) for place in listing.unlisted)


def _digests(
    listing: Listing, stored: dict[str, tuple[str, str, str]], progress: Progress
) -> tuple[dict[str, str], dict[str, str], list[PlannedChange]]:
    digests: dict[str, str] = {}
    stats: dict[str, str] = {}
    unreadable: list[PlannedChange] = []
    for number, (name, found) in enumerate(listing.files.items()):
        known = stored.get(name)
        if known and known[2] and known[2] == found.stat:
            digests[name], stats[name] = known[0], found.stat
            continue
        if number % 64 == 0:
            progress(SyncProgress("hash", number, len(listing.files), name))
        try:
            digests[name] = _digest(found.path)
        except OSError:
            unreadable.append(PlannedChange("skipped", name, found.size, "unreadable"))
            continue
        stats[name] = _settled(found)
    return digests, stats, unreadable


def _settled(found: FoundFile) -> str:
    """The file's stat if it is old enough to be trusted next time, else nothing."""
    newest = max(int(t) for t in found.stat.split(":")[1:3]) / 1e9
    return found.stat if time.time() - newest > RACY_SECONDS else ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def sync(
    kb: KnowledgeBase,
    folder: Path,
    *,
    embedder: Embedder,
    options: SyncOptions = SyncOptions(),
    progress: Progress = lambda step: None,
    cancel: threading.Event | None = None,
) -> SyncReport:
    """Make the knowledge base mirror the folder. Setting `cancel`, or Ctrl-C, stops after what is committed.

    Raises KnowledgeBaseBusy, EmbedderMismatch, KnowledgeBaseError.
    """
    began = time.monotonic()
    kb.require(embedder)
    with write_lock(kb.folder / "lock", wait=options.wait):
        planned = plan(kb, folder, options=options, progress=progress)
        kb.store.set_meta("folder", str(folder.resolve()))
        run = _Run(kb, folder, embedder, options, progress, cancel or threading.Event(), planned)
        try:
            run.apply()
        except KeyboardInterrupt:
            run.cancel.set()
        if not run.cancel.is_set():
            kb.store.forget_unused_vectors()
        progress(SyncProgress("index", 0, 1))
        kb.refresh_caches()
        progress(SyncProgress("index", 1, 1))
    counts = kb.store.counts()
    return SyncReport(
        kb.name,
        planned.counts(),
        (*planned.problems, *_known_problems(kb)),
        counts["passages"],
        counts["chunks"],
        run.embedded,
        run.reused,
        run.truncated,
        time.monotonic() - began,
        run.cancel.is_set(),
    )


@dataclass(slots=True)
class _Ready:
    """A document that was read and split, waiting for its vectors."""

    document: Document
    loaded: LoadedFile | None
    passages: list[Passage]


class _Run:
    """One application of a plan."""

    def __init__(
        self,
        kb: KnowledgeBase,
        folder: Path,
        embedder: Embedder,
        options: SyncOptions,
        progress: Progress,
        cancel: threading.Event,
        planned: Plan,
    ) -> None:
        self.kb, self.folder, self.embedder, self.options = kb, folder, embedder, options
        self.progress, self.cancel, self.planned = progress, cancel, planned
        self.embedded = self.reused = self.truncated = self.chunks = 0
        self.version = content_version(options.split)
        self.work = [c for c in planned.changes if c.change in ("added", "changed")]

    def apply(self) -> None:
        for change in self.planned.changes:
            if change.change == "renamed":
                self.kb.store.rename_document(
                    change.old_name, change.name, stat=self.planned.stats.get(change.name, "")
                )
            elif change.change == "deleted":
                self.kb.store.delete_document(change.name)
        stored = self.kb.store.files()
        unchanged = [c.name for c in self.planned.changes if c.change == "unchanged"]
        stats = {n: self.planned.stats[n] for n in unchanged if self.planned.stats[n] != stored[n][2]}
        if stats:
            self.kb.store.set_stats(stats)
        waiting: list[_Ready] = []
        pending = 0
        for number, ready in enumerate(self._read(), start=1):
            waiting.append(ready)
            pending += sum(len(p.chunks) for p in ready.passages)
            self.progress(SyncProgress("read", number, len(self.work), ready.document.name, self.chunks))
            if pending >= EMBED_AT_ONCE:
                self._write(waiting)
                waiting, pending = [], 0
            if self.cancel.is_set():
                break
        self._write(waiting)
        self.progress(SyncProgress("done", len(self.work), len(self.work), "", self.chunks))

    def _read(self) -> Iterator[_Ready]:
        if not self.work:
            return
        paths = [self.folder / c.name for c in self.work]
        options = self.options
        found = read_files(paths, limits=options.limits, ocr=options.ocr, workers=options.workers)
        try:
            for change, loaded in zip(self.work, found, strict=True):
                digest = self.planned.digests[change.name]
                yield (
                    self._failed(change, digest, loaded)
                    if isinstance(loaded, LoadError)
                    else self._split(change, digest, loaded)
                )
        finally:
            found.close()  # type: ignore[attr-defined]

    def _split(self, change: PlannedChange, digest: str, loaded: LoadedFile) -> _Ready:
        passages = split(loaded, counter=self.embedder, config=self.options.split)
        texts = [c.text for p in passages for c in p.chunks]
        limit = self.embedder.max_tokens
        self.truncated += sum(max(0, n - limit) for n in self.embedder.count_tokens(texts))
        document = Document(
            0, change.name, loaded.kind, digest, change.size, 0, 0, 0, loaded.verdict, loaded.title, loaded.encoding,
            loaded.notes,
        )  # fmt: skip
        return _Ready(document, loaded, passages)

    def _failed(self, change: PlannedChange, digest: str, error: LoadError) -> _Ready:
        kind = Path(change.name).suffix.lower().lstrip(".")
        notes = (error.message, error.zh)
        document = Document(0, change.name, kind, digest, change.size, 0, 0, 0, "failed", "", "", notes)
        return _Ready(document, None, [])

    def _write(self, ready: list[_Ready]) -> None:
        if not ready:
            return
        vectors = self._embed([c.text for r in ready for p in r.passages for c in p.chunks])
        for item in ready:
            own = {text_digest(c.text) for p in item.passages for c in p.chunks}
            self.kb.store.put_document(
                item.document,
                version=self.version,
                stat=self.planned.stats.get(item.document.name, ""),
                pages=item.loaded.pages if item.loaded else (),
                passages=item.passages,
                embedder=self.embedder.fingerprint,
                vectors={d: v for d, v in vectors.items() if d in own},
            )
            self.chunks += sum(len(p.chunks) for p in item.passages)

    def _embed(self, texts: list[str]) -> dict[bytes, HalfVectors]:
        by_digest = {text_digest(t): t for t in texts}
        known = self.kb.store.known_vectors(self.embedder.fingerprint, list(by_digest))
        new = {d: t for d, t in by_digest.items() if d not in known}
        self.embedded += len(new)
        self.reused += len(texts) - len(new)
        if not new:
            return {}
        rows = self.embedder.encode_passages(list(new.values())).astype(np.float16)
        return dict(zip(new, rows, strict=True))


def _known_problems(kb: KnowledgeBase) -> list[FileProblem]:
    """Every document that is not ok, whenever it was read."""
    problems = []
    for document in kb.store.documents():
        if document.verdict == "ok":
            continue
        pages = [p for p in kb.store.pages(document.id) if p.verdict != "ok"]
        if not pages:
            message = document.notes[0] if document.notes else "failed"
            problems.append(FileProblem(document.name, document.verdict, message, ""))
            continue
        codes = dict.fromkeys(code for p in pages for code in p.reasons)
        numbers = ",".join(str(p.number) for p in pages[:8]) + ("..." if len(pages) > 8 else "")
        advice = "; ".join(ADVICE[code][1] for code in codes if code in ADVICE)
        reason = f"{', '.join(codes)} (p. {numbers})"
        problems.append(FileProblem(document.name, document.verdict, reason, advice))
    return problems


def _problem(name: str, verdict: str, code: str) -> FileProblem:
    advice = ADVICE[code][1] if code in ADVICE else ""
    return FileProblem(name, "failed" if verdict == "failed" else "suspect", code, advice)
