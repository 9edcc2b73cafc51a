"""Answer sentences <-> source sentences, after the answer was written. A model's own [n] marks are not believed.

Each sentence of the answer is compared with every piece of the sources by the rare terms that they share; then its numbers,
dates, percentages, titles and names must stand in what it is aligned with. What has no support is marked, never hidden.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kb.analyze import fold, tokens
from kb.types import Hit
from rag.facts import Fact, facts, missing, numbers
from rag.marks import without_marks
from rag.sentence import sentence_spans, trimmed, units
from rag.types import Citation, Sentence, Support

_OPENING = re.compile(
    r"^(?:根据(?:以上|上述|已知|提供的|所给|文档|资料|相关)*(?:已知信息|信息|资料|文档|内容|材料|规定)(?:中的?(?:内容|规定))?(?:可知|显示|可以得知)?[，,：:]\s*"
    r"|(?:according to|based on) the (?:documents?|sources?|(?:provided |given |known )*(?:information|context))[,:]?\s*|答[:：]\s*)",
    re.IGNORECASE,
)
_TALK = re.compile(
    r"(?:您好|你好|好的|当然(?:可以)?|希望(?:以上|这些|对你|对您|能).*|如(?:果)?(?:有|还有)(?:其他|更多|任何)?(?:问题|疑问).*|以上(?:是|为|内容).{0,12}|"
    r"hello|sure|i hope .*|let me know .*|of course)[。！!.，,\s]*",
    re.IGNORECASE,
)
_LITTLE = frozenset(
    "的了是为在和与或及其之于以从到由被把将对可应须需会能要也还都就则而且则所这那此该每各等吗呢个〇零一二两三四五六七八九十百千万亿"
)
"""Pairs with one of these are the seams of a sentence, or numbers, which are compared as values."""
_LITTLE_EN = frozenset(
    [
        "the",
        "an",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "to",
        "of",
        "in",
        "on",
        "at",
        "by",
        "for",
        "with",
        "from",
        "and",
        "or",
        "as",
        "it",
        "its",
        "this",
        "that",
    ]
)
_PLAIN = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class CiteOptions:
    """Limits of alignment, found on quotes, paraphrases and corrupted sentences (tests/bench/answers.py)."""

    supported: float = 0.6
    """Share of a sentence's weighted terms that its sources must hold."""
    partial: float = 0.34
    """Below it nothing is cited."""
    gain: float = 0.12
    """What a second source must add."""
    most: int = 3
    """Sources of one sentence at the most."""


