"""From the data folder to a trained model."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.embedder import synonyms, vocabulary
from finetune.embedder.corpus import Source, read_sources
from finetune.embedder.model import StaticModel
from finetune.embedder.train import TrainConfig, pack, train

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORD_WEIGHTS = {"laws": 0.5, "classics": 0.25}
"""How much a source's words count for the vocabulary; 1 for the others. Novels of 400 years ago are half the text."""
DICTIONARY = 1_000_000.0
"""Weight of jieba's word list, in words of running text: everyday words that the training text lacks."""
QUICK = 20
"""`--quick` keeps every so manieth pair."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the model, besides the data."""

    tokens: int = 40_000
    synonyms: float = 0.05
    """Share of the batches that are pairs of synonyms, where CMRC's questions have 2."""
    train: TrainConfig = field(default_factory=TrainConfig)

    def digest(self, sources: list[Source]) -> str:
        """Of the recipe and every training pair: a vocabulary kept under another digest is not used."""
        state = hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=16)
        for source in sources:
            state.update(f"{source.name}{source.share}".encode())
            for pair in source.pairs:
                state.update(f"{pair.query}\0{pair.passage}\0".encode())
        return state.hexdigest()


def quick(recipe: Recipe) -> Recipe:
    """A recipe that shows in half a minute that everything works; its model is not worth shipping."""
    fast = replace(recipe.train, steps=60, dimensions=64, batch=128)
    return replace(recipe, tokens=16_000, train=fast)


def thin(source: Source) -> Source:
    """Every QUICK-th pair and text of a source."""
    return replace(source, pairs=source.pairs[::QUICK], texts=source.texts[::QUICK])


def build_vocabulary(sources: list[Source], *, tokens: int) -> Tokenizer:
    """The tokenizer of these sources, jieba's word list and the synonyms."""
    rules = vocabulary.fold_rules()
    counts: Counter[str] = vocabulary.dictionary_words(total=DICTIONARY)
    for source in sources:
        weight = WORD_WEIGHTS.get(source.name, 1.0)
        counts.update(vocabulary.count_words(source.texts, rules=rules, weight=weight))
    return vocabulary.build_tokenizer(counts, size=tokens)


def make(
    data: Path, *, work: Path, recipe: Recipe, small: bool = False, say: Callable[[str], None] = print
) -> StaticModel:
    """Train the shipped model from `data` (`small`: from every QUICK-th pair). `work` keeps the vocabulary for the next run.

    Raises DataError for missing or broken data.
    """
    seed = recipe.train.seed
    sources = read_sources(data, seed=seed)
    if small:
        sources = [thin(source) for source in sources]
    say(
        f"{sum(len(s.pairs) for s in sources):,} pairs: "
        + ", ".join(f"{s.name} {len(s.pairs):,}" for s in sources)
    )
    digest = recipe.digest(sources)
    tokenizer = _vocabulary(work / f"{digest}.tokenizer.json", sources, recipe=recipe, say=say)
    packed = pack([*sources, synonyms.as_source(share=recipe.synonyms)], tokenizer)
    return train(tokenizer, packed, config=recipe.train, progress=_Progress(say, recipe.train.steps))


def _vocabulary(
    kept: Path, sources: list[Source], *, recipe: Recipe, say: Callable[[str], None]
) -> Tokenizer:
    from tokenizers import Tokenizer

    if not kept.is_file():
        say("vocabulary: counting words")
        kept.parent.mkdir(parents=True, exist_ok=True)
        build_vocabulary(sources, tokens=recipe.tokens).save(str(kept) + ".part", pretty=False)
        Path(str(kept) + ".part").replace(kept)
    else:
        say("vocabulary: from the earlier run")
    return Tokenizer.from_file(str(kept))


class _Progress:
    """Says the mean loss of the last steps, about twenty times a run."""

    def __init__(self, say: Callable[[str], None], steps: int) -> None:
        self._say, self._steps = say, steps
        self._every = max(1, steps // 20)
        self._losses: list[float] = []

    def __call__(self, step: int, loss: float) -> None:
        self._losses.append(loss)
        if step % self._every == 0 or step == self._steps:
            mean = sum(self._losses) / len(self._losses)
            self._losses.clear()
            self._say(f"step {step} of {self._steps}, loss {mean:.3f}")
