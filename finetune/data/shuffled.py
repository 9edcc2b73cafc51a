"""Find answers that belong to another question, by what questions and answers share.

Each answer is compared with its own question and with the questions of a fixed number of other examples. In a sound
data set nearly every answer shares more rare character pairs with its own question than with others; where a whole
block of rows does not, the answers were shuffled or moved by some lines. Found on the data set itself: no model.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from finetune.data.types import Conversation, Source

RIVALS = 30
"""Other questions that each answer is compared with."""
OWN_AT_MOST = 0.5
"""Pairs as rare as can be that a suspicious answer shares with its own question."""
RIVAL_AT_LEAST = 2.5
"""Pairs as rare as can be that it must share with another question."""


@dataclass(frozen=True, slots=True)
class Shuffled:
    """An answer that fits another question better."""

    source: Source
    detail: str
    zh: str


def shuffled_answers(examples: Sequence[Conversation], *, seed: int = 0) -> list[Shuffled]:
    """Those whose answer shares hardly anything with its own question, but much with that of another example, whose
    own answer fits it less. One finding names the place where the answer seems to belong.

    Measured by moving a fifth of the answers of eight public sets: of the moved ones none (answers that do not repeat
    the question) to 55 % are found; of the untouched 0 to 3 % are named, in sets of very short questions up to 7 %.
    """
    usable = [e for e in examples if len(e.turns) == 2 and e.question and e.answer]
    if len(usable) < 4:
        return []
    questions = [_pairs(e.question) for e in usable]
    answers = [_pairs(e.answer) for e in usable]
    frequency: Counter[str] = Counter(p for pairs in questions for p in pairs)
    weight = {p: math.log(1 + len(usable) / n) for p, n in frequency.items()}
    rarest = math.log(1 + len(usable))
    holders: dict[str, list[int]] = {}
    for number, pairs in enumerate(questions):
        for pair in pairs:
            if frequency[pair] <= RIVALS:
                holders.setdefault(pair, []).append(number)
    draw = random.Random(seed)
    found: list[Shuffled] = []
    for number, example in enumerate(usable):
        own = _shared(questions[number], answers[number], weight)
        if own > OWN_AT_MOST * rarest or not questions[number]:
            continue
        rival, score = _best_rival(number, answers[number], questions, holders, weight, draw)
        if rival < 0 or score < RIVAL_AT_LEAST * rarest:
            continue
        if _shared(questions[rival], answers[rival], weight) <= 0.5 * score:
            other = usable[rival]
            assert example.source is not None
            asked = other.question[:20]
            found.append(
                Shuffled(
                    example.source,
                    f"the answer fits the question at {other.source} ({asked!r}) and not its own",
                    f"回答与 {other.source} 处的问题（{asked!r}）相符，与本行的问题无关",
                )
            )
    return found


def _pairs(text: str) -> frozenset[str]:
    """Neighbouring characters that are letters or digits."""
    return frozenset(a + b for a, b in pairwise(text) if a.isalnum() and b.isalnum())


def _shared(question: frozenset[str], answer: frozenset[str], weight: dict[str, float]) -> float:
    """Weight of the pairs that both have: rare pairs count more."""
    return sum(weight[p] for p in question & answer)


def _best_rival(
    number: int,
    answer: frozenset[str],
    questions: list[frozenset[str]],
    holders: dict[str, list[int]],
    weight: dict[str, float],
    draw: random.Random,
) -> tuple[int, float]:
    votes: Counter[int] = Counter()
    for pair in sorted(answer):
        for holder in holders.get(pair, ()):
            votes[holder] += 1
    del votes[number]
    ranked = votes.most_common(RIVALS)
    draw.shuffle(ranked)
    best, score = -1, 0.0
    for rival, _ in ranked:
        fit = _shared(questions[rival], answer, weight)
        if fit > score:
            best, score = rival, fit
    return best, score
