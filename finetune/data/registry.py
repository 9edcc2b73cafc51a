"""dataset_info.json as the community knows it: names -> files, hashes, columns. Also plain paths to data files."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from finetune.data.layout import Columns, Formatting, Layout, Tags, from_names
from finetune.data.rows import SUFFIXES
from kb.errors import DataError

_KNOWN = {
    "hf_hub_url",
    "ms_hub_url",
    "om_hub_url",
    "script_url",
    "file_name",
    "file_sha1",
    "subset",
    "split",
    "folder",
    "num_samples",
    "ranking",
    "formatting",
    "columns",
    "tags",
    "format",
}


@dataclass(frozen=True, slots=True)
class DataSet:
    """One named data set, found on this machine."""

    name: str
    files: tuple[Path, ...]
    layout: Layout | None
    """None: the format is recognised from the rows."""
    format: str = ""
    """Name of one of our formats; empty if `layout` says it."""
    limit: int = 0
    """Examples to take at the most; 0 takes all."""
    digests: dict[str, str] = field(default_factory=dict)
    """File name -> SHA-256 of its bytes, filled by `hash_files`."""


def find(names: str, *, folder: Path) -> list[DataSet]:
    """The data sets of "a,b,c": names of `folder`/dataset_info.json, or paths of files. Raises DataError."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise DataError(
            "--dataset is empty. Name one or more, as in --dataset zhouyi,law.", zh="--dataset 是空的。"
        )
    entries = read_registry(folder) if (folder / "dataset_info.json").is_file() else {}
    return [_find_one(name, entries, folder) for name in wanted]


def read_registry(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries of dataset_info.json. Raises DataError on bad JSON or an unknown key."""
    path = folder / "dataset_info.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", zh=f"{path} 无法读取：{error}") from error
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise DataError(f"{path} must be an object of objects.", zh=f"{path} 应是“名字 → 对象”。")
    for name, entry in entries.items():
        for key in entry:
            if key not in _KNOWN:
                close = difflib.get_close_matches(key, _KNOWN, 1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise DataError(
                    f"{path.name}: {name!r} has the unknown key {key!r}.{hint}",
                    zh=f"{path.name}：{name!r} 里有未知的键 {key!r}。"
                    + (f"是否想写 {close[0]!r}？" if close else ""),
                )
    return entries


def _find_one(name: str, entries: dict[str, dict[str, Any]], folder: Path) -> DataSet:
    if name in entries:
        return _from_entry(name, entries[name], folder)
    path = Path(name)
    if path.suffix.lower() in SUFFIXES or path.is_file():
        path = path if path.is_file() else folder / name
        if path.is_file():
            return DataSet(path.name, (path,), None)
    close = difflib.get_close_matches(name, entries, 3)
    raise DataError(
        f"no data set {name!r}: it is neither in {folder / 'dataset_info.json'} nor a file."
        + (f" Close: {', '.join(close)}." if close else ""),
        zh=f"没有数据集 {name!r}：{folder / 'dataset_info.json'} 里没有，也不是文件。"
        + (f"相近的有 {'、'.join(close)}。" if close else ""),
    )


def _from_entry(name: str, entry: dict[str, Any], folder: Path) -> DataSet:
    formatting = entry.get("formatting") or "alpaca"
    if formatting not in ("alpaca", "sharegpt"):
        raise DataError(
            f"{name}: formatting is {formatting!r}; it must be 'alpaca' or 'sharegpt'.",
            zh=f"{name}：formatting 是 {formatting!r}，应为 'alpaca' 或 'sharegpt'。",
        )
    columns = from_names(Columns, entry.get("columns") or {}, f"{name}.columns")
    tags = from_names(Tags, entry.get("tags") or {}, f"{name}.tags")
    layout = Layout(cast(Formatting, formatting), bool(entry.get("ranking", False)), columns, tags)
    files = _files(name, entry, folder)
    if expected := str(entry.get("file_sha1") or ""):
        _check_sha1(name, files, expected)
    limit = int(entry.get("num_samples") or 0)
    given = str(entry.get("format") or "")
    return DataSet(name, files, None if given else layout, given, limit)


def _files(name: str, entry: dict[str, Any], folder: Path) -> tuple[Path, ...]:
    """The files on this machine; a hub's data set counts if it lies under `folder` as owner/name."""
    for key in ("hf_hub_url", "ms_hub_url", "om_hub_url"):
        if hub := entry.get(key):
            place = _inside(folder, str(hub), name)
            if place.is_dir():
                return _listing(name, place, entry)
    if any(entry.get(k) for k in ("hf_hub_url", "ms_hub_url", "om_hub_url")):
        hub = next(entry[k] for k in ("hf_hub_url", "ms_hub_url", "om_hub_url") if entry.get(k))
        raise DataError(
            f"{name} lies on a hub ({hub}) and is not on this machine. Download it and put its files into {folder / hub}.",
            zh=f"{name} 在网上（{hub}），本机没有。请下载后放到 {folder / hub}。",
        )
    if script := entry.get("script_url"):
        return _listing(name, _inside(folder, str(script), name), entry)
    if not entry.get("file_name"):
        raise DataError(
            f"{name} needs one of hf_hub_url, ms_hub_url, script_url or file_name.",
            zh=f"{name} 需要 hf_hub_url、ms_hub_url、script_url 或 file_name 之一。",
        )
    place = _inside(folder, str(entry["file_name"]), name)
    return _listing(name, place, entry) if place.is_dir() else (place,)


def _inside(folder: Path, relative: str, name: str) -> Path:
    place = (folder / relative).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise DataError(
            f"{name}: {relative!r} leads out of {folder}. Data must lie inside it.",
            zh=f"{name}：{relative!r} 指到了 {folder} 之外。数据应放在里面。",
        )
    return place


def _listing(name: str, place: Path, entry: dict[str, Any]) -> tuple[Path, ...]:
    """The data files of a folder: those of `folder`, `subset` and `split` where they are named. No script is run."""
    for part in (entry.get("folder"), entry.get("subset")):
        if part and (place / str(part)).is_dir():
            place = _inside(place, str(part), name)
    files = sorted(p for p in place.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
    split = str(entry.get("split") or "train")
    named = [p for p in files if split in p.stem.lower()]
    if files := named or files:
        return tuple(files)
    if any(place.glob("*.py")):
        raise DataError(
            f"{name}: {place} holds only a loading script. Scripts of others are not run, since they can do anything "
            f"on this machine: put the data files ({', '.join(SUFFIXES)}) beside it.",
            zh=f"{name}：{place} 里只有加载脚本。别人的脚本可以在本机做任何事，所以不运行；"
            f"请把数据文件（{'、'.join(SUFFIXES)}）放在旁边。",
        )
    raise DataError(f"{name}: there is no data file in {place}.", zh=f"{name}：{place} 里没有数据文件。")


def _check_sha1(name: str, files: tuple[Path, ...], expected: str) -> None:
    for file in files:
        found = _digest(file, "sha1") if file.is_file() else "nothing"
        if len(files) == 1 and found != expected.lower():
            raise DataError(
                f"{name}: {file.name} has the SHA-1 {found}, but dataset_info.json says {expected}. "
                "The file was changed or is damaged: fetch it again, or correct file_sha1.",
                zh=f"{name}：{file.name} 的 SHA-1 是 {found}，而 dataset_info.json 里是 {expected}。"
                "文件被改过或已损坏：请重新获取，或更正 file_sha1。",
            )


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def hash_files(found: DataSet) -> dict[str, str]:
    """File name -> SHA-256: what a run writes down about its data."""
    return {file.name: _digest(file, "sha256") for file in found.files}
