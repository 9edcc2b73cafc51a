"""Blind votes of people on disk: which of two answers is better, given before anybody knew whose they were.

<home>/votes.jsonl, one line a vote: question, who stood left and right, what they said, the choice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from kb.errors import DataError

if TYPE_CHECKING:
    from finetune.judge import Judgement
    from finetune.stats import Estimate

Choice = Literal["left", "right", "tie", "bad"]
"""bad: neither answer will do; it counts as a tie between the two."""
FILE = "votes.jsonl"
LONGEST = 20_000
"""Characters of an answer that are kept with a vote."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One choice between two answers whose authors were hidden."""

    question: str
    left: str
    """Who stood left: base, an adapter, with " +kb" if it was given documents."""
    right: str
    choice: Choice
    left_text: str = ""
    right_text: str = ""
    model: str = ""
    at: str = ""
    """ISO 8601, UTC."""

    @property
    def winner(self) -> str:
        """Empty for a tie."""
        return {"left": self.left, "right": self.right}.get(self.choice, "")


@dataclass(frozen=True, slots=True)
class Tally:
    """All votes between two contestants of one model."""

    model: str
    one: str
    other: str
    wins_one: int
    wins_other: int
    ties: int

    @property
    def count(self) -> int:
        return self.wins_one + self.wins_other + self.ties

    @property
    def share(self) -> Estimate:
        """Of `other` among the decided votes, with its 95 % interval; ties say nothing and are left out."""
        from finetune.stats import proportion

        return proportion(self.wins_other, self.wins_one + self.wins_other)

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out one half."""
        share = self.share
        return share.count > 0 and (share.low > 0.5 or share.high < 0.5)


def add(home: Path, vote: Vote) -> None:
    """Append it, whole and at once. Raises DataError for a vote between one and the same."""
    if vote.left == vote.right or vote.choice not in get_args(Choice):
        raise DataError("a vote needs two different contestants.", zh="投票需要两个不同的对象。")
    row = asdict(vote) | {
        "at": vote.at or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "left_text": vote.left_text[:LONGEST],
        "right_text": vote.right_text[:LONGEST],
    }
    home.mkdir(parents=True, exist_ok=True)
    number = os.open(home / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(number, (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
    finally:
        os.close(number)


def read(home: Path) -> list[Vote]:
    """All votes, oldest first; a line that is not whole is passed over."""
    try:
        lines = (home / FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [vote for line in lines if (vote := _parse(line)) is not None]


def _parse(line: bytes) -> Vote | None:
    try:
        row = json.loads(line)
        vote = Vote(**{name: str(row.get(name, "")) for name in Vote.__dataclass_fields__})  # type: ignore[arg-type]
    except (ValueError, AttributeError):
        return None
    return vote if vote.choice in get_args(Choice) and vote.left and vote.right else None


def tallies(votes: Iterable[Vote]) -> list[Tally]:
    """One for each pair of contestants, the base (or the first by name) as `one`; most votes first."""
    groups: dict[tuple[str, str, str], list[Vote]] = {}
    for vote in votes:
        one, other = sorted((vote.left, vote.right), key=lambda n: (n.split(" ")[0] != "base", n))
        groups.setdefault((vote.model, one, other), []).append(vote)
    made = [
        Tally(
            model, one, other,
            sum(v.winner == one for v in group),
            sum(v.winner == other for v in group),
            sum(not v.winner for v in group),
        )
        for (model, one, other), group in groups.items()
    ]  # fmt: skip
    return sorted(made, key=lambda t: -t.count)


def judgements(votes: Sequence[Vote], *, baseline: str, candidate: str) -> list[Judgement]:
    """The votes between two as `finetune.judge` takes them, numbered by question, to set beside a judge's.

    A person saw each pair in one order only, so both verdicts of a Judgement are the same person's one verdict.
    """
    from finetune.judge import Judgement, Verdict

    numbers = {text: n for n, text in enumerate(dict.fromkeys(v.question for v in votes), start=1)}
    made = []
    for vote in votes:
        if {vote.left, vote.right} != {baseline, candidate}:
            continue
        first = "tie" if not vote.winner else "A" if vote.winner == candidate else "B"
        second = {"A": "B", "B": "A", "tie": "tie"}[first]
        made.append(Judgement("human", numbers[vote.question], cast(Verdict, first), cast(Verdict, second)))
    return made
