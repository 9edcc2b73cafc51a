"""Reward models: a GLM with one row of weights that reads a score off the last token of an answer.

What `--stage rm` writes: `adapter/` (a PEFT adapter of task SEQ_CLS, its score head inside) with qlora and lora, or
`model/` (a GlmForSequenceClassification) with full and freeze. Scores have no unit; only differences between answers to
one question mean something.

reward = load_reward(Path("runs/rm-…/adapter"))                        # on its own
reward.score([[Message("user", "…"), Message("assistant", "…")]])    # [1.73]
head = add_reward(peft_model, Path("runs/rm-…/adapter"))               # beside other adapters on one base (PPO):
peft_model.set_adapter("reward"); head(hidden_of_last_tokens)          # float32 scores
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.forward import hidden_states
from kb.errors import ModelError
from rag.types import Message

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.data.types import Preference
    from finetune.methods import Trainee
    from finetune.pack import Batch
    from rag.chatglm3.chat import ChatTokenizer
    from rag.chatglm3.load import LoadedModel
    from rag.chatglm3.memory import Quantise

SCORE = "score.weight"
ROW_TOKENS = 8192
"""Tokens that are scored in one pass."""


@dataclass(frozen=True)
class ScoreHead:
    """Hidden states of last tokens -> scores."""

    weight: Tensor
    """*Shape:* (1, width), float32."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """*Shape:* `(..., width)` -> `(...)`, float32 whatever the hidden states are."""
        return (hidden.float() @ self.weight.to(hidden.device).T).squeeze(-1)


def with_score(glm: Any, *, seed: int) -> Any:
    """A GlmForSequenceClassification around the layers of a GlmForCausalLM (shared, not copied), its head new."""
    import torch
    from transformers import GlmForSequenceClassification

    for name, value in sequence_config().items():
        setattr(glm.config, name, value)
    with torch.device("meta"):
        judge: Any = GlmForSequenceClassification(glm.config)
    judge.model, judge.config = (
        glm.model,
        glm.config,
    )  # one config for all: the layers look there for their attention
    weight = glm.lm_head.weight
    drawn = torch.randn(
        1, weight.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float32
    )
    judge.score = torch.nn.Linear(weight.shape[1], 1, bias=False, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        judge.score.weight.copy_(drawn * glm.config.initializer_range)
    for name in _QUANTISED:
        if hasattr(glm, name):
            setattr(judge, name, getattr(glm, name))
    return judge.train(glm.training)


_QUANTISED = (
    "is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "quantization_method", "hf_quantizer", "hf_device_map",
)  # fmt: skip
"""What a model says about its quantised layers; PEFT asks for it."""


def sequence_config() -> dict[str, Any]:
    """What config.json of a reward model says beyond that of its base."""
    labels = {"id2label": {0: "SCORE"}, "label2id": {"SCORE": 0}}
    return {"architectures": ["GlmForSequenceClassification"], **labels}


def score_weight(glm: Any) -> Tensor:
    """The head in force, PEFT's trained copy if there is one. *Shape:* (1, width)."""
    copies = getattr(glm.score, "modules_to_save", None)
    return (glm.score if copies is None else next(iter(copies.values()))).weight  # type: ignore[no-any-return]


def last_scores(trainee: Trainee, batch: Batch) -> Tensor:
    """Score of every document of a batch. *Shape:* (documents), float32."""
    hidden = hidden_states(trainee, batch)
    last = hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.ends)
    return ScoreHead(score_weight(trainee.glm).float())(last)


def is_reward(folder: Path) -> bool:
    """Whether an adapter or model folder scores instead of speaking."""
    for name, key, value in (
        ("adapter_config.json", "task_type", "SEQ_CLS"),
        ("config.json", "architectures", ["GlmForSequenceClassification"]),
    ):
        if (folder / name).is_file():
            return bool(json.loads((folder / name).read_text(encoding="utf-8")).get(key) == value)
    return False


