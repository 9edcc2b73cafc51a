"""Text from pictures, by RapidOCR (extra `ocr`; its models come with the package)."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from kb.errors import MissingExtra


@functools.cache
def ocr_available() -> bool:
    """Is the extra installed?"""
    return importlib.util.find_spec("rapidocr_onnxruntime") is not None


@functools.cache
def _engine() -> Any:
    if not ocr_available():
        raise MissingExtra("rapidocr-onnxruntime", "ocr", "OCR")
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:
        raise MissingExtra("rapidocr-onnxruntime", "ocr", f"OCR ({error})") from error
    return RapidOCR()


def read_picture(picture: Any) -> list[str]:
    """Lines from top to bottom, those on one height joined. `picture`: a PIL image."""
    import numpy as np

    found, _ = _engine()(np.asarray(picture.convert("RGB")))
    rows: list[tuple[float, float, float, str]] = []
    for box, text, confidence in found or []:
        if float(confidence) < 0.4 or not text.strip():
            continue
        top, bottom = min(p[1] for p in box), max(p[1] for p in box)
        rows.append(((top + bottom) / 2, min(p[0] for p in box), bottom - top, text))
    rows.sort(key=lambda r: r[0])
    lines: list[list[tuple[float, float, float, str]]] = []
    for row in rows:
        if lines and abs(row[0] - lines[-1][0][0]) < 0.6 * row[2]:
            lines[-1].append(row)
        else:
            lines.append([row])
    return ["  ".join(r[3] for r in sorted(line, key=lambda r: r[1])) for line in lines]
