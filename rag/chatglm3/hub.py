"""Two hubs behind one small interface: which files a model has, and where each is fetched.

Hugging Face (or a mirror of it) and ModelScope. Only files that are data are ever listed: no code, and pickled weights
only where a model has no safetensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import quote

from kb.errors import ModelError

if TYPE_CHECKING:
    import httpx

HUGGINGFACE = "https://huggingface.co"
MODELSCOPE = "https://modelscope.cn"

KNOWN = {
    "chatglm3-6b": ("zai-org/chatglm3-6b", "ZhipuAI/chatglm3-6b"),
    "chatglm3-6b-base": ("zai-org/chatglm3-6b-base", "ZhipuAI/chatglm3-6b-base"),
    "chatglm3-6b-32k": ("zai-org/chatglm3-6b-32k", "ZhipuAI/chatglm3-6b-32k"),
    "chatglm3-6b-128k": ("zai-org/chatglm3-6b-128k", "ZhipuAI/chatglm3-6b-128k"),
    "chatglm2-6b": ("zai-org/chatglm2-6b", "ZhipuAI/chatglm2-6b"),
    "text2vec-base-chinese": ("shibing624/text2vec-base-chinese", "Jerry0/text2vec-base-chinese"),
}
"""Short name -> (id on Hugging Face, id on ModelScope)."""

HubName = Literal["huggingface", "modelscope"]
_DATA = {".json", ".txt", ".model", ".jinja"}
_AT_MOST = 500


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a model on a hub."""

    path: str
    """Relative, with "/"."""
    size: int
    """Bytes; -1 if the hub does not say."""
    sha256: str
    """Empty if the hub does not say (small files on Hugging Face)."""
    url: str
    git_sha1: str = ""
    """Of small files on Hugging Face: sha1 of "blob <size>\\0" and the content, as git computes it."""


class Hub(Protocol):
    """Lists the files of a model."""

    def files(self, client: httpx.Client, *, model: str, revision: str) -> list[RemoteFile]: ...


def wanted(files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """What is worth fetching: data and weights. Raises ModelError for a path that leaves the folder."""
    safe = any(is_weight(f.path, "safetensors") for f in files)
    chosen = []
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or "\\" in file.path:
            raise ModelError(
                f"The hub names a file outside the folder: {file.path!r}.",
                zh=f"下载站给出了文件夹之外的路径：{file.path!r}。",
            )
        if len(path.parts) > 2 or path.name.startswith(".") or path.parts[0] in ("onnx", "openvino"):
            continue
        index = path.name.endswith(".bin.index.json")
        if (
            is_weight(file.path, "safetensors")
            or (not safe and (is_weight(file.path, "bin") or index))
            or (path.suffix in _DATA and not index)
        ):
            chosen.append(file)
    return sorted(chosen, key=lambda f: (f.size, f.path))


def is_weight(path: str, kind: str) -> bool:
    """Whether a path is a weights file of a kind in the model's own folder."""
    name = PurePosixPath(path).name
    stem = "model" if kind == "safetensors" else "pytorch_model"
    return "/" not in path and name.startswith(stem) and name.endswith(f".{kind}")


class HuggingFace:
    """huggingface.co or a mirror of it."""

    def __init__(self, endpoint: str = "") -> None:
        self._root = (endpoint or HUGGINGFACE).rstrip("/")

    def files(self, client: httpx.Client, *, model: str, revision: str) -> list[RemoteFile]:
        """Through the tree of the revision; large files come with their sha256."""
        revision = revision or "main"
        url = f"{self._root}/api/models/{model}/tree/{quote(revision, safe='')}?recursive=true"
        answer = get_json(client, url)
        if not isinstance(answer, list) or len(answer) > _AT_MOST:
            raise strange(url)
        found = []
        for entry in answer:
            if not isinstance(entry, dict) or entry.get("type") != "file":
                continue
            lfs = entry.get("lfs") or {}
            path = str(entry.get("path", ""))
            where = f"{self._root}/{model}/resolve/{quote(revision, safe='')}/{quote(path)}"
            size = int(lfs.get("size") or entry.get("size") or 0)
            sha256 = str(lfs.get("oid", "")).removeprefix("sha256:")
            git = "" if sha256 else str(entry.get("oid", ""))
            found.append(RemoteFile(path, size, sha256, where, git))
        return found


class ModelScope:
    """modelscope.cn."""

    def __init__(self, endpoint: str = "") -> None:
        self._root = (endpoint or MODELSCOPE).rstrip("/")

    def files(self, client: httpx.Client, *, model: str, revision: str) -> list[RemoteFile]:
        """Through the list of files of the revision; every file comes with its sha256."""
        revision = revision or "master"
        base = f"{self._root}/api/v1/models/{model}/repo"
        url = f"{base}/files?Revision={quote(revision, safe='')}&Recursive=true"
        answer = get_json(client, url)
        data: Any = answer.get("Data") if isinstance(answer, dict) else None
        entries = data.get("Files") if isinstance(data, dict) else None
        if not isinstance(entries, list) or len(entries) > _AT_MOST:
            raise strange(url)
        return [
            RemoteFile(
                str(entry.get("Path", "")),
                int(entry.get("Size", -1)),
                str(entry.get("Sha256") or ""),
                f"{base}?Revision={quote(revision, safe='')}&FilePath={quote(str(entry.get('Path', '')))}",
            )
            for entry in entries
            if isinstance(entry, dict) and entry.get("Type") == "blob"
        ]


def open_hub(name: HubName, *, endpoint: str = "") -> Hub:
    """The hub of a name, at its own address or at `endpoint`."""
    return HuggingFace(endpoint) if name == "huggingface" else ModelScope(endpoint)


def get_json(client: httpx.Client, url: str) -> Any:
    """A JSON answer of at most 8 MB. Raises ModelError in one sentence for everything that can go wrong."""
    import json

    import httpx

    try:
        answer = client.get(url)
    except httpx.HTTPError as error:
        raise unreachable(url, error) from error
    if answer.status_code in (401, 403, 404):
        raise ModelError(
            f"{url} answered {answer.status_code}: there is no such model, or it is not public.",
            zh=f"{url} 返回 {answer.status_code}：没有这个模型，或它不公开。",
        )
    if answer.status_code != 200 or len(answer.content) > 8_000_000:
        raise strange(url, f"status {answer.status_code}")
    try:
        return answer.json()
    except json.JSONDecodeError as error:
        raise strange(url, "no JSON") from error


def unreachable(url: str, error: Exception) -> ModelError:
    """Offline, in one sentence with what to do."""
    host = url.split("/")[2]
    return ModelError(
        f"{host} cannot be reached ({type(error).__name__}): check the network, choose a mirror (HF_ENDPOINT) or "
        "--from modelscope, or copy the model's folder from another machine.",
        zh=f"连不上 {host}（{type(error).__name__}）：请检查网络，或换镜像（HF_ENDPOINT）、用 --from modelscope，"
        "或从别的机器拷贝模型文件夹。",
    )


def strange(url: str, what: str = "") -> ModelError:
    """An answer that is not what a hub says."""
    return ModelError(
        f"{url} did not answer as a model hub does{f' ({what})' if what else ''}.",
        zh=f"{url} 的回答不像模型下载站{f'（{what}）' if what else ''}。",
    )
