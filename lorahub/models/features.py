"""What the frozen base knows by itself: its last hidden states, averaged over a claim's tokens.

A linear probe on these features is the baseline that an adapter has to beat, and the app's `base` column.
"""

import torch
from transformers import PreTrainedModel


def features(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return one vector a claim, (B, H), for `input_ids` and `attention_mask` (B, T)."""
    hidden: torch.Tensor = model.base_model(**batch).last_hidden_state  # (B, T, H)
    weights = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
