"""Which weights of a loaded base are trained, and how the result is saved.

Nothing is widened to float32 on the way (no prepare_model_for_kbit_training): the base stays as loaded, trained
weights have its compute dtype, and the optimiser keeps their float32 masters.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from finetune import attention
from finetune.bases import load_base, target_names
from finetune.config import RunConfig
from finetune.start import POLICY, fill
from kb.errors import ModelError, SettingsError
from rag.chatglm3.shape import GlmShape
from rag.models import layers_of

if TYPE_CHECKING:
    import torch

    from rag.chatglm3.load import LoadedModel
    from rag.models import LoadedOther

T = TypeVar("T")
ADAPTERS = ("qlora", "lora", "ptuning")
"""Methods that give a small adapter; the others give a whole model."""


_BESIDE = (
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""What a model folder needs beside weights and tokenizer files."""


@dataclass(frozen=True)
class Trainee:
    """A model that is being trained."""

    model: Any
    """What is saved: a PeftModel, or the GlmForCausalLM itself."""
    glm: Any
    """The GlmForCausalLM inside, with adapters in its layers."""
    loaded: LoadedModel | LoadedOther
    method: str
    prefix: int = 0
    """Tokens of the learned prefix; 0 without."""
    stack: Any = None
    """finetune.kernels.stack.Stack, if the layers run fused."""
    root: Any = None
    """With sharded weights: the module in whose forward pass everything must happen."""

    def within(self, work: Callable[[], T]) -> T:
        """Do something with the model while its outer weights are there."""
        return work() if self.root is None else self.root(work)

    @property
    def decoder(self) -> Any:
        """The layers with embeddings and last norm: ids or embeddings in, hidden states out."""
        return self.glm.get_decoder()

    @property
    def blocks(self) -> Any:
        """The decoder's layers."""
        return layers_of(self.glm)

    @property
    def device(self) -> str:
        """Where it lies."""
        return str(self.glm.device)

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Trained weights by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        """Inside, the model generates and takes padded rows: attention with masks and caches."""
        before, training = self.glm.config._attn_implementation, self.model.training
        self.glm.config._attn_implementation = "sdpa"
        self.model.eval()
        try:
            yield
        finally:
            self.glm.config._attn_implementation = before
            self.model.train(training)


def resolve_targets(text: str) -> list[str]:
    """`--lora-target` as module names of ChatGLM. Raises SettingsError for an unknown name."""
    return target_names(text)


def quantise_of(config: RunConfig) -> str:
    """How the base is loaded: nf4, int8 or none."""
    bits = 4 if config.method.finetuning_type == "qlora" else config.method.quantization_bit
    return {0: "none", 8: "int8", 4: "nf4"}[bits]


def open_base(config: RunConfig, *, folder: Path, device: str) -> LoadedModel | LoadedOther:
    """The base, quantised as the method wants it, on what becomes this thread's GPU. Raises ModelError."""
    import logging

    import torch
    from transformers.utils import logging as transformers_logging

    from rag.chatglm3.load import LoadConfig

    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses an optional package aloud
    precision = config.train.precision
    how = LoadConfig(
        dtype="" if precision == "auto" else precision,
        quantise=quantise_of(config),  # type: ignore[arg-type]
        device=device,
        cached_tokens=0,
    )
    if device.startswith("cuda"):
        torch.cuda.set_device(device)  # our kernels run on the current GPU, wherever their tensors lie
    return load_base(folder, how)


def attach(loaded: LoadedModel | LoadedOther, *, config: RunConfig) -> Trainee:
    """Make what the method trains trainable, and nothing else. The weights it adds depend on the seed alone."""
    import torch

    method = config.method.finetuning_type
    torch.manual_seed(config.train.seed)
    if config.data.stage == "rm":
        from finetune.reward import with_score

        loaded = replace(loaded, model=with_score(loaded.model, seed=config.train.seed))
    glm = loaded.model
    glm.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
        if method in ("full", "freeze"):
            _thaw(glm, config)
            trainee = Trainee(glm, glm, loaded, method)
        elif method == "ptuning":
            model = _with_prefix(glm, loaded.shape, config)
            trainee = Trainee(model, glm, loaded, method, prefix=config.method.pre_seq_len)
        else:
            trainee = Trainee(_with_lora(glm, loaded.shape, config), glm, loaded, method)
            if config.data.adapter:
                fill(trainee.model, Path(config.data.adapter), name=POLICY, base=loaded.folder)
    dtype = getattr(torch, loaded.dtype)
    for parameter in trainee.trainable().values():
        parameter.data = parameter.data.to(dtype)
    if method != "ptuning" and config.train.packing:
        glm.config._attn_implementation = attention.register()
    trainee.model.train()
    return trainee


