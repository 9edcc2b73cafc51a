"""Contrastive training of the rows: a query must be closer to its passage than to all others of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.embedder.corpus import Source
from finetune.embedder.model import Floats, StaticModel
from finetune.embedder.synonyms import Swaps

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = 2
"""Tokens that are never trained: unknown, and the mark before every text."""
MARK_LENGTH = 0.01
"""Length of their rows: too small to turn a text of known words, enough for a direction where there is nothing else."""
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How the rows are trained."""

    dimensions: int = 256
    steps: int = 600
    batch: int = 512
    """Pairs of one step, all of one source."""
    rate: float = 0.01
    """Adam's step size at the start; it falls linearly to 0."""
    gain_rate: float = 0.02
    temperature: float = 0.05
    dropout: float = 0.1
    """Share of tokens left out of each text in training."""
    characters: float = 1.0
    """Weight of a word's characters in its row; the word's own vector has 1."""
    own_dropout: float = 0.1
    """Share of words that a step sees by their characters alone."""
    gain_power: float = 0.7
    """Of the inverse document frequency that the gains start from."""
    swaps: float = 0.1
    """Share of a query's words that a step exchanges for a synonym, where there is one."""
    seed: int = 0


@dataclass(frozen=True)
class Packed:
    """Pairs of one source as token ids."""

    name: str
    queries: list[Ids]
    passages: list[Ids]
    groups: Ids
    share: float


def pack(sources: Sequence[Source], tokenizer: Tokenizer) -> list[Packed]:
    """Tokenise every pair once. Pairs without a known token on a side are left out."""
    packed = []
    for source in sources:
        sides = []
        for texts in ([p.query for p in source.pairs], [p.passage for p in source.pairs]):
            encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
            sides.append([np.array([i for i in e.ids if i > 1], dtype=np.int64) for e in encoded])
        numbers: dict[str, int] = {}
        groups = [numbers.setdefault(p.group, len(numbers)) for p in source.pairs]
        good = [i for i, (q, p) in enumerate(zip(*sides, strict=True)) if len(q) and len(p)]
        packed.append(
            Packed(
                source.name,
                [sides[0][i] for i in good],
                [sides[1][i] for i in good],
                np.array([groups[i] for i in good], dtype=np.int64),
                source.share,
            )
        )
    return packed


def first_gains(packed: Sequence[Packed], *, tokens: int) -> Floats:
    """Inverse document frequency over all passages, 0 to 1. *Shape:* (tokens,)."""
    found = np.zeros(tokens)
    total = 0
    for source in packed:
        for ids in source.passages:
            found[np.unique(ids)] += 1
        total += len(source.passages)
    gains = np.log((total + 1) / (found + 1)) / math.log(total + 1)
    gains[:SPECIAL] = 0
    return gains.astype(np.float32)


def character_features(tokenizer: Tokenizer) -> tuple[Ids, Ids]:
    """For each token, the ids of its characters if it has several. Returns (flat ids, offsets as torch wants them)."""
    vocabulary = tokenizer.get_vocab()
    ordered = sorted(vocabulary.items(), key=lambda item: item[1])
    flat: list[int] = []
    offsets = []
    for token, number in ordered:
        offsets.append(len(flat))
        if number and len(token) > 1:
            flat += [vocabulary[c] for c in token if c in vocabulary]
    return np.array(flat, dtype=np.int64), np.array(offsets, dtype=np.int64)


