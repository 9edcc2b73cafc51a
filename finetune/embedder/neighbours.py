"""Start vectors from which words stand near which: positive pointwise mutual information, reduced by SVD."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from finetune.embedder.corpus import sentences
from finetune.embedder.model import Floats

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WINDOW = 6


def start_vectors(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    dimensions: int,
    seed: int,
    special: int,
    least: float = 3.0,
) -> Floats:
    """One unit vector a token that has neighbours, zeros for the others. *Shape:* (tokens, dimensions).

    Counts are weighted by 1 / distance within WINDOW tokens of one sentence; context counts are smoothed by the
    power .75; pairs seen less than `least` in weighted count are dropped.
    """
    from scipy import sparse
    from sklearn.utils.extmath import randomized_svd

    size = tokenizer.get_vocab_size()
    lines = [line for text in texts for line in sentences(text)]
    total = sparse.csr_matrix((size, size), dtype=np.float32)
    for begin in range(0, len(lines), 20_000):
        coded = tokenizer.encode_batch(lines[begin : begin + 20_000], add_special_tokens=False)
        # a gap as long as the window between two sentences keeps them apart
        flat = np.concatenate([np.array([*e.ids, *[0] * WINDOW], dtype=np.int64) for e in coded])
        for distance in range(1, WINDOW + 1):
            left, right = flat[:-distance], flat[distance:]
            good = (left >= special) & (right >= special)
            weight = np.full(int(good.sum()), 1 / distance, np.float32)
            total = total + sparse.coo_matrix((weight, (left[good], right[good])), shape=(size, size)).tocsr()
    total = (total + total.T).tocoo()
    kept = total.data * 1.0 >= least * 0.5
    rows, columns, counts = total.row[kept], total.col[kept], total.data[kept].astype(np.float64)
    if not len(counts):
        return np.zeros((size, dimensions), np.float32)
    margins = np.bincount(rows, counts, size)
    smooth = margins**0.75
    smooth /= smooth.sum()
    information = np.log(counts / np.maximum(margins[rows] * smooth[columns], 1e-12))
    positive = information > 0
    matrix = sparse.csr_matrix(
        (information[positive], (rows[positive], columns[positive])), shape=(size, size)
    )
    left, strength, _ = randomized_svd(
        matrix, n_components=min(dimensions, size - 1), n_iter=3, random_state=seed
    )
    vectors = left * np.sqrt(strength)
    vectors = np.pad(vectors, ((0, 0), (0, dimensions - vectors.shape[1])))
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), 0)
    return np.ascontiguousarray(vectors, dtype=np.float32)
