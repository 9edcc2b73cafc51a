"""Any `Generator` as an OpenAI-compatible server: /v1/models, /v1/chat/completions (streamed or not). Bound to 127.0.0.1.

app = build_app({"chatglm3-6b": generator})
serve(app, port=8000)
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from collections.abc import Generator as Generated
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kb.errors import ZhiwenError
from rag.generate.openai_request import BadRequest, ChatRequest, read_request
from rag.types import Generator, Message, Piece

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LARGEST_BODY = 2_000_000
"""Bytes of a request."""


@runtime_checkable
class WritesPrompts(Protocol):
    """A generator on this machine: it knows the ids that a model reads."""

    def prompt_ids(self, messages: Sequence[Message], *, adapter: str = "") -> list[int]: ...


_FINISH = {"stop": "stop", "length": "length", "stopped": "stop", "loop": "stop"}


def build_app(models: Mapping[str, Generator], *, key: str = "", most_at_once: int = 32) -> Starlette:
    """The server. `models`: name -> generator. `key`: wanted as a bearer token if not empty.

    `most_at_once`: answers written at the same time; more are refused with 503 and Retry-After.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    api = _Api(models, key=key, most_at_once=most_at_once)
    return Starlette(
        routes=[
            Route("/v1/models", api.list_models, methods=["GET"]),
            Route("/v1/chat/completions", api.complete, methods=["POST"]),
            Route("/health", api.health, methods=["GET"]),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]", "::1"])
        ],
    )


