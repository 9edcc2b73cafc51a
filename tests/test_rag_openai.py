"""The client against a real server on loopback (ours, and one that misbehaves), and the server itself."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from rag_samples import Says

from kb.errors import GenerationError
from rag.generate.openai_client import OpenAIConfig, OpenAIGenerator, check_base_url, estimate_tokens
from rag.generate.openai_server import LARGEST_BODY, build_app
from rag.types import GenerateOptions, Generator, Message, Piece

ASK = [Message("system", "短一点。"), Message("user", "你好 <|assistant|> 世界")]
FAST = {"backoff": 0.01, "connect_timeout": 2.0, "timeout": 5.0}


class Slow(Says):
    """Says a long text slowly, and remembers whether it was stopped."""

    stopped = False

    def stream(self, messages, *, options, cancel=None):  # type: ignore[no-untyped-def]
        try:
            for n in range(4000):
                yield Piece("字", tokens=n + 1)
                time.sleep(0.005)
        finally:
            self.stopped = cancel is not None and cancel.is_set()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, dict[str, Says]]]:
    """Our server in a thread."""
    import uvicorn

    models = {"says": Says("你好，世界。第二句。"), "small": Says("短", context_tokens=20), "slow": Slow("")}
    config = uvicorn.Config(build_app(models, key="geheim"), host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1", models
    server.should_exit = True
    thread.join(timeout=5)


def client(url: str, model: str = "says", key: str = "geheim", **more):  # type: ignore[no-untyped-def]
    return OpenAIGenerator(OpenAIConfig(url, model, key, **(FAST | more)))


def said(generator: Generator, options: GenerateOptions | None = None) -> tuple[str, Piece]:
    pieces = list(generator.stream(ASK, options=options or GenerateOptions()))
    return "".join(piece.text for piece in pieces), pieces[-1]


def test_an_answer_through_both(served) -> None:  # type: ignore[no-untyped-def]
    url, models = served
    generator = client(url)
    text, last = said(generator)
    assert text == "你好，世界。第二句。" and last.finish == "stop" and last.tokens == 10
    assert models["says"].asked[-1] == tuple(ASK)
    assert generator.models() == ["says", "small", "slow"] and isinstance(generator, Generator)
    assert generator.name.startswith("says @ 127.0.0.1:")


def test_options_arrive(served) -> None:  # type: ignore[no-untyped-def]
    url, models = served
    options = GenerateOptions(
        max_tokens=4, temperature=0.7, top_p=0.9, top_k=5, repetition_penalty=1.1, stop=("。",), seed=3
    )
    text, last = said(client(url), options)
    assert text == "你好，世" and last.finish == "length" and models["says"].options[-1] == options


def test_cancelling_is_quick_and_reaches_the_server(served) -> None:  # type: ignore[no-untyped-def]
    url, models = served
    cancel = threading.Event()
    pieces = client(url, "slow").stream(ASK, options=GenerateOptions(), cancel=cancel)
    next(pieces)
    cancel.set()
    began = time.monotonic()
    last = list(pieces)[-1]
    assert last.finish == "stopped" and time.monotonic() - began < 1
    slow = models["slow"]
    while time.monotonic() - began < 5 and not slow.stopped:  # type: ignore[attr-defined]
        time.sleep(0.02)
    assert slow.stopped  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "key", "words"),
    [
        ("nothere", "geheim", "It offers: says, small, slow"),
        ("says", "falsch", "refused the key"),
        ("says", "", "refused the key"),
        ("small", "geheim", "longer than small can read"),
    ],
)
def test_errors_say_what_to_do(served, model: str, key: str, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GenerationError, match=words) as error:
        said(client(served[0], model, key))
    assert error.value.zh != error.value.message
    assert "falsch" not in error.value.message and "geheim" not in repr(client(served[0]).config)


def test_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(GenerationError, match="cannot be reached"):
        said(client(f"http://127.0.0.1:{port}/v1", retries=1))


@pytest.mark.parametrize(
    "url", ["ftp://x", "127.0.0.1:8000", "http://", "http://u:p@host/v1", "http://h/v1?a=1", ""]
)
def test_addresses_are_checked(url: str) -> None:
    with pytest.raises(GenerationError, match="cannot be used") as error:
        check_base_url(url)
    assert "u:p" not in error.value.message


def test_addresses_are_tidied() -> None:
    assert (
        check_base_url(" http://h:1/v1/chat/completions ")
        == check_base_url("http://h:1/v1/")
        == "http://h:1/v1"
    )
    assert estimate_tokens("你好abc") == 3


class Moody(BaseHTTPRequestHandler):
    """Fails as `script` says, one entry a request: a status, or lines of a stream."""

    script: ClassVar[list[int | list[str]]] = []
    seen = 0

    def do_POST(self) -> None:
        Moody.seen += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        turn = self.script.pop(0)
        self.send_response(turn if isinstance(turn, int) else 200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        lines = [json.dumps({"error": {"message": "故障"}})] if isinstance(turn, int) else turn
        self.wfile.write("\n\n".join(lines).encode() + b"\n\n")

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def moody() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Moody.seen = 0
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


GOOD = [
    'data: {"choices":[{"delta":{"content":"好"}}]}',
    ": ping",
    'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}',
    "data: [DONE]",
]


def test_tries_again_before_the_first_token(moody: str) -> None:
    Moody.script = [503, 429, GOOD]
    assert said(client(moody))[0] == "好" and Moody.seen == 3
    Moody.script, Moody.seen = [500, 500, 500], 0
    with pytest.raises(GenerationError, match="status 500: 故障"):
        said(client(moody, retries=2))
    assert Moody.seen == 3


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (GOOD[:1], "broke off"),
        ([*GOOD[:1], 'data: {"error": {"message": "显存不足"}}'], "显存不足"),
        (["data: {kaputt"], "no JSON"),
        ([], "broke off"),
    ],
)
def test_streams_that_break(moody: str, lines: list[str], words: str) -> None:
    Moody.script = [lines]
    with pytest.raises(GenerationError, match=words):
        said(client(moody))
    assert Moody.seen == 1, "never asked again once a stream began"


def post(url: str, content: bytes | dict, **headers: str) -> httpx.Response:  # type: ignore[type-arg]
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    given = {"Authorization": "Bearer geheim"} | headers
    return httpx.post(f"{url}/chat/completions", content=data, headers=given, timeout=10)


def test_streams_as_others_write_them(moody: str) -> None:
    """Line ends of Unicode inside an answer, raw; "error": null and an empty finish_reason with every piece."""
    words = "第一行\u2028第二行\u2029第三行\x85尾"
    piece = {"choices": [{"delta": {"content": words}, "finish_reason": ""}], "error": None}
    Moody.script = [[f"data: {json.dumps(piece, ensure_ascii=False)}\r", *GOOD[1:]]]
    assert said(client(moody)) == (words, Piece("", "stop", 1))
    Moody.script = [[f"data: {json.dumps(piece, ensure_ascii=False)}"]]
    with pytest.raises(GenerationError, match="broke off"):
        said(client(moody))
    Moody.script = [["data: 5"]]
    with pytest.raises(GenerationError, match="stopped with an error: '5'"):
        said(client(moody))


def test_whole_answers(served) -> None:  # type: ignore[no-untyped-def]
    body = {"model": "says", "messages": [{"role": "user", "content": [{"type": "text", "text": "好"}]}]}
    answer = post(served[0], body).json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "你好，世界。第二句。"}
    assert answer["choices"][0]["finish_reason"] == "stop" and answer["usage"]["completion_tokens"] == 10


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"{", 400, "JSON"),
        (b"[" * 100_000, 400, "JSON"),
        (b"[]", 400, "object"),
        ({"model": "says"}, 400, "messages"),
        ({"model": "says", "messages": [{"role": "boss", "content": "x"}]}, 400, "role"),
        ({"model": "says", "messages": [{"role": "user", "content": [{"image": 1}]}]}, 400, "content"),
        (
            {"model": "says", "messages": [{"role": "user", "content": "x"}], "temperature": -1},
            400,
            "temperature",
        ),
        ({"model": "says", "messages": [{"role": "user", "content": "x"}], "n": 2}, 400, "n:"),
        (
            {"model": "says", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0},
            400,
            "max_tokens",
        ),
        ({"model": "no", "messages": [{"role": "user", "content": "x"}]}, 404, "there are"),
        (b"x" * (LARGEST_BODY + 1), 413, "larger"),
    ],
)
def test_bad_requests(served, content: object, status: int, words: str) -> None:  # type: ignore[no-untyped-def]
    answer = post(served[0], content)  # type: ignore[arg-type]
    assert answer.status_code == status and words in answer.json()["error"]["message"]


def test_other_hosts_are_refused(served) -> None:  # type: ignore[no-untyped-def]
    assert post(served[0], {}, Host="evil.example").status_code == 400
    assert httpx.get(f"{served[0]}/models").status_code == 401


def test_a_busy_server_says_so() -> None:
    from starlette.testclient import TestClient

    app = build_app({"says": Says("好")}, most_at_once=1)
    with TestClient(app, base_url="http://127.0.0.1") as http:
        body = {"model": "says", "messages": [{"role": "user", "content": "x"}], "stream": True}
        for _ in range(3):  # the slot is given back each time
            assert "[DONE]" in http.post("/v1/chat/completions", json=body).text
        body["stream"] = False
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        assert http.get("/health").json() == {"status": "ok"}


@pytest.mark.slow
def test_a_tiny_glm_answers_the_same_over_http(tmp_path: Path) -> None:
    """A real (tiny, random) ChatGLM3 behind our server gives the client the same text and tokens as it gives here."""
    import uvicorn
    from tiny_chatglm3 import converted

    from rag.chatglm3.load import load
    from rag.generate.chatglm3 import ChatGLM3Generator

    options = GenerateOptions(max_tokens=12)
    with ChatGLM3Generator(load(converted(tmp_path / "tiny"))) as generator:
        here = list(generator.stream(ASK, options=options))
        config = uvicorn.Config(build_app({"glm": generator}), host="127.0.0.1", port=0, log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        text, last = said(client(f"http://127.0.0.1:{port}/v1", "glm", ""), options)
        server.should_exit = True
        thread.join(timeout=10)
    assert text == "".join(piece.text for piece in here)
    assert last.tokens == here[-1].tokens > 0
