"""One writer at a time: an operating system lock on a file, which a crash releases by itself."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from kb.errors import KnowledgeBaseBusy, KnowledgeBaseNotFound

REFRESH_SECONDS = 60.0
"""A reader that brings a cache up to date is waited for so long, whatever `wait` says: nobody asked it to write."""
UNKNOWN_SECONDS = 2.0
"""A holder that has not written yet who it is, or is just leaving, is waited for so long."""
_LOCKED_BYTE = 1 << 30
"""Windows locks bytes against reading too: one that is not there, so that others can read who holds the lock."""


@contextmanager
def write_lock(path: Path, *, wait: float = 0.0, purpose: str = "index") -> Iterator[None]:
    """Hold `path` while the block runs. Waits `wait` seconds at most, then raises KnowledgeBaseBusy naming the holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        began = time.monotonic()
        while not _try_lock(handle):
            who = holder(path)
            patience = max(
                wait, REFRESH_SECONDS if who.get("purpose") == "refresh" else 0.0 if who else UNKNOWN_SECONDS
            )
            if time.monotonic() >= began + patience:
                raise _busy(path)
            time.sleep(0.05)
        if not _same_file(handle, path):
            raise _removed(path)
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "purpose": purpose,
        }
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(about).encode())
        yield
        os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    if os.name == "nt":
        import msvcrt

        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(path: Path) -> dict[str, object]:
    """pid, host, since, purpose of whoever wrote them last; empty if nobody did."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _busy(path: Path) -> KnowledgeBaseBusy:
    who = holder(path)
    name = path.parent.name
    process, host, since = (who.get(k, "?") for k in ("pid", "host", "since"))
    return KnowledgeBaseBusy(
        f"knowledge base {name!r} is being written by process {process} on {host} since {since}. "
        "Wait for it (--wait SECONDS) or stop it.",
        zh=f"知识库 {name!r} 正由进程 {process}（{host}，自 {since}）写入。请等它结束（--wait 秒数）或停止它。",
    )


def is_locked(path: Path) -> bool:
    """Is somebody writing right now? (What `holder` says may be left over from a crash.)"""
    if not path.exists():
        return False
    handle = os.open(path, os.O_RDWR)
    try:
        return not _try_lock(handle)
    finally:
        os.close(handle)


def _same_file(handle: int, path: Path) -> bool:
    """Is the file that we locked still the one of that name? It is not if the knowledge base was removed meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _removed(path: Path) -> KnowledgeBaseNotFound:
    name = path.parent.name
    return KnowledgeBaseNotFound(
        f"knowledge base {name!r} was removed while we waited for it.",
        zh=f"等待期间，知识库 {name!r} 已被删除。",
    )
