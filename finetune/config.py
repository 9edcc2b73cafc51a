"""What a training run is asked to do. Field names are the community's where it has one; flags mirror them with dashes.

A config file has the same names, in tables of any name ([data], [method], [train] read well) or none.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from finetune.ppo.config import PpoConfig, check_ppo
from finetune.preference_config import PreferenceConfig, check_preference
from kb.errors import SettingsError

Stage = Literal["sft", "pt", "rm", "dpo", "kto", "ppo"]
Method = Literal["qlora", "lora", "freeze", "full", "ptuning"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "reduce_lr_on_plateau",
]
Optim = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
Switch = Literal["auto", "on", "off"]
Template = Literal["auto", "chatglm3", "chatglm2", "alpaca", "vicuna", "default"]
Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is trained on, and how much of it."""

    model_name_or_path: str = ""
    """Folder of a converted model; "tiny" builds a tiny random one."""
    adapter: str = ""
    """Run or LoRA adapter folder of an earlier stage to go on from; its rank, alpha and targets hold."""
    stage: Stage = "sft"
    """sft: conversations; pt: plain text; rm: a reward model; dpo, kto: preferences; ppo: a reward model's scores."""
    dataset: str = ""
    """Names in dataset_info.json or paths, with commas."""
    dataset_dir: str = "data"
    """Folder of dataset_info.json."""
    eval_dataset: str = ""
    """Evaluation sets; empty: `val_size` of the training set."""
    val_size: float = 0.0
    """Share (below 1) or number of examples kept for evaluation."""
    max_samples: int = 0
    """Examples of each set at the most; 0 takes all."""
    template: Template = "auto"
    """How a conversation is laid out; auto: as the base model itself has it."""
    cutoff_len: int = 1024
    """Tokens of one example at the most."""
    max_source_length: int = 0
    """Tokens of one question at the most; 0: only cutoff_len holds."""
    max_target_length: int = 0
    """Tokens of one answer at the most; 0: only cutoff_len holds."""
    strict: bool = False
    """A bad line ends the run instead of being reported."""


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """Which weights are trained."""

    finetuning_type: Method = "qlora"
    quantization_bit: int = 0
    """8 loads the base in int8 (lora, ptuning); qlora is always 4 (nf4, double quantisation)."""
    lora_rank: int = 16
    lora_alpha: float = 0.0
    """0: twice the rank."""
    lora_dropout: float = 0.0
    lora_target: str = "all"
    """all, native names (q_proj, ...) or official ones (query_key_value, dense, dense_h_to_4h, dense_4h_to_h)."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank)."""
    use_dora: bool = False
    """Train direction and magnitude apart."""
    loraplus_lr_ratio: float = 0.0
    """Learning rate of B over that of A (LoRA+); 0 is off, 16 is usual."""
    neftune_noise_alpha: float = 0.0
    """Noise on the embeddings in training (NEFTune); 0 is off, 5 is usual."""
    freeze_trainable_layers: int = 2
    """freeze: train the last n layers."""
    pre_seq_len: int = 128
    """ptuning: length of the learned prefix."""
    prefix_projection: bool = False
    """ptuning: make the prefix by a small network."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How long, how fast, how careful."""

    num_train_epochs: float = 3.0
    max_steps: int = 0
    """Ends there whatever num_train_epochs says; 0: not used."""
    per_device_train_batch_size: int = 4
    """Examples that one micro-step sees. With packing only the product with the accumulation counts."""
    gradient_accumulation_steps: int = 4
    learning_rate: float = 1e-4
    lr_scheduler_type: Scheduler = "cosine"
    warmup_ratio: float = 0.03
    warmup_steps: int = 0
    """Wins over warmup_ratio if above 0."""
    num_cycles: float = 0.0
    """cosine: waves, default 0.5; cosine_with_restarts: restarts, default 1."""
    lr_end: float = 1e-7
    """polynomial: where the rate ends."""
    power: float = 1.0
    """polynomial."""
    plateau_patience: int = 10
    """reduce_lr_on_plateau: evaluations (without any: logged losses) without progress before the rate falls."""
    plateau_factor: float = 0.5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    """0 never clips."""
    optim: Optim = "adamw"
    precision: Precision = "auto"
    """auto: bf16 where the GPU has it, else fp16; fp32 on a CPU."""
    device: str = "auto"
    """auto, cpu, cuda, or the number of a GPU."""
    packing: bool = True
    """Put the examples of a step into few long rows, each seeing only itself. Changes the speed, not the gradients."""
    pack_tokens: int = 0
    """Tokens of a row; 0 chooses."""
    gradient_checkpointing: Switch = "auto"
    """auto: only where memory needs it."""
    compile: Switch = "auto"
    """auto: on a GPU, when the run is long enough to win back the warm-up."""
    parallel: Parallel = "ddp"
    """Several GPUs. ddp: each has the whole model; fsdp: each has a part of it (a base that fits on none)."""
    kernels: Switch = "auto"
    """Fused layers for LoRA on packed rows. auto: on a GPU with bf16, where they can train it."""
    logging_steps: int = 1
    eval_steps: int = 0
    """Steps between evaluations; 0: once an epoch, if there is something to evaluate on."""
    save_steps: int = 100
    save_total_limit: int = 3
    """Checkpoints to keep."""
    early_stopping_patience: int = 0
    """Evaluations without progress before the run ends; 0 is off."""
    sample_steps: int = 0
    """Steps between sample answers; 0: at the end only."""
    sample_prompts: tuple[str, ...] = ()
    """Questions for samples; empty: three of the data."""
    sample_tokens: int = 128
    predict_with_generate: bool = False
    """Answer the evaluation set at the end and measure the answers."""
    tensorboard: bool = False
    seed: int = 42


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A whole run."""

    name: str = "run"
    output_dir: str = "runs"
    """The run folder is made in it."""
    data: DataConfig = field(default_factory=DataConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    ppo: PpoConfig = field(default_factory=PpoConfig)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def alpha(self) -> float:
        """LoRA alpha in force."""
        return self.method.lora_alpha or 2.0 * self.method.lora_rank

    @property
    def examples_per_step(self) -> int:
        """What one optimiser step averages over."""
        return self.train.per_device_train_batch_size * self.train.gradient_accumulation_steps

    def flat(self) -> dict[str, Any]:
        """Every value by name, ready for JSON."""
        values: dict[str, Any] = {"name": self.name, "output_dir": self.output_dir}
        for part in (self.data, self.method, self.train, self.preference, self.ppo):
            values |= asdict(part)
        return values


def _fail(flag: str, value: object, wanted: str, zh: str) -> SettingsError:
    name = "--" + flag.replace("_", "-")
    return SettingsError(f"{name} must be {wanted}, got {value!r}.", zh=f"{name} 应{zh}，现在是 {value!r}。")


_LEAST: dict[str, float] = {
    "cutoff_len": 8,
    "lora_rank": 1,
    "freeze_trainable_layers": 1,
    "pre_seq_len": 1,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "logging_steps": 1,
    "save_total_limit": 1,
    "save_steps": 1,
    "sample_tokens": 1,
}


def _check(config: RunConfig) -> None:
    for name, value in config.flat().items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            least = _LEAST.get(name, 0)
            if not value >= least or value == float("inf"):
                raise _fail(name, value, f"{least} or more", f"不小于 {least}")
    method, train = config.method, config.train
    for name in ("lora_dropout", "warmup_ratio", "adam_beta1", "adam_beta2"):
        share = getattr(method if name == "lora_dropout" else train, name)
        if share >= 1:
            raise _fail(name, share, "below 1", "小于 1")
    if train.seed >= 2**32:
        raise _fail("seed", train.seed, "below 2^32", "小于 2^32")
    if train.learning_rate <= 0:
        raise _fail("learning_rate", train.learning_rate, "above 0", "大于 0")
    if not train.max_steps and train.num_train_epochs <= 0:
        raise _fail("num_train_epochs", train.num_train_epochs, "above 0", "大于 0")
    if method.quantization_bit not in (0, 4, 8):
        raise _fail("quantization_bit", method.quantization_bit, "0, 4 or 8", "为 0、4 或 8")
    if method.quantization_bit and method.finetuning_type in ("full", "freeze"):
        raise _fail(
            "quantization_bit", method.quantization_bit, "0 with full and freeze", "在 full、freeze 时为 0"
        )
    if method.quantization_bit == 8 and method.finetuning_type == "qlora":
        raise _fail(
            "quantization_bit", 8, "0 or 4 with qlora (8 is for lora)", "在 qlora 时为 0 或 4（8 用于 lora）"
        )
    if method.finetuning_type == "ptuning" and train.gradient_checkpointing == "on":
        raise _fail("gradient_checkpointing", "on", "off with ptuning", "在 ptuning 时为 off")
    if train.compile == "on" and (method.finetuning_type == "ptuning" or not train.packing):
        raise _fail("compile", "on", "auto or off without packing", "在不打包（或 ptuning）时为 auto 或 off")
    _check_evaluation(config)
    check_preference(config, fail=_fail)
    check_ppo(config, fail=_fail)
    if not config.name or any(c in config.name for c in "/\\\0") or config.name.startswith("."):
        raise _fail("name", config.name, "a plain name", "是普通的名字")


def _check_evaluation(config: RunConfig) -> None:
    """What needs an evaluation set is refused without one: it would be found out when the training is over, or never."""
    data, train = config.data, config.train
    there = bool(data.eval_dataset or data.val_size)
    if train.early_stopping_patience and not there:
        wanted, zh = "0 without --eval-dataset or --val-size", "在没有 --eval-dataset 或 --val-size 时为 0"
        raise _fail("early_stopping_patience", train.early_stopping_patience, wanted, zh)
    if train.predict_with_generate and (data.stage == "pt" or not there):
        wanted = "off with pt, and without --eval-dataset or --val-size"
        raise _fail(
            "predict_with_generate", True, wanted, "在 pt 时、或没有 --eval-dataset 或 --val-size 时关闭"
        )


_PARTS: dict[str, Any] = {"data": DataConfig, "method": MethodConfig, "train": TrainConfig}
_PARTS |= {"preference": PreferenceConfig, "ppo": PpoConfig}


def option_types() -> dict[str, Any]:
    """Every option's name and type, in order; `docs_of` has what each means."""
    found: dict[str, Any] = {"name": str, "output_dir": str}
    for part in _PARTS.values():
        found |= get_type_hints(part)
    return found


