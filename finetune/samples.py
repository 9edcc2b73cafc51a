"""What the model says while it learns, and its answers to a whole evaluation set with their measures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.types import Conversation, Example
from finetune.encode import messages_of
from finetune.methods import Trainee
from rag.types import Message

if TYPE_CHECKING:
    from rag.chatglm3.chat import ChatTokenizer


def answer(trainee: Trainee, *, ids: list[int], tokenizer: ChatTokenizer, most: int) -> str:
    """Greedy continuation of a prompt."""
    import torch

    prompt = torch.tensor([ids], device=trainee.device)
    with trainee.plain_attention(), torch.no_grad():
        out = trainee.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=list(tokenizer.stop_ids),
            pad_token_id=0,
        )
    return tokenizer.decode(out[0, len(ids) :].tolist()).strip()


def prompt_ids(text: str, *, stage: str, tokenizer: ChatTokenizer) -> list[int]:
    """A question through the chat format, or the beginning of a text."""
    if stage == "pt":
        special = tokenizer.specials
        return [special.gmask, special.sop, *tokenizer.encode(text)]
    return tokenizer.prompt([Message("user", text)]).ids


def sample(
    trainee: Trainee, *, prompts: Sequence[str], stage: str, tokenizer: ChatTokenizer, most: int
) -> list[tuple[str, str]]:
    """(prompt, what the model says)."""
    return [
        (
            text,
            answer(
                trainee,
                ids=prompt_ids(text, stage=stage, tokenizer=tokenizer),
                tokenizer=tokenizer,
                most=most,
            ),
        )
        for text in prompts
    ]


def predict(
    trainee: Trainee,
    *,
    examples: Sequence[Example],
    tokenizer: ChatTokenizer,
    most: int,
    path: Path,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Answer the last question of every conversation, write predictions line by line, return the mean measures."""
    sums: dict[str, float] = {}
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            if not isinstance(example, Conversation):
                continue
            messages = messages_of(example)[:-1]
            ids = tokenizer.prompt(messages, close_turns=True).ids
            text = answer(trainee, ids=ids, tokenizer=tokenizer, most=most)
            scores = measures(text, example.answer)
            row: dict[str, Any] = {
                "question": example.question,
                "reference": example.answer,
                "prediction": text,
                **{name: round(value, 4) for name, value in scores.items()},
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
            for name, value in scores.items():
                sums[name] = sums.get(name, 0.0) + value
            if progress is not None:
                progress(count, len(examples))
    return {name: value / count for name, value in sums.items()} | {"predicted": float(count)}


def measures(prediction: str, reference: str) -> dict[str, float]:
    """Exact match, F1 of characters and ROUGE-L of characters, 0 to 1, blanks and marks left out."""
    a, b = _characters(prediction), _characters(reference)
    common = sum(min(a.count(c), b.count(c)) for c in set(a))
    return {
        "exact": float(a == b),
        "f1": _f1(common, len(a), len(b)),
        "rouge_l": _f1(_subsequence(a, b), len(a), len(b)),
    }


def _characters(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def _f1(common: int, found: int, wanted: int) -> float:
    if not found and not wanted:
        return 1.0
    return 2.0 * common / (found + wanted) if common else 0.0


def _subsequence(a: str, b: str) -> int:
    """Length of the longest common subsequence."""
    last = [0] * (len(b) + 1)
    for x in a:
        row = [0]
        for j, y in enumerate(b):
            row.append(last[j] + 1 if x == y else max(row[j], last[j + 1]))
        last = row
    return last[-1]
