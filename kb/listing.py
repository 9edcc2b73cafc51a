"""What lies in a folder: the files that can be indexed, those that are left out and why, and what could not be listed."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kb.load import SUPPORTED, LoadLimits
from kb.types import PlannedChange

IGNORED_FOLDERS = {".git", ".svn", "__pycache__", "node_modules", ".venv"}


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that can be indexed."""

    name: str
    """Relative path, "/" between parts."""
    path: Path
    size: int
    stat: str
    """Size, times and inode: if they are as they were, and old enough, the bytes are too."""


@dataclass(slots=True)
class Listing:
    """Files in the order of their names."""

    files: dict[str, FoundFile] = field(default_factory=dict)
    skipped: list[PlannedChange] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    """Folders (relative, with "/" at the end; "" is the whole) that could not be listed."""


def list_folder(folder: Path, *, limits: LoadLimits) -> Listing:
    """Every file below `folder`. Links that lead out of it, hidden files and unsupported types are skipped with a reason."""
    listing = Listing()
    root = folder.resolve()
    for entry, name in _walk(folder, "", listing, {str(root)}):
        reason = _why_not(entry, name, root, limits)
        size = 0
        try:
            about = entry.stat()
            size = about.st_size
        except OSError:
            reason = "unreadable"
        if reason:
            listing.skipped.append(PlannedChange("skipped", name, size, reason))
            continue
        if name in listing.files:
            listing.skipped.append(PlannedChange("skipped", name, size, "same-name"))
            continue
        listing.files[name] = FoundFile(name, Path(entry.path), size, stat_text(about))
    return listing


def stat_text(about: os.stat_result) -> str:
    """Size, times in nanoseconds, inode."""
    return f"{about.st_size}:{about.st_mtime_ns}:{about.st_ctime_ns}:{about.st_ino}"


def _walk(
    folder: Path, prefix: str, listing: Listing, seen: set[str]
) -> Iterator[tuple[os.DirEntry[str], str]]:
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda e: e.name)
    except OSError:
        listing.unlisted.append(prefix)
        return
    for entry in ordered:
        name = prefix + unicodedata.normalize("NFC", entry.name)
        try:
            is_folder = entry.is_dir()
        except OSError:
            is_folder = False
        if not is_folder:
            yield entry, name
        elif entry.is_symlink():
            listing.skipped.append(PlannedChange("skipped", name, 0, "linked-folder"))
        elif entry.name in IGNORED_FOLDERS or entry.name.startswith("."):
            continue
        else:
            yield from _walk(Path(entry.path), name + "/", listing, seen)


def _why_not(entry: os.DirEntry[str], name: str, root: Path, limits: LoadLimits) -> str:
    """A reason code, or empty if the file can be indexed."""
    base = name.rsplit("/", 1)[-1]
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        return "control-characters-in-name"
    if base.startswith((".", "~$")):
        return "hidden"
    if Path(base).suffix.lower() not in SUPPORTED:
        return "unsupported-type"
    try:
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            return "symlink-outside"
        about = entry.stat()
    except OSError:
        return "unreadable"
    if not stat.S_ISREG(about.st_mode):
        return "not-a-file"
    if about.st_size > limits.max_bytes:
        return "too-large"
    return ""
