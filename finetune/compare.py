"""One set of questions, many contestants (base, adapters, with and without retrieval), one table.

Every contestant gets the same questions through the same prompt; differences to the first one are taken question by
question, with confidence intervals. Who answers is in `finetune.contestants`, what is written in `finetune.compare_report`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from finetune.measures import MEASURES, Measure, Said
from finetune.questions import Question
from finetune.stats import Estimate, difference, estimate
from kb.errors import GenerationError

Ask = Callable[[Question], Said]


@dataclass(frozen=True, slots=True)
class Contestant:
    """Somebody who answers."""

    name: str
    ask: Ask
    version: str = ""
    """Changes with everything that would change the answers: an answer kept under another version is asked for again."""


@dataclass(frozen=True, slots=True)
class Row:
    """One question with everybody's answers, in the order of the contestants."""

    question: Question
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was said, and what it measures. Made by `measured`."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    measures: tuple[Measure, ...]
    numbers: dict[str, tuple[tuple[float | None, ...], ...]] = field(repr=False, default_factory=dict)
    """Measure -> for each row one number a contestant; None where there is no reference to measure against."""

    def values(self, measure: Measure, who: int, *, kind: str = "", domain: str = "") -> list[float]:
        """One value a question (of that type and domain, if given); those without a reference are left out where one is needed."""
        found = (
            numbers[who]
            for row, numbers in zip(self.rows, self.numbers[measure.name], strict=True)
            if kind in ("", row.question.kind) and domain in ("", row.question.domain)
        )
        return [number for number in found if number is not None]

    def mean(self, measure: Measure, who: int, *, kind: str = "", domain: str = "") -> Estimate:
        """Of one contestant."""
        return estimate(self.values(measure, who, kind=kind, domain=domain))

    def gain(self, measure: Measure, who: int, *, kind: str = "", domain: str = "") -> Estimate:
        """Against the first contestant, paired."""
        return self.between(measure, who, 0, kind=kind, domain=domain)

    def between(
        self, measure: Measure, who: int, other: int, *, kind: str = "", domain: str = ""
    ) -> Estimate:
        """Of one contestant minus another, paired."""
        return difference(
            self.values(measure, who, kind=kind, domain=domain),
            self.values(measure, other, kind=kind, domain=domain),
        )

    @property
    def kinds(self) -> list[str]:
        """Types of questions, in the order of the file."""
        return list(dict.fromkeys(row.question.kind for row in self.rows if row.question.kind))

    @property
    def domains(self) -> list[str]:
        """Sub-domains, in the order of the file."""
        return list(dict.fromkeys(row.question.domain for row in self.rows if row.question.domain))

    def measure(self, name: str) -> Measure:
        """By its name. Raises KeyError."""
        return {m.name: m for m in self.measures}[name]


def measured(names: Sequence[str], rows: Sequence[Row], *, extra: Sequence[Measure] = ()) -> Comparison:
    """Measure every answer once."""
    measures = (*MEASURES, *extra)
    numbers = {
        m.name: tuple(
            tuple(
                m.of(row.question, said) if row.question.answers or not m.needs_reference else None
                for said in row.said
            )
            for row in rows
        )
        for m in measures
    }
    return Comparison(tuple(names), tuple(rows), measures, numbers)


def compare(
    contestants: Sequence[Contestant],
    questions: Sequence[Question],
    *,
    extra: Sequence[Measure] = (),
    state: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancel: threading.Event | None = None,
) -> Comparison:
    """Ask everybody everything.

    `state`: a file that keeps each answer as it comes, so that an interrupted comparison goes on where it stopped. An
    answer that fails counts as an empty text with finish "stopped", and is asked for again next time; if all of one
    contestant's fail, GenerationError is raised with the last reason. Setting `cancel` ends with the questions that all
    have answered.
    """
    kept = _kept(state)
    total = len(contestants) * len(questions)
    done = 0
    rows: list[Row] = []
    failures: dict[str, GenerationError] = {}
    for question in questions:
        said: list[Said] = []
        for contestant in contestants:
            if cancel is not None and cancel.is_set():
                return measured([c.name for c in contestants], rows, extra=extra)
            key = f"{contestant.name}\t{contestant.version}\t{question.text}"
            if key not in kept:
                try:
                    kept[key] = contestant.ask(question)
                    _keep(state, key, kept[key])
                except GenerationError as error:
                    failures[contestant.name] = error
                    kept[key] = Said("", "stopped")
            said.append(kept[key])
            done += 1
            progress(done, total)
        rows.append(Row(question, tuple(said)))
    for who, contestant in enumerate(contestants):
        if contestant.name in failures and all(r.said[who] == Said("", "stopped") for r in rows):
            last = failures[contestant.name]
            raise GenerationError(
                f"{contestant.name} gave no answer to any of {len(rows)} questions: {last.message}",
                zh=f"{contestant.name} 对 {len(rows)} 个问题都没有给出回答：{last.zh}",
            )
    return measured([c.name for c in contestants], rows, extra=extra)


def _kept(state: Path | None) -> dict[str, Said]:
    if state is None or not state.is_file():
        return {}
    found: dict[str, Said] = {}
    for line in state.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            key = str(row.pop("key"))
            found[key] = Said(**row)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # the last line of a killed run
    return found


def _keep(state: Path | None, key: str, said: Said) -> None:
    if state is None:
        return
    state.parent.mkdir(parents=True, exist_ok=True)
    whole = not state.is_file() or state.read_bytes()[-1:] in (b"", b"\n")
    with state.open("a", encoding="utf-8") as out:
        line = json.dumps({"key": key, **asdict(said)}, ensure_ascii=False) + "\n"
        out.write(line if whole else "\n" + line)
