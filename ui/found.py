"""Models and adapters that are on this machine, for every page that lets somebody choose one."""

from __future__ import annotations

import json
from pathlib import Path

from ui.settings import Settings


def is_converted(folder: Path) -> bool:
    """Whether it is a language model in the standard layout with its tokenizer: what can answer and be trained."""
    try:
        about = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    if not isinstance(about, dict) or "auto_map" in about or about.get("model_type") == "chatglm":
        return False
    kinds = about.get("architectures") or []
    speaks = isinstance(kinds, list) and any(str(kind).endswith("ForCausalLM") for kind in kinds)
    return speaks and any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def converted_models(settings: Settings) -> list[Path]:
    """The settings' model first, then those in the models folder by name."""
    found = []
    if settings.generator.here and is_converted(settings.generator_folder):
        found.append(settings.generator_folder)
    if settings.models.is_dir():
        found += [folder for folder in sorted(settings.models.iterdir()) if is_converted(folder)]
    return list(dict.fromkeys(found))


def runs_folder(settings: Settings) -> Path:
    """Where training runs are kept."""
    return settings.home / "runs"


def adapter_folders(settings: Settings) -> list[Path]:
    """The settings' own first, then every adapter that `zhiwen adapters list` shows."""
    from finetune.adapters import find_adapters
    from ui.speakers import adapter_places, adapters_folder

    given = Path(settings.generator.adapter).expanduser()
    found = [given] if settings.generator.adapter and given.is_dir() else []
    found += [r.folder for r in find_adapters(adapter_places(settings), state=adapters_folder(settings))]
    return list(dict.fromkeys(path.resolve() for path in found))


def promoted_folder(settings: Settings) -> Path | None:
    """The adapter that answers when nobody chooses another; None: the base."""
    from finetune.adapters import promoted
    from ui.speakers import adapters_folder

    about = promoted(adapters_folder(settings))
    return Path(str(about["folder"])).resolve() if about.get("folder") else None


def adapter_name(folder: Path) -> str:
    """What a person calls it: the run's name for runs/NAME/adapter, else the folder's own."""
    return folder.parent.name if folder.name == "adapter" else folder.name


def base_of(adapter: Path) -> str:
    """Hash of the base model that it was trained on; empty if nobody wrote it down."""
    try:
        about = json.loads((adapter / "train.json").read_bytes())
    except (OSError, ValueError):
        return ""
    return str(about.get("base_hash", "")) if isinstance(about, dict) else ""


def fits(adapter: Path, model: Path) -> bool:
    """Whether an adapter may be used with a model: it says so, or says nothing."""
    from kb.errors import ModelError
    from rag.chatglm3.base import base_hash

    wanted = base_of(adapter)
    try:
        return not wanted or wanted == base_hash(model)
    except (ModelError, OSError):
        return False
