"""Logits -> token ids, on the device, for rows that each have their own settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from rag.types import GenerateOptions


@dataclass(frozen=True, slots=True)
class Row:
    """What the next token of one row depends on, beside its logits."""

    options: GenerateOptions
    written: Sequence[int]
    """Ids of the answer so far: what the repetition penalty looks at (not the prompt: quoting it is wanted)."""
    chance: float
    """A number from 0 to below 1, from the row's own random numbers: the same seed gives the same answer in any batch."""


def choose(logits: torch.Tensor, *, rows: Sequence[Row]) -> torch.Tensor:
    """The next id of every row. *Shape:* (rows, vocabulary) -> (rows,). Temperature, then top-k, then top-p."""
    import torch

    for i, row in enumerate(rows):
        if row.options.repetition_penalty != 1.0 and row.written:
            _penalise(logits[i], row)
    greedy = logits.argmax(dim=-1)
    hot = [i for i, row in enumerate(rows) if row.options.temperature > 0]
    if not hot:
        return greedy
    vocabulary = logits.shape[-1]
    which = send(hot, device=logits.device)
    temperature, keep, top_p, chance = send(
        [
            [rows[i].options.temperature for i in hot],
            [float(rows[i].options.top_k or vocabulary) for i in hot],
            [rows[i].options.top_p for i in hot],
            [rows[i].chance for i in hot],
        ],
        device=logits.device,
    )[:, :, None]
    scaled = logits.index_select(0, which).float() / temperature
    ordered, ids = scaled.sort(dim=-1, descending=True)
    ordered = ordered.masked_fill(torch.arange(vocabulary, device=logits.device)[None, :] >= keep, -torch.inf)
    likely = ordered.softmax(dim=-1)
    before = likely.cumsum(dim=-1) - likely
    likely = likely.masked_fill(before >= top_p, 0.0)
    share = likely.cumsum(dim=-1)
    at = (share <= chance * share[:, -1:]).sum(dim=-1, keepdim=True)
    last = (likely > 0).sum(dim=-1, keepdim=True) - 1  # a chance just below 1 is 1 in float32
    return greedy.index_copy(0, which, ids.gather(1, at.clamp(max=last.clamp(min=0)))[:, 0])


def send(values: Sequence[object], *, device: torch.device) -> torch.Tensor:
    """A small tensor on its way to the device; unlike `torch.tensor(device=...)` it waits for nothing."""
    import torch

    here = torch.tensor(values)
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here


def _penalise(logits: torch.Tensor, row: Row) -> None:
    """In place: likely ids that were written become less likely, unlikely ones too."""
    import torch

    ids = torch.tensor(sorted(set(row.written)), device=logits.device)
    chosen, by = logits[ids], row.options.repetition_penalty
    logits[ids] = torch.where(chosen > 0, chosen / by, chosen * by)
