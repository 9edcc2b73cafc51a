"""`zhiwen index DIR`: plan, work, report."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kb.errors import SettingsError
from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from kb.knowledge import KnowledgeBase
    from kb.sync import Plan, SyncOptions
    from kb.types import Embedder
    from ui.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, the name, and what is allowed."""
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help=pick("文档所在的文件夹", "the folder of documents")
    )
    parser.add_argument(
        "--kb",
        default="",
        metavar="NAME",
        help=pick("知识库名，默认为文件夹名", "knowledge base, default: the folder's name"),
    )
    parser.add_argument(
        "-n",
        "--dry-run",
        action="store_true",
        help=pick("只显示计划，不做任何改动", "show the plan and change nothing"),
    )
    parser.add_argument(
        "--allow-empty",
        action="store_true",
        help=pick("文件夹空了就清空知识库", "an empty folder empties the knowledge base"),
    )
    parser.add_argument(
        "--move",
        action="store_true",
        help=pick("文件夹搬了位置或换了文件夹", "the folder was moved, or is another one now"),
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS",
        help=pick("别的进程正在写时等多少秒", "seconds to wait while another process is writing"),
    )  # fmt: skip
    parser.add_argument(
        "--ocr", choices=("auto", "off", "require"), default="auto",
        help=pick("扫描页：auto 装了 OCR 就识别，require 没装就报错", "scanned pages: auto reads pages without text, force reads all"),
    )  # fmt: skip
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help=pick("先删除再重建这个知识库（换嵌入模型时用）", "delete the knowledge base and build it anew"),
    )
    parser.add_argument(
        "--all", action="store_true", help=pick("计划里列出每个文件", "list every file in the plan")
    )
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(
        parser, "zhiwen index ~/Documents/制度 --dry-run", "zhiwen index ~/Documents/制度 --kb 制度"
    )


def run(args: argparse.Namespace) -> int:
    """Mirror the folder. 0 done (even if single files failed: they are reported), 130 interrupted."""
    from kb.sync import SyncOptions
    from ui import wiring

    settings = arguments.settings_of(args)
    name = args.kb or wiring.kb_name_for(args.folder)
    if "," in name:
        raise SettingsError("index takes one --kb", zh="index 只能写入一个 --kb")
    options = SyncOptions(allow_empty=args.allow_empty, wait=args.wait, ocr=args.ocr)
    if args.dry_run:
        planned = wiring.plan_folder(settings, args.folder, name=name, options=options)
        tell_plan(name, planned, args)
        return 0
    if not args.folder.is_dir():
        wiring.plan_folder(settings, args.folder, name=name, options=options)  # raises, and creates nothing
    kb, choice = wiring.open_or_create(settings, name, rebuild=args.rebuild)
    if choice.message_en:
        print(pick(choice.message_zh, choice.message_en), file=sys.stderr)
    if not args.move:
        wiring.check_folder(kb, args.folder)
    if not args.json:
        tell_plan(name, wiring.plan_folder(settings, args.folder, name=name, options=options), args)
    return work(args, settings, kb, choice.embedder, options)


def work(
    args: argparse.Namespace, settings: Settings, kb: KnowledgeBase, embedder: Embedder, options: SyncOptions
) -> int:
    """Index with a progress bar and print the report."""
    from ui import wiring
    from ui.progress import sync_progress
    from ui.show import as_json, report_text

    with sync_progress(quiet=args.json) as show, stop_on_ctrl_c() as cancel:
        report, calibration = wiring.index_folder(
            settings, args.folder, kb=kb, embedder=embedder, options=options, progress=show, cancel=cancel
        )
    if args.json:
        value = as_json(report) | {"embedder": embedder.name, "calibration": as_json(calibration)}
        print(json.dumps(value, ensure_ascii=False, indent=2))
    else:
        print(report_text(report))
        if calibration is not None:
            print(
                pick(
                    f"拒答阈值 {calibration.threshold:.2f}（已按本库内容标定）",
                    f"refusal threshold {calibration.threshold:.2f} (calibrated on this knowledge base)",
                )
            )
    return 130 if report.interrupted else 0


def tell_plan(name: str, planned: Plan, args: argparse.Namespace) -> None:
    """Print the plan."""
    from ui.reasons import reason_words
    from ui.show import as_json, plan_text
    from ui.table import safe

    if args.json:
        value = {"kb": name, "counts": planned.counts(), "changes": as_json(planned.changes)}
        print(json.dumps(value, ensure_ascii=False, indent=2))
    else:
        print(plan_text(planned.changes, everything=args.all))
        for problem in planned.problems:
            print(f"  ✗ {safe(problem.name)}{pick('：', ': ')}{reason_words(problem.reason)}")


@contextmanager
def stop_on_ctrl_c() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that what is committed stays whole; the second one ends the process."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def stop(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        print(
            pick(
                "\n正在收尾……再按一次 Ctrl-C 立即结束。",
                "\nFinishing ... press Ctrl-C again to stop at once.",
            ),
            file=sys.stderr,
        )

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
