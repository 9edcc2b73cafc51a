"""`zhiwen data list | check | convert | formats | show | corrupt | synthesize`: training data before it is trained on."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ui import arguments, data_made
from ui.cli import in_language
from ui.text import pick

if TYPE_CHECKING:
    from finetune.data.types import Example

EXAMPLE = "zhiwen data check zhouyi --folder data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Subcommands and their flags."""
    parser.epilog = pick(f"例：\n  {EXAMPLE}", f"example:\n  {EXAMPLE}")
    commands = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = commands.add_parser("list", help=pick("列出登记的数据集", "the sets of dataset_info.json"))
    checking = commands.add_parser("check", help=pick("检查数据的问题", "find what is wrong with the data"))
    converting = commands.add_parser("convert", help=pick("转换格式", "convert between formats"))
    formats = commands.add_parser("formats", help=pick("支持的格式", "formats that are known"))
    for sub in (listing, checking, converting):
        sub.add_argument(
            "--folder", type=Path, default=Path("data"), help=pick("数据文件夹", "folder of the data")
        )
    for sub in (checking, converting):
        sub.add_argument(
            "dataset", help=pick("名字或文件，多个用逗号隔开", "names or files, with commas between")
        )
        sub.add_argument(
            "--strict", action="store_true", help=pick("遇到坏行就停", "stop at the first bad line")
        )
        sub.add_argument(
            "--max-samples", type=int, default=0, help=pick("每个数据集最多取多少", "at most, of each set")
        )
    _add_check(checking)
    converting.add_argument(
        "--to", required=True, help=pick("目标格式，见 formats", "target format, see formats")
    )
    converting.add_argument("--out", type=Path, required=True, help=pick("写到哪个文件", "file to write"))
    made = {
        "show": (
            data_made.add_show,
            pick("以 token 显示样本，标出计入损失的", "examples as tokens, with the loss mask in colour"),
            "zhiwen data show zhouyi --model tiny --count 1",
        ),
        "corrupt": (
            data_made.add_corrupt,
            pick("按种子有控制地破坏", "controlled damage, with a seed"),
            "zhiwen data corrupt zhouyi --damage shuffle --share 0.5 --out bad.jsonl",
        ),
        "synthesize": (
            data_made.add_synthesize,
            pick("让语言模型出题，逐条核对", "questions and answers by a language model, each checked"),
            "zhiwen data synthesize --from-kb docs --out made.jsonl --hold-out 0.2",
        ),
    }
    for name, (add, about, example) in made.items():
        sub = commands.add_parser(name, help=about, description=about)
        add(sub)
        sub.add_argument("--json", action="store_true", help=pick("输出 JSON", "print JSON"))
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
        sub.epilog = pick(f"例：\n  {example}", f"example:\n  {example}")
    for sub in commands.choices.values():
        in_language(sub)
    for sub in (listing, checking, converting, formats):
        sub.add_argument("--json", action="store_true", help=pick("输出 JSON", "print JSON"))
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
        sub.epilog = pick(f"例：\n  {EXAMPLE}", f"example:\n  {EXAMPLE}")


def _add_check(checking: argparse.ArgumentParser) -> None:
    """What `check` looks at besides."""
    checking.add_argument("--eval", default="", help=pick("评测集：查重叠", "evaluation set, to find leaks"))
    data_made.add_model(checking)
    checking.add_argument(
        "--cutoff-len",
        type=arguments.positive,
        default=0,
        help=pick(
            "查超长：最多多少 token（需要 --model）", "find those of more tokens than this (with --model)"
        ),
    )
    arguments.add_template(checking)
    arguments.add_home(checking)
    checking.add_argument(
        "--limit", type=int, default=20, help=pick("每类最多显示几条", "findings shown of each kind")
    )


