"""Convert between formats. Every row that is written is read back, and what differs is reported as lost."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.formats import FORMATS, Format, fits
from finetune.data.load import without_source
from finetune.data.rows import Row
from finetune.data.types import (
    Conversation,
    Example,
    Feedback,
    PlainText,
    Preference,
    Source,
    Unusable,
    kind_of,
)
from kb.errors import DataError


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What was written, and what the new format could not hold."""

    written: int
    skipped: int
    """Examples of another kind than the format holds, or that it cannot hold at all."""
    lost: dict[str, int]
    """What was lost -> in how many examples. Empty: the conversion can be undone exactly."""

    @property
    def lossless(self) -> bool:
        return not self.lost and not self.skipped


def convert(examples: Iterable[Example], *, to: str, path: Path) -> ConversionReport:
    """Write `examples` to `path` in the format `to`; the suffix chooses the kind of file. Atomic.

    Raises DataError for an unknown format, or a suffix that the format cannot have.
    """
    target = _target(to, path)
    lost: Counter[str] = Counter()
    rows: list[Row] = []
    skipped = 0
    for example in examples:
        if not fits(example, target):
            skipped += 1
            lost[f"whole example: {kind_of(example)}, not {target.kind}"] += 1
            continue
        row = target.write(example)
        try:
            back = target.read(row, Source(path, 1))
        except Unusable as error:
            skipped += 1
            lost[f"whole example: {error}"] += 1
            continue
        rows.append(row)
        lost.update(differences(example, back))
    _write(rows, path)
    return ConversionReport(len(rows), skipped, dict(lost))


def _target(to: str, path: Path) -> Format:
    if to not in FORMATS:
        raise DataError(
            f"unknown format {to!r}; known are {', '.join(FORMATS)}.",
            zh=f"未知的格式 {to!r}；可用的有 {'、'.join(FORMATS)}。",
        )
    target = FORMATS[to]
    if path.suffix.lower() not in target.files:
        raise DataError(
            f"{to} is written to {' or '.join(target.files)}, not to {path.suffix or 'a file without a suffix'!r}.",
            zh=f"{to} 可写成 {'、'.join(target.files)}，不能写成 {path.suffix or '没有后缀的文件'}。",
        )
    return target


def differences(one: Example, other: Example) -> list[str]:
    """In words, what of `one` is not in `other`; empty if they are the same but for their source."""
    if without_source(one) == without_source(other):
        return []
    if isinstance(one, PlainText) or isinstance(other, PlainText):
        return ["text"]
    found: list[str] = []
    if one.system != other.system:
        found.append("system prompt")
    if one.tools != other.tools:
        found.append("tool descriptions")
    if len(one.turns) != len(other.turns):
        found.append("earlier turns")
    else:
        found += _turn_differences(one, other)
    if (
        isinstance(one, Preference)
        and isinstance(other, Preference)
        and ((one.chosen, one.rejected) != (other.chosen, other.rejected))
    ):
        found.append("answers")
    if (
        isinstance(one, Feedback)
        and isinstance(other, Feedback)
        and ((one.answer, one.good) != (other.answer, other.good))
    ):
        found.append("answer or label")
    return found


def _turn_differences(
    one: Conversation | Preference | Feedback, other: Conversation | Preference | Feedback
) -> list[str]:
    found: set[str] = set()
    for a, b in zip(one.turns, other.turns, strict=True):
        if a.role != b.role:
            found.add("observations of tools")
        if a.metadata != b.metadata:
            found.add("tool calls")
        if a.role == b.role == "assistant" and a.train != b.train:
            found.add("which turns are trained on")
        if a.content != b.content:
            blank = "".join(a.content.split()) == "".join(b.content.split())
            found.add("line breaks and blanks" if blank else "text")
    return sorted(found)


def _write(rows: list[Row], path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix == ".json":
        text = json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
    elif suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif suffix == ".txt":
        text = "".join(f"{row}\n" for row in rows)
    else:
        text = _csv_text([r for r in rows if isinstance(r, dict)], "\t" if suffix == ".tsv" else ",")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _csv_text(rows: list[dict[str, Any]], delimiter: str) -> str:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
