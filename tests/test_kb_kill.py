"""kill -9 at random points of indexing: the check passes each time, and the next run ends as a clean build would."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kb.knowledge import KnowledgeBase
from kb.sync import SyncOptions, sync
from tests.made_folders import HashEmbedder, age, document, make_folder

ROOT = Path(__file__).resolve().parent.parent
KILLS = int(os.environ.get("ZHIWEN_KILLS", "20"))
FILES = 24

CHILD = """
import sys, threading
from pathlib import Path
import kb.plan, kb.sync, kb.vectors
import kb.load.ocr, kb.load.text, faiss, tantivy
from kb.knowledge import KnowledgeBase
from tests.made_folders import HashEmbedder
kb.sync.EMBED_AT_ONCE, kb.sync.SLICE, kb.sync.KEEP_SECONDS, kb.sync.REFRESH_SECONDS = 16, 4, 0.0, 0.05
for line in sys.stdin:
    embedder = HashEmbedder()
    print("begin", flush=True)
    base = KnowledgeBase.create(Path(sys.argv[1]), "杀", embedder=embedder)
    kb.sync.sync(base, Path(sys.argv[2]), embedder=embedder, options=kb.sync.SyncOptions(wait=10))
    print("end", flush=True)
    break
"""
"""Imports come before "begin", so that the kills fall into the work and not into the start of Python. Small batches and
an eager refresh put many commits and cache writes in their way."""


class Indexer:
    """A child process that has imported everything and waits for a line to begin."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(home), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1"),
            start_new_session=True,
        )

    def begin(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"begin\n"

    def kill(self) -> bool:
        """SIGKILL; True if it was still at work."""
        busy = self.process.poll() is None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout
        return busy and b"end" not in self.process.stdout.read()


def change(folder: Path, draw: random.Random) -> None:
    """Edit some, rename some, delete some, add some: every kind of work lies before the next kill."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    draw.shuffle(paths)
    for path in paths[:6]:
        path.write_text(path.read_text(encoding="utf-8") + document(draw, paragraphs=2), encoding="utf-8")
    for path in paths[6:9]:
        path.rename(path.with_name(f"改名{draw.randrange(10**9)}.md"))
    for path in paths[9:12]:
        path.unlink()
    while sum(p.is_file() for p in folder.rglob("*")) < FILES:
        new = folder / f"新{draw.randrange(10**9)}.md"
        new.write_text(document(draw, paragraphs=5), encoding="utf-8")
    age(folder)


def clean_digest(folder: Path, home: Path) -> str:
    embedder = HashEmbedder()
    base = KnowledgeBase.create(home, "净", embedder=embedder)
    sync(base, folder, embedder=embedder)
    digest = base.store.state_digest()
    base.close()
    shutil.rmtree(home)
    return digest


def run_to_end(home: Path, folder: Path) -> tuple[KnowledgeBase, int]:
    embedder = HashEmbedder()
    base = KnowledgeBase.create(home, "杀", embedder=embedder)
    report = sync(base, folder, embedder=embedder, options=SyncOptions(wait=5))
    assert not report.interrupted
    return base, report.embedded


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_random_points(tmp_path: Path) -> None:
    draw = random.Random(20261121)
    folder, home = tmp_path / "文档", tmp_path / "家"
    make_folder(folder, files=FILES, seed=1)
    expected = clean_digest(folder, tmp_path / "净")
    began = time.monotonic()
    killed = finished = rounds = 0
    span = 0.6  # grows until some runs end before their kill: then every moment of a run has its turn
    waiting = Indexer(home, folder)
    while killed < KILLS:
        indexer, waiting = waiting, Indexer(home, folder)
        indexer.begin()
        time.sleep(draw.random() * span)
        if indexer.kill():
            killed += 1
            span = min(10.0, 1.05 * span)
        else:
            finished += 1
            span = max(0.02, 0.85 * span)
        base = KnowledgeBase.open(home, "杀") if (home / "kb" / "杀" / "kb.sqlite").exists() else None
        if base is not None and base.store.meta("embedder"):
            assert base.check().problems == ()
            base.close()
        if draw.random() < 0.5:  # otherwise the next kill comes upon an interrupted state
            base, _ = run_to_end(home, folder)
            assert base.store.state_digest() == expected
            assert base.check().problems == ()
            assert len(base.lexical()) == len(base.vectors()) == base.store.counts()["chunks"]
            base.close()
            rounds += 1
            if rounds % 4 == 0:
                shutil.rmtree(home)
            change(folder, draw)
            expected = clean_digest(folder, tmp_path / "净")
    waiting.kill()
    base, _ = run_to_end(home, folder)
    assert base.store.state_digest() == expected
    assert base.check().problems == ()
    result = {
        "kills": killed,
        "finished_before_the_kill": finished,
        "states_compared_with_a_clean_build": rounds + 1,
        "checks_failed": 0,
        "states_different": 0,
        "seconds": round(time.monotonic() - began, 1),
        "seed": 20261121,
    }
    if KILLS >= 200:
        day = datetime.now(UTC).date().isoformat()
        out = ROOT / "tests" / "bench" / "results" / f"kills-{day}.json"
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    assert finished < 3 * killed + 10


def test_what_was_embedded_before_a_kill_is_not_embedded_again(tmp_path: Path) -> None:
    """Stopped by an exception in the middle of the third batch: those before are in the store, with their vectors."""
    folder, home = tmp_path / "文档", tmp_path / "家"
    make_folder(folder, files=12, seed=3)

    class Stops(HashEmbedder):
        def encode_passages(self, texts):  # type: ignore[no-untyped-def]
            if len(self.texts) > 30:
                raise KeyboardInterrupt
            return super().encode_passages(texts)

    import kb.sync as module

    stopping = Stops()
    base = KnowledgeBase.create(home, "停", embedder=stopping)
    kept = module.EMBED_AT_ONCE, module.SLICE, module.KEEP_SECONDS
    module.EMBED_AT_ONCE, module.SLICE, module.KEEP_SECONDS = 16, 4, 0.0
    try:
        first = sync(base, folder, embedder=stopping)
    finally:
        module.EMBED_AT_ONCE, module.SLICE, module.KEEP_SECONDS = kept
    assert first.interrupted
    assert 0 < first.counts["added"] < 12
    assert base.check().problems == ()
    again = HashEmbedder()
    second = sync(base, folder, embedder=again)
    assert not second.interrupted
    assert first.counts["added"] + second.counts["added"] == 12
    assert not set(stopping.texts) & set(again.texts)
    assert base.store.state_digest() == clean_digest(folder, tmp_path / "净")
