"""The OpenAI-compatible server: what it counts, and whom it refuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
from rag_samples import Says

from kb.errors import GenerationError
from rag.generate.openai_server import build_app
from rag.types import Message, Piece


class Exact(Says):
    """Knows the ids of its prompts, as models of this machine do."""

    def prompt_ids(self, messages: Sequence[Message], *, adapter: str = "") -> list[int]:
        if adapter == "odd":
            raise GenerationError("no such thing", zh="没有")
        return [1] * (18 + len(messages))


def test_the_prompt_is_counted_as_the_model_reads_it() -> None:
    """Roles and headers count too: a prompt that does not fit is refused as too long, not answered with status 500."""
    from starlette.testclient import TestClient

    app = build_app({"exact": Exact("好", context_tokens=20)})
    with TestClient(app, base_url="http://127.0.0.1") as http:
        body: dict[str, object] = {"model": "exact", "messages": [{"role": "user", "content": "x"}]}
        assert http.post("/v1/chat/completions", json=body).json()["usage"]["prompt_tokens"] == 19
        answer = http.post("/v1/chat/completions", json=body | {"adapter": "odd"})
        assert answer.status_code == 400
        body["messages"] = [{"role": "user", "content": "x"}, {"role": "user", "content": "x"}]
        answer = http.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


class Busy(Says):
    """Its turn never comes: it says nothing until it is cancelled."""

    left = threading.Event()

    def stream(
        self, messages: Any, *, options: Any, cancel: threading.Event | None = None
    ) -> Iterator[Piece]:
        assert cancel is not None
        if cancel.wait(20):
            self.left.set()
        yield Piece("", "stopped")


def test_a_client_that_goes_away_leaves_the_queue() -> None:
    """It is not waited for until its first token comes."""
    import uvicorn

    busy = Busy("")
    app = build_app({"busy": busy}, most_at_once=1)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1/chat/completions"
    body = {"model": "busy", "messages": [{"role": "user", "content": "x"}], "stream": True}
    with httpx.stream("POST", url, json=body) as answer:
        next(answer.iter_lines())
    assert busy.left.wait(5)
    server.should_exit = True
    thread.join(timeout=10)
