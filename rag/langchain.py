"""Our parts as LangChain's: `ZhiwenRetriever` (BaseRetriever) and `ChatZhiwen` (BaseChatModel over any Generator).

Importing this module imports langchain_core; nothing else in zhiwen does. `ZhiwenEmbeddings` is in kb.embed.langchain.
See docs/langchain.md for a chain.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from kb.types import Hit, SearchResult
from rag.types import GenerateOptions, Generator, Message, Role

_ROLES: dict[str, Role] = {"human": "user", "ai": "assistant", "system": "system", "tool": "observation"}
_NAMED: dict[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",
    "observation": "observation",
}


def as_document(hit: Hit) -> Document:
    """A hit as LangChain has it: the passage's text, and in the metadata where it stands and why it was found."""
    spans = [(span.page, span.start, span.end) for span in hit.passage.spans]
    return Document(
        id=f"{hit.kb}/{hit.passage.id}",
        page_content=hit.passage.text,
        metadata={
            "source": hit.document.name,
            "file": hit.document.name,
            "page": hit.page,
            "spans": spans,
            "start": spans[0][1],
            "end": spans[-1][2],
            "headings": list(hit.passage.headings),
            "kb": hit.kb,
            "score": hit.score,
            "confidence": hit.confidence,
            "legs": {leg.leg: {"rank": leg.rank, "score": leg.score} for leg in hit.legs},
        },
    )


class ZhiwenRetriever(BaseRetriever):
    """Knowledge bases as a retriever.

        ZhiwenRetriever(find=lambda q: search([kb], q, embedder=embedder))

    `refuse`: return nothing when nothing found is close enough, as `zhiwen ask` refuses.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    find: Callable[[str], SearchResult]
    refuse: bool = True

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        found = self.find(query)
        if self.refuse and not found.answerable:
            return []
        return [as_document(hit) for hit in found]


class ChatZhiwen(BaseChatModel):
    """Any `Generator` as a chat model: invoke, stream, batch, `bind(stop=[...])`.

    ChatZhiwen(generator=OpenAIGenerator(config), max_tokens=256)
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    generator: Generator = Field(exclude=True)
    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    adapter: str = ""
    seed: int | None = None

    @property
    def _llm_type(self) -> str:
        return "zhiwen"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that an answer depends on: LangChain's cache keeps answers by it."""
        return {
            "model": self.generator.name,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "adapter": self.adapter,
            "seed": self.seed,
        }

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        text, finish, tokens = "", "stop", 0
        for chunk in self._stream(messages, stop=stop, run_manager=None, **kwargs):
            text += str(chunk.message.content)
            finish = chunk.message.response_metadata.get("finish_reason", finish)
            tokens = chunk.message.response_metadata.get("tokens", tokens)
        prompt = sum(self.generator.count_tokens(m.content) for m in as_messages(messages))
        said = AIMessage(
            content=text,
            response_metadata={"finish_reason": finish, "model_name": self.generator.name},
            usage_metadata={
                "input_tokens": prompt,
                "output_tokens": tokens,
                "total_tokens": prompt + tokens,
            },
        )
        return ChatResult(generations=[ChatGeneration(message=said)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        cancel = threading.Event()
        options = self._options(stop, kwargs)
        try:
            for piece in self.generator.stream(as_messages(messages), options=options, cancel=cancel):
                about = {"finish_reason": piece.finish, "tokens": piece.tokens} if piece.finish else {}
                chunk = ChatGenerationChunk(
                    message=AIMessageChunk(content=piece.text, response_metadata=about)
                )
                if run_manager is not None and piece.text:
                    run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk
        finally:
            cancel.set()

    def _options(self, stop: Sequence[str] | None, given: dict[str, Any]) -> GenerateOptions:
        """The model's settings, then what this call or `bind` says. Raises ValueError for an unknown setting."""
        known = set(GenerateOptions.__dataclass_fields__)
        unknown = set(given) - known
        if unknown:
            raise ValueError(f"ChatZhiwen has no setting {sorted(unknown)}; it has {sorted(known)}")
        settings: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "adapter": self.adapter,
            "seed": self.seed,
        }
        return GenerateOptions(**(settings | given | {"stop": tuple(stop or ())}))


def as_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """LangChain's messages as ours. Raises ValueError for content that is no text."""
    found: list[Message] = []
    for message in messages:
        if isinstance(message, ChatMessage):
            role = _NAMED.get(message.role)
        else:
            role = "observation" if isinstance(message, ToolMessage) else _ROLES.get(message.type)
        if role is None:
            raise ValueError(f"a {message.type} message cannot be sent to a zhiwen generator")
        found.append(Message(role, _text(message)))
    return found


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = [part if isinstance(part, str) else part.get("text") for part in message.content]
    if any(not isinstance(part, str) for part in parts):
        raise ValueError("only text can be sent to a zhiwen generator, no pictures or sound")
    return "".join(str(part) for part in parts)
