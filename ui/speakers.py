"""The part of `ui.wiring` that opens language models: the one that answers, and several adapters side by side.

Servers are kept for the life of the process; of the models of this machine one at a time is (see `ui.held`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from kb.errors import ModelError, SettingsError
from rag.types import Generator
from ui import held
from ui.settings import GeneratorSettings, Settings, secret

if TYPE_CHECKING:
    from finetune.adapters import AdapterRecord
    from ui.held import LocalModel

CONTEXT = 8192
"""Tokens that ChatGLM3 was made for; the memory plan counts with them where no context is set."""
BASE = "base"
"""What the model without an adapter is called in a comparison."""


@dataclass(frozen=True, slots=True)
class Speaker:
    """A generator, and the adapter with which it answers; empty for the base."""

    name: str
    generator: Generator
    adapter: str
    version: str
    """Changes with the weights: model, adapter file, quantisation."""


def adapters_folder(settings: Settings) -> Path:
    """Where adapters are kept, and where promoted.json says which one answers."""
    return settings.home / "adapters"


def adapter_places(settings: Settings) -> list[Path]:
    """Where adapters are looked for: the kept ones, then the runs of the home and of the current folder."""
    return [adapters_folder(settings), settings.home / "runs", Path("runs")]


def find_adapter(settings: Settings, name: str) -> AdapterRecord:
    """By name or folder. Raises ModelError naming those that there are."""
    from finetune.adapters import get

    return get(adapter_places(settings), name, state=adapters_folder(settings))


def answering_adapter(settings: Settings) -> tuple[str, Path] | None:
    """(name, folder) of what [generator] adapter or --adapter says, else of the promoted one; None: the base answers.

    The name "base" chooses the base whatever is promoted.
    """
    from finetune.adapters import promoted

    if not settings.generator.here or settings.generator.adapter == BASE:
        return None
    if settings.generator.adapter:
        record = find_adapter(settings, settings.generator.adapter)
        return record.name, record.folder
    about = promoted(adapters_folder(settings))
    if not about:
        return None
    folder = Path(str(about.get("folder", "")))
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"The promoted adapter {about.get('adapter')!r} is gone from {folder}. "
            "Promote another one, or run: zhiwen adapters promote --base",
            zh=f"已启用的适配器 {about.get('adapter')!r} 不在 {folder} 了。请启用另一个，或运行：zhiwen adapters promote --base",
        )
    return str(about["adapter"]), folder


def open_answering(settings: Settings) -> Generator:
    """The generator that answers people. Raises SettingsError, ModelError or GenerationError."""
    wanted = settings.generator
    if wanted.kind == "openai":
        return _server(wanted, secret(wanted.key_env))
    chosen = answering_adapter(settings)
    adapters = {held.key_of(chosen[0]): chosen[1]} if chosen else {}
    found = held.take(wanted, settings.generator_folder, adapters=adapters)
    return held.Voice(found.generator, next(iter(adapters), ""))


def open_speakers(settings: Settings, names: Sequence[str]) -> list[Speaker]:
    """The base and the adapters, in this order. chatglm3: one model in memory carries all; openai: names of served models.

    Where no language model is set, it is the one that the adapters were trained on. Raises SettingsError if no language model is set, ModelError for an adapter that is not there or does not fit.
    """
    settings = with_their_base(settings, names)
    wanted = settings.generator
    if wanted.kind == "none":
        raise SettingsError(
            "this needs a language model, and none is set. See: zhiwen settings set generator.kind chatglm3",
            zh="这需要语言模型，目前没有配置。请看：zhiwen settings set generator.kind chatglm3",
        )
    if wanted.kind == "openai":
        key = secret(wanted.key_env)
        models = {BASE: wanted.model} | {name: name for name in names}
        return [
            Speaker(name, _server(replace(wanted, model=model), key), "", f"{wanted.base_url} {model}")
            for name, model in models.items()
        ]
    records = [find_adapter(settings, name) for name in names]
    adapters = {held.key_of(record.name): record.folder for record in records}
    if len(adapters) < len(records):
        raise ModelError("an adapter is named twice.", zh="有适配器写了两次。")
    generator = held.take(wanted, settings.generator_folder, adapters=adapters).generator
    speakers = [Speaker(BASE, generator, "", _version(wanted, settings.generator_folder, None))]
    for record in records:
        version = _version(wanted, settings.generator_folder, record.folder)
        speakers.append(Speaker(record.name, generator, held.key_of(record.name), version))
    return speakers


def with_their_base(settings: Settings, names: Sequence[str]) -> Settings:
    """The settings with the base that all these adapters were trained on, if no language model is set and it is here."""
    if settings.generator.kind != "none":
        return settings
    bases = {base_here(settings, find_adapter(settings, name)) for name in names}
    if len(bases) != 1 or (base := bases.pop()) is None:
        return settings
    return replace(settings, generator=replace(settings.generator, kind=kind_of(base), model=str(base)))


def base_here(settings: Settings, record: AdapterRecord) -> Path | None:
    """The model that an adapter was trained on, where that was or in the models folder; None if it is not here."""
    from ui.found import converted_models, fits

    said = Path(str(record.train.get("base_folder") or "nowhere"))
    if (said / "config.json").is_file():
        return said
    known = bool(record.train.get("base_hash"))
    return next((m for m in converted_models(settings) if known and fits(record.folder, m)), None)


def kind_of(model: Path) -> str:
    """generator.kind for a model folder of this machine."""
    from rag.templates import is_chatglm

    return "chatglm3" if is_chatglm(model) else "local"


def let_answer(settings: Settings, record: AdapterRecord) -> Path | None:
    """Where no language model is set, make the adapter's base the model of the settings, or nobody would use the adapter.

    Returns the base if it was set; None if a model is set already or the base is not on this machine.
    """
    from ui.settings_file import write_setting

    base = base_here(settings, record) if settings.generator.kind == "none" else None
    if base is not None:
        write_setting(settings.home, "generator.model", str(base.resolve()))
        write_setting(settings.home, "generator.kind", kind_of(base))
    return base


def _version(wanted: GeneratorSettings, folder: Path, adapter: Path | None) -> str:
    parts: Mapping[str, object] = asdict(wanted)
    weights = ""
    if adapter is not None:
        for file in sorted(adapter.glob("*.safetensors")):
            weights += hashlib.sha256(file.read_bytes()).hexdigest()
    text = json.dumps([parts, str(folder.resolve()), weights], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=8)
def _server(wanted: GeneratorSettings, key: str) -> Generator:
    from rag.generate.openai_client import OpenAIConfig, OpenAIGenerator

    return OpenAIGenerator(
        OpenAIConfig(
            base_url=wanted.base_url,
            model=wanted.model,
            key=key,
            context_tokens=wanted.context_tokens,
            timeout=wanted.timeout,
        )
    )


def open_model(
    folder: Path, adapters: Mapping[str, Path], wanted: GeneratorSettings, *, default: str = ""
) -> LocalModel:
    """A model of this machine with its adapters, not kept: whoever opens it closes it. Raises ModelError."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is not a model folder. ChatGLM: zhiwen models convert OFFICIAL {folder}",
            zh=f"{folder} 不是模型文件夹。ChatGLM 请运行：zhiwen models convert 官方文件夹 {folder}",
        )
    from rag.chatglm3.adapters import engine_takes
    from rag.chatglm3.engine.engine import EngineConfig
    from rag.chatglm3.load import LoadConfig, load
    from rag.generate.chatglm3 import ChatGLM3Generator
    from rag.generate.local import LocalGenerator
    from rag.models import load_other
    from rag.templates import is_chatglm, open_chat
    from rag.templates.choice import choose_template

    template = choose_template(wanted.template, adapters=adapters)
    odd = [name for name, place in adapters.items() if not engine_takes(place)]
    theirs = is_chatglm(folder) and not odd
    engine = EngineConfig(context=wanted.context_tokens)
    config = LoadConfig(
        dtype=wanted.dtype,  # type: ignore[arg-type]
        quantise=wanted.quantise,  # type: ignore[arg-type]
        device=wanted.device,
        cached_tokens=(engine.slots if theirs else 1) * (engine.context or CONTEXT),
    )
    if not theirs:
        other = load_other(folder, adapters=adapters, config=config, template=template)
        note = _slower(odd[0]) if odd and is_chatglm(folder) else None
        return LocalGenerator(other, context=wanted.context_tokens, adapter=default, note=note)
    loaded = load(folder, adapters=adapters, config=config)
    if loaded.tokenizer is not None:
        loaded = replace(loaded, tokenizer=open_chat(folder, template=template))
    return ChatGLM3Generator(loaded, config=engine, adapter=default)


def _slower(name: str) -> tuple[str, str]:
    return (
        f"适配器 {name} 不是普通 LoRA（DoRA、偏置或嵌入层），改用 transformers 逐条生成，较慢。DoRA 合并后可用快速引擎："
        "zhiwen models export --adapter，再 zhiwen models convert。",
        f"The adapter {name} is not plain LoRA (DoRA, biases or the embedding): transformers writes the answers, one after "
        "the other, which is slower. DoRA can be merged for the engine: zhiwen models export --adapter, then zhiwen models convert.",
    )
