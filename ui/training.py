"""What the fine-tuning page needs besides drawing: data sets, uploads, configs, the plan, the events of a run."""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kb.errors import DataError, SettingsError
from ui.settings import Settings
from ui.uploads import Refused, Upload, copy

if TYPE_CHECKING:
    from finetune.config import RunConfig
    from finetune.plan import Plan
    from finetune.prepare import Prepared

SAMPLES = Path(__file__).resolve().parent.parent / "data"
LARGEST = 200_000_000
"""Bytes of one uploaded data file."""
MOST_FILES = 200
_BAD_NAME = re.compile(r"[/\\,\x00-\x1f\x7f<>:\"|?*]")
TINY = "tiny"


@dataclass(frozen=True, slots=True)
class SetChoice:
    """One data set that can be chosen."""

    key: str
    """As `--dataset` takes it: a name, or the path of an uploaded file."""
    name: str
    own: bool
    """Uploaded, not one of the samples."""


# ------------------------------------------------------------------ data sets


def datasets_folder(settings: Settings) -> Path:
    """Where uploaded data sets are kept."""
    return settings.home / "datasets"


def known_sets(settings: Settings) -> list[SetChoice]:
    """Uploaded ones first, then those of data/dataset_info.json. Raises DataError if that file is broken."""
    from finetune.data.registry import read_registry
    from finetune.data.rows import SUFFIXES

    own = datasets_folder(settings)
    found = [
        SetChoice(str(path), path.name, True)
        for path in sorted(own.glob("*"))
        if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    if (SAMPLES / "dataset_info.json").is_file():
        found += [SetChoice(name, name, False) for name in read_registry(SAMPLES)]
    return found


def why_not(folder: Path, name: str, size: int) -> tuple[str, str] | None:
    """Chinese and English reason why a file of this name and size is not taken; None if it is."""
    from finetune.data.rows import SUFFIXES

    if Path(name).suffix.lower() not in SUFFIXES:
        known = ", ".join(s.lstrip(".") for s in SUFFIXES)
        return f"不支持这种文件，可用的有：{known}", f"this type is not read; known are: {known}"
    if _BAD_NAME.search(name) or name.startswith(".") or len(name.encode()) > 200:
        return (
            "文件名里有不能用的字符，或者太长",
            "its name has characters that cannot be used, or is too long",
        )
    if size == 0:
        return "是空文件", "is empty"
    if size > LARGEST:
        return f"超过 {LARGEST // 1_000_000} MB，请拆分", f"larger than {LARGEST // 1_000_000} MB: split it"
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        return "会写到文件夹之外", "it would be written outside the folder"
    if not (folder / name).exists() and folder.is_dir() and len(list(folder.iterdir())) >= MOST_FILES:
        return f"已有 {MOST_FILES} 个文件，请先删掉一些", f"there are {MOST_FILES} files already: delete some"
    return None


def take(
    settings: Settings, files: Sequence[Upload], *, folder: Path | None = None
) -> tuple[list[Path], list[Refused]]:
    """Keep uploaded data files, whole; one of the same name is replaced. Returns what was taken and what was not.

    `folder`: instead of the data sets' folder.
    """
    folder = folder or datasets_folder(settings)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    taken: list[Path] = []
    refused: list[Refused] = []
    for file in files:
        if reason := why_not(folder, file.name, file.size):
            refused.append(Refused(file.name, *reason))
            continue
        file.seek(0)
        draft = folder / f".{secrets.token_hex(6)}.part"
        try:
            with draft.open("xb") as out:
                copy(file, out)
            os.replace(draft, folder / file.name)
        finally:
            draft.unlink(missing_ok=True)
        taken.append(folder / file.name)
    return taken, refused


def remove_set(settings: Settings, path: str) -> None:
    """Delete an uploaded data set. Raises DataError for anything that does not lie in their folder."""
    folder = datasets_folder(settings).resolve()
    found = Path(path).resolve()
    if found.parent != folder or not found.is_file():
        raise DataError(f"{found.name} is no uploaded data set.", zh=f"{found.name} 不是上传的数据集。")
    found.unlink()


def stamp(keys: Sequence[str]) -> tuple[tuple[str, int, int], ...]:
    """Changes when a file of these sets changes: what was read of them may be kept until then."""
    from finetune.data.registry import find

    files = [file for one in find(",".join(keys), folder=SAMPLES) for file in one.files]
    return tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files if f.is_file())


