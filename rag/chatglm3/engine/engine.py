"""The engine: one thread that owns the model and serves everybody who asks.

    with Engine(loaded) as engine:
        for piece in engine.submit(ids, options=GenerateOptions()):
            print(piece.text, end="")

Between two steps requests join and leave. A step is: a piece of one prompt, or several short prompts beside each other, then one
token for everybody whose prompt is read. So a long prompt never stops the others, and nobody waits for somebody else's
answer to end.

A GPU is kept busy: the next step is begun before the ids of the last are looked at (they go from step to step on the device).
A step that was begun for an answer that has ended is thrown away.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kb.errors import GenerationError, ModelError
from rag.chatglm3.adapters import not_loaded
from rag.chatglm3.engine.cache import Slot, common
from rag.chatglm3.engine.config import EngineConfig as EngineConfig
from rag.chatglm3.engine.graph import Stepper
from rag.chatglm3.engine.network import Network
from rag.chatglm3.engine.request import Flight, Request, Ticket, together
from rag.chatglm3.engine.sampling import Row, choose, send
from rag.chatglm3.engine.writing import Writing
from rag.chatglm3.memory import on_device
from rag.types import GenerateOptions

if TYPE_CHECKING:
    import torch

    from rag.chatglm3.load import LoadedModel

WORTH_COPYING = 64
"""A shared beginning of so many tokens more is copied from a slot that is busy."""


class Engine:
    """Serves many requests with one model. `submit` may be called from any thread."""

    def __init__(self, loaded: LoadedModel, *, config: EngineConfig | None = None) -> None:
        import torch

        if loaded.tokenizer is None:
            raise ModelError(
                f"{loaded.folder} has no tokenizer: it cannot answer in words. Convert it with tokenizer.model.",
                zh=f"{loaded.folder} 没有分词器，不能回答。请连同 tokenizer.model 一起转换。",
            )
        self.loaded, self.config = loaded, config or EngineConfig()
        self.context = self.config.context or loaded.shape.context
        self._tokenizer = loaded.tokenizer
        with torch.no_grad():  # not inference mode: a model that is trained meanwhile shares its weights
            self._network = Network(loaded, slots=self.config.slots, context=self.context)
        capture = self.config.graphs and loaded.device.type == "cuda"
        self._stepper = Stepper(self._network, slots=self.config.slots, capture=capture)
        self._ahead = 1 if loaded.device.type == "cuda" else 0
        self._flights: deque[Flight] = deque()
        self._free = [Slot(number) for number in range(self.config.slots)]
        self._waiting: list[Request] = []
        self._active: list[Request] = []
        self._changed = threading.Condition()
        self._closed, self._clock = False, 0
        self.prompt_tokens_computed = 0
        """Prompt tokens that went through the model; a shared beginning does not count again."""
        self._thread = threading.Thread(target=self._serve, name="chatglm3-engine", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> threading.Event:
        """Set when steps run as fast as they will: the kernels are compiled, or cannot be used."""
        return self._stepper.ready

    @property
    def path(self) -> str:
        """How steps are run: "kernels", or "torch" with the reason."""
        return f"torch ({self._stepper.reason})" if self._stepper.reason else "kernels"

    def submit(
        self,
        ids: Sequence[int],
        *,
        options: GenerateOptions | None = None,
        cancel: threading.Event | None = None,
    ) -> Ticket:
        """Queue a prompt. Raises GenerationError if it is too long or its adapter is not loaded."""
        return self._queue([self._request(ids, options, cancel)])[0]

    def submit_all(self, prompts: Sequence[tuple[Sequence[int], GenerateOptions]]) -> list[Ticket]:
        """Queue prompts at one moment: who joins when, and so every number, is then the same each time."""
        return self._queue([self._request(ids, options, None) for ids, options in prompts])

    def refresh(self) -> None:
        """For training: answer with the adapters' weights as they stand in the model now, and forget what was read with others.

        Raises GenerationError while requests run.
        """
        import torch

        with self._changed:
            if self._active or self._waiting:
                raise GenerationError("The engine is answering.", zh="模型正在回答。")
            with torch.inference_mode():
                self._network.refresh()
            self._free = [Slot(number) for number in range(self.config.slots)]
            self._clock = 0

    def _request(
        self, ids: Sequence[int], options: GenerateOptions | None, cancel: threading.Event | None
    ) -> Request:
        how = options or GenerateOptions()
        room = self.context - len(ids) - self._virtual(how.adapter)
        if not ids or room < 1:
            raise GenerationError(
                f"The prompt has {len(ids)} tokens; prompt and answer together may have {self.context}.",
                zh=f"提示词有 {len(ids)} 个 token，提示词和回答合计最多 {self.context} 个。请缩短问题或减少资料。",
            )
        writing = Writing(
            self._tokenizer, options=how, limit=min(how.max_tokens, room), guard=self.config.loop_guard
        )
        return Request(list(ids), how, writing, cancel or threading.Event(), random=random.Random(how.seed))

    def _queue(self, requests: list[Request]) -> list[Ticket]:
        with self._changed:
            if self._closed:
                raise GenerationError("The engine is closed.", zh="模型已关闭。")
            self._waiting += requests
            self._changed.notify()
        return [Ticket(request) for request in requests]

    def close(self) -> None:
        """End all requests and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _virtual(self, adapter: str) -> int:
        """Positions that a prefix adapter takes. Raises GenerationError for an adapter that is not loaded."""
        if adapter in self.loaded.prefixes:
            return int(self.loaded.prefixes[adapter].shape[3])
        if adapter and adapter not in self._network.adapters and adapter != self.loaded.merged:
            raise not_loaded(adapter, known=[*self._network.adapters, *self.loaded.prefixes])
        return 0

    # -------------------------------------------------------------- the thread

    def _serve(self) -> None:
        # a thread begins at the first GPU, and events and kernels go by that
        with on_device(self.loaded.device):
            while self._wanted():
                self._round()

    def _wanted(self) -> bool:
        """Wait for something to do; False when the engine is closed."""
        with self._changed:
            while not (self._closed or self._waiting or self._active):
                self._changed.wait()
            if self._closed:
                self._end_all()
                return False
            self._leave_cancelled()
            return True

    def _round(self) -> None:
        import torch

        try:
            with torch.inference_mode():
                self._join()
                self._step()
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            reason = str(error).splitlines()[0]
            self._fail(f"out of GPU memory: {reason}", "显存不足，请减少同时提问的人数或缩短上下文")
        except Exception as error:  # noqa: BLE001 - whoever asked gets it; the others go on being served
            self._fail(f"{type(error).__name__}: {error}", f"{type(error).__name__}：{error}")

    def _step(self) -> None:
        """Pieces of unread prompts, then one token for everybody else."""
        ready = [r for r in self._active if r.may_go_on]
        begun = self._read(self.config.chunk if ready else self.config.chunk_alone)
        if ready:
            self._write(ready)
        while len(self._flights) > (self._ahead if begun or ready else 0):
            self._collect(self._flights.popleft())

    def _read(self, size: int) -> bool:
        """One pass over at most `size` prompt tokens. False if every prompt is read."""
        requests = together([r for r in self._active if r.done < len(r.ids)], size=size)
        if not requests:
            return False
        slots = [r.slot for r in requests if r.slot is not None]
        pieces = [r.ids[r.done : r.done + size] for r in requests]
        logits = self._network.prefill(
            pieces,
            slots=[slot.number for slot in slots],
            start=slots[0].position,
            adapters=[r.options.adapter for r in requests],
        )
        for request, slot, piece in zip(requests, slots, pieces, strict=True):
            slot.tokens += piece
            request.done += len(piece)
            self.prompt_tokens_computed += len(piece)
        whole = [i for i, r in enumerate(requests) if r.done == len(r.ids)]
        if 0 < len(whole) < len(requests):
            logits = logits.index_select(0, send(whole, device=logits.device))
        if whole:
            self._choose([requests[i] for i in whole], logits)
        return True

    def _write(self, requests: list[Request]) -> None:
        by_slot = {r.slot.number: r for r in requests if r.slot is not None}
        first, last = min(by_slot), max(by_slot)
        rows = [by_slot.get(number) for number in range(first, last + 1)]
        positions = [r.slot.virtual + len(r.ids) + r.steps if r and r.slot else self.context for r in rows]
        logits = self._stepper.step(
            positions,
            first=first,
            length=1 + max(p for p, r in zip(positions, rows, strict=True) if r is not None),
            adapters=[r.options.adapter if r else "" for r in rows],
        )
        for request in requests:
            request.steps += 1
            request.settle()
        if None in rows:
            taking_part = [i for i, r in enumerate(rows) if r is not None]
            logits = logits.index_select(0, send(taking_part, device=logits.device))
        self._choose([r for r in rows if r is not None], logits)

    def _choose(self, requests: list[Request], logits: torch.Tensor) -> None:
        """Pick the next id of every request, on the device; what it is will be looked at when the device is there."""
        rows = [Row(r.options, r.writing.ids, r.random.random()) for r in requests]
        ids = choose(logits, rows=rows)
        slots = send([r.slot.number for r in requests if r.slot is not None], device=ids.device)
        self._network.next_ids.index_copy_(0, slots, ids)
        for request in requests:
            request.pending += 1
        self._flights.append(Flight.begun(requests, ids))

    def _collect(self, flight: Flight) -> None:
        """Look at the ids that a step chose, and hand on their text."""
        if flight.event is not None:
            flight.event.synchronize()
        for request, token in zip(flight.requests, flight.ids.tolist(), strict=True):
            if request.ended:
                continue
            request.pending -= 1
            request.chosen.append(token)
            request.settle()
            piece = request.writing.end("stopped") if request.cancel.is_set() else request.writing.feed(token)
            if piece.finish is not None:
                self._leave(request)
            request.out.put(piece)

    # -------------------------------------------------------------- joining and leaving

    def _join(self) -> None:
        """Admit who waits, as long as there are slots."""
        while self._free:
            with self._changed:
                if not self._waiting:
                    return
                request = self._waiting.pop(0)
            self._active.append(request)  # so that an error below reaches it
            self._admit(request)

    def _admit(self, request: Request) -> None:
        """Give the request the free slot that shares most with it, or copy from a busy one that shares more."""
        adapter, ids = request.options.adapter, request.ids

        def shared(slot: Slot) -> int:
            return min(common(slot.tokens, ids), len(ids) - 1) if slot.adapter == adapter else 0

        slot = max(self._free, key=lambda s: (shared(s), -len(s.tokens), -s.used))
        keep = shared(slot)
        busy = max((r.slot for r in self._active if r.slot is not None), key=shared, default=None)
        virtual = self._virtual(adapter)
        if busy is not None and shared(busy) > keep + WORTH_COPYING:
            keep = shared(busy)
            self._network.cache.copy(busy.number, target=slot.number, tokens=virtual + keep)
        elif virtual and keep == 0:
            self._network.cache.put_prefix(self.loaded.prefixes[adapter], slot=slot.number)
        self._free.remove(slot)
        self._clock += 1
        slot.adapter, slot.virtual, slot.used = adapter, virtual, self._clock
        slot.tokens = list(ids[:keep])
        request.slot, request.done = slot, keep

    def _leave(self, request: Request) -> None:
        request.ended = True
        self._active.remove(request)
        if request.slot is not None:
            self._free.append(request.slot)

    def _leave_cancelled(self) -> None:
        for request in [r for r in (*self._active, *self._waiting) if r.cancel.is_set()]:
            if request in self._active:
                self._leave(request)
            else:
                self._waiting.remove(request)
            request.out.put(request.writing.end("stopped"))

    def _end_all(self) -> None:
        for request in (*self._active, *self._waiting):
            request.out.put(request.writing.end("stopped"))
        self._active, self._waiting = [], []

    def _fail(self, message: str, zh: str) -> None:
        """Everybody who was being served gets the error; what their slots hold cannot be trusted any more."""
        self._flights.clear()
        for request in list(self._active):
            if request.slot is not None:
                request.slot.tokens, request.slot.adapter = [], ""
            self._leave(request)
            request.out.put(GenerationError(f"Generating failed: {message}", zh=f"生成失败：{zh}"))