@dataclass(frozen=True, slots=True)
class Cited:
    """An answer with its own marks off and ours on."""

    text: str
    sentences: tuple[Sentence, ...]
    citations: tuple[Citation, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    hit: Hit
    number: int
    """1-based number of its hit in the prompt."""
    start: int
    end: int
    terms: frozenset[str]
    context: str
    """What its numbers may stand in besides itself: heading path, header of the table, lead-in."""

    @property
    def text(self) -> str:
        return self.hit.passage.text[self.start : self.end]


def cite(
    text: str, hits: Sequence[Hit], *, question: str = "", options: CiteOptions = CiteOptions()
) -> Cited:
    """Align `text` with `hits` (numbered from 1, as in the prompt).

    `question`: facts that stand in it need no source when a sentence only repeats them in passing.
    """
    bare, marked = without_marks(text, hits=len(hits))
    sources = _sources(hits)
    weights = _weights(sources)
    citations: dict[tuple[int, int, int], Citation] = {}
    sentences: list[Sentence] = []
    out, at = "", 0
    for start, end in _answer_spans(bare):
        said = frozenset(number for place, number in marked if start < place <= end + 1)
        found, support, absent = _support(bare[start:end], sources, weights, said, question, options)
        numbers_ = tuple(dict.fromkeys(_number(source, citations) for source in found))
        sentences.append(Sentence(bare[start:end], numbers_, support, absent))
        out += bare[at:end] + "".join(f"[{number}]" for number in numbers_)
        at = end
    return Cited(out + bare[at:], tuple(sentences), tuple(citations.values()))


def page_of(hit: Hit, offset: int) -> int:
    """The page on which `hit.passage.text[offset]` stands."""
    page = hit.page
    for span in hit.passage.spans:
        if span.offset <= offset:
            page = span.page
    return page


def citation(number: int, hit: Hit, start: int, end: int) -> Citation:
    """A citation of `hit.passage.text[start:end]`."""
    return Citation(number, hit, hit.passage.text[start:end], start, end, page_of(hit, start))


def _number(source: _Source, citations: dict[tuple[int, int, int], Citation]) -> int:
    """The number of the citation, made if it is new."""
    key = (source.number, source.start, source.end)
    if key not in citations:
        citations[key] = citation(len(citations) + 1, source.hit, source.start, source.end)
    return citations[key].number


def _answer_spans(text: str) -> list[tuple[int, int]]:
    """Sentences of an answer; lines of a list or table stand alone; lines without words are left out."""
    spans: list[tuple[int, int]] = []
    at = 0
    for line in text.split("\n"):
        start, end = trimmed(text, at, at + len(line))
        at += len(line) + 1
        spans += [
            span for span in sentence_spans(text, start, end) if _PLAIN.sub("", text[span[0] : span[1]])
        ]
    return spans


def _sources(hits: Sequence[Hit]) -> list[_Source]:
    """Every piece of every passage that says something."""
    found: list[_Source] = []
    for number, hit in enumerate(hits, 1):
        text = hit.passage.text
        path = " ".join(hit.passage.headings)
        for unit in units(text, headings=hit.passage.headings):
            around = [text[a:b] for a, b in filter(None, (unit.header, unit.lead))]
            context = " ".join([path, *around])
            terms = frozenset(_terms(text[unit.start : unit.end])) | frozenset(_terms(" ".join(around)))
            found.append(_Source(hit, number, unit.start, unit.end, terms, context))
    return found


def _terms(text: str) -> set[str]:
    """Pairs of Chinese characters, whole words, and numbers as values; nothing that only holds a sentence together."""
    found = {
        term
        for term in tokens(text)
        if (len(term) > 1 or not term.isascii())
        and (term.isascii() or not _LITTLE & set(term))
        and not (term.isascii() and (term[0].isdigit() or term in _LITTLE_EN))
    }
    return found | {f"={fact.value}" for fact in numbers(text)}


def _weights(sources: Sequence[_Source]) -> dict[str, float]:
    """Weight of each term: rare in the sources counts more."""
    counts = Counter(term for source in sources for term in source.terms)
    return {term: _size(term) * math.log(1 + (len(sources) + 1) / (n + 0.5)) for term, n in counts.items()}


def _size(term: str) -> float:
    return 1.0 if len(term) > 1 else 0.3


def _support(
    sentence: str,
    sources: Sequence[_Source],
    weights: dict[str, float],
    said: frozenset[int],
    question: str,
    options: CiteOptions,
) -> tuple[list[_Source], Support, tuple[str, ...]]:
    """Which sources hold the sentence, how well, and what of it they do not have."""
    body = _OPENING.sub("", sentence).strip()
    if not body or _TALK.fullmatch(body):
        return [], "unsupported", ()
    if quoted := _quoting(body, sources, said):
        return [quoted], "quoted", ()
    unknown = math.log(1 + len(sources) + 1) * 0.7
    terms = {term: weights.get(term, unknown * _size(term)) for term in _terms(body)}
    found, share = _best(terms, sources, said, options)
    claim = facts(body)
    if not found:
        return [], "unsupported", tuple(dict.fromkeys(f.text for f in missing(claim, question)))
    held = " ".join(f"{source.text} {source.context}" for source in found)
    absent = missing(claim, held)
    if absent and len(found) < options.most:
        found, absent = _completed(found, absent, terms, sources, options)
    asked = {fact.value for fact in facts(question)}
    absent = [fact for fact in absent if fact.value not in asked]
    names = tuple(dict.fromkeys(fact.text for fact in absent))
    if share >= options.supported and not names:
        return found, "supported", ()
    return found, "partial", names


def _plain(text: str) -> str:
    return _PLAIN.sub("", fold(text))


def _quoting(sentence: str, sources: Sequence[_Source], said: frozenset[int]) -> _Source | None:
    """The source that has the sentence word for word (punctuation and width aside)."""
    wanted = _plain(sentence)
    if len(wanted) < 4:
        return None
    matches = [s for s in sources if _bounded_in(wanted, _plain(s.text))]
    if matches:
        return min(matches, key=lambda s: (s.number not in said, s.number, s.end - s.start))
    for source in sources:  # a quote over several pieces: a row with its header, two sentences
        if (
            wanted in _plain(source.hit.passage.text)
            and _plain(source.text)
            and _plain(source.text) in wanted
        ):
            return source
    return None


def _bounded_in(wanted: str, source: str) -> bool:
    """Contained, and not cutting a number in two: 5天 is not in 15天."""
    at = source.find(wanted)
    while at >= 0:
        before, after = source[max(0, at - 1) : at + 1], source[at + len(wanted) - 1 : at + len(wanted) + 1]
        if not (_one_run(before) or _one_run(after)):
            return True
        at = source.find(wanted, at + 1)
    return False


def _one_run(pair: str) -> bool:
    digits = "0123456789零一二三四五六七八九十百千万亿"
    if len(pair) < 2:
        return False
    return all(c in digits for c in pair) or (pair.isascii() and pair.isalpha())


def _best(
    terms: dict[str, float], sources: Sequence[_Source], said: frozenset[int], options: CiteOptions
) -> tuple[list[_Source], float]:
    """Sources that together hold most of the terms, best first, and the share that they hold."""
    total = sum(terms.values()) or 1.0
    held: set[str] = set()
    found: list[_Source] = []
    share = 0.0
    while len(found) < options.most:
        best, gain = None, 0.0
        for source in sources:
            added = sum(terms[t] for t in terms.keys() & source.terms - held) / total
            added += 0.03 if source.number in said and added > 0.05 else 0.0
            if added > gain + 1e-9:
                best, gain = source, added
        limit = options.partial if not found else options.gain
        if best is None or gain < limit:
            break
        found.append(best)
        held |= best.terms
        share = sum(w for t, w in terms.items() if t in held) / total
        if share > 0.9:
            break
    return found, share


def _completed(
    found: list[_Source],
    absent: list[Fact],
    terms: dict[str, float],
    sources: Sequence[_Source],
    options: CiteOptions,
) -> tuple[list[_Source], list[Fact]]:
    """Add a source that has what is missing, if it speaks of the same thing and stands in a passage already cited."""
    total = sum(terms.values()) or 1.0
    numbers_ = {source.number for source in found}
    best, rest = None, absent
    for source in sources:
        if source in found or source.number not in numbers_:
            continue
        shared = sum(w for t, w in terms.items() if t in source.terms and not t.startswith("=")) / total
        if shared < options.gain:
            continue
        left = missing(absent, f"{source.text} {source.context}")
        if len(left) < len(rest):
            best, rest = source, left
    return (found, absent) if best is None else ([*found, best], rest)
