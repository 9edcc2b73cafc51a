"""Controlled damage to a data set, with a seed: what training on bad data does can only be shown if the damage is known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from finetune.data.types import Conversation, Example, Turn
from kb.errors import DataError

Damage = Literal["shuffle", "truncate", "noise", "style"]

DAMAGES: dict[Damage, tuple[str, str]] = {
    "shuffle": ("回答换到别的问题下", "answers moved to other questions"),
    "truncate": ("回答截断在中间", "answers cut in the middle"),
    "noise": ("回答里的字随机替换、删除、交换", "characters replaced, dropped and swapped"),
    "style": ("所有回答改成同一种口吻", "every answer in one manner"),
}


@dataclass(frozen=True, slots=True)
class Corruption:
    """What to damage."""

    damage: Damage
    share: float = 1.0
    """Share of the examples that are damaged, above 0 and at most 1."""
    strength: float = 0.2
    """noise: share of the characters that change; truncate: share of the answer that is left at the least."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.damage not in DAMAGES:
            raise DataError(
                f"--damage is {self.damage!r}; it must be one of {', '.join(DAMAGES)}.",
                zh=f"--damage 是 {self.damage!r}，应为 {'、'.join(DAMAGES)} 之一。",
            )
        if not 0 < self.share <= 1:
            raise DataError(
                f"--share must be above 0 and at most 1, got {self.share}.",
                zh=f"--share 应在 0 到 1 之间，而不是 {self.share}。",
            )
        if not 0 < self.strength < 1:
            raise DataError(
                f"--strength must be between 0 and 1, got {self.strength}.",
                zh=f"--strength 应在 0 到 1 之间，而不是 {self.strength}。",
            )


def corrupt(examples: Sequence[Example], *, how: Corruption) -> tuple[list[Example], list[int]]:
    """(the examples with some of them damaged, the numbers of those). Only conversations can be damaged.

    A shuffled answer is never the one that its question had. Raises DataError if there is too little to damage.
    """
    numbers = [i for i, e in enumerate(examples) if isinstance(e, Conversation)]
    wanted = max(1, round(how.share * len(numbers)))
    if not numbers or (how.damage == "shuffle" and wanted < 2):
        raise DataError(
            f"{len(numbers)} conversations are too few to {how.damage} {how.share:.0%} of them.",
            zh=f"只有 {len(numbers)} 个对话，无法对其中 {how.share:.0%} 做 {how.damage}。",
        )
    draw = random.Random(how.seed)
    chosen = sorted(draw.sample(numbers, wanted))
    damaged = list(examples)
    if how.damage == "shuffle":
        _shuffle(damaged, chosen, draw)
        return damaged, chosen
    for number in chosen:
        example = damaged[number]
        assert isinstance(example, Conversation)
        damaged[number] = _with_answer(example, damage_text(example.answer, how=how, draw=draw))
    return damaged, chosen


def _shuffle(examples: list[Example], chosen: Sequence[int], draw: random.Random) -> None:
    """Every answer moves to an example that had another answer: equal answers side by side, then all moved past the longest run.

    Raises DataError if one answer is more than half of them.
    """
    groups: dict[str, list[int]] = {}
    for number in draw.sample(list(chosen), len(chosen)):
        groups.setdefault(_answer(examples[number]), []).append(number)
    order = [number for group in groups.values() for number in group]
    shift = max(map(len, groups.values()))
    if 2 * shift > len(order):
        raise DataError(
            f"{shift} of {len(order)} answers are the same; shuffling would leave some with their question.",
            zh=f"{len(order)} 个回答里有 {shift} 个相同，打乱后仍会有回答留在原来的问题下。",
        )
    answers = [_answer(examples[number]) for number in order]
    for number, answer in zip(order, answers[shift:] + answers[:shift], strict=True):
        example = examples[number]
        assert isinstance(example, Conversation)
        examples[number] = _with_answer(example, answer)


def _answer(example: Example) -> str:
    assert isinstance(example, Conversation)
    return example.answer


def _with_answer(example: Conversation, answer: str) -> Conversation:
    last = max(i for i, t in enumerate(example.turns) if t.role == "assistant")
    turns = list(example.turns)
    turns[last] = Turn("assistant", answer, turns[last].metadata, turns[last].train)
    return replace(example, turns=tuple(turns))


def damage_text(answer: str, *, how: Corruption, draw: random.Random) -> str:
    """One answer truncated, with noise, or in the one style. Never empty unless it was."""
    if how.damage == "truncate":
        least = max(1, int(len(answer) * how.strength))
        return answer[: draw.randint(least, max(least, int(len(answer) * 0.7)))]
    if how.damage == "style":
        return f"好的呢亲，{answer.rstrip('。！')}哦～"
    characters = list(answer)
    for _ in range(max(1, int(len(characters) * how.strength))):
        if not characters:
            break
        at = draw.randrange(len(characters))
        match draw.randrange(3):
            case 0:
                characters[at] = draw.choice(answer)
            case 1:
                del characters[at]
            case _:
                other = draw.randrange(len(characters))
                characters[at], characters[other] = characters[other], characters[at]
    return "".join(characters) or answer[:1]
