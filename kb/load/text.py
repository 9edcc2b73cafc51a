"""Plain text, Markdown, csv, json and jsonl."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from kb.errors import LoadError
from kb.load.builder import PageBuilder
from kb.load.encoding import Decoded, decode, looks_garbled
from kb.load.limits import LoadLimits, shown
from kb.types import LoadedFile, Page, Verdict


def read(path: Path, limits: LoadLimits) -> Decoded:
    """The file's text; raises LoadError if it is binary."""
    data = path.read_bytes()
    found = decode(data)
    if data[:4096].count(0) > 64 and not found.encoding.startswith("utf-"):
        raise LoadError(
            f"{shown(path)} is not text (it holds binary data). Give it the suffix of what it is.",
            zh=f"{shown(path)} 不是文本（含二进制数据）。请改成与内容相符的后缀。",
        )
    if len(found.text) > limits.max_characters:
        return Decoded(found.text[: limits.max_characters], found.encoding, found.certain, found.damaged)
    return found


def verdict_of(found: Decoded) -> tuple[Verdict, tuple[str, ...]]:
    """ok, or suspect with what is uncertain about the characters."""
    reasons: list[str] = []
    if not found.certain:
        reasons.append("guessed-encoding")
    if found.damaged or looks_garbled(found.text):
        reasons.append("mojibake")
    return ("suspect", tuple(reasons)) if reasons else ("ok", ())


def _finish(path: Path, kind: str, found: Decoded, builder: PageBuilder, title: str = "") -> LoadedFile:
    verdict, reasons = verdict_of(found)
    page = builder.page(1, verdict=verdict, reasons=reasons)
    if not page.text:
        page = Page(1, "", (), "", "failed", ("empty",))
    return LoadedFile(path, kind, (page,), title or path.stem, found.encoding)


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
            f"{shown(path)} is not a csv table ({error}). Save it again as csv.",
            zh=f"{shown(path)} 不是合法的 csv 表格（{error}）。请重新另存为 csv。",
        ) from error
    builder = PageBuilder()
    builder.table(rows)
    return _finish(path, "csv", found, builder)


def load_json(path: Path, limits: LoadLimits) -> LoadedFile:
    """Each leaf as "path: value", grouped by record; jsonl line by line."""
    found = read(path, limits)
    builder = PageBuilder()
    try:
        if path.suffix.lower() == ".jsonl":
            records = [json.loads(line) for line in found.text.split("\n") if line.strip()]
        else:
            value = json.loads(found.text)
            records = value if isinstance(value, list) else [value]
    except (ValueError, RecursionError) as error:
        raise LoadError(
            f"{shown(path)} is not valid JSON ({str(error)[:120]}). Correct the file.",
            zh=f"{shown(path)} 不是合法的 JSON（{str(error)[:120]}）。请更正文件。",
        ) from error
    for record in records:
        builder.add("text", "\n".join(_leaves(record, "", 0)))
    return _finish(path, path.suffix.lower().lstrip("."), found, builder)


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
