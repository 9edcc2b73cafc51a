"""Base models other than ChatGLM: any folder that transformers knows as a causal language model, without remote code.

    shape = read_other(Path("models/qwen3-8b"))       # numbers and linear layers, no weight is read
    loaded = load_other(Path("models/qwen3-8b"), config=LoadConfig(quantise="nf4"))

ChatGLM itself has its own way (`rag.chatglm3`), with its own engine.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kb.errors import ModelError
from rag.chatglm3.adapters import AdapterInfo, attach_loras, check_base, logit_change, read_adapter
from rag.chatglm3.bnb import prepare_bitsandbytes
from rag.chatglm3.load import LoadConfig, Say, choose_device, choose_dtype, model_name, quantisation
from rag.chatglm3.memory import ComputeDtype, MemoryPlan, out_of_memory, plan_memory
from rag.chatglm3.quiet import quiet_libraries
from rag.chatglm3.shape import GlmShape, read_json
from rag.templates import is_chatglm, open_chat
from rag.types import Chat

if TYPE_CHECKING:
    import torch

_ELSEWHERE = {
    "chatglm": (
        "it is in the official ChatGLM layout: zhiwen models convert {folder} NEW (glm-4: take the -hf folder)",
        "它是 ChatGLM 官方格式：请先 zhiwen models convert {folder} 新文件夹（glm-4 请用带 -hf 的版本）",
    ),
    "internlm2": (
        "InternLM2 runs only with code from its own folder; InternLM's convert2llama.py makes a Llama folder of it, and "
        "InternLM3 needs no conversion",
        "InternLM2 只能用它自带的代码运行；InternLM 官方的 convert2llama.py 可把它转成 Llama 格式，InternLM3 则无需转换",
    ),
    "baichuan": (
        "Baichuan runs only with code from its own folder; its LLaMA-format copies can be used",
        "Baichuan 只能用它自带的代码运行；可以用它的 LLaMA 格式版本",
    ),
    "qwen": (
        "the first Qwen runs only with code from its own folder; Qwen1.5 and later need none",
        "第一代 Qwen 只能用它自带的代码运行；Qwen1.5 及以后的版本不需要",
    ),
}
"""Model types that people have and that transformers does not know by itself."""


@dataclass(frozen=True, slots=True)
class OtherShape(GlmShape):
    """The numbers of another dense decoder. What `GlmShape` says of them holds here too."""

    kind: str = ""
    """model_type, such as qwen3."""
    linears: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Linear layers of one block by their last name: (inputs, outputs)."""
    counted: int = 0
    """Number of weights; tied ones once."""
    packs: bool = True
    """Whether several documents can share a row: full causal attention in all layers, nothing carried along otherwise."""

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.counted


def known_config(folder: Path) -> Any:
    """The configuration as transformers reads it. Raises ModelError for what needs code of its own."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    raw = read_json(folder / "config.json")
    kind = str(raw.get("model_type", ""))
    if kind not in CONFIG_MAPPING:
        english, chinese = _ELSEWHERE.get(
            kind,
            (
                f"model_type {kind!r} is not known to this transformers without code from the folder",
                f"transformers 不认识 model_type {kind!r}（需要文件夹自带的代码）",
            ),
        )
        raise ModelError(
            f"{folder} cannot be used: {english.format(folder=folder)}. Code that comes with a model is never run.",
            zh=f"{folder} 不能使用：{chinese.format(folder=folder)}。这里从不运行模型自带的代码。",
        )
    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def read_other(folder: Path) -> OtherShape:
    """The shape of a folder, counted on a model without memory. Raises ModelError."""
    path = folder / "config.json"
    stamp = path.stat().st_mtime_ns if path.is_file() else 0
    return _shape(folder.absolute(), stamp)


@lru_cache(maxsize=16)
def _shape(folder: Path, stamp: int) -> OtherShape:
    import torch
    from transformers import AutoModelForCausalLM

    config = known_config(folder)
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelError(
                f"{folder} is no causal language model ({str(error).splitlines()[0]}).",
                zh=f"{folder} 不是因果语言模型（{str(error).splitlines()[0]}）。",
            ) from error
    text = config.get_text_config()
    layers = layers_of(model, folder)
    linears: dict[str, tuple[int, int]] = {}
    for name, module in layers[0].named_modules():
        if isinstance(module, torch.nn.Linear):
            linears[name.rsplit(".", 1)[-1]] = (module.in_features, module.out_features)
    heads = int(text.num_attention_heads)
    return OtherShape(
        layers=len(layers),
        hidden=int(text.hidden_size),
        heads=heads,
        groups=int(getattr(text, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        ffn=int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size),
        vocabulary=int(text.vocab_size),
        context=int(getattr(text, "max_position_embeddings", None) or 4096),
        name=str(getattr(config, "_name_or_path", "") or folder.name).rsplit("/", 1)[-1],
        kind=str(config.model_type),
        linears=linears,
        counted=sum(parameter.numel() for parameter in model.parameters()),
        packs=_packs(model, text),
    )


def _packs(model: Any, text: Any) -> bool:
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    capped = getattr(text, "attn_logit_softcapping", None)
    backend = bool(getattr(model, "_supports_attention_backend", False))
    return kinds == {"full_attention"} and not window and not capped and backend


def layers_of(model: Any, folder: Path | str = "") -> Any:
    """The decoder's blocks. Raises ModelError for an architecture that has none of that kind."""
    from torch.nn import ModuleList

    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    found = getattr(decoder, "layers", None)
    if not isinstance(found, ModuleList):
        lists = [m for m in model.modules() if isinstance(m, ModuleList)]
        found = max(lists, key=len, default=None)
    if found is None or not len(found):
        raise ModelError(f"{folder} has no decoder layers.", zh=f"{folder} 没有解码层。")
    return found


