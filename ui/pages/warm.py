"""Imports that the first question would wait for, made in the background once the server is up."""

from __future__ import annotations

import importlib
import threading
import time

MODULES = ("pandas", "pyarrow", "faiss", "tantivy", "kb.search", "rag.answer", "pypdfium2", "PIL.Image")
_begun = threading.Event()


def warm_up() -> None:
    """Begin once for the life of the process; the first page goes first."""
    if _begun.is_set():
        return
    _begun.set()
    threading.Thread(target=_import_all, name="warm-up", daemon=True).start()


def _import_all() -> None:
    time.sleep(1.0)
    for name in MODULES:
        importlib.import_module(name)
