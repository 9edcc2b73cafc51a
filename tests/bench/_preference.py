"""What tests.bench.preference feeds to every recipe, and how it counts."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rag.chatglm3.shape import EOS, GlmShape
from tests.bench._random_model import REAL

PAIRS = 8
"""Pairs of one step: TRL's default batch."""


@dataclass
class Result:
    """One recipe."""

    recipe: str
    pairs_per_second: float = 0.0
    tokens_per_second: float = 0.0
    """Real ones."""
    step_seconds: float = 0.0
    reference_seconds: float = 0.0
    """Of all pairs of the run; ours measures it before."""
    peak_gib: float = 0.0
    row_tokens: int = 0
    losses: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    error: str = ""


def pairs(shape: GlmShape, count: int, *, seed: int = 0) -> list[tuple[list[int], list[int], list[int]]]:
    """(prompt, chosen, rejected), answers ending with `</s>`."""
    random = np.random.default_rng(seed)

    def words(median: int, most: int) -> list[int]:
        length = int(np.clip(random.lognormal(math.log(median), 0.8), 8, most))
        return [int(i) for i in random.integers(3, shape.vocabulary - 64, length)]

    scale = 1 if shape is REAL else 8
    return [
        (words(100 // scale, 500 // scale), *([*words(110 // scale, 500 // scale), EOS] for _ in range(2)))
        for _ in range(count)
    ]  # type: ignore[misc]


def real_tokens(given: list[tuple[list[int], list[int], list[int]]]) -> int:
    """Tokens of both sides of all pairs."""
    return sum(2 * len(p) + len(c) + len(r) for p, c, r in given)


def same_start(model: Any) -> None:
    """Give LoRA's A and the score head the same numbers whoever made the model; B is zero anyway."""
    import torch

    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ("lora_A" in name or "score" in name):
            draws = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            spread = 0.02 if "score" in name else parameter.shape[1] ** -0.5
            parameter.data.copy_(torch.randn(parameter.shape, generator=draws) * spread)


def finish(result: Result, marks: list[float], given: list[Any], per_step: int) -> Result:
    """Speeds from the ends of steps (the first mark is the beginning)."""
    import torch

    skip = min(3, len(marks) - 2)
    counted = given[skip * per_step :]
    seconds = marks[-1] - marks[skip]
    result.step_seconds = seconds / (len(marks) - 1 - skip)
    seconds += result.reference_seconds * len(counted) / len(given)
    result.pairs_per_second, result.tokens_per_second = len(counted) / seconds, real_tokens(counted) / seconds
    if torch.cuda.is_available():
        result.peak_gib = torch.cuda.max_memory_allocated() / 2**30
    return result


def tokenizer(shape: GlmShape) -> Any:
    """A word for every id, so that TRL's own way through text gives the ids that ours gets."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {("<pad>", "<unk>", "</s>")[n] if n < 3 else str(n): n for n in range(shape.vocabulary)}
    made = Tokenizer(WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")


def texts(given: list[tuple[list[int], list[int], list[int]]]) -> list[dict[str, str]]:
    """The pairs as TRL takes them; it adds the end of an answer itself."""
    return [
        {
            "prompt": " ".join(map(str, p)) + " ",
            "chosen": " ".join(map(str, c[:-1])),
            "rejected": " ".join(map(str, r[:-1])),
        }
        for p, c, r in given
    ]
