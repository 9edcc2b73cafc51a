"""A model from a hub into a folder: resumable, every file checked, nothing half under its final name.

A file grows as NAME.part and is renamed when its size and sha256 are right. Running the same command again goes on where
it broke off.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kb.errors import ModelError
from rag.chatglm3.folder import need_space, sha256_of
from rag.chatglm3.hub import KNOWN, HubName, RemoteFile, open_hub, strange, unreachable, wanted

if TYPE_CHECKING:
    import httpx

Progress = Callable[[int, int, str], None]
"""Bytes done, bytes in all, file."""
_SIZE_LIMIT = 400_000_000_000


@dataclass(frozen=True, slots=True)
class PullConfig:
    """Where from, and how patient."""

    hub: HubName = "huggingface"
    endpoint: str = ""
    """Address of a mirror; empty is the hub's own."""
    revision: str = ""
    """Branch, tag or commit; empty is the hub's main branch."""
    offline: bool = False
    attempts: int = 5
    """For each file; a broken connection goes on where it stopped."""
    timeout: float = 30.0
    """Seconds without a byte."""
    wait: float = 1.0
    """Seconds before the second attempt; doubled for each further one."""


@dataclass(frozen=True, slots=True)
class PullReport:
    """What a pull did."""

    folder: Path
    files: int
    bytes: int
    """Of all files."""
    fetched: int
    """Bytes that came over the network this time."""


def pull(
    model: str, *, target: Path, config: PullConfig | None = None, progress: Progress | None = None
) -> PullReport:
    """Fetch a model by its short name (`chatglm3-6b`) or hub id into `target`. Raises ModelError."""
    how = config or PullConfig()
    if how.offline:
        raise ModelError(
            f"Offline (hub.offline or HF_HUB_OFFLINE is set): {model} cannot be fetched. "
            "To download set HF_HUB_OFFLINE=0, or run: zhiwen settings unset hub.offline",
            zh=f"当前为离线模式（设置了 hub.offline 或 HF_HUB_OFFLINE），不能下载 {model}。"
            "要下载请设 HF_HUB_OFFLINE=0，或运行：zhiwen settings unset hub.offline",
        )
    name = hub_id(model, hub=how.hub)
    import httpx

    with httpx.Client(timeout=how.timeout, follow_redirects=True) as client:
        hub = open_hub(how.hub, endpoint=how.endpoint)
        files = wanted(hub.files(client, model=name, revision=how.revision))
        if not files:
            raise ModelError(f"{name} has no files to fetch.", zh=f"{name} 没有可下载的文件。")
        total = sum(max(file.size, 0) for file in files)
        there = sum(present(target / file.path) for file in files)
        need_space(target, needed=max(0, total - there) + 10_000_000)
        target.mkdir(parents=True, exist_ok=True)
        done, fetched = 0, 0
        for file in files:
            fetched += _fetch(client, file, target / file.path, how, done, total, progress)
            done += max(file.size, 0)
    return PullReport(target, len(files), sum((target / f.path).stat().st_size for f in files), fetched)


def hub_id(model: str, *, hub: HubName) -> str:
    """The id on the hub. Raises ModelError for a name that is neither known nor an id."""
    if model in KNOWN:
        return KNOWN[model][hub == "modelscope"]
    owner, _, name = model.partition("/")
    if not name or not all(c.isalnum() or c in "-_./" for c in model) or ".." in model or "/" in name:
        raise ModelError(
            f"Unknown model {model!r}. Known: {', '.join(KNOWN)}; or give an id such as {owner or 'owner'}/name.",
            zh=f"未知的模型 {model!r}。可用：{'、'.join(KNOWN)}；或给出形如 owner/name 的编号。",
        )
    return model


def present(path: Path) -> int:
    """Bytes of a file that are here already."""
    for candidate in (path, part_of(path)):
        if candidate.is_file():
            return candidate.stat().st_size
    return 0


def part_of(path: Path) -> Path:
    """Where a file grows."""
    return path.with_name(path.name + ".part")


def _fetch(
    client: httpx.Client,
    file: RemoteFile,
    path: Path,
    how: PullConfig,
    done: int,
    total: int,
    progress: Progress | None,
) -> int:
    """One file, with attempts. Returns the bytes that were fetched."""
    import httpx

    if path.is_file() and _right(path, file):
        return 0
    path.parent.mkdir(parents=True, exist_ok=True)
    part, fetched, problem = part_of(path), 0, ""
    for attempt in range(how.attempts):
        if attempt:
            time.sleep(how.wait * 2 ** (attempt - 1))
        before = present(part)
        try:
            _stream(client, file, part, lambda now: progress and progress(done + now, total, file.path))
        except httpx.HTTPError as error:
            if attempt == how.attempts - 1:
                raise unreachable(file.url, error) from error
            fetched += max(0, present(part) - before)
            continue
        if not part.is_file():  # longer than the hub's file: begin again
            continue
        fetched += max(0, part.stat().st_size - before)
        if _right(part, file):
            part.replace(path)
            return fetched
        problem = f"{part.stat().st_size} bytes"
        if file.size < 0 or part.stat().st_size >= file.size:
            part.unlink()  # complete but wrong: begin again
    raise ModelError(
        f"{file.path} arrived wrong {how.attempts} times ({problem}; size or sha256 differ from what the hub says).",
        zh=f"{file.path} 连续 {how.attempts} 次下载有误（{problem}；大小或 sha256 与下载站所说不符）。",
    )


def _right(path: Path, file: RemoteFile) -> bool:
    if file.size >= 0 and path.stat().st_size != file.size:
        return False
    if file.sha256:
        return sha256_of(path) == file.sha256
    if len(file.git_sha1) == 40:
        content = path.read_bytes()  # small: large files come with a sha256
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file.git_sha1
    return True


def _stream(client: httpx.Client, file: RemoteFile, part: Path, tell: Callable[[int], object]) -> None:
    """Append what is missing to `part`. Raises httpx errors, ModelError."""
    have = part.stat().st_size if part.is_file() else 0
    if have and have == file.size:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    came = 0
    with client.stream("GET", file.url, headers=headers | {"Accept-Encoding": "identity"}) as answer:
        if answer.status_code == 416:
            part.unlink()
            return
        if answer.status_code not in (200, 206):
            if answer.status_code >= 500 or answer.status_code == 429:
                answer.raise_for_status()
            raise strange(file.url, f"status {answer.status_code}")
        resumed = have > 0 and answer.status_code == 206
        with part.open("ab" if resumed else "wb") as out:
            have = have if resumed else 0
            for block in answer.iter_raw():  # as it arrives: a break loses nothing
                out.write(block)
                came += len(block)
                tell(have + came)
                if have + came > (file.size if file.size >= 0 else _SIZE_LIMIT):
                    raise strange(file.url, "more bytes than announced")