def serve(app: Starlette, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Run until Ctrl-C. Requests that name another host than this machine are refused whatever `host` is."""
    import uvicorn

    uvicorn.run(app, host=host, port=port, log_level="warning")


class _Api:
    def __init__(self, models: Mapping[str, Generator], *, key: str, most_at_once: int) -> None:
        if not models:
            raise ValueError("no model to serve")
        self._models = dict(models)
        self._key = key
        self._slots = threading.BoundedSemaphore(most_at_once)
        self._started = int(time.time())

    async def health(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"status": "ok"})

    async def list_models(self, request: Request) -> Response:
        """Names, with the tokens that each can read."""
        from starlette.responses import JSONResponse

        if refused := self._locked(request):
            return refused
        listed = [
            {
                "id": name,
                "object": "model",
                "created": self._started,
                "owned_by": "zhiwen",
                "context_tokens": g.context_tokens,
            }
            for name, g in self._models.items()
        ]
        return JSONResponse({"object": "list", "data": listed})

    async def complete(self, request: Request) -> Response:
        """One answer, whole or streamed."""
        if refused := self._locked(request):
            return refused
        try:
            wanted = read_request(await _body(request))
            generator = self._generator(wanted)
        except BadRequest as error:
            return _error(error.status, error.message, error.code)
        if not self._slots.acquire(blocking=False):
            return _error(503, "too many answers are being written", "busy", headers={"Retry-After": "1"})
        if wanted.stream:
            return self._streamed(wanted, generator)
        return await self._whole(request, wanted, generator)

    def _locked(self, request: Request) -> Response | None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self._key and not secrets.compare_digest(given.encode(), self._key.encode()):
            return _error(401, "wrong or missing key", "invalid_api_key")
        return None

    def _generator(self, wanted: ChatRequest) -> Generator:
        """The one that is asked for. Raises BadRequest if there is none or the prompt is too long for it."""
        generator = self._models.get(wanted.model)
        if generator is None:
            names = ", ".join(self._models)
            raise BadRequest(f"no model {wanted.model!r}; there are: {names}", "model_not_found", 404)
        size = _prompt_tokens(generator, wanted)
        if size >= generator.context_tokens:
            raise BadRequest(
                f"the prompt has {size} tokens; the maximum context length is {generator.context_tokens}",
                "context_length_exceeded",
            )
        return generator

    def _streamed(self, wanted: ChatRequest, generator: Generator) -> Response:
        """The response that gives its slot back however it ends, even before the first event.

        A client that goes away ends the writing at once, also while its request waits for its turn.
        """
        from starlette.responses import StreamingResponse

        release, cancel = self._slots.release, threading.Event()

        class Stream(StreamingResponse):
            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                async def watched() -> Any:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        cancel.set()
                    return message

                try:
                    await super().__call__(scope, watched, send)
                finally:
                    release()

        return Stream(self._events(wanted, generator, cancel), media_type="text/event-stream")

    async def _whole(self, request: Request, wanted: ChatRequest, generator: Generator) -> Response:
        """The whole answer; a client that goes away ends the writing."""
        import anyio
        from starlette.responses import JSONResponse

        cancel = threading.Event()
        pieces: list[Piece] = []
        failed: list[ZhiwenError] = []

        def write() -> None:
            try:
                pieces.extend(generator.stream(wanted.messages, options=wanted.options, cancel=cancel))
            except ZhiwenError as error:
                failed.append(error)

        async def watch(scope: anyio.CancelScope) -> None:
            while not await request.is_disconnected():
                await anyio.sleep(0.1)
            cancel.set()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(watch, group.cancel_scope)
                await anyio.to_thread.run_sync(write)
                group.cancel_scope.cancel()
        finally:
            cancel.set()
            self._slots.release()
        if failed:
            return _error(500, failed[0].message, "generation_failed")
        text = "".join(piece.text for piece in pieces)
        finish = next((piece.finish for piece in reversed(pieces) if piece.finish), None)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": _FINISH.get(finish or "", "stop"),
        }
        usage = _usage(generator, wanted, pieces[-1].tokens if pieces else 0)
        return JSONResponse(_frame(wanted, "chat.completion") | {"choices": [choice], "usage": usage})

    async def _events(
        self, wanted: ChatRequest, generator: Generator, cancel: threading.Event
    ) -> AsyncIterator[str]:
        """Server-sent events; when the client goes away, the writing ends within one token."""
        import anyio

        frame = _frame(wanted, "chat.completion.chunk")
        pieces = generator.stream(wanted.messages, options=wanted.options, cancel=cancel)
        tokens = 0
        try:
            yield _event(frame, {"role": "assistant", "content": ""}, None)
            while (piece := await anyio.to_thread.run_sync(_advance, pieces)) is not None:
                if isinstance(piece, ZhiwenError):
                    yield f"data: {json.dumps({'error': {'message': piece.message}})}\n\n"
                    return
                tokens = max(tokens, piece.tokens)
                finish = _FINISH[piece.finish] if piece.finish else None
                if piece.text or finish:
                    yield _event(frame, {"content": piece.text} if piece.text else {}, finish)
            if wanted.usage:
                usage = _usage(generator, wanted, tokens)
                yield f"data: {json.dumps(frame | {'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            cancel.set()
            if isinstance(pieces, Generated):
                pieces.close()


def _advance(pieces: Iterator[Piece]) -> Piece | ZhiwenError | None:
    """The next piece, None at the end, or the error that ended it."""
    try:
        return next(pieces, None)
    except ZhiwenError as error:
        return error


async def _body(request: Request) -> bytes:
    """The request's bytes. Raises BadRequest if there are too many."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise BadRequest(f"the request is larger than {LARGEST_BODY} bytes", "too_large", 413)
    return body


def _prompt_tokens(generator: Generator, wanted: ChatRequest) -> int:
    """Exactly where the generator builds its prompts itself, else an estimate. Raises BadRequest for no prompt."""
    if not isinstance(generator, WritesPrompts):
        return sum(generator.count_tokens(message.content) + 2 for message in wanted.messages)
    try:
        return len(generator.prompt_ids(wanted.messages, adapter=wanted.options.adapter))
    except ZhiwenError as error:
        raise BadRequest(error.message) from error


def _usage(generator: Generator, wanted: ChatRequest, tokens: int) -> dict[str, int]:
    prompt = _prompt_tokens(generator, wanted)
    return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


def _frame(wanted: ChatRequest, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": wanted.model,
    }


def _event(frame: dict[str, Any], delta: dict[str, str], finish: str | None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps(frame | {'choices': [choice]}, ensure_ascii=False)}\n\n"


def _error(status: int, message: str, code: str, *, headers: Mapping[str, str] | None = None) -> Response:
    from starlette.responses import JSONResponse

    kind = "invalid_request_error" if status < 500 else "server_error"
    content = {"error": {"message": message, "type": kind, "code": code, "param": None}}
    return JSONResponse(content, status_code=status, headers=dict(headers or {}))
