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

    def column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device, dtype=torch.float32)[:, None]

    vocabulary = logits.shape[-1]
    scaled = logits[hot].float() / column([rows[i].options.temperature for i in hot])
    ordered, ids = scaled.sort(dim=-1, descending=True)
    keep = column([rows[i].options.top_k or vocabulary for i in hot])
    ordered = ordered.masked_fill(torch.arange(vocabulary, device=logits.device)[None, :] >= keep, -torch.inf)
    likely = ordered.softmax(dim=-1)
    before = likely.cumsum(dim=-1) - likely
    likely = likely.masked_fill(before >= column([rows[i].options.top_p for i in hot]), 0.0)
    share = likely.cumsum(dim=-1)
    at = (share <= column([rows[i].chance for i in hot]) * share[:, -1:]).sum(dim=-1, keepdim=True)
    greedy[hot] = ids.gather(1, at.clamp(max=vocabulary - 1))[:, 0]
    return greedy


def _penalise(logits: torch.Tensor, row: Row) -> None:
    """In place: likely ids that were written become less likely, unlikely ones too."""
    import torch

    ids = torch.tensor(sorted(set(row.written)), device=logits.device)
    chosen, by = logits[ids], row.options.repetition_penalty
    logits[ids] = torch.where(chosen > 0, chosen / by, chosen * by)
