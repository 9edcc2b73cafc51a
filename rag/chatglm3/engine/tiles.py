"""How the kernels cut their products, as measured on an H200."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a product is cut: outputs and inputs of one program at a time, its warps, loads under way."""

    outputs: int
    inputs: int
    warps: int
    stages: int = 1
    each: int = 0
    """Programs for each multiprocessor that go on from group to group; 0: a program for each group."""


SINGLE = {
    "plain": Tiles(2, 4096, 4),
    "plain, long": Tiles(2, 2048, 4),
    "nf4": Tiles(4, 4096, 4, each=6),
    "nf4, wide": Tiles(2, 4096, 4, each=8),
    "nf4, long": Tiles(4, 2048, 4),
}
"""Measured; "long" is for more inputs than outputs, and for square products; for nf4, for more inputs than 4,096;
"wide" is for both halves of SwiGLU with adapters, which need most registers."""
SEVERAL = Tiles(16, 256, 2, 4)
