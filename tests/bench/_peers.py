"""What others do with the same texts: jieba BM25 (bm25s) over whole passages, LangChain's FAISS over the same chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kb.types import Embedder

K = 50
"""Chunks that FAISS is asked for."""


def jieba_order(texts: Sequence[str], questions: Sequence[str]) -> list[list[int]]:
    """Numbers of the ten best texts for each question."""
    import bm25s
    import jieba

    jieba.setLogLevel(60)
    index = bm25s.BM25(method="lucene")
    index.index([_words(jieba, text) for text in texts], show_progress=False)
    found = []
    for question in questions:
        scores = index.get_scores(_words(jieba, question))
        best = np.argsort(-scores, kind="stable")[:10]
        found.append([int(n) for n in best if scores[n] > 0])
    return found


def _words(jieba: object, text: str) -> list[str]:
    words = [w for w in jieba.lcut(text.lower()) if w.strip()]  # type: ignore[attr-defined]
    return words or ["∅"]


def faiss_order(
    chunks: Mapping[int, str], owners: Mapping[int, int], questions: Sequence[str], *, embedder: Embedder
) -> list[list[int]]:
    """Numbers of the ten best texts for each question, through langchain_community's FAISS and our Embeddings."""
    from langchain_community.vectorstores import FAISS

    from kb.embed.langchain import ZhiwenEmbeddings

    ids = list(chunks)
    store = FAISS.from_texts(
        [chunks[i] for i in ids], ZhiwenEmbeddings(embedder), metadatas=[{"text": owners[i]} for i in ids]
    )
    found = []
    for question in questions:
        hits = store.similarity_search(question, k=min(K, len(ids)))
        found.append(list(dict.fromkeys(int(h.metadata["text"]) for h in hits))[:10])
    return found
