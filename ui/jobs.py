"""Long work in a process of its own: it goes on when the page is closed, and any page finds it again.

    <home>/jobs/<id>/
        job.json         kind, title, what it was given, when it began
        progress.json    step, done, total, ...; replaced whole, about twice a second
        result.json      state ("done", "stopped", "failed") and what came of it; written last
        stop             made by whoever wants it to stop
        lock             held by the process for as long as it lives, so that a crash is seen
        output.txt       what the process printed

A kind of job is a module with `run(given, *, job)`; see KINDS.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from kb.errors import DataError, ZhiwenError
from kb.lock import is_locked, write_lock

KINDS = {"index": "ui.index_job", "compare": "ui.compare_job", "damage": "ui.damage_job"}
"""Kind -> module with `run(given: dict, *, job: RunningJob) -> dict`."""

State = Literal["running", "done", "stopped", "failed"]
_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
STARTING_SECONDS = 30.0
"""A process that has not taken its lock after this time never will."""
WRITE_SECONDS = 0.4
"""Progress is written this often at the most."""

_children: dict[str, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it stands on disk."""

    id: str
    folder: Path
    kind: str
    title: str
    given: dict[str, Any]
    began: float
    """Seconds since 1970."""
    state: State
    progress: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    def stop(self) -> None:
        """Ask it to stop; what it has committed stays."""
        (self.folder / "stop").touch()

    @property
    def stopping(self) -> bool:
        return self.state == "running" and (self.folder / "stop").exists()


# ------------------------------------------------------------------ from the page's side


def start(home: Path, kind: str, *, title: str, given: dict[str, Any]) -> Job:
    """Begin a job in a new process that outlives this one. `given` must be JSON."""
    if kind not in KINDS:
        raise DataError(f"unknown kind of job {kind!r}.", zh=f"未知的任务类型 {kind!r}。")
    number = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    folder = home / "jobs" / number
    folder.mkdir(parents=True, mode=0o700)
    about = {"kind": kind, "title": title, "given": given, "began": time.time()}
    replace_json(folder / "job.json", about)
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    with (folder / "output.txt").open("wb") as output:
        _children[number] = subprocess.Popen(
            [sys.executable, "-m", "ui.jobs", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": path},
            cwd=folder,
            start_new_session=True,
        )
    made = read(folder)
    assert made is not None
    return made


def jobs(home: Path, *, kind: str = "") -> list[Job]:
    """Newest first."""
    folders = sorted((home / "jobs").glob("*"), reverse=True)
    found = (read(folder) for folder in folders if _ID.fullmatch(folder.name))
    return [job for job in found if job and (not kind or job.kind == kind)]


def find(home: Path, number: str) -> Job | None:
    """The job of that id."""
    return read(home / "jobs" / number) if _ID.fullmatch(number) else None


def read(folder: Path) -> Job | None:
    """What stands on disk; a process that ended without a result has failed."""
    about = read_json(folder / "job.json")
    if not about:
        return None
    child = _children.get(folder.name)
    alive = (child is not None and child.poll() is None) or _alive(folder, float(about["began"]))
    result = read_json(folder / "result.json")  # after looking whether it lives: it writes this last
    state: State = result["state"] if result else "running" if alive else "failed"
    return Job(
        folder.name, folder, about["kind"], about["title"], about["given"], float(about["began"]), state,
        read_json(folder / "progress.json"), result,
    )  # fmt: skip


def forget(home: Path, *, keep: int = 50) -> None:
    """Delete the oldest finished jobs beyond `keep`."""
    import shutil

    for job in [j for j in jobs(home) if j.state != "running"][keep:]:
        shutil.rmtree(job.folder, ignore_errors=True)


def _alive(folder: Path, began: float) -> bool:
    lock = folder / "lock"
    if lock.exists() and is_locked(lock):
        return True
    return not lock.exists() and folder.name not in _children and time.time() - began < STARTING_SECONDS


def read_json(path: Path) -> dict[str, Any]:
    """Empty if it is not there (yet)."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def replace_json(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    os.replace(draft, path)


# ------------------------------------------------------------------ in the job's own process


class RunningJob:
    """What the work is given: where to say how far it is, and whether it should stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cancel = threading.Event()
        self._written = 0.0
        self._last: dict[str, Any] = {}

    def tell(self, *, now: bool = False, **values: Any) -> None:
        """Note the progress; written now and then only, unless `now`."""
        self._last = values
        if now or time.monotonic() - self._written >= WRITE_SECONDS:
            replace_json(self.folder / "progress.json", values)
            self._written = time.monotonic()

    def watch(self) -> None:
        """Set `cancel` once somebody asks for it; returns then."""
        while not (self.folder / "stop").exists():
            time.sleep(0.2)
        self.cancel.set()


def main(folder: Path) -> int:
    """Run one job. 0: done or stopped; 1: failed, result.json says why."""
    about = read_json(folder / "job.json")
    job = RunningJob(folder)
    threading.Thread(target=job.watch, daemon=True).start()
    with write_lock(folder / "lock", purpose="job"):
        try:
            came = importlib.import_module(KINDS[about["kind"]]).run(about["given"], job=job)
            result = {"state": "stopped" if job.cancel.is_set() else "done", "came": came}
        except ZhiwenError as error:
            result = {"state": "failed", "zh": error.zh, "en": error.message}
        except Exception as error:
            trouble = f"{type(error).__name__}: {error}"
            replace_json(folder / "result.json", {"state": "failed", "zh": trouble, "en": trouble})
            raise
        replace_json(folder / "result.json", result)
    return 1 if result["state"] == "failed" else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
