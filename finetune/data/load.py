"""Data sets -> examples, with every bad line named."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.data.formats import FORMATS, recognise
from finetune.data.parse import parse_row
from finetune.data.registry import DataSet, find
from finetune.data.rows import Row, read_rows
from finetune.data.types import BadLine, Example, Source, Unusable
from kb.errors import DataError


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read."""

    examples: tuple[Example, ...]
    bad: tuple[BadLine, ...]
    formats: dict[str, str]
    """File name -> name of the format, or "dataset_info" where that file says it."""


def load_sets(names: str, *, folder: Path, limit: int = 0, seed: int = 0, strict: bool = False) -> Loaded:
    """Read and mix "a,b,c" (see `registry.find`).

    `limit`: examples to take of each set at the most, drawn with `seed`; 0 takes all. `strict`: the first bad line
    raises DataError. Raises DataError also if nothing usable was found.
    """
    examples: list[Example] = []
    bad: list[BadLine] = []
    formats: dict[str, str] = {}
    for found in find(names, folder=folder):
        part = load_set(found, strict=strict)
        formats |= part.formats
        bad += part.bad
        most = min(n for n in (limit or len(part.examples), found.limit or len(part.examples)))
        chosen = part.examples
        if most < len(chosen):
            kept = sorted(random.Random(seed).sample(range(len(chosen)), most))
            chosen = tuple(chosen[i] for i in kept)
        examples += chosen
    if not examples:
        first = f" The first: {bad[0].source}: {bad[0].reason}." if bad else ""
        raise DataError(
            f"no usable example in {names} ({len(bad)} bad lines).{first}",
            zh=f"{names} 里没有可用的样本（{len(bad)} 行有问题）。"
            + (f"第一处：{bad[0].source}：{bad[0].zh or bad[0].reason}。" if bad else ""),
        )
    return Loaded(tuple(examples), tuple(bad), formats)


def load_set(found: DataSet, *, strict: bool = False) -> Loaded:
    """All examples of one data set, in order."""
    examples: list[Example] = []
    bad: list[BadLine] = []
    formats: dict[str, str] = {}
    for file in found.files:
        reader, formats[file.name] = _reader(found, file)
        for item in parse_all(read_rows(file), reader):
            if isinstance(item, BadLine):
                if strict:
                    raise item.error()
                bad.append(item)
            else:
                examples.append(item)
    return Loaded(tuple(examples), tuple(bad), formats)


Reader = Callable[[Row, Source], Example]


def _reader(found: DataSet, file: Path) -> tuple[Reader, str]:
    if found.format:
        if found.format not in FORMATS:
            raise DataError(
                f"{found.name}: unknown format {found.format!r}; known are {', '.join(FORMATS)}.",
                zh=f"{found.name}：未知的格式 {found.format!r}；可用的有 {'、'.join(FORMATS)}。",
            )
        return FORMATS[found.format].read, found.format
    if found.layout is not None:
        layout = found.layout
        if file.suffix.lower() == ".txt":
            return FORMATS["text"].read, "text"
        return (lambda row, source: parse_row(row, layout, source)), "dataset_info"
    name = sniff(file)
    return FORMATS[name].read, name


def sniff(file: Path) -> str:
    """The format that most of the first 50 rows have. Raises DataError if none is known."""
    votes: dict[str, int] = {}
    columns: tuple[str, ...] = ()
    for number, item in enumerate(read_rows(file)):
        if number >= 50:
            break
        if isinstance(item, BadLine):
            continue
        _, row = item
        columns = columns or (tuple(map(str, row)) if isinstance(row, dict) else ())
        if candidate := recognise(row):
            votes[candidate.name] = votes.get(candidate.name, 0) + 1
    if not votes:
        raise DataError(
            f"{file.name}: its layout is not known (columns: {', '.join(columns) or 'none'}). Name it with --format, or "
            "describe its columns in dataset_info.json.",
            zh=f"{file.name}：不认识它的格式（列：{'、'.join(columns) or '无'}）。请用 --format 指明，"
            "或在 dataset_info.json 里写明各列。",
        )
    return max(votes, key=lambda name: votes[name])


def parse_all(rows: Iterable[tuple[Source, Row] | BadLine], reader: Reader) -> Iterator[Example | BadLine]:
    """Rows through one reader; what it refuses becomes a BadLine."""
    for item in rows:
        if isinstance(item, BadLine):
            yield item
            continue
        source, row = item
        try:
            yield reader(row, source)
        except Unusable as error:
            yield BadLine(source, str(error), error.zh)


def without_source(example: Example) -> Example:
    """The same example as a value that can be compared."""
    return replace(example, source=None)
