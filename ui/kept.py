"""An answer as it is kept on disk: everything that a page shows of it later, and all that training data needs."""

from __future__ import annotations

from typing import Any

from kb.types import Hit
from rag.types import Answer, Citation, Message, Trace


def kept_answer(answer: Answer) -> dict[str, Any]:
    """Plain values for JSON. Lives as long as the conversation, whatever becomes of the documents."""
    return {
        "text": answer.text,
        "sentences": [
            {"text": s.text, "citations": list(s.citations), "support": s.support, "missing": list(s.missing)}
            for s in answer.sentences
        ],
        "citations": [_citation(c) for c in answer.citations],
        "refused": answer.refused,
        "nearest": [_hit(h, whole=True) for h in answer.nearest],
        "generator": answer.generator,
        "adapter": answer.adapter,
        "trace": _trace(answer.trace),
        "prompt": [{"role": m.role, "content": m.content} for m in prompt_of(answer)],
    }


def prompt_of(answer: Answer) -> tuple[Message, ...]:
    """The messages that training on this answer would begin with: the prompt, or what it would have been."""
    if answer.trace.messages or not answer.trace.hits:
        return answer.trace.messages
    from rag.prompt import training_example

    asked = answer.trace.rewritten or answer.trace.question
    return training_example(asked, answer.trace.hits, answer.text, count_tokens=len)[:-1]


def _hit(hit: Hit, *, whole: bool) -> dict[str, Any]:
    """What is shown of a hit. `whole`: with the passage and where it stands, so that it can be opened."""
    shown: dict[str, Any] = {
        "kb": hit.kb,
        "document": hit.document.name,
        "page": hit.page,
        "headings": list(hit.passage.headings),
        "score": float(hit.score),
        "confidence": float(hit.confidence),
        "legs": [{"leg": leg.leg, "rank": leg.rank, "score": float(leg.score)} for leg in hit.legs],
        "start": hit.chunk.start,
        "end": hit.chunk.end,
    }
    if whole:
        shown |= {
            "kind": hit.document.kind,
            "digest": hit.document.digest,
            "passage": hit.passage.text,
            "spans": [[s.page, s.start, s.end, s.offset] for s in hit.passage.spans],
        }
    return shown


def _citation(citation: Citation) -> dict[str, Any]:
    return _hit(citation.hit, whole=True) | {
        "number": citation.number,
        "quote": citation.quote,
        "start": citation.start,
        "end": citation.end,
        "page": citation.page,
    }


def _trace(trace: Trace) -> dict[str, Any]:
    return {
        "question": trace.question,
        "rewritten": trace.rewritten,
        "hits": [_hit(h, whole=True) for h in trace.hits],
        "dropped": [{"where": d.where, "score": float(d.score), "reason": d.reason} for d in trace.dropped],
        "messages": [{"role": m.role, "content": m.content} for m in trace.messages],
        "prompt_tokens": trace.prompt_tokens,
        "budget_tokens": trace.budget_tokens,
        "answer_tokens": trace.answer_tokens,
        "finish": trace.finish,
        "seconds": {step: float(value) for step, value in trace.seconds.items()},
    }
