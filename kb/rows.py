"""Reading kb.sqlite: documents, passages, chunks and vectors as values. Never waits for a writer (WAL)."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kb.errors import KnowledgeBaseError
from kb.types import Chunk, Document, Page, Span, StoredPassage, Vectors

_Value = TypeVar("_Value", int, bytes)
HalfVectors = NDArray[np.float16]

_AT_ONCE = 900
"""Values in one IN (...)."""
_DOCUMENT = """SELECT d.id, d.name, d.kind, d.digest, d.size,
  (SELECT count(*) FROM pages p WHERE p.document_id = d.id),
  (SELECT count(*) FROM passages p WHERE p.document_id = d.id),
  (SELECT count(*) FROM chunks c WHERE c.document_id = d.id),
  d.verdict, d.title, d.encoding, d.notes, d.indexed_at FROM documents d"""
_VECTOR_OF = (
    "JOIN vectors v ON v.embedder = (SELECT id FROM embedders WHERE fingerprint = ?) AND v.digest = c.digest"
)


class StoreReader:
    """What can be asked of a store. One connection a thread; each sees whole transactions only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection. Raises KnowledgeBaseError if the file is damaged."""
        existing = getattr(self._local, "connection", None)
        if existing is None:
            try:
                existing = sqlite3.connect(self.path, timeout=30, isolation_level=None)
                existing.execute("PRAGMA synchronous = NORMAL")
                existing.execute("PRAGMA foreign_keys = ON")
                existing.execute("PRAGMA cache_size = -65536")
            except sqlite3.DatabaseError as error:
                raise _damaged(self.path, error) from error
            self._local.connection = existing
        connection: sqlite3.Connection = existing
        return connection

    def close(self) -> None:
        """Close this thread's connection."""
        existing = getattr(self._local, "connection", None)
        if existing is not None:
            existing.close()
            self._local.connection = None

    @contextmanager
    def snapshot(self) -> Iterator[int]:
        """All that is read in the block is of one generation, which is yielded; a writer goes on meanwhile."""
        connection = self.connection
        if connection.in_transaction:
            yield self.generation
            return
        connection.execute("BEGIN")
        try:
            yield self.generation
        finally:
            connection.rollback()

    def meta(self, key: str) -> str:
        """A value of the meta table; empty if there is none."""
        try:
            row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            raise _damaged(self.path, error) from error
        return str(row[0]) if row else ""

    @property
    def generation(self) -> int:
        """Grows by one with each change; caches carry the one that they were made from."""
        return int(self.meta("generation") or 0)

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
        for part in _parts(sorted(set(ids))):
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

    def count_since(self, generation: int) -> int:
        """How many chunks were written after `generation` and still exist."""
        sql = "SELECT count(*) FROM chunks WHERE generation > ?"
        return int(self.connection.execute(sql, (generation,)).fetchone()[0])

    def deleted_since(self, generation: int) -> list[int]:
        """Ids of the chunks that were deleted after `generation`."""
        rows = self.connection.execute("SELECT chunk_id FROM tombstones WHERE generation > ?", (generation,))
        return [row[0] for row in rows]

    def known_vectors(self, embedder: str, digests: Sequence[bytes]) -> set[bytes]:
        """Which of the digests have a vector already."""
        known: set[bytes] = set()
        for part in _parts(digests):
            marks = ",".join("?" * len(part))
            rows = self.connection.execute(
                "SELECT digest FROM vectors WHERE embedder = (SELECT id FROM embedders WHERE fingerprint = ?)"
                f" AND digest IN ({marks})",
                [embedder, *part],
            )
            known.update(row[0] for row in rows)
        return known

    def vectors_since(
        self, embedder: str, generation: int, *, dimensions: int, batch: int = 65536
    ) -> Iterator[tuple[NDArray[np.int64], HalfVectors]]:
        """(ids, vectors) of chunks written after `generation`, by id, in batches. *Shape:* (n,), (n, dimensions)."""
        cursor = self.connection.execute(
            f"SELECT c.id, v.vector FROM chunks c {_VECTOR_OF} WHERE c.generation > ? ORDER BY c.id",
            (embedder, generation),
        )
        while rows := cursor.fetchmany(batch):
            ids = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
            joined = b"".join(row[1] for row in rows)
            yield ids, np.frombuffer(joined, dtype=np.float16).reshape(len(rows), dimensions)

    def vectors_of(self, embedder: str, chunk_ids: Sequence[int], *, dimensions: int) -> dict[int, Vectors]:
        """Chunk id -> its vector. *Shape of each:* (dimensions,)."""
        found: dict[int, Vectors] = {}
        for part in _parts(chunk_ids):
            marks = ",".join("?" * len(part))
            rows = self.connection.execute(
                f"SELECT c.id, v.vector FROM chunks c {_VECTOR_OF} WHERE c.id IN ({marks})", [embedder, *part]
            )
            for number, blob in rows:
                found[number] = np.frombuffer(blob, dtype=np.float16, count=dimensions).astype(np.float32)
        return found

    def without_vector(self, embedder: str) -> dict[str, int]:
        """Document -> how many of its chunks have no vector. Always empty, unless the file was damaged."""
        rows = self.connection.execute(
            f"SELECT d.name, count(*) FROM chunks c JOIN documents d ON d.id = c.document_id LEFT {_VECTOR_OF}"
            " WHERE v.digest IS NULL GROUP BY d.name",
            (embedder,),
        )
        return dict(rows.fetchall())

    def counts(self) -> dict[str, int]:
        """documents, passages, chunks, vectors."""
        names = ("documents", "passages", "chunks", "vectors")
        return {n: int(self.connection.execute(f"SELECT count(*) FROM {n}").fetchone()[0]) for n in names}

    def state_digest(self) -> str:
        """Digest of all content, independent of ids, times and order of writing: equal states, equal digests.

        Vectors count as there or not there: their last bit may depend on what was embedded together.
        """
        total = hashlib.blake2b(digest_size=16)

        def add(value: object) -> None:
            total.update(
                json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
            )

        with self.snapshot():
            versions = {name: version for name, (_, version, _) in self.files().items()}
            for document in self.documents():
                add(asdict(document) | {"id": 0, "indexed_at": "", "version": versions[document.name]})
                add([asdict(page) for page in self.pages(document.id)])
                for passage in self.passages(document.id):
                    rows = self.connection.execute(
                        'SELECT c.start, c."end", c.text, v.vector IS NOT NULL FROM chunks c'
                        f" LEFT {_VECTOR_OF} WHERE c.passage_id = ? ORDER BY c.id",
                        (self.meta("embedder"), passage.id),
                    ).fetchall()
                    add(asdict(passage) | {"id": 0, "document_id": 0, "chunks": rows})
        return total.hexdigest()


def _parts(values: Sequence[_Value]) -> Iterator[list[_Value]]:
    for at in range(0, len(values), _AT_ONCE):
        yield list(values[at : at + _AT_ONCE])


def _damaged(path: Path, error: sqlite3.DatabaseError) -> KnowledgeBaseError:
    return KnowledgeBaseError(
        f"{path} is not a database or is damaged ({error}). Delete the folder {path.parent} and index again.",
        zh=f"{path} 不是数据库或已损坏（{error}）。请删除文件夹 {path.parent} 后重新索引。",
    )


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
