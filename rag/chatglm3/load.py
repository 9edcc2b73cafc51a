"""A standard folder, with adapters if wanted -> a model on a device. Says what it needs before it loads.

loaded = load(Path("models/chatglm3-6b"), adapters={"zhouyi": Path("runs/zhouyi")},
              config=LoadConfig(quantise="nf4"))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kb.errors import ModelError
from rag.chatglm3.adapters import (
    AdapterInfo,
    attach_loras,
    check_base,
    logit_change,
    read_adapter,
    read_prefix,
)
from rag.chatglm3.bnb import prepare_bitsandbytes
from rag.chatglm3.chat import open_tokenizer
from rag.chatglm3.memory import ComputeDtype, MemoryPlan, Quantise, out_of_memory, plan_memory
from rag.chatglm3.quiet import quiet_libraries
from rag.chatglm3.shape import GlmShape, read_json, read_native
from rag.types import Chat

if TYPE_CHECKING:
    import torch

Say = Callable[[str, str], None]
"""Takes a sentence in Chinese and in English."""

_DTYPES: dict[str, ComputeDtype] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """How to load."""

    dtype: Literal["", "bf16", "fp16", "fp32"] = ""
    """Empty: bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU."""
    quantise: Quantise = "none"
    """int8 or nf4 (4 bits, double quantisation) through bitsandbytes."""
    device: str = ""
    """cpu, cuda, cuda:1; "auto" spreads over all GPUs (transformers only, not the engine); empty: a GPU if there is one."""
    merge: str = ""
    """Name of a LoRA adapter to merge into the weights: nothing is lost in speed, and only it can be used then."""
    cached_tokens: int = 8192
    """For the memory plan: length of all cache slots together."""

    def __post_init__(self) -> None:
        if self.dtype not in ("", *_DTYPES):
            raise ValueError(f"dtype must be bf16, fp16 or fp32, got {self.dtype!r}")
        if self.quantise not in ("none", "int8", "nf4"):
            raise ValueError(f"quantise must be none, int8 or nf4, got {self.quantise!r}")
        if self.merge and self.quantise != "none":
            raise ModelError(
                f"An adapter cannot be merged into {self.quantise} weights exactly (they would be rounded again). "
                "Load it unmerged, or merge without quantisation and export.",
                zh=f"适配器不能准确地合并进 {self.quantise} 权重（会再次取整）。请不合并加载，或不量化地合并后导出。",
            )


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory with everything that is known about it."""

    model: Any
    """GlmForCausalLM, or a PeftModel around it if LoRA adapters are attached."""
    tokenizer: Chat | None
    """None if the folder was converted without one."""
    folder: Path
    shape: GlmShape
    dtype: ComputeDtype
    quantise: Quantise
    plan: MemoryPlan
    adapters: Mapping[str, AdapterInfo] = field(default_factory=dict)
    prefixes: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Prefix adapters: (layers, 2, groups, n, head_dim)."""
    merged: str = ""

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        found: torch.device = self.model.device
        return found

    @property
    def base(self) -> Any:
        """The GlmForCausalLM itself. Its linear layers are PEFT's where a LoRA adapter sits."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def name(self) -> str:
        """As a person would say it: "chatglm3-6b (nf4)"."""
        return model_name(self.folder, dtype=self.dtype, quantise=self.quantise, merged=self.merged)


def model_name(folder: Path, *, dtype: ComputeDtype, quantise: str, merged: str) -> str:
    """A loaded model as a person would say it: "chatglm3-6b (nf4) + zhouyi"."""
    kind = quantise if quantise != "none" else {v: k for k, v in _DTYPES.items()}[dtype]
    return f"{folder.name} ({kind})" + (f" + {merged}" if merged else "")


def choose_device(wanted: str) -> str:
    """The device that will be used. Raises ModelError for a GPU that is not there."""
    import torch

    if wanted in ("", "auto"):
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted != "cpu":
        named = re.fullmatch(r"cuda(?::(\d{1,3}))?", wanted)
        index = int(named[1] or 0) if named else -1
        if index < 0 or not torch.cuda.is_available() or index >= torch.cuda.device_count():
            raise ModelError(
                f"There is no device {wanted!r} on this machine ({torch.cuda.device_count()} CUDA GPUs). Use cpu.",
                zh=f"本机没有设备 {wanted!r}（CUDA GPU 数：{torch.cuda.device_count()}）。可用 cpu。",
            )
        return f"cuda:{index}"
    return wanted


