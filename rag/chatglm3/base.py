"""Which base model an adapter belongs to: one hash over the weights, the same in every sharding.

`base_hash(folder)` is what training writes into the adapter's `train.json` and what loading compares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from rag.chatglm3 import shards
from rag.chatglm3.folder import PROVENANCE
from rag.chatglm3.shape import read_json


def combine(digests: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The hash of a model from the sha256 of each native tensor in the source's dtype."""
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{name} {list(shapes[name])} {digests[name]}\n".encode())
    return total.hexdigest()


def base_hash(folder: Path) -> str:
    """The hash of a standard folder: from its provenance, else from its weights (a pass over all of them).

    A model converted to another dtype keeps the hash of its source. Raises ModelError if there are no weights.
    """
    if (folder / PROVENANCE).is_file():
        known = read_json(folder / PROVENANCE).get("base_hash")
        if isinstance(known, str) and len(known) == 64:
            return known
    digests: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    checkpoint = shards.find_checkpoint(folder)
    for file in checkpoint.files:
        for name, tensor in shards.read_tensors(folder / file):
            digests[name] = hashlib.sha256(shards.tensor_bytes(tensor)).hexdigest()
            shapes[name] = tuple(tensor.shape)
    return combine(digests, shapes)
