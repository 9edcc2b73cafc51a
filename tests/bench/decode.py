"""Decoding speed at ChatGLM3-6B's real shape, random weights, against transformers' `generate` in the same run.

    python tests/bench/decode.py --work /tmp/bench          # everything; needs an NVIDIA GPU with 24 GB or more
    python tests/bench/decode.py --work /tmp/bench --small  # the script itself, on any machine, at a toy shape

Every configuration runs in a process of its own, the bf16 one twice: the second start shows what is kept on disk.
Writes tests/bench/results/decode-<date>.json.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "bench")]

WANTED = {
    "bf16: tokens/s": 210,
    "nf4: tokens/s": 350,
    "bf16: first token at 3,000, ms (at most)": 150,
    "bf16: tokens/s, 16 at once": 1800,
    "LoRA costs, share (at most)": 0.15,
    "nf4: GiB resident (at most)": 4.0,
}
"""On an H100 with 3.02 TB/s of copy bandwidth; `bandwidth` in the results is this card's."""

RUNS: dict[str, dict[str, Any]] = {
    "bf16 first start": {"slots": 16, "only_start": True},
    "bf16": {"slots": 16, "generate": True},
    "bf16 + LoRA": {"slots": 16, "lora": True},
    "bf16 + LoRA merged": {"slots": 1, "lora": True, "merge": True},
    "nf4": {"slots": 1, "quantise": "nf4", "context": 8192, "generate": True},
    "nf4 + LoRA": {"slots": 1, "quantise": "nf4", "lora": True},
    "nf4 four slots": {"slots": 4, "quantise": "nf4"},
    "int8": {"slots": 1, "quantise": "int8"},
}


def make_adapter(base: Path, work: Path) -> Path:
    """A LoRA adapter of rank 16 on all linear layers, random in both halves."""
    import torch
    from safetensors.torch import save_file

    from rag.chatglm3.names import NATIVE_TARGETS, native_shapes
    from rag.chatglm3.shape import read_native

    folder = work / f"{base.name}-lora"
    if folder.exists():
        return folder
    folder.mkdir()
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


def measure_engine(loaded: Any, *, run: dict[str, Any], small: bool) -> dict[str, Any]:
    """Start, tokens/s of one and of all slots at once, time to the first token, of a follow-up too."""
    from rag.chatglm3.engine.engine import Engine, EngineConfig
    from rag.types import GenerateOptions

    slots, adapter = run["slots"], "lora" if run.get("lora") else ""
    vocabulary, length, long = min(64_000, loaded.shape.vocabulary), 256, 3000
    if small:
        length, long = 24, 600
    out: dict[str, Any] = {}
    start = time.perf_counter()
    context = min(run.get("context", 4096), loaded.shape.context)
    config = EngineConfig(slots=slots, context=context, loop_guard=False)
    with endless(loaded), Engine(loaded, config=config) as engine:

        def ask(ids: list[int], tokens: int = length) -> tuple[float, float]:
            begun, first = time.perf_counter(), 0.0
            ticket = engine.submit(ids, options=GenerateOptions(max_tokens=tokens, adapter=adapter))
            while (
                True
            ):  # pieces without text too: random weights write much that the small tokenizer has no text for
                piece = ticket._request.out.get()
                if isinstance(piece, Exception):
                    raise piece
                first = first or time.perf_counter() - begun
                if piece.finish is not None:
                    assert piece.tokens == tokens, piece
                    return first, time.perf_counter() - begun

        first, whole = ask(ids_of(64, 99, vocabulary), 32)
        out["start: first token, s"], out["start: 32 tokens, s"] = first, whole
        engine.ready.wait(300)
        out["start: kernels ready after, s"] = time.perf_counter() - start
        out["through"] = engine.path
        ask(ids_of(64, 98, vocabulary), 8)
        runs = [ask(ids_of(512 if not small else 100, seed, vocabulary)) for seed in (1, 2, 3)]
        out["tokens/s"] = sorted((length - 1) / (whole - first) for first, whole in runs)[1]
        if run.get("only_start"):
            return out
        ask(ids_of(long, 8, vocabulary), 2)
        prompt = ids_of(long, 9, vocabulary)
        out["first token at 3,000, ms"] = 1000 * ask(prompt, 8)[0]
        out["tokens/s at 3,000"] = (length - 1) / (lambda r: r[1] - r[0])(ask(prompt))
        follow = [ids_of(60, 10 + i, vocabulary) for i in range(2)]
        out["first token of a follow-up, ms"] = 1000 * min(ask([*prompt, *ids], 8)[0] for ids in follow)
        if slots > 1:
            for name, ids in (("512", 512 if not small else 50), ("64", 64)):
                prompts = [ids_of(ids, 20 + i, vocabulary) for i in range(slots)]
                threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
                begun = time.perf_counter()
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                key = f"tokens/s, {slots} at once" + (", prompts of 64" if name == "64" else "")
                out[key] = slots * length / (time.perf_counter() - begun)
        if loaded.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()
            out["GiB resident"] = torch.cuda.memory_allocated() / 2**30
            out["GiB reserved"] = torch.cuda.memory_reserved() / 2**30
    return out


