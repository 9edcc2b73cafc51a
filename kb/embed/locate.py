"""Where a model lies on this machine. Nothing here ever downloads."""

from __future__ import annotations

import re
from pathlib import Path

from kb.errors import EmbedderError

SHIPPED = Path(__file__).resolve().parent.parent / "models" / "zhiwen-embed-zh"
"""The small Chinese embedder that comes with the package."""

PREFERRED = "shibing624/text2vec-base-chinese"
"""The embedder of choice."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_MARKS = ("modules.json", "config.json")


def is_model(folder: Path) -> bool:
    """Whether the folder looks like a sentence-transformers or transformers model."""
    return any((folder / mark).is_file() for mark in _MARKS)


def find_model(model: str, *, models_folder: Path | None = None) -> Path | None:
    """The folder of a model on this machine, or None. A path goes before a hub id.

    Looked at, in this order: the path itself, the shipped model's name, `models_folder` (as `<id>`, `<org>--<name>`
    or `<name>`), the Hugging Face cache.
    """
    given = Path(model).expanduser()
    if is_model(given):
        return given
    if model == SHIPPED.name:
        return SHIPPED if is_model(SHIPPED) else None
    if given.is_absolute() or ".." in given.parts or model.startswith("~"):
        return None
    if models_folder is not None:
        for name in (model, model.replace("/", "--"), given.name):
            if is_model(models_folder / name):
                return models_folder / name
    return _in_hub_cache(model) if _HUB_ID.fullmatch(model) else None


def _in_hub_cache(model: str) -> Path | None:
    """The newest complete snapshot in the Hugging Face cache (`HF_HOME` is obeyed by the hub's own library)."""
    from huggingface_hub import try_to_load_from_cache

    for mark in _MARKS:
        found = try_to_load_from_cache(model, mark)
        if isinstance(found, str):
            return Path(found).parent
    return None


def missing(model: str, *, models_folder: Path | None = None) -> EmbedderError:
    """The error for a model that is not on this machine, with what to do."""
    short = model.split("/")[-1] if _HUB_ID.fullmatch(model) else "text2vec-base-chinese"
    looked = f"{models_folder}" if models_folder is not None else "-"
    return EmbedderError(
        f"The embedding model {model!r} is not on this machine (looked at the path, in {looked}, in the Hugging Face "
        f"cache). Fetch it with: zhiwen models pull {short} ; or give the folder of a sentence-transformers model.",
        zh=f"本机没有向量模型 {model!r}（已查找该路径、{looked} 与 Hugging Face 缓存）。"
        f"请运行：zhiwen models pull {short} ；或给出一个 sentence-transformers 模型文件夹的路径。",
    )
