"""Decoding speed at ChatGLM3-6B's real shape, random weights, against transformers' `generate` in the same run.

    python tests/bench/decode.py --work /tmp/bench          # everything; needs an NVIDIA GPU with 24 GB or more
    python tests/bench/decode.py --work /tmp/bench --small  # the script itself, on a CPU, at a toy shape

Writes tests/bench/results/decode-<date>.json. Random weights are as fast as learnt ones.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

LIMITS = {
    "bf16 tokens/s, batch 1": 210,
    "nf4 tokens/s, batch 1": 350,
    "bf16 first token at 3,000, ms (at most)": 150,
    "bf16 tokens/s, 16 at once": 1800,
    "LoRA costs, share (at most)": 0.15,
}


def make_model(work: Path, *, small: bool) -> Path:
    """A converted folder with random weights; made once."""
    from tiny_chatglm3 import converted

    if small:
        return work / "small" if (work / "small").exists() else converted(work / "small", seq_length=8192)
    from convert_big import make_official

    from rag.chatglm3.convert import convert

    if not (work / "big").exists():
        convert(make_official(work / "big-official"), target=work / "big", dtype="bfloat16")
    return work / "big"


def make_adapter(base: Path, work: Path) -> Path:
    """A LoRA adapter of rank 16 on all linear layers, random in both halves."""
    import torch
    from safetensors.torch import save_file

    from rag.chatglm3.names import NATIVE_TARGETS, native_shapes
    from rag.chatglm3.shape import read_native

    folder = work / f"{base.name}-lora"
    folder.mkdir(exist_ok=True)
    tensors = {}
    for name, size in native_shapes(read_native(base)).items():
        stem = name.removesuffix(".weight")
        if name.endswith(".weight") and stem.split(".")[-1] in NATIVE_TARGETS:
            tensors[f"base_model.model.{stem}.lora_A.weight"] = torch.randn(16, size[1]) * 0.01
            tensors[f"base_model.model.{stem}.lora_B.weight"] = torch.randn(size[0], 16) * 0.01
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 16}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"target_modules": list(NATIVE_TARGETS)}))
    return folder


def ids_of(count: int, seed: int, vocabulary: int) -> list[int]:
    """A prompt of random ids."""
    import random

    chance = random.Random(seed)
    return [chance.randrange(260, vocabulary - 300) for _ in range(count)]


@contextlib.contextmanager
def endless(loaded: Any) -> Iterator[None]:
    """No id ends an answer, so that all answers have the same length."""
    tokenizer = type(loaded.tokenizer)
    kept = tokenizer.stop_ids
    tokenizer.stop_ids = property(lambda self: ())
    try:
        yield
    finally:
        tokenizer.stop_ids = kept


def measure_engine(loaded: Any, *, adapter: str, slots: int, small: bool) -> dict[str, float]:
    """tokens/s of one and of `slots` at once, time to the first token, of a follow-up too."""
    from rag.chatglm3.engine.engine import Engine, EngineConfig
    from rag.types import GenerateOptions

    length, vocabulary = (32, 768) if small else (256, 64_000)
    vocabulary = min(vocabulary, loaded.shape.vocabulary)
    out: dict[str, float] = {}
    with (
        endless(loaded),
        Engine(loaded, config=EngineConfig(slots=slots, context=4096, loop_guard=False)) as engine,
    ):
        options = GenerateOptions(max_tokens=length, adapter=adapter)

        def ask(ids: list[int]) -> tuple[float, float]:
            start, first = time.perf_counter(), 0.0
            for piece in engine.submit(ids, options=options):
                if not first and piece.tokens:
                    first = time.perf_counter() - start
            return first, time.perf_counter() - start

        start = time.perf_counter()
        ask(ids_of(512, 0, vocabulary))
        out["warm-up, s"] = time.perf_counter() - start
        runs = [ask(ids_of(512, seed, vocabulary)) for seed in (1, 2, 3)]
        out["tokens/s, batch 1"] = sorted((length - 1) / (whole - first) for first, whole in runs)[1]
        long = ids_of(3000, 9, vocabulary)
        out["first token at 3,000, ms"] = 1000 * ask(long)[0]
        out["first token of a follow-up, ms"] = 1000 * ask([*long, *ids_of(60, 10, vocabulary)])[0]
        if slots > 1:
            prompts = [ids_of(512, 20 + i, vocabulary) for i in range(slots)]
            for _ in range(2):  # the first round captures what it needs
                threads = [threading.Thread(target=ask, args=(ids,)) for ids in prompts]
                start = time.perf_counter()
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                out[f"tokens/s, {slots} at once"] = slots * length / (time.perf_counter() - start)
    return out


def measure_generate(loaded: Any, *, batch: int, small: bool) -> float:
    """tokens/s of transformers' `generate` as it comes."""
    import torch

    length = 16 if small else 128
    vocabulary = min(64_000, loaded.shape.vocabulary)
    ids = torch.tensor([ids_of(512, i, vocabulary) for i in range(batch)], device=loaded.device)
    best = 0.0
    for _ in range(2):
        start = time.perf_counter()
        with torch.inference_mode():
            out = loaded.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                do_sample=False,
                eos_token_id=None,
            )
        best = max(best, batch * (out.shape[1] - 512) / (time.perf_counter() - start))
    return best


def main() -> None:
    """Measure and write the table."""
    import torch
    import transformers

    from rag.chatglm3.load import LoadConfig, load

    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not args.small:
        raise SystemExit("No GPU: the real shape on a CPU says nothing. Use --small to try the script.")
    base = make_model(args.work, small=args.small)
    adapter = make_adapter(base, args.work)
    plain, nf4 = (
        LoadConfig(dtype="bf16", device=device),
        LoadConfig(dtype="bf16", quantise="nf4", device=device),
    )
    results: dict[str, Any] = {}
    for name, config, lora, slots in (
        ("bf16", plain, "", 16),
        ("bf16 + LoRA", plain, "lora", 1),
        ("bf16 + LoRA merged", LoadConfig(dtype="bf16", device=device, merge="lora"), "lora", 1),
        ("nf4", nf4, "", 1),
        ("nf4 + LoRA", nf4, "lora", 1),
    ):
        loaded = load(base, adapters={"lora": adapter} if lora else {}, config=config)
        results[name] = measure_engine(loaded, adapter=lora, slots=slots, small=args.small)
        if not lora:
            results[name]["generate, batch 1"] = measure_generate(loaded, batch=1, small=args.small)
            results[name]["generate, batch 16"] = measure_generate(loaded, batch=16, small=args.small)
        if device == "cuda":
            results[name]["GiB allocated"] = torch.cuda.memory_allocated() / 2**30
        print(name, json.dumps(results[name], indent=1), flush=True)
        del loaded
        if device == "cuda":
            torch.cuda.empty_cache()
    report = {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "shape": "toy" if args.small else "ChatGLM3-6B",
        "limits": LIMITS,
        "results": results,
    }
    folder = args.work if args.small else ROOT / "tests" / "bench" / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"decode-{report['date']}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
