"""How many requests an engine serves at once, and how much of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How many at once and how much of each."""

    slots: int = 4
    """Requests that are written at the same time; more wait. Each takes context x 28 KiB (229 MB at 8,192 in 16 bit)."""
    context: int = 0
    """Prompt and answer together, tokens; 0 is what the model was made for."""
    chunk: int = 512
    """Tokens of a prompt that are read in one step while others are being answered."""
    chunk_alone: int = 2048
    """The same while nobody waits for a token."""
    loop_guard: bool = True
    """End an answer that repeats itself (finish "loop")."""
    graphs: bool = True
    """Capture decoding steps as CUDA graphs where there is a GPU."""

    def __post_init__(self) -> None:
        if min(self.slots, self.chunk, self.chunk_alone) < 1 or self.context < 0:
            raise ValueError(f"slots and chunks must be at least 1, context 0 or more: {self}")
