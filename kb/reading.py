"""Read files in child processes, ahead of the embedding: a parser that crashes or hangs costs one file, not the run."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from kb.errors import LoadError
from kb.load import LoadLimits, OcrMode, load_file
from kb.types import Block, LoadedFile, Page

AHEAD = 6
"""Files that may be read before they are needed."""


def read_files(
    paths: Iterable[Path], *, limits: LoadLimits, ocr: OcrMode = "auto", workers: int = 0
) -> Generator[LoadedFile | LoadError, None, None]:
    """In order, each as a LoadedFile or the error that it caused. `workers` 0: one for each two cores."""
    count = workers or max(1, (os.cpu_count() or 2) // 2)
    local = threading.local()
    children: list[_Child] = []
    guard = threading.Lock()

    def read(path: Path) -> LoadedFile | LoadError:
        child: _Child | None = getattr(local, "child", None)
        if child is None:
            child = local.child = _Child(limits, ocr)
            with guard:
                children.append(child)
        return child.read(path)

    pool = ThreadPoolExecutor(count, thread_name_prefix="read")
    waiting: deque[Future[LoadedFile | LoadError]] = deque()
    try:
        for path in paths:
            waiting.append(pool.submit(read, path))
            if len(waiting) >= AHEAD + count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for child in children:
            child.kill()
        pool.shutdown(wait=True)


class _Child:
    """One reading process, started when it is needed and again after it died."""

    def __init__(self, limits: LoadLimits, ocr: OcrMode) -> None:
        self._limits, self._ocr = limits, ocr
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[bytes] = queue.Queue()
        self._closed = False

    def read(self, path: Path) -> LoadedFile | LoadError:
        process = self._running()
        assert process.stdin is not None
        request = {"path": str(path), "ocr": self._ocr, "limits": asdict(self._limits)}
        try:
            process.stdin.write(json.dumps(request).encode("utf-8", "surrogatepass") + b"\n")
            process.stdin.flush()
            line = self._answers.get(timeout=self._limits.seconds)
        except queue.Empty:
            self.kill()
            self._closed = False
            seconds = self._limits.seconds
            return LoadError(
                f"{path.name!r} took more than {seconds:.0f} s to read and was given up. Split it, or raise the limit.",
                zh=f"{path.name!r} 读取超过 {seconds:.0f} 秒，已放弃。请拆分文件或放宽限制。",
            )
        except BrokenPipeError:
            line = b""
        if not line:
            code = process.wait()
            self._process = None
            return LoadError(
                f"{path.name!r} made its parser crash (exit code {code}). The file is probably damaged: save it again.",
                zh=f"{path.name!r} 使解析程序崩溃（退出码 {code}）。文件很可能已损坏：请重新另存。",
            )
        answer = json.loads(line)
        if "error" in answer:
            return LoadError(answer["error"], zh=answer["zh"])
        return _loaded(path, answer)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None and not self._closed:
            root = Path(__file__).resolve().parent.parent
            environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(root), *filter(None, sys.path)]))
            process = subprocess.Popen(
                [sys.executable, "-m", "kb.reading"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
            self._process, self._answers = process, queue.Queue()
            threading.Thread(target=_pump, args=(process.stdout, self._answers), daemon=True).start()
        assert self._process is not None
        return self._process

    def kill(self) -> None:
        self._closed = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._answers.put(b"")


def _pump(stream: IO[bytes] | None, answers: queue.Queue[bytes]) -> None:
    assert stream is not None
    for line in stream:
        answers.put(line)
    answers.put(b"")


def _loaded(path: Path, answer: dict[str, Any]) -> LoadedFile:
    pages = tuple(
        Page(
            **{**page, "blocks": tuple(Block(*b) for b in page["blocks"]), "reasons": tuple(page["reasons"])}
        )
        for page in answer["pages"]
    )
    return LoadedFile(
        path, answer["kind"], pages, answer["title"], answer["encoding"], tuple(answer["notes"])
    )


def _as_json(loaded: LoadedFile) -> dict[str, Any]:
    pages = []
    for page in loaded.pages:
        blocks = [(b.kind, b.start, b.end, b.level, b.header) for b in page.blocks]
        about = {"number": page.number, "text": page.text, "blocks": blocks, "label": page.label}
        pages.append(about | {"verdict": page.verdict, "reasons": page.reasons, "ocr": page.ocr})
    return {
        "kind": loaded.kind,
        "pages": pages,
        "title": loaded.title,
        "encoding": loaded.encoding,
        "notes": loaded.notes,
    }


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """The child's loop: one JSON request a line, one JSON answer a line. Ends with its input."""
    for line in requests:
        request = json.loads(line)
        try:
            limits = LoadLimits(**request["limits"])
            answer = _as_json(load_file(Path(request["path"]), limits=limits, ocr=request["ocr"]))
        except LoadError as error:
            answer = {"error": error.message, "zh": error.zh}
        except MemoryError:
            answer = {"error": "it needs more memory than there is", "zh": "内存不足"}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
            detail = f"{type(error).__name__}: {error}"
            name = Path(request["path"]).name
            answer = {
                "error": f"{name!r} could not be parsed ({detail}). It is probably damaged: save it again.",
                "zh": f"{name!r} 无法解析（{detail}）。文件很可能已损坏：请重新另存。",
            }
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    _answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, _answers)
