"""A base without its weights, built from its config.json on torch's meta device.

In: a BaseConfig and a folder with a config.json, and with a tokenizer if texts are to be counted. Out: a `Base` as
`models.base.load` returns it, whose tensors have shapes and types but no data; methods attach to it as to a real one.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer

from lorahub.config import BaseConfig
from lorahub.errors import BaseModelError, one_line
from lorahub.hub.fetch import Resolved
from lorahub.models import architectures, quantization
from lorahub.models import base as bases
from lorahub.models.base import Base

META = torch.device("meta")
_NO_LIMIT = 1 << 30


def load(config: BaseConfig, resolved: Resolved, labels: int, *, half: bool, tokenizer: bool = False) -> Base:
    """Build the base for `labels` labels; `half` is whether it is for a GPU that computes in 16 bits.

    `resolved` comes from `fetch.description`; without `tokenizer` the Base has none. Raises BaseModelError if it does
    not describe a model for classification.
    """
    try:
        model_config = bases.read_config(resolved.folder)
        model_config.num_labels = labels
        if model_config.get_text_config().pad_token_id is None:
            bases.set_pad_token_id(model_config, 0)  # any token will do, since there are no texts
        model = bases.empty_model(model_config)
        reader: Any = AutoTokenizer.from_pretrained(resolved.folder, **bases.LOCAL) if tokenizer else None
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and others
        raise BaseModelError(
            f"the base {resolved.id} cannot be described for classification ({one_line(error)}). "
            "Check that its config.json belongs to a transformers model."
        ) from error
    size = sum(parameter.numel() for parameter in model.parameters())
    # float16 takes the same memory.
    dtype, why = bases.choose_dtype(config.dtype, size, half=torch.bfloat16 if half else None)
    model.to(dtype)
    if config.quantize != quantization.NONE:
        model = quantization.empty_layers(model, config.quantize, bases.unquantized_modules(model))
    heads = architectures.head_names(model)
    bases.keep_in_float32(model, heads)
    limit = bases.longest_input(model, reader.model_max_length if tokenizer else _NO_LIMIT)
    return Base(
        model=model.eval(),
        tokenizer=reader,
        resolved=resolved,
        heads=heads,
        max_length=min(config.max_length, limit),
        limit=limit,
        device=META,
        dtype=dtype,
        quantize=config.quantize,
        reasons={"dtype": why},
    )


def materialize(model: nn.Module, device: str) -> None:
    """Replace every tensor of a model on the meta device by an empty one on `device`, tied tensors once.

    Under torch's FakeTensorMode nothing is allocated. Layers in 4 bits get their packed values and constants.
    """
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = _empty(parameter, device)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)


def _empty(parameter: nn.Parameter, device: str) -> nn.Parameter:
    if quantization.is_packed(parameter):
        return quantization.packed(parameter, device)
    values = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
    return nn.Parameter(values, requires_grad=parameter.requires_grad)
