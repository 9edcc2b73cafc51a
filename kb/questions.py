"""Files of questions with the place that must be found: jsonl or csv, one question a line.

    {"question": "年休假有几天？", "file": "员工手册.pdf", "page": 3, "passage": "满 5 年不满 10 年"}
    {"question": "年会在哪里办？", "unanswerable": true}

`file` is the name in the knowledge base, `page` and `passage` (words that stand there) narrow it down. A question that
stands on several lines has several right places.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kb.errors import DataError

LARGEST = 64_000_000
"""Bytes of a file of questions."""
_FIELDS = ("question", "file", "page", "passage", "unanswerable")
_TRUE = {"true", "1", "yes", "是"}
_FALSE = {"false", "0", "no", "否", ""}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer stands; what is empty does not matter."""

    file: str = ""
    page: int = 0
    """1-based; 0: any."""
    passage: str = ""
    """Words of the passage; white space does not count."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with every place that answers it; none: the knowledge base cannot answer it."""

    text: str
    places: tuple[Place, ...]

    @property
    def answerable(self) -> bool:
        return bool(self.places)


def read_questions(path: Path) -> list[Question]:
    """All questions of a .jsonl or .csv file, in order. Raises DataError naming the file and the line."""
    places: dict[str, list[Place]] = {}
    refused: set[str] = set()
    for number, row in _rows(path):
        text, place = _parsed(row, path, number)
        found = places.setdefault(text, [])
        if place is None:
            refused.add(text)
        else:
            found.append(place)
        if found and text in refused:
            raise _bad(
                path,
                number,
                "is unanswerable on one line and has a place on another",
                "既标为不可回答，又给了出处",
            )
    if not places:
        raise _bad(path, 1, "has no question", "没有任何问题")
    return [Question(text, tuple(found)) for text, found in places.items()]


def _bad(path: Path, number: int, english: str, chinese: str) -> DataError:
    return DataError(f"{path}, line {number}: {english}.", zh=f"{path} 第 {number} 行：{chinese}。")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix.lower() not in (".jsonl", ".csv"):
        raise DataError(
            f"{path}: questions are read from .jsonl or .csv, not {path.suffix!r}.",
            zh=f"{path}：问题文件须是 .jsonl 或 .csv，不能是 {path.suffix!r}。",
        )
    try:
        if path.stat().st_size > LARGEST:
            raise _bad(path, 1, f"is larger than {LARGEST:,} bytes", f"超过 {LARGEST:,} 字节")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}", zh=f"{path} 无法读取：{error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start}). Save it as UTF-8.",
            zh=f"{path} 不是 UTF-8，请另存为 UTF-8。",
        ) from error
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if "question" not in (reader.fieldnames or ()):
            raise _bad(path, 1, "has no column 'question'", "缺少 question 列")
        for row in reader:
            yield reader.line_num, {k: v for k, v in row.items() if k}
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _bad(path, number, f"is not JSON ({error})", f"不是合法的 JSON（{error}）") from error
        if not isinstance(row, dict):
            raise _bad(path, number, "is not an object", "不是对象")
        yield number, row


def _parsed(row: dict[str, Any], path: Path, number: int) -> tuple[str, Place | None]:
    text = row.get("question")
    if not isinstance(text, str) or not text.strip():
        raise _bad(path, number, "has no question", "没有 question")
    flag = str(row.get("unanswerable") or "").strip().lower()
    if flag not in _TRUE | _FALSE:
        raise _bad(
            path,
            number,
            f"unanswerable is {flag!r}, not true or false",
            f"unanswerable 是 {flag!r}，应为 true 或 false",
        )
    file, passage = row.get("file") or "", row.get("passage") or ""
    page = row.get("page") or 0
    if not isinstance(file, str) or not isinstance(passage, str):
        raise _bad(path, number, "file and passage must be text", "file 与 passage 须是文字")
    try:
        page = int(page)
    except (TypeError, ValueError) as error:
        raise _bad(path, number, f"page {page!r} is not a number", f"page {page!r} 不是数字") from error
    if page < 0:
        raise _bad(path, number, f"page {page} is negative", f"page {page} 是负数")
    if flag in _TRUE:
        return text.strip(), None
    if not file and not passage:
        raise _bad(
            path,
            number,
            "needs 'file' (with 'page' or 'passage' if you like), 'passage', or 'unanswerable': true",
            '须有 file（可加 page、passage）、passage，或 "unanswerable": true',
        )
    return text.strip(), Place(file, page, passage)