def choose_dtype(wanted: str, *, device: str) -> ComputeDtype:
    """The dtype of everything that is not quantised."""
    if wanted:
        return _DTYPES[wanted]
    if device == "cpu":
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def load(
    base: Path,
    *,
    adapters: Mapping[str, Path] | None = None,
    config: LoadConfig | None = None,
    say: Say | None = None,
    head: Literal["words", "score"] = "words",
) -> LoadedModel:
    """Load a converted folder. Raises ModelError: not converted, does not fit in memory, adapter of another base.

    `head`: "score" opens a reward model that was trained whole (GlmForSequenceClassification).
    """
    how = config or LoadConfig()
    shape = read_native(base)
    _must_have(head, base)
    infos = {name: read_adapter(folder, name=name) for name, folder in (adapters or {}).items()}
    if how.merge and (how.merge not in infos or infos[how.merge].kind != "lora"):
        raise ModelError(
            f"No LoRA adapter {how.merge!r} to merge.", zh=f"没有可合并的 LoRA 适配器 {how.merge!r}。"
        )
    for info in infos.values():
        check_base(info, base=base)
    device = choose_device(how.device)
    dtype = choose_dtype(how.dtype, device=device)
    plan = plan_memory(
        shape, device=device, dtype=dtype, quantise=how.quantise, cached_tokens=how.cached_tokens
    )
    if say is not None:
        say(*plan.sentence())
    if not plan.fits and how.device != "auto":
        raise out_of_memory(plan, quantise=how.quantise)
    where = device if how.device != "auto" else "auto"
    with quiet_libraries():
        model = _from_pretrained(base, where, dtype, how.quantise, plan, head)
    prefixes = {n: read_prefix(i, shape=shape) for n, i in infos.items() if i.kind == "prefix"}
    loras = {n: i for n, i in infos.items() if i.kind == "lora" and how.merge in ("", n)}
    if loras:
        with quiet_libraries():
            model = attach_loras(model, loras)
        for name in loras:
            _must_be_active(model, name, shape)
        model.set_adapter(next(iter(loras)))
    if how.merge:
        model = model.merge_and_unload().eval()
        infos, prefixes = {how.merge: infos[how.merge]}, {}
    tokenizer = open_tokenizer(base) if (base / "tokenizer.json").is_file() else None
    return LoadedModel(model, tokenizer, base, shape, dtype, how.quantise, plan, infos, prefixes, how.merge)


def _must_be_active(model: Any, name: str, shape: GlmShape) -> None:
    ids = [(7 * i + 3) % shape.vocabulary for i in range(1, 9)]
    if logit_change(model, name, ids=ids) == 0.0:
        raise ModelError(
            f"The adapter {name!r} is attached but changes no logit: it is not active.",
            zh=f"适配器 {name!r} 已挂上，但没有改变任何输出：它没有生效。",
        )


def _must_have(head: str, base: Path) -> None:
    """Raise ModelError if a model that scores is wanted to speak, or the other way round."""
    scores = read_json(base / "config.json").get("architectures") == ["GlmForSequenceClassification"]
    if scores == (head == "score"):
        return
    if scores:
        raise ModelError(
            f"{base} is a reward model: it scores answers and cannot write any.",
            zh=f"{base} 是奖励模型：它只给回答打分，不会写回答。",
        )
    raise ModelError(f"{base} is no reward model.", zh=f"{base} 不是奖励模型。")


def _from_pretrained(
    base: Path, device: str, dtype: ComputeDtype, quantise: Quantise, plan: MemoryPlan, head: str
) -> Any:
    import torch
    from transformers import GlmForCausalLM, GlmForSequenceClassification

    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "device_map": device,
        "attn_implementation": "sdpa",
    }
    if quantise != "none":
        options["quantization_config"] = quantisation(quantise, dtype=dtype)
    try:
        kind = GlmForCausalLM if head == "words" else GlmForSequenceClassification
        return kind.from_pretrained(base, local_files_only=True, **options).eval()
    except torch.OutOfMemoryError as error:
        raise out_of_memory(plan, quantise=quantise, cause=str(error).splitlines()[0]) from error


def quantisation(quantise: Quantise, *, dtype: ComputeDtype) -> Any:
    """The BitsAndBytesConfig of "int8" or "nf4", for loading and for training; bitsandbytes is prepared first."""
    import torch
    from transformers import BitsAndBytesConfig

    prepare_bitsandbytes()
    if quantise == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "score"])
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=["lm_head", "score"],
    )
