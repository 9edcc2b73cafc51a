"""The OpenAI-compatible server: what it counts, and whom it refuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from rag_samples import Says

from kb.errors import GenerationError
from rag.generate.openai_client import OpenAIConfig, OpenAIGenerator
from rag.generate.openai_server import build_app
from rag.types import GenerateOptions, Message, Piece


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


def test_a_server_on_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is set for downloads; a proxy elsewhere would look for 127.0.0.1 on its own machine."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(build_app({"says": Says("好")}), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    generator = OpenAIGenerator(OpenAIConfig(f"http://127.0.0.1:{port}/v1", "says", retries=0))
    pieces = list(generator.stream([Message("user", "x")], options=GenerateOptions()))
    server.should_exit = True
    thread.join(timeout=10)
    assert pieces[0].text == "好"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1"])
def test_numbers_that_are_none_are_refused(value: str) -> None:
    from starlette.testclient import TestClient

    with TestClient(build_app({"says": Says("好")}), base_url="http://127.0.0.1") as http:
        for name in ("temperature", "repetition_penalty", "top_p"):
            body = f'{{"model": "says", "messages": [{{"role": "user", "content": "x"}}], "{name}": {value}}}'
            answer = http.post("/v1/chat/completions", content=body)
            assert answer.status_code == 400 and name in answer.json()["error"]["message"]


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
