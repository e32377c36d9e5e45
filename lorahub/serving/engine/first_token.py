"""The last layer of an encoder whose head reads only the first token: keys and values of all tokens, the rest of one.

In: a base of BERT's kind. Its last layer is wrapped. In a `routed` block it returns the first token, (B, 1, H);
otherwise every token, as a linear probe reads them all.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lorahub.models import architectures
from lorahub.serving.engine import lora_layers


class FirstToken(nn.Module):
    """BERT's last layer, computed for the first token only if nothing else is read."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor | None = None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Map hidden states (B, T, H) to (B, 1, H) in a `routed` block, else to (B, T, H)."""
        output: torch.Tensor
        if lora_layers.current_route() is None:
            output = self.layer(hidden, attention_mask, *args, **kwargs)
            return output
        attention, first = self.layer.attention, hidden[:, :1]
        width = attention.self.attention_head_size

        def by_head(x: torch.Tensor) -> torch.Tensor:
            return x.view(*x.shape[:2], -1, width).transpose(1, 2)  # (B, heads, T, width)

        context = nn.functional.scaled_dot_product_attention(
            by_head(attention.self.query(first)),
            by_head(attention.self.key(hidden)),
            by_head(attention.self.value(hidden)),
            attn_mask=None if attention_mask is None else attention_mask[:, :, :1],
            scale=attention.self.scaling,
        )
        attended = attention.output(context.transpose(1, 2).flatten(2), first)
        output = self.layer.output(self.layer.intermediate(attended), attended)
        return output


def wrap(model: PreTrainedModel) -> None:
    """Wrap the last layer of a base, in place, if its architecture allows it."""
    if architectures.of(model.config.model_type).bert_layers and not model.config.is_decoder:
        layers = model.base_model.encoder.layer
        layers[-1] = FirstToken(layers[-1])
