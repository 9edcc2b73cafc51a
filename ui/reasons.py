"""The short codes that loading, listing and checking give, as sentences with what to do."""

from __future__ import annotations

import re

from ui.text import pick

REASONS: dict[str, tuple[str, str]] = {
    "unsupported-type": ("不支持的文件类型", "a type of file that is not read"),
    "symlink-outside": ("符号链接指向文件夹之外", "a symbolic link that leads out of the folder"),
    "linked-folder": ("链接的文件夹，不跟随", "a linked folder, not followed"),
    "too-large": ("文件过大：请拆分", "too large: split it"),
    "not-a-file": ("不是普通文件", "not an ordinary file"),
    "control-characters-in-name": ("文件名含控制字符：请改名", "control characters in its name: rename it"),
    "unreadable": ("读不了：请检查权限", "cannot be read: check its permissions"),
    "hidden": ("隐藏文件", "a hidden file"),
    "temporary": ("临时文件", "a temporary file"),
    "vectors-missing": ("缺少向量", "vectors are missing"),
    "orphans": ("有无主的记录", "records that belong to nothing"),
    "lexical-damaged": ("字词索引损坏", "the lexical index is damaged"),
    "lexical-count": ("字词索引数量不符", "the lexical index has another number of chunks"),
    "vectors-damaged": ("向量缓存损坏", "the vector cache is damaged"),
    "vectors-count": ("向量数量不符", "the vector cache has another number of chunks"),
}
"""Code -> (Chinese, English). What loading says of pages is in `kb.load.ADVICE`."""

_CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


def reason_words(reason: str) -> str:
    """Codes with commas between and perhaps "(p. 1,3)" after, in words; any other text is shown as it is.

    "no-text-layer, ocr (p. 2)" -> "这一页没有文字层……；文字由 OCR 识别……（第 2 页）"
    """
    codes, _, pages = reason.partition(" (p. ")
    words = [_words(code.strip()) for code in codes.split(",")]
    if any(word is None for word in words):
        return reason
    where = pick(f"（第 {pages[:-1]} 页）", f" (p. {pages[:-1]})") if pages else ""
    return pick("；", "; ").join(word for word in words if word) + where


def file_words(reason: str, reason_zh: str) -> str:
    """Why a file needs a look: codes in words, or the sentence of its error in the language in force."""
    return pick(reason_zh, reason) if reason_zh else reason_words(reason)


def _words(code: str) -> str | None:
    """One code, perhaps with ": 3" after it; None if it is none of ours."""
    from kb.load import ADVICE

    name, colon, detail = code.partition(":")
    if not _CODE.fullmatch(name):
        return None
    known = REASONS.get(name) or ADVICE.get(name)
    return None if known is None else pick(*known) + (f" {detail.strip()}" if colon else "")


def problem_words(problem: str) -> str:
    """A problem that `kb.check` names ("vectors-missing: 3 in a.md"), in words."""
    return _words(problem) or problem
