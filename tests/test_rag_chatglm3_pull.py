"""pull: proved against a small hub on loopback that serves a checkpoint and breaks off in the middle."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from tiny_chatglm3 import write_official

from kb.errors import ModelError
from rag.chatglm3.convert import convert
from rag.chatglm3.hub import RemoteFile, wanted
from rag.chatglm3.pull import PullConfig, part_of, pull
from rag.chatglm3.verify import verify


class SmallHub:
    """Both hubs' addresses over one folder. `breaks`: how often a large file's connection is cut half way."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.breaks, self.lie, self.ranges = folder, 0, "", list[str]()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        query = parse_qs(parts.query)
        if parts.path == "/api/models/zai-org/chatglm3-6b/tree/main":
            self.send_json(request, [self.entry(p) for p in sorted(self.folder.iterdir())])
        elif parts.path == "/api/v1/models/ZhipuAI/chatglm3-6b/repo/files":
            files = [
                {"Type": "blob", "Path": p.name, "Size": p.stat().st_size, "Sha256": sha(p)}
                for p in self.folder.iterdir()
            ]
            self.send_json(request, {"Data": {"Files": files}})
        elif "FilePath" in query:
            self.send_file(request, query["FilePath"][0])
        elif parts.path.startswith("/zai-org/chatglm3-6b/resolve/main/"):
            self.send_file(request, unquote(parts.path.rsplit("/", 1)[1]))
        else:
            request.send_error(404)

    def entry(self, path: Path) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": path.name, "size": path.stat().st_size}
        content = path.read_bytes()
        entry["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if self.lie == path.name:
            entry["oid"] = "0" * 40
        if path.suffix == ".safetensors":
            entry["lfs"] = {
                "oid": "0" * 64 if self.lie == path.name else sha(path),
                "size": path.stat().st_size,
            }
        return entry

    def send_json(self, request: BaseHTTPRequestHandler, value: object) -> None:
        data = json.dumps(value).encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def send_file(self, request: BaseHTTPRequestHandler, name: str) -> None:
        data, start = (self.folder / name).read_bytes(), 0
        if given := request.headers.get("Range"):
            self.ranges.append(given)
            start = int(given.removeprefix("bytes=").rstrip("-"))
        if start and start >= len(data):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        if self.breaks and len(data) - start > 50_000:
            self.breaks -= 1
            request.wfile.write(data[start : start + (len(data) - start) // 2])
            request.wfile.flush()
            request.connection.close()
            return
        request.wfile.write(data[start:])


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[SmallHub]:
    folder = write_official(tmp_path / "served")
    (folder / "modeling_chatglm.py").write_text("print('this must never be fetched')")
    (folder / "pytorch_model-00001-of-00001.bin").write_bytes(b"pickle")
    (folder / "README.md").write_text("words")
    hub = SmallHub(folder)
    yield hub
    hub.server.shutdown()


def settings(small: SmallHub, **changes: object) -> PullConfig:
    return PullConfig(**({"endpoint": small.url, "wait": 0.01} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_broken_connection_goes_on(hub: SmallHub, tmp_path: Path, name: str) -> None:
    hub.breaks = 3
    told: list[int] = []
    report = pull(
        "chatglm3-6b",
        target=tmp_path / "got",
        config=settings(hub, hub=name),
        progress=lambda done, total, file: told.append(done),
    )
    assert hub.breaks == 0
    assert hub.ranges, "the rest was asked for, not the whole again"
    assert report.fetched == report.bytes == told[-1]
    got = {p.name for p in (tmp_path / "got").iterdir()}
    assert not any(n.endswith((".py", ".bin", ".part", ".md")) for n in got)
    convert(tmp_path / "got", target=tmp_path / "glm")
    assert verify(tmp_path / "glm", official=hub.folder).ok
    assert pull("chatglm3-6b", target=tmp_path / "got", config=settings(hub, hub=name)).fetched == 0


def test_more_than_the_hub_has_is_thrown_away(hub: SmallHub, tmp_path: Path) -> None:
    """A part of a longer file, from before the hub's changed: the hub refuses to go on where it ends (416)."""
    got = tmp_path / "got"
    got.mkdir()
    name = "model-00001-of-00002.safetensors"
    part_of(got / name).write_bytes((hub.folder / name).read_bytes() + b"more")
    part_of(got / "config.json").write_bytes(b" " * 100_000)
    pull("chatglm3-6b", target=got, config=settings(hub))
    assert "bytes=100000-" in hub.ranges
    assert sha(got / name) == sha(hub.folder / name)
    assert sha(got / "config.json") == sha(hub.folder / "config.json")


def test_an_ended_process_goes_on(hub: SmallHub, tmp_path: Path) -> None:
    def end(done: int, total: int, file: str) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("chatglm3-6b", target=tmp_path / "got", config=settings(hub), progress=end)
    there = sum(p.stat().st_size for p in (tmp_path / "got").iterdir())
    report = pull("chatglm3-6b", target=tmp_path / "got", config=settings(hub))
    assert report.fetched <= report.bytes - there + 10
    assert not list((tmp_path / "got").glob("*.part"))


@pytest.mark.parametrize("name", ["config.json", "model-00002-of-00002.safetensors"])
def test_a_wrong_file_never_gets_its_name(hub: SmallHub, tmp_path: Path, name: str) -> None:
    hub.lie = name
    with pytest.raises(ModelError, match="arrived wrong 2 times"):
        pull("chatglm3-6b", target=tmp_path / "got", config=settings(hub, attempts=2))
    assert not (tmp_path / "got" / name).exists()


def test_a_damaged_half_is_fetched_again(hub: SmallHub, tmp_path: Path) -> None:
    name = "model-00001-of-00002.safetensors"
    (tmp_path / "got").mkdir()
    part_of(tmp_path / "got" / name).write_bytes(b"\0" * 1000)
    pull("chatglm3-6b", target=tmp_path / "got", config=settings(hub))
    assert sha(tmp_path / "got" / name) == sha(hub.folder / name)


def test_one_sentence_for_everything(hub: SmallHub, tmp_path: Path) -> None:
    target = tmp_path / "got"
    with pytest.raises(ModelError, match="Offline") as offline:
        pull("chatglm3-6b", target=target, config=PullConfig(offline=True))
    assert offline.value.zh.count("。") == 1
    with pytest.raises(ModelError, match=r"127\.0\.0\.1:9 cannot be reached"):
        pull("chatglm3-6b", target=target, config=PullConfig(endpoint="http://127.0.0.1:9"))
    with pytest.raises(ModelError, match="no such model"):
        pull("nobody/nothing", target=target, config=settings(hub))
    for name in ("chatglm9", "../x", "a/../b", "a/b/c", "a/b?c"):
        with pytest.raises(ModelError, match="Unknown model"):
            pull(name, target=target, config=settings(hub))
    assert not target.exists()


def test_what_is_wanted() -> None:
    def names(*paths: str) -> list[str]:
        return [f.path for f in wanted([RemoteFile(p, 1, "", "") for p in paths])]

    assert names("config.json", "a.py", "pytorch_model.bin", "tokenizer.model", ".gitattributes") == [
        "config.json",
        "pytorch_model.bin",
        "tokenizer.model",
    ]
    assert names(
        "model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "onnx/model.onnx"
    ) == ["model.safetensors"]
    assert names("1_Pooling/config.json", "modules.json", "x/y/z.json") == [
        "1_Pooling/config.json",
        "modules.json",
    ]
    with pytest.raises(ModelError, match="outside the folder"):
        names("../../etc/config.json")
