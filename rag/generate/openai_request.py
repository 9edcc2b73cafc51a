"""The body of a chat completion request -> checked values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rag.types import GenerateOptions, Message, Role

_MOST_MESSAGES = 1000
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "observation",
}


class BadRequest(Exception):
    """What is wrong with a request, for the one who sent it."""

    def __init__(self, message: str, code: str = "invalid_value", status: int = 400) -> None:
        super().__init__(message)
        self.message, self.code, self.status = message, code, status


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked for."""

    model: str
    messages: tuple[Message, ...]
    options: GenerateOptions
    stream: bool
    usage: bool
    """Streams: whether the last event has the usage."""


def read_request(body: bytes) -> ChatRequest:
    """Raises BadRequest that names the field."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}", "invalid_json") from error
    if not isinstance(data, dict):
        raise BadRequest("the body must be a JSON object")
    if data.get("n") not in (None, 1):
        raise BadRequest("n: only 1 is possible")
    streams = data.get("stream_options")
    return ChatRequest(
        model=_text(data, "model"),
        messages=_messages(data.get("messages")),
        options=_options(data),
        stream=bool(data.get("stream", False)),
        usage=isinstance(streams, dict) and bool(streams.get("include_usage")),
    )


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        raise BadRequest(f"{name}: a text is wanted")
    return value


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value or len(value) > _MOST_MESSAGES:
        raise BadRequest(f"messages: a list of 1 to {_MOST_MESSAGES} is wanted")
    found: list[Message] = []
    for at, item in enumerate(value):
        role = _ROLES.get(str(item.get("role"))) if isinstance(item, dict) else None
        if role is None:
            raise BadRequest(f"messages[{at}].role: one of {', '.join(_ROLES)} is wanted")
        found.append(Message(role, _content(item.get("content"), at)))
    return tuple(found)


def _content(value: Any, at: int) -> str:
    """A text, or a list of parts that are texts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in value):
        return "".join(part["text"] for part in value)
    raise BadRequest(f"messages[{at}].content: a text is wanted; pictures and sound are not read")


def _options(data: dict[str, Any]) -> GenerateOptions:
    stop = data.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or len(stop) > 16 or not all(isinstance(s, str) and s for s in stop):
        raise BadRequest("stop: a text or at most 16 texts are wanted")
    limit = data.get("max_completion_tokens") or data.get("max_tokens")
    try:
        return GenerateOptions(
            max_tokens=int(512 if limit is None else limit),
            temperature=float(data.get("temperature") or 0.0),
            top_p=float(1.0 if data.get("top_p") is None else data["top_p"]),
            top_k=max(0, int(data.get("top_k") or 0)),
            repetition_penalty=float(data.get("repetition_penalty") or 1.0),
            stop=tuple(stop),
            seed=None if data.get("seed") is None else int(data["seed"]),
            adapter=str(data.get("adapter") or ""),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRequest(str(error)) from error
