"""The adapters on this machine: where they come from, which one answers, and the comparison that this rests on."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
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


def find_adapters(places: Sequence[Path], *, state: Path) -> list[AdapterRecord]:
    """Every adapter folder directly under the places, or `adapter` in a run folder there (which then gives its name).

    `state`: the folder of promoted.json. Of two with one name the first place's is taken.
    """
    found: dict[str, AdapterRecord] = {}
    now = promoted(state)
    for place in places:
        configs = [*place.glob("*/adapter_config.json"), *place.glob("*/adapter/adapter_config.json")]
        for folder in sorted(config.parent for config in configs):
            name = name_of(folder)
            chosen = bool(now) and Path(str(now.get("folder", ""))).resolve() == folder.resolve()
            reason = str(now.get("reason", "")) if chosen else ""
            found.setdefault(name, AdapterRecord(name, folder, read_train(folder), chosen, reason))
    return list(found.values())


def name_of(folder: Path) -> str:
    """An adapter is called by its folder, or by its run where the folder is the run's `adapter`."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "adapter" else folder.name


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


def promoted(state: Path) -> dict[str, Any]:
    """What promoted.json says; empty if nothing is promoted. Raises ModelError if it is damaged."""
    path = state / PROMOTED
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} is damaged ({error}). Delete it to answer with the base.",
            zh=f"{path} 已损坏（{error}）。删掉它即可改用基座回答。",
        ) from error
    return about if isinstance(about, dict) else {}


def get(places: Sequence[Path], name: str, *, state: Path) -> AdapterRecord:
    """By its name, its folder or its run's, either without the time too: then the newest. Raises ModelError naming all."""
    given = Path(name).expanduser()
    inner = given / "adapter"
    if (inner / "adapter_config.json").is_file() and not (given / "adapter_config.json").is_file():
        given = inner
    known = find_adapters(places, state=state)
    for record in known:
        if record.name == name or (given.is_dir() and record.folder.resolve() == given.resolve()):
            return record
    if (given / "adapter_config.json").is_file():
        about = promoted(state)
        now = bool(about) and Path(str(about.get("folder", ""))).resolve() == given.resolve()
        reason = str(about.get("reason", "")) if now else ""
        return AdapterRecord(name_of(given), given.resolve(), read_train(given), now, reason)
    timed = re.compile(re.escape(given.name) + r"-\d{8}-\d{6}(-\d+)?")
    # "runs/zhouyi" is one of that folder, whether or not it is one of the places
    there = known if given.name == name else find_adapters([given.parent], state=state)
    fit = [r for r in there if timed.fullmatch(r.name)]
    if runs := sorted(fit, key=lambda r: r.name):
        return runs[-1]
    names = ", ".join(r.name for r in known) or "none"
    raise ModelError(
        f"there is no adapter {name!r}; known: {names}.",
        zh=f"没有适配器 {name!r}；现有：{'、'.join(r.name for r in known) or '无'}。",
    )


def demote(state: Path) -> bool:
    """Let the base answer again. False if no adapter was promoted."""
    there = (state / PROMOTED).is_file()
    (state / PROMOTED).unlink(missing_ok=True)
    return there


def promote(state: Path, record: AdapterRecord, *, comparison: Path | None, reason: str = "") -> Path:
    """Let this adapter answer from now on, and write down the comparison that says so.

    `comparison`: report.json of `zhiwen compare`; its text measures of this adapter are copied into the record.
    """
    if record.train.get("stage") == "rm":
        raise ModelError(
            f"{record.name} is a reward model: it scores answers and cannot write any.",
            zh=f"{record.name} 是奖励模型：它只给回答打分，不会写回答。",
        )
    about: dict[str, Any] = {
        "adapter": record.name,
        "folder": str(record.folder.resolve()),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "reason": reason,
    }
    if comparison is not None:
        about["comparison"] = str(comparison.resolve())
        about["measures"] = _measures(comparison, record.name)
        about["reason"] = reason or str(comparison)
    state.mkdir(parents=True, exist_ok=True)
    temporary = state / (PROMOTED + ".part")
    temporary.write_text(json.dumps(about, ensure_ascii=False, indent=2), encoding="utf-8")
    os.replace(temporary, state / PROMOTED)
    return state / PROMOTED


def _measures(path: Path, name: str) -> dict[str, Any]:
    try:
        overall = json.loads(path.read_text(encoding="utf-8"))["overall"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} is not a report.json of zhiwen compare ({error}).",
            zh=f"{path} 不是 zhiwen compare 的 report.json（{error}）。",
        ) from error
    found = {
        measure: {who: by_name[who] for who in by_name if who == name or who.startswith(f"{name} ")}
        for measure, by_name in overall.items()
    }
    if not any(found.values()):
        raise ModelError(f"{path} says nothing of {name!r}.", zh=f"{path} 里没有 {name!r}。")
    return found


def remove(record: AdapterRecord) -> None:
    """Delete its folder; the one that answers now is refused."""
    if record.promoted:
        raise ModelError(
            f"{record.name} answers now; promote another one first.",
            zh=f"{record.name} 正在使用，请先启用另一个。",
        )
    if record.folder.is_symlink() or not (record.folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{record.folder} is not an adapter folder of its own.",
            zh=f"{record.folder} 不是独立的适配器文件夹。",
        )
    shutil.rmtree(record.folder)
