"""An optional cross-encoder that reads question and passage together and orders the best passages anew."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kb.errors import MissingExtra, ModelError
from kb.types import Hit, LegScore

BATCH = 16


@functools.lru_cache(maxsize=2)
def open_reranker(folder: str) -> Any:
    """A sentence-transformers CrossEncoder from a folder on this machine; no network, no code from the folder.

    Raises ModelError if it is not there or is no cross-encoder, MissingExtra without sentence-transformers.
    """
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise ModelError(
            f"reranker: {folder!r} is not the folder of a cross-encoder (no config.json in it). Download one, for example "
            "BAAI/bge-reranker-base, and set search.reranker to its folder; empty switches reranking off.",
            zh=f"reranker：{folder!r} 不是交叉编码器的文件夹（里面没有 config.json）。请先下载（例如 BAAI/bge-reranker-base），"
            "再把 search.reranker 设为其文件夹；留空则不重排。",
        )
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise MissingExtra("sentence-transformers", "rerank", "reranking") from error
    try:
        model = CrossEncoder(str(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"reranker: the cross-encoder in {folder!r} cannot be opened: {error}",
            zh=f"reranker：{folder!r} 里的交叉编码器打不开：{error}",
        ) from error
    outputs = int(model.config.num_labels)
    if outputs != 1:
        raise ModelError(
            f"reranker: the model in {folder!r} has {outputs} outputs; a reranker has one score.",
            zh=f"reranker：{folder!r} 里的模型有 {outputs} 个输出，重排模型应只有一个分数。",
        )
    return model


def reranked(hits: Sequence[Hit], question: str, *, folder: str, depth: int) -> list[Hit]:
    """The first `depth` hits in the cross-encoder's order, then the rest as they were. Ties keep their order.

    The cross-encoder reads the heading path and the passage; its score becomes `Hit.score` and a leg of its own.
    """
    model = open_reranker(folder)
    head, tail = list(hits[:depth]), list(hits[depth:])
    texts = ["\n".join((*hit.passage.headings[-2:], hit.passage.text)) for hit in head]
    scores = [
        float(s)
        for s in model.predict(
            [(question, text) for text in texts],
            batch_size=BATCH,
            show_progress_bar=False,
            convert_to_numpy=True,
        )
    ]
    order = sorted(range(len(head)), key=lambda i: (-scores[i], i))
    found = [
        replace(head[i], score=scores[i], legs=(*head[i].legs, LegScore("rerank", rank, scores[i])))
        for rank, i in enumerate(order, start=1)
    ]
    return found + tail
