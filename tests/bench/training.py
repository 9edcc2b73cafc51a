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
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from tests.bench._random_model import REAL, write_model
from tests.bench._random_model import TINY as SMALL
from tests.bench._training_recipes import (
    LIMITS,
    RECIPES,
    WANTED,
    Result,
    documents,
    ours,
    trl,
    tutorial,
)  # fmt: skip

KERNELS, GRADIENTS = "kernels", "gradients"


def one(recipe: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run a recipe in this process."""
    if recipe == KERNELS:
        from tests.bench._training_kernels import measure

        return {"recipe": KERNELS, "rows": measure()}
    shape = SMALL if args.small else REAL
    if recipe == GRADIENTS:
        from tests.bench._training_gradients import measure as compare

        return {"recipe": GRADIENTS, "rows": compare(folder, documents(shape, 5, seed=3))}
    steps = min(args.steps, RECIPES[recipe].get("steps", args.steps))
    found: Result
    if recipe == "tutorial":
        found = tutorial(folder, shape, steps=steps)
    elif recipe == "trl":
        found = trl(folder, shape, steps=steps)
    else:
        if recipe.startswith("loss"):
            steps = int(RECIPES[recipe]["steps"])
        found = ours(folder, shape, recipe=recipe, steps=steps, per_step=args.per_step, profile=args.profile)
    return dict(found.__dict__)


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, for docs/finetune.md."""
    lines = [
        "| recipe | real tokens/s | peak GiB | reserved GiB | planned GiB | warm-up s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        if "rows" in r:
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
    for one, two in (
        ("loss-ours", "loss-plain"),
        ("loss-packed", "loss-plain"),
    ):  # the second pair: rounding alone
        if {one, two} <= by_name.keys():
            pairs = list(zip(by_name[one]["losses"], by_name[two]["losses"], strict=True))
            apart = [abs(a - b) / abs(b) for a, b in pairs]
            out[f"{one} against {two}: largest, last difference"] = [max(apart), apart[-1]]
    if GRADIENTS in by_name:
        rows = by_name[GRADIENTS]["rows"]
        plain = max(rows[f"bf16 {way}"]["error"] for way in ("padded", "packed"))
        for way in ("fused", "recomputed"):
            exact = rows[f"bf16 {way}"]["error"]
            out[f"gradients of {way} {exact:.4f} no further from fp32 than plain {plain:.4f}"] = (
                exact <= 1.1 * plain
            )
    return out


class Running:
    """A recipe in its own process. It imports what it needs at once and begins to measure when told."""

    def __init__(self, recipe: str, args: argparse.Namespace) -> None:
        self.recipe = recipe
        self.part, self.gate = (args.out.with_suffix(f".{recipe}.{kind}") for kind in ("json", "go"))
        self.gate.unlink(missing_ok=True)
        flags = ["--steps", str(args.steps), "--per-step", str(args.per_step), "--folder", str(args.folder)]
        flags += [f"--{name}" for name in ("small", "profile") if getattr(args, name)]
        flags += ["--one", recipe, "--out", str(self.part), "--gate", str(self.gate)]
        env = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
        self.process = subprocess.Popen([sys.executable, "-m", "tests.bench.training", *flags], env=env)

    def result(self, until: float) -> dict[str, Any] | str:
        """What it measured, or why there is nothing."""
        begin = time.monotonic()
        limit = min(LIMITS.get(self.recipe, 90), until - begin)
        try:
            if limit < 10:
                return "no time left"
            self.gate.touch()
            if self.process.wait(timeout=limit):
                return f"failed (exit {self.process.returncode}), see above"
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s"
        finally:
            self.process.kill()
            self.process.wait()
            self.gate.unlink(missing_ok=True)
        found: dict[str, Any] = json.loads(self.part.read_text())
        self.part.unlink()
        print(f"{self.recipe}: {time.monotonic() - begin:.0f} s in all", flush=True)
        return found


def wait_for(gate: Path) -> None:
    """Import what every recipe needs, then wait until the one before has left the GPU."""
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    from transformers import GlmForCausalLM  # noqa: F401

    while not gate.exists():
        time.sleep(0.05)


def versions() -> dict[str, str]:
    """Of what decides the speed."""
    names = ("torch", "triton", "transformers", "peft", "bitsandbytes", "trl")
    found = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"] in names}
    return {"python": platform.python_version(), **dict(sorted(found.items()))}


def main() -> int:
    """All recipes, each in its own process, into one file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "zhiwen-bench-model")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--per-step", type=int, default=128, help="documents of one step")
    parser.add_argument(
        "--only", default=",".join([KERNELS, GRADIENTS, *RECIPES]), help="recipes, in this order"
    )
    parser.add_argument("--seconds", type=float, default=560, help="begin nothing that would go beyond")
    parser.add_argument("--profile", action="store_true", help="also where the time of a row goes")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    parser.add_argument("--gate", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    folder = args.folder.with_name(args.folder.name + ("-small" if args.small else ""))
    if args.one:
        if args.gate:
            wait_for(args.gate)
        args.out.write_text(json.dumps(one(args.one, folder, args)))
        return 0
    until = time.monotonic() + args.seconds
    args.out.parent.mkdir(parents=True, exist_ok=True)
    recipes = args.only.split(",")
    running = Running(recipes[0], args)
    import torch

    write_model(folder, SMALL if args.small else REAL)
    print(f"model written, {until - time.monotonic():.0f} s left", flush=True)
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    results: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for at, recipe in enumerate(recipes):
        following = Running(recipes[at + 1], args) if at + 1 < len(recipes) else None
        found = running.result(until)
        if following is not None:
            running = following
        if isinstance(found, str):
            print(f"{recipe}: {found}", flush=True)
            missing[recipe] = found
        else:
            results.append(found)
        whole = {
            "date": time.strftime("%Y-%m-%d"), "device": card, "versions": versions(), "results": results,
            "missing": missing, "verdicts": verdicts(results),
        }  # fmt: skip
        args.out.write_text(json.dumps(whole, indent=1) + "\n")
    print(table(results), json.dumps(verdicts(results), indent=1), sep="\n")
    return 0 if not missing else 1


if __name__ == "__main__":
    sys.exit(main())
