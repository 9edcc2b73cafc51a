"""Run folders: begin one, start it in a process of its own, follow it, stop it, resume it, list them.

runs/zhouyi-20261121-120000/
  config.json  data.json  environment.json  status.json  events.jsonl  log.txt
  plots/loss.png  plots/learning_rate.png  samples.md  checkpoints/  adapter/ (or model/)
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast

from finetune import checkpoint, events
from finetune.config import RunConfig, from_values
from kb.errors import DataError, ModelError

State = Literal["new", "running", "stopped", "done", "failed", "killed"]
"""killed: it says running, but its process is gone. stopped, failed and killed runs can be resumed."""

CONFIG, STATUS, STOP, LOG = "config.json", "status.json", "stop", "log.txt"
ADAPTER, MODEL = "adapter", "model"
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "zhiwen")


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as a list shows it."""

    folder: Path
    name: str
    state: State
    step: int
    total: int
    loss: float | None
    """The last one logged."""
    began: float
    """Seconds since 1970."""
    method: str
    dataset: str
    error_en: str = ""
    error_zh: str = ""
    process: int = 0

    @property
    def adapter(self) -> Path | None:
        """What `rag` loads, once it is there."""
        for name in (ADAPTER, MODEL):
            if (self.folder / name / "train.json").is_file():
                return self.folder / name
        return None

    @property
    def can_resume(self) -> bool:
        """Whether `resume` goes on with it."""
        return self.state in ("new", "stopped", "failed", "killed")


