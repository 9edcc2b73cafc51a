"""Searching 1,000,000 chunks of 768 dimensions: latency, recall against exact search, memory, time to open.

    python -m tests.bench.vectors_million [--chunks 1000000] [--folder DIR] [--out FILE]

A real knowledge base is written through `Store.put_document` (2,000 chunks a document), its caches are built by
`refresh_caches`, and a fresh process opens and searches it. Only the vectors are made up, and not so as to flatter an
index that counts on clusters: each is a mixture of one of 20,000 topics (30 % of its squared length), two directions out of 2,000 that
many topics share (20 %), and noise that belongs to it alone (50 %), of a spectrum that falls as embeddings' does.
Questions are rows of the same mixture that are not stored, with as much noise. Texts are drawn from a Zipf law over 6,000
characters, so that the lexical index has the size and the skew of a real one. On a machine that others use too, the CPU times
and the load average tell more than the wall clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kb.exact import score
from kb.knowledge import KnowledgeBase
from kb.lock import write_lock
from kb.store import text_digest
from kb.types import ChunkSpan, Document, Passage, Span, Vectors

DIMENSIONS = 768
PER_DOCUMENT = 2_000
QUESTIONS = 200
TOPICS, SHARED = 20_000, 2_000
CHARACTERS = 60


class MadeUpEmbedder:
    """What `KnowledgeBase.create` asks of an embedder; the vectors come from `Mixture`."""

    name, fingerprint, dimensions, metric, max_tokens = "made-up", "made-up-768", DIMENSIONS, "cosine", 256


class Mixture:
    """Draws unit vectors. *Shape:* (n, DIMENSIONS)."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.spectrum = (np.arange(1, DIMENSIONS + 1) ** -0.35).astype(np.float32)
        self.topics = self._unit(TOPICS)
        self.shared = self._unit(SHARED)

    def _unit(self, count: int) -> Vectors:
        rows = self.draw.standard_normal((count, DIMENSIONS), dtype=np.float32) * self.spectrum
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def rows(self, count: int) -> Vectors:
        topic = self.topics[(self.draw.random(count) ** 2 * TOPICS).astype(np.int64)]
        shared = self.shared[self.draw.integers(0, SHARED, (count, 2))].sum(axis=1) / np.sqrt(2)
        mixed = 0.3**0.5 * topic + 0.2**0.5 * shared + 0.5**0.5 * self._unit(count)
        return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)