def from_values(values: Mapping[str, Any]) -> RunConfig:
    """A config from names and values, tables allowed. Raises SettingsError naming an unknown key or a bad value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        for name, item in value.items() if isinstance(value, Mapping) else ((key, value),):
            flat[str(name).replace("-", "_")] = item
    known = option_types()
    for name, value in flat.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise SettingsError(
                f"unknown option {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""),
                zh=f"未知的选项 {name!r}。" + (f"是否想写 {close[0]!r}？" if close else ""),
            )
        flat[name] = convert(name, value, known[name])
    parts = {
        key: kind(**{f.name: flat[f.name] for f in fields(kind) if f.name in flat})
        for key, kind in _PARTS.items()
    }
    return RunConfig(**{key: flat[key] for key in ("name", "output_dir") if key in flat}, **parts)


def convert(name: str, value: Any, kind: Any) -> Any:
    """A value of TOML, JSON or a flag as the option's type. Raises SettingsError."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is Literal:
        if isinstance(value, bool) and "on" in get_args(kind):
            value = "on" if value else "off"
        if value not in get_args(kind):
            allowed = ", ".join(map(str, get_args(kind)))
            raise _fail(name, value, f"one of {allowed}", f"是 {allowed} 之一")
        return value
    if get_origin(kind) is tuple:
        if isinstance(value, str) or not all(isinstance(v, str) for v in value):
            raise _fail(name, value, "a list of texts", "是文字的列表")
        return tuple(value)
    if kind is bool and isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str):
        return value
    words = {bool: ("true or false", "是 true 或 false"), int: ("a whole number", "是整数")}
    raise _fail(
        name, value, *words.get(kind, ("a number", "是数字") if kind is float else ("a text", "是文字"))
    )
