"""How a data set is laid out: which format, which columns, which tags. The words are those of dataset_info.json."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

from kb.errors import DataError

Formatting = Literal["alpaca", "sharegpt"]


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns; empty: the data set has none."""

    prompt: str = "instruction"
    query: str = "input"
    response: str = "output"
    history: str = ""
    messages: str = "conversations"
    system: str = ""
    tools: str = ""
    chosen: str = ""
    rejected: str = ""
    kto_tag: str = ""
    images: str = ""
    videos: str = ""
    audios: str = ""


@dataclass(frozen=True, slots=True)
class Tags:
    """Keys and role names inside a message of a sharegpt data set."""

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    observation_tag: str = "observation"
    function_tag: str = "function_call"
    system_tag: str = "system"


@dataclass(frozen=True, slots=True)
class Layout:
    """What the reader of a format needs to know besides the rows."""

    formatting: Formatting = "alpaca"
    ranking: bool = False
    columns: Columns = field(default_factory=Columns)
    tags: Tags = field(default_factory=Tags)


T = TypeVar("T", Columns, Tags)


def from_names(kind: type[T], given: object, where: str) -> T:
    """A `columns` or `tags` object of dataset_info.json. Raises DataError on an unknown or empty name."""
    known = {f.name for f in fields(kind)}
    if not isinstance(given, dict):
        raise DataError(
            f"{where} must be an object, got {given!r}.", zh=f"{where} 应是对象，而不是 {given!r}。"
        )
    for name, value in given.items():
        if name not in known:
            raise DataError(
                f"{where} has {name!r}; known are {', '.join(sorted(known))}.",
                zh=f"{where} 里有未知的 {name!r}；可用的有 {'、'.join(sorted(known))}。",
            )
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"{where}.{name} must be text, got {value!r}.",
                zh=f"{where}.{name} 应是文字，而不是 {value!r}。",
            )
    values: dict[str, Any] = {name: value or "" for name, value in given.items()}
    return kind(**values)