def read_head(folder: Path) -> ScoreHead:
    """The head of an rm adapter or model folder. Raises ModelError if there is none."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                if name.endswith(SCORE):
                    return ScoreHead(file.get_tensor(name).float())
    raise ModelError(
        f"{folder} holds no score head: it is no reward model. Train one with --stage rm.",
        zh=f"{folder} 里没有打分头，不是奖励模型。请用 --stage rm 训练一个。",
    )


def add_reward(model: Any, folder: Path, *, name: str = "reward") -> ScoreHead:
    """Put an rm adapter's LoRA beside the adapters of a PeftModel on the same base; the head is given back.

    The adapter in force stays in force; `model.set_adapter(name)` switches. Raises ModelError: no rm adapter, other base.
    """
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    if not (folder / "adapter_config.json").is_file() or not is_reward(folder):
        raise ModelError(
            f"{folder} is not a reward adapter. Train one with --stage rm and qlora or lora.",
            zh=f"{folder} 不是奖励模型的适配器。请用 --stage rm 与 qlora 或 lora 训练一个。",
        )
    head = read_head(folder)
    config = LoraConfig.from_pretrained(folder)
    config.task_type, config.modules_to_save, config.inference_mode = "CAUSAL_LM", None, True
    config.lora_dropout = 0.0  # it scores while the policy is in training mode
    active = model.active_adapter
    model.add_adapter(name, config)
    state = {k: v for k, v in load_file(folder / "adapter_model.safetensors").items() if ".lora_" in k}
    result = set_peft_model_state_dict(model, state, adapter_name=name)
    placed = [k for k, _ in model.named_parameters() if f".{name}." in k and ".lora_" in k]
    if result.unexpected_keys or len(placed) != len(state):
        raise ModelError(
            f"The reward adapter {folder} does not fit this base: {len(state)} tensors, {len(placed)} places.",
            zh=f"奖励适配器 {folder} 与基座不符：文件里 {len(state)} 个张量，模型里 {len(placed)} 个位置。",
        )
    model.set_adapter(active)
    for key, parameter in model.named_parameters():
        if f".{name}." in key:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(_lora_dtype(model, active))
    return head


def _lora_dtype(model: Any, adapter: str) -> Any:
    """The dtype of the adapter in force, so that switching changes no dtype."""
    kinds = (p.dtype for n, p in model.named_parameters() if f".{adapter}." in n and ".lora_" in n)
    return next(kinds, model.dtype)


@dataclass(frozen=True)
class RewardModel:
    """A loaded reward model."""

    trainee: Trainee
    tokenizer: ChatTokenizer

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """A score for each conversation that ends with an answer; higher is better."""
        return self.score_ids([self.tokenizer.example(messages).ids for messages in conversations])

    def score_answers(self, question: str, answers: Sequence[str]) -> list[float]:
        """A score for each answer to one question."""
        asked = Message("user", question)
        return self.score([(asked, Message("assistant", answer)) for answer in answers])

    def score_ids(self, ids: Sequence[Sequence[int]]) -> list[float]:
        """The same of token ids (prompt, answer and its end)."""
        from finetune.encode import Encoded
        from finetune.memory import Layout
        from finetune.quiet import quiet, quiet_batches

        documents = [Encoded(np.asarray(i, np.int32), np.asarray(i, np.int32)) for i in ids]
        place = {id(d): n for n, d in enumerate(documents)}
        out = [0.0] * len(documents)
        if not documents:
            return out
        with quiet(self.trainee):
            for batch in quiet_batches(documents, layout=Layout(ROW_TOKENS)):
                scores = last_scores(self.trainee, batch.to(self.trainee.device)).tolist()
                for unit, value in zip(batch.units, scores, strict=True):
                    out[place[id(unit)]] = value
        return out


def measure_pairs(model: RewardModel, examples: Sequence[Preference]) -> dict[str, float]:
    """Share of pairs in the right order (accuracy) and mean difference of the scores (margin)."""
    from finetune.data.types import Conversation, Turn
    from finetune.encode import messages_of

    sides = [
        messages_of(Conversation((*e.turns, Turn("assistant", answer)), e.system, e.tools))
        for e in examples
        for answer in (e.chosen, e.rejected)
    ]
    scores = np.asarray(model.score(sides)).reshape(-1, 2)
    ahead = scores[:, 0] - scores[:, 1]
    return {"accuracy": float((ahead > 0).mean()), "margin": float(ahead.mean())}


def load_reward(
    folder: Path, *, base: Path | None = None, device: str = "", quantise: Quantise = "none"
) -> RewardModel:
    """A reward model on its own. `base`: where its base lies now, if not where train.json says. Raises ModelError."""
    from finetune import attention
    from finetune.methods import Trainee
    from rag.chatglm3.adapters import AdapterInfo, check_base
    from rag.chatglm3.chat import open_tokenizer
    from rag.chatglm3.load import LoadConfig, load
    from rag.chatglm3.shape import read_json

    if not is_reward(folder):
        raise ModelError(
            f"{folder} is no reward model. Train one with --stage rm.",
            zh=f"{folder} 不是奖励模型。请用 --stage rm 训练一个。",
        )
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses an optional package aloud
    how = LoadConfig(device=device, quantise=quantise, cached_tokens=0)
    if not (folder / "adapter_config.json").is_file():
        loaded = load(folder, config=how, head="score")
        loaded.model.config._attn_implementation = attention.register()
        return RewardModel(Trainee(loaded.model, loaded.model, loaded, "full"), open_tokenizer(folder))
    about = read_json(folder / "train.json") if (folder / "train.json").is_file() else {}
    place = base or Path(str(about.get("base_folder", "")))
    check_base(AdapterInfo(folder.name, folder, "lora", str(about.get("base_hash", ""))), base=place)
    loaded = load(place, config=how)
    judge = with_score(loaded.model, seed=0)
    return RewardModel(_with_adapter(judge, replace(loaded, model=judge), folder), open_tokenizer(place))


def _with_adapter(judge: Any, loaded: LoadedModel, folder: Path) -> Trainee:
    import torch
    from peft import PeftModel

    from finetune import attention
    from finetune.methods import Trainee

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
        model = PeftModel.from_pretrained(judge, folder, autocast_adapter_dtype=False).eval()
    dtype = getattr(torch, loaded.dtype)
    for name, parameter in model.named_parameters():
        if ".lora_" in name or ".score." in name:
            parameter.data = parameter.data.to(dtype)
    judge.config._attn_implementation = attention.register()
    return Trainee(model, judge, loaded, "lora")
