"""One set of questions, many contestants (base, adapters, with and without retrieval), one table.

Every contestant gets the same questions through the same prompt; differences to the first one are taken question by
question, with confidence intervals.
"""

from __future__ import annotations

import csv
import io
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from finetune.measures import MEASURES, Measure, Said
from finetune.questions import Question
from finetune.stats import Estimate, difference, estimate
from kb.errors import GenerationError
from rag.types import GenerateOptions, Generator, Message

Ask = Callable[[Question], Said]


@dataclass(frozen=True, slots=True)
class Contestant:
    """Somebody who answers."""

    name: str
    ask: Ask


@dataclass(frozen=True, slots=True)
class Row:
    """One question with everybody's answers, in the order of the contestants."""

    question: Question
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that was said, and what it measures."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    measures: tuple[Measure, ...]

    def values(self, measure: Measure, who: int, *, kind: str = "") -> list[float]:
        """One value a question (of that type, if given); those without a reference are left out where one is needed."""
        return [
            measure.of(row.question, row.said[who])
            for row in self.rows
            if (row.question.answers or not measure.needs_reference)
            and (not kind or row.question.kind == kind)
        ]

    def mean(self, measure: Measure, who: int, *, kind: str = "") -> Estimate:
        return estimate(self.values(measure, who, kind=kind))

    def gain(self, measure: Measure, who: int, *, kind: str = "") -> Estimate:
        """Against the first contestant, paired."""
        return difference(self.values(measure, who, kind=kind), self.values(measure, 0, kind=kind))

    @property
    def kinds(self) -> list[str]:
        """Types of questions, in the order of the file."""
        return list(dict.fromkeys(row.question.kind for row in self.rows if row.question.kind))


def direct(generator: Generator, *, options: GenerateOptions, system: str = "") -> Ask:
    """Ask the model alone, without documents."""

    def ask(question: Question) -> Said:
        messages = [Message("system", system)] if system else []
        messages.append(Message("user", question.text))
        began = time.monotonic()
        pieces = list(generator.stream(messages, options=options))
        last = pieces[-1] if pieces else None
        text = "".join(p.text for p in pieces).strip()
        return Said(
            text,
            (last.finish if last else None) or "stop",
            time.monotonic() - began,
            last.tokens if last else 0,
        )

    return ask


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
    answer that fails is an empty text with finish "stopped"; if all of one contestant's fail, GenerationError is raised.
    """
    kept = _kept(state)
    total = len(contestants) * len(questions)
    done = 0
    rows: list[Row] = []
    for question in questions:
        said: list[Said] = []
        for contestant in contestants:
            if cancel is not None and cancel.is_set():
                return Comparison(tuple(c.name for c in contestants), tuple(rows), (*MEASURES, *extra))
            key = f"{contestant.name}\t{question.text}"
            if key not in kept:
                kept[key] = _answer(contestant, question)
                _keep(state, key, kept[key])
            said.append(kept[key])
            done += 1
            progress(done, total)
        rows.append(Row(question, tuple(said)))
    for who, contestant in enumerate(contestants):
        if rows and all(r.said[who].finish == "stopped" and not r.said[who].text for r in rows):
            raise GenerationError(
                f"{contestant.name} gave no answer to any of {len(rows)} questions.",
                zh=f"{contestant.name} 对 {len(rows)} 个问题都没有给出回答。",
            )
    return Comparison(tuple(c.name for c in contestants), tuple(rows), (*MEASURES, *extra))


def _answer(contestant: Contestant, question: Question) -> Said:
    try:
        return contestant.ask(question)
    except GenerationError:
        return Said("", "stopped")


def _kept(state: Path | None) -> dict[str, Said]:
    if state is None or not state.is_file():
        return {}
    found: dict[str, Said] = {}
    for line in state.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            found[row.pop("key")] = Said(**row)
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a killed run
    return found


def _keep(state: Path | None, key: str, said: Said) -> None:
    if state is None:
        return
    state.parent.mkdir(parents=True, exist_ok=True)
    with state.open("a", encoding="utf-8") as out:
        out.write(json.dumps({"key": key, **asdict(said)}, ensure_ascii=False) + "\n")


# ------------------------------------------------------------------ as tables


def table(comparison: Comparison, *, kind: str = "") -> list[list[str]]:
    """Rows of cells: measure, then each contestant's mean, with its gain where it is sure (* after it)."""
    rows = [["", *comparison.names]]
    for measure in comparison.measures:
        if not comparison.values(measure, 0, kind=kind):
            continue
        cells = [f"{measure.zh} {measure.name}"]
        for who in range(len(comparison.names)):
            mean = comparison.mean(measure, who, kind=kind)
            text = f"{mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
            if who:
                gain = comparison.gain(measure, who, kind=kind)
                text += f" ({gain.mean:+.3f}{'*' if gain.sure else ''})"
            cells.append(text)
        rows.append(cells)
    return rows