class Texts:
    """Draws texts of CHARACTERS Chinese characters by a Zipf law."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        ranks = np.arange(1, 6001) ** -1.0
        self.cumulated = np.cumsum(ranks / ranks.sum())
        self.alphabet = np.array([chr(0x4E00 + i) for i in range(6000)])

    def texts(self, count: int, length: int) -> list[str]:
        places = np.searchsorted(self.cumulated, self.draw.random((count, length)))
        return ["".join(row) for row in self.alphabet[np.minimum(places, 5999)]]


def fill(kb: KnowledgeBase, chunks: int) -> Iterator[Vectors]:
    """Write the documents; yields each one's vectors."""
    mixture, texts = Mixture(1), Texts(2)
    for number in range(chunks // PER_DOCUMENT):
        rows = mixture.rows(PER_DOCUMENT)
        bodies = [f"{number}-{i} {text}" for i, text in enumerate(texts.texts(PER_DOCUMENT, CHARACTERS))]
        passages = [Passage(t, (), (Span(1, 0, len(t), 0),), (ChunkSpan(0, len(t), t),)) for t in bodies]
        halves = rows.astype(np.float16)
        name = f"文档/{number:05d}.txt"
        kb.store.put_document(
            Document(0, name, "txt", f"{number:064x}", 1, 1, 0, 0, "ok"),
            version="bench",
            stat="",
            pages=(),
            passages=passages,
            embedder=MadeUpEmbedder.fingerprint,
            vectors={text_digest(t): v for t, v in zip(bodies, halves, strict=True)},
        )
        yield halves.astype(np.float32)


def questions() -> tuple[Vectors, list[str]]:
    mixture = Mixture(1)
    mixture.draw = np.random.default_rng(7)
    return mixture.rows(QUESTIONS), Texts(8).texts(QUESTIONS, 16)


def build(home: Path, chunks: int) -> dict[str, object]:
    """Write the knowledge base and the truth (by exact search while it is written)."""
    kb = KnowledgeBase.create(home, "million", embedder=MadeUpEmbedder())  # type: ignore[arg-type]
    asked, _ = questions()
    ids = np.empty((QUESTIONS, 0), dtype=np.int64)
    best = np.empty((QUESTIONS, 0), dtype=np.float32)
    began = time.monotonic()
    for number, rows in enumerate(fill(kb, chunks)):
        found: NDArray[np.float32] = score(asked, rows, "cosine")
        ids = np.concatenate(
            [ids, np.broadcast_to(number * PER_DOCUMENT + 1 + np.arange(len(rows)), found.shape)], 1
        )
        best = np.concatenate([best, found], 1)
        order = np.argsort(-best, axis=1)[:, :10]
        ids, best = np.take_along_axis(ids, order, 1), np.take_along_axis(best, order, 1)
        if number % 50 == 0:
            print(f"{number * PER_DOCUMENT:,} chunks {time.monotonic() - began:.0f} s", flush=True)
    np.save(home / "truth.npy", ids)
    wrote = time.monotonic() - began
    began = time.monotonic()
    with write_lock(kb.folder / "lock"):
        kb.refresh_caches(say=lambda line: print(line, flush=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "write_seconds": round(wrote, 1),
        "caches_seconds": round(time.monotonic() - began, 1),
        "peak_mb_while_building": round(peak),
    }


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def measure(home: Path) -> dict[str, object]:
    """In a process of its own: open, search one question at a time, compare with the truth."""
    asked, texts = questions()
    truth = np.load(home / "truth.npy")
    import faiss
    import tantivy  # noqa: F401

    before = resident_mb()
    began = time.monotonic()
    kb = KnowledgeBase.open(home, "million")
    vectors = kb.vectors()
    lexical = kb.lexical()
    opened = time.monotonic() - began
    times: list[float] = []
    busy: list[float] = []
    hits = 0
    for _ in range(2):  # the first round brings the rows into the system's cache
        times, busy, hits = [], [], 0
        for number in range(QUESTIONS):
            began, worked = time.perf_counter(), time.process_time()
            ids, _ = vectors.search(asked[number : number + 1], 10)
            times.append(1000 * (time.perf_counter() - began))
            busy.append(1000 * (time.process_time() - worked))
            hits += len(set(ids[0].tolist()) & set(truth[number].tolist()))
    lexical_times, lexical_busy = [], []
    for text in texts:
        began, worked = time.perf_counter(), time.process_time()
        lexical.search(text, 50)
        lexical_busy.append(1000 * (time.process_time() - worked))
        lexical_times.append(1000 * (time.perf_counter() - began))
    manifest = json.loads((kb.folder / "vectors" / "manifest.json").read_text())
    return {
        "chunks": len(vectors),
        "dimensions": DIMENSIONS,
        "threads": faiss.omp_get_max_threads(),
        "open_seconds": round(opened, 2),
        "median_ms": round(float(np.median(times)), 2),
        "median_cpu_ms": round(float(np.median(busy)), 2),
        "p95_ms": round(float(np.percentile(times, 95)), 2),
        "recall_at_10": round(hits / (10 * QUESTIONS), 4),
        "candidates_scored_exactly": manifest["candidates"],
        "recall_measured_at_build": round(manifest["recall"], 4),
        "resident_mb": round(resident_mb()),
        "resident_mb_before_opening": round(before),
        "lexical_median_ms": round(float(np.median(lexical_times)), 2),
        "lexical_median_cpu_ms": round(float(np.median(lexical_busy)), 2),
        "lexical_p95_ms": round(float(np.percentile(lexical_times, 95)), 2),
        "disk_mb": round(sum(p.stat().st_size for p in kb.folder.rglob("*") if p.is_file()) / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument(
        "--folder", type=Path, default=None, help="keep the knowledge base here, or use the one there"
    )
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        home = args.folder or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        built = home / "built.json"
        if not built.exists():
            built.write_text(json.dumps(build(home, args.chunks)))
        command = [sys.executable, "-m", "tests.bench.vectors_million", "--measure", "--folder", str(home)]
        environment = dict(os.environ, OMP_NUM_THREADS=str(min(2, os.cpu_count() or 1)))
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        report = (
            json.loads(done.stdout.splitlines()[-1])
            | json.loads(built.read_text())
            | {"load_average": os.getloadavg()[0]}
        )
    day = datetime.now(UTC).date().isoformat()
    out = args.out or Path(__file__).parent / "results" / f"vectors-1m-{day}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
