"""How a conversation becomes token ids, for every base model: one `rag.types.Chat` for training and for answering.

vocabulary.py   the tokenizer of any folder, with special tokens off in what people write
named.py        --template chatglm3 | chatglm2 | alpaca | vicuna | default
jinja.py        the chat template that a model brings along, taken apart exactly (sandbox.py runs it)
parts.py        the rendered parts -> ids and loss mask
marks.py        role marks that are words, made harmless in data
chat.py         TemplateChat

chat = open_chat(Path("models/qwen3-8b"))
chat.example([Message("user", "你好"), Message("assistant", "您好！")]).labels
"""

from __future__ import annotations

from pathlib import Path

from rag.chatglm3.shape import read_json
from rag.types import Chat

FAMILIES = ("chatglm2", "chatglm3")


def is_chatglm(folder: Path) -> bool:
    """Whether it is a converted ChatGLM2 or ChatGLM3: a GLM with ChatGLM's own tokenizer. Raises ModelError."""
    config = read_json(folder / "config.json")
    return config.get("model_type") == "glm" and "zhiwen_family" in config


def open_chat(folder: Path, *, template: str = "") -> Chat:
    """The encoder of a model folder. `template`: a name; empty or "auto" is the model's own. Raises ModelError."""
    from rag.chatglm3.chat import ChatTokenizer, open_tokenizer
    from rag.templates.chat import TemplateChat, check_name

    template = "" if template == "auto" else template.split(":")[0].replace("own", "")
    check_name(template)
    if is_chatglm(folder):
        if not template:
            return open_tokenizer(folder)
        if template in FAMILIES:
            return ChatTokenizer(folder, family=template)  # type: ignore[arg-type]
    return TemplateChat(folder, template=template)
