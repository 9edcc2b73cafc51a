"""Mirror a folder into a knowledge base: plan, then apply, one transaction per document.

Killed at any point, the next run ends in the state of an uninterrupted one: what is committed is whole, what is not is
done again, and vectors that were computed are kept by the digest of their text.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kb.errors import LoadError
from kb.knowledge import KnowledgeBase
from kb.listing import stat_text
from kb.load import ADVICE
from kb.lock import write_lock
from kb.plan import BLIND, DEFAULT, Plan, Progress, SyncOptions, content_version, plan
from kb.reading import read_files
from kb.split import split
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

__all__ = ["Plan", "Progress", "SyncOptions", "content_version", "plan", "sync"]

EMBED_AT_ONCE = 1024
"""Chunks that are collected from several documents before they are embedded."""
SLICE = 128
"""Chunks (sorted by length) that go through the embedder in one call."""
KEEP_SECONDS = 5.0
"""Vectors are committed this often while a batch is embedded: the most that a kill can lose."""
REFRESH_SECONDS = 30.0
"""How often the caches are brought up during a long run, so that readers find what is there already."""

_QUIET: Progress = lambda step: None  # noqa: E731


def sync(
    kb: KnowledgeBase,
    folder: Path,
    *,
    embedder: Embedder,
    options: SyncOptions = DEFAULT,
    progress: Progress = _QUIET,
    cancel: threading.Event | None = None,
) -> SyncReport:
    """Make the knowledge base mirror the folder. Setting `cancel`, or Ctrl-C, stops after what is committed.

    The report counts what was done, not what was planned. Raises KnowledgeBaseBusy, EmbedderMismatch, KnowledgeBaseError.
    """
    began = time.monotonic()
    kb.require(embedder)
    with write_lock(kb.folder / "lock", wait=options.wait):
        planned = plan(kb, folder, options=options, progress=progress)
        if kb.store.meta("folder") != str(folder.resolve()):
            kb.store.set_meta("folder", str(folder.resolve()))
        if not (kb.folder / "lexical").exists():
            kb.refresh_caches()
        run = _Run(kb, embedder, options, progress, cancel or threading.Event(), planned)
        try:
            run.apply()
        except KeyboardInterrupt:
            run.cancel.set()
        if not run.cancel.is_set():
            kb.store.forget_unused_vectors()
        progress(SyncProgress("index", 0, 1, "", run.chunks))
        kb.refresh_caches()
        progress(SyncProgress("index", 1, 1, "", run.chunks))
        counts = kb.store.counts()
        problems = (*planned.problems, *_known_problems(kb))
    progress(SyncProgress("done", len(run.work), len(run.work), "", run.chunks))
    return SyncReport(
        kb.name, run.counts, problems, counts["passages"], counts["chunks"], run.embedded, run.reused, run.truncated,
        time.monotonic() - began, run.cancel.is_set(),
    )  # fmt: skip


@dataclass(slots=True)
class _Ready:
    """A document that was read and split, waiting for its vectors."""

    change: Change
    document: Document
    loaded: LoadedFile | None
    passages: list[Passage]
    version: str
    stat: str


class _Run:
    """One application of a plan."""

    def __init__(
        self,
        kb: KnowledgeBase,
        embedder: Embedder,
        options: SyncOptions,
        progress: Progress,
        cancel: threading.Event,
        planned: Plan,
    ) -> None:
        self.kb, self.embedder, self.options = kb, embedder, options
        self.progress, self.cancel, self.planned = progress, cancel, planned
        self.embedded = self.reused = self.truncated = self.chunks = 0
        self.version = content_version(options.split)
        self.work = [c for c in planned.changes if c.change in ("added", "changed")]
        self.counts = planned.counts()
        for change in ("added", "changed", "renamed", "deleted"):
            self.counts[change] = 0
        self._refreshed = time.monotonic()

    def apply(self) -> None:
        """Names first (no reading needed), then what must be read."""
        store, stats = self.kb.store, self.planned.stats
        for change in self.planned.changes:
            if change.change == "renamed":
                store.rename_document(change.old_name, change.name, stat=stats[change.name])
            elif change.change == "deleted":
                store.delete_document(change.name)
            else:
                continue
            self.counts[change.change] += 1
        stored = store.files()
        known = [c.name for c in self.planned.changes if c.change == "unchanged"]
        moved = {n: stats[n] for n in known if stats[n] != stored[n][2]}
        if moved:
            store.set_stats(moved)
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
                return
        self._write(waiting)

    def _read(self) -> Iterator[_Ready]:
        if not self.work:
            return
        paths = [self.planned.files[c.name].path for c in self.work]
        options = self.options
        found = read_files(paths, limits=options.limits, ocr=options.ocr, workers=options.workers)
        try:
            for change, loaded in zip(self.work, found, strict=True):
                yield (
                    self._failed(change, loaded)
                    if isinstance(loaded, LoadError)
                    else self._split(change, loaded)
                )
        finally:
            found.close()

    def _split(self, change: PlannedChange, loaded: LoadedFile) -> _Ready:
        if loaded.title == loaded.path.stem:
            # The file's name is not content: with it in the text of every chunk a rename would embed all of them again.
            loaded = replace(loaded, title="")
        passages = split(loaded, counter=self.embedder, config=self.options.split)
        counts = self.embedder.count_tokens([c.text for p in passages for c in p.chunks])
        self.truncated += sum(max(0, count - self.embedder.max_tokens) for count in counts)
        blind = any("no-text-layer" in page.reasons for page in loaded.pages)
        return self._ready(change, loaded, passages, self.version + (BLIND if blind else ""))

    def _failed(self, change: PlannedChange, error: LoadError) -> _Ready:
        kind = Path(change.name).suffix.lower().lstrip(".")
        nothing = LoadedFile(Path(change.name), kind, (), notes=(error.message, error.zh))
        return self._ready(change, nothing, [], self.version)

    def _ready(
        self, change: PlannedChange, loaded: LoadedFile, passages: list[Passage], version: str
    ) -> _Ready:
        digest, found = self.planned.digests[change.name], self.planned.files[change.name]
        stat = self.planned.stats[change.name]
        try:
            if stat_text(found.path.stat()) != found.stat:
                version = stat = "changed while it was read"  # so that the next run reads it again
        except OSError:
            version = stat = "gone while it was read"
        document = Document(
            0, change.name, loaded.kind, digest, change.size, 0, 0, 0, loaded.verdict, loaded.title, loaded.encoding,
            loaded.notes,
        )  # fmt: skip
        return _Ready(change.change, document, loaded, passages, version, stat)

    def _write(self, ready: Sequence[_Ready]) -> None:
        vectors = self._embed([c.text for r in ready for p in r.passages for c in p.chunks])
        for item in ready:
            if self.cancel.is_set():
                return
            own = {text_digest(c.text) for p in item.passages for c in p.chunks}
            self.kb.store.put_document(
                item.document,
                version=item.version,
                stat=item.stat,
                pages=item.loaded.pages if item.loaded else (),
                passages=item.passages,
                embedder=self.embedder.fingerprint,
                vectors={d: vectors[d] for d in own if d in vectors},
            )
            self.counts[item.change] += 1
            self.chunks += sum(len(p.chunks) for p in item.passages)
        if time.monotonic() - self._refreshed > REFRESH_SECONDS:
            self.kb.refresh_caches()
            self._refreshed = time.monotonic()

    def _embed(self, texts: Sequence[str]) -> dict[bytes, HalfVectors]:
        """Vectors of the texts that have none yet, by digest."""
        by_digest = {text_digest(t): t for t in texts}
        known = self.kb.store.known_vectors(self.embedder.fingerprint, list(by_digest))
        new = sorted((d for d in by_digest if d not in known), key=lambda d: len(by_digest[d]))
        self.reused += len(texts) - len(new)
        vectors: dict[bytes, HalfVectors] = {}
        unsaved: dict[bytes, HalfVectors] = {}
        saved = time.monotonic()
        for at in range(0, len(new), SLICE):
            if self.cancel.is_set():
                break
            part = new[at : at + SLICE]
            rows = self.embedder.encode_passages([by_digest[d] for d in part]).astype(np.float16)
            unsaved |= dict(zip(part, rows, strict=True))
            vectors |= unsaved
            self.embedded += len(part)
            if time.monotonic() - saved > KEEP_SECONDS:
                self.kb.store.put_vectors(self.embedder.fingerprint, unsaved)
                unsaved, saved = {}, time.monotonic()
                self.progress(SyncProgress("embed", at + len(part), len(new), "", self.chunks))
        return vectors


def _known_problems(kb: KnowledgeBase) -> list[FileProblem]:
    """Every document that is not ok, whenever it was read."""
    problems = []
    for document in kb.store.documents():
        if document.verdict == "ok":
            continue
        pages = [p for p in kb.store.pages(document.id) if p.verdict != "ok"]
        if not pages:
            # English and Chinese
            pair = document.notes if document.verdict == "failed" else document.notes[:1]
            english, chinese, *_ = (*pair, "", "")
            problems.append(
                FileProblem(document.name, document.verdict, english or "failed", reason_zh=chinese)
            )
            continue
        codes = dict.fromkeys(code for p in pages for code in p.reasons)
        numbers = ",".join(str(p.number) for p in pages[:8]) + ("..." if len(pages) > 8 else "")
        advice = "; ".join(ADVICE[code][1] for code in codes if code in ADVICE)
        reason = f"{', '.join(codes)} (p. {numbers})"
        problems.append(FileProblem(document.name, document.verdict, reason, advice))
    return problems