def markdown(comparison: Comparison) -> str:
    """The tables, then every question with its answers."""
    parts = ["## 总表", _markdown_table(table(comparison))]
    for kind in comparison.kinds:
        parts += [f"## {kind}", _markdown_table(table(comparison, kind=kind))]
    parts.append("（括号内为与第一列逐题相减的差，* 表示 95 % 置信区间不含 0）")
    for row in comparison.rows:
        parts.append(f"### {row.question.number}. {row.question.text}")
        if row.question.answers:
            parts.append("参考：" + " / ".join(row.question.answers))
        parts += [f"**{name}**：{said.text}" for name, said in zip(comparison.names, row.said, strict=True)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def csv_text(comparison: Comparison) -> str:
    """One row an answer: question, type, contestant, text, all measures."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "number",
            "question",
            "type",
            "contestant",
            "answer",
            "finish",
            *(m.name for m in comparison.measures),
        ]
    )
    for row in comparison.rows:
        for name, said in zip(comparison.names, row.said, strict=True):
            values = [
                f"{m.of(row.question, said):.6g}" if row.question.answers or not m.needs_reference else ""
                for m in comparison.measures
            ]
            cells = [row.question.number, row.question.text, row.question.kind, name, said.text, said.finish]
            writer.writerow([_harmless(str(c)) for c in cells] + values)
    return out.getvalue()


def _harmless(cell: str) -> str:
    """A cell that a spreadsheet would take for a formula is given as text."""
    return "'" + cell if cell[:1] in "=+-@\t" else cell


def as_json(comparison: Comparison) -> dict[str, object]:
    """Means, intervals and gains of every measure, overall and by type."""

    def block(kind: str) -> dict[str, object]:
        return {
            m.name: {
                name: {
                    "mean": comparison.mean(m, who, kind=kind).mean,
                    "interval": [
                        comparison.mean(m, who, kind=kind).low,
                        comparison.mean(m, who, kind=kind).high,
                    ],
                    "gain": comparison.gain(m, who, kind=kind).mean,
                    "gain_interval": [
                        comparison.gain(m, who, kind=kind).low,
                        comparison.gain(m, who, kind=kind).high,
                    ],
                }
                for who, name in enumerate(comparison.names)
            }
            for m in comparison.measures
            if comparison.values(m, 0, kind=kind)
        }

    return {
        "questions": len(comparison.rows),
        "overall": block(""),
        "types": {k: block(k) for k in comparison.kinds},
    }


def write_all(comparison: Comparison, folder: Path) -> list[Path]:
    """report.html, report.md, answers.csv, report.json; each whole or not at all."""
    from finetune.html import comparison_page

    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "report.html": comparison_page(comparison),
        "report.md": markdown(comparison),
        "answers.csv": "\ufeff" + csv_text(comparison),
        "report.json": json.dumps(as_json(comparison), ensure_ascii=False, indent=2),
    }
    for name, text in contents.items():
        temporary = folder / (name + ".part")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / name)
    return [folder / name for name in contents]
