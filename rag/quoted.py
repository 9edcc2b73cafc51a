"""Extracts -> the text of an extractive answer with its citations: every word stands in a source."""

from __future__ import annotations

from collections.abc import Sequence

from rag.cite import Cited, citation
from rag.extractive import Extract
from rag.sentence import cells, starts_item
from rag.types import Citation, Sentence


def quoted(extracts: Sequence[Extract]) -> Cited:
    """One line for each extract, sentences that follow each other joined; tables as tables under their header."""
    text = ""
    citations: list[Citation] = []
    sentences: list[Sentence] = []
    shown: set[tuple[int, int]] = set()
    before: Extract | None = None
    for extract in extracts:
        if extract.lead is not None and _shows_lead(extract, shown):
            text, lead = _with_lead(text, extract, citations)
            sentences.append(lead)
            shown.add((id(extract.hit), extract.lead[0]))
        if extract.rows:
            made = citation(len(citations) + 1, extract.hit, extract.start, extract.end)
            text += ("\n\n" if text else "") + table(extract, made.number)
        else:
            made = citation(len(citations) + 1, extract.hit, extract.start, extract.end)
            text += _joint(before, extract, listed=extract.lead is not None) if text else ""
            text += f"{_lines(extract.quote)}[{made.number}]"
        citations.append(made)
        sentences.append(Sentence(extract.quote, (made.number,), "quoted"))
        shown.add((id(extract.hit), extract.start))
        before = extract
    return Cited(text, tuple(sentences), tuple(citations))


def table(extract: Extract, number: int) -> str:
    """The header, a rule and the rows, as a Markdown table; the citation stands in the last cell."""
    text = extract.hit.passage.text
    rows = [cells(text[start:end]) for start, end in extract.rows]
    width = max(len(row) for row in rows)
    rows = [row + [""] * (width - len(row)) for row in rows]
    rows[-1][-1] = f"{rows[-1][-1]} [{number}]".strip()
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if len(extract.rows) > 1 and extract.rows[0][0] < extract.start:
        lines.insert(1, "|" + " --- |" * width)
    return "\n".join(lines)


def _shows_lead(extract: Extract, shown: set[tuple[int, int]]) -> bool:
    return extract.lead is not None and (id(extract.hit), extract.lead[0]) not in shown


def _with_lead(text: str, extract: Extract, citations: list[Citation]) -> tuple[str, Sentence]:
    """The sentence that leads into a list or table, with its own citation."""
    start, end = extract.lead or (0, 0)
    made = citation(len(citations) + 1, extract.hit, start, end)
    citations.append(made)
    text += "\n" if text else ""
    return f"{text}{' '.join(made.quote.split())}[{made.number}]", Sentence(
        made.quote, (made.number,), "quoted"
    )


def _lines(quote: str) -> str:
    """A quote with its white space as one space; the lines of a list stay lines."""
    lines = [" ".join(line.split()) for line in quote.split("\n") if line.strip()]
    return ("\n" if len(lines) > 1 and all(starts_item(line) for line in lines) else " ").join(lines)


def _joint(before: Extract | None, extract: Extract, *, listed: bool) -> str:
    """Nothing (a space in English) between sentences that follow each other in a passage, else a new line."""
    if before is not None and before.rows:
        return "\n\n"  # or Markdown would take it for another row
    if before is None or listed or before.hit is not extract.hit:
        return "\n"
    between = extract.hit.passage.text[before.end : extract.start]
    if between.strip() or "\n" in between:
        return "\n"
    return " " if extract.quote[:1].isascii() else ""
