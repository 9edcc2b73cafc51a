"""Chunks a second of embedding and indexing: ours against LangChain's HuggingFaceEmbeddings + FAISS.from_documents.

    python -m tests.bench.indexing            about 4 minutes on 2 quiet cores; writes tests/bench/results
    python -m tests.bench.indexing --quick    half a minute, one round, a small model; prints only

The same model folder (random weights, the shape of BERT-base, in text2vec-base-chinese's layout), the same chunks (made by
the product's splitter), one process, the same number of threads, rounds in turn. Loading the model is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from kb.embed import EmbedderConfig, open_embedder
from kb.split import split
from kb.types import Embedder, LoadedFile, Page

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = 21_128
SEED = 20
BUDGET = 360.0
"""Seconds; no round begins that would end later."""
WANTED = 3.0
"""Times LangChain's chunks a second."""


def main() -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the libraries are imported, which is later
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small model, few chunks, one round; writes nothing"
    )
    parser.add_argument("--chunks", type=int, default=0, help="chunks a round (192; quick 64)")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each side (5; quick 1)")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="torch threads for both sides"
    )
    parser.add_argument(
        "--out", type=Path, help="where the JSON goes (tests/bench/results/indexing-<date>.json)"
    )
    args = parser.parse_args()
    chunks, rounds = args.chunks or (64 if args.quick else 192), args.rounds or (1 if args.quick else 5)
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(
            Path(scratch) / "model", chunks=chunks, rounds=rounds, threads=args.threads, quick=args.quick
        )
    text = json.dumps(result, ensure_ascii=False, indent=2)
    print(text)
    if args.out or not args.quick:
        out = args.out or ROOT / "tests/bench/results" / f"indexing-{datetime.now(UTC):%Y-%m-%d}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
        print(f"written to {out}")
    return 0


def measure(folder: Path, *, chunks: int, rounds: int, threads: int, quick: bool) -> dict[str, Any]:
    """Both sides in turn, `rounds` times each; the ratio of a round is between neighbours in time."""
    import torch
    from langchain_huggingface import HuggingFaceEmbeddings

    torch.set_num_threads(threads)
    make_model(folder, layers=2 if quick else 12)
    ours = open_embedder(EmbedderConfig(model=str(folder), device="cpu"))
    theirs = HuggingFaceEmbeddings(
        model_name=str(folder), model_kwargs={"device": "cpu"}, encode_kwargs={"normalize_embeddings": True}
    )
    texts = product_chunks(ours, wanted=chunks)
    seconds: dict[str, list[float]] = {"ours": [], "langchain": []}
    index_ours(ours, texts[:8])
    index_langchain(theirs, texts[:8])
    vectors: dict[str, Any] = {}
    started = time.perf_counter()
    for turn in range(rounds):
        if turn and (time.perf_counter() - started) * (turn + 1) / turn > BUDGET:
            print(f"stopped after {turn} of {rounds} rounds: the machine is slow or busy", file=sys.stderr)
            break
        sides = [("ours", index_ours, ours), ("langchain", index_langchain, theirs)]
        for name, run, embedder in sides if turn % 2 == 0 else sides[::-1]:
            began = time.perf_counter()
            index = run(embedder, texts)  # type: ignore[operator]
            seconds[name].append(time.perf_counter() - began)
            vectors[name] = index.reconstruct_n(0, index.ntotal)
            print(f"round {turn + 1}: {name} {chunks / seconds[name][-1]:.1f} chunks/s", file=sys.stderr)
    ratios = [slow / fast for slow, fast in zip(seconds["langchain"], seconds["ours"], strict=True)]
    lengths = sorted(ours.count_tokens(texts))
    return {
        "bench": "indexing",
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "quick": quick,
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "rounds": len(ratios),
        "wanted": WANTED,
        "reached": statistics.median(ratios) >= WANTED,
        "chunks_per_second": {
            name: round(chunks / statistics.median(took), 2) for name, took in seconds.items()
        },
        "cosine_between_the_two_min": round(
            float((vectors["ours"] * vectors["langchain"]).sum(axis=1).min()), 5
        ),
        "cosine_to_another_text_mean": round(
            float((vectors["ours"][1:] * vectors["langchain"][:-1]).sum(axis=1).mean()), 5
        ),
        "model": {"layers": 2 if quick else 12, "hidden": 768, "dtype": getattr(ours, "dtype", "")},
        "chunks": {"count": chunks, "tokens_median": lengths[len(lengths) // 2], "tokens_max": lengths[-1]},
        "truncated_tokens": getattr(ours, "truncated_tokens", None),
        "machine": machine(threads),
    }


def index_ours(embedder: Embedder, texts: list[str]) -> Any:
    """Embedded and in an exact FAISS index."""
    import faiss

    index = faiss.IndexFlatIP(embedder.dimensions)
    index.add(np.ascontiguousarray(embedder.encode_passages(texts)))
    return index


def index_langchain(embeddings: Any, texts: list[str]) -> Any:
    """The FAISS index that LangChain builds from the same texts."""
    from langchain_community.vectorstores import FAISS
    from langchain_core.documents import Document

    return FAISS.from_documents([Document(page_content=text) for text in texts], embeddings).index


def make_model(folder: Path, *, layers: int) -> None:
    """Random weights in the layout of text2vec-base-chinese: BERT, mean pooling, 128 tokens."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(SEED)
    folder.mkdir(parents=True)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"，。！？；：、（）0123456789"]
    tokens += [chr(0x4E00 + at) for at in range(VOCABULARY - len(tokens))]
    BertTokenizerFast(vocab={token: at for at, token in enumerate(tokens)}).save_pretrained(folder)
    BertModel(BertConfig(vocab_size=VOCABULARY, num_hidden_layers=layers)).save_pretrained(folder)
    (folder / "1_Pooling").mkdir()
    files = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 768, "pooling_mode_mean_tokens": True},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")


def product_chunks(embedder: Embedder, *, wanted: int) -> list[str]:
    """Chunks of generated documents: chapters of paragraphs whose lengths are log-normal, as in real folders."""
    draw = random.Random(SEED)
    characters = [chr(0x4E00 + draw.randrange(20_000)) for _ in range(3_000)]

    def sentence() -> str:
        size = min(90, max(4, round(draw.lognormvariate(3.1, 0.6))))
        return "".join(draw.choices(characters, k=size)) + draw.choice("。。。！？；")

    texts: list[str] = []
    while len(texts) < wanted:
        lines = []
        for chapter in range(1, 4):
            lines.append(f"第{chapter}章 {''.join(draw.choices(characters, k=6))}")
            for _ in range(draw.randrange(2, 7)):
                lines.append("".join(sentence() for _ in range(max(1, round(draw.lognormvariate(1.0, 0.8))))))
        loaded = LoadedFile(Path("generated.txt"), "txt", (Page(1, "\n".join(lines)),))
        texts += [chunk.text for passage in split(loaded, counter=embedder) for chunk in passage.chunks]
    return texts[:wanted]


def machine(threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    fields = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    flags = set(fields.get("flags", "").split())
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    packages = (
        "torch",
        "transformers",
        "sentence-transformers",
        "langchain-huggingface",
        "langchain-community",
        "faiss-cpu",
    )
    return {
        "cpu": fields.get("model name", platform.processor()),
        "cpu_features": [flag for flag in wanted if flag in flags],
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


if __name__ == "__main__":
    raise SystemExit(main())
