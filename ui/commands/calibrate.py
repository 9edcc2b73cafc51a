"""`zhiwen calibrate`: measure again when to refuse."""

from __future__ import annotations

import argparse
import json

from ui import arguments
from ui.text import pick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which knowledge bases."""
    arguments.add_kb(parser)
    arguments.add_home(parser)
    arguments.add_json(parser)
    arguments.example(parser, "zhiwen calibrate --kb 制度")


def run(args: argparse.Namespace) -> int:
    """0 done."""
    from ui import wiring
    from ui.show import as_json

    settings = arguments.settings_of(args)
    found = {}
    for kb in wiring.open_kbs(settings, arguments.kb_names(args)):
        found[kb.name] = wiring.calibrate_kb(kb, embedder=wiring.embedder_of(kb, settings))
        if not args.json:
            threshold = found[kb.name].threshold
            print(
                pick(f"{kb.name}：低于 {threshold:.2f} 就拒答", f"{kb.name}: refuses below {threshold:.2f}")
            )
    if args.json:
        print(json.dumps(as_json(found), ensure_ascii=False, indent=2))
    return 0
