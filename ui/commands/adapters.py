"""`zhiwen adapters list | show | promote | rm`: where adapters come from, and which one answers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kb.errors import SettingsError
from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from finetune.adapters import AdapterRecord
    from ui.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action and the name."""
    parser.add_argument("action", choices=("list", "show", "promote", "rm"))
    parser.add_argument("name", nargs="?", default="", help=pick("适配器名或文件夹", "name or folder"))
    parser.add_argument(
        "--comparison",
        type=Path,
        default=None,
        metavar="JSON",
        help=pick("promote：所依据的对比 report.json", "promote: the report.json that it rests on"),
    )
    parser.add_argument(
        "--reason", default="", metavar="TEXT", help=pick("promote：理由", "promote: why, in words")
    )
    parser.add_argument(
        "--base",
        action="store_true",
        help=pick("promote：改由基座回答", "promote: let the base answer again"),
    )
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(
        parser,
        "zhiwen adapters list",
        "zhiwen adapters promote zhouyi --comparison reports/zhouyi/report.json",
        "zhiwen adapters promote --base",
    )


def run(args: argparse.Namespace) -> int:
    """0 done."""
    from finetune import adapters
    from ui.speakers import adapter_places, adapters_folder, find_adapter, let_answer

    settings = arguments.settings_of(args)
    state = adapters_folder(settings)
    if args.action == "list":
        return _list(adapters.find_adapters(adapter_places(settings), state=state), args)
    if args.action == "promote" and args.base:
        adapters.demote(state)
        arguments.said(args, pick("现在由基座回答。", "The base answers now."), adapter=None)
        return 0
    if not args.name:
        raise SettingsError(
            f"zhiwen adapters {args.action} needs a NAME", zh=f"zhiwen adapters {args.action} 需要适配器名"
        )
    record = find_adapter(settings, args.name)
    if args.action == "show":
        return _show(record, adapters.promoted(state) if record.promoted else {}, args)
    if args.action == "promote":
        path = adapters.promote(state, record, comparison=args.comparison, reason=args.reason)
        base = let_answer(settings, record)
        if args.json:
            print(path.read_text(encoding="utf-8"))
            return 0
        print(pick(f"现在由 {record.name} 回答（记在 {path}）。", f"{record.name} answers now ({path})."))
        _say_model(settings, record, base)
        if args.comparison is None:
            print(
                pick(
                    "没有给出对比。建议先：zhiwen compare，再用 --comparison 记下依据。",
                    "No comparison was given. Better: zhiwen compare first, then --comparison.",
                )
            )
        if settings.generator.adapter:
            print(
                pick(
                    f"注意：generator.adapter = {settings.generator.adapter} 优先。取消：zhiwen settings unset generator.adapter",
                    f"note: generator.adapter = {settings.generator.adapter} wins. Run: zhiwen settings unset generator.adapter",
                )
            )
        return 0
    adapters.remove(record)
    arguments.said(
        args,
        pick(f"已删除 {record.folder}", f"deleted {record.folder}"),
        removed=record.name,
        folder=record.folder,
    )
    return 0


def _say_model(settings: Settings, record: AdapterRecord, base: Path | None) -> None:
    """Which model the adapter will speak through, where that is news."""
    if base is not None:
        print(
            pick(
                f"之前没有设置语言模型：它的基座 {base} 已设为 generator.model。",
                f"No language model was set: its base {base} is generator.model now.",
            )
        )
    elif settings.generator.kind == "none":
        said = record.train.get("base_folder") or record.train.get("base_model") or "?"
        print(
            pick(
                f"注意：没有设置语言模型，本机也没有它的基座（{said}），回答仍是原文摘录。请运行：zhiwen settings set generator.model "
                "文件夹，再 zhiwen settings set generator.kind chatglm3",
                f"note: no language model is set and its base ({said}) is not here, so answers are extracts as before. Run: "
                "zhiwen settings set generator.model FOLDER, then zhiwen settings set generator.kind chatglm3",
            )
        )
    elif settings.generator.kind == "openai":
        print(
            pick(
                "注意：回答来自 generator.base_url 的服务，不用本机的适配器。改用本机模型：zhiwen settings set generator.kind chatglm3",
                "note: the server of generator.base_url answers, and not with adapters of this machine. "
                "For a model of this machine: zhiwen settings set generator.kind chatglm3",
            )
        )


def _facts(record: AdapterRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "folder": str(record.folder),
        "promoted": record.promoted,
        "reason": record.reason,
        "train": record.train,
    }


def _list(records: list[AdapterRecord], args: argparse.Namespace) -> int:
    from ui.table import table

    if args.json:
        print(json.dumps([_facts(r) for r in records], ensure_ascii=False, indent=2))
        return 0
    if not records:
        print(
            pick(
                "还没有适配器。训练一个：zhiwen finetune data/configs/tiny-cpu.toml",
                "There is no adapter yet. Train one: zhiwen finetune data/configs/tiny-cpu.toml",
            )
        )
        return 0
    rows = [
        [
            "*" if r.promoted else "",
            r.name,
            str(r.train.get("method", "?")),
            str(r.train.get("base_model", "?")),
            str(r.folder),
        ]
        for r in records
    ]
    head = [
        "",
        pick("适配器", "adapter"),
        pick("方法", "method"),
        pick("基座", "base"),
        pick("文件夹", "folder"),
    ]
    print(table(head, rows))
    print(pick("（* 正在回答）", "(*: answers now)"))
    return 0


def _show(record: AdapterRecord, promotion: dict[str, Any], args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps(_facts(record) | {"promotion": promotion}, ensure_ascii=False, indent=2))
        return 0
    print(f"{record.name}  {record.folder}")
    if not record.train:
        print(
            pick("没有 train.json：来历不明。", "There is no train.json: nobody wrote down where it is from.")
        )
    for key, value in record.train.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        print(f"  {key}: {text[:400]}")
    if promotion:
        print(pick(f"正在回答，自 {promotion.get('when')}", f"answers now, since {promotion.get('when')}"))
        print(f"  {promotion.get('reason') or pick('没有记下依据', 'no reason was given')}")
        for measure, by_name in dict(promotion.get("measures", {})).items():
            for who, numbers in by_name.items():
                low, high = numbers["gain_interval"]
                print(
                    f"  {who} {measure}: {numbers['mean']:.3f} ({numbers['gain']:+.3f} [{low:+.3f}, {high:+.3f}])"
                )
    return 0
