"""What the model says while it learns, and its answers to a whole evaluation set with their measures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.data.types import Conversation, Example, Feedback, PlainText, Preference, Turn
from finetune.encode import EncodeReport, Limits, messages_of
from finetune.methods import Trainee
from rag.evaluate import score_texts
from rag.types import Message

if TYPE_CHECKING:
    from finetune.memory import Layout
    from rag.types import Chat


def answer(trainee: Trainee, *, ids: list[int], tokenizer: Chat, most: int) -> str:
    """Greedy continuation of a prompt."""
    import torch

    prompt = torch.tensor([ids], device=trainee.device)
    with trainee.plain_attention(), torch.no_grad():
        out = trainee.within(
            lambda: trainee.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=most,
                do_sample=False,
                eos_token_id=list(tokenizer.stop_ids),
                pad_token_id=0,
            )
        )
    return tokenizer.decode(out[0, len(ids) :].tolist()).strip()


def prompt_ids(messages: Sequence[Message], *, stage: str, tokenizer: Chat) -> list[int]:
    """A conversation through the chat format, or (pt) the last message as the beginning of a text."""
    if stage == "pt":
        return [*tokenizer.start, *tokenizer.encode(messages[-1].content)]
    return tokenizer.prompt(messages, close_turns=True).ids


def sample(
    trainee: Trainee,
    *,
    prompts: Sequence[Sequence[Message]],
    stage: str,
    tokenizer: Chat,
    most: int,
) -> list[tuple[str, str]]:
    """(last message, what the model says) for each conversation."""
    out = []
    for messages in prompts:
        ids = prompt_ids(messages, stage=stage, tokenizer=tokenizer)
        out.append((messages[-1].content, answer(trainee, ids=ids, tokenizer=tokenizer, most=most)))
    return out


def scored(
    trainee: Trainee,
    *,
    examples: Sequence[Example],
    tokenizer: Chat,
    limits: Limits,
    layout: Layout,
    count: int = 3,
) -> list[tuple[str, str]]:
    """(question, both answers with their scores) for the first pairs."""
    from finetune.encode_judged import encode_preference
    from finetune.quiet import quiet, quiet_batches
    from finetune.reward import last_scores

    out: list[tuple[str, str]] = []
    with quiet(trainee):
        for example in examples:
            if len(out) == count or not isinstance(example, Preference):
                break
            pair = encode_preference(example, tokenizer=tokenizer, limits=limits, report=EncodeReport())
            for batch in quiet_batches(pair, layout=layout) if pair else ():
                moved = batch.to(trainee.device)
                up, down = trainee.within(lambda b=moved: last_scores(trainee, b)).tolist()  # type: ignore[misc]
                said = f"{up:+.3f} {example.chosen} | {down:+.3f} {example.rejected}"
                out.append((example.question, said))
    return out


def predict(
    trainee: Trainee,
    *,
    examples: Sequence[Example],
    tokenizer: Chat,
    most: int,
    path: Path | None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Answer the last question of every conversation, write predictions line by line, return the measures of rag.evaluate.

    `path` None: another process writes them.
    The reference of a preference is its chosen answer; an answer with a thumb down is none.
    """
    texts: list[str] = []
    references: list[list[str]] = []
    with nullcontext() if path is None else path.open("w", encoding="utf-8") as file:
        for example in examples:
            whole = _with_reference(example)
            if whole is None:
                continue
            ids = tokenizer.prompt(messages_of(whole)[:-1], close_turns=True).ids
            text = answer(trainee, ids=ids, tokenizer=tokenizer, most=most)
            texts.append(text)
            references.append([whole.answer])
            row = {"question": whole.question, "reference": whole.answer, "prediction": text}
            if file is not None:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
            if progress is not None:
                progress(len(texts), len(examples))
    scores = score_texts(texts, references)
    names = ("exact", "f1", "contained", "bleu4", "rouge1", "rouge2", "rouge_l")
    return {name: float(getattr(scores, name)) for name in names} | {"predicted": float(scores.count)}


def _with_reference(example: Example) -> Conversation | None:
    """An example as a conversation that ends with the answer to be compared with; None if it has none."""
    if isinstance(example, Conversation):
        return example
    if isinstance(example, PlainText) or (isinstance(example, Feedback) and not example.good):
        return None
    answer = example.chosen if isinstance(example, Preference) else example.answer
    turns = (*example.turns, Turn("assistant", answer))
    return Conversation(turns, example.system, example.tools, example.source)
