"""Plain text, Markdown, csv, json and jsonl."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kb.errors import LimitError, LoadError
from kb.load.builder import PageBuilder
from kb.load.encoding import Decoded, decode, looks_garbled
from kb.load.limits import LoadLimits, shown, shown_text
from kb.types import LoadedFile, Page, Verdict


@dataclass(frozen=True, slots=True)
class TextFile:
    """A text file, decoded."""

    found: Decoded
    cut: bool
    """It had more characters than are read."""

    @property
    def text(self) -> str:
        return self.found.text


def read(path: Path, limits: LoadLimits, *, markup: bool = False) -> TextFile:
    """The file's text; raises LoadError if it is binary, LimitError if `markup` would take too much memory."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LoadError(
            f"{shown(path)} cannot be read ({error.strerror}).",
            zh=f"{shown(path)} 无法读取（{error.strerror}）。",
        ) from error
    if markup and len(data) > limits.max_markup:
        raise LimitError(
            f"{shown(path)} has {len(data):,} bytes, more than {limits.max_markup:,} for its kind. Split it.",
            zh=f"{shown(path)} 有 {len(data):,} 字节，超过这类文件的上限 {limits.max_markup:,}。请拆分。",
        )
    found = decode(data)
    if _is_binary(data, found):
        raise LoadError(
            f"{shown(path)} is not text (it holds binary data). Give it the suffix of what it is.",
            zh=f"{shown(path)} 不是文本（含二进制数据）。请改成与内容相符的后缀。",
        )
    cut = len(found.text) > limits.max_characters
    return TextFile(replace(found, text=found.text[: limits.max_characters]) if cut else found, cut)


def _is_binary(data: bytes, found: Decoded) -> bool:
    sample = data[:65536]
    if found.encoding.startswith(("utf-16", "utf-32")):
        return False
    controls = sum(byte < 32 and byte not in (9, 10, 12, 13, 27) for byte in sample)
    return controls > 0.02 * len(sample) + 8


def verdict_of(file: TextFile) -> tuple[Verdict, tuple[str, ...]]:
    """ok, or suspect with what is uncertain about the characters."""
    reasons: list[str] = ["too-long"] if file.cut else []
    found = file.found
    if not found.certain:
        reasons.append("guessed-encoding")
    if found.damaged or looks_garbled(found.text):
        reasons.append("mojibake")
    return ("suspect", tuple(reasons)) if reasons else ("ok", ())


def _finish(path: Path, kind: str, found: TextFile, builder: PageBuilder, title: str = "") -> LoadedFile:
    verdict, reasons = verdict_of(found)
    page = builder.page(1, verdict=verdict, reasons=reasons)
    if not page.text:
        page = Page(1, "", (), "", "failed", ("empty",))
    return LoadedFile(path, kind, (page,), title or path.stem, found.found.encoding)


def load_txt(path: Path, limits: LoadLimits) -> LoadedFile:
    """Paragraphs are set apart by blank lines; where there are none, each line is one."""
    found = read(path, limits)
    builder = PageBuilder()
    separator = r"\n[ \t\u3000]*\n" if re.search(r"\n[ \t\u3000]*\n", found.text) else r"\n"
    for paragraph in re.split(separator, found.text):
        builder.add("text", paragraph)
    return _finish(path, "txt", found, builder)


_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*$")
_FENCE = re.compile(r"\s{0,3}(```+|~~~+)")
_RULE = re.compile(r"\s*\|?\s*:?-{2,}:?\s*(\|\s*:?-{2,}:?\s*)*\|?\s*$")


def load_md(path: Path, limits: LoadLimits) -> LoadedFile:
    """Headings, tables and fenced code become blocks of their kind."""
    found = read(path, limits)
    builder = PageBuilder()
    add_markdown(builder, found.text)
    first = re.search(r"^#\s+(.+)$", found.text, re.MULTILINE)
    return _finish(path, "md", found, builder, first.group(1).strip() if first else "")


