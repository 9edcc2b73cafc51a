"""Templates with a name: how the conversation is laid out for models that were trained with no template of their own.

alpaca    ### Instruction: / ### Response:          instruction models, Chinese-Alpaca
vicuna    USER: ... ASSISTANT: ...</s>              Vicuna and what came from it
default   Human: ... / Assistant: ...               base models
chatglm2  [Round 1] 问：... 答：...
chatglm3  <|user|> ... <|assistant|> ...            tokenizers that have these tokens (ChatGLM3, GLM-4)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kb.errors import ModelError
from rag.chatglm3.chat import unforged_rounds
from rag.templates.parts import Part, literal
from rag.templates.vocabulary import Vocabulary
from rag.types import Message

Name = str
_ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)


@dataclass(frozen=True, slots=True)
class Words:
    """A template whose roles are words: what stands before and after each kind of message."""

    name: Name
    default: str
    """System message where the conversation has none."""
    before: dict[str, str]
    """Role -> text before its content; the assistant's is what a prompt ends with."""
    after: dict[str, str]
    lead: str = ""
    """What the assistant's own text begins with."""


WORDS = {
    "alpaca": Words(
        "alpaca",
        _ALPACA,
        {
            "system": "",
            "user": "### Instruction:\n",
            "assistant": "### Response:\n",
            "observation": "### Observation:\n",
        },
        {"system": "\n\n", "user": "\n\n", "assistant": "\n\n", "observation": "\n\n"},
    ),
    "vicuna": Words(
        "vicuna",
        _VICUNA,
        {"system": "", "user": "USER: ", "assistant": "ASSISTANT:", "observation": "OBSERVATION: "},
        {"system": " ", "user": " ", "assistant": "", "observation": " "},
        lead=" ",
    ),
    "default": Words(
        "default",
        "",
        {
            "system": "System: ",
            "user": "Human: ",
            "assistant": "Assistant:",
            "observation": "Observation: ",
        },
        {"system": "\n", "user": "\n", "assistant": "\n", "observation": "\n"},
    ),
}


def content_of(message: Message) -> str:
    """A message's text with its metadata line in front, for templates that know of none."""
    return f"{message.metadata}\n{message.content}" if message.metadata else message.content


def unforged(text: str, name: Name) -> str:
    """Data in which no mark of the named template stands any more."""
    from rag.templates.marks import harmless

    if name == "chatglm2":
        return unforged_rounds(text)
    if name in WORDS:
        return harmless(text, {mark.strip() for mark in WORDS[name].before.values() if mark.strip()})
    return text


def words_parts(
    messages: Sequence[Message], words: Words, *, vocabulary: Vocabulary, generate: bool
) -> list[Part]:
    """alpaca, vicuna and default as parts. Every assistant turn ends with eos."""
    out: list[Part] = []
    if words.default and (not messages or messages[0].role != "system"):
        messages = [Message("system", words.default), *messages]
        out.append(Part("role", "system", -1, words.default + words.after["system"]))
        messages = messages[1:]
    for turn, message in enumerate(messages):
        role, mine = message.role, message.role == "assistant"
        text = unforged(content_of(message), words.name)
        out.append(Part("role", role, turn, words.before[role]))
        if role == "assistant":
            out.append(Part("header", role, turn, words.lead, own=mine))
        out.append(Part("content", role, turn, text, own=mine))
        if role == "assistant":
            out.append(_end(turn, vocabulary))
        out.append(Part("end", role, turn, words.after[role]))
    if generate:
        out.append(Part("role", "assistant", len(messages), words.before["assistant"]))
    return [part for part in out if part.text]


def rounds_parts(messages: Sequence[Message], *, vocabulary: Vocabulary, generate: bool) -> list[Part]:
    """ChatGLM2's rounds for any tokenizer. A system message stands before the first question, in the same round."""
    out: list[Part] = []
    number, before = 0, ""
    for turn, message in enumerate(messages):
        text = unforged(content_of(message), "chatglm2")
        if message.role == "assistant":
            out.append(Part("content", "assistant", turn, text, own=True))
            out.append(_end(turn, vocabulary))
        elif message.role == "system":
            before += text + "\n\n"
        else:
            number += 1
            gap = "\n\n" if number > 1 else ""
            out.append(Part("role", message.role, turn, f"{gap}[Round {number}]\n\n问：{before}"))
            out.append(Part("content", message.role, turn, text))
            out.append(Part("end", message.role, turn, "\n\n答："))
            before = ""
    return [part for part in out if part.text]


def tokens_parts(messages: Sequence[Message], *, vocabulary: Vocabulary, generate: bool) -> list[Part]:
    """ChatGLM3's roles for any tokenizer that has them as tokens. Raises ModelError where one is missing."""
    missing = [r for r in ("user", "assistant") if vocabulary.id_of(f"<|{r}|>") is None]
    if missing:
        raise ModelError(
            f"{vocabulary.folder}: the tokenizer has no <|{missing[0]}|>, which --template chatglm3 needs. "
            "Use --template auto (the model's own), alpaca, vicuna or default.",
            zh=f"{vocabulary.folder}：分词器里没有 --template chatglm3 需要的 <|{missing[0]}|>。"
            "请用 --template auto（模型自带）、alpaca、vicuna 或 default。",
        )
    out: list[Part] = []
    for turn, message in enumerate(messages):
        role, mine = message.role, message.role == "assistant"
        out += literal(f"<|{role}|>", Part("role", role, turn, ""), vocabulary=vocabulary)
        out.append(Part("header", role, turn, message.metadata + "\n", own=mine))
        out.append(Part("content", role, turn, message.content, own=mine))
        if role == "assistant":
            out.append(_end(turn, vocabulary))
    if generate:
        out += literal("<|assistant|>", Part("role", "assistant", len(messages), ""), vocabulary=vocabulary)
    return [part for part in out if part.text]


def _end(turn: int, vocabulary: Vocabulary) -> Part:
    eos = vocabulary.ends[0]
    return Part("end", "assistant", turn, vocabulary.piece(eos), eos, True)
