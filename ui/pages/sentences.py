"""An answer's text for `st.markdown`: citations as badges, sentences without support on a coloured ground."""

from __future__ import annotations

import re
from typing import Any

from ui.pages.safe import highlighted, light
from ui.text import pick

COLOURS = {"unsupported": "red", "partial": "orange"}
_MARKS = re.compile(r"(?:\s*\\\[\d{1,3}\\\])+")


def answer_markdown(answer: dict[str, Any]) -> str:
    """The text with its marks; nothing in it is obeyed as Markdown but **bold**."""
    text = str(answer["text"])
    if answer["refused"]:
        return light(text)
    parts, at = [], 0
    for sentence in answer["sentences"]:
        bare = re.sub(r"(?:\s*\[\d{1,3}\])+\s*$", "", str(sentence["text"])).strip()
        colour = COLOURS.get(str(sentence["support"]))
        start = text.find(bare, at) if bare and colour else -1
        if start < 0 or colour is None:
            continue
        parts += [light(text[at:start]), highlighted(bare, colour=colour)]
        at = start + len(bare)
    parts.append(light(text[at:]))
    known = {int(c["number"]) for c in answer["citations"]}
    return _MARKS.sub(lambda found: _badges(found[0], known), "".join(parts))


def _badges(marks: str, known: set[int]) -> str:
    """ "\\[1\\]\\[2\\]" as badges; a number that cites nothing stays as it is."""
    numbers = [int(n) for n in re.findall(r"\d+", marks)]
    if not all(number in known for number in numbers):
        return marks
    return "".join(f" :green-badge[{number}]" for number in numbers)


def notes(answer: dict[str, Any]) -> list[str]:
    """What the person should know of the answer as a whole."""
    said = []
    supports = [str(s["support"]) for s in answer["sentences"]]
    missing = [m for s in answer["sentences"] if s["support"] == "partial" for m in s["missing"]]
    if count := supports.count("unsupported"):
        said.append(pick(f"红底的 {count} 句没有找到出处，请自行核对。", f"{count} sentence(s) on red have no source: check them."))  # fmt: skip
    if "partial" in supports:
        which = pick("、", ", ").join(missing[:6])
        said.append(
            pick("橙底的句子只有部分在出处里", "Sentences on orange are only partly in the sources")
            + (pick(f"，出处中没有：{which}", f"; not in them: {which}") if which else "")
            + pick("。", ".")
        )
    finish = answer["trace"].get("finish")
    if finish == "length":
        said.append(pick("回答到了长度上限，被截断；可在设置里加大 max_tokens。", "Cut off at the longest length; raise max_tokens in the settings."))  # fmt: skip
    elif finish == "stopped":
        said.append(pick("回答被停止，已写下的都在。", "Stopped; what was written is kept."))
    elif finish == "loop":
        said.append(pick("模型开始重复，已停止。", "The model began to repeat itself and was stopped."))
    return said
