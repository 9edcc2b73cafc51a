"""Config files and flags without the command line of `ui`: what `torchrun -m finetune CONFIG.toml --lora-rank 8` reads."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from finetune.config import RunConfig, from_values, option_types
from kb.errors import SettingsError

PATHS = ("model_name_or_path", "dataset_dir", "adapter", "reward_model")
"""Relative to the config file that names them; flags are relative to the current folder."""


def read_toml(file: Path) -> dict[str, Any]:
    """Options of a config file, its tables opened, its relative paths made absolute. Raises SettingsError."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}", zh=f"{file} 无法读取：{error}") from error
    values: dict[str, Any] = {}
    for key, value in tables.items():
        for name, item in value.items() if isinstance(value, dict) else ((key, value),):
            plain = str(name).replace("-", "_")
            if plain in values:
                raise SettingsError(f"{file}: {plain} stands there twice.", zh=f"{file}：{plain} 写了两次。")
            values[plain] = item
    for name in PATHS:
        given = values.get(name)
        if isinstance(given, str) and given and given != "tiny":
            values[name] = str((file.parent / Path(given).expanduser()).resolve())
    values.setdefault("name", file.stem)
    return values


class _Parser(argparse.ArgumentParser):
    """Raises instead of leaving."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(
            f"{message}. See docs/finetune.md for the options.", zh=f"{message}。选项见 docs/finetune.md。"
        )


def add_options(parser: argparse.ArgumentParser, *, texts: dict[str, str]) -> None:
    """One flag for every option, its value at `option_<name>`; not given: None. `texts`: what each means."""
    for name, kind in option_types().items():
        flag = "--" + name.replace("_", "-")
        common: dict[str, Any] = {"dest": f"option_{name}", "default": None, "help": texts.get(name, "")}
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif get_origin(kind) is Literal:
            parser.add_argument(flag, choices=get_args(kind), **common)
        elif get_origin(kind) is tuple:
            parser.add_argument(flag, nargs="+", metavar="TEXT", **common)
        else:
            parser.add_argument(flag, type=kind, metavar="N" if kind in (int, float) else "TEXT", **common)


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given as flags."""
    values: dict[str, Any] = {}
    for name in option_types():
        given = getattr(args, f"option_{name}", None)
        if given is not None:
            values[name] = tuple(given) if isinstance(given, list) else given
    return values


def config_from(file: Path, flags: list[str]) -> RunConfig:
    """The file's values, then the flags. Raises SettingsError."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    add_options(parser, texts={})
    return from_values(read_toml(file) | given_options(parser.parse_args(flags)))
