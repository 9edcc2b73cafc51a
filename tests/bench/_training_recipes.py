"""The recipes that the training benchmark compares, each to be run in a process of its own."""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config import RunConfig, from_values
from finetune.encode import Encoded, EncodeReport
from finetune.prepare import Prepared
from rag.chatglm3.shape import GlmShape

RECIPES: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours-8gib": {"gib": 8.0, "steps": 7},
    "loss-ours": {"docs": 8, "steps": 20},
    "loss-packed": {"docs": 8, "steps": 20, "kernels": "off", "compile": "off", "gradient_checkpointing": "on"},
    "loss-plain": {
        "docs": 8, "steps": 20, "kernels": "off", "packing": False, "compile": "off",
        "gradient_checkpointing": "on", "per_device": 8,
    },
    "tutorial": {"steps": 6},
    "trl": {"steps": 6},
    "inductor": {
        "kernels": "off", "compile": "on", "pack_tokens": 8192, "gradient_checkpointing": "off", "steps": 5,
    },
    "ours-8gib-recompute": {"gib": 8.0, "gradient_checkpointing": "on", "steps": 7},
    "ours-16k": {"pack_tokens": 16_384, "steps": 6},
    "ours-8k": {"pack_tokens": 8192, "steps": 6},
}  # fmt: skip
WANTED = {"ours": 22_000, "ours-8gib": 15_000}
"""Real tokens a second (issue 4)."""
LIMITS = {"inductor": 110, "loss-plain": 200, "loss-packed": 200, "gradients": 200}
"""Seconds that a recipe may take; 90 if it is not here."""


@dataclass
class Result:
    """One recipe."""

    recipe: str
    tokens_per_second: float
    peak_gib: float
    warmup_seconds: float
    """What the first step took longer than the median."""
    losses: list[float]
    reserved_gib: float = 0.0
    planned_gib: float = 0.0
    row_tokens: int = 0
    step_seconds: list[float] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    need: dict[str, float] = field(default_factory=dict)
    kernels_compiled: tuple[int, int] = (0, 0)
    """Triton kernels after the first step and at the end: equal, or something was compiled later."""
    profile: list[dict[str, Any]] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=dict)
    """Seconds of one row: on the clock, and of all GPU kernels together."""


