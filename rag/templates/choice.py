"""Which template answers: the one that was asked for, else the one that the adapters were trained with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from kb.errors import ModelError
from rag.chatglm3.adapters import TRAIN_FILE, AdapterInfo
from rag.chatglm3.shape import read_json
from rag.types import Chat


def choose_template(wanted: str, *, adapters: Mapping[str, Path]) -> str:
    """A name for `open_chat`. Raises ModelError if two adapters were trained with different templates."""
    if wanted not in ("", "auto"):
        return wanted
    found = {name: _of(folder) for name, folder in adapters.items()}
    named = {name: template for name, template in found.items() if template}
    kinds = set(named.values())
    if len(kinds) > 1:
        english = ", ".join(f"{name}: {template}" for name, template in named.items())
        raise ModelError(
            f"These adapters were trained with different chat templates ({english}). Use one of them at a time.",
            zh=f"这些适配器训练时用的对话模板不同（{english}）。请一次只用其中一个。",
        )
    return next(iter(kinds), "")


def _of(folder: Path) -> str:
    path = folder / TRAIN_FILE
    return str(read_json(path).get("template", "")) if path.is_file() else ""


def check_templates(chat: Chat, adapters: Iterable[AdapterInfo]) -> None:
    """Raise ModelError if an adapter was trained with another template than the one that would answer."""
    for info in adapters:
        if not info.template or info.template == chat.template:
            continue
        own = info.template.startswith("own:")
        name = "auto" if own else info.template
        if own and chat.template.startswith("own:"):
            raise ModelError(
                f"The adapter {info.name!r} was trained with another version of the model's own chat template "
                f"({info.template}, here {chat.template}). Put chat_template.jinja back as it was, or train again.",
                zh=f"适配器 {info.name!r} 训练时，模型自带的对话模板是另一个版本（{info.template}，现在是 {chat.template}）。"
                "请恢复原来的 chat_template.jinja，或重新训练。",
            )
        raise ModelError(
            f"The adapter {info.name!r} was trained with the chat template {name!r}; with {chat.template!r} it would read "
            f"prompts that it never learned. Use --template {name}, or: zhiwen settings set generator.template {name}",
            zh=f"适配器 {info.name!r} 是用对话模板 {name!r} 训练的；用 {chat.template!r} 时它读到的是没学过的格式。"
            f"请用 --template {name}，或运行：zhiwen settings set generator.template {name}",
        )
