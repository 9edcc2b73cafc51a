"""The adapters on this machine: where they come from, which one answers, and the comparison that this rests on."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kb.errors import ModelError

PROMOTED = "promoted.json"


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One adapter folder."""

    name: str
    folder: Path
    train: dict[str, Any]
    """train.json: base model and its hash, method, data hashes, prompt version, library versions, final metrics."""
    promoted: bool
    reason: str = ""
    """What promoting it rested on."""


def find_adapters(places: list[Path]) -> list[AdapterRecord]:
    """Every folder with adapter_config.json and train.json directly under the places, or in `*/adapter` of a run."""
    found: dict[str, AdapterRecord] = {}
    for place in places:
        now = promoted(place)
        for config in sorted(
            [*place.glob("*/adapter_config.json"), *place.glob("*/adapter/adapter_config.json")]
        ):
            folder = config.parent
            name = folder.parent.name if folder.name == "adapter" else folder.name
            about = read_train(folder)
            chosen = now.get("adapter") == name
            reason = str(now.get("reason", "")) if chosen else ""
            found.setdefault(name, AdapterRecord(name, folder, about, chosen, reason))
    return list(found.values())


def read_train(folder: Path) -> dict[str, Any]:
    """train.json; empty if there is none. Raises ModelError if it is not JSON."""
    path = folder / "train.json"
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is damaged ({error}).", zh=f"{path} 已损坏（{error}）。") from error
    return about if isinstance(about, dict) else {}


def promoted(place: Path) -> dict[str, Any]:
    """What promoted.json says; empty if nothing is promoted."""
    try:
        about = json.loads((place / PROMOTED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def get(places: list[Path], name: str) -> AdapterRecord:
    """Raises ModelError naming those that there are."""
    known = find_adapters(places)
    for record in known:
        if record.name == name:
            return record
    names = ", ".join(r.name for r in known) or "none"
    raise ModelError(
        f"there is no adapter {name!r}; known: {names}.", zh=f"没有适配器 {name!r}；现有：{names}。"
    )


def promote(place: Path, record: AdapterRecord, *, comparison: Path | None, reason: str = "") -> Path:
    """Let this adapter answer from now on, and write down the comparison that says so.

    `comparison`: report.json of `zhiwen compare`; its text measures of this adapter are copied into the record.
    """
    about: dict[str, Any] = {
        "adapter": record.name,
        "folder": str(record.folder),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "reason": reason,
    }
    if comparison is not None:
        about["comparison"] = str(comparison)
        about["measures"] = _measures(comparison, record.name)
        about["reason"] = reason or str(comparison)
    place.mkdir(parents=True, exist_ok=True)
    temporary = place / (PROMOTED + ".part")
    temporary.write_text(json.dumps(about, ensure_ascii=False, indent=2), encoding="utf-8")
    os.replace(temporary, place / PROMOTED)
    return place / PROMOTED


def _measures(path: Path, name: str) -> dict[str, Any]:
    try:
        overall = json.loads(path.read_text(encoding="utf-8"))["overall"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} is not a report.json of zhiwen compare ({error}).",
            zh=f"{path} 不是 zhiwen compare 的 report.json（{error}）。",
        ) from error
    found = {measure: by_name[name] for measure, by_name in overall.items() if name in by_name}
    if not found:
        raise ModelError(f"{path} says nothing of {name!r}.", zh=f"{path} 里没有 {name!r}。")
    return found


def remove(record: AdapterRecord) -> None:
    """Delete its folder; the one that answers now is refused."""
    if record.promoted:
        raise ModelError(
            f"{record.name} answers now; promote another one first.",
            zh=f"{record.name} 正在使用，请先启用另一个。",
        )
    if (
        not re.fullmatch(r"[\w.() -]+", record.folder.name)
        or not (record.folder / "adapter_config.json").is_file()
    ):
        raise ModelError(
            f"{record.folder} is not an adapter folder.", zh=f"{record.folder} 不是适配器文件夹。"
        )
    shutil.rmtree(record.folder)
