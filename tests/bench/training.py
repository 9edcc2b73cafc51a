"""How fast QLoRA training is: the tutorials' recipe, TRL's defaults and ours, side by side in one run.

    python -m tests.bench.training --out tests/bench/results/finetune.json            # ChatGLM3-6B's shape, one GPU
    python -m tests.bench.training --small --steps 3 --out finetune-small.json        # tiny, any machine: does it run?
    python -m tests.bench.training --only ours,ours-8gib --profile --out ours.json    # some of it, and where time goes

Random weights; documents of 32 to 1024 tokens (log-normal, median 220), every token trained. A recipe runs in a process of
its own with a time limit, and what is known so far is written after each. "Real tokens" leaves padding out; the first steps
(warm-up, compiling) are timed apart. "kernels" measures each product and fused kernel alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench._training_recipes import (
    LIMITS,
    REAL,
    RECIPES,
    SMALL,
    WANTED,
    Result,
    ours,
    trl,
    tutorial,
    write_model,
)  # fmt: skip

KERNELS = "kernels"


def one(recipe: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run a recipe in this process."""
    if recipe == KERNELS:
        from tests.bench._training_kernels import measure

        return {"recipe": KERNELS, "rows": measure()}
    shape = SMALL if args.small else REAL
    steps = min(args.steps, RECIPES[recipe].get("steps", args.steps))
    found: Result
    if recipe == "tutorial":
        found = tutorial(folder, shape, steps=steps)
    elif recipe == "trl":
        found = trl(folder, shape, steps=steps)
    else:
        if recipe.startswith("loss"):
            steps = max(steps, int(RECIPES[recipe]["steps"]))
        found = ours(folder, shape, recipe=recipe, steps=steps, per_step=args.per_step, profile=args.profile)
    return dict(found.__dict__)


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, for docs/finetune.md."""
    lines = [
        "| recipe | real tokens/s | peak GiB | reserved GiB | planned GiB | warm-up s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        if r["recipe"] == KERNELS:
            continue
        planned = f"{r['planned_gib']:.1f}" if r["planned_gib"] else ""
        warm = f"{r['warmup_seconds']:.1f}" if r["warmup_seconds"] else ""
        lines.append(
            f"| {r['recipe']} | {r['tokens_per_second']:,.0f} | {r['peak_gib']:.1f} | {r['reserved_gib']:.1f} "
            f"| {planned} | {warm} |"
        )
    return "\n".join(lines)


def verdicts(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of issue 4, reached or not."""
    by_name = {r["recipe"]: r for r in results}
    out: dict[str, Any] = {n: by_name[n]["tokens_per_second"] >= w for n, w in WANTED.items() if n in by_name}
    for name, found in by_name.items():
        if not name.startswith("ours") or not found["peak_gib"]:
            continue
        planned, peak = found["planned_gib"], found["peak_gib"]
        out[f"{name}: plan {planned:.2f} within 10 % of {peak:.2f}"] = abs(planned - peak) <= 0.1 * peak
        out[f"{name}: warm-up under 30 s"] = found["warmup_seconds"] < 30
        out[f"{name}: nothing compiled after the first step"] = len(set(found["kernels_compiled"])) == 1
        if "8gib" in name:
            out[f"{name}: within 8 GiB"] = found["reserved_gib"] <= 8
    if {"loss-ours", "loss-plain"} <= by_name.keys():
        pairs = list(zip(by_name["loss-ours"]["losses"], by_name["loss-plain"]["losses"], strict=True))
        out["largest difference of losses, share"] = max(abs(a - b) / abs(b) for a, b in pairs)
        out["loss equal within 1 % after 20 steps"] = abs(pairs[-1][0] - pairs[-1][1]) <= 0.01 * pairs[-1][1]
    return out


def run(recipe: str, args: argparse.Namespace, until: float) -> dict[str, Any] | str:
    """A recipe in its own process: its result, or why there is none."""
    limit = min(LIMITS.get(recipe, 120), until - time.monotonic())
    if limit < 10:
        return "no time left"
    part = args.out.with_suffix(f".{recipe}.json")
    flags = ["--steps", str(args.steps), "--per-step", str(args.per_step), "--folder", str(args.folder)]
    flags += [f"--{name}" for name in ("small", "profile") if getattr(args, name)]
    command = [sys.executable, "-m", "tests.bench.training", "--one", recipe, "--out", str(part), *flags]
    env = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    begin = time.monotonic()
    try:
        done = subprocess.run(command, check=False, timeout=limit, env=env)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    if done.returncode:
        return f"failed (exit {done.returncode}), see above"
    found: dict[str, Any] = json.loads(part.read_text())
    part.unlink()
    print(f"{recipe}: {time.monotonic() - begin:.0f} s in all", flush=True)
    return found


def main() -> int:
    """All recipes, each in its own process, into one file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "zhiwen-bench-model")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--per-step", type=int, default=128, help="documents of one step")
    parser.add_argument("--only", default=",".join([KERNELS, *RECIPES]), help="recipes, in this order")
    parser.add_argument("--seconds", type=float, default=560, help="begin nothing that would go beyond")
    parser.add_argument("--profile", action="store_true", help="also where the time of a row goes")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = args.folder.with_name(args.folder.name + ("-small" if args.small else ""))
    if args.one:
        args.out.write_text(json.dumps(one(args.one, folder, args)))
        return 0
    until = time.monotonic() + args.seconds
    import torch

    write_model(folder, SMALL if args.small else REAL)
    print(f"model written, {until - time.monotonic():.0f} s left", flush=True)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    results: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for recipe in args.only.split(","):
        found = run(recipe, args, until)
        if isinstance(found, str):
            print(f"{recipe}: {found}", flush=True)
            missing[recipe] = found
        else:
            results.append(found)
        whole = {
            "device": card, "torch": torch.__version__, "results": results, "missing": missing,
            "verdicts": verdicts(results),
        }  # fmt: skip
        args.out.write_text(json.dumps(whole, indent=1) + "\n")
    print(table(results), json.dumps(verdicts(results), indent=1), sep="\n")
    return 0 if not missing else 1


if __name__ == "__main__":
    sys.exit(main())
