"""`zhiwen kb list | show | check | repair | rm`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kb.errors import SettingsError
from ui import arguments
from ui.text import pick

if TYPE_CHECKING:
    from kb.knowledge import KnowledgeBase

ACTIONS = ("list", "show", "check", "repair", "rm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The action and the names."""
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=pick("知识库名", "names of knowledge bases"))
    parser.add_argument("-y", "--yes", action="store_true", help=pick("rm：不再询问", "rm: do not ask"))
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(parser, "zhiwen kb list", "zhiwen kb show 制度", "zhiwen kb check", "zhiwen kb rm 制度")


def run(args: argparse.Namespace) -> int:
    """check and repair: 1 if something is wrong (still)."""
    from kb.knowledge import names
    from ui import wiring

    settings = arguments.settings_of(args)
    if args.action in ("show", "rm") and not args.names:
        raise SettingsError(
            f"zhiwen kb {args.action} needs a NAME. There are: {', '.join(names(settings.home)) or '-'}",
            zh=f"zhiwen kb {args.action} 需要知识库名。现有：{'、'.join(names(settings.home)) or '无'}",
        )
    if args.action == "list" and not args.names and not names(settings.home):
        print(
            "[]"
            if args.json
            else pick(
                "还没有知识库。先运行：zhiwen index 文件夹", "No knowledge base yet. Run: zhiwen index FOLDER"
            )
        )
        return 0
    kbs = wiring.open_kbs(settings, args.names)
    if args.action == "list":
        return list_them(kbs, args)
    if args.action == "show":
        return show_them(kbs, args)
    if args.action == "rm":
        return remove_them(kbs, args)
    return check_them(kbs, args)


def facts(kb: KnowledgeBase) -> dict[str, object]:
    """What is told about one knowledge base."""
    record = kb.embedder_record
    calibration = kb.value("calibration") or {}
    return {
        "name": kb.name,
        "folder": str(kb.source or ""),
        **kb.store.counts(),
        "embedder": record.name,
        "dimensions": record.dimensions,
        "metric": record.metric,
        "threshold": calibration.get("threshold"),
        "megabytes": round(sum(p.stat().st_size for p in kb.folder.rglob("*") if p.is_file()) / 1e6, 1),
    }


def list_them(kbs: Sequence[KnowledgeBase], args: argparse.Namespace) -> int:
    """One line for each."""
    from ui.table import table

    rows = [facts(kb) for kb in kbs]
    if args.json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return 0
    header = [
        pick("名称", "name"),
        pick("文档", "documents"),
        pick("块", "chunks"),
        "MB",
        pick("嵌入模型", "embedder"),
        pick("文件夹", "folder"),
    ]
    keys = ("name", "documents", "chunks", "megabytes", "embedder", "folder")
    print(table(header, [[str(row[key]) for key in keys] for row in rows], right=(1, 2, 3)))
    return 0


def show_them(kbs: Sequence[KnowledgeBase], args: argparse.Namespace) -> int:
    """Facts and documents, with the verdict of each."""
    from ui.reasons import file_words, reason_words
    from ui.show import as_json
    from ui.table import safe, table

    values = []
    for kb in kbs:
        documents = kb.store.documents()
        if args.json:
            values.append(facts(kb) | {"list": as_json(documents)})
            continue
        for key, value in facts(kb).items():
            print(f"{key}: {value if value is not None else '-'}")
        marks = {"ok": "✓", "suspect": "!", "failed": "✗"}
        header = [
            "",
            pick("文件", "file"),
            pick("页", "pages"),
            pick("段", "passages"),
            pick("块", "chunks"),
            pick("编码", "encoding"),
        ]
        rows = [
            [marks[d.verdict], d.name, str(d.pages), str(d.passages), str(d.chunks), d.encoding or "-"]
            for d in documents
        ]
        print("\n" + table(header, rows, right=(2, 3, 4)))
        for d in documents:
            if d.verdict == "failed" and d.notes:
                print(
                    f"  {safe(d.name)}{pick('：', ': ')}{safe(file_words(d.notes[0], d.notes[1] if d.notes[1:] else ''))}"
                )
            bad = [page for page in kb.store.pages(d.id) if page.verdict != "ok"] if d.verdict != "ok" else []
            for page in bad[:20]:
                print(
                    pick(f"  {safe(d.name)} 第 {page.number} 页：", f"  {safe(d.name)} p.{page.number}: ")
                    + reason_words(", ".join(page.reasons))
                )
    if args.json:
        print(json.dumps(values, ensure_ascii=False, indent=2))
    return 0


def check_them(kbs: Sequence[KnowledgeBase], args: argparse.Namespace) -> int:
    """check, or repair and check."""
    from ui.reasons import problem_words

    results = {kb.name: (kb.repair() if args.action == "repair" else kb.check()) for kb in kbs}
    if args.json:
        print(
            json.dumps(
                {name: list(found.problems) for name, found in results.items()}, ensure_ascii=False, indent=2
            )
        )
    for name, found in results.items() if not args.json else ():
        if found.ok:
            print(f"✓ {name}")
            continue
        print(f"✗ {name}: {'; '.join(problem_words(problem) for problem in found.problems)}")
        again = args.action == "repair"
        todo = (
            pick("请重新运行 zhiwen index", "run zhiwen index again") if again else f"zhiwen kb repair {name}"
        )
        print(f"    → {todo}")
    return 0 if all(found.ok for found in results.values()) else 1


def remove_them(kbs: Sequence[KnowledgeBase], args: argparse.Namespace) -> int:
    """Delete, after asking. The documents themselves are never touched."""
    removed: list[str] = []
    for kb in kbs:
        if not args.yes:
            if not sys.stdin.isatty():
                raise SettingsError(
                    "rm asks before it deletes; say --yes", zh="rm 会先询问；在脚本中请加 --yes"
                )
            question = pick(
                f"删除知识库 {kb.name}（原文档不受影响）？[y/N] ",
                f"Delete knowledge base {kb.name} (documents stay)? [y/N] ",
            )
            if input(question).strip().lower() not in ("y", "yes", "是"):
                continue
        kb.remove()
        removed.append(kb.name)
        if not args.json:
            print(pick(f"已删除 {kb.name}", f"deleted {kb.name}"))
    if args.json:
        print(json.dumps({"removed": removed}, ensure_ascii=False))
    return 0