def create(config: RunConfig, *, parent: Path | None = None) -> Path:
    """A new run folder `<name>-<time>` with the config in it, its adapters found. Nothing runs yet."""
    from finetune.start import with_start  # it reads runs, too

    config, parent = with_start(config), parent or Path(config.output_dir)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(100):
        folder = parent / (f"{config.name}-{stamp}" + (f"-{number + 1}" if number else ""))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        write_json(folder / CONFIG, config.flat())
        write_status(folder, state="new", step=0, total=0)
        return folder
    raise DataError(f"{parent} is full of runs named {config.name}.", zh=f"{parent} 里同名的运行太多。")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file as a whole."""
    work = path.with_name(f".{path.name}.{os.getpid()}")
    work.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    work.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a run folder. Raises DataError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}. Is {path.parent} a run folder?",
            zh=f"{path} 无法读取：{error}。{path.parent} 是运行文件夹吗？",
        ) from error
    return cast(dict[str, Any], value)


def read_config(folder: Path) -> RunConfig:
    """What a run was asked to do."""
    return from_values(read_json(folder / CONFIG))


def write_status(folder: Path, **values: Any) -> None:
    """Replace the status. `state`, `step`, `total`, and where it failed `error_en` and `error_zh`."""
    write_json(folder / STATUS, {"process": os.getpid(), "time": time.time(), **values})


def info(folder: Path) -> RunInfo:
    """How a run stands. Raises DataError if the folder is no run."""
    config, status = read_json(folder / CONFIG), read_json(folder / STATUS)
    state, process = str(status.get("state", "new")), int(status.get("process", 0))
    if state == "running" and not alive(process):
        state = "killed"
    return RunInfo(
        folder=folder,
        name=str(config.get("name", folder.name)),
        state=cast(State, state),
        step=int(status.get("step", 0)),
        total=int(status.get("total", 0)),
        loss=status.get("loss"),
        began=(folder / CONFIG).stat().st_mtime,
        method=str(config.get("finetuning_type", "")),
        dataset=str(config.get("dataset", "")),
        error_en=str(status.get("error_en", "")),
        error_zh=str(status.get("error_zh", "")),
        process=process,
    )


def alive(process: int) -> bool:
    """Whether a process of ours still works (a zombie does not)."""
    if process <= 0:
        return False
    import psutil

    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def list_runs(parent: Path) -> list[RunInfo]:
    """All runs of a folder, newest first; what is no run is passed over."""
    found = [
        info(f)
        for f in (parent.iterdir() if parent.is_dir() else ())
        if (f / STATUS).is_file() and (f / CONFIG).is_file()
    ]
    return sorted(found, key=lambda r: (r.began, r.folder.name), reverse=True)


def start(config: RunConfig, *, parent: Path | None = None, gpus: int = 1) -> RunInfo:
    """Make a run and start it in a process (one for each of `gpus`) that outlives this one."""
    return launch(create(config, parent=parent), gpus=gpus)


def resume(folder: Path, *, gpus: int = 1) -> RunInfo:
    """Go on with a run from its last complete checkpoint, in a process of its own (or `gpus` of them, whatever their
    number was before). Raises ModelError if it runs or is done."""
    may_resume(folder)
    return launch(folder, gpus=gpus)


def must_be_idle(folder: Path) -> None:
    """Raise ModelError if another process is training in this folder; the one that launched this one is none."""
    found = info(folder)
    if found.state == "running" and found.process not in (os.getpid(), os.getppid()):
        raise ModelError(
            f"{folder.name} is being trained by process {found.process}. Stop it: zhiwen finetune --stop {folder}",
            zh=f"进程 {found.process} 正在训练 {folder.name}。可先停止：zhiwen finetune --stop {folder}",
        )


def may_resume(folder: Path) -> None:
    """Raise ModelError if the run is done or still running; forget an old wish to stop."""
    found = info(folder)
    if not found.can_resume:
        raise ModelError(
            f"{folder.name} is {found.state}: there is nothing to resume.",
            zh=f"{folder.name} 的状态是 {found.state}，无法续训。",
        )
    (folder / STOP).unlink(missing_ok=True)


def command(folder: Path, *, gpus: int) -> list[str]:
    """How a run is started: by Python, or for several GPUs by torch's launcher, which is torchrun."""
    several = (
        ["torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus), "-m"] if gpus > 1 else []
    )
    return [sys.executable, "-m", *several, "finetune", str(folder.resolve())]


def launch(folder: Path, *, gpus: int = 1) -> RunInfo:
    """Start a run that was created or may be resumed, in a process of its own (`process` in what is returned)."""
    root = Path(__file__).resolve().parent.parent
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH", "")])]
    step = checkpoint.complete(folder / "checkpoints")
    done = step[-1].step if step else 0
    events.EventLog(folder).rewind(
        done if step else -1
    )  # who follows must not meet the end of an earlier attempt
    with (folder / LOG).open("ab") as log:
        child = subprocess.Popen(
            command(folder, gpus=gpus),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
    write_status(folder, state="running", step=done, total=info(folder).total, process=child.pid)
    return info(folder)


def kill(folder: Path, process: int) -> None:
    """End a launched run at once, with all processes that it started; what its last checkpoint holds stays."""
    import psutil

    try:
        family = [psutil.Process(process), *psutil.Process(process).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    (folder / STOP).unlink(missing_ok=True)
    done = checkpoint.complete(folder / "checkpoints")
    write_status(folder, state="stopped", step=done[-1].step if done else 0, total=info(folder).total)


def stop(folder: Path) -> None:
    """Ask a run to save a checkpoint and end; it does so after the step at hand."""
    (folder / STOP).touch()


def stop_requested(folder: Path) -> bool:
    """Whether somebody asked."""
    return (folder / STOP).exists()


def follow(folder: Path) -> Iterator[events.Event]:
    """The events of a run as they come, until it ends. See `finetune.events`."""
    return events.follow(folder, ended=lambda: info(folder).state != "running")


def environment() -> dict[str, Any]:
    """Versions and hardware, for environment.json and train.json."""
    import torch

    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "libraries": versions,
        "gpu": gpu,
        "cuda": torch.version.cuda or "",
    }


def describe(found: RunInfo) -> dict[str, Any]:
    """A run as JSON."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(found).items()}
