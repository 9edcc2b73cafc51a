"""Question -> answer with citations that can be checked. Read this file first: it is the story of the whole package.

    1. rewrite    a follow-up is made self-contained                      rag/conversation.py
    2. search     the passages that are closest                           kb/search.py
    3. refuse     nothing close enough: the fixed sentence, no model is called
    4. pack       the passages into a prompt of a certain size            rag/prompt.py
    5. generate   a model writes; without one, the sources are quoted     rag/generate/, rag/extractive.py
    6. cite       every sentence is held against the sources              rag/cite.py

`answer` returns the Answer; `stream_answer` yields what happens on the way, for a person who waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kb.types import Embedder, Hit, SearchResult
from rag.cite import CiteOptions, cite
from rag.conversation import rewrite
from rag.extractive import ExtractOptions, extract
from rag.persona import Persona
from rag.prompt import PackedPrompt, build_messages, is_refusal, refusal
from rag.quoted import quoted
from rag.types import (
    Answer,
    AnswerEvent,
    AnswerReady,
    FinishReason,
    GenerateOptions,
    Generator,
    Message,
    Piece,
    Status,
    Trace,
)

if TYPE_CHECKING:
    from kb.knowledge import KnowledgeBase
    from kb.search import SearchOptions

EmbedderOf = Callable[["KnowledgeBase"], Embedder]
"""Each knowledge base has its own embedder."""


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """How to answer."""

    search: SearchOptions | None = None
    """How to search; None: the defaults."""
    generate: GenerateOptions = field(default_factory=GenerateOptions)
    """How the model writes."""
    budget_tokens: int = 3000
    """Tokens of sources in the prompt; less where the model's context is smaller."""
    persona: Persona | None = None
    """Who answers; needs a generator."""
    system: str = ""
    """A role description given for this once; goes before the persona's."""
    rewrite: bool = True
    """Make follow-ups self-contained."""
    refuse: bool = True
    """False: answer from whatever is closest."""
    nearest: int = 3
    """Passages named after a refusal."""
    extract: ExtractOptions = field(default_factory=ExtractOptions)
    cite: CiteOptions = field(default_factory=CiteOptions)

    def __post_init__(self) -> None:
        if self.budget_tokens < 100:
            raise ValueError(f"budget_tokens must be at least 100, got {self.budget_tokens}")


def answer(
    question: str,
    *,
    kbs: Sequence[KnowledgeBase],
    embedder: Embedder | EmbedderOf,
    generator: Generator | None = None,
    history: Sequence[Message] = (),
    options: AnswerOptions = AnswerOptions(),
    cancel: threading.Event | None = None,
) -> Answer:
    """Ask `kbs`. Without a generator the answer is made of quoted sentences. Raises GenerationError if the model fails."""
    events = stream_answer(
        question,
        kbs=kbs,
        embedder=embedder,
        generator=generator,
        history=history,
        options=options,
        cancel=cancel,
    )
    return _last(events)


def stream_answer(
    question: str,
    *,
    kbs: Sequence[KnowledgeBase],
    embedder: Embedder | EmbedderOf,
    generator: Generator | None = None,
    history: Sequence[Message] = (),
    options: AnswerOptions = AnswerOptions(),
    cancel: threading.Event | None = None,
) -> Iterator[AnswerEvent]:
    """Yield a Status as each step begins, the pieces as they are written, and at the end AnswerReady.

    Setting `cancel` ends generation within one token; what was written until then is kept and cited.
    """
    from kb.search import SearchOptions, search

    clock = _Clock()
    asked = question.strip()
    rewritten = ""
    if options.rewrite and history:
        yield Status("rewrite", "Reading the question in its conversation", "结合上文理解问题")
        rewritten = rewrite(asked, history, generator=generator)
        clock.note("rewrite")
    yield Status("search", "Searching the documents", "正在检索文档")
    found = search(kbs, rewritten or asked, embedder=embedder, options=options.search or SearchOptions())
    clock.note("search")
    one = _one_embedder(embedder, kbs)
    yield from stream_from(
        asked,
        found,
        rewritten=rewritten,
        embedder=one,
        generator=generator,
        history=history,
        options=options,
        cancel=cancel,
        clock=clock,
    )


def answer_from(
    question: str,
    found: SearchResult,
    *,
    embedder: Embedder | None = None,
    generator: Generator | None = None,
    options: AnswerOptions = AnswerOptions(),
) -> Answer:
    """The steps after searching, for whoever has searched already."""
    return _last(stream_from(question, found, embedder=embedder, generator=generator, options=options))


