"""Flags that several commands share, so that they are called the same everywhere."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kb.errors import SettingsError
from ui.settings import Settings, load_settings
from ui.text import pick


def add_home(parser: argparse.ArgumentParser) -> None:
    """--home."""
    parser.add_argument(
        "--home",
        type=Path,
        default=None,
        metavar="DIR",
        help=pick(
            "状态文件夹，默认 ZHIWEN_HOME 或 ~/.zhiwen", "state folder, default ZHIWEN_HOME or ~/.zhiwen"
        ),
    )


def add_kb(parser: argparse.ArgumentParser, *, about: str = "") -> None:
    """--kb, several times or with commas. `about`: what it means where it means something else."""
    parser.add_argument(
        "--kb",
        action="append",
        default=[],
        metavar="NAME",
        help=about
        or pick(
            "知识库，可多次给出；不写则用全部",
            "knowledge base, may be given several times; default: all of them",
        ),
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument(
        "--json", action="store_true", help=pick("输出 JSON，供程序读取", "print JSON for programs to read")
    )


def said(args: argparse.Namespace, text: str, **facts: object) -> None:
    """What was done: for people the sentence, with --json the facts."""
    print(json.dumps(facts, ensure_ascii=False, indent=2, default=str) if args.json else text)


def example(parser: argparse.ArgumentParser, *lines: str) -> None:
    """End the help with examples."""
    parser.epilog = pick("例：", "examples:") + "".join(f"\n  {line}" for line in lines)


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings for the home that the flags name."""
    return load_settings(args.home)


def kb_names(args: argparse.Namespace) -> list[str]:
    """The knowledge bases named by --kb, each once, in order."""
    names = [name.strip() for given in args.kb for name in given.split(",")]
    if args.kb and not all(names):
        raise SettingsError("--kb has an empty name", zh="--kb 里有空的名字")
    return list(dict.fromkeys(names))


def comma_names(text: str) -> list[str]:
    """ "a, b" as two names, each once, in order."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def add_template(parser: argparse.ArgumentParser) -> None:
    """--template, for a base model with another layout of conversations."""
    from rag.templates.names import NAMES

    parser.add_argument(
        "--template",
        choices=("auto", *NAMES),
        default=None,
        help=pick("对话模板；auto：模型自带的", "how a conversation is laid out; auto: the model's own"),
    )