class Rows:
    """The trained tensors: an own vector a token, a gain a token; a row is gain x (own + its characters' mean)."""

    def __init__(self, tokenizer: Tokenizer, *, config: TrainConfig, gains: Floats) -> None:
        import torch

        generator = torch.Generator().manual_seed(config.seed)
        size = tokenizer.get_vocab_size()
        own = torch.randn(size, config.dimensions, generator=generator) / math.sqrt(config.dimensions)
        self.config = config
        self.generator = generator
        self.own = own.requires_grad_()
        self.gain = torch.from_numpy(gains.copy()).requires_grad_()
        flat, offsets = character_features(tokenizer)
        self._flat = torch.from_numpy(flat)
        self._starts = torch.from_numpy(offsets)
        self._counts = torch.diff(self._starts, append=torch.tensor([len(flat)]))

    def of(self, ids: Any, *, training: bool) -> Any:
        """Rows of those (unique) token ids. *Shape:* (len(ids), dimensions)."""
        import torch

        counts = self._counts[ids]
        ends = torch.cumsum(counts, 0)
        within = torch.arange(int(ends[-1])) - torch.repeat_interleave(ends - counts, counts)
        flat = self._flat[torch.repeat_interleave(self._starts[ids], counts) + within]
        letters = torch.nn.functional.embedding_bag(flat, self.own, ends - counts, mode="mean")
        own = self.own[ids]
        if training and self.config.own_dropout:
            dropped = torch.rand(len(ids), generator=self.generator) < self.config.own_dropout
            own = own * (1 - (dropped & (counts > 0)).float())[:, None]
        return (own + self.config.characters * letters) * self.gain[ids][:, None]

    def all(self) -> Floats:
        """Every row, folded. *Shape:* (tokens, dimensions)."""
        import torch

        with torch.no_grad():
            rows = self.of(torch.arange(len(self.own)), training=False)
        folded: Floats = rows.numpy()
        folded[:SPECIAL] = 0
        folded[:SPECIAL, 0] = MARK_LENGTH
        return folded


def _drop(ids: Ids, *, share: float, rng: np.random.Generator) -> Ids:
    if share <= 0 or len(ids) < 4:
        return ids
    kept = ids[rng.random(len(ids)) >= share]
    return kept if len(kept) else ids


def embed(rows: Rows, lists: Sequence[Ids]) -> Any:
    """Unit vectors of token lists, with gradients. *Shape:* (len(lists), dimensions)."""
    import torch

    flat = torch.from_numpy(np.concatenate(lists))
    offsets = torch.from_numpy(np.cumsum([0, *[len(x) for x in lists[:-1]]]))
    unique, inverse = torch.unique(flat, return_inverse=True)
    table = rows.of(unique, training=True)
    vectors = torch.nn.functional.embedding_bag(inverse, table, offsets, mode="mean")
    return torch.nn.functional.normalize(vectors, dim=1)


def contrast(queries: Any, passages: Any, groups: Any, *, temperature: float) -> Any:
    """InfoNCE both ways; others of the same group are no negatives."""
    import torch

    scores = queries @ passages.T / temperature
    same = groups[:, None] == groups[None, :]
    same.fill_diagonal_(False)
    scores = scores.masked_fill(same, -1e4)
    target = torch.arange(len(groups))
    cross = torch.nn.functional.cross_entropy
    return (cross(scores, target) + cross(scores.T, target)) / 2


def train(
    tokenizer: Tokenizer,
    packed: Sequence[Packed],
    *,
    config: TrainConfig,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> StaticModel:
    """Train rows for `tokenizer`. The same seed, data and versions give the same rows."""
    import torch

    rng = np.random.default_rng(config.seed)
    gains = first_gains(packed, tokens=tokenizer.get_vocab_size()) ** config.gain_power
    rows = Rows(tokenizer, config=config, gains=gains)
    optimizer = torch.optim.Adam(
        [{"params": [rows.own], "lr": config.rate}, {"params": [rows.gain], "lr": config.gain_rate}],
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / config.steps)
    shares = np.array([source.share for source in packed])
    shares /= shares.sum()
    swaps = Swaps(tokenizer, special=SPECIAL)
    for step in range(config.steps):
        source = packed[rng.choice(len(packed), p=shares)]
        chosen = rng.permutation(len(source.queries))[: config.batch]
        queries = [swaps.apply(source.queries[i], share=config.swaps, rng=rng) for i in chosen]
        queries = [_drop(q, share=config.dropout, rng=rng) for q in queries]
        passages = [_drop(source.passages[i], share=config.dropout, rng=rng) for i in chosen]
        vectors = embed(rows, [*queries, *passages])
        loss = contrast(
            vectors[: len(chosen)],
            vectors[len(chosen) :],
            torch.from_numpy(source.groups[chosen]),
            temperature=config.temperature,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(step + 1, float(loss.detach()))
    return StaticModel(tokenizer, rows.all())
