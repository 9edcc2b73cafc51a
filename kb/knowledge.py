"""A knowledge base: one folder with kb.sqlite and the caches that are made from it."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kb.errors import EmbedderMismatch, KnowledgeBaseError, KnowledgeBaseNotFound
from kb.lexical import LexicalIndex, open_lexical, refresh_lexical
from kb.lock import write_lock
from kb.store import Store
from kb.types import Embedder, Metric
from kb.vectors import VectorIndex, open_vectors, read_manifest, refresh_vectors

_NAME = re.compile(r"[^\W_][\w .-]{0,63}")


@dataclass(frozen=True, slots=True)
class EmbedderRecord:
    """The embedder that a knowledge base was built with."""

    name: str
    fingerprint: str
    dimensions: int
    metric: Metric
    config: dict[str, str]
    """What opens it again, see `kb.embed.EmbedderConfig`."""


@dataclass(frozen=True, slots=True)
class Check:
    """What `check` found; no problem: everything is as it should be."""

    problems: tuple[str, ...]
    """Codes with details: "sqlite: ...", "vectors-missing: 3", "orphans: 2", "lexical-stale", "vectors-stale"."""

    @property
    def ok(self) -> bool:
        return not self.problems


class KnowledgeBase:
    """Open one with `open`, make one with `create`. Safe to search from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.store = Store(folder / "kb.sqlite")
        self._lock = threading.Lock()
        self._vectors: VectorIndex | None = None
        self._lexical: LexicalIndex | None = None

    # -------------------------------------------------------------- making and finding

    @classmethod
    def create(
        cls, home: Path, name: str, *, embedder: Embedder, config: dict[str, str] | None = None
    ) -> KnowledgeBase:
        """A new, empty one; an existing one of the same embedder is opened.

        Raises EmbedderMismatch if it was built with another, KnowledgeBaseError for a bad name.
        """
        folder = home / "kb" / check_name(name)
        fresh = not (folder / "kb.sqlite").exists()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        Store(folder / "kb.sqlite", create=True).close()
        opened = cls(folder)
        if fresh or not opened.store.meta("embedder"):
            record = EmbedderRecord(
                embedder.name, embedder.fingerprint, embedder.dimensions, embedder.metric, config or {}
            )
            opened.store.set_meta("embedder", embedder.fingerprint)
            opened.store.set_meta("embedder_record", json.dumps(asdict(record), ensure_ascii=False))
        opened.require(embedder)
        return opened

    @classmethod
    def open(cls, home: Path, name: str) -> KnowledgeBase:
        """Raises KnowledgeBaseNotFound, naming those that exist."""
        folder = home / "kb" / check_name(name)
        if not (folder / "kb.sqlite").is_file():
            known = names(home)
            raise KnowledgeBaseNotFound(
                f"there is no knowledge base {name!r} ({'known: ' + ', '.join(known) if known else 'there is none yet'})."
                f" Make it: zhiwen index FOLDER --kb {name}",
                zh=f"没有知识库 {name!r}（{'现有：' + '、'.join(known) if known else '还没有任何知识库'}）。"
                f"创建：zhiwen index 文件夹 --kb {name}",
            )
        return cls(folder)

    def remove(self) -> None:
        """Delete it with all its files; raises KnowledgeBaseBusy while it is being written."""
        with write_lock(self.folder / "lock", purpose="remove"):
            self.store.close()
        shutil.rmtree(self.folder)

    # -------------------------------------------------------------- what it knows of itself

    @property
    def embedder_record(self) -> EmbedderRecord:
        return EmbedderRecord(**json.loads(self.store.meta("embedder_record")))

    def require(self, embedder: Embedder) -> None:
        """Raises EmbedderMismatch unless this embedder built the knowledge base."""
        record = self.embedder_record
        if record.fingerprint != embedder.fingerprint:
            raise EmbedderMismatch(
                f"knowledge base {self.name!r} was built with {record.name} ({record.dimensions} dimensions, "
                f"{record.fingerprint[:12]}), not with {embedder.name} ({embedder.fingerprint[:12]}). "
                f"Use that one, or index into a new knowledge base (--kb).",
                zh=f"知识库 {self.name!r} 是用 {record.name}（{record.dimensions} 维，{record.fingerprint[:12]}）建的，"
                f"不是 {embedder.name}（{embedder.fingerprint[:12]}）。请改用前者，或用 --kb 另建一个知识库。",
            )

    @property
    def source(self) -> Path | None:
        """The folder that it mirrors."""
        found = self.store.meta("folder")
        return Path(found) if found else None

    @property
    def uploads(self) -> Path:
        """A folder of its own for files that people upload."""
        return self.folder / "files"

    def value(self, key: str) -> Any:
        """A JSON value kept with it (calibration, ...); None if there is none."""
        found = self.store.meta(f"value:{key}")
        return json.loads(found) if found else None

    def set_value(self, key: str, value: object) -> None:
        self.store.set_meta(f"value:{key}", json.dumps(value, ensure_ascii=False))

    # -------------------------------------------------------------- caches

    def vectors(self) -> VectorIndex:
        """The dense index of the present generation."""
        with self._lock:
            if self._vectors is None or self._vectors.generation != self.store.generation:
                record = self.embedder_record
                self._vectors = open_vectors(
                    self.folder / "vectors",
                    self.store,
                    embedder=record.fingerprint,
                    metric=record.metric,
                    dimensions=record.dimensions,
                )
            return self._vectors

    def lexical(self) -> LexicalIndex:
        """The lexical index of the present generation; if it is behind and nobody is writing, it is brought up."""
        with self._lock:
            if self._lexical is not None and self._lexical.generation == self.store.generation:
                return self._lexical
            found = open_lexical(self.folder / "lexical", self.store)
            if found is None or found.generation != self.store.generation:
                from kb.errors import KnowledgeBaseBusy

                try:
                    with write_lock(self.folder / "lock", wait=0 if found else 30, purpose="refresh"):
                        refresh_lexical(self.folder / "lexical", self.store)
                    found = open_lexical(self.folder / "lexical", self.store)
                except KnowledgeBaseBusy:
                    if found is None:
                        raise
            if found is None:
                raise KnowledgeBaseError(
                    f"the lexical index of {self.name!r} cannot be opened. Run: zhiwen kb repair {self.name}",
                    zh=f"知识库 {self.name!r} 的字词索引打不开。请运行：zhiwen kb repair {self.name}",
                )
            self._lexical = found
            return found

    def refresh_caches(self, *, say: Callable[[str], None] = lambda line: None) -> None:
        """Bring both caches to the store's generation; the caller holds the write lock."""
        record = self.embedder_record
        refresh_lexical(self.folder / "lexical", self.store)
        refresh_vectors(
            self.folder / "vectors",
            self.store,
            embedder=record.fingerprint,
            metric=record.metric,
            dimensions=record.dimensions,
            say=say,
        )

    # -------------------------------------------------------------- checking and repairing

    def check(self) -> Check:
        """Is the database sound, has every chunk its vector, and do the caches open and agree with it?"""
        problems: list[str] = []
        connection = self.store.connection
        verdict = connection.execute("PRAGMA quick_check").fetchone()[0]
        if verdict != "ok":
            problems.append(f"sqlite: {verdict}")
        orphans = connection.execute(
            "SELECT count(*) FROM chunks WHERE document_id NOT IN (SELECT id FROM documents)"
            " OR passage_id NOT IN (SELECT id FROM passages)"
        ).fetchone()[0]
        if orphans:
            problems.append(f"orphans: {orphans}")
        missing = connection.execute(
            "SELECT count(*) FROM chunks c LEFT JOIN vectors v ON v.embedder = ? AND v.digest = c.digest"
            " WHERE v.digest IS NULL",
            (self.embedder_record.fingerprint,),
        ).fetchone()[0]
        if missing:
            problems.append(f"vectors-missing: {missing}")
        lexical = open_lexical(self.folder / "lexical", self.store)
        chunks = self.store.counts()["chunks"]
        if lexical is None:
            problems += ["lexical-missing"] if chunks else []
        elif lexical.generation != self.store.generation:
            problems.append("lexical-stale")
        elif len(lexical) != chunks:
            problems.append(f"lexical-count: {len(lexical)}, not {chunks}")
        manifest = read_manifest(self.folder / "vectors")
        if manifest is None and chunks:
            problems.append("vectors-cache-missing")
        elif len(self.vectors()) != chunks:
            problems.append(f"vectors-count: {len(self.vectors())}, not {chunks}")
        return Check(tuple(problems))

    def repair(self) -> Check:
        """Make the caches again and delete what belongs to nothing; returns a fresh check.

        Chunks without a vector are dropped with their document, so that the next indexing reads it again.
        """
        with write_lock(self.folder / "lock", wait=10, purpose="repair"):
            connection = self.store.connection
            lost = connection.execute(
                "SELECT DISTINCT d.name FROM documents d JOIN chunks c ON c.document_id = d.id"
                " LEFT JOIN vectors v ON v.embedder = ? AND v.digest = c.digest WHERE v.digest IS NULL",
                (self.embedder_record.fingerprint,),
            ).fetchall()
            for (name,) in lost:
                self.store.delete_document(name)
            connection.execute("DELETE FROM chunks WHERE document_id NOT IN (SELECT id FROM documents)")
            connection.execute("DELETE FROM passages WHERE document_id NOT IN (SELECT id FROM documents)")
            for cache in ("lexical", "vectors"):
                shutil.rmtree(self.folder / cache, ignore_errors=True)
            with self._lock:
                self._vectors = self._lexical = None
            self.refresh_caches()
        return self.check()


def check_name(name: str) -> str:
    """The name itself. Raises KnowledgeBaseError if it cannot be a folder's name."""
    if not _NAME.fullmatch(name) or name.endswith((".", " ")):
        raise KnowledgeBaseError(
            f"{name!r} cannot be the name of a knowledge base: 1 to 64 letters, digits, blanks, '.', '-', '_', beginning "
            "with a letter or digit.",
            zh=f"{name!r} 不能作知识库的名字：1 到 64 个字母、汉字、数字、空格、“.”“-”“_”，以字母、汉字或数字开头。",
        )
    return name


def names(home: Path) -> list[str]:
    """All knowledge bases of this home."""
    root = home / "kb"
    return sorted(p.name for p in root.iterdir() if (p / "kb.sqlite").is_file()) if root.is_dir() else []
