"""What a person may set about the embedder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from kb.errors import SettingsError
from kb.types import Metric

NO_PREFIX = "none"
"""As a prefix: use none, even if the model brings one."""

DTYPES = ("", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class EmbedderConfig:
    """Empty text means "decide by yourself" in every field."""

    model: str = ""
    """Folder or hub id of a sentence-transformers model. Empty: text2vec if it is here, else the shipped one."""
    query_prefix: str = ""
    """Put before each question. Empty: the model's own, if it has one; "none": none."""
    passage_prefix: str = ""
    """Put before each passage. Empty: the model's own, if it has one; "none": none."""
    metric: Metric = "cosine"
    """cosine, ip (inner product) or l2."""
    device: str = ""
    """A torch device such as "cpu" or "cuda:0". Empty: cuda if there is one."""
    dtype: str = ""
    """float32, bfloat16, float16. Empty: bfloat16 where the hardware computes in it, else float32."""

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise SettingsError(
                f"embedder metric: {self.metric!r} is not one of cosine, ip, l2.",
                zh=f"embedder metric：{self.metric!r} 无效，可选 cosine、ip、l2。",
            )
        if self.dtype not in DTYPES:
            raise SettingsError(
                f"embedder dtype: {self.dtype!r} is not one of float32, bfloat16, float16 (or empty).",
                zh=f"embedder dtype：{self.dtype!r} 无效，可选 float32、bfloat16、float16（或留空）。",
            )
