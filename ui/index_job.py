"""Indexing as a job: what `zhiwen index` does, with its progress on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kb.types import SyncProgress
    from ui.jobs import RunningJob


def run(given: dict[str, Any], *, job: RunningJob) -> dict[str, Any]:
    """`given`: home, kb, folder, allow_empty, again (documents to read again). Returns the report as JSON."""
    from kb.sync import SyncOptions
    from ui import wiring
    from ui.settings import load_settings
    from ui.show import as_json

    settings = load_settings(Path(given["home"]))
    kb, choice = wiring.open_or_create(settings, given["kb"])
    folder = Path(given["folder"])
    wiring.check_folder(kb, folder)
    if again := given.get("again"):
        kb.reindex(again)
    first: dict[str, float] = {}

    def note(step: SyncProgress) -> None:
        began = first.setdefault(step.step, time.time())
        job.tell(
            now=step.step in ("done", "calibrate"),
            step=step.step,
            done=step.done,
            total=step.total,
            name=step.name,
            chunks=step.chunks,
            began=began,
            at=time.time(),
        )

    report, calibration = wiring.index_folder(
        settings,
        folder,
        kb=kb,
        embedder=choice.embedder,
        options=SyncOptions(allow_empty=bool(given.get("allow_empty")), wait=30.0),
        progress=note,
        cancel=job.cancel,
    )
    return {"report": as_json(report), "calibration": as_json(calibration)}
