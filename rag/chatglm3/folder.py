"""A folder that is written completely or not at all, and the hashes that say what it was made from."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kb.errors import ModelError

PROVENANCE = "provenance.json"


@contextlib.contextmanager
def new_folder(target: Path, *, overwrite: bool = False, source: Path | None = None) -> Iterator[Path]:
    """A working folder beside `target` that becomes `target` when the block ends well, and vanishes when it fails.

    Left-overs of a process that was killed (same name, dead process) are removed first. Raises ModelError if
    `target` exists and holds something, unless `overwrite`. A symbolic link stays: the folder it points to is replaced.
    `source` is what the folder is made from: raises ModelError if it would be replaced with `target`.
    """
    target = target.resolve() if target.is_symlink() else target
    if source is not None and source.resolve().is_relative_to(target.resolve()):
        raise ModelError(
            f"{target} holds {source}, which would be replaced with it. Give another folder.",
            zh=f"{target} 里有源文件夹 {source}，会被一起替换。请换一个目标文件夹。",
        )
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(
            f"{target} exists already. Give another folder, or add --overwrite.",
            zh=f"{target} 已经存在。请换一个文件夹，或加上 --overwrite。",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        if not _alive(old.name.split(".")[-2]):
            shutil.rmtree(old, ignore_errors=True)
    work = target.parent / f".{target.name}.{os.getpid()}.partial"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        _replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replace(work: Path, target: Path) -> None:
    if not target.exists():
        work.rename(target)
        return
    aside = target.parent / f".{target.name}.{os.getpid()}.old"
    target.rename(aside)
    work.rename(target)
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink()


def _alive(process: str) -> bool:
    if not process.isdigit():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """UTF-8, indented, one newline at the end."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def need_space(folder: Path, *, needed: int) -> None:
    """Raise ModelError if the disk of `folder` has less than `needed` bytes free."""
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ModelError(
            f"{place} has {free / 1e9:.1f} GB free; {needed / 1e9:.1f} GB are needed.",
            zh=f"{place} 剩余 {free / 1e9:.1f} GB，需要 {needed / 1e9:.1f} GB。",
        )
