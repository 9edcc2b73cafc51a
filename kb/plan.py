"""What mirroring a folder would do: compare what lies there with what the knowledge base has. Changes nothing.

Content decides what changed (BLAKE2b of the bytes); names, times and sizes only spare reading what cannot have changed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kb.errors import KnowledgeBaseError
from kb.knowledge import KnowledgeBase
from kb.listing import FoundFile, Listing, list_folder
from kb.load import ADVICE, LOADER_VERSION, LoadLimits, OcrMode
from kb.load.ocr import ocr_available
from kb.split import SPLITTER_VERSION, SplitConfig
from kb.types import Change, FileProblem, PlannedChange, SyncProgress

Progress = Callable[[SyncProgress], None]
RACY_SECONDS = 2.0
"""A file that changed this shortly before it was hashed is hashed again: its time may not tell."""
BLIND = "+unread-pictures"
"""Added to the version of a document with scanned pages that nothing could read: read again once OCR is installed."""


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
    retry: bool = False
    """Read the files again that failed before."""


DEFAULT = SyncOptions()


@dataclass(frozen=True, slots=True)
class Plan:
    """What mirroring would do."""

    changes: tuple[PlannedChange, ...]
    problems: tuple[FileProblem, ...]
    """Folders that could not be listed; what lies under them is left as it is."""
    files: dict[str, FoundFile]
    digests: dict[str, str]
    """Name -> digest of every file that was looked at."""
    stats: dict[str, str]
    """Name -> what its stat was, empty if it is too young to be trusted."""

    def counts(self) -> dict[Change, int]:
        kinds: tuple[Change, ...] = ("added", "changed", "renamed", "deleted", "unchanged", "skipped")
        return {kind: sum(c.change == kind for c in self.changes) for kind in kinds}


def plan(
    kb: KnowledgeBase,
    folder: Path,
    *,
    options: SyncOptions = DEFAULT,
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
    current = {version} if ocr_available() and options.ocr != "off" else {version, version + BLIND}
    again = {d.name for d in kb.store.documents() if d.verdict == "failed"} if options.retry else set()
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
            same = known[1] in current and name not in again
            changes.append(PlannedChange("unchanged" if same else "changed", name, size))
        elif known:
            changes.append(PlannedChange("changed", name, size))
        elif (
            old := _twin(name, by_digest.get(digest, []), {n: stored[n][1] for n in gone}, current)
        ) is not None:
            gone.discard(old)
            changes.append(PlannedChange("renamed", name, size, old_name=old))
        else:
            changes.append(PlannedChange("added", name, size))
    changes += [PlannedChange("deleted", name) for name in gone]
    changes.sort(key=lambda c: c.name)
    problems = tuple(_problem(place, "failed", "unlisted-folder") for place in listing.unlisted)
    return Plan(tuple(changes), problems, listing.files, digests, stats)


def content_version(config: SplitConfig) -> str:
    """What a document's passages depend on besides its bytes."""
    return f"{LOADER_VERSION}/{SPLITTER_VERSION}/{config}"


def _twin(name: str, names: list[str], versions: dict[str, str], current: set[str]) -> str | None:
    """Which of the files that are gone this one was: same bytes, same suffix (it decides how a file is read)."""
    suffix = PurePosixPath(name).suffix.lower()
    for old in names:
        if versions.get(old) in current and PurePosixPath(old).suffix.lower() == suffix:
            return old
    return None


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


def _problem(name: str, verdict: str, code: str) -> FileProblem:
    advice = ADVICE[code][1] if code in ADVICE else ""
    return FileProblem(name, "failed" if verdict == "failed" else "suspect", code, advice)