# ------------------------------------------------------------------ configs and plans


def ready_configs() -> dict[str, dict[str, Any]]:
    """Name -> flat values of the ready configs in data/configs. Raises SettingsError for one that is broken."""
    from finetune.config import from_values

    found = {}
    for path in sorted((SAMPLES / "configs").glob("*.toml")):
        try:
            found[path.stem] = from_values(tomllib.loads(path.read_text(encoding="utf-8"))).flat()
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(
                f"{path.name} is not valid TOML: {error}", zh=f"{path.name} 不是合法的 TOML：{error}"
            ) from error
    return found


def config_of(settings: Settings, values: Mapping[str, Any]) -> RunConfig:
    """A run of this home from the page's values. Raises SettingsError naming the option that is wrong."""
    from finetune.config import from_values
    from ui.found import runs_folder

    placed = {"dataset_dir": str(SAMPLES), "output_dir": str(runs_folder(settings))}
    return from_values({**values, **placed})


def built(settings: Settings, config: RunConfig) -> RunConfig:
    """The same with "tiny" replaced by a model that is on disk (built now if need be)."""
    from finetune.prepare import with_model

    with _building:
        return with_model(config, home=settings.home)


def prepared_for(config: RunConfig) -> Prepared:
    """Read and encode its data. Raises DataError, SettingsError, ModelError."""
    from finetune.bases import chat_of
    from finetune.prepare import prepare

    return prepare(config, tokenizer=chat_of(config))


def data_part(config: RunConfig) -> RunConfig:
    """The part of a config that decides what is learned from: everything else at its default."""
    from finetune.config import RunConfig, TrainConfig

    return RunConfig(data=config.data, train=TrainConfig(seed=config.train.seed))


_rates: dict[tuple[str, str], float] = {}
_building = threading.Lock()


def plan_for(config: RunConfig, prepared: Prepared) -> Plan:
    """The plan, with the speed of the device measured once for the life of the process."""
    from finetune.plan import device_name, make_plan
    from finetune.speed import matrix_rate
    from rag.chatglm3.load import choose_device, choose_dtype

    device = choose_device(device_name(config))
    precision = config.train.precision
    dtype = choose_dtype("" if precision == "auto" else precision, device=device)
    if (device, dtype) not in _rates:
        _rates[device, dtype] = matrix_rate(device, dtype)
    return make_plan(config, prepared=prepared, rate=_rates[device, dtype])


def named(config: RunConfig, name: str) -> RunConfig:
    """The same run under a name of the person's; blanks and marks that no folder likes become dashes."""
    clean = re.sub(r"[^\w.-]+", "-", name).strip("-._")[:60] or "run"
    return replace(config, name=clean)


# ------------------------------------------------------------------ events of a run


class EventTail:
    """The events of one run, read on from where reading stopped."""

    def __init__(self, folder: Path) -> None:
        from finetune.events import FILE

        self.path = folder / FILE
        self._lock = threading.Lock()
        self._inode, self._at = 0, 0
        self._events: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """All events so far. A run that was resumed has rewritten its file: it is read anew."""
        with self._lock:
            try:
                about = self.path.stat()
            except FileNotFoundError:
                return []
            if about.st_ino != self._inode or about.st_size < self._at:
                self._inode, self._at, self._events = about.st_ino, 0, []
            with self.path.open("rb") as file:
                file.seek(self._at)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._at += len(line)
                    self._keep(line)
            return list(self._events)

    def _keep(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            self._events.append(event)


_tails: dict[Path, EventTail] = {}


def events_of(folder: Path) -> list[dict[str, Any]]:
    """The events of a run so far."""
    if len(_tails) > 50:
        _tails.clear()
    return _tails.setdefault(folder, EventTail(folder)).read()


def thinned(events: Sequence[dict[str, Any]], *, most: int = 500) -> list[dict[str, Any]]:
    """At the most about `most` of them, evenly, the last always among them."""
    every = max(1, -(-len(events) // most))
    kept = list(events[::every])
    return kept if not events or kept[-1] is events[-1] else [*kept, events[-1]]
