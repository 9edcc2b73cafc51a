"""What may be set about splitting."""

from __future__ import annotations

from dataclasses import dataclass

from kb.errors import SettingsError


@dataclass(frozen=True, slots=True)
class SplitConfig:
    """Lengths of passages in characters, of chunks in the embedder's tokens."""

    min_chars: int = 80
    """A passage shorter than this takes in the next section, if that stands beside it or under it."""
    target_chars: int = 400
    """A passage is closed at the paragraph that brings it here."""
    max_chars: int = 600
    """No passage is longer (a repeated table header not counted)."""
    chunk_tokens: int = 160
    """No chunk is longer, even if the embedder would read more: one vector for a few sentences finds better."""
    prefix_share: float = 1 / 3
    """How much of a chunk's tokens heading path and table header may take."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_chars <= self.target_chars <= self.max_chars <= 100_000:
            raise SettingsError(
                "split: 1 <= min_chars <= target_chars <= max_chars <= 100000 is needed, not "
                f"{self.min_chars}, {self.target_chars}, {self.max_chars}.",
                zh="split：须满足 1 ≤ min_chars ≤ target_chars ≤ max_chars ≤ 100000。",
            )
        if self.chunk_tokens < 8 or not 0 <= self.prefix_share <= 0.5:
            raise SettingsError(
                f"split: chunk_tokens {self.chunk_tokens} must be 8 or more, prefix_share {self.prefix_share} 0 to 0.5.",
                zh=f"split：chunk_tokens（{self.chunk_tokens}）须不小于 8，prefix_share（{self.prefix_share}）须在 0 到 0.5。",
            )
