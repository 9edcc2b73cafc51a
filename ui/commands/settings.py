"""`zhiwen settings`: show what is set and where from, change one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ui import arguments
from ui.settings import FILE_NAME, Settings, allowed_values, home_folder, known_keys, read_file
from ui.table import table
from ui.text import language, pick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """show | set KEY VALUE | unset KEY | path."""
    arguments.add_home(parser)
    arguments.add_json(parser)
    parser.add_argument("action", nargs="?", choices=("show", "set", "unset", "path"), default="show")
    parser.add_argument(
        "key", nargs="?", default="", help=pick("例如 generator.kind", "such as generator.kind")
    )
    parser.add_argument("value", nargs="?", default=None)
    arguments.example(
        parser,
        "zhiwen settings",
        "zhiwen settings set embedder.model shibing624/text2vec-base-chinese",
        "zhiwen settings unset generator.kind",
    )


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from ui.settings_file import write_setting

    if args.action in ("set", "unset"):
        if not args.key or (args.action == "set") == (args.value is None):
            usage = pick(
                "用法：zhiwen settings set 键 值 | unset 键",
                "usage: zhiwen settings set KEY VALUE | unset KEY",
            )
            print(usage, file=sys.stderr)
            return 2
        value = args.value and whole_path(args)
        path = write_setting(args.home or home_folder(), args.key, value)
        more = f"\n{args.key} = {value}" if value != args.value else ""
        arguments.said(
            args, pick(f"已写入 {path}", f"written to {path}") + more, file=path, key=args.key, value=value
        )
        return 0
    settings = arguments.settings_of(args)
    if args.action == "path":
        print(settings.file)
    elif args.json:
        print(
            json.dumps({key: value_of(settings, key) for key in known_keys()}, ensure_ascii=False, indent=2)
        )
    else:
        print(shown(settings))
    return 0


FOLDERS = ("models_folder", "embedder.model", "generator.model", "generator.adapter", "search.reranker")
"""Keys that may be a folder."""


def whole_path(args: argparse.Namespace) -> str:
    """The value; a folder seen from here is written from the root: the next command may be run anywhere."""
    value, given = str(args.value), Path(args.value)
    if args.key not in FOLDERS or not value or given.is_absolute() or not given.is_dir():
        return value
    if args.key == "generator.model" and served(args.home or home_folder()):
        return value  # what a server calls its model
    return str(given.resolve())


def served(home: Path) -> bool:
    """Whether the file speaks of a server; it need not be usable as a whole yet."""
    found = read_file(home / FILE_NAME)
    return found.get("generator.kind") == "openai" or bool(found.get("generator.base_url"))


def value_of(settings: Settings, key: str) -> object:
    """The value of a dotted key."""
    section, _, name = key.rpartition(".")
    return getattr(getattr(settings, section) if section else settings, name)


def shown(settings: Settings) -> str:
    """A table of all settings."""
    rows = [
        [
            key,
            str(value_of(settings, key)) or '""',
            settings.sources.get(key, pick("默认", "default")),
            f"{pick(one.metadata['zh'], one.metadata['en'])}（{allowed_values(key, zh=language() == 'zh')}）",
        ]
        for key, one in known_keys().items()
    ]
    header = [pick("键", "key"), pick("值", "value"), pick("来自", "from"), pick("说明", "meaning")]
    return f"{settings.file}\n\n" + table(header, rows)
