"""Policy, value and reference on one base: what each says about finished answers.

The value head reads the policy's own last hidden state, so policy and value cost one pass together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune.encode import Encoded
from finetune.forward import hidden_states
from finetune.memory import Layout
from finetune.methods import Trainee, fuse_layers
from finetune.pack import Batch, RowShape, pack, packed_batches, padded_batches
from finetune.ppo.logprobs import word_logprobs
from finetune.start import POLICY, REFERENCE, add_base, reference, switched

if TYPE_CHECKING:
    import torch
    from torch import Tensor

VALUE = "value_head"
"""Before the names of the value head's weights."""
Part = tuple[list[int], Batch]
"""Numbers of documents, and the forward pass that holds them in this order."""


class Policy:
    """The trained adapter with its value head."""

    def __init__(self, trainee: Trainee, *, temperature: float, layout: Layout) -> None:
        import torch

        self.trainee, self.temperature, self.layout = trainee, temperature, layout
        self._roles: dict[str, Trainee] = {}
        if layout.kernels:
            if REFERENCE not in trainee.model.peft_config:
                add_base(trainee)  # zeros, so that policy and reference run through the same sums
            # now, while the trained adapter is the active one: fused layers are made of what is active
            self._roles[POLICY] = self._fused(resident=layout.resident)
        width = trainee.loaded.shape.hidden
        self.weight = torch.nn.Parameter(torch.zeros(width, device=trainee.device))
        self.bias = torch.nn.Parameter(torch.zeros(1, device=trainee.device))

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Trained weights by name: the adapter's and the value head's."""
        own = {f"{VALUE}.weight": self.weight, f"{VALUE}.bias": self.bias}
        return self.trainee.trainable() | own

    def role(self, name: str) -> Trainee:
        """The model in a role, by the name of its adapter; with fused layers of its own where the layout has them.

        Without them (a reward adapter with DoRA cannot be fused), use it inside `switched`.
        """
        if not self.layout.kernels or getattr(self.trainee.model.peft_config[name], "use_dora", False):
            return self.trainee
        if name not in self._roles:
            with switched(self.trainee, name):
                made = self._fused(resident=self.layout.resident)
                if not share_matrices(made.stack, self._roles[POLICY].stack):
                    # unpacked weights of its own would be another model in memory
                    made = self._fused(resident=False)
            self._roles[name] = made
        return self._roles[name]

    def _fused(self, *, resident: bool) -> Trainee:
        layout = self.layout
        return fuse_layers(self.trainee, kept=layout.kept, resident=resident, roomy=layout.roomy)

    def forget(self) -> None:
        """Drop gradients that no update will use."""
        for parameter in self.trainable().values():
            parameter.grad = None

    def look(self, batch: Batch, *, role: str = POLICY) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probability, entropy and value of every written token of a batch. *Shape:* all `(tokens)`, float32.

        A value belongs to the state before its token.
        """
        rows = _rows(self.role(role), batch)
        logprobs, entropy = word_logprobs(
            rows, self.trainee.glm.lm_head.weight, batch.targets, temperature=self.temperature
        )
        return logprobs, entropy, rows.float() @ self.weight + self.bias

    def parts(self, documents: Sequence[Encoded]) -> list[Part]:
        """Documents as forward passes on the policy's device."""
        sizes, device = [len(d) for d in documents], self.trainee.device
        if self.layout.packed:
            tokens = max(self.layout.tokens, *sizes)
            shape = RowShape(tokens, 0, max(sizes), unit=64 if self.layout.kernels else 1)
            groups = pack(sizes, tokens=tokens)
            batches = packed_batches(documents, shape=shape)
        else:
            rows = max(1, self.layout.tokens // max(sizes))
            groups = [list(range(at, min(at + rows, len(sizes)))) for at in range(0, len(sizes), rows)]
            batches = padded_batches(documents, rows=rows)
        return [(group, batch.to(device)) for group, batch in zip(groups, batches, strict=True)]

    def before(self, documents: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities and values under the policy, log-probabilities under the reference; flat, by document."""
        import torch

        places = Places(documents)
        with torch.no_grad():
            said, values = places.gather(self.parts(documents), self._two)
            with reference(self.trainee):
                (referred,) = places.gather(self.parts(documents), self._one)
        return said, values, referred

    def _two(self, batch: Batch) -> tuple[Tensor, ...]:
        logprobs, _, values = self.look(batch)
        return logprobs, values

    def _one(self, batch: Batch) -> tuple[Tensor, ...]:
        return (self.look(batch, role=REFERENCE)[0],)


def share_matrices(stack: Any, other: Any) -> bool:
    """Let two stacks unpack the base's weights in the same place; each pass puts its own LoRA beside them.

    False if their plates differ in shape: adapters of other ranks or targets.
    """
    shapes = [[(p.rank, p.columns) for p in layer.plates.values()] for layer in stack.layers]
    if shapes != [[(p.rank, p.columns) for p in layer.plates.values()] for layer in other.layers]:
        return False
    stack.matrices, stack.rooms = other.matrices, other.rooms
    return True


def _rows(trainee: Trainee, batch: Batch) -> Tensor:
    """Hidden states from which written tokens are said. *Shape:* (tokens, hidden)."""
    hidden = hidden_states(trainee, batch)
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.where)


class Places:
    """Where each document's written tokens stand when all documents' stand one after the other."""

    def __init__(self, documents: Sequence[Encoded]) -> None:
        self.lengths = [d.trained for d in documents]
        self.begins = np.concatenate([[0], np.cumsum(self.lengths)])

    def of(self, documents: Sequence[int]) -> NDArray[np.int64]:
        """Flat places of some documents, in their order."""
        spans = [np.arange(self.begins[i], self.begins[i + 1]) for i in documents]
        return np.concatenate(spans).astype(np.int64)

    def gather(
        self, parts: Sequence[Part], look: Callable[[Batch], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """What `look` says of every token, in the documents' order."""
        import torch

        found = [look(batch) for _, batch in parts]
        order = np.argsort(np.concatenate([self.of(group) for group, _ in parts]))
        back = torch.from_numpy(order).to(found[0][0].device)
        return tuple(torch.cat(pieces)[back] for pieces in zip(*found, strict=True))
