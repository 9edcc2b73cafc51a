"""The one language model that this process keeps in memory: chat and comparison share it, and it can be let go.

A second model is loaded only after the first is closed, so that one GPU is never asked for two.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rag.types import GenerateOptions, Message, Piece
from ui.settings import GeneratorSettings

if TYPE_CHECKING:
    from rag.generate.chatglm3 import ChatGLM3Generator
    from rag.generate.local import LocalGenerator

    LocalModel = ChatGLM3Generator | LocalGenerator

_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Held:
    """What is in memory."""

    folder: Path
    config: tuple[str, str, str, int, str]
    """quantise, dtype, device, context_tokens, template"""
    adapters: Mapping[str, Path]
    generator: LocalModel
    written: Mapping[Path, int] = field(default_factory=dict)
    """When the newest weights in the folder, and in each adapter's, were written before they were loaded."""

    @property
    def name(self) -> str:
        """The base model, as a person would say it."""
        return self.folder.name

    @property
    def device(self) -> str:
        """Such as "cuda:0"."""
        return self.generator.loaded.plan.device

    @property
    def gib(self) -> float:
        """What it was planned to take."""
        return self.generator.loaded.plan.needed / 2**30


_held: list[Held] = []


class Voice:
    """The held model speaking with one adapter, or with none. A Generator."""

    def __init__(self, generator: LocalModel, adapter: str) -> None:
        self._generator, self._adapter = generator, adapter

    @property
    def name(self) -> str:
        """Such as "chatglm3-6b (nf4) + zhouyi"."""
        base = self._generator.loaded.name
        return f"{base} + {self._adapter}" if self._adapter else base

    @property
    def adapter(self) -> str:
        """The adapter that it speaks with where the options name none; empty: the base."""
        return self._adapter

    @property
    def note(self) -> tuple[str, str] | None:
        """What people should know about the one that answers, in Chinese and English."""
        return getattr(self._generator, "note", None)

    @property
    def context_tokens(self) -> int:
        """Prompt and answer together."""
        return self._generator.context_tokens

    def count_tokens(self, text: str) -> int:
        """Tokens of a text on its own."""
        return self._generator.count_tokens(text)

    def prompt_ids(self, messages: Sequence[Message], *, adapter: str = "") -> list[int]:
        """The ids that the model reads."""
        return self._generator.prompt_ids(messages, adapter=adapter or self._adapter)

    def stream(
        self, messages: Sequence[Message], *, options: GenerateOptions, cancel: threading.Event | None = None
    ) -> Iterator[Piece]:
        """Pieces as they are written. Raises GenerationError."""
        import dataclasses

        chosen = dataclasses.replace(options, adapter=options.adapter or self._adapter)
        return self._generator.stream(messages, options=chosen, cancel=cancel)


def key_of(name: str) -> str:
    """An adapter's name as the model knows it: no dots, which the layers' names are divided by, and no word of torch's own."""
    clean = re.sub(r"[^\w-]+", "_", name)
    return clean + "_" if clean in _taken() else clean


@lru_cache(maxsize=1)
def _taken() -> frozenset[str]:
    """What torch's modules call themselves: an adapter named "train" would be refused."""
    from torch.nn import ModuleDict

    return frozenset(dir(ModuleDict()))


def take(wanted: GeneratorSettings, folder: Path, *, adapters: Mapping[str, Path]) -> Held:
    """The model with at least these adapters; what was held before is closed unless it will do.

    It will not do when an adapter was trained again, or the model converted again, into the same folder.

    Raises ModelError: not converted, does not fit, adapter of another base.
    """
    config = (wanted.quantise, wanted.dtype, wanted.device, wanted.context_tokens, wanted.template)
    with _lock:
        written = {place: _written(place) for place in (folder, *adapters.values())}
        same = bool(_held) and (_held[0].folder, _held[0].config) == (folder, config)
        if (
            same
            and adapters.items() <= _held[0].adapters.items()
            and written.items() <= _held[0].written.items()
        ):
            return _held[0]
        _let_go()
        from ui.speakers import open_model

        generator = open_model(folder, adapters, wanted)
        _held.append(Held(folder, config, dict(adapters), generator, written))
        return _held[0]


def _written(folder: Path) -> int:
    """When the newest of its weights was written, in nanoseconds; 0 if it has none."""
    return max((file.stat().st_mtime_ns for file in folder.glob("*.safetensors")), default=0)


def held() -> Held | None:
    """What is in memory now."""
    return _held[0] if _held else None


def let_go() -> bool:
    """Free the memory; answers that are being written end. Whether there was anything to free."""
    with _lock:
        return _let_go()


def _let_go() -> bool:
    import gc
    import sys

    if not _held:
        return False
    _held.pop().generator.close()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return True
