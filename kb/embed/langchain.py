"""Our embedders as LangChain's `Embeddings` (importing this module imports langchain_core)."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings

from kb.types import Embedder


class ZhiwenEmbeddings(Embeddings):
    """For LangChain's own vector stores: `FAISS.from_texts(texts, ZhiwenEmbeddings(open_embedder(config)))`."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector a text, as passages (with the model's passage prefix)."""
        found: list[list[float]] = self.embedder.encode_passages(texts).tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question (with the model's query prefix)."""
        found: list[float] = self.embedder.encode_queries([text])[0].tolist()
        return found
