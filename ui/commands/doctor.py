"""`zhiwen doctor`: versions, processor, GPU, models, disk; each problem with what to do."""

from __future__ import annotations

import argparse
import dataclasses
import json

from kb.errors import SettingsError
from ui import arguments
from ui.table import safe
from ui.text import pick

MARKS = {"ok": "✓", "note": "·", "problem": "✗"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--home, --json."""
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(parser, "zhiwen doctor", "zhiwen doctor --json")


def run(args: argparse.Namespace) -> int:
    """0: nothing is broken; 1: at least one problem."""
    from ui.doctor import broken_settings, examine
    from ui.settings import Settings, home_folder

    try:
        findings = examine(arguments.settings_of(args))
    except SettingsError as error:
        findings = [broken_settings(error), *examine(Settings(home=args.home or home_folder()))]
    problems = sum(finding.status == "problem" for finding in findings)
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], ensure_ascii=False, indent=2))
        return 1 if problems else 0
    for finding in findings:
        print(f"{MARKS[finding.status]} {safe(pick(finding.zh, finding.en))}")
        if todo := pick(finding.todo_zh, finding.todo_en):
            print(f"    → {safe(todo)}")
    if problems:
        print(pick(f"\n{problems} 个问题需要处理。", f"\n{problems} problem(s) to solve."))
    else:
        print(pick("\n没有发现问题。", "\nNo problem found."))
    return 1 if problems else 0