def stream_from(
    question: str,
    found: SearchResult,
    *,
    rewritten: str = "",
    embedder: Embedder | None = None,
    generator: Generator | None = None,
    history: Sequence[Message] = (),
    options: AnswerOptions = AnswerOptions(),
    cancel: threading.Event | None = None,
    clock: _Clock | None = None,
) -> Iterator[AnswerEvent]:
    """Refuse, or go on to quote or to generate. `embedder` helps to choose what is quoted."""
    clock = clock or _Clock()
    trace = Trace(question=question, rewritten=rewritten, hits=found.hits, dropped=found.dropped)
    if not found.hits or (options.refuse and not found.answerable):
        yield Status("refuse", "Nothing found is close enough", "没有找到足够接近的内容")
        yield _ready(refused(question, found.hits[: options.nearest], trace=trace), clock)
    elif generator is None:
        yield Status("extract", "Choosing the sentences that answer", "正在摘录原文")
        yield from _quote(rewritten or question, found.hits, embedder, options, trace, clock)
    else:
        yield from _generate(
            rewritten or question, found.hits, generator, history, options, cancel, trace, clock
        )


def refused(question: str, nearest: Sequence[Hit], *, trace: Trace, generator: str = "") -> Answer:
    """The fixed sentence, with the passages that came nearest."""
    return Answer(
        text=refusal(question),
        sentences=(),
        citations=(),
        refused=True,
        nearest=tuple(nearest),
        generator=generator,
        trace=trace,
    )


def _quote(
    question: str,
    hits: Sequence[Hit],
    embedder: Embedder | None,
    options: AnswerOptions,
    trace: Trace,
    clock: _Clock,
) -> Iterator[AnswerEvent]:
    """The extractive answer."""
    extracts = extract(question, hits, embedder=embedder, options=options.extract)
    made = quoted(extracts)
    clock.note("extract")
    if not made.text:
        yield _ready(refused(question, hits[: options.nearest], trace=trace), clock)
        return
    yield Piece(made.text, finish="stop")
    ready = Answer(
        text=made.text,
        sentences=made.sentences,
        citations=made.citations,
        refused=False,
        nearest=(),
        generator="extractive",
        trace=replace(trace, finish="stop"),
    )
    yield _ready(ready, clock)


def _generate(
    question: str,
    hits: Sequence[Hit],
    generator: Generator,
    history: Sequence[Message],
    options: AnswerOptions,
    cancel: threading.Event | None,
    trace: Trace,
    clock: _Clock,
) -> Iterator[AnswerEvent]:
    """The model's answer, streamed, then cited."""
    yield Status("pack", "Packing the sources into the prompt", "正在整理资料")
    budget = _budget(generator, options)
    packed = build_messages(
        question,
        hits,
        count_tokens=generator.count_tokens,
        budget_tokens=budget,
        history=history,
        system=options.system,
        persona=options.persona,
    )
    clock.note("pack")
    yield Status("generate", f"{generator.name} is writing", f"{generator.name} 正在回答")
    text, finish, tokens = "", None, 0
    for piece in generator.stream(packed.messages, options=options.generate, cancel=cancel):
        text += piece.text
        finish, tokens = piece.finish or finish, max(tokens, piece.tokens)
        yield piece
    clock.note("generate")
    trace = _traced(trace, packed, budget=budget, tokens=tokens, finish=finish)
    if is_refusal(text):
        yield _ready(refused(question, hits[: options.nearest], trace=trace, generator=generator.name), clock)
        return
    yield Status("cite", "Checking the answer against its sources", "正在核对出处")
    checked = cite(text.strip(), packed.hits, question=question, options=options.cite)
    clock.note("cite")
    ready = Answer(
        text=checked.text,
        sentences=checked.sentences,
        citations=checked.citations,
        refused=False,
        nearest=(),
        generator=generator.name,
        adapter=options.generate.adapter or getattr(generator, "adapter", ""),
        trace=trace,
    )
    yield _ready(ready, clock)


def _budget(generator: Generator, options: AnswerOptions) -> int:
    """Tokens of sources: what was asked for, or what the model's context leaves beside the rest of the prompt."""
    room = generator.context_tokens - options.generate.max_tokens - 1300
    return max(100, min(options.budget_tokens, room))


def _traced(
    trace: Trace, packed: PackedPrompt, *, budget: int, tokens: int, finish: FinishReason | None
) -> Trace:
    return replace(
        trace,
        messages=packed.messages,
        dropped=(*trace.dropped, *packed.dropped),
        prompt_tokens=packed.prompt_tokens,
        budget_tokens=budget,
        answer_tokens=tokens,
        finish=finish,
    )


def _one_embedder(embedder: Embedder | EmbedderOf, kbs: Sequence[KnowledgeBase]) -> Embedder | None:
    """The embedder that chooses what is quoted: the given one, or that of the first knowledge base."""
    if isinstance(embedder, Embedder):
        return embedder
    return embedder(kbs[0]) if kbs else None


def _last(events: Iterator[AnswerEvent]) -> Answer:
    for event in events:
        if isinstance(event, AnswerReady):
            return event.answer
    raise AssertionError("answering ended without an answer")


class _Clock:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._at = time.perf_counter()

    def note(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._at
        self._at = now


def _ready(made: Answer, clock: _Clock) -> AnswerReady:
    return AnswerReady(replace(made, trace=replace(made.trace, seconds=dict(clock.seconds))))
