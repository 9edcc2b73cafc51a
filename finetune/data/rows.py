"""File -> rows with the line that each begins on: json, jsonl, csv, tsv, parquet, txt. Encodings as in `kb.load`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.data.types import BadLine, Source
from kb.errors import DataError
from kb.load.encoding import decode

MAX_BYTES = 2 * 1024**3
"""A data file larger than this is refused: split it."""

Row = dict[str, Any] | str | list[Any]
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt")


def read_text(path: Path) -> tuple[str, str]:
    """(text, encoding). Raises DataError if the file is missing, too large or not text."""
    if not path.is_file():
        raise DataError(
            f"{path} does not exist or is not a file. Check the name in --dataset or dataset_info.json.",
            zh=f"{path} 不存在或不是文件。请检查 --dataset 或 dataset_info.json 里的名字。",
        )
    if path.stat().st_size > MAX_BYTES:
        raise DataError(
            f"{path.name} has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}. Split it into several files.",
            zh=f"{path.name} 有 {path.stat().st_size:,} 字节，超过 {MAX_BYTES:,}。请拆成几个文件。",
        )
    decoded = decode(path.read_bytes())
    return decoded.text.lstrip("\ufeff"), decoded.encoding


def read_rows(path: Path) -> Iterator[tuple[Source, Row] | BadLine]:
    """Rows in order. A row that cannot be parsed comes as a BadLine; a file that cannot be read raises DataError."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet(path)
        return
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path.name}: data files end in {', '.join(SUFFIXES)}, not {suffix or 'nothing'!r}.",
            zh=f"{path.name}：数据文件的后缀应为 {'、'.join(SUFFIXES)}，而不是 {suffix or '空'}。",
        )
    text, _ = read_text(path)
    if suffix in (".csv", ".tsv"):
        yield from _csv(path, text, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".txt":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield Source(path, number), line.rstrip("\r")
    elif text.lstrip().startswith("["):
        yield from _json_array(path, text)
    else:
        yield from _jsonl(path, text)


def _jsonl(path: Path, text: str) -> Iterator[tuple[Source, Row] | BadLine]:
    """One object a line; also objects spread over several lines, one after the other."""
    decoder = json.JSONDecoder()
    position, line, length = 0, 1, len(text)
    while True:
        start = _skip_blank(text, position)
        line += text.count("\n", position, start)
        if start >= length:
            return
        source = Source(path, line)
        try:
            row, end = decoder.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError) as error:
            yield BadLine(source, f"not valid JSON: {error}", f"不是合法的 JSON：{error}")
            end = text.find("\n", start)
            end = length if end < 0 else end
        else:
            yield _whole(source, row, text[start:end])
        line += text.count("\n", start, end)
        position = end


def _json_array(path: Path, text: str) -> Iterator[tuple[Source, Row] | BadLine]:
    """The elements of one array, each with its line; arrays of arrays are taken apart."""
    decoder = json.JSONDecoder()
    position = text.index("[") + 1
    line = 1 + text.count("\n", 0, position)
    while True:
        start = _skip_blank(text, position, extra=",")
        line += text.count("\n", position, start)
        if start >= len(text):
            yield BadLine(
                Source(path, line), "the array is not closed: the file is cut off", "数组没有结束：文件不完整"
            )
            return
        if text[start] == "]":
            return
        try:
            row, end = decoder.raw_decode(text, start)
        except (json.JSONDecodeError, RecursionError) as error:
            yield BadLine(Source(path, line), f"not valid JSON: {error}", f"不是合法的 JSON：{error}")
            return
        if isinstance(row, list) and row and all(isinstance(item, dict) for item in row):
            for item in row:
                yield _whole(Source(path, line), item, text[start:end])
        else:
            yield _whole(Source(path, line), row, text[start:end])
        line += text.count("\n", start, end)
        position = end


def _whole(source: Source, row: Row, written: str) -> tuple[Source, Row] | BadLine:
    """The row, unless it holds half a character: an emoji of which a cut left "\\ud83d" is no text in any encoding."""
    if "\\ud" in written or "\\uD" in written:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            return BadLine(
                source,
                f"it holds half a character ({half}): an emoji was cut in two",
                f"含有半个字符（{half}）：一个表情符号被截断了",
            )
    return source, row


def _skip_blank(text: str, position: int, extra: str = "") -> int:
    while position < len(text) and (text[position].isspace() or text[position] in extra):
        position += 1
    return position


def _csv(path: Path, text: str, delimiter: str) -> Iterator[tuple[Source, Row] | BadLine]:
    csv.field_size_limit(16 * 1024**2)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadLine(Source(path, line), f"not valid csv: {error}", f"不是合法的 csv：{error}")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            continue
        if len(cells) != len(header):
            yield BadLine(
                Source(path, line),
                f"{len(cells)} cells where the header has {len(header)}: is a quote or a comma missing?",
                f"有 {len(cells)} 列，而表头有 {len(header)} 列：是否少了引号或逗号？",
            )
            continue
        yield Source(path, line), dict(zip(header, cells, strict=True))


def _parquet(path: Path) -> Iterator[tuple[Source, Row] | BadLine]:
    import pyarrow.parquet as parquet

    if not path.is_file():
        raise DataError(f"{path} does not exist.", zh=f"{path} 不存在。")
    number = 0
    for batch in parquet.ParquetFile(path).iter_batches():
        for row in batch.to_pylist():
            number += 1
            yield Source(path, number), row