@dataclass(frozen=True)
class LoadedOther:
    """Another base model in memory, with what is known about it."""

    model: Any
    """The causal language model, or a PeftModel around it."""
    chat: Chat | None
    """None where training asked for the weights alone."""
    folder: Path
    shape: OtherShape
    dtype: ComputeDtype
    quantise: str
    plan: MemoryPlan
    adapters: Mapping[str, AdapterInfo] = field(default_factory=dict)
    merged: str = ""

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        found: torch.device = self.model.device
        return found

    @property
    def name(self) -> str:
        """As a person would say it: "qwen3-8b (nf4)"."""
        return model_name(self.folder, dtype=self.dtype, quantise=self.quantise, merged=self.merged)


def load_other(
    folder: Path,
    *,
    adapters: Mapping[str, Path] | None = None,
    config: LoadConfig | None = None,
    template: str | None = "",
    say: Say | None = None,
) -> LoadedOther:
    """Load it with its LoRA adapters. Raises ModelError: unknown kind, does not fit, an adapter of another base.

    `template`: see `rag.templates.open_chat`; None loads no tokenizer.
    """
    how = config or LoadConfig()
    shape = read_other(folder)
    infos = {
        name: read_adapter(place, name=name, native=is_chatglm(folder))
        for name, place in (adapters or {}).items()
    }
    for info in infos.values():
        if info.kind != "lora":
            raise ModelError(
                f"The adapter {info.name!r} is a prefix; other bases than ChatGLM take LoRA adapters.",
                zh=f"适配器 {info.name!r} 是前缀；ChatGLM 以外的基座只支持 LoRA 适配器。",
            )
        check_base(info, base=folder)
    chat = None if template is None else open_chat(folder, template=template)
    device = choose_device(how.device)
    dtype = choose_dtype(how.dtype, device=device)
    plan = plan_memory(
        shape, device=device, dtype=dtype, quantise=how.quantise, cached_tokens=how.cached_tokens
    )
    if say is not None:
        say(*plan.sentence())
    if not plan.fits and how.device != "auto":
        raise out_of_memory(plan, quantise=how.quantise)
    with quiet_libraries():
        model = _from_pretrained(folder, device if how.device != "auto" else "auto", dtype, how, plan)
    chosen = {n: i for n, i in infos.items() if how.merge in ("", n)}
    if chosen:
        with quiet_libraries():
            model = attach_loras(model, chosen)
        for name in chosen:
            _must_be_active(model, name, shape)
        model.set_adapter(next(iter(chosen)))
    if how.merge:
        model = model.merge_and_unload().eval()
        infos = chosen
    return LoadedOther(model, chat, folder, shape, dtype, how.quantise, plan, infos, how.merge)


def _must_be_active(model: Any, name: str, shape: OtherShape) -> None:
    ids = [(7 * i + 3) % shape.vocabulary for i in range(1, 9)]
    if logit_change(model, name, ids=ids) == 0.0:
        raise ModelError(
            f"The adapter {name!r} is attached but changes no logit: it is not active.",
            zh=f"适配器 {name!r} 已挂上，但没有改变任何输出：它没有生效。",
        )


def _from_pretrained(
    folder: Path, device: str, dtype: ComputeDtype, how: LoadConfig, plan: MemoryPlan
) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    if how.quantise != "none":
        prepare_bitsandbytes()
    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "device_map": device,
        "attn_implementation": "sdpa",
    }
    if how.quantise != "none":
        options["quantization_config"] = quantisation(how.quantise, dtype=dtype)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
    except torch.OutOfMemoryError as error:
        raise out_of_memory(plan, quantise=how.quantise, cause=str(error).splitlines()[0]) from error
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise ModelError(
            f"{folder} cannot be loaded: {str(error).splitlines()[0]}",
            zh=f"无法加载 {folder}：{str(error).splitlines()[0]}",
        ) from error
    # settings of sampling that came with the model must not change what was asked for
    model.generation_config = GenerationConfig()
    return model.eval()
