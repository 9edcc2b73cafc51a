"""SQLite behind a knowledge base: documents, passages, chunks and vectors, one transaction per document."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kb.errors import KnowledgeBaseError
from kb.schema import SCHEMA, SCHEMA_VERSION
from kb.types import Chunk, Document, Page, Passage, Span, StoredPassage, Vectors

HalfVectors = NDArray[np.float16]

_DOCUMENT = """SELECT d.id, d.name, d.kind, d.digest, d.size,
  (SELECT count(*) FROM pages p WHERE p.document_id = d.id),
  (SELECT count(*) FROM passages p WHERE p.document_id = d.id),
  (SELECT count(*) FROM chunks c WHERE c.document_id = d.id),
  d.verdict, d.title, d.encoding, d.notes, d.indexed_at FROM documents d"""


def text_digest(text: str) -> bytes:
    """The key of a chunk's vector: BLAKE2b-128 of its text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Store:
    """One kb.sqlite. Reading is safe from several threads and never waits for a writer (WAL)."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if not create and not path.is_file():
            raise KnowledgeBaseError(f"{path} does not exist.", zh=f"{path} 不存在。")
        self.path = path
        self._local = threading.local()
        connection = self.connection
        if create:
            connection.executescript(SCHEMA)
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('generation', '0')")
            connection.commit()
        found = self.meta("schema")
        if found != str(SCHEMA_VERSION):
            raise KnowledgeBaseError(
                f"{path} has the schema {found!r}, this version reads {SCHEMA_VERSION}. Index the folder again.",
                zh=f"{path} 的结构版本是 {found!r}，本版本只能读 {SCHEMA_VERSION}。请重新索引该文件夹。",
            )

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        existing = getattr(self._local, "connection", None)
        if existing is None:
            try:
                existing = sqlite3.connect(self.path, timeout=30, isolation_level=None)
                existing.execute("PRAGMA journal_mode = WAL")
                existing.execute("PRAGMA synchronous = NORMAL")
                existing.execute("PRAGMA foreign_keys = ON")
                existing.execute("PRAGMA cache_size = -65536")
            except sqlite3.DatabaseError as error:
                raise KnowledgeBaseError(
                    f"{self.path} is not a database or is damaged ({error}). Run: zhiwen kb repair",
                    zh=f"{self.path} 不是数据库或已损坏（{error}）。请运行：zhiwen kb repair",
                ) from error
            self._local.connection = existing
        connection: sqlite3.Connection = existing
        return connection

    def close(self) -> None:
        """Close this thread's connection."""
        existing = getattr(self._local, "connection", None)
        if existing is not None:
            existing.close()
            self._local.connection = None

    # -------------------------------------------------------------- meta

    def meta(self, key: str) -> str:
        """A value of the meta table; empty if there is none."""
        try:
            row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            raise KnowledgeBaseError(
                f"{self.path} is not a knowledge base ({error}). Run: zhiwen kb repair",
                zh=f"{self.path} 不是知识库（{error}）。请运行：zhiwen kb repair",
            ) from error
        return str(row[0]) if row else ""

    def set_meta(self, key: str, value: str) -> None:
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @property
    def generation(self) -> int:
        """Grows by one with each change; caches carry the one that they were made from."""
        return int(self.meta("generation") or 0)

    @contextmanager
    def transaction(self) -> Iterator[int]:
        """All or nothing; yields the generation that its rows belong to."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            generation = self.generation + 1
            self.set_meta("generation", str(generation))
            yield generation
        except BaseException:
            connection.rollback()
            raise
        connection.commit()

    # -------------------------------------------------------------- writing

    def put_document(
        self,
        document: Document,
        *,
        version: str,
        stat: str,
        pages: Sequence[Page],
        passages: Sequence[Passage],
        embedder: str,
        vectors: dict[bytes, NDArray[np.float16]],
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
            connection.executemany(
                "INSERT OR IGNORE INTO vectors VALUES (?,?,?)",
                [(embedder, digest, vector.tobytes()) for digest, vector in vectors.items()],
            )
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
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "UPDATE documents SET stat = ? WHERE name = ?", [(s, n) for n, s in stats.items()]
        )
        connection.commit()

    def forget_unused_vectors(self) -> int:
        """Delete vectors that no chunk has; returns how many."""
        cursor = self.connection.execute(
            "DELETE FROM vectors WHERE digest NOT IN (SELECT digest FROM chunks)"
        )
        return cursor.rowcount

    # -------------------------------------------------------------- reading

    def documents(self) -> list[Document]:
        """All, by name."""
        return [_document(row) for row in self.connection.execute(_DOCUMENT + " ORDER BY d.name")]

    def document(self, name: str) -> Document | None:
        row = self.connection.execute(_DOCUMENT + " WHERE d.name = ?", (name,)).fetchone()
        return _document(row) if row else None

    def documents_by_id(self, ids: Iterable[int]) -> dict[int, Document]:
        wanted = sorted(set(ids))
        marks = ",".join("?" * len(wanted))
        rows = self.connection.execute(f"{_DOCUMENT} WHERE d.id IN ({marks})", wanted)
        return {row[0]: _document(row) for row in rows}

    def files(self) -> dict[str, tuple[str, str, str]]:
        """Name -> (digest, version, stat): what mirroring compares with."""
        rows = self.connection.execute("SELECT name, digest, version, stat FROM documents")
        return {name: (digest, version, stat) for name, digest, version, stat in rows}

    def pages(self, document_id: int) -> list[Page]:
        """Verdicts of the pages; their text is not kept apart from the passages."""
        rows = self.connection.execute(
            "SELECT number, label, verdict, reasons, ocr FROM pages WHERE document_id = ? ORDER BY number",
            (document_id,),
        )
        return [
            Page(
                number=n,
                text="",
                label=label,
                verdict=verdict,
                reasons=tuple(json.loads(reasons)),
                ocr=bool(ocr),
            )
            for n, label, verdict, reasons, ocr in rows
        ]

    def passages(self, document_id: int) -> list[StoredPassage]:
        """In order."""
        rows = self.connection.execute(
            "SELECT id, document_id, ordinal, text, headings, spans FROM passages WHERE document_id = ? ORDER BY ordinal",
            (document_id,),
        )
        return [_passage(row) for row in rows]

    def passages_by_id(self, ids: Iterable[int]) -> dict[int, StoredPassage]:
        wanted = sorted(set(ids))
        marks = ",".join("?" * len(wanted))
        rows = self.connection.execute(
            f"SELECT id, document_id, ordinal, text, headings, spans FROM passages WHERE id IN ({marks})",
            wanted,
        )
        return {row[0]: _passage(row) for row in rows}

    def chunks_by_id(self, ids: Iterable[int]) -> dict[int, Chunk]:
        """Those that still exist."""
        found: dict[int, Chunk] = {}
        wanted = sorted(set(ids))
        for at in range(0, len(wanted), 900):
            part = wanted[at : at + 900]
            marks = ",".join("?" * len(part))
            rows = self.connection.execute(
                f'SELECT id, passage_id, document_id, start, "end", text FROM chunks WHERE id IN ({marks})',
                part,
            )
            found |= {row[0]: Chunk(*row) for row in rows}
        return found

    def chunks_since(self, generation: int) -> Iterator[tuple[int, str]]:
        """(id, text) of the chunks written after `generation` that still exist, by id."""
        yield from self.connection.execute(
            "SELECT id, text FROM chunks WHERE generation > ? ORDER BY id", (generation,)
        )

    def deleted_since(self, generation: int) -> list[int]:
        """Ids of the chunks that were deleted after `generation`."""
        rows = self.connection.execute("SELECT chunk_id FROM tombstones WHERE generation > ?", (generation,))
        return [row[0] for row in rows]

    def known_vectors(self, embedder: str, digests: Sequence[bytes]) -> set[bytes]:
        """Which of the digests have a vector already."""
        known: set[bytes] = set()
        for at in range(0, len(digests), 900):
            part = list(digests[at : at + 900])
            marks = ",".join("?" * len(part))
            rows = self.connection.execute(
                f"SELECT digest FROM vectors WHERE embedder = ? AND digest IN ({marks})", [embedder, *part]
            )
            known.update(row[0] for row in rows)
        return known

    def vectors_since(
        self, embedder: str, generation: int, *, dimensions: int, batch: int = 65536
    ) -> Iterator[tuple[NDArray[np.int64], HalfVectors]]:
        """(ids, vectors) of chunks written after `generation`, by id, in batches. *Shape:* (n,), (n, dimensions)."""
        cursor = self.connection.execute(
            "SELECT c.id, v.vector FROM chunks c JOIN vectors v ON v.embedder = ? AND v.digest = c.digest"
            " WHERE c.generation > ? ORDER BY c.id",
            (embedder, generation),
        )
        while rows := cursor.fetchmany(batch):
            ids = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
            joined = b"".join(row[1] for row in rows)
            yield ids, np.frombuffer(joined, dtype=np.float16).reshape(len(rows), dimensions)

    def vectors_of(self, embedder: str, chunk_ids: Sequence[int], *, dimensions: int) -> dict[int, Vectors]:
        """Chunk id -> its vector. *Shape of each:* (dimensions,)."""
        found: dict[int, Vectors] = {}
        for at in range(0, len(chunk_ids), 900):
            part = list(chunk_ids[at : at + 900])
            marks = ",".join("?" * len(part))
            rows = self.connection.execute(
                "SELECT c.id, v.vector FROM chunks c JOIN vectors v ON v.embedder = ? AND v.digest = c.digest"
                f" WHERE c.id IN ({marks})",
                [embedder, *part],
            )
            for number, blob in rows:
                found[number] = np.frombuffer(blob, dtype=np.float16, count=dimensions).astype(np.float32)
        return found

    def counts(self) -> dict[str, int]:
        """documents, passages, chunks, vectors."""
        names = ("documents", "passages", "chunks", "vectors")
        return {n: int(self.connection.execute(f"SELECT count(*) FROM {n}").fetchone()[0]) for n in names}

    def state_digest(self) -> str:
        """Digest of all content, independent of ids, times and order of writing: equal states, equal digests."""
        total = hashlib.blake2b(digest_size=16)
        for document in self.documents():
            plain = asdict(document) | {"id": 0, "indexed_at": ""}
            total.update(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode())
            for passage in self.passages(document.id):
                rows = self.connection.execute(
                    'SELECT c.start, c."end", c.text, v.vector IS NOT NULL FROM chunks c LEFT JOIN vectors v ON'
                    " v.digest = c.digest AND v.embedder = ? WHERE c.passage_id = ? ORDER BY c.id",
                    (self.meta("embedder"), passage.id),
                ).fetchall()
                plain = asdict(passage) | {"id": 0, "document_id": 0, "chunks": rows}
                total.update(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode())
        return total.hexdigest()


def _document(row: Sequence[object]) -> Document:
    *first, notes, indexed_at = row
    return Document(*first, tuple(json.loads(str(notes))), str(indexed_at))  # type: ignore[arg-type, call-arg]


def _passage(row: Sequence[object]) -> StoredPassage:
    number, document, ordinal, text, headings, spans = row
    return StoredPassage(
        int(str(number)),
        int(str(document)),
        int(str(ordinal)),
        str(text),
        tuple(json.loads(str(headings))),
        tuple(Span(*s) for s in json.loads(str(spans))),
    )