def run(args: argparse.Namespace) -> int:
    """The exit code: `check` gives 1 if it found something."""
    actions = {
        "list": _list,
        "check": _check,
        "convert": _convert,
        "formats": _formats,
        "show": data_made.show,
        "corrupt": data_made.corrupt,
        "synthesize": data_made.synthesize,
    }
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from finetune.data.registry import read_registry

    entries = read_registry(args.folder)
    if args.json:
        print(json.dumps(entries, ensure_ascii=False, indent=2))
        return 0
    for name, entry in entries.items():
        where = (
            entry.get("file_name")
            or entry.get("hf_hub_url")
            or entry.get("ms_hub_url")
            or entry.get("script_url")
        )
        print(f"{name:32} {entry.get('format') or entry.get('formatting') or 'alpaca':22} {where}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from finetune.data.check import EXPLAIN, check
    from finetune.data.load import load_sets
    from finetune.encode_judged import length_of

    loaded = load_sets(args.dataset, folder=args.folder, limit=args.max_samples, strict=args.strict)
    held = load_sets(args.eval, folder=args.folder).examples if args.eval else ()
    with tempfile.TemporaryDirectory() as scratch:
        count: Callable[[Example], int] | None = None
        if args.cutoff_len or args.model:
            tokenizer = data_made.tokenizer_of(args, Path(scratch), loaded.examples)
            count = partial(length_of, tokenizer=tokenizer)
        report = check(
            loaded.examples,
            bad=loaded.bad,
            evaluation=held,
            max_tokens=args.cutoff_len or 1024,
            count_tokens=count,
        )
    if args.json:
        findings = [
            {"kind": f.kind, "file": str(f.source.file), "line": f.source.line, "detail": f.detail}
            for f in report.findings
        ]
        print(
            json.dumps(
                {"examples": report.examples, "counts": report.counts, "findings": findings},
                ensure_ascii=False,
            )
        )
        return int(not report.clean)
    shown: Counter[str] = Counter()
    for finding in report.findings:
        shown[finding.kind] += 1
        if shown[finding.kind] <= args.limit:
            print(f"{finding.source}: {pick(*EXPLAIN[finding.kind])}: {pick(finding.zh, finding.detail)}")
    for kind, number in report.counts.items():
        if number > args.limit:
            left = number - args.limit
            print(pick(f"……另有 {left} 处：{EXPLAIN[kind][0]}", f"... and {left} more: {EXPLAIN[kind][1]}"))  # type: ignore[index]
    counted = "，".join(f"{pick(*EXPLAIN[k])} {n}" for k, n in report.counts.items())  # type: ignore[index]
    formats = ", ".join(f"{f} ({k})" for f, k in loaded.formats.items())
    summary = counted or pick("没有发现问题", "nothing found")
    print(
        pick(
            f"{report.examples} 个样本，{formats}：{summary}",
            f"{report.examples} examples, {formats}: {summary}",
        )
    )
    return int(not report.clean)


def _convert(args: argparse.Namespace) -> int:
    from finetune.data.convert import convert
    from finetune.data.load import load_sets

    loaded = load_sets(args.dataset, folder=args.folder, limit=args.max_samples, strict=args.strict)
    report = convert(loaded.examples, to=args.to, path=args.out)
    if args.json:
        about = {
            "written": report.written,
            "skipped": report.skipped,
            "lost": report.lost,
            "bad": len(loaded.bad),
        }
        print(json.dumps(about, ensure_ascii=False))
        return 0
    for bad in loaded.bad:
        print(pick(f"跳过 {bad.source}：{bad.zh or bad.reason}", f"left out {bad.source}: {bad.reason}"))
    for what, number in report.lost.items():
        print(pick(f"有 {number} 个样本丢失：{what}", f"lost in {number} examples: {what}"))
    done = (
        pick("无损", "nothing was lost") if report.lossless else pick("有损，见上", "with losses, see above")
    )
    print(
        pick(
            f"写了 {report.written} 个样本到 {args.out}（{done}）",
            f"wrote {report.written} examples to {args.out} ({done})",
        )
    )
    return 0


def _formats(args: argparse.Namespace) -> int:
    from finetune.data.formats import FORMATS

    if args.json:
        print(
            json.dumps(
                {f.name: {"kind": f.kind, "columns": f.keys, "files": f.files} for f in FORMATS.values()}
            )
        )
        return 0
    for form in FORMATS.values():
        print(
            f"{form.name:22} {form.kind:14} {', '.join(form.keys) or pick('文本', 'text'):38} {' '.join(form.files)}"
        )
    return 0