def _thaw(glm: Any, config: RunConfig) -> None:
    if config.method.finetuning_type == "full":
        glm.requires_grad_(True)
        return
    if config.data.stage == "rm":
        glm.score.requires_grad_(True)
    count, layers = config.method.freeze_trainable_layers, layers_of(glm)
    if count > len(layers):
        raise SettingsError(
            f"--freeze-trainable-layers {count}: the model has {len(layers)} layers.",
            zh=f"--freeze-trainable-layers {count}：模型只有 {len(layers)} 层。",
        )
    for layer in layers[-count:]:
        layer.requires_grad_(True)


def _with_lora(glm: Any, shape: GlmShape, config: RunConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    method = config.method
    lora = LoraConfig(
        task_type="SEQ_CLS" if config.data.stage == "rm" else "CAUSAL_LM",
        r=method.lora_rank,
        lora_alpha=config.alpha,
        lora_dropout=method.lora_dropout,
        target_modules=target_names(method.lora_target, shape=shape),
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
    )
    return get_peft_model(glm, lora, autocast_adapter_dtype=False)


def _with_prefix(glm: Any, shape: GlmShape, config: RunConfig) -> Any:
    from peft import PrefixTuningConfig, get_peft_model

    prefix = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=config.method.pre_seq_len,
        prefix_projection=config.method.prefix_projection,
        encoder_hidden_size=shape.hidden,
    )
    return get_peft_model(glm, prefix, autocast_adapter_dtype=False)


def checkpoint_layers(trainee: Trainee) -> None:
    """Forget activations inside layers and compute them again in the backward pass."""
    if trainee.prefix:
        raise ModelError(
            "P-tuning cannot recompute activations. Shorten --cutoff-len or --per-device-train-batch-size.",
            zh="P-tuning 不能重算激活。请减小 --cutoff-len 或 --per-device-train-batch-size。",
        )
    trainee.glm.gradient_checkpointing_enable({"use_reentrant": False})


def fuse_layers(trainee: Trainee, *, kept: int, resident: bool, roomy: bool = False) -> Trainee:
    """The same model, its decoder layers carried out by finetune.kernels in training and evaluation."""
    from finetune.kernels.stack import Stack

    return replace(trainee, stack=Stack(trainee.glm, kept=kept, resident=resident, roomy=roomy))


def compile_layers(trainee: Trainee, *, backend: str = "inductor") -> None:
    """Compile every layer for one fixed shape; a new shape would be an error, see `train`."""
    for layer in trainee.blocks:
        layer.compile(dynamic=False, backend=backend)


def save(trainee: Trainee, folder: Path, *, weights: dict[str, Any] | None = None) -> None:
    """The trained weights: PEFT's adapter files, or for full and freeze a whole standard model folder.

    `weights`: by name, of a model whose own are sharded.
    """
    if trainee.method in ADAPTERS:
        trainee.model.save_pretrained(
            folder, save_embedding_layers=False, state_dict=weights, selected_adapters=[POLICY]
        )
        return
    trainee.glm.save_pretrained(folder, state_dict=weights)
    for file in sorted(trainee.loaded.folder.iterdir()):
        if file.name.startswith("tokenizer") or file.name in _BESIDE:
            shutil.copy2(file, folder / file.name)
    if hasattr(trainee.glm, "score"):
        from finetune.reward import sequence_config

        about = json.loads((folder / "config.json").read_text(encoding="utf-8")) | sequence_config()
        (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
