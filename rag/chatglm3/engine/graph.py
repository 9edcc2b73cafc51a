"""How a decoding step is run: through our kernels in one CUDA graph, through torch in a graph, or op by op.

On an NVIDIA GPU with Triton the kernels are compiled on a thread while the first answers go through torch; Triton keeps them
on disk, so the next start has them in a second. Where they cannot be used it is said once, and steps are captured through
torch, a graph for each width and length. On a CPU nothing is captured. The numbers are the same up to rounding.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from rag.chatglm3.engine.network import Network

SHORTEST = 512
"""Steps through torch look at 512, 1024, 2048 ... positions of the cache, so that few graphs are needed."""
STAGED = 4
"""Inputs of so many steps may be on their way to the device."""


def bucket(length: int, *, longest: int) -> int:
    """The length that a step captured through torch looks at."""
    size = SHORTEST
    while size < length:
        size *= 2
    return min(size, longest)


class Program(Protocol):
    """A step with fixed addresses. `inputs`: (3, rows) positions, slots, adapters; `logits`: (rows, vocabulary)."""

    inputs: torch.Tensor
    logits: torch.Tensor

    def run(self) -> None:
        """Read `inputs` and the network's `next_ids`, write `logits`."""
        ...


class TorchStep:
    """A step through torch, for the slots from `first` on and up to `length` positions."""

    def __init__(self, network: Network, *, rows: int, first: int, length: int, lora: bool) -> None:
        import torch

        self._network, self._first, self._length = network, first, length
        self.inputs = torch.zeros(3, rows, dtype=torch.long, device=network.device)
        self.inputs[0], self.inputs[2] = network.cache.length, -1
        self._adapter = self.inputs[2] if lora else None
        self.logits = torch.zeros(0, device=network.device)

    def run(self) -> None:
        rows = self.inputs.shape[1]
        ids = self._network.next_ids[self._first : self._first + rows]
        self.logits = self._network.decode(
            ids, positions=self.inputs[0], first=self._first, length=self._length, adapter=self._adapter
        )


