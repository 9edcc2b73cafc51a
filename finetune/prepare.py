"""Data sets -> what a run trains and evaluates on, with their hashes, before any model is loaded."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import RunConfig
from finetune.data.load import Loaded, load_sets
from finetune.data.registry import find
from finetune.data.types import Conversation, Example, PlainText
from finetune.encode import EncodeReport, Limits, encode_all, messages_of
from finetune.encode_judged import encode_judged
from finetune.pack import Unit
from finetune.preference_config import PREFERENCE_STAGES
from finetune.start import base_of
from kb.errors import DataError, SettingsError
from rag.chatglm3.folder import sha256_of
from rag.types import Message

if TYPE_CHECKING:
    from rag.types import Chat


@dataclass(frozen=True)
class Prepared:
    """Everything that a run learns from."""

    train: tuple[Unit, ...]
    evaluation: tuple[Unit, ...]
    train_examples: tuple[Example, ...]
    eval_examples: tuple[Example, ...]
    report: EncodeReport
    facts: dict[str, Any]
    """For data.json: files with SHA-256, counts, bad lines."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each training document."""
        return [len(e) for e in self.train]

    def prompts(self, count: int = 3) -> list[tuple[Message, ...]]:
        """Conversations up to their last answer (or beginnings of texts, as one message) to show progress with."""
        chosen = self.eval_examples or self.train_examples
        found = dict.fromkeys(prompt for e in chosen[: 4 * count] if (prompt := _prompt(e)))
        return list(found)[:count]


def _prompt(example: Example) -> tuple[Message, ...]:
    if isinstance(example, PlainText):
        return (Message("user", example.text[:20]),)
    if isinstance(example, Conversation):
        return tuple(messages_of(example)[:-1])
    return tuple(messages_of(Conversation(example.turns, example.system, example.tools)))


def model_folder(config: RunConfig) -> Path:
    """The base model's folder. Raises SettingsError if none is named."""
    if not config.data.model_name_or_path:
        raise SettingsError(
            "no model. Give --model-name-or-path FOLDER (see zhiwen models), or tiny for a tiny random one.",
            zh="没有指定模型。请给出 --model-name-or-path 文件夹（见 zhiwen models），或用 tiny 生成极小的随机模型。",
        )
    return Path(config.data.model_name_or_path).expanduser()


def read_examples(config: RunConfig) -> tuple[list[Example], list[Example], dict[str, Any]]:
    """Training and evaluation examples and what is known about their files. Raises DataError."""
    data = config.data
    if not data.dataset:
        raise SettingsError(
            "no data. Give --dataset NAME[,NAME].", zh="没有指定数据。请给出 --dataset 名称[,名称]。"
        )
    seed, folder = config.train.seed, Path(data.dataset_dir).expanduser()
    loaded = load_sets(data.dataset, folder=folder, limit=data.max_samples, seed=seed, strict=data.strict)
    train = list(loaded.examples)
    held: list[Example] = []
    facts = {"train": _facts(data.dataset, folder, loaded)}
    if data.eval_dataset:
        more = load_sets(
            data.eval_dataset, folder=folder, limit=data.max_samples, seed=seed, strict=data.strict
        )
        held = list(more.examples)
        facts["evaluation"] = _facts(data.eval_dataset, folder, more)
    elif data.val_size:
        train, held = split(train, val_size=data.val_size, seed=seed)
    return train, held, facts


def split(examples: list[Example], *, val_size: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Take a share (below 1) or a number of examples away for evaluation, drawn with `seed`."""
    count = round(val_size * len(examples)) if val_size < 1 else int(val_size)
    count = max(count, 1)
    if count >= len(examples):
        raise DataError(
            f"--val-size {val_size:g} leaves nothing of {len(examples)} examples to train on.",
            zh=f"--val-size {val_size:g} 之后，{len(examples)} 条样本里没有剩下可训练的。",
        )
    held = set(random.Random(seed).sample(range(len(examples)), count))
    return (
        [e for i, e in enumerate(examples) if i not in held],
        [e for i, e in enumerate(examples) if i in held],
    )


def _facts(names: str, folder: Path, loaded: Loaded) -> dict[str, Any]:
    files = {
        file.name: sha256_of(file)
        for found in find(names, folder=folder)
        for file in found.files
        if file.is_file()
    }
    bad = [{"place": str(b.source), "reason": b.reason, "zh": b.zh or b.reason} for b in loaded.bad[:100]]
    return {
        "sets": names,
        "sha256": files,
        "examples": len(loaded.examples),
        "bad_lines": len(loaded.bad),
        "bad": bad,
        "formats": dict(loaded.formats),
    }


def prepare(config: RunConfig, *, tokenizer: Chat) -> Prepared:
    """Read and encode. Raises DataError, SettingsError."""
    train, held, facts = read_examples(config)
    data = config.data
    limits = Limits(data.cutoff_len, data.max_source_length, data.max_target_length)
    encode: Any = encode_judged if data.stage in PREFERENCE_STAGES else encode_all
    if data.stage == "ppo":
        from finetune.ppo.prompts import encode_prompts as encode
    documents, report = encode(train, stage=data.stage, tokenizer=tokenizer, limits=limits)
    evaluation: list[Unit] = []
    if held:
        evaluation, _ = encode(held, stage=data.stage, tokenizer=tokenizer, limits=limits)
    facts |= {
        "documents": len(documents),
        "tokens": report.tokens,
        "trained_tokens": report.trained,
        "shortened": report.shortened,
        "unusable": report.unusable[:100],
        "held_out": len(held),
    }
    return Prepared(tuple(documents), tuple(evaluation), tuple(train), tuple(held), report, facts)


def left_out(prepared: Prepared) -> list[tuple[str, str]]:
    """What was left out or cut, in words: (Chinese, English)."""
    report = prepared.report
    bad = sum(int(f.get("bad_lines", 0)) for f in prepared.facts.values() if isinstance(f, dict))
    found = (
        (bad, "行有问题，未使用（见 data.json）", "bad lines were left out (see data.json)"),
        (len(report.unusable), "条样本没有可学的内容，未使用", "examples had nothing to learn from"),
        (report.shortened, "条样本超长，已截短", "examples were too long and were shortened"),
    )
    return [(f"{count} {zh}", f"{count} {en}") for count, zh, en in found if count]


def with_model(config: RunConfig, *, home: Path) -> RunConfig:
    """The config with "tiny" replaced by the folder of a tiny random model, built from the data if it is not there.

    Where an adapter is gone on from and no model is named, the model is the adapter's own.
    """
    if config.data.model_name_or_path in ("", "tiny") and (base := base_of(config)):
        return replace(config, data=replace(config.data, model_name_or_path=base))
    if config.data.model_name_or_path != "tiny":
        return config
    from finetune import tiny

    train, held, _ = read_examples(config)
    texts = tiny.texts_of([*train, *held])
    key = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]
    folder = home / "models" / f"tiny-{key}"
    if not (folder / "config.json").is_file():
        tiny.build(folder, texts=texts, seed=config.train.seed)
    return replace(config, data=replace(config.data, model_name_or_path=str(folder)))


def sources(documents: Sequence[Unit], most: int = 3) -> str:
    """Where documents come from, for a message."""
    places = [str(d.source) for d in documents if d.source is not None]
    return ", ".join(places[:most]) + (" …" if len(places) > most else "")
