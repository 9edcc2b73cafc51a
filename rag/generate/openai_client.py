"""A model behind an OpenAI-compatible server as a `Generator`: vLLM, llama.cpp, `transformers serve`, a commercial API."""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kb.errors import GenerationError
from rag.generate.openai_errors import broke_off, explain, unreachable
from rag.types import FinishReason, GenerateOptions, Message, Piece

if TYPE_CHECKING:
    import httpx

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_LINE = 1_000_000
_LONGEST_ERROR = 65_536
_HERE = ("127.0.0.1", "localhost", "::1")
_LOOK = 0.05
"""Seconds between two looks at `cancel` while the server is silent."""


@dataclass(frozen=True, slots=True)
class OpenAIConfig:
    """Where the server is and what to ask it for."""

    base_url: str
    """With /v1, for example http://127.0.0.1:8000/v1."""
    model: str
    key: str = field(default="", repr=False)
    """Sent as a bearer token; never printed. Empty: none is sent."""
    context_tokens: int = 8192
    """Prompt and answer together."""
    connect_timeout: float = 10.0
    """Seconds."""
    timeout: float = 120.0
    """Seconds without a single byte from the server."""
    retries: int = 3
    """Further tries after a refused connection, 429 or 5xx, before the first token."""
    backoff: float = 0.5
    """Seconds before the first further try; doubled each time, at most 20."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", check_base_url(self.base_url))
        if not self.model:
            raise GenerationError(
                "No model is named for the OpenAI-compatible server. Run: zhiwen settings set generator.model NAME",
                zh="没有给出 OpenAI 兼容服务的模型名。请运行：zhiwen settings set generator.model 名字",
            )
        if self.retries < 0 or self.timeout <= 0 or self.connect_timeout <= 0 or self.context_tokens < 1:
            raise ValueError(f"timeouts and sizes must be positive: {self!r}")


def check_base_url(url: str) -> str:
    """The URL without a slash at its end. Raises GenerationError if it is no address of an API."""
    parts = urlsplit(url.strip())
    reason: tuple[str, str] | None = None
    if parts.scheme not in ("http", "https"):
        reason = "it must begin with http:// or https://", "应以 http:// 或 https:// 开头"
    elif not parts.hostname:
        reason = "it names no host", "缺少主机名"
    elif parts.username or parts.password:
        reason = (
            "it must not contain a user or password (give the key instead)",
            "不应包含用户名或密码（请改用密钥）",
        )
    elif parts.query or parts.fragment:
        reason = "it must have nothing after ? or #", "不应包含 ? 或 # 之后的内容"
    if reason:
        shown = re.sub(r"//[^/@]*@", "//***@", url)
        raise GenerationError(
            f"The server's address {shown!r} cannot be used: {reason[0]}. Example: http://127.0.0.1:8000/v1",
            zh=f"服务地址 {shown!r} 不能用：{reason[1]}。例如：http://127.0.0.1:8000/v1",
        )
    return url.strip().rstrip("/").removesuffix("/chat/completions")


def estimate_tokens(text: str) -> int:
    """A careful estimate without the server's tokenizer: a token for each Chinese character, one for three others."""
    wide = sum(1 for c in text if ord(c) > 0x2E7F)
    return wide + -(-(len(text) - wide) // 3)


class OpenAIGenerator:
    """`Generator` over HTTP. Safe to call from several threads; each call has its own connection."""

    def __init__(self, config: OpenAIConfig) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """The model and the host that serves it."""
        return f"{self.config.model} @ {urlsplit(self.config.base_url).netloc}"

    @property
    def context_tokens(self) -> int:
        return self.config.context_tokens

    def count_tokens(self, text: str) -> int:
        """An estimate that is rather too high: the server's tokenizer is not here."""
        return estimate_tokens(text)

    def models(self) -> list[str]:
        """Names that the server offers; empty if it does not say."""
        import httpx

        try:
            with self._client() as client:
                response = client.get(f"{self.config.base_url}/models")
            listed = response.json().get("data", []) if response.status_code == 200 else []
        except (httpx.HTTPError, ValueError, AttributeError):
            return []
        return [str(item["id"]) for item in listed if isinstance(item, dict) and "id" in item][:50]

    def stream(
        self,
        messages: Sequence[Message],
        *,
        options: GenerateOptions,
        cancel: threading.Event | None = None,
    ) -> Iterator[Piece]:
        """See `Generator.stream`. Raises GenerationError with what to do."""
        stop = threading.Event()
        lines: queue.Queue[str | Exception | None] = queue.Queue(maxsize=256)
        body = self._body(messages, options)
        reader = threading.Thread(target=self._read, args=(body, lines, stop, cancel), daemon=True)
        reader.start()
        tokens, finish = 0, None
        try:
            while (line := _next(lines, cancel)) is not None:
                if isinstance(line, Exception):
                    raise line
                if line == "":
                    yield Piece("", finish="stopped", tokens=tokens)
                    return
                text, ended, used = _delta(line, self.config.base_url)
                finish = ended or finish
                tokens = used or tokens + bool(text)
                if text:
                    yield Piece(text, tokens=tokens)
        finally:
            stop.set()
        if finish is None:
            raise broke_off(self.config.base_url, tokens)
        yield Piece("", finish=finish, tokens=tokens)

    def _client(self) -> httpx.Client:
        import httpx

        headers = {"Authorization": f"Bearer {self.config.key}"} if self.config.key else {}
        timeout = httpx.Timeout(self.config.timeout, connect=self.config.connect_timeout)
        # a proxy of the environment is for elsewhere
        away = urlsplit(self.config.base_url).hostname not in _HERE
        return httpx.Client(headers=headers, timeout=timeout, follow_redirects=False, trust_env=away)

    def _body(self, messages: Sequence[Message], options: GenerateOptions) -> dict[str, Any]:
        """The request; settings that only some servers know are left out unless they were changed."""
        body: dict[str, Any] = {
            "model": options.adapter or self.config.model,
            "messages": [
                {"role": "user" if m.role == "observation" else m.role, "content": m.content}
                for m in messages
            ],
            "max_tokens": options.max_tokens,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if options.stop:
            body["stop"] = list(options.stop)
        if options.seed is not None:
            body["seed"] = options.seed
        if options.top_k:
            body["top_k"] = options.top_k
        if options.repetition_penalty != 1.0:
            body["repetition_penalty"] = options.repetition_penalty
        return body

    def _read(
        self,
        body: dict[str, Any],
        lines: queue.Queue[str | Exception | None],
        stop: threading.Event,
        cancel: threading.Event | None,
    ) -> None:
        """In a thread of its own: put each data line, then None; or the error."""
        import httpx

        def ended() -> bool:
            return stop.is_set() or (cancel is not None and cancel.is_set())

        try:
            for line in self._lines(body, ended):
                _put(lines, line, ended)
            _put(lines, None, ended)
        except GenerationError as error:
            _put(lines, error, ended)
        except httpx.HTTPError as error:
            _put(lines, unreachable(self.config.base_url, error), ended)
        except Exception as error:  # noqa: BLE001 (raised again in the thread that asked)
            _put(lines, error, ended)

    def _lines(self, body: dict[str, Any], ended: Any) -> Iterator[str]:
        """Data lines of the answer, after as many tries as it takes."""
        import httpx

        wait = self.config.backoff
        for attempt in range(self.config.retries + 1):
            last = attempt == self.config.retries
            try:
                with (
                    self._client() as client,
                    client.stream("POST", f"{self.config.base_url}/chat/completions", json=body) as response,
                ):
                    if response.status_code == 200:
                        yield from _data(response, ended)
                        return
                    said = _bounded(response)
                    if response.status_code not in _RETRIED or last:
                        offered = self.models() if response.status_code in (400, 404) else []
                        raise explain(
                            self.config.base_url, body["model"], response.status_code, said, offered
                        )
                    asked = response.headers.get("retry-after", "")
                    wait = max(wait, min(float(asked), 20.0)) if asked.isdigit() else wait
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if last:
                    raise
            until = time.monotonic() + wait
            while time.monotonic() < until:
                if ended():
                    return
                time.sleep(_LOOK)
            wait = min(wait * 2, 20.0)


def _data(response: httpx.Response, ended: Any) -> Iterator[str]:
    """The JSON of each `data:` line until [DONE]."""
    for line in _split(response):
        if ended():
            return
        if line.startswith("data:"):
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            if data:
                yield data


def _split(response: httpx.Response) -> Iterator[str]:
    """Lines of an event stream. They end with a line feed only: U+2028 or U+0085 may stand inside an answer."""
    rest = b""
    for piece in response.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        if (longest := max(map(len, [*lines, rest]))) > _LONGEST_LINE:
            raise GenerationError(
                f"The server sent a line of {longest} bytes.", zh=f"服务返回了过长的一行（{longest} 字节）。"
            )
        yield from (line.decode("utf-8", "replace").removesuffix("\r") for line in lines)
    yield rest.decode("utf-8", "replace")


def _bounded(response: httpx.Response) -> str:
    """The beginning of an error's text."""
    said = b""
    for piece in response.iter_bytes():
        said += piece
        if len(said) >= _LONGEST_ERROR:
            break
    return said[:_LONGEST_ERROR].decode("utf-8", "replace")


def _put(lines: queue.Queue[str | Exception | None], item: str | Exception | None, ended: Any) -> None:
    """Wait for room, but not for ever if nobody reads any more."""
    while not ended():
        try:
            lines.put(item, timeout=_LOOK)
        except queue.Full:
            continue
        return


def _next(
    lines: queue.Queue[str | Exception | None], cancel: threading.Event | None
) -> str | Exception | None:
    """The next line; "" once `cancel` is set."""
    while True:
        if cancel is not None and cancel.is_set():
            return ""
        try:
            return lines.get(timeout=_LOOK)
        except queue.Empty:
            continue


def _delta(line: str, url: str) -> tuple[str, FinishReason | None, int]:
    """(new text, why it ended, tokens so far if the server says) of one line. Raises GenerationError."""
    try:
        data = json.loads(line)
    except ValueError as error:
        raise GenerationError(
            f"{url} sent something that is no JSON: {line[:80]!r}.",
            zh=f"{url} 返回的内容不是 JSON：{line[:80]!r}。",
        ) from error
    if not isinstance(data, dict):
        data = {"error": f"{line[:80]!r}"}
    if data.get("error"):  # some send "error": null with every piece
        said = data["error"].get("message", "") if isinstance(data["error"], dict) else data["error"]
        raise GenerationError(f"{url} stopped with an error: {said}", zh=f"{url} 中途出错：{said}")
    usage = data.get("usage") or {}
    used = int(usage.get("completion_tokens") or 0)
    choice = (data.get("choices") or [{}])[0]
    text = (choice.get("delta") or {}).get("content") or ""
    reason = choice.get("finish_reason")
    if not reason:  # null, or empty as some send it
        return text, None, used
    finish: FinishReason = reason if reason in ("length", "loop", "stopped") else "stop"
    return text, finish, used
