"""Knowledge bases that are kept open between questions, so that their indexes are read once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from kb.knowledge import KnowledgeBase, names

_kept: dict[Path, tuple[int, KnowledgeBase]] = {}
_lock = threading.Lock()
_filled: set[Path] = set()


def opened(home: Path, chosen: Sequence[str]) -> list[KnowledgeBase]:
    """Open, or as they were opened before. Raises KnowledgeBaseNotFound."""
    return [_one(home, name) for name in chosen]


def _one(home: Path, name: str) -> KnowledgeBase:
    path = home / "kb" / name / "kb.sqlite"
    with _lock:
        inode = path.stat().st_ino if path.is_file() else 0
        kept = _kept.get(path)
        if kept and kept[0] == inode and inode:
            return kept[1]
        made = KnowledgeBase.open(home, name)
        _kept[path] = (inode, made)
        return made


def anything_indexed(home: Path) -> bool:
    """Whether any knowledge base has a document; once it has, this is not asked again until it is empty."""
    for name in names(home):
        folder = home / "kb" / name
        if folder in _filled:
            return True
        if _one(home, name).store.connection.execute("SELECT 1 FROM documents LIMIT 1").fetchone():
            _filled.add(folder)
            return True
    return False
