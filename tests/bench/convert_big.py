"""Memory and time of converting, exporting and verifying at ChatGLM3-6B's real size (12.5 GB), random weights.

    python tests/bench/convert_big.py --work /tmp/big       # needs 26 GB of disk; deletes what it made

Each step runs in its own process, so that the highest memory is that step's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

BIG = {
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "num_attention_heads": 32,
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "seq_length": 8192,
}


def make_official(folder: Path, *, layers: int = 28) -> Path:
    """An official folder of full size (or with fewer layers) in seven shards, streamed: repeated random rows, so that it is made quickly."""
    import torch
    from tiny_chatglm3 import CONFIG, shape_of, write_tokenizer_model

    from rag.chatglm3.names import native_parts, official_names
    from rag.chatglm3.shards import Planned, SafetensorsWriter

    folder.mkdir(parents=True)
    config = {**CONFIG, **BIG, "num_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer_model(folder / "tokenizer.model")
    shape = shape_of(config)
    planned = []
    for name in official_names(shape):
        parts = native_parts(name, shape=shape)
        planned.append(Planned(name, (parts[-1].end, *parts[0].shape[1:])))
    weight_map: dict[str, str] = {}
    random = torch.Generator().manual_seed(0)
    for number in range(7):
        group = planned[number::7]
        file = f"model-{number + 1:05d}-of-00007.safetensors"
        with SafetensorsWriter(folder / file, group, dtype="float16") as writer:
            for tensor in group:
                row = torch.randn(tensor.shape[-1] + 997, generator=random).to(torch.float16) * 0.02
                whole = torch.empty(tensor.shape, dtype=torch.float16)
                if len(tensor.shape) == 1:
                    whole.copy_(row[: tensor.shape[0]] + ("norm" in tensor.name))
                else:
                    for i in range(tensor.shape[0]):
                        whole[i] = row[(7 * i) % 997 :][: tensor.shape[1]]
                writer.write(tensor.name, whole)
        weight_map |= {tensor.name: file for tensor in group}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def step(name: str, work: Path, layers: int) -> None:
    """One step, in a process of its own; prints its figures."""
    from rag.chatglm3.convert import convert
    from rag.chatglm3.export import export
    from rag.chatglm3.verify import verify

    start = time.perf_counter()
    if name == "make":
        make_official(work / "official", layers=layers)
    elif name == "convert":
        convert(work / "official", target=work / "glm")
    elif name == "verify":
        report = verify(work / "glm", official=work / "official")
        assert report.ok, report
    else:
        shutil.rmtree(work / "official")
        export(work / "glm", target=work / "exported")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        json.dumps(
            {"step": name, "seconds": round(time.perf_counter() - start, 1), "peak GB": round(peak, 2)}
        )
    )


def main() -> None:
    """All steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--step", default="")
    parser.add_argument(
        "--layers", type=int, default=28, help="fewer for a quick look; no result is written then"
    )
    args = parser.parse_args()
    if args.step:
        step(args.step, args.work, args.layers)
        return
    args.work.mkdir(parents=True)
    lines = []
    try:
        for name in ("make", "convert", "verify", "export"):
            command = [
                sys.executable,
                __file__,
                "--work",
                str(args.work),
                "--step",
                name,
                "--layers",
                str(args.layers),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            lines.append(json.loads(done.stdout.splitlines()[-1]))
            print(lines[-1], flush=True)
    finally:
        shutil.rmtree(args.work)
    if args.layers != 28:
        return
    report = {"date": datetime.date.today().isoformat(), "limit": "3 GB", "steps": lines}
    folder = ROOT / "tests" / "bench" / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"convert-{report['date']}.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
