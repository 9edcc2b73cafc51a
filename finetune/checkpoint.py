"""Checkpoints that are complete or not there. Tensors in safetensors, everything else in JSON; no pickle.

    checkpoints/step-00000200/  optimizer.safetensors (float32 weights and moments), state.json, COMPLETE

A folder is written beside its place, flushed, marked complete with the size of each file, and only then renamed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kb.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

TENSORS, STATE, COMPLETE = "optimizer.safetensors", "state.json", "COMPLETE"
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One complete checkpoint."""

    folder: Path
    step: int


def write(
    parent: Path, *, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int
) -> Checkpoint:
    """Write one, and remove all but the newest `keep`."""
    from safetensors.torch import save_file

    target = parent / f"step-{step:08d}"
    work = parent / f".step-{step:08d}.{os.getpid()}.partial"
    for old in parent.glob(".step-*.partial"):
        shutil.rmtree(old, ignore_errors=True)
    work.mkdir(parents=True)
    # safetensors refuses tensors that share memory: each gets its own
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, work / TENSORS)
    (work / STATE).write_text(json.dumps(dict(state), ensure_ascii=False, indent=1), encoding="utf-8")
    sizes = {}
    for name in (TENSORS, STATE):
        _flush(work / name)
        sizes[name] = (work / name).stat().st_size
    (work / COMPLETE).write_text(json.dumps(sizes), encoding="utf-8")
    _flush(work / COMPLETE)
    if target.exists():
        shutil.rmtree(target)
    work.rename(target)
    _flush(parent)
    done = complete(parent)
    for old_one in done[: max(0, len(done) - keep)]:
        shutil.rmtree(old_one.folder, ignore_errors=True)
    return Checkpoint(target, step)


def _flush(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def complete(parent: Path) -> list[Checkpoint]:
    """All complete checkpoints, oldest first. A truncated or unmarked one is passed over."""
    found = []
    for folder in parent.iterdir() if parent.is_dir() else ():
        name = _NAME.fullmatch(folder.name)
        if name and _is_complete(folder):
            found.append(Checkpoint(folder, int(name[1])))
    return sorted(found, key=lambda c: c.step)


def _is_complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        return bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def read(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state. Raises ModelError if a file is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = json.loads((checkpoint.folder / STATE).read_text(encoding="utf-8"))
        return load_file(checkpoint.folder / TENSORS), state
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{checkpoint.folder} cannot be read ({error}). Delete it to resume from the one before.",
            zh=f"{checkpoint.folder} 无法读取（{error}）。删除它即可从前一个检查点续训。",
        ) from error