class Stepper:
    """Runs decoding steps. Not thread safe: the engine's thread owns it."""

    def __init__(self, network: Network, *, slots: int, capture: bool) -> None:
        self._network, self._slots, self._capture = network, slots, capture
        self._graphs: dict[tuple[int, int, int, bool], Captured] = {}
        self._fast: dict[tuple[int, bool], Captured] = {}
        self._compiled: dict[tuple[int, bool], Program] = {}
        self._pool: Any = None
        """Memory that all graphs share: only one runs at a time, and its logits are used before the next."""
        self.reason = "" if capture else "no GPU"
        """Why steps do not go through our kernels; empty if they do, or will when they are compiled."""
        self.ready = threading.Event()
        """Set when the kernels are compiled, or it is known that they will not be."""
        if capture:
            from rag.chatglm3.engine.fast import why_not

            self.reason = why_not(network)
        if self.reason:
            self.ready.set()
            if capture:
                warnings.warn(f"Decoding without our kernels, more slowly: {self.reason}", stacklevel=2)
        else:
            threading.Thread(target=self._compile, name="compile-kernels", daemon=True).start()

    def step(
        self, positions: Sequence[int], *, first: int, length: int, adapters: Sequence[str]
    ) -> torch.Tensor:
        """One token for each of the slots from `first` on; its id is taken from `network.next_ids`.

        A row that takes no part has the cache's length as its position. `length`: how much of the cache is looked at at
        most. Returns logits, (rows, vocabulary), overwritten by the next step; nothing is waited for.
        """
        network = self._network
        numbers = [network.adapters.get(name, -1) for name in adapters]
        rows = len(positions)
        if not self._capture:
            return self._op_by_op(list(positions), first, length, numbers)
        before, after = (first, self._slots - first - rows) if rows > 1 else (0, 0)
        idle = network.cache.length  # two widths only: one row, or all slots
        wide = [idle] * before + list(positions) + [idle] * after
        slots = list(range(first - before, first + rows + after))
        program = self._captured(
            slots, length, [-1] * before + numbers + [-1] * after, lora=max(numbers) >= 0
        )
        logits = program.run(wide, slots, [-1] * before + numbers + [-1] * after)
        return logits[before : before + rows]

    def _op_by_op(self, positions: list[int], first: int, length: int, numbers: list[int]) -> torch.Tensor:
        import torch

        network = self._network
        program = TorchStep(network, rows=len(positions), first=first, length=length, lora=max(numbers) >= 0)
        slots = list(range(first, first + len(positions)))
        program.inputs.copy_(torch.tensor([positions, slots, numbers]))
        program.run()
        return program.logits

    def _captured(self, slots: list[int], length: int, numbers: list[int], *, lora: bool) -> Runner:
        rows = len(slots)
        fast = self._fast.get((rows, lora))
        if fast is not None:
            return fast
        compiled = self._compiled.get((rows, lora))
        if compiled is not None:
            self._fast[rows, lora] = Captured(self._network, compiled, pool=self._graph_pool())
            return self._fast[rows, lora]
        size = bucket(length, longest=self._network.cache.length)
        key = (slots[0], rows, size, lora)
        if not self.reason:  # soon there will be something better than a graph through torch
            return Captured(self._network, self._through_torch(key), pool=None)
        if key not in self._graphs:
            self._graphs[key] = Captured(self._network, self._through_torch(key), pool=self._graph_pool())
        return self._graphs[key]

    def _through_torch(self, key: tuple[int, int, int, bool]) -> TorchStep:
        first, rows, size, lora = key
        return TorchStep(self._network, rows=rows, first=first, length=size, lora=lora)

    def _graph_pool(self) -> Any:
        import torch

        self._pool = self._pool or torch.cuda.graph_pool_handle()
        return self._pool

    def _compile(self) -> None:
        """On a thread of its own: run every kernel once, on rows that take no part."""
        import torch

        from rag.chatglm3.engine.fast import FastStep, layers_of

        network = self._network
        try:
            # not inference mode: a model that is trained meanwhile shares the joined weights
            with torch.no_grad(), torch.cuda.device(network.device):
                layers = [layers_of(block) for block in network.blocks]
                stream: Any = torch.cuda.Stream(network.device)  # type: ignore[no-untyped-call]
                with torch.cuda.stream(stream):
                    for lora in (False, True) if network.adapters else (False,):
                        for rows in sorted({1, self._slots}):
                            step = FastStep(network, layers, rows=rows, lora=lora)
                            step.run()
                            stream.synchronize()
                            self._compiled[rows, lora] = step
        except Exception as error:  # noqa: BLE001 - answers go on through torch, and it is said why
            self.reason = f"{type(error).__name__}: {error}"
            warnings.warn(f"Decoding without our kernels, more slowly: {self.reason}", stacklevel=2)
        self.ready.set()


class Runner(Protocol):
    """What runs a program with new inputs."""

    def run(self, positions: list[int], slots: list[int], adapters: list[int]) -> torch.Tensor: ...


class Captured:
    """A program, recorded as a CUDA graph if there is a `pool` for its memory; otherwise run op by op."""

    def __init__(self, network: Network, program: Program, *, pool: Any) -> None:
        import torch

        self._program = program
        rows = program.inputs.shape[1]
        pinned = network.device.type == "cuda"
        self._staging = [torch.empty(3, rows, dtype=torch.long, pin_memory=pinned) for _ in range(STAGED)]
        self._turn = 0
        self._replay = program.run if pool is None else self._record(network, pool)

    def _record(self, network: Network, pool: Any) -> Any:
        """Capture the program; its logits stay at the same address. Returns what runs it again."""
        import torch

        device = network.device
        side: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(2):  # libraries choose their kernels and allocate before the capture
                self._program.run()
        torch.cuda.current_stream(device).wait_stream(side)
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self._program.run()
        return graph.replay

    def run(self, positions: list[int], slots: list[int], adapters: list[int]) -> torch.Tensor:
        """The logits of this step; overwritten by the next."""
        import torch

        staged = self._staging[self._turn]
        self._turn = (self._turn + 1) % STAGED
        staged.copy_(torch.tensor([positions, slots, adapters]))
        self._program.inputs.copy_(staged, non_blocking=True)
        self._replay()
        return self._program.logits
