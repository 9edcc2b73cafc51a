"""Retrieval on public question sets: dense, lexical and hybrid beside jieba BM25 and LangChain's FAISS.

    python tests/bench/retrieval.py --data DIR [--questions 400] [--sets cmrc,stard] [--model DIR]

Each set becomes a knowledge base of its own through the product's splitter, store and indexes, and is calibrated from its
own passages. The unit is the passage (reading), article (STARD) or sentence (LCQMC, SimCLUE, AFQMC), scored by its best
chunk. recall@k: any right unit among the first k. Intervals are 95 %, from resampled questions; differences are paired.
Refusals: questions of the other sets must be refused (`foreign`), CAIL's own impossible ones too (`own`, much harder).

What had been looked at while fusion and calibration were chosen stands in docs/search.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")

from kb.calibrate import calibrate
from kb.calibration import Calibration
from kb.candidates import gather
from kb.embed import SHIPPED, EmbedderConfig, open_embedder
from kb.fusion import fused, weight_of
from kb.knowledge import KnowledgeBase
from kb.types import Embedder
from tests.bench._building import build
from tests.bench._peers import faiss_order, jieba_order
from tests.bench._sets import READERS, QuestionSet

SETS = ("cmrc", "dureader", "cail-dev", "cail-test", "stard", "lcqmc-dev", "lcqmc", "simclue", "afqmc")
WAYS = ("dense", "lexical", "hybrid", "jieba-bm25", "langchain-faiss")
FOREIGN = 100
LARGEST_FOR_FAISS = 20_000
Ranks = np.ndarray[Any, np.dtype[np.int64]]


def ours(
    kb: KnowledgeBase,
    owners: dict[int, int],
    questions: list[str],
    *,
    embedder: Embedder,
    calibration: Calibration,
) -> tuple[dict[str, list[list[int]]], list[float], list[float]]:
    """Orders of the three modes, highest confidence and seconds of each question."""
    orders: dict[str, list[list[int]]] = {"dense": [], "lexical": [], "hybrid": []}
    sure, seconds = [], []
    for question in questions:
        began = time.perf_counter()
        evidence = gather(kb, question, embedder.encode_queries([question]), depth=100).evidence
        scores = {
            "dense": evidence.dense,
            "lexical": evidence.bm25,
            "hybrid": fused(evidence, weight=weight_of(calibration.trust)),
        }
        confidence = calibration.confidence(evidence)
        best = np.argsort(-scores["hybrid"])[:8]
        seconds.append(time.perf_counter() - began)
        sure.append(float(confidence[best].max()) if len(best) else 0.0)
        for way, values in scores.items():
            ranked = [owners[int(evidence.chunk_ids[i])] for i in np.lexsort((evidence.chunk_ids, -values))]
            orders[way].append(list(dict.fromkeys(ranked))[:10])
    return orders, sure, seconds


def ranks(orders: list[list[int]], right: list[frozenset[int]]) -> Ranks:
    """0-based rank of the first right unit; 10: not among the first ten."""
    found = [
        next((rank for rank, n in enumerate(order) if n in wanted), 10)
        for order, wanted in zip(orders, right, strict=True)
    ]
    return np.array(found, dtype=np.int64)


def interval(values: np.ndarray[Any, Any]) -> list[float]:
    """[mean, low, high]."""
    draw = np.random.default_rng(0)
    means = values[draw.integers(0, len(values), size=(2000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return [round(float(v), 4) for v in (values.mean(), low, high)]


def measure(
    name: str, data: Path, *, embedder: Embedder, count: int, seed: int, foreign: list[str]
) -> dict[str, Any]:
    """All figures of one set."""
    whole = READERS[name](data)
    answerable = QuestionSet(
        name,
        whole.documents,
        [q for q, r in zip(whole.questions, whole.right, strict=True) if r],
        [r for r in whole.right if r],
    )
    asked = answerable.sample(count, seed=seed)
    own = [q for q, r in zip(whole.questions, whole.right, strict=True) if not r][:FOREIGN]
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        kb, owners = build(Path(home), name, asked.documents, embedder=embedder)
        built = time.perf_counter()
        calibration = calibrate(kb, embedder=embedder)
        calibrated = time.perf_counter()
        orders, sure, seconds = ours(kb, owners, asked.questions, embedder=embedder, calibration=calibration)
        _, foreign_sure, _ = ours(kb, owners, foreign, embedder=embedder, calibration=calibration)
        _, own_sure, _ = ours(kb, owners, own, embedder=embedder, calibration=calibration)
        chunks = {n: c.text for n, c in kb.store.chunks_by_id(owners).items()}
    orders["jieba-bm25"] = jieba_order(asked.documents, asked.questions)
    if len(chunks) <= LARGEST_FOR_FAISS:
        orders["langchain-faiss"] = faiss_order(chunks, owners, asked.questions, embedder=embedder)
    found = {way: ranks(order, asked.right) for way, order in orders.items()}
    threshold = calibration.threshold
    return figures(found) | {
        "units": len(asked.documents),
        "chunks": len(chunks),
        "questions": len(asked.questions),
        "trust": round(calibration.trust, 3),
        "weight": round(weight_of(calibration.trust), 4),
        "refused_wrongly": round(float(np.mean(np.array(sure) < threshold)), 4),
        "answered_wrongly": {
            "foreign": round(float(np.mean(np.array(foreign_sure) >= threshold)), 4),
            "own": round(float(np.mean(np.array(own_sure) >= threshold)), 4) if own else None,
        },
        "seconds": {
            "build": round(built - began, 2),
            "calibrate": round(calibrated - built, 2),
            "question_median_ms": round(1000 * float(np.median(seconds)), 2),
        },
    }


def figures(found: dict[str, Ranks]) -> dict[str, Any]:
    """Recall and MRR of each way, and what hybrid has more than each of the others."""
    hybrid = found["hybrid"]
    return {
        "ways": {
            way: {f"recall@{k}": interval((r < k).astype(float)) for k in (1, 5, 10)}
            | {"mrr@10": interval(np.where(r < 10, 1 / (1 + r), 0.0))}
            for way, r in found.items()
        },
        "hybrid_minus": {
            way: {f"recall@{k}": interval((hybrid < k).astype(float) - (r < k).astype(float)) for k in (1, 5)}
            for way, r in found.items()
            if way != "hybrid"
        },
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| set | trust | "
        + " | ".join(f"{way} R@1/R@5" for way in WAYS)
        + " | hybrid − lexical R@5 | refused | answered |"
    ]
    lines.append("|---|---|" + "---|" * (len(WAYS) + 3))
    for name, one in found.items():
        cells = []
        for way in WAYS:
            row = one["ways"].get(way)
            cells.append(f"{row['recall@1'][0]:.3f} / {row['recall@5'][0]:.3f}" if row else "-")
        mean, low, high = (100 * v for v in one["hybrid_minus"]["lexical"]["recall@5"])
        answered = one["answered_wrongly"]
        own = "" if answered["own"] is None else f" ({answered['own']:.2f})"
        lines.append(
            f"| {name} | {one['trust']:.2f} | {' | '.join(cells)} | {mean:+.1f} [{low:.1f}, {high:.1f}] | "
            f"{one['refused_wrongly']:.3f} | {answered['foreign']:.3f}{own} |"
        )
    return "\n".join(lines)


def picture(path: Path, found: dict[str, Any]) -> None:
    from kb.picture import bars

    series = {
        way: [
            tuple(one["ways"][way]["recall@5"]) if way in one["ways"] else (0.0, 0.0, 0.0)
            for one in found.values()
        ]
        for way in WAYS
    }
    bars(path, list(found), series, title="recall@5")


def main() -> int:
    """Prints the table, writes JSON and PNG beside the other results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"skipped: the question sets are not at {args.data} (give --data)")
        return 0
    embedder = open_embedder(EmbedderConfig(model=str(args.model)))
    pools = {n: READERS[n](args.data).sample(60, seed=3) for n in ("cmrc", "dureader", "stard", "lcqmc")}
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    out = args.out or Path(__file__).parent / "results" / f"retrieval-{today}.json"
    found: dict[str, Any] = {}
    began = time.perf_counter()
    for name in args.sets.split(","):
        family = name.split("-")[0]
        foreign = [q for n, pool in pools.items() if n != family for q in pool.questions]
        found[name] = measure(
            name, args.data, embedder=embedder, count=args.questions, seed=args.seed, foreign=foreign
        )
        print(table({name: found[name]}).splitlines()[-1], flush=True)
        record = {
            "date": today,
            "embedder": embedder.name,
            "fingerprint": embedder.fingerprint,
            "seed": args.seed,
            "seconds": round(time.perf_counter() - began, 1),
            "sets": found,
        }
        out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        picture(out.with_suffix(".png"), found)
    print("\n" + table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
