"""One decoding step as a CUDA graph: all its kernels start with one call. Captured when a width and length first occur.

Without a GPU, and after a failed capture (which is announced), steps run kernel by kernel with the same numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from rag.chatglm3.engine.network import Network

SHORTEST = 512
"""Steps look at 512, 1024, 2048 ... positions of the cache, so that few graphs are needed."""


def bucket(length: int, *, longest: int) -> int:
    """The length that a captured step looks at."""
    size = SHORTEST
    while size < length:
        size *= 2
    return min(size, longest)


class Stepper:
    """Runs decoding steps, captured where it can be."""

    def __init__(self, network: Network, *, slots: int, capture: bool) -> None:
        self._network, self._slots, self._capture = network, slots, capture
        self._graphs: dict[tuple[int, int, int, bool], Captured] = {}
        self._pool: Any = None
        """Memory that all graphs share: only one runs at a time, and its logits are used before the next."""

    def step(
        self, ids: list[int], *, positions: list[int], first: int, length: int, adapters: list[str]
    ) -> torch.Tensor:
        """Logits of the rows from slot `first` on; see Network.decode."""
        import torch

        network = self._network
        adapter = network.adapter_index(adapters)
        if not self._capture:
            return network.decode(
                torch.tensor(ids, device=network.device),
                positions=torch.tensor(positions, device=network.device),
                first=first,
                length=length,
                adapter=adapter,
            )
        if len(ids) > 1:  # two widths only: one row, or all slots
            before, after = first, self._slots - first - len(ids)
            idle = network.cache.length
            ids = [0] * before + ids + [0] * after
            positions = [idle] * before + positions + [idle] * after
            adapter = network.adapter_index([""] * before + adapters + [""] * after)
            logits = self._captured(ids, positions, 0, length, adapter)
            return logits[before : len(ids) - after]
        return self._captured(ids, positions, first, length, adapter)

    def _captured(
        self, ids: list[int], positions: list[int], first: int, length: int, adapter: torch.Tensor | None
    ) -> torch.Tensor:
        import torch

        network = self._network
        size = bucket(length, longest=network.cache.length)
        key = (first, len(ids), size, adapter is not None)
        device_ids = torch.tensor(ids, device=network.device)
        device_positions = torch.tensor(positions, device=network.device)
        if key not in self._graphs and self._capture:
            try:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                self._graphs[key] = Captured(
                    network, rows=len(ids), first=first, length=size, lora=key[3], pool=self._pool
                )
            except RuntimeError as error:
                self._capture = False
                warnings.warn(f"CUDA graph not captured, answers will be slower: {error}", stacklevel=2)
        if key in self._graphs:
            return self._graphs[key].run(device_ids, device_positions, adapter)
        return network.decode(
            device_ids, positions=device_positions, first=first, length=length, adapter=adapter
        )


class Captured:
    """One graph with the tensors that it reads and writes."""

    def __init__(
        self, network: Network, *, rows: int, first: int, length: int, lora: bool, pool: Any
    ) -> None:
        import torch

        device = network.device
        self._ids = torch.zeros(rows, dtype=torch.long, device=device)
        self._positions = torch.full((rows,), network.cache.length, dtype=torch.long, device=device)
        self._adapter = torch.full((rows,), -1, dtype=torch.long, device=device) if lora else None

        def decode() -> torch.Tensor:
            return network.decode(
                self._ids, positions=self._positions, first=first, length=length, adapter=self._adapter
            )

        self._replay = self._record(decode, device, pool)

    def _record(
        self, decode: Callable[[], torch.Tensor], device: torch.device, pool: Any
    ) -> Callable[[], None]:
        """Capture `decode`; its logits stay at the same address. Returns what runs it again."""
        import torch

        side: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(2):  # libraries choose their kernels and allocate before the capture
                decode()
        torch.cuda.current_stream(device).wait_stream(side)
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            self._logits = decode()
        replay: Callable[[], None] = graph.replay
        return replay

    def run(self, ids: torch.Tensor, positions: torch.Tensor, adapter: torch.Tensor | None) -> torch.Tensor:
        """The logits of this step; overwritten by the next."""
        self._ids.copy_(ids)
        self._positions.copy_(positions)
        if self._adapter is not None and adapter is not None:
            self._adapter.copy_(adapter)
        self._replay()
        return self._logits
