"""`zhiwen persona list | show | set | rm`: kept role descriptions."""

from __future__ import annotations

import argparse
import json
import sys

from kb.errors import SettingsError
from ui import arguments
from ui.text import pick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action, the name and the description."""
    parser.add_argument("action", choices=("list", "show", "set", "rm"))
    parser.add_argument("name", nargs="?", default="", help=pick("角色名", "name of the role"))
    parser.add_argument(
        "--system",
        default="",
        metavar="TEXT",
        help=pick("set：角色描述，- 表示从标准输入读", "set: the description; - reads stdin"),
    )
    parser.add_argument(
        "--title", default="", metavar="TEXT", help=pick("set：一行说明", "set: one line about it")
    )
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(
        parser,
        "zhiwen persona list",
        "zhiwen persona set 店长 --title 说话爽快 --system 你是门店店长，说话爽快，只依据已知信息回答。",
        "zhiwen persona show 店长",
    )


def run(args: argparse.Namespace) -> int:
    """0 done."""
    from rag.persona import BUILT_IN, Persona, find_persona, personas, remove_persona, save_persona
    from ui import wiring
    from ui.show import as_json
    from ui.table import table

    folder = wiring.personas_folder(arguments.settings_of(args))
    if args.action != "list" and not args.name:
        raise SettingsError(
            f"zhiwen persona {args.action} needs a NAME", zh=f"zhiwen persona {args.action} 需要角色名"
        )
    if args.action == "list":
        every = personas(folder)
        if args.json:
            print(json.dumps(as_json(every), ensure_ascii=False, indent=2))
            return 0
        built_in = set(BUILT_IN)
        rows = [
            [p.name, pick("内置", "built in") if p in built_in else pick("自己的", "own"), p.title]
            for p in every
        ]
        print(table([pick("角色", "name"), pick("来源", "from"), pick("说明", "about")], rows))
    elif args.action == "show":
        persona = find_persona(args.name, folder=folder)
        print(json.dumps(as_json(persona), ensure_ascii=False, indent=2) if args.json else persona.system)
    elif args.action == "set":
        system = sys.stdin.read() if args.system == "-" else args.system
        if not system.strip():
            raise SettingsError(
                "zhiwen persona set needs --system TEXT", zh="zhiwen persona set 需要 --system 描述"
            )
        path = save_persona(Persona(args.name, system.strip(), args.title), folder=folder)
        arguments.said(args, pick(f"已写入 {path}", f"written to {path}"), name=args.name, file=path)
    else:
        remove_persona(args.name, folder=folder)
        arguments.said(args, pick(f"已删除角色 {args.name}", f"removed {args.name}"), removed=args.name)
    return 0
