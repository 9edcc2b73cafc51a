"""How fast QLoRA learns from preferences: TRL's trainers with their defaults and ours, side by side in one run.

    python -m tests.bench.preference --out tests/bench/results/preference.json      # ChatGLM3-6B's shape, one GPU, < 3 min
    python -m tests.bench.preference --tiny --out /tmp/preference.json              # any machine: does it run?

Random weights, the same pairs in the same order: prompts (median 100 tokens) with two answers (median 110 each), at most
1,024 together. A recipe runs in a process of its own; the first steps are not counted. "Real tokens" leaves padding out.
Ours counts the pass that measures the reference in full, as in a run of one epoch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune.config import RunConfig, from_values
from finetune.encode import EncodeReport
from finetune.encode_judged import Judged, joined
from finetune.pack import epoch_order
from finetune.prepare import Prepared
from rag.chatglm3.shape import GlmShape
from tests.bench._preference import PAIRS, Result, finish, pairs, real_tokens, same_start, texts, tokenizer
from tests.bench._random_model import REAL, TINY, write_model

RATE = 1e-4
RECIPES = ("trl-dpo", "ours-dpo", "trl-rm", "ours-rm", "ours-dpo-large", "ours-dpo-recompute")
WANTED = 3.0
"""Times TRL's defaults (issue 7)."""


# ------------------------------------------------------------ ours


def config_of(
    folder: Path, recipe: str, steps: int, per_step: int, compiled: str, *, tiny: bool
) -> RunConfig:
    """As a config file would say it."""
    values: dict[str, Any] = {
        "model_name_or_path": str(folder), "dataset": "-", "finetuning_type": "qlora", "lora_rank": 16,
        "stage": recipe.split("-")[1], "max_steps": steps, "per_device_train_batch_size": per_step,
        "gradient_accumulation_steps": 1, "learning_rate": RATE, "lr_scheduler_type": "linear", "warmup_ratio": 0.0,
        "compile": compiled,
    }  # fmt: skip
    if recipe.endswith("recompute"):
        values["gradient_checkpointing"] = "on"
    if tiny:  # a GPU takes the fused layers by itself
        values["kernels"] = "on"
    return from_values(values)


def ours(folder: Path, shape: GlmShape, *, recipe: str, steps: int, compiled: str) -> Result:
    """Our loop, with everything that a run has but the tokenizer."""
    import torch

    from finetune.events import EventLog, read
    from finetune.loop import Loop
    from finetune.methods import attach, open_base
    from finetune.plan import make_plan
    from finetune.stages.objective import objective_of
    from finetune.stages.reference import reference_of, with_reference

    per_step = PAIRS * 8 if recipe.endswith("large") else PAIRS
    given = pairs(shape, per_step * steps)
    config = config_of(folder, recipe, steps, per_step, compiled, tiny=shape is TINY)
    units: list[Any] = [None] * len(given)
    for place, (prompt, chosen, rejected) in zip(
        epoch_order(len(given), epoch=0, seed=config.train.seed), given, strict=True
    ):  # so that every step sees the pairs that TRL sees
        units[place] = Judged(
            tuple(joined(prompt, a, cutoff=1 << 20, source=None) for a in (chosen, rejected))
        )
    report = EncodeReport(len(units), real_tokens(given), sum(u.trained for u in units))
    prepared = Prepared(tuple(units), (), (), (), report, {})
    plan = make_plan(config, prepared=prepared)
    trainee = attach(open_base(config, folder=folder, device=plan.device), config=config)
    same_start(trainee.model)
    place_of = Path(tempfile.mkdtemp())
    objective, log = objective_of(config), EventLog(place_of)
    result = Result(recipe)
    if plan.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    loop = Loop(
        place_of, config=config, prepared=prepared, trainee=trainee, layout=plan.layout, total=steps, log=log,
        objective=objective,
    )  # fmt: skip
    loop.setup()
    if config.data.stage == "dpo":  # kernels are compiled at their first use, which is not counted
        reference_of(loop.trainee, prepared.train[: 4 * PAIRS], layout=loop.layout)
    begin = time.perf_counter()
    loop.prepared = with_reference(
        prepared, objective=objective, trainee=loop.trainee, layout=loop.layout, steps=steps, config=config,
        folder=place_of, log=log,
    )  # fmt: skip
    if config.data.stage == "dpo":
        result.reference_seconds = time.perf_counter() - begin
    marks = [time.perf_counter()]
    loop.train(after=lambda: marks.append(time.perf_counter()), stop=lambda: False)
    found = [e for e in read(place_of) if e["event"] == "step"]
    result.losses, result.margins = [e["loss"] for e in found], [e["margin"] for e in found]
    result.row_tokens = loop.shape.tokens
    return finish(result, marks, given, per_step)


# ------------------------------------------------------------ TRL


