"""The lexical leg: Tantivy's BM25 over the terms of `kb.analyze`. A cache: it can be made again from the store."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kb.analyze import tokens
from kb.store import Store

VERSION = "2"
"""Changes when the terms or the schema do: an index of another version is built again."""
MAX_TERMS = 512
"""Distinct terms of a question that are looked up; what somebody pastes may be a book."""


def _schema() -> Any:
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_integer_field("id", stored=True, indexed=True, fast=True)
    builder.add_text_field("body", stored=False, tokenizer_name="whitespace", index_option="freq")
    return builder.build()


class LexicalIndex:
    """An open index. Safe to search from several threads; `generation` says which state of the store it shows."""

    def __init__(self, index: Any, *, generation: int) -> None:
        self._index = index
        self._index.reload()
        self._searcher = index.searcher()
        self.generation = generation

    def __len__(self) -> int:
        return int(self._searcher.num_docs)

    def search(self, question: str, k: int) -> list[tuple[int, float]]:
        """(chunk id, BM25), best first, at most `k`; empty if no term of the question is in the index."""
        import tantivy

        terms = list(dict.fromkeys(tokens(question[: 8 * MAX_TERMS])))[:MAX_TERMS]
        if not terms or k < 1:
            return []
        schema = self._index.schema
        clauses = [
            (tantivy.Occur.Should, tantivy.Query.term_query(schema, "body", term, index_option="freq"))
            for term in terms
        ]
        found = self._searcher.search(tantivy.Query.boolean_query(clauses), k, count=False).hits
        return [(int(self._searcher.doc(address)["id"][0]), float(score)) for score, address in found]

    def scores_of(self, question: str, chunk_ids: Sequence[int]) -> dict[int, float]:
        """Chunk id -> the same BM25 that `search` gives, for these chunks; those that hold no term are left out."""
        import tantivy

        terms = dict.fromkeys(tokens(question))
        if not terms or not chunk_ids:
            return {}
        schema, occur = self._index.schema, tantivy.Occur
        clauses = [
            (occur.Should, tantivy.Query.term_query(schema, "body", term, index_option="freq"))
            for term in terms
        ]
        these = tantivy.Query.term_set_query(schema, "id", list(chunk_ids))
        both = [
            (occur.Must, tantivy.Query.const_score_query(these, 0.0)),
            (occur.Must, tantivy.Query.boolean_query(clauses)),
        ]
        found = self._searcher.search(tantivy.Query.boolean_query(both), len(chunk_ids), count=False).hits
        return {int(self._searcher.doc(address)["id"][0]): float(score) for score, address in found}

    def rarity(self, terms: Iterable[str]) -> dict[str, float]:
        """Term -> BM25's inverse document frequency; a term that no chunk holds is rarest."""
        count = len(self)
        found = {}
        for term in terms:
            held = self._searcher.doc_freq("body", term)
            found[term] = math.log(1 + (count - held + 0.5) / (held + 0.5))
        return found


def open_lexical(folder: Path, store: Store) -> LexicalIndex | None:
    """The index as it lies on disk, which may be older than the store; None if there is none that can be used."""
    state = _state(folder)
    if state is None or state > store.generation:
        return None
    try:
        return LexicalIndex(_opened(folder), generation=state)
    except (ValueError, OSError):
        return None


def _opened(folder: Path) -> Any:
    import tantivy

    return tantivy.Index(_schema(), path=str(folder), reuse=True)


def _state(folder: Path) -> int | None:
    """The generation of the index; None if it is missing or of another version."""
    try:
        found = json.loads((folder / "zhiwen.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if found.get("version") != VERSION or not (folder / "meta.json").is_file():
        return None
    return int(found["generation"])


def refresh_lexical(folder: Path, store: Store) -> None:
    """Bring the index to the store's generation; only the holder of the write lock may call it.

    A catch-up that was killed is not gone on with but built again: Tantivy uses the numbers of its operations a second time
    then, and beside files that were left over a deletion can get lost. Nothing is noted before the counts agree.
    """
    target = store.generation
    state = _state(folder)
    marker = folder / "catching-up"
    if state == target:
        return
    if state is None or state > target or marker.exists():
        _build(folder, store, target)
        return
    try:
        marker.touch()
        _catch_up(folder, store, since=state)
        if len(LexicalIndex(_opened(folder), generation=target)) != store.counts()["chunks"]:
            raise ValueError("the index and the store do not agree")
    except (ValueError, OSError):
        _build(folder, store, target)
        return
    _write_state(folder, target)
    marker.unlink()


def _catch_up(folder: Path, store: Store, *, since: int) -> None:
    writer = _opened(folder).writer(heap_size=64_000_000, num_threads=1)
    for number in store.deleted_since(since):
        writer.delete_documents("id", number)
    for number, _ in store.chunks_since(since):
        writer.delete_documents("id", number)
    _add(writer, store.chunks_since(since))
    writer.commit()
    writer.wait_merging_threads()


def _build(folder: Path, store: Store, generation: int) -> None:
    """Into a folder beside it, then swapped."""
    import tantivy

    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    index = tantivy.Index(_schema(), path=str(fresh))
    writer = index.writer(heap_size=256_000_000, num_threads=1)
    _add(writer, store.chunks_since(0))
    writer.commit()
    writer.wait_merging_threads()
    _write_state(fresh, generation)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def _add(writer: Any, chunks: Iterable[tuple[int, str]]) -> None:
    import tantivy

    for number, text in chunks:
        writer.add_document(tantivy.Document(id=number, body=" ".join(tokens(text))))


def _write_state(folder: Path, generation: int) -> None:
    temporary = folder / "zhiwen.json.part"
    with temporary.open("w", encoding="utf-8") as out:
        out.write(json.dumps({"version": VERSION, "generation": generation}))
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, folder / "zhiwen.json")
