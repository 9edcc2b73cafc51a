"""A server that speaks the OpenAI protocol and writes slowly: the model that the pages are tested with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class SlowModel:
    """Answers with `text`, one character each `pause` seconds; keeps what it was asked."""

    def __init__(self) -> None:
        self.text = "年休假为十一天。"
        self.pause = 0.01
        self.asked: list[list[dict[str, str]]] = []
        self.url = ""


@contextmanager
def slow_model() -> Iterator[SlowModel]:
    """The server until the block ends."""
    model = SlowModel()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not body.get("stream"):
                self.whole(body["messages"])
                return
            model.asked.append(body["messages"])
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                for character in model.text:
                    self.send({"delta": {"content": character}, "finish_reason": None, "index": 0})
                    time.sleep(model.pause)
                self.send({"delta": {}, "finish_reason": "stop", "index": 0})
                self.wfile.write(b"data: [DONE]\n\n")
            except (BrokenPipeError, ConnectionResetError):
                return

        def whole(self, messages: list[dict[str, str]]) -> None:
            said = {"role": "assistant", "content": messages[-1]["content"][-20:]}
            data = json.dumps({"choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def send(self, choice: dict[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
            self.wfile.flush()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    model.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield model
    finally:
        server.shutdown()
