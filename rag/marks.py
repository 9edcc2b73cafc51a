"""A model's own marks of citations, [1], 【2】, [来源 3]: taken off and remembered as hints."""

from __future__ import annotations

import re

_MARK = re.compile(
    r"[ \u3000]?(?:\[\^?\s*(?:来源|资料|文档|引用|source|passage)?\s*[:：]?\s*(\d{1,2}(?:\s*[,，、\-–]\s*\d{1,2})*)\s*\]"
    r"|【\s*(?:来源|资料|文档|引用)?\s*(\d{1,2}(?:\s*[,，、\-–]\s*\d{1,2})*)\s*】|［(\d{1,2})］)",
    re.IGNORECASE,
)


def without_marks(text: str, *, hits: int) -> tuple[str, list[tuple[int, int]]]:
    """The text without [1], 【2】, [来源 3], and what was marked: (place in the new text, number). Marks of hits that
    do not exist are taken off too; an index in code, a[1], stays."""
    out, at = "", 0
    marks: list[tuple[int, int]] = []
    for found in _MARK.finditer(text):
        if re.search(r"[A-Za-z_)\]]$", text[: found.start()]) and found[0].startswith("[") and hits < 1:
            continue
        if re.search(r"[a-z_][A-Za-z0-9_]*$", text[: found.start()]) and "`" in text[: found.start()][-40:]:
            continue
        out += text[at : found.start()]
        at = found.end()
        for written in re.findall(r"\d+", found[1] or found[2] or found[3]):
            if 1 <= int(written) <= hits:
                marks.append((len(out), int(written)))
    return out + text[at:], marks
