"""Pages -> passages (what a reader sees) -> chunks (what the embedder reads, never longer than its limit).

lines.py     a page's text as units: headings, paragraphs, table rows, code lines
sentences.py Chinese and English sentence ends; cutting what has none
passages.py  units -> passages of about 300 to 600 characters under one heading
chunks.py    passages -> chunks within the token limit, prefix included
"""

from __future__ import annotations

from itertools import groupby

from kb.split.chunks import chunked
from kb.split.config import SplitConfig
from kb.split.lines import units_of
from kb.split.passages import pack
from kb.types import LoadedFile, Passage, TokenCounter

__all__ = ["SPLITTER_VERSION", "SplitConfig", "split"]

_DEFAULT = SplitConfig()

_PAGES_STAND_ALONE = frozenset({"xlsx", "pptx", "epub"})
"""A sheet, a slide, a chapter: no passage goes over its end. Text runs on over the end of a PDF's page."""

SPLITTER_VERSION = "1"
"""Changes when the same pages would give other chunks: part of what decides re-indexing."""


def split(loaded: LoadedFile, *, counter: TokenCounter, config: SplitConfig = _DEFAULT) -> list[Passage]:
    """The passages of a document, in order, each with its chunks.

    No character of a page but white space is lost; `chunk.text` never has more than `counter.max_tokens` tokens.
    Pages that failed have no text and give nothing.
    """
    units = units_of(loaded, config=config)
    if loaded.kind in _PAGES_STAND_ALONE:
        runs = [list(run) for _, run in groupby(units, key=lambda unit: unit.page.number)]
    else:
        runs = [units]
    drafts = [draft for run in runs for draft in pack(run, config=config)]
    return chunked(drafts, counter=counter, config=config)
