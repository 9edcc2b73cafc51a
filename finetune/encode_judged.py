"""Preferences -> token ids: the prompt once, the answers that were judged behind it.

The prompt of a pair is the same, token by token, on both sides. What does not fit is cut as the longer side needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from finetune.data.types import Conversation, Example, Feedback, Preference, Source, Turn, kind_of
from finetune.encode import IGNORE, Encoded, EncodeReport, Limits, encode_conversation
from kb.errors import DataError

if TYPE_CHECKING:
    from rag.types import Chat

NEEDS = {"rm": "preference", "dpo": "preference", "kto": "preference or feedback"}
"""What kind of examples a stage learns from."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Documents that are learned from together: the chosen one and the rejected one, or a single one with a thumb."""

    documents: tuple[Encoded, ...]
    good: bool = True
    """kto: thumb up or down."""
    reference: tuple[float, ...] = ()
    """dpo, kto: log-probability of each answer under the reference, once it is known."""

    def __len__(self) -> int:
        return sum(map(len, self.documents))

    @property
    def trained(self) -> int:
        """Tokens of the answers."""
        return sum(d.trained for d in self.documents)

    @property
    def source(self) -> Source | None:
        """Where the example stands."""
        return self.documents[0].source


def halves(document: Encoded) -> tuple[list[int], list[int]]:
    """Prompt and answer of a document whose answer is all that is trained."""
    trained = np.flatnonzero(document.labels != IGNORE)
    at, end = int(trained[0]), int(trained[-1]) + 1  # some templates put a line end behind an answer
    return document.ids[:at].tolist(), document.ids[at:end].tolist()


def joined(prompt: Sequence[int], answer: Sequence[int], *, cutoff: int, source: Source | None) -> Encoded:
    """The opposite of `halves`; an answer that is too long loses its end."""
    answer = answer[: max(1, cutoff - len(prompt))]
    ids = np.asarray([*prompt, *answer], np.int32)
    labels = ids.copy()
    labels[: len(prompt)] = IGNORE
    return Encoded(ids, labels, source)


def encode_preference(
    example: Preference, *, tokenizer: Chat, limits: Limits, report: EncodeReport
) -> list[Judged]:
    """Chosen and rejected, in this order; nothing if an answer is empty or cutting made them the same."""
    shortened = report.shortened
    sides = [_side(example, a, tokenizer, limits, report) for a in (example.chosen, example.rejected)]
    report.shortened = min(report.shortened, shortened + 1)
    if sides[0] is None or sides[1] is None:
        return []
    pairs = [halves(side) for side in sides if side is not None]
    prompt = max(pairs, key=lambda pair: len(pair[1]))[0]
    both = [joined(prompt, answer, cutoff=limits.cutoff, source=example.source) for _, answer in pairs]
    if both[0].ids.tolist() == both[1].ids.tolist():
        report.unusable.append(str(example.source or ""))
        return []
    return [_counted(Judged(tuple(both)), report)]


def encode_feedback(
    example: Feedback, *, tokenizer: Chat, limits: Limits, report: EncodeReport
) -> list[Judged]:
    """One answer with its thumb."""
    side = _side(example, example.answer, tokenizer, limits, report)
    return [] if side is None else [_counted(Judged((side,), good=example.good), report)]


def unpaired(example: Preference) -> tuple[Feedback, Feedback]:
    """A pair as a thumb up and a thumb down, for kto."""
    common = {"system": example.system, "tools": example.tools, "source": example.source}
    return (
        Feedback(example.turns, example.chosen, True, **common),  # type: ignore[arg-type]
        Feedback(example.turns, example.rejected, False, **common),  # type: ignore[arg-type]
    )


def _side(
    example: Preference | Feedback,
    answer: str,
    tokenizer: Chat,
    limits: Limits,
    report: EncodeReport,
) -> Encoded | None:
    """The conversation with this answer, of which only the answer is trained."""
    earlier = tuple(replace(turn, train=False) for turn in example.turns)
    whole = Conversation(
        (*earlier, Turn("assistant", answer)), example.system, example.tools, source=example.source
    )
    tokens, trained = report.tokens, report.trained
    found = encode_conversation(whole, tokenizer=tokenizer, limits=limits, report=report)
    report.tokens, report.trained = tokens, trained
    return found[0] if found else None


def _counted(judged: Judged, report: EncodeReport) -> Judged:
    report.tokens += len(judged)
    report.trained += judged.trained
    return judged


def encode_judged(
    examples: Iterable[Example], *, stage: str, tokenizer: Chat, limits: Limits
) -> tuple[list[Judged], EncodeReport]:
    """All examples of rm, dpo or kto. Raises DataError for an example of the wrong kind, or if none is usable."""
    report, out = EncodeReport(), []
    for example in examples:
        report.examples += 1
        if isinstance(example, Preference) and stage == "kto":
            for one in unpaired(example):
                out += encode_feedback(one, tokenizer=tokenizer, limits=limits, report=report)
        elif isinstance(example, Preference):
            out += encode_preference(example, tokenizer=tokenizer, limits=limits, report=report)
        elif isinstance(example, Feedback) and stage == "kto":
            out += encode_feedback(example, tokenizer=tokenizer, limits=limits, report=report)
        else:
            raise _wrong_kind(example, stage)
    if not out:
        raise DataError(
            f"none of {report.examples} examples has two different answers within --cutoff-len {limits.cutoff}.",
            zh=f"{report.examples} 条样本在 --cutoff-len {limits.cutoff} 之内没有可比较的回答。",
        )
    return out, report


def length_of(example: Example, *, tokenizer: Chat) -> int:
    """Tokens of the whole example (of a pair: of the longer side) before anything is cut; 0 for a text, which is no single row."""
    limits, report = Limits(cutoff=2**31), EncodeReport()
    if isinstance(example, Conversation):
        found = encode_conversation(example, tokenizer=tokenizer, limits=limits, report=report)
        return max(map(len, found), default=0)
    if not isinstance(example, Preference | Feedback):
        return 0
    answers = (example.chosen, example.rejected) if isinstance(example, Preference) else (example.answer,)
    sides = [_side(example, answer, tokenizer, limits, report) for answer in answers]
    return max((len(side) for side in sides if side is not None), default=0)


def _wrong_kind(example: Example, stage: str) -> DataError:
    found = kind_of(example)
    fits = {"conversation": "sft", "text": "pt", "feedback": "kto"}.get(found, "")
    need_zh = {"rm": "成对偏好", "dpo": "成对偏好", "kto": "成对偏好或带好评差评的"}[stage]
    return DataError(
        f"{example.source}: --stage {stage} learns from {NEEDS[stage]} data, this is {found}. Use --stage {fits}, or "
        'data with two answers (dataset_info.json: "ranking": true).',
        zh=f"{example.source}：--stage {stage} 需要{need_zh}数据，这里是 {found}。请用 --stage {fits}，"
        '或换成有两个回答的数据（dataset_info.json 里 "ranking": true）。',
    )
