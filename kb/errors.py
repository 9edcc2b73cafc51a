"""Every error that zhiwen raises on purpose, for all four packages.

An error says what was wrong, the value, and what to do next. `str(error)` is the English sentence for
developers and logs; `error.zh` is the same for the person in front of the screen.

    ZhiwenError
    ├── SettingsError            zhiwen.toml, an environment variable or a flag has a bad value
    ├── LoadError                one file could not be read (never stops the others)
    │   └── LimitError           ... because it exceeds a bound (size, pages, ratio of compression)
    ├── KnowledgeBaseError       a knowledge base cannot be used
    │   ├── KnowledgeBaseNotFound
    │   ├── KnowledgeBaseBusy    another process is writing to it
    │   └── EmbedderMismatch     it was built by another embedder
    ├── EmbedderError            an embedding model is missing or broken
    ├── ModelError               a language model, a tokenizer or an adapter is missing, broken or does not fit
    ├── GenerationError          generating an answer failed (server unreachable, out of memory, ...)
    ├── DataError                a training or evaluation file is bad; names the file and the line
    └── MissingExtra             an optional package is needed; carries the pip line
"""

from __future__ import annotations


class ZhiwenError(Exception):
    """Base of all errors raised on purpose.

    `message`: English: what was wrong, the value, what to do next. `zh`: the same in Chinese (shown to people).
    """

    def __init__(self, message: str, *, zh: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.zh = zh or message


class SettingsError(ZhiwenError):
    """A setting, environment variable or flag has a value that cannot be used."""


class LoadError(ZhiwenError):
    """One file could not be read."""


class LimitError(LoadError):
    """A file exceeds a bound that protects the machine."""


class KnowledgeBaseError(ZhiwenError):
    """A knowledge base cannot be used."""


class KnowledgeBaseNotFound(KnowledgeBaseError):
    """There is no knowledge base of that name."""


class KnowledgeBaseBusy(KnowledgeBaseError):
    """Another process holds the write lock of the knowledge base."""


class EmbedderMismatch(KnowledgeBaseError):
    """The knowledge base was built by another embedder than the one configured."""


class EmbedderError(ZhiwenError):
    """An embedding model is missing or broken."""


class ModelError(ZhiwenError):
    """A language model, tokenizer or adapter is missing, broken or does not fit."""


class GenerationError(ZhiwenError):
    """Generating an answer failed."""


class DataError(ZhiwenError):
    """A training or evaluation file is bad; the message names file and line."""


class MissingExtra(ZhiwenError):
    """An optional package is needed for this; the message carries the pip line."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{package} is needed for {purpose} and is not installed. Run: pip install 'zhiwen[{extra}]'",
            zh=f"{purpose} 需要 {package}，尚未安装。请运行：pip install 'zhiwen[{extra}]'",
        )
        self.package = package
        self.extra = extra