def trl(folder: Path, shape: GlmShape, *, recipe: str, steps: int) -> Result:
    """DPOTrainer or RewardTrainer, told only the data, the quantised model, LoRA, the rate and not to shuffle."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import GlmForCausalLM, TrainerCallback
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    from finetune.reward import with_score
    from rag.chatglm3.load import choose_device, choose_dtype, quantisation

    device = choose_device("")
    cuda, dtype = device != "cpu", choose_dtype("", device=device)
    model: Any = GlmForCausalLM.from_pretrained(
        folder, quantization_config=quantisation("nf4", dtype=dtype), device_map=device, dtype=getattr(torch, dtype)
    )  # fmt: skip
    scores = recipe.endswith("rm")
    if scores:
        model = with_score(model, seed=0)
    given = pairs(shape, PAIRS * steps)
    rows = texts(given)
    marks: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            marks.append(time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            marks.append(time.perf_counter())

    extra: dict[str, Any] = {} if cuda else {"use_cpu": True, "bf16": False}
    kind, options = (RewardTrainer, RewardConfig) if scores else (DPOTrainer, DPOConfig)
    if "train_sampling_strategy" in {f.name for f in fields(options)}:
        extra["train_sampling_strategy"] = "sequential"
    arguments = options(
        output_dir=tempfile.mkdtemp(), max_steps=steps, logging_steps=1, report_to="none", save_strategy="no",
        learning_rate=RATE, **extra,
    )  # fmt: skip
    lora = LoraConfig(
        task_type="SEQ_CLS" if scores else "CAUSAL_LM", r=16, lora_alpha=32, target_modules=[
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj",
        ],
    )  # fmt: skip
    trainer = kind(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), peft_config=lora,
        processing_class=tokenizer(shape), callbacks=[Clock()],
    )  # fmt: skip
    same_start(trainer.model)
    if not cuda:  # without autocast TRL's 16-bit adapters do not fit a float32 base
        for parameter in trainer.model.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    else:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    found = [e for e in trainer.state.log_history if "loss" in e]
    margin = "margin" if scores else "rewards/margins"
    result = Result(
        recipe, losses=[float(e["loss"]) for e in found], margins=[float(e[margin]) for e in found]
    )
    return finish(result, marks, given, PAIRS)


# ------------------------------------------------------------ all of it


def one(recipe: str, folder: Path, *, tiny: bool, steps: int, compiled: str) -> Result:
    """Run a recipe in this process; what goes wrong is part of the result."""
    shape = TINY if tiny else REAL
    try:
        if recipe.startswith("trl"):
            return trl(folder, shape, recipe=recipe, steps=steps)
        return ours(folder, shape, recipe=recipe, steps=steps, compiled=compiled)
    except Exception:  # noqa: BLE001 - the other recipes still run
        return Result(recipe, error=traceback.format_exc())


def verdicts(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of issue 7, reached or not."""
    by_name = {r["recipe"]: r for r in results if not r["error"]}
    out: dict[str, Any] = {}
    for stage in ("dpo", "rm"):
        mine, theirs = by_name.get(f"ours-{stage}"), by_name.get(f"trl-{stage}")
        if mine is None or theirs is None:
            continue
        times = mine["pairs_per_second"] / theirs["pairs_per_second"]
        gaps = [
            abs(a - b) / max(abs(b), 0.1)
            for a, b in zip(mine["losses"][:8], theirs["losses"][:8], strict=True)
        ]
        out |= {
            f"{stage}: times TRL": round(times, 2),
            f"{stage}: at least {WANTED:g} times": times >= WANTED,
            f"{stage}: largest relative gap of the losses": round(max(gaps), 4),
        }
    return out


def table(results: list[dict[str, Any]]) -> str:
    """Markdown, for docs/preferences.md."""
    lines = [
        "| recipe | pairs/s | real tokens/s | peak GiB | s a step | reference s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in results:
        said = "failed" if r["error"] else f"{r['pairs_per_second']:.2f}"
        lines.append(
            f"| {r['recipe']} | {said} | {r['tokens_per_second']:,.0f} | {r['peak_gib']:.1f} | {r['step_seconds']:.3f} | "
            f"{r['reference_seconds']:.2f} |"
        )
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """What it ran with."""
    import torch

    names = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": card, "date": datetime.now(UTC).date().isoformat()} | {
        n: metadata.version(n) for n in names
    }


def main() -> int:
    """All recipes, each in its own process, into one file that is written as they come."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "zhiwen-bench-random")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--compile", default="auto", choices=("auto", "on", "off"))
    parser.add_argument("--budget", type=float, default=150, help="seconds after which no recipe begins")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    begin = time.perf_counter()
    folder = args.folder.with_name(args.folder.name + ("-tiny" if args.tiny else ""))
    if args.one:
        result = one(args.one, folder, tiny=args.tiny, steps=args.steps, compiled=args.compile)
        args.out.write_text(json.dumps(asdict(result)))
        return 0
    write_model(folder, TINY if args.tiny else REAL)
    results: list[dict[str, Any]] = []
    for recipe in args.recipes.split(","):
        if time.perf_counter() - begin > args.budget:
            print(f"{recipe}: no time left", file=sys.stderr)
            continue
        part = args.out.with_suffix(f".{recipe}.json")
        command = [sys.executable, "-m", "tests.bench.preference", "--one", recipe, "--out", str(part)]
        flags = ["--steps", str(args.steps), "--compile", args.compile, "--folder", str(args.folder)]
        subprocess.run([*command, *flags, *(["--tiny"] if args.tiny else [])], check=False)
        if not part.is_file():
            results.append(asdict(Result(recipe, error="the process died")))
        else:
            results.append(json.loads(part.read_text()))
            part.unlink()
        if results[-1]["error"]:
            print(recipe, results[-1]["error"], file=sys.stderr)
        seconds = round(time.perf_counter() - begin, 1)
        found = {**versions(), "seconds": seconds, "results": results, "verdicts": verdicts(results)}
        args.out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{recipe}: {seconds} s since the beginning", flush=True)
    print(table(results), json.dumps(verdicts(results), indent=1), sep="\n")
    return 1 if any(r["error"] for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