def add_markdown(builder: PageBuilder, text: str) -> None:
    """Comments and front matter are left out; inline marks stay as they are written."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    lines, at = text.split("\n"), 0
    waiting: list[str] = []

    def flush() -> None:
        builder.add("text", "\n".join(waiting))
        waiting.clear()

    while at < len(lines):
        line = lines[at]
        heading, fence = _HEADING.match(line), _FENCE.match(line)
        if heading:
            flush()
            builder.add("heading", heading.group(2), level=len(heading.group(1)))
        elif fence:
            flush()
            end = next(
                (i for i in range(at + 1, len(lines)) if lines[i].strip().startswith(fence.group(1))),
                len(lines),
            )
            builder.add("code", "\n".join(lines[at + 1 : end]))
            at = end
        elif "|" in line and at + 1 < len(lines) and "-" in lines[at + 1] and _RULE.match(lines[at + 1]):
            flush()
            end = next((i for i in range(at + 2, len(lines)) if "|" not in lines[i]), len(lines))
            rows = [lines[at], *lines[at + 2 : end]]
            builder.table([[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows])
            at = end - 1
        elif not line.strip():
            flush()
        else:
            waiting.append(line)
        at += 1
    flush()


def load_csv(path: Path, limits: LoadLimits) -> LoadedFile:
    """One table."""
    found = read(path, limits)
    sample = found.text[:20000]
    try:
        dialect: Any = csv.Sniffer().sniff(sample, delimiters=",\t;|")
    except csv.Error:
        dialect = csv.excel
    csv.field_size_limit(16 * 1024**2)
    try:
        rows = list(csv.reader(io.StringIO(found.text, newline=""), dialect))
    except csv.Error as error:
        raise LoadError(
            f"{shown(path)} is not a csv table ({shown_text(str(error))}). Save it again as csv.",
            zh=f"{shown(path)} 不是合法的 csv 表格（{shown_text(str(error))}）。请重新另存为 csv。",
        ) from error
    builder = PageBuilder()
    builder.table(rows)
    return _finish(path, "csv", found, builder)


def load_json(path: Path, limits: LoadLimits) -> LoadedFile:
    """Each leaf as "path: value", grouped by record; jsonl line by line, bad lines left out and said so."""
    lines = path.suffix.lower() == ".jsonl"
    file = read(path, limits, markup=not lines)
    builder = PageBuilder()
    bad = 0
    if lines:
        records, bad = _records(file.text)
        if not records:
            raise _not_json(path, "no line of it is")
    else:
        try:
            value = json.loads(file.text)
        except (ValueError, RecursionError) as error:
            raise _not_json(path, shown_text(str(error))) from error
        records = value if isinstance(value, list) else [value]
        if _is_flat(records):
            records = [records]
    for record in records:
        builder.add("text", "\n".join(_leaves(record, "", 0)))
    loaded = _finish(path, "jsonl" if lines else "json", file, builder)
    if not bad or not loaded.pages[0].text:
        return loaded
    page = loaded.pages[0]
    page = replace(page, verdict="suspect", reasons=(*page.reasons, "bad-lines"))
    return replace(loaded, pages=(page,), notes=(f"bad-lines: {bad}",))


def _records(text: str) -> tuple[list[Any], int]:
    """(values, lines that hold none)."""
    records, bad = [], 0
    for line in text.split("\n"):
        if line.strip():
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError):
                bad += 1
    return records, bad


def _is_flat(records: list[Any]) -> bool:
    """A list of words and numbers, no records."""
    return bool(records) and not any(isinstance(record, dict | list) for record in records)


def _not_json(path: Path, detail: str) -> LoadError:
    return LoadError(
        f"{shown(path)} is not valid JSON ({detail}). Correct the file.",
        zh=f"{shown(path)} 不是合法的 JSON（{detail}）。请更正文件。",
    )


def _leaves(value: Any, name: str, depth: int) -> list[str]:
    if depth > 50:
        return [f"{name}: …"]
    if isinstance(value, dict):
        return [
            x
            for key, item in value.items()
            for x in _leaves(item, f"{name}.{key}" if name else str(key), depth + 1)
        ]
    if isinstance(value, list):
        if all(not isinstance(item, dict | list) for item in value):
            joined = "、".join(str(item) for item in value if item is not None)
            return [f"{name}: {joined}" if name else joined]
        return [x for i, item in enumerate(value, 1) for x in _leaves(item, f"{name}[{i}]", depth + 1)]
    if value is None or value == "":
        return []
    return [f"{name}: {value}" if name else str(value)]
