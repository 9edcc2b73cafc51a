"""Weights on disk: reading shards tensor by tensor, and writing safetensors as a stream.

Neither side ever holds more than one tensor (or, for old `.bin` files that cannot be mapped, one shard).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from kb.errors import ModelError
from rag.chatglm3.shape import read_json

if TYPE_CHECKING:
    import torch

SAFE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Our dtype names and safetensors'."""
TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""safetensors' dtype names and torch's."""
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The shards of a folder."""

    folder: Path
    files: tuple[str, ...]
    """Names in the order of the index; all safetensors, or all .bin."""
    declared: dict[str, str]
    """Tensor name -> file, from the index; empty for a single file."""

    @property
    def bytes(self) -> int:
        """Size of all shards on disk."""
        return sum((self.folder / name).stat().st_size for name in self.files)


def find_checkpoint(folder: Path) -> Checkpoint:
    """The shards of a folder: safetensors if there are any, else .bin. Raises ModelError, naming what is missing."""
    for name in _INDEXES:
        if (folder / name).is_file():
            declared = read_json(folder / name).get("weight_map")
            if not isinstance(declared, dict) or not declared:
                raise ModelError(
                    f"{folder / name} has no weight_map.", zh=f"{folder / name} 没有 weight_map。"
                )
            files = tuple(dict.fromkeys(str(file) for file in declared.values()))
            if any(Path(file).name != file for file in files):
                raise ModelError(
                    f"{folder / name} names a file outside the folder.",
                    zh=f"{folder / name} 指向文件夹之外。",
                )
            missing = [file for file in files if not (folder / file).is_file()]
            if missing:
                raise ModelError(
                    f"{folder} lacks {', '.join(missing)}: the download is not complete. Pull it again.",
                    zh=f"{folder} 缺少 {'、'.join(missing)}：下载不完整，请重新下载。",
                )
            return Checkpoint(folder, files, {str(k): str(v) for k, v in declared.items()})
    for name in _SINGLES:
        if (folder / name).is_file():
            return Checkpoint(folder, (name,), {})
    raise ModelError(
        f"{folder} holds no weights (no model*.safetensors, no pytorch_model*.bin).",
        zh=f"{folder} 里没有权重（没有 model*.safetensors，也没有 pytorch_model*.bin）。",
    )


def read_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of one shard, one at a time. A .bin is read with `weights_only`: it cannot run code."""
    import torch

    if path.suffix == ".safetensors":
        header = read_header(path)
        for name in header.names:
            yield name, read_tensor(path, header, name)
        return
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=_mappable(path))
    except Exception as error:  # torch raises many kinds for a broken or dangerous file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{path} is not a plain weights file, or it is broken: {reason}",
            zh=f"{path} 不是纯权重文件，或已损坏：{reason}",
        ) from error
    for name in list(state):
        yield name, state.pop(name)


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors of one shard, in the order of `read_tensors`."""
    if path.suffix == ".safetensors":
        return read_header(path).names
    return [name for name, _ in read_tensors(path)]


@dataclass(frozen=True, slots=True)
class Header:
    """What the beginning of a safetensors file says."""

    tensors: dict[str, Any]
    """Name -> dtype, shape, data_offsets."""
    bytes: int
    """Of all tensors."""
    size: int
    """That the whole file must have."""

    @property
    def names(self) -> list[str]:
        """In the order in which they lie in the file."""
        return sorted(self.tensors, key=lambda name: int(self.tensors[name]["data_offsets"][0]))


def read_header(path: Path) -> Header:
    """The header of a safetensors file, without its data. Raises ModelError if there is none."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:
                raise ValueError(f"header of {length} bytes")
            entries = json.loads(file.read(length))
        tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ModelError(f"{path} is broken: {error}", zh=f"{path} 已损坏：{error}") from error
    return Header(tensors, end, 8 + length + end)


def read_tensor(path: Path, header: Header, name: str) -> torch.Tensor:
    """One tensor of a safetensors file, read and not mapped: mapped pages would count as our memory."""
    import torch

    entry = header.tensors[name]
    begin, end = (int(offset) for offset in entry["data_offsets"])
    raw = torch.empty(end - begin, dtype=torch.uint8)
    with path.open("rb", buffering=0) as file:
        file.seek(header.size - header.bytes + begin)
        view, at = raw.numpy().data, 0
        while at < len(view) and (count := file.readinto(view[at:])):
            at += count
    try:
        if at < len(view):
            raise ValueError(f"{name} ends after {at} of {len(view)} bytes")
        return raw.view(getattr(torch, TORCH_NAMES[entry["dtype"]])).reshape(entry["shape"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"{path} is broken: {error}", zh=f"{path} 已损坏：{error}") from error


class TensorReader:
    """Tensors of a folder by name, from safetensors shards that stay closed between reads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        files = find_checkpoint(folder).files
        self._where = {name: folder / file for file in files for name in tensor_names(folder / file)}
        self._headers = {file: read_header(file) for file in set(self._where.values())}

    def get(self, name: str) -> torch.Tensor | None:
        """The tensor, or None if there is none of that name."""
        path = self._where.get(name)
        return None if path is None else read_tensor(path, self._headers[path], name)

    def must_get(self, name: str) -> torch.Tensor:
        """The tensor. Raises ModelError if there is none of that name."""
        tensor = self.get(name)
        if tensor is None:
            raise ModelError(f"{self._folder} lacks {name}.", zh=f"{self._folder} 缺少 {name}。")
        return tensor


def _mappable(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor, little endian, without copying it twice."""
    import torch

    flat: memoryview = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data
    return flat


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that will be written."""

    name: str
    shape: tuple[int, ...]


class SafetensorsWriter:
    """Write one safetensors file as a stream: the header first, then each tensor in its order.

    *Example:* `with SafetensorsWriter(path, planned, dtype="float16") as file: file.write(name, tensor)`
    """

    def __init__(self, path: Path, planned: Sequence[Planned], *, dtype: str) -> None:
        self._dtype, self._order = dtype, [tensor.name for tensor in planned]
        self._shapes = {tensor.name: tensor.shape for tensor in planned}
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at, width = 0, 4 if dtype == "float32" else 2
        for tensor in planned:
            size = width
            for side in tensor.shape:
                size *= side
            header[tensor.name] = {
                "dtype": SAFE_NAMES[dtype],
                "shape": list(tensor.shape),
                "data_offsets": [at, at + size],
            }
            at += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._file: BinaryIO = path.open("wb")
        self._hash = hashlib.sha256()
        self._put(struct.pack("<Q", len(text)) + text)

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """The next tensor, which is cast to the file's dtype. Raises ValueError out of order."""
        import torch

        if not self._order or self._order[0] != name or tuple(tensor.shape) != self._shapes[name]:
            raise ValueError(f"{name} {tuple(tensor.shape)} is not what comes next: {self._order[:1]}")
        self._order.pop(0)
        self._put(tensor_bytes(tensor.to(getattr(torch, self._dtype))))

    @property
    def sha256(self) -> str:
        """Of what was written."""
        return self._hash.hexdigest()

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and self._order:
            raise ValueError(f"{len(self._order)} tensors were not written, first {self._order[0]}")
