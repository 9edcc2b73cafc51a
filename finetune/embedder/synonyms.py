"""Words that mean much the same (synonyms.txt, written by us), so that everyday wording finds formal text."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finetune.embedder.corpus import Pair, Source

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ids = NDArray[np.int64]


def read_groups() -> list[list[str]]:
    """One group of words a line of the file beside this module."""
    text = Path(__file__).with_name("synonyms.txt").read_text(encoding="utf-8")
    return [list(dict.fromkeys(line.split())) for line in text.splitlines() if line.strip()]


def as_source(*, share: float) -> Source:
    """Every two words of a group as a pair; a word that stands in several groups ties them into one."""
    groups = read_groups()
    owner: dict[str, int] = {}
    for number, words in enumerate(groups):
        known = min([owner[w] for w in words if w in owner], default=number)
        for word in words:
            owner[word] = known
    pairs = [
        Pair(a, b, f"synonym:{owner[a]}") for words in groups for a, b in itertools.combinations(words, 2)
    ]
    return Source("synonyms", tuple(pairs), (), share)


class Swaps:
    """Exchanges single tokens for synonyms, which may be of several tokens."""

    def __init__(self, tokenizer: Tokenizer, *, special: int) -> None:
        self._others: dict[int, list[Ids]] = {}
        for words in read_groups():
            coded = [
                np.array([i for i in e.ids if i >= special], dtype=np.int64)
                for e in tokenizer.encode_batch(words, add_special_tokens=False)
            ]
            for number, ids in enumerate(coded):
                if len(ids) == 1:
                    others = [c for i, c in enumerate(coded) if i != number and len(c)]
                    self._others.setdefault(int(ids[0]), []).extend(others)

    def __len__(self) -> int:
        return len(self._others)

    def apply(self, ids: Ids, *, share: float, rng: np.random.Generator) -> Ids:
        """Each token that has synonyms is exchanged with probability `share`."""
        parts: list[Ids] = []
        for number, token in enumerate(ids):
            others = self._others.get(int(token))
            if others and rng.random() < share:
                parts.append(others[int(rng.integers(len(others)))])
            else:
                parts.append(ids[number : number + 1])
        return np.concatenate(parts) if parts else ids
