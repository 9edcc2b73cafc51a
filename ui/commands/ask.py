"""`zhiwen ask`: one question, an answer with citations or a refusal with the nearest passages."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from rag.types import Answer
    from ui.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The question, where to look and who answers."""
    parser.add_argument("question", nargs="+", help=pick("问题", "the question"))
    arguments.add_kb(parser)
    add_answering(parser)
    parser.add_argument(
        "--trace",
        action="store_true",
        help=pick("--json 时附上检索与提示词的全过程", "with --json: how the answer came about"),
    )
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(
        parser, "zhiwen ask 年假有几天？", 'zhiwen ask --kb handbook --kb prices --json "How much is CF-31?"'
    )


def add_answering(parser: argparse.ArgumentParser) -> None:
    """Flags that `ask` and `chat` share."""
    parser.add_argument(
        "--extractive",
        action="store_true",
        help=pick("不用语言模型，只摘录原文", "no language model: quote the sources"),
    )
    parser.add_argument(
        "--limit",
        type=arguments.positive,
        default=None,
        help=pick("最多看几段", "passages to read at the most"),
    )
    parser.add_argument(
        "--max-tokens",
        type=arguments.positive,
        default=None,
        help=pick("回答最长 token 数", "longest answer"),
    )
    parser.add_argument("--temperature", type=float, default=None, help=pick("温度，0 为贪心", "0 is greedy"))
    parser.add_argument("--adapter", default=None, metavar="DIR", help=pick("适配器文件夹", "adapter folder"))
    arguments.add_template(parser)
    parser.add_argument(
        "--system", default="", metavar="TEXT", help=pick("给模型的额外指示", "an instruction for the model")
    )
    parser.add_argument(
        "--persona", default="", metavar="NAME", help=pick("角色，见 zhiwen persona list", "a kept role")
    )


def answering_settings(args: argparse.Namespace) -> Settings:
    """The settings with the flags of `add_answering` on top, checked as they are."""
    from ui.settings import checked

    settings = arguments.settings_of(args)
    generator, search = {}, {}
    for key in ("max_tokens", "temperature", "adapter"):
        if getattr(args, key) is not None:
            flag = "--" + key.replace("_", "-")
            generator[key] = checked(f"generator.{key}", getattr(args, key), where=flag)
    if args.template is not None:
        generator["template"] = args.template
    if args.limit is not None:
        search["limit"] = checked("search.limit", args.limit, where="--limit")
    if args.extractive:
        generator["kind"] = "none"
    chosen = dataclasses.replace(
        settings,
        generator=dataclasses.replace(settings.generator, **generator),  # type: ignore[arg-type]
        search=dataclasses.replace(settings.search, **search),  # type: ignore[arg-type]
    )
    return chosen if args.extractive or not args.adapter else with_its_model(chosen)


def with_its_model(settings: Settings) -> Settings:
    """What an adapter that was asked for speaks through: the model that is set, else its own base. Never silently none."""
    from kb.errors import SettingsError
    from ui.speakers import BASE, with_their_base

    name = settings.generator.adapter
    if settings.generator.here or name == BASE:
        return settings
    if settings.generator.kind == "openai":
        raise SettingsError(
            f"--adapter {name}: the server of generator.base_url answers, and it takes no adapters of this machine. "
            "Use what it serves (generator.model), or: zhiwen settings set generator.kind chatglm3",
            zh=f"--adapter {name}：现在由 generator.base_url 的服务回答，它不用本机的适配器。请改 generator.model 为服务里的模型名，"
            "或运行：zhiwen settings set generator.kind chatglm3",
        )
    found = with_their_base(settings, [name])
    if found.generator.kind == "none":
        raise SettingsError(
            f"--adapter {name}: no language model is set, and the model that it was trained on is not here. "
            "Run: zhiwen settings set generator.model FOLDER, then zhiwen settings set generator.kind chatglm3",
            zh=f"--adapter {name}：没有设置语言模型，本机也没有训练它的基座。"
            "请运行：zhiwen settings set generator.model 文件夹，再 zhiwen settings set generator.kind chatglm3",
        )
    return found


def run(args: argparse.Namespace) -> int:
    """0 for an answer and for a refusal: both are results."""
    from ui import wiring
    from ui.live import follow, loading, say_note
    from ui.show import answer_json

    settings = answering_settings(args)
    kbs = wiring.open_kbs(settings, arguments.kb_names(args))
    options = wiring.answer_options(settings, persona=args.persona, system=args.system)
    with loading(settings, quiet=args.json):
        generator = wiring.open_generator(settings)
    say_note(generator)
    events = wiring.reply(settings, " ".join(args.question), kbs=kbs, generator=generator, options=options)
    answer = follow(events, quiet=args.json)
    if args.json:
        print(json.dumps(answer_json(answer, trace=args.trace), ensure_ascii=False, indent=2))
    else:
        tell(answer)
    return 0


def tell(answer: Answer) -> None:
    """Print an answer with its sources."""
    from ui.show import answer_note, sources_text

    print(answer.text)
    if note := answer_note(answer):
        print(note)
    if answer.trace.finish == "length":
        print(
            pick(
                "（回答到了长度上限，被截断；可加大 --max-tokens）",
                "(cut off at the longest length; raise --max-tokens)",
            )
        )
    elif answer.trace.finish == "loop":
        print(pick("（模型开始重复，已停止）", "(the model began to repeat itself and was stopped)"))
    if sources := sources_text(answer):
        print("\n" + sources)
    sys.stdout.flush()