def documents(shape: GlmShape, count: int, *, seed: int = 0) -> list[Encoded]:
    """Token ids of realistic lengths; some words are frequent, so that there is something to learn."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(math.log(220), 0.8, count), 32, 1024).astype(int)
    out = []
    for length in lengths:
        ids = (3 + random.zipf(1.3, length) % (shape.vocabulary - 64)).astype(np.int32)
        out.append(Encoded(ids, ids.copy()))
    return out


def config_of(folder: Path, recipe: str, steps: int, per_step: int) -> RunConfig:
    """Ours, as the recipe varies it."""
    options = dict(RECIPES[recipe])
    for name in ("gib", "docs", "steps"):
        options.pop(name, None)
    rows, rate = options.pop("per_device", per_step), options.pop("rate", 1e-4)
    return from_values(
        {
            "model_name_or_path": str(folder), "dataset": "-", "finetuning_type": "qlora", "lora_rank": 16,
            "max_steps": steps, "per_device_train_batch_size": rows, "gradient_accumulation_steps": per_step // rows,
            "learning_rate": rate, "lr_scheduler_type": "constant", "kernels": "on", **options,
        }
    )  # fmt: skip


def ours(folder: Path, shape: GlmShape, *, recipe: str, steps: int, per_step: int, profile: bool) -> Result:
    """Our loop, with everything that a run has but the tokenizer."""
    import torch

    from finetune.events import EventLog, read
    from finetune.loop import Loop
    from finetune.methods import attach, open_base
    from finetune.plan import make_plan

    options = RECIPES[recipe]
    gib, per_step = float(options.get("gib", 0)), int(options.get("docs", per_step))
    cuda = torch.cuda.is_available()
    if gib and cuda:
        torch.cuda.set_per_process_memory_fraction(
            gib * 2**30 / torch.cuda.get_device_properties(0).total_memory
        )
    train = documents(shape, per_step * steps)
    report = EncodeReport(
        examples=len(train), tokens=sum(map(len, train)), trained=sum(e.trained for e in train)
    )
    prepared = Prepared(tuple(train), (), (), (), report, {})
    config = config_of(folder, recipe, steps, per_step)
    plan = make_plan(config, prepared=prepared, free=int(gib * 2**30 * 0.94) if gib else 0)
    print(recipe, plan.layout, f"needs {plan.need.total / 2**30:.1f} GiB", flush=True)
    trainee = attach(open_base(config, folder=folder, device=plan.device), config=config)
    place = Path(tempfile.mkdtemp())
    log = EventLog(place)
    loop = Loop(place, config=config, prepared=prepared, trainee=trainee, layout=plan.layout, total=steps, log=log)  # fmt: skip
    loop.setup()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    marks: list[tuple[float, int, int]] = [(time.perf_counter(), 0, 0)]
    loop.train(
        after=lambda: marks.append((time.perf_counter(), loop.progress.tokens, compiled(loop))),
        stop=lambda: False,
    )
    took = [b[0] - a[0] for a, b in itertools.pairwise(marks)]
    skip = min(2, steps - 1)
    seconds, tokens = marks[-1][0] - marks[skip][0], marks[-1][1] - marks[skip][1]
    result = Result(
        recipe, tokens / seconds, 0.0, took[0] - statistics.median(took),
        [e["loss"] for e in read(place) if e["event"] == "step"],
        planned_gib=plan.need.total / 2**30, row_tokens=loop.shape.tokens, step_seconds=[round(t, 3) for t in took],
        layout=asdict(loop.layout), kernels_compiled=(marks[1][2], marks[-1][2]),
        need={k: round(v / 2**30, 3) for k, v in asdict(plan.need).items()},
    )  # fmt: skip
    if cuda:
        result.peak_gib = torch.cuda.max_memory_allocated() / 2**30
        result.reserved_gib = torch.cuda.max_memory_reserved() / 2**30
        if profile:
            try:
                result.profile, result.busy = profiled(loop)
            except RuntimeError as error:  # the measurement above must not be lost
                print(f"{recipe}: no profile: {error}", flush=True)
    return result


def compiled(loop: Any) -> int:
    """Triton kernels compiled so far."""
    if loop.trainee.stack is None or not loop.trainee.device.startswith("cuda"):
        return 0
    from finetune.kernels import launch

    return launch.variants()


def profiled(loop: Any) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The 25 GPU kernels that take longest in one row, and how long the GPU worked in it."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from finetune.forward import loss_sum

    batch = max(loop.batches(loop.documents(0)), key=lambda b: b.tokens).to(loop.trainee.device)

    def once() -> None:
        loss_sum(loop.trainee, batch).backward()
        torch.cuda.synchronize()

    once()
    begin = time.perf_counter()
    once()
    clock = time.perf_counter() - begin
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        once()
    kernels = [e for e in found.key_averages() if e.device_type.name == "CUDA"]
    kernels.sort(key=lambda e: -e.self_device_time_total)
    rows = [
        {"kernel": e.key[:110], "ms": round(e.self_device_time_total / 1000, 3), "calls": e.count}
        for e in kernels[:25]
    ]
    total = sum(e.self_device_time_total for e in kernels) / 1e6
    return rows, {
        "tokens": batch.tokens, "clock_s": round(clock, 4), "kernels_s": round(total, 4),
        "tokens_per_second": round(batch.tokens / clock),
    }  # fmt: skip


def tutorial(folder: Path, shape: GlmShape, *, steps: int) -> Result:
    """Batch of one, everything else widened to float32, checkpointing, all logits: as the notebooks have it."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import GlmForCausalLM

    from rag.chatglm3.load import choose_device, choose_dtype, quantisation

    device = choose_device("")
    dtype = choose_dtype("", device=device)
    model: Any = GlmForCausalLM.from_pretrained(
        folder,
        quantization_config=quantisation("nf4", dtype=dtype),
        device_map=device,
        dtype=getattr(torch, dtype),
    )
    model = prepare_model_for_kbit_training(model)
    model = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    model.train()
    losses, marks = [], []
    for document in documents(shape, steps):
        ids = torch.tensor(document.ids.astype(np.int64), device=device)[None]
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
        marks.append((time.perf_counter(), len(document)))
    skip = min(3, steps - 1)
    seconds = marks[-1][0] - marks[skip - 1][0]
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    return Result("tutorial", sum(n for _, n in marks[skip:]) / seconds, peak, 0.0, losses)


def trl(folder: Path, shape: GlmShape, *, steps: int) -> Result:
    """SFTTrainer with what it does by default, told only the data, the model and LoRA."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import GlmForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from rag.chatglm3.load import choose_device, choose_dtype, quantisation

    device = choose_device("")
    cuda, dtype = device != "cpu", choose_dtype("", device=device)
    model: Any = GlmForCausalLM.from_pretrained(
        folder,
        quantization_config=quantisation("nf4", dtype=dtype),
        device_map=device,
        dtype=getattr(torch, dtype),
    )
    docs = documents(shape, 8 * steps)
    marks: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            marks.append(time.perf_counter())

    extra: dict[str, Any] = {} if cuda else {"use_cpu": True, "bf16": False}
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(), max_steps=steps, logging_steps=1, report_to="none", save_strategy="no",
        dataset_kwargs={"skip_prepare_dataset": True}, **extra,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict({"input_ids": [d.ids.tolist() for d in docs]}),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
        processing_class=_tokenizer(shape), callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    skip = min(3, steps - 1)
    mean = sum(map(len, docs)) / steps
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    losses = [float(e["loss"]) for e in trainer.state.log_history if "loss" in e]
    return Result("trl", mean * (len(marks) - skip) / (marks[-1] - marks[skip - 1]), peak, 0.0, losses)


def _tokenizer(shape: GlmShape) -> Any:
    """TRL wants one, for its padding only."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {str(n): n for n in range(shape.vocabulary)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="0")), pad_token="0", eos_token="2"
    )
