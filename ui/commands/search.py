"""`zhiwen search`: the hits with the ranks and scores that put them there."""

from __future__ import annotations

import argparse
import dataclasses
import json

from ui import arguments
from ui.text import pick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The question and how to search."""
    parser.add_argument("question", nargs="+", help=pick("问题或关键词", "question or key words"))
    arguments.add_kb(parser)
    parser.add_argument(
        "--limit", type=arguments.positive, default=None, help=pick("最多几条", "hits at the most")
    )
    parser.add_argument(
        "--mode", choices=("hybrid", "dense", "lexical"), default=None, help=pick("检索方式", "how to search")
    )
    parser.add_argument(
        "--reranker", default=None, metavar="MODEL", help=pick("交叉编码器重排模型", "cross-encoder")
    )
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(parser, "zhiwen search 年休假 天数", "zhiwen search --mode lexical --json CF-31")


def run(args: argparse.Namespace) -> int:
    """0, also when nothing was found."""
    from ui import wiring
    from ui.show import as_json, search_text

    settings = arguments.settings_of(args)
    given = {
        key: getattr(args, key) for key in ("limit", "mode", "reranker") if getattr(args, key) is not None
    }
    settings = dataclasses.replace(settings, search=dataclasses.replace(settings.search, **given))
    kbs = wiring.open_kbs(settings, arguments.kb_names(args))
    result = wiring.find(settings, " ".join(args.question), kbs=kbs)
    if args.json:
        print(json.dumps(as_json(result) | {"answerable": result.answerable}, ensure_ascii=False, indent=2))
    else:
        print(search_text(result))
    return 0
