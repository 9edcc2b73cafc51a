"""The values that cross from `rag` to `ui` and `finetune`, and the protocol that every generator keeps. All frozen."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from kb.types import Dropped, Hit

Role = Literal["system", "user", "assistant", "observation"]

Support = Literal["quoted", "supported", "partial", "unsupported"]
"""quoted: stands in a source word for word; supported: aligned, and its numbers, dates and names are in the source;
partial: aligned, but something in it is not in the source; unsupported: no source says it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. Its content is data: no string in it ever becomes a role token."""

    role: Role
    content: str
    metadata: str = ""
    """What follows the role token on its line (ChatGLM3: the tool's name); nearly always empty."""


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """How to sample. The defaults are greedy and safe for answering from documents."""

    max_tokens: int = 512
    """Tokens to write at the most."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Keep the likeliest tokens that together have this probability, 0 to 1."""
    top_k: int = 0
    """Keep this many of the likeliest tokens; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that were already written less likely."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer; they are not part of it."""
    seed: int | None = None
    adapter: str = ""
    """Name of the adapter to answer with; empty is the base model, or the adapter that it was merged with."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 or more, got {self.top_k}")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty must be above 0, got {self.repetition_penalty}")


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of ids with one origin, for showing a prompt."""

    kind: str
    """"start", "role", "header", "content" or "end"."""
    role: str
    text: str
    ids: tuple[int, ...]
    loss: bool
    """Whether training learns to write these ids."""


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A conversation as ids. `ids` and `mask` have the same length."""

    segments: tuple[Segment, ...]

    @property
    def ids(self) -> list[int]:
        """All token ids."""
        return [token for segment in self.segments for token in segment.ids]

    @property
    def mask(self) -> list[bool]:
        """True where the loss is taken: what the assistant writes, the end of its turn included."""
        return [segment.loss for segment in self.segments for _ in segment.ids]

    @property
    def labels(self) -> list[int]:
        """Ids where the loss is taken, -100 elsewhere (not shifted: the model shifts)."""
        return [token if loss else -100 for token, loss in zip(self.ids, self.mask, strict=True)]


class StreamDecoder(Protocol):
    """Ids -> text, one at a time; only whole characters come out."""

    def feed(self, token: int) -> str: ...

    def finish(self) -> str:
        """What was held back."""
        ...


class Chat(Protocol):
    """Messages -> token ids and loss mask, for one tokenizer and one template; the same for training and answering."""

    @property
    def template(self) -> str:
        """What an adapter remembers: "chatglm3", "alpaca", "own:5f2c..." (with a hash of the model's own template)."""
        ...

    @property
    def start(self) -> tuple[int, ...]:
        """Ids that every text begins with."""
        ...

    @property
    def eos(self) -> int:
        """Id that ends a text."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end the assistant's turn."""
        ...

    @property
    def header(self) -> tuple[int, ...]:
        """Ids that the assistant's turn begins with and that are no part of the answer."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text on its own, never a special one."""
        ...

    def count(self, text: str) -> int: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def detokeniser(self) -> StreamDecoder: ...

    def piece(self, token: int) -> str:
        """What a token is called, for showing."""
        ...

    def is_special(self, token: int) -> bool:
        """Whether it is no text."""
        ...

    def prompt(self, messages: Sequence[Message], *, close_turns: bool = False) -> EncodedChat:
        """A conversation that the assistant goes on with; no loss anywhere."""
        ...

    def example(self, messages: Sequence[Message]) -> EncodedChat:
        """A conversation to learn from: loss on every assistant turn and its end. Raises ModelError."""
        ...


FinishReason = Literal["stop", "length", "stopped", "loop"]
"""stop: the model ended its turn; length: max_tokens; stopped: somebody asked; loop: it repeated itself."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a streamed answer: whole characters only. The last one has a finish reason."""

    text: str
    finish: FinishReason | None = None
    tokens: int = 0
    """Tokens written so far."""


@runtime_checkable
class Generator(Protocol):
    """Messages -> text. Safe to call from several threads."""

    @property
    def name(self) -> str:
        """What answered, as a person would say it: "chatglm3-6b (nf4) + zhouyi"."""
        ...

    @property
    def context_tokens(self) -> int:
        """Prompt and answer together, in tokens."""
        ...

    def count_tokens(self, text: str) -> int: ...

    def stream(
        self,
        messages: Sequence[Message],
        *,
        options: GenerateOptions,
        cancel: threading.Event | None = None,
    ) -> Iterator[Piece]:
        """Yield pieces as they are written; setting `cancel` ends it within one token with finish "stopped"."""
        ...


@dataclass(frozen=True, slots=True)
class Citation:
    """A place in a document that supports a part of the answer."""

    number: int
    """1-based; what stands in the answer's text as [1]."""
    hit: Hit
    quote: str
    """The sentence of the source, word for word: `hit.passage.text[start:end]`."""
    start: int
    end: int
    page: int
    """The page that the quote begins on."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of the answer with what supports it."""

    text: str
    citations: tuple[int, ...]
    """Numbers of citations."""
    support: Support
    missing: tuple[str, ...] = ()
    """Numbers, dates and names of the sentence that the source does not have."""


@dataclass(frozen=True, slots=True)
class Trace:
    """How an answer came about."""

    question: str
    rewritten: str = ""
    """The question made self-contained from the conversation; empty if it was used as it stood."""
    hits: tuple[Hit, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    messages: tuple[Message, ...] = ()
    """The prompt; empty if no model was called."""
    prompt_tokens: int = 0
    budget_tokens: int = 0
    """What the context was packed to."""
    answer_tokens: int = 0
    finish: FinishReason | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the person gets."""

    text: str
    """With [1][2] after the sentences that they support. If refused: the fixed refusal sentence."""
    sentences: tuple[Sentence, ...]
    citations: tuple[Citation, ...]
    refused: bool
    nearest: tuple[Hit, ...]
    """If refused: the nearest passages, best first, so that the person can look."""
    generator: str
    """"extractive", or the name of the generator."""
    adapter: str = ""
    """The adapter that wrote it: the options' own, else the generator's; empty: the base."""
    trace: Trace = field(default_factory=lambda: Trace(question=""))


# ------------------------------------------------------------------ what `stream_answer` yields

Step = Literal["rewrite", "search", "refuse", "pack", "generate", "extract", "cite"]


@dataclass(frozen=True, slots=True)
class Status:
    """A step of answering begins."""

    step: Step
    english: str
    """One short sentence for the person who waits."""
    zh: str


@dataclass(frozen=True, slots=True)
class AnswerReady:
    """The last event: the whole answer. Its text replaces the pieces (citations are set afterwards)."""

    answer: Answer


AnswerEvent = Status | Piece | AnswerReady
