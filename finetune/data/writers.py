"""Examples -> rows of each format. A writer drops what its format cannot hold; `convert` finds out what."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from finetune.data.layout import Tags
from finetune.data.rows import Row
from finetune.data.types import Conversation, Feedback, Preference, Turn


def last(example: Conversation) -> tuple[str, str]:
    return example.question, example.answer


def rounds(turns: tuple[Turn, ...]) -> list[list[str]]:
    """Earlier rounds as [question, answer] pairs; an observation stands as a question."""
    before = turns[:-2] if turns and turns[-1].role == "assistant" else turns[:-1]
    return [[q.content, a.content] for q, a in zip(before[::2], before[1::2], strict=False)]


def write_alpaca(example: Conversation) -> Row:
    question, answer = last(example)
    row: dict[str, Any] = {"instruction": question, "input": "", "output": answer}
    row |= {"system": example.system} if example.system else {}
    row |= {"history": history} if (history := rounds(example.turns)) else {}
    return row


def messages(turns: tuple[Turn, ...], system: str, tags: Tags) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = (
        [{tags.role_tag: tags.system_tag, tags.content_tag: system}] if system else []
    )
    for turn in turns:
        role, content = (tags.user_tag, turn.content)
        if turn.role == "observation":
            role = tags.observation_tag
        elif turn.role == "assistant":
            role = tags.function_tag if turn.metadata else tags.assistant_tag
            if turn.metadata:
                content = json.dumps({"name": turn.metadata, "arguments": turn.content}, ensure_ascii=False)
        message: dict[str, Any] = {tags.role_tag: role, tags.content_tag: content}
        if turn.role == "assistant" and not turn.train:
            message["loss"] = False
        messages.append(message)
    return messages


def writer_of_messages(column: str, tags: Tags) -> Callable[[Any], Row]:
    def write(example: Conversation | Preference | Feedback) -> Row:
        row: dict[str, Any] = {column: messages(example.turns, example.system, tags)}
        if example.tools:
            row["tools"] = example.tools
        if isinstance(example, Preference):
            row["chosen"] = {tags.role_tag: tags.assistant_tag, tags.content_tag: example.chosen}
            row["rejected"] = {tags.role_tag: tags.assistant_tag, tags.content_tag: example.rejected}
        if isinstance(example, Feedback):
            row[column].append({tags.role_tag: tags.assistant_tag, tags.content_tag: example.answer})
            row["label"] = example.good
        return row

    return write


def write_pair(question: str, answer: str) -> Callable[[Any], Row]:
    def write(example: Conversation) -> Row:
        asked, answered = last(example)
        return {question: asked, answer: answered}

    return write


def write_prompt_response(example: Conversation) -> Row:
    question, answer = last(example)
    return {"prompt": question, "response": answer, "history": rounds(example.turns)}


def write_preference(example: Preference) -> Row:
    row: dict[str, Any] = {"instruction": example.question, "input": ""}
    row |= {"chosen": example.chosen, "rejected": example.rejected}
    row |= {"system": example.system} if example.system else {}
    row |= {"history": history} if (history := rounds(example.turns)) else {}
    return row


def write_paragraph(example: Conversation) -> Row:
    items = [{"role": "system", "q": example.system, "a": ""}] if example.system else []
    rounds = zip(example.turns[::2], example.turns[1::2], strict=False)
    items += [{"role": q.role, "q": q.content, "a": a.content} for q, a in rounds]
    return {"paragraph": items}


def write_department(example: Conversation) -> Row:
    title, _, ask = example.question.partition("\n")
    return {"department": "", "title": title, "ask": ask, "answer": example.answer}