def measure_generate(loaded: Any, *, batch: int, small: bool) -> float:
    """tokens/s of transformers' `generate` as it comes."""
    import torch

    ids = torch.tensor(
        [ids_of(512, i, min(64_000, loaded.shape.vocabulary)) for i in range(batch)], device=loaded.device
    )
    rate = 0.0
    for length in (4, 8 if small else 96):
        start = time.perf_counter()
        with torch.inference_mode():
            out = loaded.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                do_sample=False,
                eos_token_id=None,
            )
        rate = batch * (out.shape[1] - 512) / (time.perf_counter() - start)
    return rate


def bandwidth() -> float:
    """Bytes a second of a copy on this GPU, read and written counted."""
    import torch

    source = torch.randn(2**30, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(8):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        best = max(best, 2 * source.nbytes / (begin.elapsed_time(end) / 1000))
    return best


def one(name: str, base: Path, adapter: Path, *, small: bool) -> dict[str, Any]:
    """One configuration, in this process."""
    import torch

    from rag.chatglm3.load import LoadConfig, load

    run = RUNS[name]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out: dict[str, Any] = {}
    if device == "cuda" and run.get("generate"):
        out["bandwidth, TB/s"] = bandwidth() / 1e12
    config = LoadConfig(
        dtype="bf16",
        quantise=run.get("quantise", "none"),
        device=device,
        merge="lora" if run.get("merge") else "",
    )
    start = time.perf_counter()
    loaded = load(base, adapters={"lora": adapter} if run.get("lora") else {}, config=config)
    out["loading, s"] = time.perf_counter() - start
    out |= measure_engine(loaded, run=run, small=small)
    if run.get("generate"):
        out["generate: tokens/s"] = measure_generate(loaded, batch=1, small=small)
        out["generate: tokens/s, 16 at once"] = measure_generate(loaded, batch=16, small=small)
    return out


def main() -> None:
    """Measure and write the table."""
    import torch
    import transformers
    from _random_model import REAL, SMALL, write_model

    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", choices=RUNS, help="one configuration, in this process")
    parser.add_argument("--runs", default=",".join(RUNS), help="names of configurations")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if not torch.cuda.is_available() and not args.small:
        raise SystemExit("No GPU: the real shape on a CPU says nothing. Use --small to try the script.")
    base = write_model(args.work / ("small" if args.small else "big"), SMALL if args.small else REAL)
    adapter = make_adapter(base, args.work)
    if args.only:
        print("RESULT " + json.dumps(one(args.only, base, adapter, small=args.small)))
        return
    results: dict[str, Any] = {}
    for name in args.runs.split(","):
        command = [sys.executable, __file__, "--work", str(args.work), "--only", name]
        done = subprocess.run(
            [*command, *(["--small"] if args.small else [])], capture_output=True, text=True, timeout=400
        )
        line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT ")), None)
        results[name] = json.loads(line[7:]) if line else {"failed": done.stderr[-3000:]}
        print(name, json.dumps(results[name], indent=1), flush=True)
        report = {
            "date": datetime.date.today().isoformat(),
            "device": torch.cuda.get_device_name()
            if torch.cuda.is_available()
            else platform.processor() or "cpu",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "shape": "toy" if args.small else "ChatGLM3-6B",
            "wanted": WANTED,
            "results": results,
        }
        folder = args.work if args.small else ROOT / "tests" / "bench" / "results"
        folder.mkdir(exist_ok=True)
        path = args.out or folder / f"decode-{report['date']}.json"
        path.write_text(json.dumps(report, indent=1) + "\n")  # after each: what comes later may fail
    print(f"written: {path}")


if __name__ == "__main__":
    main()
