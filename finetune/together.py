"""Several processes end together: by one failure told once, by one wish to stop, and within seconds if one is killed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from finetune import checkpoint, run
from finetune.config import RunConfig
from finetune.events import EventLog
from finetune.parallel import World, let_memory_grow, own_device
from finetune.plan import RESERVE, Plan, make_plan
from finetune.prepare import Prepared
from finetune.speed import matrix_rate
from kb.errors import ModelError

if TYPE_CHECKING:
    from finetune.run import State

CLAIM = ".failed"
"""In the run folder: a process that fails has told why. The others then say nothing."""
GRACE = 3.0
"""Seconds in which a process may end by itself after another one is gone."""


class Peers:
    """Watches the other processes on this machine, also while this one waits inside a GPU library."""

    def __init__(self, world: World, folder: Path, log: EventLog) -> None:
        self.world, self.folder, self.log = world, folder, log
        self.leaving = False
        """Set before the last meeting: who is gone after it has done its work."""
        self.processes: dict[int, int] = {}
        if world.size == 1:
            return
        hosts = world.gathered(zlib.crc32(socket.gethostname().encode()))
        numbers = world.gathered(os.getpid())
        self.processes = {
            rank: numbers[rank]
            for rank in range(world.size)
            if rank != world.rank and hosts[rank] == hosts[world.rank]
        }
        self.start()

    def start(self) -> None:
        """Watch in a thread of its own."""
        threading.Thread(target=self._watch, daemon=True).start()

    def gone(self) -> list[int]:
        """Ranks whose process is not there any more."""
        return [rank for rank, process in self.processes.items() if not run.alive(process)]

    def _watch(self) -> None:
        since = 0.0
        while not self.leaving:
            time.sleep(0.25)
            if not self.gone():
                continue
            since = since or time.monotonic()
            if time.monotonic() - since > GRACE and not self.leaving:
                english, chinese = self.reason()
                fail(self.folder, self.log, english, chinese, world=self.world, of_another=True)
                print(f"{chinese}\n{english}", file=sys.stderr, flush=True)
                os._exit(1)  # the other thread waits for an answer that never comes

    def reason(self) -> tuple[str, str]:
        """Why it cannot go on: (English, Chinese)."""
        gone = self.gone()
        if (self.folder / CLAIM).exists() or not gone:
            found = run.info(self.folder)
            return (
                f"another process failed: {found.error_en}",
                f"另一个进程失败：{found.error_zh}",
            )
        who = ", ".join(f"{rank + 1} (pid {self.processes[rank]})" for rank in gone)
        size = self.world.size
        done = checkpoint.complete(self.folder / "checkpoints")
        back = f" Resume from {done[-1].folder.name}: zhiwen finetune --resume {self.folder}" if done else ""
        back_zh = f"可从 {done[-1].folder.name} 续训：zhiwen finetune --resume {self.folder}" if done else ""
        return (
            f"of {size} processes number {who} ended without a word: it was killed, or memory ran out.{back}",
            f"{size} 个进程中，第 {who} 个没有留下信息就结束了：它被杀死了，或者内存不够。{back_zh}",
        )

    def explain(self, error: Exception) -> ModelError | None:
        """What a broken connection really means, or None if nobody is missing."""
        if self.world.size == 1:
            return None
        with undisturbed():
            end = time.monotonic() + 2
            while not (self.gone() or (self.folder / CLAIM).exists()) and time.monotonic() < end:
                time.sleep(0.05)
            if not (self.gone() or (self.folder / CLAIM).exists()):
                return None
            english, chinese = self.reason()
        return ModelError(english, zh=chinese)


def begin(folder: Path, *, world: World) -> None:
    """Forget the failure of an earlier attempt; nobody goes on before."""
    let_memory_grow()
    if world.main:
        (folder / CLAIM).unlink(missing_ok=True)
    world.wait()


@contextmanager
def undisturbed() -> Iterator[None]:
    """No termination signal while the block runs: a launcher that sees one process end sends it to the others at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def fail(
    folder: Path,
    log: EventLog,
    english: str,
    chinese: str,
    *,
    world: World,
    state: State = "failed",
    of_another: bool = False,
) -> None:
    """Write down how a run failed or was stopped; of several processes the first one's reason stays.

    `of_another`: the reason is the end of another process, not one of this process' own.
    """
    if world.size > 1:
        try:
            os.close(os.open(folder / CLAIM, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            return
        if not (world.main or of_another):
            english = f"process {world.rank + 1} of {world.size}: {english}"
            chinese = f"第 {world.rank + 1} 个进程（共 {world.size} 个）：{chinese}"
    with undisturbed():
        done = checkpoint.complete(folder / "checkpoints")
        step = done[-1].step if done else 0
        total = run.info(folder).total
        run.write_status(folder, state=state, step=step, total=total, error_en=english, error_zh=chinese)
        EventLog(folder, listen=log.listen).write("end", state=state, zh=chinese, en=english)


@contextmanager
def stoppable(folder: Path) -> Iterator[Callable[[], bool]]:
    """Ctrl-C, a termination signal or `run.stop` end the run after the step at hand; a second Ctrl-C at once."""
    asked = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    def wanted() -> bool:
        return asked.is_set() or run.stop_requested(folder)

    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return
    before = {kind: signal.signal(kind, on_signal) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def plan_together(config: RunConfig, *, prepared: Prepared, world: World) -> Plan:
    """The plan that fits every process: the least free memory and the slowest device count."""
    if world.size == 1:
        return make_plan(config, prepared=prepared)
    from rag.chatglm3.load import choose_dtype
    from rag.chatglm3.memory import free_bytes

    device = own_device(config.train.device)
    precision = config.train.precision
    dtype = choose_dtype("" if precision == "auto" else precision, device=device)
    mine = free_bytes(device) * RESERVE / (world.size if device == "cpu" else 1)
    free, rate = world.least(mine, matrix_rate(device, dtype))
    return make_plan(config, device=device, prepared=prepared, free=int(free), rate=rate, gpus=world.size)
