"""Indexing a folder of 10,000 files a second time, nothing changed: how long, and what the first time took.

    python -m tests.bench.unchanged_folder [--files 10000] [--out FILE]

Runs the product's own sync with the embedder that ships. Three later runs: at once (files too young to be trusted by their
times are hashed), again (nothing is opened), and after the times of all files moved (all hashed, nothing embedded).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from kb.embed import SHIPPED, EmbedderConfig, open_embedder
from kb.knowledge import KnowledgeBase
from kb.sync import sync
from kb.types import SyncProgress, SyncReport
from tests.made_folders import age, make_folder


def show(step: SyncProgress) -> None:
    if step.step == "read" and step.done % 1000 == 0:
        print(f"{step.done:,} of {step.total:,} files, {step.chunks:,} chunks", flush=True)


def line(report: SyncReport) -> dict[str, object]:
    return {
        "seconds": round(report.seconds, 2),
        "changes": {k: v for k, v in report.counts.items() if v},
        "embedded": report.embedded,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    embedder = open_embedder(EmbedderConfig(model=SHIPPED.name))
    with tempfile.TemporaryDirectory() as temporary:
        home, folder = Path(temporary) / "home", Path(temporary) / "文档"
        make_folder(folder, files=args.files, paragraphs=4, old=False)
        kb = KnowledgeBase.create(home, "bench", embedder=embedder)
        runs = {"first": line(first := sync(kb, folder, embedder=embedder, progress=show))}
        runs["second"] = line(sync(kb, folder, embedder=embedder))
        runs["third"] = line(sync(kb, folder, embedder=embedder))
        age(folder)
        runs["times_moved"] = line(sync(kb, folder, embedder=embedder))
        report = {
            "files": args.files,
            "chunks": first.chunks,
            "embedder": embedder.name,
            "chunks_per_second_first_run": round(first.chunks / first.seconds),
            "runs": runs,
            "check": list(kb.check().problems),
            "load_average": os.getloadavg()[0],
        }
    day = datetime.now(UTC).date().isoformat()
    out = args.out or Path(__file__).parent / "results" / f"unchanged-folder-{day}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
