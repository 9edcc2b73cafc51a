"""Opening an embedder, and deciding which one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kb.embed.config import EmbedderConfig
from kb.embed.layout import read_layout
from kb.embed.locate import PREFERRED, SHIPPED, find_model, is_model, missing
from kb.errors import EmbedderError
from kb.types import Embedder

_DEFAULT = EmbedderConfig()


@dataclass(frozen=True, slots=True)
class EmbedderChoice:
    """An embedder, and what to tell the person about it (empty: nothing, it is what they asked for)."""

    embedder: Embedder
    message_zh: str = ""
    message_en: str = ""


def open_embedder(config: EmbedderConfig = _DEFAULT, *, models_folder: Path | None = None) -> Embedder:
    """Open the model that `config.model` names (empty: the shipped one). Never downloads.

    Errors: EmbedderError if it is not on this machine or broken; its text has the command that fetches it.
    """
    name = config.model or SHIPPED.name
    folder = find_model(name, models_folder=models_folder)
    if folder is None and name == SHIPPED.name:
        raise EmbedderError(
            f"The embedder that ships with zhiwen is missing ({SHIPPED}). Install zhiwen again.",
            zh=f"随包附带的向量模型缺失（{SHIPPED}）。请重新安装 zhiwen。",
        )
    if folder is None:
        raise missing(name, models_folder=models_folder)
    name = folder.resolve().name if Path(name).expanduser() == folder else name
    layout = read_layout(folder, name=name)
    if layout.kind == "static":
        from kb.embed.static import StaticEmbedder

        return StaticEmbedder(layout, config=config, name=name)
    if layout.kind == "transformer":
        from kb.embed.transformer import TransformerEmbedder

        return TransformerEmbedder(layout, config=config, name=name)
    from kb.embed.general import GeneralEmbedder

    return GeneralEmbedder(layout, config=config, name=name)


def choose_embedder(config: EmbedderConfig, *, models_folder: Path | None) -> EmbedderChoice:
    """The model that is set; else text2vec-base-chinese if it is on this machine; else the shipped one, said aloud.

    Errors: as `open_embedder`.
    """
    if config.model:
        return EmbedderChoice(open_embedder(config, models_folder=models_folder))
    preferred = find_model(PREFERRED, models_folder=models_folder)
    if preferred is not None:
        return EmbedderChoice(open_embedder(replace(config, model=PREFERRED), models_folder=models_folder))
    if not is_model(SHIPPED):
        raise missing(PREFERRED, models_folder=models_folder)
    embedder = open_embedder(replace(config, model=SHIPPED.name))
    return EmbedderChoice(
        embedder,
        message_zh=f"本机没有 {PREFERRED}，使用随包附带的小向量模型 {SHIPPED.name}。"
        "要换用 text2vec，请运行：zhiwen models pull text2vec-base-chinese",
        message_en=f"{PREFERRED} is not on this machine; using the small embedder that ships with zhiwen, "
        f"{SHIPPED.name}. To use text2vec, run: zhiwen models pull text2vec-base-chinese",
    )


def truncated_tokens(embedder: Embedder, texts: Sequence[str]) -> int:
    """Tokens of `texts` beyond the embedder's limit, which it would not see (one tokenisation)."""
    return sum(max(0, count - embedder.max_tokens) for count in embedder.count_tokens(texts))
