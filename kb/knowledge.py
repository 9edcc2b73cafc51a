"""A knowledge base: one folder with kb.sqlite and the caches that are made from it."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import threading
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kb.errors import EmbedderMismatch, KnowledgeBaseBusy, KnowledgeBaseError, KnowledgeBaseNotFound
from kb.lexical import LexicalIndex, open_lexical, refresh_lexical
from kb.lock import holder, is_locked, write_lock
from kb.store import Store
from kb.types import Embedder, Metric
from kb.vectors import LayeredIndex, Space, VectorIndex, open_vectors, refresh_vectors

if TYPE_CHECKING:
    from kb.check import Check

_NAME = re.compile(r"[^\W_][\w .-]{0,63}")
_CONTROL = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that a file name must not have."""


@dataclass(frozen=True, slots=True)
class EmbedderRecord:
    """The embedder that a knowledge base was built with."""

    name: str
    fingerprint: str
    dimensions: int
    metric: Metric
    config: dict[str, str]
    """What opens it again, see `kb.embed.EmbedderConfig`."""


class KnowledgeBase:
    """Open one with `open`, make one with `create`. Safe to search from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.store = Store(folder / "kb.sqlite")
        self._lock = threading.Lock()
        self._vectors: LayeredIndex | None = None
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
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        record = EmbedderRecord(
            embedder.name, embedder.fingerprint, embedder.dimensions, embedder.metric, config or {}
        )
        if not (folder / "kb.sqlite").exists():
            with write_lock(folder / "lock", wait=10, purpose="create"):
                if not (folder / "kb.sqlite").exists():
                    _make(folder, record)
        opened = cls(folder)
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

    @classmethod
    def list_all(cls, home: Path) -> list[KnowledgeBase]:
        """All of this home, by name; one that cannot be opened raises KnowledgeBaseError (see `names`)."""
        return [cls(home / "kb" / name) for name in names(home)]

    def remove(self) -> None:
        """Delete it with all its files; raises KnowledgeBaseBusy while it is being written.

        It is gone at once, under a name that nobody lists; then its files are deleted.
        """
        with write_lock(self.folder / "lock", purpose="remove"):
            self.store.close()
            grave = self.folder.with_name(f".{self.name}.{secrets.token_hex(4)}.removed")
            os.replace(self.folder, grave)
        for leftover in [grave, *self.folder.parent.glob(".*.removed")]:
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        """Close this thread's connection and forget the open caches."""
        with self._lock:
            self._vectors = self._lexical = None
        self.store.close()

    @property
    def writer(self) -> dict[str, object]:
        """pid, host, since, purpose of the process that is writing; empty if none is."""
        path = self.folder / "lock"
        return holder(path) if is_locked(path) else {}

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
    def space(self) -> Space:
        record = self.embedder_record
        return Space(record.fingerprint, record.metric, record.dimensions)

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
        """The dense index of the present generation. One that you hold stays as it is."""
        with self._lock:
            if self._vectors is None or self._vectors.generation != self.store.generation:
                self._vectors = open_vectors(
                    self.folder / "vectors", self.store, space=self.space, previous=self._vectors
                )
            return self._vectors

    def lexical(self) -> LexicalIndex:
        """The lexical index; if it is behind and nobody is writing, it is brought up to the store first.

        While somebody writes it may be behind by what was written in the last half minute (see `kb.sync`): its ids
        may be gone from the store, so look them up with `store.chunks_by_id`.
        """
        folder = self.folder / "lexical"
        with self._lock:
            if self._lexical is not None and self._lexical.generation == self.store.generation:
                return self._lexical
            found = open_lexical(folder, self.store)
            if found is None or found.generation != self.store.generation:
                try:
                    with write_lock(self.folder / "lock", wait=0 if found else 30, purpose="refresh"):
                        refresh_lexical(folder, self.store)
                    found = open_lexical(folder, self.store)
                except (KnowledgeBaseBusy, PermissionError):
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
        self.store.settle()
        refresh_lexical(self.folder / "lexical", self.store)
        manifest = refresh_vectors(self.folder / "vectors", self.store, space=self.space, say=say)
        self.store.forget_tombstones(manifest.generation)

    # -------------------------------------------------------------- single documents

    def remove_document(self, name: str, *, wait: float = 10.0) -> bool:
        """Take a document out; False if there is none of that name.

        An upload's file is deleted with it. A file of a mirrored folder is not ours to delete: while it lies there, the
        next indexing brings it back.
        """
        with write_lock(self.folder / "lock", wait=wait, purpose="remove document"):
            if self.store.document(name) is None:
                return False
            if self.source == self.uploads.resolve():
                self.upload_path(name).unlink(missing_ok=True)
            self.store.delete_document(name)
            self.store.forget_unused_vectors()
            self.refresh_caches()
        return True

    def reindex(self, names: Sequence[str], *, wait: float = 10.0) -> list[str]:
        """Make the next indexing read these documents again; returns those that exist."""
        with write_lock(self.folder / "lock", wait=wait, purpose="reindex"):
            return self.store.expire(names)

    def upload_path(self, name: str) -> Path:
        """Where an uploaded file of that name lies. Raises KnowledgeBaseError if the name would leave the folder."""
        parts = name.split("/")
        bad = [
            p for p in parts if p in ("", ".", "..") or p[0] in ".~" or p[-1] in ". " or len(p.encode()) > 255
        ]
        if (
            bad
            or len(parts) > 16
            or any(c in '\\:*?"<>|' or unicodedata.category(c) in _CONTROL for c in name)
        ):
            raise KnowledgeBaseError(
                f'{name!r} cannot be the name of an uploaded file: no \\ : * ? " < > | or control characters, no part '
                "that begins with '.' or '~', ends with '.' or a blank, or has over 255 bytes.",
                zh=f'{name!r} 不能作上传文件的名字：不能含 \\ : * ? " < > | 或控制字符，各级名字不能以“.”“~”开头、'
                "以“.”或空格结尾，也不能超过 255 字节。",
            )
        return self.uploads.joinpath(*parts)

    # -------------------------------------------------------------- checking and repairing

    def check(self) -> Check:
        """Is the database sound, has every chunk its vector, and do the caches open and agree with it?"""
        from kb.check import check

        return check(self)

    def repair(self) -> Check:
        """Make the caches again, delete what belongs to nothing; returns a fresh check. See `kb.check.repair`."""
        from kb.check import repair

        return repair(self)


def _make(folder: Path, record: EmbedderRecord) -> None:
    """An empty kb.sqlite, whole or not there at all: it gets its name when it is complete."""
    fresh = folder / "kb.sqlite.new"
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{fresh}{suffix}").unlink(missing_ok=True)
    store = Store(fresh, create=True)
    store.set_meta("embedder", record.fingerprint)
    store.set_meta("embedder_record", json.dumps(asdict(record), ensure_ascii=False))
    store.close()
    os.replace(fresh, folder / "kb.sqlite")


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
    return (
        sorted(p.name for p in root.iterdir() if p.name[0] != "." and (p / "kb.sqlite").is_file())
        if root.is_dir()
        else []
    )
