"""`zhiwen prompt show`: a conversation as the model reads it, token by token, with what training learns."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kb.errors import ModelError, SettingsError
from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from rag.types import Chat, EncodedChat, Message, Segment

LOSS, SPECIAL, PLAIN, END = "\x1b[32m", "\x1b[35m", "\x1b[36m", "\x1b[0m"
_AT_MOST = 4_000_000
"""Bytes of a conversation file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """show, and what to show."""
    parser.add_argument("action", choices=("show",))
    parser.add_argument(
        "question",
        help=pick(
            '用户的话；@文件：JSON 消息列表 [{"role": …, "content": …}]',
            'what the user says; @FILE: a JSON list [{"role": ..., "content": ...}]',
        ),
    )
    parser.add_argument("--system", default="", help=pick("系统提示", "system prompt"))
    parser.add_argument(
        "--answer", default="", help=pick("回答：按训练样本显示", "an answer: shown as a training example")
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help=pick("模型文件夹", "a model folder"))
    arguments.add_template(parser)
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(
        parser,
        "zhiwen prompt show 年假有几天？",
        "zhiwen prompt show 年假有几天？ --answer 五天。",
        "zhiwen prompt show @talk.json --json",
        "zhiwen prompt show 年假有几天？ --answer 五天。 --template alpaca",
    )


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from rag.templates import open_chat

    tokenizer = open_chat(model_folder(args), template=args.template or template_of(args))
    messages = conversation(args)
    train = messages[-1].role == "assistant"
    chat = tokenizer.example(messages) if train else tokenizer.prompt(messages)
    if args.json:
        print(json.dumps(as_json(chat, tokenizer), ensure_ascii=False, indent=2))
    else:
        color = args.color == "always" or (args.color == "auto" and sys.stdout.isatty())
        print(shown(chat, tokenizer, color=color))
    return 0


def model_folder(args: argparse.Namespace) -> Path:
    """--model, or the one of the settings."""
    if args.model is not None:
        return Path(args.model)
    settings = arguments.settings_of(args)
    if not settings.generator.here or not settings.generator.model:
        raise ModelError(
            "No model of this machine is set. Give --model DIR, or: zhiwen settings set generator.model DIR",
            zh="还没有设置本机的模型。请给出 --model 文件夹，或运行：zhiwen settings set generator.model 文件夹",
        )
    given = Path(settings.generator.model).expanduser()
    return given if given.is_dir() else settings.models / settings.generator.model


def template_of(args: argparse.Namespace) -> str:
    """The template of the settings, if the model is theirs too."""
    return "" if args.model is not None else arguments.settings_of(args).generator.template


def conversation(args: argparse.Namespace) -> list[Message]:
    """The messages that the flags give."""
    from rag.types import Message

    if args.question.startswith("@"):
        return read_messages(Path(args.question[1:]))
    messages = [Message("system", args.system)] if args.system else []
    messages.append(Message("user", args.question))
    return [*messages, Message("assistant", args.answer)] if args.answer else messages


def read_messages(path: Path) -> list[Message]:
    """A JSON list of messages. Raises SettingsError."""
    from rag.types import Message

    try:
        if path.stat().st_size > _AT_MOST:
            raise ValueError(f"over {_AT_MOST} bytes")
        entries: Any = json.loads(path.read_text(encoding="utf-8"))
        messages = [
            Message(str(e["role"]), str(e["content"]), str(e.get("metadata", "")))  # type: ignore[arg-type]
            for e in entries
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{path} is no list of messages: {error}", zh=f"{path} 不是消息列表：{error}"
        ) from error
    if not messages:
        raise SettingsError(f"{path} holds no messages.", zh=f"{path} 里没有消息。")
    return messages


def as_json(chat: EncodedChat, tokenizer: Chat) -> dict[str, Any]:
    """Ids, mask and segments."""
    return {
        "ids": chat.ids,
        "loss_mask": [int(loss) for loss in chat.mask],
        "tokens": [tokenizer.piece(token) for token in chat.ids],
        "segments": [
            {"kind": s.kind, "role": s.role, "text": s.text, "ids": list(s.ids), "loss": s.loss}
            for s in chat.segments
        ],
    }


def shown(chat: EncodedChat, tokenizer: Chat, *, color: bool) -> str:
    """A line for each segment: `+` and green where training learns, every token with its id."""
    lines = [line(segment, tokenizer, color=color) for segment in chat.segments if segment.ids]
    learnt = sum(chat.mask)
    lines.append(
        pick(
            f"共 {len(chat.ids)} 个词元，其中 {learnt} 个计入训练损失（+，绿色）",
            f"{len(chat.ids)} tokens, {learnt} of them in the training loss (+, green)",
        )
    )
    return "\n".join(lines)


def line(segment: Segment, tokenizer: Chat, *, color: bool) -> str:
    """One segment."""
    special = segment.kind in ("start", "role", "end")
    on = (LOSS if segment.loss else SPECIAL if special else PLAIN) if color else ""
    tokens = " ".join(f"{printable(tokenizer.piece(token))}/{token}" for token in segment.ids)
    name = f"{segment.role or '-'}:{segment.kind}"
    return f"{'+' if segment.loss else ' '} {name:22} {on}{tokens}{END if on else ''}"


def printable(piece: str) -> str:
    """A token without anything that moves a cursor."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in piece)
