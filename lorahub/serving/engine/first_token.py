"""The last layer of an encoder whose head reads the first token alone: keys and values of every token, the rest of one.

In: a base of BERT's kind. Its last layer is wrapped; in a routed pass it answers with the first token, (B, 1, H), which
is the same as the first of all. Without a route every token is there: a linear probe reads them all.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lorahub.models import architectures
from lorahub.serving.engine import lora_layers


class FirstToken(nn.Module):
    """BERT's last layer, for the first token where nothing else is read."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Map hidden states (B, T, H) to (B, 1, H) in a routed pass, else to (B, T, H)."""
        found: torch.Tensor
        if not lora_layers.is_routed():
            found = self.layer(hidden, attention_mask, *args, **kwargs)
            return found
        attention, first = self.layer.attention, hidden[:, :1]
        width = attention.self.attention_head_size

        def by_head(x: torch.Tensor) -> torch.Tensor:
            return x.view(*x.shape[:2], -1, width).transpose(1, 2)  # (B, heads, T, width)

        read = nn.functional.scaled_dot_product_attention(
            by_head(attention.self.query(first)),
            by_head(attention.self.key(hidden)),
            by_head(attention.self.value(hidden)),
            attn_mask=None if attention_mask is None else attention_mask[:, :, :1],
            scale=attention.self.scaling,
        )
        attended = attention.output(read.transpose(1, 2).flatten(2), first)
        found = self.layer.output(self.layer.intermediate(attended), attended)
        return found


def wrap(model: PreTrainedModel) -> None:
    """Wrap the last layer of a base, in place, where its architecture allows it."""
    if architectures.of(model.config.model_type).bert_layers and not model.config.is_decoder:
        layers = model.base_model.encoder.layer
        layers[-1] = FirstToken(layers[-1])
