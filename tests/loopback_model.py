"""A scripted model behind a real OpenAI-compatible server on loopback: what it says is a function of what it is asked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rag.types import GenerateOptions, Message, Piece


class Scripted:
    """Says what the script makes of the last message."""

    def __init__(self, script: Callable[[str], str]) -> None:
        self.script = script
        self.asked: list[str] = []
        self.lock = threading.Lock()

    name = "scripted"
    context_tokens = 8192

    def count_tokens(self, text: str) -> int:
        return len(text)

    def stream(
        self, messages: Sequence[Message], *, options: GenerateOptions, cancel: threading.Event | None = None
    ) -> Iterator[Piece]:
        with self.lock:
            self.asked.append(messages[-1].content)
        text = self.script(messages[-1].content)
        yield Piece(text[: options.max_tokens], tokens=min(len(text), options.max_tokens))
        yield Piece(
            "", "length" if len(text) > options.max_tokens else "stop", min(len(text), options.max_tokens)
        )


@contextmanager
def served(models: Mapping[str, Scripted], *, key: str = "") -> Iterator[str]:
    """The address of a server with these models, as settings take it."""
    import uvicorn

    from rag.generate.openai_server import build_app

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = uvicorn.Config(build_app(models, key=key), host="127.0.0.1", port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
