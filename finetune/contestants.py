"""Who answers in a comparison: a model alone, or a model with documents through the way that `zhiwen ask` goes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune.compare import Ask
from finetune.measures import Said
from finetune.questions import Question
from rag.answer import AnswerOptions, EmbedderOf, answer
from rag.types import FinishReason, GenerateOptions, Generator, Message

if TYPE_CHECKING:
    from kb.knowledge import KnowledgeBase


def direct(generator: Generator, *, options: GenerateOptions, system: str = "") -> Ask:
    """Ask the model alone, without documents."""

    def ask(question: Question) -> Said:
        messages = [Message("system", system)] if system else []
        messages.append(Message("user", question.text))
        began = time.monotonic()
        pieces = list(generator.stream(messages, options=options))
        text = "".join(p.text for p in pieces).strip()
        finish: FinishReason = next((p.finish for p in reversed(pieces) if p.finish), "stop")
        tokens = max((p.tokens for p in pieces), default=0)
        return Said(text, finish, time.monotonic() - began, tokens, memory_held())

    return ask


def grounded(
    generator: Generator, *, kbs: Sequence[KnowledgeBase], embedder: EmbedderOf, options: AnswerOptions
) -> Ask:
    """Search, refuse or pack, generate, cite: what a person would get. A refusal is an answer like any other."""

    def ask(question: Question) -> Said:
        began = time.monotonic()
        made = answer(question.text, kbs=kbs, embedder=embedder, generator=generator, options=options)
        return Said(
            made.text,
            made.trace.finish or "stop",
            time.monotonic() - began,
            made.trace.answer_tokens,
            memory_held(),
        )

    return ask


def memory_held() -> float:
    """GiB that torch holds on the GPU, or that this process has held at the most; 0 if no model is in this process."""
    torch = sys.modules.get("torch")
    if torch is None:
        return 0.0
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated()) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
