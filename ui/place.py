"""Where a kept hit stands: its file inside its knowledge base's folder, and the picture of the page with the words boxed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from kb.errors import KnowledgeBaseError, LoadError
from kb.knowledge import KnowledgeBase

LARGEST_HASHED = 300_000_000
"""Bytes: a larger file is not compared with what was indexed."""


def source_file(home: Path, hit: dict[str, Any]) -> Path:
    """The document's file. Raises LoadError if it is gone, has changed, or does not lie in the knowledge base's folder."""
    name = str(hit["document"])
    try:
        root = KnowledgeBase.open(home, str(hit["kb"])).source
    except KnowledgeBaseError as error:
        raise LoadError(
            f"The knowledge base {hit['kb']!r} is not there any more.", zh=f"知识库“{hit['kb']}”已不在。"
        ) from error
    if root is None:
        raise LoadError(f"{name} has no file.", zh=f"“{name}”没有原文件。")
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise LoadError(
            f"The file {name} is not in its folder any more.", zh=f"原文件“{name}”已不在文件夹里。"
        )
    about = path.stat()
    if about.st_size <= LARGEST_HASHED and digest(path, about.st_mtime_ns, about.st_size) != hit["digest"]:
        raise LoadError(
            f"{name} has changed since it was indexed. Index it again to see its page.",
            zh=f"“{name}”在索引之后改动过；重新索引后才能对照页面。",
        )
    return path


@lru_cache(maxsize=256)
def digest(path: Path, changed: int, size: int) -> str:
    """BLAKE2b-256 of the bytes; `changed` and `size` only make the cache notice a new file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def page_ranges(hit: dict[str, Any], start: int, end: int) -> dict[int, list[tuple[int, int]]]:
    """Characters `start` to `end` of the passage as page number -> ranges of that page's text."""
    spans = [tuple(int(v) for v in span) for span in hit["spans"]]
    found: dict[int, list[tuple[int, int]]] = {}
    for page, first, last, offset in spans:
        low, high = max(start, offset), min(end, offset + last - first)
        if low < high:
            found.setdefault(page, []).append((first + low - offset, first + high - offset))
    return found


def marked_page(home: Path, hit: dict[str, Any], *, page: int, start: int, end: int) -> bytes:
    """PNG of a page of a PDF with the characters of the passage boxed. Raises LoadError."""
    path = source_file(home, hit)
    ranges = tuple(page_ranges(hit, start, end).get(page, []))
    return _drawn(path, str(hit["digest"]), page, ranges)


@lru_cache(maxsize=32)
def _drawn(path: Path, version: str, page: int, ranges: Sequence[tuple[int, int]]) -> bytes:
    from PIL import Image, ImageDraw

    from kb.load.picture import page_picture, passage_boxes

    picture = Image.open(io.BytesIO(page_picture(path, page))).convert("RGBA")
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    width, height = picture.size
    for start, end in ranges:
        for box in passage_boxes(path, page, start, end):
            corners = (
                max(0.0, box.left * width - 3),
                max(0.0, box.top * height - 3),
                min(width - 1.0, box.right * width + 3),
                min(height - 1.0, box.bottom * height + 3),
            )
            draw.rectangle(corners, fill=(255, 196, 0, 80), outline=(214, 120, 0, 255), width=2)
    out = io.BytesIO()
    Image.alpha_composite(picture, layer).convert("RGB").save(out, format="PNG")
    return out.getvalue()
