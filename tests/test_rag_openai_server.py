"""The OpenAI-compatible server: what it counts, and whom it refuses."""

from __future__ import annotations

from collections.abc import Sequence

from rag_samples import Says

from kb.errors import GenerationError
from rag.generate.openai_server import build_app
from rag.types import Message


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
