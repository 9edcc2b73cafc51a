"""Is a knowledge base whole, and if not, make it so."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from kb.errors import KnowledgeBaseError
from kb.knowledge import EmbedderRecord, KnowledgeBase
from kb.lexical import open_lexical
from kb.lock import write_lock
from kb.store import Store
from kb.vectors import open_vectors, read_manifest

_ORPHANS = (
    "SELECT count(*) FROM chunks WHERE document_id NOT IN (SELECT id FROM documents)"
    " OR passage_id NOT IN (SELECT id FROM passages)"
)


@dataclass(frozen=True, slots=True)
class Check:
    """What `check` found; no problem: everything is as it should be."""

    problems: tuple[str, ...]
    """A code, often with a detail: "sqlite: ...", "vectors-missing: 3", "orphans: 2", "lexical-stale"."""

    @property
    def ok(self) -> bool:
        return not self.problems


def check(kb: KnowledgeBase) -> Check:
    """Is the database sound, has every chunk its vector, and do the caches open and agree with it?"""
    try:
        verdict = str(kb.store.connection.execute("PRAGMA quick_check").fetchone()[0])
        if verdict != "ok":
            return Check((f"sqlite: {verdict}",))
        with kb.store.snapshot():
            return Check(tuple(_of_store(kb) + _of_caches(kb)))
    except sqlite3.DatabaseError as error:
        return Check((f"sqlite: {error}",))


def _of_store(kb: KnowledgeBase) -> list[str]:
    problems: list[str] = []
    orphans = kb.store.connection.execute(_ORPHANS).fetchone()[0]
    if orphans:
        problems.append(f"orphans: {orphans}")
    missing = kb.store.without_vector(kb.embedder_record.fingerprint)
    if missing:
        problems.append(f"vectors-missing: {sum(missing.values())} in {', '.join(sorted(missing)[:3])}")
    return problems


def _of_caches(kb: KnowledgeBase) -> list[str]:
    """A cache that is not there yet, or behind, is no problem of one that was interrupted: it is brought up when used."""
    problems: list[str] = []
    chunks = kb.store.counts()["chunks"]
    lexical = open_lexical(kb.folder / "lexical", kb.store)
    if lexical is None and (kb.folder / "lexical").exists():
        problems.append("lexical-damaged")
    elif lexical is not None and lexical.generation == kb.store.generation and len(lexical) != chunks:
        problems.append(f"lexical-count: {len(lexical)}, not {chunks}")
    folder = kb.folder / "vectors"
    if read_manifest(folder) is None and (folder / "manifest.json").exists():
        problems.append("vectors-damaged")
    try:
        found = len(open_vectors(folder, kb.store, space=kb.space))
    except KnowledgeBaseError as error:
        return [*problems, f"vectors-damaged: {error.message}"]
    if found != chunks:
        problems.append(f"vectors-count: {found}, not {chunks}")
    return problems


def repair(kb: KnowledgeBase) -> Check:
    """Make the caches again and delete what belongs to nothing; returns a fresh check.

    Documents with a chunk that lost its vector are marked, so that the next indexing reads them again. A damaged
    database is put aside (kb.sqlite.damaged-TIME) and an empty one made for the same embedder and folder: the next
    indexing fills it. Raises KnowledgeBaseError if not even that can be read from it.
    """
    with write_lock(kb.folder / "lock", wait=10, purpose="repair"):
        if any(problem.startswith("sqlite") for problem in check(kb).problems):
            _start_again(kb)
        for name in kb.store.without_vector(kb.embedder_record.fingerprint):
            kb.store.delete_document(name)
        if kb.store.connection.execute(_ORPHANS).fetchone()[0]:
            kb.store.delete_orphans()
        for cache in ("lexical", "vectors"):
            shutil.rmtree(kb.folder / cache, ignore_errors=True)
        kb.close()
        kb.refresh_caches()
    return check(kb)


def _start_again(kb: KnowledgeBase) -> None:
    path = kb.folder / "kb.sqlite"
    try:
        kept = {key: kb.store.meta(key) for key in ("embedder", "embedder_record", "folder")}
        EmbedderRecord(**json.loads(kept["embedder_record"]))
    except (KnowledgeBaseError, ValueError, TypeError) as error:
        raise KnowledgeBaseError(
            f"{path} is damaged beyond repair ({error}). Delete it (zhiwen kb rm {kb.name}) and index the folder again.",
            zh=f"{path} 已损坏且无法修复（{error}）。请删除它（zhiwen kb rm {kb.name}）并重新索引文件夹。",
        ) from error
    kb.close()
    mark = f".damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", "-wal", "-shm"):
        part = Path(f"{path}{suffix}")
        if part.exists():
            os.replace(part, f"{path}{mark}{suffix}")
    kb.store = Store(path, create=True)
    for key, value in kept.items():
        kb.store.set_meta(key, value)
