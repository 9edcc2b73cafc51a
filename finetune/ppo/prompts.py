"""Examples -> prompts to answer: conversations without their last answer, preferences without both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finetune.data.types import Conversation, Example, Feedback, Preference, Source, kind_of
from finetune.encode import IGNORE, Encoded, EncodeReport, Limits, messages_of
from kb.errors import DataError
from rag.types import Message

if TYPE_CHECKING:
    from rag.chatglm3.chat import ChatTokenizer


def messages_before(example: Example) -> list[Message]:
    """The conversation up to the answer. Raises DataError for a text, which asks nothing."""
    if isinstance(example, Conversation):
        return messages_of(example)[:-1]
    if isinstance(example, Preference | Feedback):
        return messages_of(Conversation(example.turns, example.system, example.tools))
    raise DataError(
        f"{example.source}: --stage ppo answers prompts; this is {kind_of(example)}. Use conversations or preferences.",
        zh=f"{example.source}：ppo 阶段需要可回答的提示，这里是 {kind_of(example)}。请用对话或偏好数据。",
    )


def encode_prompts(
    examples: Iterable[Example], *, stage: str, tokenizer: ChatTokenizer, limits: Limits
) -> tuple[list[Encoded], EncodeReport]:
    """Each prompt as a document without a trained token. Raises DataError for texts, or if no prompt is usable.

    A prompt is never cut: a cut question would be answered, and the answer scored, as if it were whole. Those longer than
    the limit are left out.
    """
    report, out = EncodeReport(), []
    most = limits.source or limits.cutoff
    for example in examples:
        report.examples += 1
        ids = tokenizer.prompt(messages_before(example), close_turns=True).ids
        if len(ids) > most:
            report.unusable.append(str(example.source or ""))
            continue
        report.tokens += len(ids)
        out.append(document(ids, (), source=example.source))
    if not out:
        raise DataError(
            f"none of {report.examples} prompts is within {most} tokens. Raise --cutoff-len or --max-source-length.",
            zh=f"{report.examples} 个提示都超过 {most} 个 token。请加大 --cutoff-len 或 --max-source-length。",
        )
    return out, report


def question_of(prompt: Sequence[int], *, tokenizer: ChatTokenizer) -> str:
    """What was asked last, in words."""
    special = tokenizer.specials
    roles = (special.system, special.user, special.observation)
    at = max((i for i, token in enumerate(prompt) if token in roles), default=-1)
    return tokenizer.decode(prompt[at + 1 :]).strip()


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt with what the policy wrote."""

    prompt: tuple[int, ...]
    written: tuple[int, ...]
    """Ids of the answer, the one that ended it among them."""
    ended: bool
    """Whether it ended by itself."""

    @property
    def document(self) -> Encoded:
        """Everything, with the written tokens to look at."""
        return document(self.prompt, self.written)


def document(prompt: Sequence[int], written: Sequence[int], *, source: Source | None = None) -> Encoded:
    """Ids of both; labels where they were written."""
    ids = np.asarray([*prompt, *written], np.int32)
    labels = ids.copy()
    labels[: len(prompt)] = IGNORE
    return Encoded(ids, labels, source)
