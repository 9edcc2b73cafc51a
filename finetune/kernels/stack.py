"""All decoder layers of a GLM and the last norm as one function: its forward pass, its backward pass, what lies between.

    stack = Stack(glm, kept=28, resident=True)
    hidden = stack(embedded, positions=..., begins=cu_seqlens, longest=...)

Only LoRA is trained, so a frozen weight costs two products (y and dx), never three. `kept` layers (the last ones) keep
what their backward pass reads; each other one keeps its input and computes the rest again, which leaves out the down
projection: nothing in the layer reads its output. Unpacked weights live in one place per kind of layer, or, `resident`,
all of them stay: the same numbers, unpacked once. No kernel waits for the CPU within a pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune.kernels import plain
from finetune.kernels.layer import Kept, Layer, Way
from finetune.kernels.plate import interleave

if TYPE_CHECKING:
    from torch import Tensor


class Stack:
    """See the module. `ops`: `plain` or `launch`; None chooses by device."""

    def __init__(
        self, glm: Any, *, kept: int, resident: bool = False, roomy: bool = False, ops: Any = None
    ) -> None:
        config = glm.config
        self.layers = [Layer(module) for module in glm.model.layers]
        self.kept, self.resident, self.roomy = min(kept, len(self.layers)), resident, roomy
        self.last_norm, self.eps = glm.model.norm.weight, float(config.rms_norm_eps)
        self.rotary = glm.model.rotary_emb
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.ffn = config.head_dim, config.intermediate_size
        self.scale = float(glm.model.layers[0].self_attn.scaling)
        self.ops = ops or choose_ops(self.last_norm.device)
        if self.last_norm.is_cuda:
            import torch

            # thin products are split along the tokens: their parts are added up in float32
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.matrices: dict[tuple[int, str], Tensor] = {}
        self.filled: dict[tuple[int, str], int] = {}
        self.borders: dict[tuple[int, str], tuple[list[Tensor], list[Tensor]]] = {}
        self.rooms: dict[str, Tensor] = {}

    @property
    def trained(self) -> list[Any]:
        """LoRA weights of all layers, in order."""
        return [w for layer in self.layers for w in layer.trained]

    def __call__(self, embedded: Tensor, *, positions: Tensor, begins: Tensor, longest: int) -> Tensor:
        """The last norm's output. *Shape:* embedded and the result `(tokens, hidden)`, positions `(tokens)`."""
        cosine, sine = self.rotary(embedded[None], position_ids=positions[None])
        half = cosine.shape[-1] // 2
        way = Way(cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous(), begins, longest)
        return _function().apply(self, way, embedded, *self.trained)  # type: ignore[no-any-return]

    # ------------------------------------------------------------ matrices and rooms

    def matrix(self, number: int, kind: str) -> Tensor:
        """The unpacked plate of a layer, LoRA as it is in this pass (`filled` is emptied when one begins)."""
        import torch

        place = (number if self.resident else 0, kind)
        plate, matrix = self.layers[number].plates[kind], self.matrices.get(place)
        if matrix is None:
            matrix = self.matrices[place] = plate.new_matrix(self.last_norm)
            if self.resident:
                plate.fill(matrix, ops=self.ops)
        if self.filled.get(place) != number:
            if not self.resident:
                plate.fill(matrix, ops=self.ops)
            if (number, kind) not in self.borders:
                self.borders[number, kind] = plate.border(matrix)
            places, values = self.borders[number, kind]
            if places:
                torch._foreach_copy_(places, values)
            self.filled[place] = number
        return matrix

    def room(self, kind: str, tokens: int, keep: Kept | None = None) -> Tensor:
        """Where a plate's input stands: the same memory for all layers, or what `keep` will hold."""
        if keep is not None and keep.own:
            plate = self.layers[0].plates[kind]
            keep.rooms[kind] = plate.own_input(tokens, like=self.last_norm)
            return keep.rooms[kind]
        room = self.rooms.get(kind)
        if room is None or room.shape[0] < tokens:
            self.rooms.pop(kind, None)
            del room
            room = self.layers[0].plates[kind].new_input(tokens, like=self.last_norm)
            self.rooms[kind] = room
        return room[:tokens]

    # ------------------------------------------------------------ forward

    def forward(self, way: Way, x: Tensor, *, learning: bool) -> tuple[Tensor, list[Kept], Tensor, Tensor]:
        """The last norm's output, what was kept, and the last norm's input with its 1 / rms."""
        self.filled.clear()  # LoRA may have changed since the last pass
        kept: list[Kept] = []
        delta: Tensor | None = None
        light = len(self.layers) - self.kept
        for number, layer in enumerate(self.layers):
            own = learning and self.roomy and number >= light
            keep = self.attend(number, way, x, delta, own=own)
            x = self.expand(number, keep)
            assert keep.both is not None
            width = layer.plates["down"].inputs
            room = self.room("down", x.shape[0], keep)
            self.ops.swiglu(keep.both, room[:, :width])
            delta = x.new_empty(x.shape)
            layer.plates["down"].forward(self.matrix(number, "down"), room, delta)
            if learning:
                kept.append(keep if number >= light else Kept(keep.x, keep.first))
        out = x.new_empty(x.shape)
        total, rstd = self.ops.norm(x, delta, self.last_norm, self.eps, out)
        return out, kept, total, rstd

    def attend(self, number: int, way: Way, x: Tensor, delta: Tensor | None, *, own: bool = False) -> Kept:
        """First norm to attention. `own`: the inputs of products are kept too."""
        layer, tokens = self.layers[number], x.shape[0]
        keep = Kept(x, own=own)
        plate, room = layer.plates["qkv"], self.room("qkv", tokens, keep)
        keep.x, keep.first = self.ops.norm(x, delta, layer.first_norm, self.eps, room[:, : plate.inputs])
        qkv = x.new_empty(tokens, plate.outputs)
        plate.forward(self.matrix(number, "qkv"), room, qkv)
        query, key, value = self.split(qkv)
        heads = self.heads + self.groups
        turning = qkv[:, : heads * self.head_dim].view(tokens, heads, self.head_dim)
        self.ops.rotate(turning, turning, way.cosine, way.sine)
        _, keep.flash = self.ops.attention(query, key, value, way.begins, way.longest, self.scale)
        keep.qkv, middle = qkv, plate.middle_of(room)
        keep.middles = (middle if own else middle.clone(),)
        return keep

    def expand(self, number: int, keep: Kept) -> Tensor:
        """Output projection to gate and up; completes `keep`, and returns x + attention."""
        layer, tokens = self.layers[number], keep.x.shape[0]
        assert keep.flash is not None
        plate, room = layer.plates["o"], self.room("o", tokens)
        self.ops.copy(keep.flash.out.view(tokens, -1), room[:, : plate.inputs])
        after = keep.x.new_empty(keep.x.shape)
        plate.forward(self.matrix(number, "o"), room, after)
        middle = plate.middle_of(room).clone()
        wide, room = layer.plates["gate_up"], self.room("gate_up", tokens, keep)
        normed = room[:, : wide.inputs]
        keep.after, keep.second = self.ops.norm(keep.x, after, layer.second_norm, self.eps, normed)
        keep.both = keep.x.new_empty(tokens, wide.outputs)
        wide.forward(self.matrix(number, "gate_up"), room, keep.both)
        last = wide.middle_of(room)
        keep.middles = (*keep.middles, middle, last if keep.own else last.clone())
        return keep.after

    def split(self, qkv: Tensor) -> list[Tensor]:
        """Query, key, value as (tokens, heads, width), without copying."""
        parts, at = [], 0
        for heads in (self.heads, self.groups, self.groups):
            end = at + heads * self.head_dim
            parts.append(qkv[:, at:end].view(qkv.shape[0], heads, self.head_dim))
            at = end
        return parts

    # ------------------------------------------------------------ backward

    def backward(
        self, way: Way, grad: Tensor, kept: list[Kept], last: Tensor, rstd: Tensor, *, deep: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradient of the input (if `deep`), and of `trained`."""
        tokens, hidden = grad.shape
        spare = max(layer.plates[k].rank for layer in self.layers for k in ("o", "down"))
        stream = grad.new_zeros(tokens, hidden + spare)
        self.ops.norm_backward(
            last, rstd, self.last_norm, grad.contiguous(), stream[:, :hidden], normed=False
        )
        del grad, last
        grads: list[list[Tensor]] = []
        for number in reversed(range(len(self.layers))):
            keep = kept.pop()
            if keep.both is None:
                again = self.attend(number, way, keep.x, None)
                self.expand(number, again)
                keep = again
            upper = self.contract_backward(number, keep, stream)
            grads.append(self.attend_backward(number, way, keep, stream, deep=deep or number > 0) + upper)
            del keep
        return stream[:, :hidden], [g for layer in reversed(grads) for g in layer]

    def contract_backward(self, number: int, keep: Kept, stream: Tensor) -> list[Tensor]:
        """Down projection to the second norm: `stream` gets what the MLP adds. Gradients of its LoRA weights."""
        plates, tokens = self.layers[number].plates, stream.shape[0]
        down, wide = plates["down"], plates["gate_up"]
        assert keep.both is not None and keep.after is not None and keep.second is not None
        matrix = self.matrix(number, "down")
        inner = self.room("down", tokens)[:, : down.inputs]
        down.backward(matrix, stream, inner)
        self.ops.swiglu_backward(keep.both, inner, again=not keep.own)  # inner: silu(gate) * up again
        room = keep.rooms.pop("down") if keep.own else None
        inner = inner if room is None else room[:, : down.inputs]
        grads = []
        if down.rank:
            middle = down.middle(matrix, inner) if room is None else down.middle_of(room)
            grads = interleave(
                down.first_grads(down.beside(stream), inner), down.second_grads(stream, middle)
            )
        joined = stream.new_empty(tokens, wide.inputs + wide.rank)
        wide.backward_joined(self.matrix(number, "gate_up"), keep.both, joined)
        normed = joined[:, : wide.inputs]
        second = wide.second_grads(keep.both, keep.middles[2])
        weight = self.layers[number].second_norm
        self.ops.norm_backward(
            keep.after, keep.second, weight, normed, stream[:, : wide.inputs], normed=not keep.own
        )
        if keep.own:
            normed = keep.rooms.pop("gate_up")[:, : wide.inputs]
        first = wide.first_grads(joined[:, wide.inputs :], normed, scale=wide.scale)
        grads = interleave(first, second) + grads
        keep.both = keep.after = None
        return grads

    def attend_backward(
        self, number: int, way: Way, keep: Kept, stream: Tensor, *, deep: bool
    ) -> list[Tensor]:
        """Output projection to the first norm; `stream` gets what attention adds, if `deep`."""
        plates, tokens = self.layers[number].plates, stream.shape[0]
        out, plate = plates["o"], plates["qkv"]
        assert keep.flash is not None and keep.qkv is not None
        heads = stream.new_empty(tokens, out.inputs)
        out.backward(self.matrix(number, "o"), stream, heads)
        flat = keep.flash.out.reshape(tokens, -1)
        grads = interleave(
            out.first_grads(out.beside(stream), flat), out.second_grads(stream, keep.middles[1])
        )
        query, key, value = self.split(keep.qkv)
        above = heads.view(tokens, self.heads, self.head_dim)
        found = self.ops.attention_backward(
            above, query, key, value, way.begins, way.longest, self.scale, keep.flash
        )
        del flat, heads, above
        keep.flash = None
        grad = stream.new_empty(tokens, plate.outputs + plate.rank)
        first, second, third = self.split(grad)
        self.ops.rotate(found[0], first, way.cosine, way.sine, back=True)
        self.ops.rotate(found[1], second, way.cosine, way.sine, back=True)
        third.copy_(found[2])
        del found
        normed, weight = stream.new_empty(tokens, plate.inputs), self.layers[number].first_norm
        plate.backward(self.matrix(number, "qkv"), grad, normed if deep else None)
        seconds = plate.second_grads(grad, keep.middles[0])
        if deep:
            x, target = keep.x, stream[:, : plate.inputs]
            self.ops.norm_backward(x, keep.first, weight, normed, target, normed=not keep.own)
        elif not keep.own:
            self.ops.norm(keep.x, None, weight, self.eps, normed)
        if keep.own:
            normed = keep.rooms.pop("qkv")[:, : plate.inputs]
        return interleave(plate.first_grads(plate.beside(grad), normed), seconds) + grads


def choose_ops(device: Any) -> Any:
    """Triton on a GPU, torch elsewhere."""
    if device.type != "cuda":
        return plain
    from finetune.kernels import launch

    return launch


_made: Any = None


def _function() -> Any:
    global _made
    if _made is not None:
        return _made
    import torch

    class DecoderStack(torch.autograd.Function):
        """A Stack as autograd sees it."""

        @staticmethod
        def forward(ctx: Any, stack: Stack, way: Way, embedded: Tensor, *trained: Tensor) -> Tensor:
            learning = any(ctx.needs_input_grad)
            out, kept, last, rstd = stack.forward(way, embedded.detach(), learning=learning)
            if learning:
                ctx.stack, ctx.way, ctx.kept, ctx.last = stack, way, kept, (last, rstd)
            return out

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
            if not ctx.kept:
                raise RuntimeError("the backward pass of a Stack can run once only.")
            last, ctx.last = ctx.last, None
            deep = ctx.needs_input_grad[2]
            first, others = ctx.stack.backward(ctx.way, gradients[0], ctx.kept, *last, deep=deep)
            return None, None, first if deep else None, *others

    _made = DecoderStack
    return _made
