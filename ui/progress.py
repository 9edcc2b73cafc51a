"""A progress bar on stderr for indexing; silent when stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kb.types import SyncProgress
from ui.table import clip
from ui.text import pick

STEPS = {
    "list": ("列出文件", "listing"),
    "hash": ("比较内容", "comparing"),
    "read": ("读取", "reading"),
    "embed": ("嵌入", "embedding"),
    "index": ("建立索引", "indexing"),
    "calibrate": ("标定阈值", "calibrating"),
    "done": ("完成", "done"),
}


@contextmanager
def sync_progress(*, quiet: bool = False) -> Iterator[Callable[[SyncProgress], None]]:
    """A callback that draws; inside the block stderr belongs to the bar."""
    if quiet or not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[file]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(pick(*STEPS["list"]), total=None, rate="", file="")

        def show(step: SyncProgress) -> None:
            spent = bar.tasks[0].elapsed or 0.0
            rate = (
                pick(f"每秒 {step.chunks / spent:.0f} 块", f"{step.chunks / spent:.0f} chunks/s")
                if spent and step.chunks
                else ""
            )
            bar.update(
                task,
                description=pick(*STEPS[step.step]),
                completed=step.done,
                total=step.total or None,
                rate=rate,
                file=clip(step.name, 36),
            )

        yield show
