"""Uploaded files into a knowledge base's own folder: names and types checked first, written whole, never outside."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from kb.errors import KnowledgeBaseError, ZhiwenError
from kb.knowledge import KnowledgeBase
from kb.load import SUPPORTED
from ui import wiring
from ui.settings import Settings

LARGEST = 200_000_000
"""Bytes of one file."""
PIECE = 1 << 20


class Upload(Protocol):
    """What a browser sent."""

    name: str
    size: int

    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that was not taken."""

    name: str
    zh: str
    en: str


def why_not(kb: KnowledgeBase, name: str, size: int) -> tuple[str, str] | None:
    """Chinese and English reason why a file of this name and size is not taken; None if it is."""
    if Path(name).suffix.lower() not in SUPPORTED:
        known = "、".join(sorted({s.lstrip(".") for s in SUPPORTED}))
        return f"不支持这种文件，可用的有：{known}", f"this type is not read; known are: {known}"
    if size > LARGEST:
        return f"超过 {LARGEST // 1_000_000} MB，请拆分", f"larger than {LARGEST // 1_000_000} MB: split it"
    if size == 0:
        return "是空文件", "is empty"
    try:
        if "/" in name:
            raise KnowledgeBaseError(f"{name!r} has a folder in its name.", zh="文件名里不能有“/”。")
        path = kb.upload_path(name)
    except KnowledgeBaseError as error:
        return error.zh, error.message
    if not path.resolve().is_relative_to(kb.uploads.resolve()):
        return "会写到文件夹之外", "it would be written outside the folder"
    return None


def take(kb: KnowledgeBase, files: Sequence[Upload]) -> tuple[list[str], list[Refused]]:
    """Write the files; one of the same name is replaced. Returns the names taken, and what was refused and why."""
    taken: list[str] = []
    refused: list[Refused] = []
    kb.uploads.mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in files:
        if reason := why_not(kb, file.name, file.size):
            refused.append(Refused(file.name, *reason))
            continue
        file.seek(0)
        draft = kb.uploads / f".{secrets.token_hex(6)}.part"  # hidden: indexing leaves it out
        try:
            with draft.open("xb") as out:
                copy(file, out)
            os.replace(draft, kb.upload_path(file.name))
        finally:
            draft.unlink(missing_ok=True)
        taken.append(file.name)
    return taken, refused


def rebuild(settings: Settings, kb: KnowledgeBase) -> Path:
    """Make the knowledge base anew, empty, with the embedder of the settings; uploads stay. Returns the folder to index.

    Raises EmbedderError before anything is deleted, KnowledgeBaseBusy while it is being written.
    """
    source, name = kb.source, kb.name
    own = source is None or source == kb.uploads.resolve()
    wiring.new_embedder(settings)
    aside = settings.home / "kb" / f".{name}.uploads"
    if own and kb.uploads.is_dir() and not kb.writer:
        os.replace(kb.uploads, aside)
    try:
        made, _ = wiring.open_or_create(settings, name, rebuild=True)
    except ZhiwenError:
        if aside.is_dir():
            os.replace(aside, kb.uploads)
        raise
    if aside.is_dir():
        os.replace(aside, made.uploads)
    folder = made.uploads.resolve() if own or source is None else source
    made.store.set_meta("folder", str(folder))
    return folder


def copy(file: Upload, out: IO[bytes]) -> None:
    """In pieces."""
    while piece := file.read(PIECE):
        out.write(piece)
