"""ChatGLM3 on this machine, as a `Generator`.

loaded = load(Path("models/chatglm3-6b"), config=LoadConfig(quantise="nf4"))
with ChatGLM3Generator(loaded) as generator:
    for piece in generator.stream([Message("user", "你好")], options=GenerateOptions()):
        print(piece.text, end="")
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import TracebackType

from rag.chatglm3.adapters import loaded_one
from rag.chatglm3.engine.engine import Engine, EngineConfig
from rag.chatglm3.load import LoadedModel
from rag.templates.choice import check_templates
from rag.types import GenerateOptions, Message, Piece


class ChatGLM3Generator:
    """A loaded model behind the engine. Safe to call from several threads: they are served together."""

    def __init__(self, loaded: LoadedModel, *, config: EngineConfig | None = None, adapter: str = "") -> None:
        """`adapter`: answers with it where the options name none.

        Raises ModelError if an adapter was trained with another chat template than the loaded tokenizer's.
        """
        if loaded.tokenizer is not None:
            check_templates(loaded.tokenizer, loaded.adapters.values())
        self.engine = Engine(loaded, config=config)
        self.adapter = adapter or loaded.merged
        self.loaded = loaded
        assert loaded.tokenizer is not None  # the engine has checked
        self._tokenizer = loaded.tokenizer

    @property
    def name(self) -> str:
        """Such as "chatglm3-6b (nf4) + zhouyi"."""
        plain = not self.adapter or self.adapter == self.loaded.merged
        return self.loaded.name if plain else f"{self.loaded.name} + {self.adapter}"

    @property
    def context_tokens(self) -> int:
        """Prompt and answer together."""
        return self.engine.context

    def count_tokens(self, text: str) -> int:
        """Tokens of a text on its own."""
        return self._tokenizer.count(text)

    def prompt_ids(self, messages: Sequence[Message], *, adapter: str = "") -> list[int]:
        """The ids that the model reads; earlier answers are closed as the adapter's training closed them.

        Raises GenerationError for an adapter that is not loaded.
        """
        info = loaded_one(self.loaded.adapters, adapter or self.adapter)
        return self._tokenizer.prompt(messages, close_turns=info is not None and info.close_turns).ids

    def stream(
        self,
        messages: Sequence[Message],
        *,
        options: GenerateOptions,
        cancel: threading.Event | None = None,
    ) -> Iterator[Piece]:
        """Pieces as they are written. Raises GenerationError: prompt too long, unknown adapter, out of memory."""
        import dataclasses

        chosen = dataclasses.replace(options, adapter=options.adapter or self.adapter)
        ids = self.prompt_ids(messages, adapter=chosen.adapter)
        yield from self.engine.submit(ids, options=chosen, cancel=cancel)

    def close(self) -> None:
        """End the engine."""
        self.engine.close()

    def __enter__(self) -> ChatGLM3Generator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
