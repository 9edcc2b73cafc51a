"""How fast the pages are: the first page after the server is up, and a page switch with 50 knowledge bases of 1,000 documents.

    PYTHONPATH=. python tests/bench/ui_pages.py [--kbs 50] [--documents 1000]

Writes tests/bench/results/ui-<date>.json. Times are what chromium sees: from the click (or from the address) until the page's
own content is there and its script has ended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from kb.knowledge import KnowledgeBase
from kb.types import ChunkSpan, Document, Page, Passage, Span
from tests.browser_tools import browser, new_page, running
from ui import wiring
from ui.settings import load_settings

RESULTS = Path(__file__).parent / "results"
ENDED = "() => !document.querySelector('[data-testid=stApp][data-test-script-state=running]')"


def make_kb(home: Path, name: str, documents: int) -> None:
    """A knowledge base of short documents, written through the store; the vectors are random."""
    settings = load_settings(home)
    embedder = wiring.new_embedder(settings).embedder
    kb = KnowledgeBase.create(home, name, embedder=embedder)
    random = np.random.default_rng(0)
    for number in range(documents):
        text = f"第 {number} 号通知：仓库盘点安排在{number % 12 + 1}月，请各部门提前三天报送清单。"
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        vector = random.standard_normal(embedder.dimensions).astype(np.float16)
        kb.store.put_document(
            Document(0, f"通知/{number:04d}.txt", "txt", digest.hex() * 2, len(text), 1, 1, 1, "ok"),
            version="bench",
            stat="",
            pages=[Page(1, text)],
            passages=[Passage(text, (f"通知 {number}",), (Span(1, 0, len(text), 0),), (ChunkSpan(0, len(text), text),))],
            embedder=embedder.fingerprint,
            vectors={digest: vector},
        )  # fmt: skip
    kb.refresh_caches()
    kb.close()


def first_page(home: Path, opened: Any) -> float:
    """Seconds from "the server answers" to the first page."""
    with running(home) as server:
        page = new_page(opened)
        page.goto(server.url, wait_until="commit")
        page.locator("h1, [data-testid=stChatInput]").first.wait_for()
        return time.time() - server.up_at


def switches(home: Path, opened: Any, *, rounds: int) -> dict[str, list[float]]:
    """Page -> milliseconds of each switch to it."""
    found: dict[str, list[float]] = {"问答": [], "知识库": [], "设置与检查": []}
    landmarks = {
        "问答": "[data-testid=stChatInput]",
        "知识库": "[data-testid=stDataFrame]",
        "设置与检查": "[role=tab]",
    }
    with running(home) as server:
        page = new_page(opened)
        page.goto(server.url)
        page.locator(landmarks["问答"]).wait_for()
        for turn in range(rounds + 1):
            for name in ("知识库", "设置与检查", "问答"):
                page.wait_for_timeout(500)
                began = time.perf_counter()
                page.get_by_role("link", name=name).click()
                page.locator(landmarks[name]).first.wait_for()
                page.wait_for_function(ENDED)
                if turn:  # the first round imports what the pages need
                    found[name].append((time.perf_counter() - began) * 1000)
    return found


def on_the_server(home: Path) -> dict[str, float]:
    """Page -> median milliseconds that its script takes, without network and browser."""
    os.environ["ZHIWEN_HOME"] = str(home)
    here = (
        Path(__file__).resolve().parent
    )  # a script's folder comes first, and files beside this one are named like our packages
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != here]
    from tests.test_ui_app import show

    found = {}
    for name in ("ask", "knowledge", "settings"):
        page = show(name).run()
        taken = []
        for _ in range(9):
            began = time.perf_counter()
            page.run()
            taken.append((time.perf_counter() - began) * 1000)
        found[name] = statistics.median(taken)
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kbs", type=int, default=50)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, browser() as opened:
        home = Path(scratch) / "home"
        home.mkdir()
        empty = [first_page(home, opened) for _ in range(3)]
        make_kb(home, "kb-00", args.documents)
        for number in range(1, args.kbs):
            shutil.copytree(home / "kb" / "kb-00", home / "kb" / f"kb-{number:02d}")
        full = [first_page(home, opened) for _ in range(3)]
        found = switches(home, opened, rounds=args.rounds)
        server = on_the_server(home)
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "kbs": args.kbs,
        "documents": args.documents,
        "first_page_seconds": {"empty": empty, "full": full},
        "server_ms": server,
        "switch_ms": {name: {"median": statistics.median(v), "most": max(v), "all": v} for name, v in found.items()},
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"ui-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
