"""First questions for somebody who does not know yet what is in the documents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from kb.knowledge import KnowledgeBase
from kb.types import StoredPassage
from ui.text import language, pick

MOST_DOCUMENTS = 40
"""Documents of a knowledge base that are looked at."""
_NUMBERING = re.compile(
    r"^\s*(?:第\s*[一二三四五六七八九十百零\d]+\s*[章节条篇部卦回讲课]|[一二三四五六七八九十]+[、．.]|[(（]?\d+(?:\.\d+)*[)）、．.]?)\s*"
)
_SIGNS = re.compile(r"[^\w\s（）()、，·/\-]")
_ASKS = re.compile(r"[？?]\s*$")
_kept: dict[tuple[str, int, int, str], tuple[str, ...]] = {}


def first_questions(kbs: Sequence[KnowledgeBase], *, most: int = 4) -> tuple[str, ...]:
    """At most so many, each from another document as long as there are enough. Deterministic."""
    found = [questions_of(kb) for kb in kbs[:4]]
    mixed: list[str] = []
    for rank in range(max((len(q) for q in found), default=0)):
        mixed += [q[rank] for q in found if rank < len(q)]
    return tuple(dict.fromkeys(mixed))[:most]


def questions_of(kb: KnowledgeBase) -> tuple[str, ...]:
    """Of one knowledge base: questions that stand in it, then its headings asked about."""
    key = (str(kb.folder), kb.store.path.stat().st_ino, kb.store.generation, language())
    if key not in _kept:
        if len(_kept) > 200:
            _kept.clear()
        _kept[key] = tuple(_look(kb))
    return _kept[key]


def _look(kb: KnowledgeBase) -> list[str]:
    rows = kb.store.connection.execute(
        "SELECT id FROM documents WHERE verdict != 'failed' ORDER BY id LIMIT ?", (MOST_DOCUMENTS,)
    ).fetchall()
    by_document = [_of_document(kb.store.passages(number)[:30]) for (number,) in rows]
    rounds = max((len(q) for q in by_document), default=0)
    return [q[turn] for turn in range(min(rounds, 4)) for q in by_document if turn < len(q)]


def _of_document(passages: Sequence[StoredPassage]) -> list[str]:
    asked: list[str] = []
    about: list[str] = []
    for passage in passages:
        title = passage.headings[0] if passage.headings else ""
        about += [
            about_question(title, line) for line in heading_lines(passage.text) if _telling(line, title)
        ]
        if not passage.headings:
            continue
        last = passage.headings[-1]
        bare = _SIGNS.sub("", _NUMBERING.sub("", last)).strip(" :：")
        if _ASKS.search(last) and len(last) <= 40:
            asked.append(bare)
        elif len(passage.headings) > 1 and _telling(bare, title) and len(passage.text) > 40:
            about.append(about_question(title.strip(), bare))
    return list(dict.fromkeys(asked + about))


def heading_lines(text: str) -> list[str]:
    """Short lines that stand before a long one: headings within a passage."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    bare = [
        _NUMBERING.sub("", line) for line, after in pairwise(lines) if len(line) <= 16 and len(after) > 20
    ]
    return [line for line in bare if len(line) >= 2 and not re.search(r"[，。；：、|,;:.!?！？\d]", line)]


def _telling(heading: str, title: str) -> bool:
    """Whether a heading says more than the title does."""
    words = re.sub(r"[\W\d]+", "", title)
    bare = re.sub(r"[\W\d]+", "", heading)
    return 1 <= len(heading) <= 20 and bool(bare) and bare not in words and words[:4] not in bare


def about_question(title: str, heading: str) -> str:
    """A heading as a question, in the language of the heading."""
    if not any("\u4e00" <= c <= "\u9fff" for c in heading):
        return f"What does it say about {heading[:1].lower() + heading[1:] if heading[1:2].islower() else heading}?"
    if 0 < len(title) <= 16:
        return f"《{title}》里关于“{heading}”是怎么说的？"
    return f"关于“{heading}”，文档里是怎么说的？"


def hint() -> str:
    """What stands in the empty field."""
    return pick("向文档提问……", "Ask the documents ...")
