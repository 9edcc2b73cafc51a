"""SQLite behind a knowledge base: documents, passages, chunks and vectors, one transaction per document."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from kb.errors import KnowledgeBaseError
from kb.rows import HalfVectors, StoreReader
from kb.schema import PAGE_BYTES, SCHEMA, SCHEMA_VERSION
from kb.types import Document, Page, Passage

__all__ = ["HalfVectors", "Store", "text_digest"]


def text_digest(text: str) -> bytes:
    """The key of a chunk's vector: BLAKE2b-128 of its text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Store(StoreReader):
    """One kb.sqlite. Reading (see `StoreReader`) is for everybody, writing for the holder of the write lock."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if not create and not path.is_file():
            raise KnowledgeBaseError(f"{path} does not exist.", zh=f"{path} 不存在。")
        super().__init__(path)
        if create:
            self._create()
        found = self.meta("schema")
        if found != str(SCHEMA_VERSION):
            raise KnowledgeBaseError(
                f"{path} has the schema {found!r}, this version reads {SCHEMA_VERSION}. Index the folder again.",
                zh=f"{path} 的结构版本是 {found!r}，本版本只能读 {SCHEMA_VERSION}。请重新索引该文件夹。",
            )

    def _create(self) -> None:
        connection = self.connection
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tombstones'").fetchone():
            return
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        first = f"INSERT OR IGNORE INTO meta VALUES ('schema', '{SCHEMA_VERSION}'), ('generation', '0');"
        connection.executescript(f"BEGIN IMMEDIATE;{SCHEMA}{first}COMMIT;")

    def set_meta(self, key: str, value: str) -> None:
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @contextmanager
    def _write(self) -> Iterator[None]:
        """All or nothing."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            connection.rollback()
            raise
        connection.commit()

    @contextmanager
    def transaction(self) -> Iterator[int]:
        """All or nothing; yields the generation that its rows belong to."""
        with self._write():
            generation = self.generation + 1
            self.set_meta("generation", str(generation))
            yield generation

    def put_document(
        self,
        document: Document,
        *,
        version: str,
        stat: str,
        pages: Sequence[Page],
        passages: Sequence[Passage],
        embedder: str,
        vectors: dict[bytes, HalfVectors],
    ) -> None:
        """Write a document with everything that belongs to it; one of the same name is replaced."""
        connection = self.connection
        with self.transaction() as generation:
            self._bury(connection, "name = ?", document.name, generation)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            cursor = connection.execute(
                "INSERT INTO documents (name, kind, digest, size, version, title, encoding, verdict, notes, indexed_at,"
                " stat) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (
                    document.name,
                    document.kind,
                    document.digest,
                    document.size,
                    version,
                    document.title,
                    document.encoding,
                    document.verdict,
                    json.dumps(document.notes, ensure_ascii=False),
                    now,
                    stat,
                ),
            )
            number = cursor.lastrowid
            assert number is not None
            connection.executemany(
                "INSERT INTO pages VALUES (?,?,?,?,?,?)",
                [(number, p.number, p.label, p.verdict, json.dumps(p.reasons), int(p.ocr)) for p in pages],
            )
            self._put_vectors(embedder, vectors)
            for ordinal, passage in enumerate(passages):
                self._put_passage(connection, number, ordinal, passage, generation)

    def _put_passage(
        self, connection: sqlite3.Connection, document: int, ordinal: int, passage: Passage, generation: int
    ) -> None:
        cursor = connection.execute(
            "INSERT INTO passages (document_id, ordinal, text, headings, spans) VALUES (?,?,?,?,?)",
            (
                document,
                ordinal,
                passage.text,
                json.dumps(passage.headings, ensure_ascii=False),
                json.dumps([(s.page, s.start, s.end, s.offset) for s in passage.spans]),
            ),
        )
        connection.executemany(
            'INSERT INTO chunks (passage_id, document_id, start, "end", text, digest, generation) VALUES (?,?,?,?,?,?,?)',
            [
                (cursor.lastrowid, document, c.start, c.end, c.text, text_digest(c.text), generation)
                for c in passage.chunks
            ],
        )

    def _bury(self, connection: sqlite3.Connection, where: str, value: str, generation: int) -> int:
        rows = connection.execute(f"SELECT id FROM documents WHERE {where}", (value,)).fetchall()
        for (number,) in rows:
            connection.execute(
                "INSERT INTO tombstones SELECT id, ? FROM chunks WHERE document_id = ?", (generation, number)
            )
            connection.execute("DELETE FROM documents WHERE id = ?", (number,))
            self.set_meta("unswept", "1")
        return len(rows)

    def delete_document(self, name: str) -> bool:
        """Remove a document; False if there is none of that name."""
        with self.transaction() as generation:
            return self._bury(self.connection, "name = ?", name, generation) > 0

    def rename_document(self, old: str, new: str, *, stat: str) -> None:
        """Costs one row."""
        with self.transaction():
            self.connection.execute(
                "UPDATE documents SET name = ?, stat = ? WHERE name = ?", (new, stat, old)
            )

    def set_stats(self, stats: dict[str, str]) -> None:
        """Remember what the files looked like on disk, so that they need not be hashed next time."""
        with self._write():
            self.connection.executemany(
                "UPDATE documents SET stat = ? WHERE name = ?", [(s, n) for n, s in stats.items()]
            )

    def expire(self, names: Sequence[str]) -> list[str]:
        """Make the next indexing read these documents again, whatever they look like; returns those that exist."""
        with self._write():
            known = [n for n in names if self.document(n)]
            self.connection.executemany(
                "UPDATE documents SET version = 'expired', stat = '' WHERE name = ?", [(n,) for n in known]
            )
        return known

    def put_vectors(self, embedder: str, vectors: dict[bytes, HalfVectors]) -> None:
        """Keep vectors before their documents are written, so that a long embedding is not lost to a kill."""
        with self._write():
            self._put_vectors(embedder, vectors)
            self.set_meta("unswept", "1")

    def _put_vectors(self, embedder: str, vectors: dict[bytes, HalfVectors]) -> None:
        connection = self.connection
        connection.execute("INSERT OR IGNORE INTO embedders (fingerprint) VALUES (?)", (embedder,))
        (number,) = connection.execute(
            "SELECT id FROM embedders WHERE fingerprint = ?", (embedder,)
        ).fetchone()
        connection.executemany(
            "INSERT OR IGNORE INTO vectors VALUES (?,?,?)",
            [(number, digest, vector.tobytes()) for digest, vector in vectors.items()],
        )

    def forget_unused_vectors(self) -> int:
        """Delete vectors that no chunk has; returns how many. Costs nothing if nothing was deleted since the last time."""
        if not self.meta("unswept"):
            return 0
        with self._write():
            cursor = self.connection.execute(
                "DELETE FROM vectors WHERE rowid IN (SELECT rowid FROM vectors v WHERE NOT EXISTS"
                " (SELECT 1 FROM chunks c WHERE c.digest = v.digest))"
            )
            self.set_meta("unswept", "")
        return cursor.rowcount

    def forget_tombstones(self, generation: int) -> None:
        """Drop those that every cache has taken in."""
        with self._write():
            self.connection.execute("DELETE FROM tombstones WHERE generation <= ?", (generation,))

    def delete_orphans(self) -> None:
        """Delete what belongs to no document (only a damaged file has any)."""
        with self.transaction() as generation:
            lost = "document_id NOT IN (SELECT id FROM documents)"
            for sql in (
                f"INSERT OR IGNORE INTO tombstones SELECT id, {generation} FROM chunks WHERE {lost}",
                f"DELETE FROM chunks WHERE {lost} OR passage_id NOT IN (SELECT id FROM passages)",
                f"DELETE FROM passages WHERE {lost}",
                f"DELETE FROM pages WHERE {lost}",
            ):
                self.connection.execute(sql)

    def settle(self) -> None:
        """Bring all commits to the disk: caches must never know more than a power cut would leave of the store."""
        self.connection.execute("PRAGMA synchronous = FULL")
        try:
            self.set_meta("settled", str(self.generation))
        finally:
            self.connection.execute("PRAGMA synchronous = NORMAL")
