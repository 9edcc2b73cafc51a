"""Lines of text from pictures, by RapidOCR (extra `ocr`; its models come with the package).

RapidOCR asks for opencv-python, which needs libGL and X11 libraries that a bare server lacks. Where it cannot be
imported, the error names the cure that needs pip only: the same library without windows.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from kb.errors import MissingExtra
from kb.load.encoding import clean
from kb.load.pdf_lines import HAN, Line

CURE = "pip uninstall -y opencv-python && pip install --force-reinstall --no-deps opencv-python-headless"
_SURE = 0.4
"""Confidence, 0 to 1, below which a find is left out."""


def ocr_installed() -> bool:
    """Is the extra there, whether or not it works?"""
    return importlib.util.find_spec("rapidocr_onnxruntime") is not None


@functools.cache
def ocr_available() -> bool:
    """Is the extra installed, and can it be imported?"""
    try:
        _engine()
    except MissingExtra:
        return False
    return True


@functools.cache
def _engine() -> Any:
    if not ocr_installed():
        raise MissingExtra("rapidocr-onnxruntime", "ocr", "OCR")
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:
        raise MissingExtra("opencv", "ocr", f"OCR ({error}; {CURE})") from error
    return RapidOCR()


def read_picture(picture: Any) -> list[Line]:
    """What is written in a PIL image, in no order that means anything; y grows upwards as on a PDF page."""
    import numpy as np

    found, _ = _engine()(np.asarray(picture.convert("RGB")))
    lines = []
    for corners, text, confidence in found or []:
        text = clean(text).strip()
        if float(confidence) < _SURE or not text:
            continue
        left, right = min(p[0] for p in corners), max(p[0] for p in corners)
        top, bottom = -min(p[1] for p in corners), -max(p[1] for p in corners)
        han = 2 * sum(bool(HAN.match(c)) for c in text) >= len(text)
        size = max(1.0, (top - bottom) * 0.8)
        lines.append(Line(text, [-1] * len(text), left, right, bottom, top, size, han=han))
    return lines
