"""`zhiwen finetune --gpus N`: torch's launcher in a process of its own, its run followed on this terminal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kb.errors import ModelError
from ui.text import pick

Event = dict[str, Any]


def train_on(
    gpus: int, *, folder: Path, listen: Callable[[Event], None]
) -> tuple[Path | None, dict[str, float]]:
    """Train, tell `listen` every new event, and return the adapter (None if it was stopped) and the metrics.

    Ctrl-C asks the run to save and end, a second one ends it at once. Raises ModelError with what went wrong.
    """
    from finetune import events, run

    metrics: dict[str, float] = {}
    found = run.launch(folder, gpus=gpus)
    told, at = len(events.read(folder)), 0
    try:
        with _stopped_by_signal(folder):
            for event in run.follow(folder):
                if event["event"] == "rewind":  # a resumed run writes its events anew
                    at = 0
                    continue
                at += 1
                if at > told:
                    told = at
                    listen(event)
                metrics = event.get("metrics", metrics) if event["event"] == "end" else metrics
    except KeyboardInterrupt:
        run.kill(folder, found.process)
        return None, {}
    last = run.info(folder)
    if last.state in ("failed", "killed"):
        tail = _tail(folder / run.LOG)
        raise ModelError(
            last.error_en or f"the processes ended without a word. {folder / run.LOG} ends with:\n{tail}",
            zh=last.error_zh or f"进程没有留下信息就结束了。{folder / run.LOG} 的结尾：\n{tail}",
        )
    return last.adapter if last.state == "done" else None, metrics


@contextmanager
def _stopped_by_signal(folder: Path) -> Iterator[None]:
    from finetune import run

    asked = False

    def on_signal(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        run.stop(folder)
        said = pick(
            "正在保存，当前步完成后停止；再按一次立即结束。",
            "Saving after the step at hand; press again to end at once.",
        )
        print(said, file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.signal(kind, on_signal) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _tail(path: Path, *, lines: int = 15) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return "\n".join(text.splitlines()[-lines:])
